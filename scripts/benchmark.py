r"""Times the input side of a model, or whole training steps: all contenders in one run, taking turns, on real ids.

  python scripts/benchmark.py encoder
  python scripts/benchmark.py step --size=micro
  python scripts/benchmark.py train --sizes=micro,124m
  python scripts/benchmark.py runtime

encoder  Every implementation of the product, flax.linen.Embed (table) and the paper author's package (reference; where
         it is installed, `make reference`): forward; forward and gradient; forward, gradient and AdamW update.  Each
         setting takes one to two minutes; a setting is tokens at a time, width, byte positions and tokenizer:

           python scripts/benchmark.py encoder --setting=tokens=8192,d=768,P=16
           python scripts/benchmark.py encoder --setting=tokens=65536,d=256,tokenizer=bpe:8192,only=bag+induced+table \
               --data='jsonl:texts/*.jsonl.xz' --rounds=20

step     The training step of every arm of kronecker/schema/arms.py at one size of configs/sizes.py, with its optimizer:

           python scripts/benchmark.py step --size=124m --batch=16 --sequence=1024 --dtype=bfloat16

         --implementations times each arm that has a code once in each of these ways, which also shows the buffers that
         each keeps; codes kept for 131,072 ids at P = 32 take 4.3 GB in float32, 2.1 GB in bfloat16:

           python scripts/benchmark.py step --size=nano --arms=table_untied,kronecker --tokenizer=bpe:131072 \
               --pos_dim=32 --implementations=auto,onthefly,cached --cache_limit_mb=5000

train    Tokens per second and MFU (where the device's peak is known) of whole training steps, by size, set up as
         train.py sets them up.  --against=torch adds the same GPT-2 in PyTorch the usual way (`make reference`),
         float32 on CPU: it starts from the same weights, its first losses must agree, and each contender has a process
         of its own, so mind the memory.  torch_tuned has AdamW's fused kernel, and train.py's allocator settings;
         torch_compiled has both, and torch.compile, which needs a C++ compiler and a minute or two before the timing:

           python scripts/benchmark.py train --sizes=micro --against=torch,torch_tuned,torch_compiled
           python scripts/benchmark.py train --sizes=124m --arms=table_untied --against=torch --rounds=6

runtime  The paper's two ways to keep codes, all of them in memory or none, and ours, beside a table: buffers and
         training step at size nano with P = 32 and a vocabulary padded to 131,072 ids.  Takes three minutes.

How to read it.  All run under train.py's allocator settings (kronecker/runtime/allocator.py), without which large
buffers cost a page fault for each 4 kB; only the rival torch has none.  A time is the median over rounds, with the
10 % and 90 % quantiles; one round runs everything once, in an order drawn anew, so what else the machine does meets
all contenders. Ratios are of medians, and round by round with their quartiles.  The share of bandwidth is the time
that the least possible memory traffic would take at the speed of a += 2 b on large arrays, timed in the same rounds,
over the time taken; what fits into caches can be above 100 %.  Temporary memory is the compiler's number for one
update beside arguments and results; for the reference, the growth of a process of its own.  encoder, step and train
write every sample to a JSON file and a figure beside it, runtime its table.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags

from kronecker.runtime import cli
from kronecker.schema import choices, config_files
from kronecker.schema.arms import ARMS

WAYS = (choices.AUTO, *choices.IMPLEMENTATIONS)

_DATA = flags.DEFINE_string("data", "stdlib", "Where the text comes from, as in data.source: see prepare_data.py.")
_TOKENIZER = flags.DEFINE_string(
    "tokenizer",
    "gpt2",
    "Whose ids, as in a config; bpe:SIZE is trained on the text, and step pads to SIZE ids where that gives fewer.",
)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Operands of matrix products.")
_ROUNDS = flags.DEFINE_integer(
    "rounds", None, "Times that all is run; default: encoder 30, step and train 15, runtime 10.", lower_bound=5
)
_SECONDS = flags.DEFINE_float("seconds", 3.0, "encoder: of one case; slower ones run in fewer rounds, at least 5.", 0.0)
_OUT = flags.DEFINE_string("out", None, "The JSON file; default: runs/benchmark/COMMAND.json.")
_SETTING = flags.DEFINE_multi_string("setting", [], "encoder: what to time, see above; may be repeated.")
_CACHE_LIMIT = flags.DEFINE_float("cache_limit_mb", 1024.0, "encoder, step: MB that cached codes may take.", 0.0)
_SIZE = flags.DEFINE_string("size", "micro", "step: a size of configs/sizes.py.")
_SIZES = flags.DEFINE_list("sizes", ["micro"], "train: of configs/sizes.py.")
_AGAINST = flags.DEFINE_list("against", [], "train: torch, torch_tuned, torch_compiled; see above.")
_ARMS = flags.DEFINE_list(
    "arms",
    None,
    "step, train: arms of schema/arms.py, table_untied among them; default: all, and train's table_untied,kronecker.",
)
_IMPLEMENTATIONS = flags.DEFINE_list(
    "implementations",
    ["auto"],
    f"step: how codes meet the projection: {', '.join(WAYS)}.",
)
_POS_DIM = flags.DEFINE_integer("pos_dim", None, "step: P, bytes of a token; default: the config's.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 4, "step, train: sequences a step.", lower_bound=1)
_SEQUENCE = flags.DEFINE_integer("sequence", 256, "step, train: tokens a sequence.", lower_bound=1)
_OWN = {
    "encoder": ("seconds", "setting", "cache_limit_mb"),
    "step": ("size", "arms", "implementations", "pos_dim", "cache_limit_mb", "batch", "sequence"),
    "train": ("sizes", "against", "arms", "batch", "sequence"),
    "runtime": (),
}

ROOT = Path(__file__).parents[1]


def main(words: Sequence[str]) -> None:
    """Runs one benchmark, prints it and writes its files."""
    if len(words) != 1 or words[0] not in _OWN:
        raise ValueError(f"say which benchmark: {', '.join(_OWN)}; got {repr(' '.join(words)) if words else 'none'}")
    command = words[0]
    for name in (name for names in _OWN.values() for name in names):
        takers = [other for other, names in _OWN.items() if name in names]
        if command not in takers and flags.FLAGS[name].present:
            raise ValueError(f"--{name} belongs to `benchmark.py {' or '.join(takers)}`, not to {command}")
    out = Path(_OUT.value or f"runs/benchmark/{command}.json")
    if out.suffix != ".json":
        raise ValueError(f"--out={out}: a benchmark's file ends in .json; write --out={out.with_suffix('.json')}")

    from kronecker.runtime import allocator

    kept = allocator.keep_freed()  # before JAX starts threads, as train.py does
    if command == "runtime":
        _runtime(out)
    else:
        commands = {"encoder": _encoder, "step": _step, "train": _train}
        _timed(command, commands[command](), out, kept)


def _timed(command: str, run: Callable[[], dict[str, Any]], out: Path, kept: bool) -> None:
    # After the flags: --help should not wait for JAX.
    from kronecker.benchmark import timing_figures, timing_tables
    from kronecker.report.pages import write_text
    from kronecker.runtime import machine

    before = machine.facts()
    result = run()
    after = {"load_after": machine.load(), "device_peak_bytes": machine.device_peak_bytes()}
    result = {"machine": before | {"keeps_freed_memory": kept} | after, **result}
    timing_tables.show_verdicts(result["verdicts"])
    out.parent.mkdir(parents=True, exist_ok=True)
    draw = {"encoder": timing_figures.encoder, "step": timing_figures.steps, "train": timing_figures.training}
    write_text(out.with_suffix(".svg"), draw[command](result))
    write_text(out, json.dumps(result, indent=1, allow_nan=False) + "\n")
    print(f"\n{machine.line(before)}\nwritten: {out} and {out.with_suffix('.svg')}")


def _runtime(out: Path) -> None:
    from kronecker.benchmark import arm_runtime
    from kronecker.report.pages import write_text
    from kronecker.run import result

    timed = {arm: _config(f"gpt2.py:size=nano,arm={arm}", **{"model.dtype": _DTYPE.value}) for arm in arm_runtime.ARMS}
    found = arm_runtime.measure(timed, _ROUNDS.value or arm_runtime.ROUNDS)
    result.show([found])
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, json.dumps([result.to_json(found)], indent=1) + "\n")
    print(f"written: {out}")


def _encoder() -> Callable[[], dict[str, Any]]:
    from kronecker.benchmark import settings

    chosen = [settings.parse(text) for text in _SETTING.value] or settings.SETTINGS
    base = _config("base.py")

    def run() -> dict[str, Any]:
        from kronecker.benchmark import encoder, timing_tables

        limit, rounds, seconds = _CACHE_LIMIT.value, _ROUNDS.value or 30, _SECONDS.value
        return encoder.run(chosen, base, _DTYPE.value, limit, rounds, seconds, timing_tables.show_setting)

    return run


def _step() -> Callable[[], dict[str, Any]]:
    own = {"train.batch": _BATCH.value, "train.sequence": _SEQUENCE.value, "train.accumulate": 1}
    own |= {"model.dtype": _DTYPE.value, "embedding.cache_limit_mb": _CACHE_LIMIT.value}
    if _POS_DIM.value:
        own["embedding.pos_dim"] = _POS_DIM.value
    ways = _IMPLEMENTATIONS.value
    if not ways or set(ways) - set(WAYS):
        raise ValueError(f"--implementations={','.join(ways)}: known: {', '.join(WAYS)}")
    arms = {name: _config(f"gpt2.py:size={_SIZE.value},arm={name}", **own) for name in _ARMS.value or ARMS}
    for c in arms.values():
        c.model.vocab_multiple = _room(_TOKENIZER.value, c.model.vocab_multiple)

    def run() -> dict[str, Any]:
        from kronecker.benchmark import step, timing_tables

        timed = step.by_implementation(arms, ways)
        result = {"size": _SIZE.value, **step.run(timed, _ROUNDS.value or 15)}
        timing_tables.show_steps(result)
        return result

    return run


def _train() -> Callable[[], dict[str, Any]]:
    own = {"train.batch": _BATCH.value, "train.sequence": _SEQUENCE.value, "train.accumulate": 1}
    own["model.dtype"] = _DTYPE.value
    names = _ARMS.value or ["table_untied", "kronecker"]
    arms = {size: {name: _config(f"gpt2.py:size={size},arm={name}", **own) for name in names} for size in _SIZES.value}

    def run() -> dict[str, Any]:
        from kronecker.benchmark import timing, timing_tables, train

        unknown = [name for name in _AGAINST.value if name not in train.RIVALS]
        if unknown:
            raise ValueError(f"--against={','.join(unknown)}: known: {', '.join(train.RIVALS)}")
        results = []
        for size, configs in arms.items():
            results.append(train.run(configs, _AGAINST.value, _ROUNDS.value or 15, size))
            timing_tables.show_training(results[-1])
        every = [verdict for one in results for verdict in one.pop("verdicts")]
        return {"benchmark": "train", "threads": timing.threads(), "sizes": results, "verdicts": every}

    return run


def _room(tokenizer: str, multiple: int) -> int:
    """Returns the multiple that pads bpe:SIZE to SIZE: 4 MB of text may have pairs for far fewer ids."""
    kind, _, size = tokenizer.partition(":")
    return multiple * max(1, math.ceil(int(size) / multiple)) if kind == "bpe" and size.isdecimal() else multiple


def _config(name: str, **overrides: Any) -> ml_collections.ConfigDict:
    c = config_files.load(str(ROOT / "configs" / name))
    c.update_from_flattened_dict({"data.source": _DATA.value, "tokenizer": _TOKENIZER.value, **overrides})
    return c


if __name__ == "__main__":
    cli.run(main, positional=True)
