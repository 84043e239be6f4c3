"""The sizes of the parts: for a visit, and for a rehearsal on a CPU, which runs the same code."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from kronecker.accelerator.ledger import ROOT
from kronecker.benchmark.settings import Setting
from kronecker.schema import choices, config_files
from kronecker.schema.arms import ARMS, BASELINE, TARGETED

Overrides = Mapping[str, Any]  # dotted key -> value

_GPT2 = "configs/gpt2.py"
STUDY_CONFIG = "configs/gpu_study.py"


@dataclasses.dataclass(frozen=True)
class Text:
    """The text and its tokenizer, as in a config."""

    source: str  # as data.source
    split_field: str  # as data.split_field
    tokenizer: str  # as in a config

    @property
    def keys(self) -> dict[str, Any]:
        return {"data.source": self.source, "data.split_field": self.split_field, "tokenizer": self.tokenizer}


@dataclasses.dataclass(frozen=True)
class Extent:
    """The sizes of all parts."""

    rehearsal: bool  # toy sizes, on a CPU
    minutes: float  # default of --minutes
    product: tuple[int, int]  # tokens and width of the products in `check`
    attention: tuple[int, int, int, int]  # (B, T, H, h) of the attention in `check`
    loss: tuple[int, int, int, int]  # (B, T, d) and a chunk's tokens of the loss in `check`
    trained: Overrides  # changes of configs/gpt2.py for the arms of `check`; float32
    whole: Overrides  # the same for `step` and `mfu`; bfloat16 on an accelerator
    arms: tuple[str, ...]  # of `check` and `step`, in order; the first is the baseline
    encoder: tuple[tuple[Setting, str], ...]  # settings and types of `encoder`, the most important first
    turns: int  # batches in a program of `encoder`, and steps that are timed together in `step` and `mfu`
    rounds: int  # of every timing
    seconds: float  # budget of one case of `encoder`
    mfu: tuple[Overrides, ...]  # what each setting of `mfu` changes, the most important first
    plan: Overrides  # changes of the plan in configs/gpu_study.py
    study: Overrides  # changes of that config for its runs


@dataclasses.dataclass(frozen=True)
class Task:
    """The argument of a part's `session`."""

    extent: Extent
    text: Text
    wanted: Sequence[str]  # names of the results to compute
    folder: Path  # for files
    seconds_left: Callable[[], float]  # until the part has to end
    stack: contextlib.ExitStack  # closed after the last result


Take = Callable[[str], dict[str, Any]]  # returns a result by its name; "fault" is a sentence if it is wrong


def arm_config(arm: str, text: Text, own: Overrides) -> ml_collections.ConfigDict:
    """Returns the unresolved config of an arm in GPT-2's shape with the keys of `own`, which may hold `size`."""
    own = {"size": "124m"} | dict(own)
    c = config_files.load(f"{ROOT / _GPT2}:size={own.pop('size')},arm={arm}")
    c.update_from_flattened_dict({"train.accumulate": 1, **text.keys, **own})
    return c


def names(extent: Extent) -> dict[str, list[str]]:
    """Returns the names of each part's results in order, without the study, whose runs depend on each other."""
    exact = [f"product-{dtype}" for dtype in choices.DTYPES]
    rounded = [f"arm-{arm}-{how}" for arm in extent.arms[:2] for how in ("bfloat16", "deterministic")]
    return {
        "check": [*exact, "attention", "loss", "selfcheck", *(f"arm-{arm}-float32" for arm in extent.arms), *rounded],
        "encoder": [encoder_name(*one) for one in extent.encoder],
        "step": ["arms"],
        "mfu": [mfu_name(one) for one in extent.mfu],
    }


def encoder_name(setting: Setting, dtype: str) -> str:
    vocabulary = f"-V{setting.V}" if setting.V else ""
    return f"{setting.tokens}-d{setting.d}-P{setting.P}{vocabulary}-{dtype}"


def mfu_name(own: Overrides) -> str:
    """Returns e.g. batch16-scan_layersTrue."""
    return "-".join(f"{key.rpartition('.')[2]}{value}" for key, value in own.items())


_SOME = "gather+gather_onehot+onehot+induced+table"
_CHUNK = 4096  # tokens; their float32 logits take 0.8 GB
FULL = Extent(
    rehearsal=False,
    minutes=8.0,
    product=(4096, 768),
    attention=(4, 1024, 12, 64),
    loss=(8, 512, 768, 512),
    trained={
        "size": "nano",
        "train.batch": 8,
        "train.steps": 20,
        "train.warmup_steps": 2,
        "train.lr": 1e-3,
        "model.scan_layers": True,
    },
    whole={"size": "124m", "model.dtype": "bfloat16", "train.batch": 16, "model.scan_layers": True},
    arms=tuple(dict.fromkeys((BASELINE, TARGETED, *ARMS))),
    encoder=(
        (Setting(16_384, 768, 16, only="bag+" + _SOME), "bfloat16"),
        (Setting(8192, 768, 16, only=_SOME), "bfloat16"),
        (Setting(65_536, 768, 16, only=_SOME), "bfloat16"),
        (Setting(16_384, 768, 32, only=_SOME), "bfloat16"),
        (Setting(16_384, 768, 16, only=_SOME, V=131_072), "bfloat16"),
        (Setting(16_384, 2048, 16, only=_SOME), "bfloat16"),
        (Setting(16_384, 768, 16, only=_SOME), "float32"),
        (Setting(65_536, 2048, 32, only=_SOME, V=131_072), "bfloat16"),
        (Setting(8192, 2048, 32, only=_SOME), "bfloat16"),
        (Setting(65_536, 2048, 16, only=_SOME), "bfloat16"),
        (Setting(8192, 768, 32, only=_SOME, V=131_072), "bfloat16"),
        (Setting(65_536, 768, 16, only=_SOME), "float32"),
    ),
    turns=8,
    rounds=10,
    seconds=1.0,
    mfu=(
        {"train.batch": 16, "model.scan_layers": False},
        {"train.batch": 32, "model.scan_layers": False, "train.loss_chunk": _CHUNK},
        {"train.batch": 32, "model.scan_layers": True, "train.loss_chunk": _CHUNK},
        {"train.batch": 64, "model.scan_layers": True, "train.loss_chunk": _CHUNK},
        {"train.batch": 32, "model.scan_layers": False},
        {"train.batch": 64, "model.scan_layers": False, "train.loss_chunk": _CHUNK},
        {"train.batch": 16, "model.scan_layers": True},
        {"train.batch": 64, "model.scan_layers": True, "train.loss_chunk": _CHUNK, "model.remat": True},
        {"train.batch": 128, "model.scan_layers": True, "train.loss_chunk": _CHUNK, "model.remat": True},
        {"train.batch": 8, "model.scan_layers": False},
    ),
    plan={},
    study={},
)
_TOY = {"model.layers": 1, "model.heads": 2, "model.d_model": 16, "train.sequence": 32, "train.batch": 2}
REHEARSAL = Extent(
    rehearsal=True,
    minutes=10.0,
    product=(256, 32),
    attention=(1, 128, 2, 16),
    loss=(2, 32, 32, 16),
    trained={"size": "nano", **_TOY, "train.steps": 8, "train.warmup_steps": 2, "train.lr": 1e-3},
    whole={"size": "nano", **_TOY},  # a CPU has no bfloat16 product for a tied head
    arms=(BASELINE, TARGETED, "table_tied"),
    encoder=(
        (Setting(256, 32, 16, only="bag+" + _SOME), "bfloat16"),
        (Setting(256, 32, 32, only="gather+table", V=131_072), "float32"),
    ),
    turns=2,
    rounds=5,
    seconds=0.2,
    mfu=(
        {"train.batch": 2, "model.scan_layers": True, "model.remat": True},
        {"train.batch": 4, "train.loss_chunk": 32},
    ),
    plan={
        "rates": (4e-3,),
        "tuned": (BASELINE, TARGETED),
        "steps": {TARGETED: (3.0,)},
        "finals": (BASELINE, TARGETED),
        "controls": (),
        "final_seeds": 1,
        "control_seeds": 0,
        "tuning_tokens": 1000,
        "final_tokens": 2000,
        "final_sequences": 8,
        "warmup_tokens": 200,
    },
    study={**_TOY, "model.dtype": "float32", "eval.batch": 8, "log.every": 5},
)
