"""Configs: what resolves, what is refused, and what never changes unnoticed.

`PYTHONPATH=. python tests/schema/resolution_test.py` writes the golden files anew.
"""

import json
import subprocess
import sys
from pathlib import Path

import ml_collections
import pytest

from configs import arms, base, sizes
from kronecker.run import rundir
from kronecker.schema import config_files, dotted, resolution

ROOT = Path(__file__).parents[2]
MODULES = sorted(path for path in (ROOT / "configs").rglob("*.py") if "def get_config(" in path.read_text())
GOLDEN = ROOT / "tests" / "golden"
GOLDEN_CONFIGS = {
    "demo": "configs/demo.py",
    "gpt2": "configs/gpt2.py",
    "gpt2_paper_table_tied": "configs/gpt2.py:size=124m,arm=table_tied,budget=paper",
}
REGENERATE = "PYTHONPATH=. python tests/schema/resolution_test.py"


def golden_text(name: str) -> str:
    resolved = resolution.resolve(config_files.load(str(ROOT / GOLDEN_CONFIGS[name])))
    return json.dumps(resolution.with_vocabulary(resolved, 50257).to_dict(), indent=2) + "\n"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_every_config_file_resolves_and_so_does_every_run_of_its_sweep(path: Path):
    module = config_files.load_module(str(path))
    resolution.resolve(module.get_config())
    for overrides in module.sweep(2) if hasattr(module, "sweep") else []:
        resolution.resolve(base.apply(module.get_config(), overrides))


@pytest.mark.parametrize("size", sizes.SIZES)
@pytest.mark.parametrize("arm", arms.ARMS)
def test_every_size_and_arm_resolves_under_both_budgets(size: str, arm: str):
    for budget in ("small", "paper"):
        resolution.resolve(config_files.load(f"{ROOT}/configs/gpt2.py:size={size},arm={arm},budget={budget}"))


@pytest.mark.parametrize("name", GOLDEN_CONFIGS)
def test_resolved_configs_are_the_golden_ones(name: str):
    assert golden_text(name) == (GOLDEN / f"{name}.json").read_text(), f"if meant: {REGENERATE}"


def test_two_arms_differ_in_the_embedding_and_the_tie_alone():
    flat = [
        dotted.flat(resolution.resolve(base.apply(base.get_config(), overrides))) for overrides in arms.ARMS.values()
    ]
    differing = {key for key in flat[0] if len({str(f[key]) for f in flat}) > 1}
    assert {key for key in differing if not key.startswith("embedding.")} == {"model.tie_head"}


def test_a_resolved_config_survives_its_file(tmp_path: Path):
    resolved = resolution.resolve(base.get_config())
    rundir.write_json(tmp_path / rundir.CONFIG, resolved.to_dict())
    saved = ml_collections.ConfigDict(rundir.read_json(tmp_path / rundir.CONFIG))
    assert dotted.flat(saved) == dotted.flat(resolved)


def test_the_papers_budget_is_the_papers():
    c = resolution.resolve(config_files.load(f"{ROOT}/configs/gpt2.py:budget=paper"))
    assert (c.train.batch * c.train.sequence, c.train.steps) == (540_672, 4623)


def test_steps_follow_from_tokens_and_tokens_from_steps():
    c = base.apply(base.get_config(), {"train.batch": 4, "train.sequence": 100, "train.tokens": 1001})
    assert resolution.resolve(c).train.steps == 3
    assert resolution.resolve(base.apply(c, {"train.steps": 7})).train.tokens == 2800


def test_the_projections_init_is_the_papers_unless_it_is_set():
    c = base.apply(base.get_config(), {"embedding.pos_dim": 16})
    assert resolution.resolve(c).embedding.init_std == pytest.approx(4096**-0.5)
    assert resolution.resolve(base.apply(c, {"embedding.init_std": 0.5})).embedding.init_std == 0.5
    assert resolution.resolve(base.apply(c, arms.ARMS["table_untied"])).embedding.init_std == 0.02


@pytest.mark.parametrize(
    ("overrides", "devices", "message"),
    [
        ({"embedding.kind": "tabel"}, 1, "embedding.kind is 'tabel'; allowed: table, factorized, kronecker"),
        ({"model.dtype": "fp8"}, 1, "model.dtype is 'fp8'; allowed: float32, bfloat16"),
        ({"model.heads": 5}, 1, "model.heads is 5, which does not divide model.d_model 128"),
        ({"train.sequence": 300}, 1, "train.sequence is 300, longer than model.context 256"),
        ({"train.batch": 10, "train.accumulate": 4}, 1, "train.batch is 10, not divisible by train.accumulate 4"),
        ({"train.batch": 12, "train.accumulate": 2}, 4, "/ train.accumulate 2 = 6 sequences, not divisible by"),
        ({"eval.batch": 3}, 2, "eval.batch is 3 sequences, not divisible by the 2 devices that split a batch"),
        (
            {"model.tie_head": True, "embedding.kind": "random_code"},
            1,
            "model.tie_head is True but embedding.kind is random_code; set it to False, or use embedding.kind table or",
        ),
        ({"train.lr": 0.0}, 1, "train.lr is 0.0; it must be above 0"),
        ({"embedding.scale": 1e21}, 1, r"embedding.scale is 1e\+21; it must be above 0, at most 1e12"),
        ({"embedding.init_std": 1e20}, 1, r"embedding.init_std is 1e\+20; it must be 0, or above 0, at most 1e12"),
        ({"train.clip": -1.0}, 1, "train.clip is -1.0; it must be at least 0; the default is 1.0"),
        ({"data.validation_fraction": 1.0}, 1, r"data.validation_fraction is 1.0; it must be in \[0, 1\)"),
        ({"embedding.pos_dim": 0}, 1, "embedding.pos_dim is 0; it must be at least 1"),
        ({"train.steps": 5, "train.warmup_steps": 5}, 1, "train.warmup_steps is 5 but must be below train.steps 5"),
        ({"train.tokens": 4096, "train.warmup_steps": 9}, 1, "train.warmup_steps is 9 but must be below train.steps 1"),
        (
            {"train.steps": 5, "train.warmup_tokens": 20_480},
            1,
            "train.warmup_tokens is 20,480, 5 steps, but must be below train.steps 5; lower it, or train for longer",
        ),
        ({"checkpoint.every": 30, "checkpoint.keep_every": 100}, 1, "keep_every is 100, not a multiple of"),
        ({"model.padded_vocab": 60000}, 1, "model.padded_vocab is 60000; it is derived"),
        ({"embedding.kind": "table"}, 1, "embedding.arm is 'kronecker' but embedding.kind is 'table'"),
        ({"embedding.arm": "table_tied"}, 1, "embedding.arm is 'table_tied' but model.tie_head is False"),
        ({"seed": -1}, 1, "seed is -1; it must be from 0 to 4294967295"),
        ({"seed": 2**32}, 1, "seed is 4294967296; it must be from 0 to 4294967295"),
        ({"train.weight_decay": float("inf")}, 1, "train.weight_decay is inf; it must be finite"),
        ({"train.lr": float("nan")}, 1, "train.lr is nan; it must be finite"),
        ({"train.batch": 0}, 1, "train.batch is 0; it must be at least 1, in sequences; the default is 16"),
        (
            {"data.source": "jsnl:a.jsonl"},
            1,
            "data.source is 'jsnl:a.jsonl'; it must be one of stdlib, prepared:FOLDER",
        ),
        ({"data.source": ""}, 1, "data.source is ''; it must be one of"),
        ({"data.source": "text:"}, 1, "data.source is 'text:'; it must be one of"),
        ({"data.source": "stdlib:x"}, 1, "data.source is 'stdlib:x'; it must be one of"),
        ({"tokenizer": "gpt3"}, 1, "tokenizer is 'gpt3'; it must be one of gpt2, tiktoken:NAME"),
        ({"tokenizer": "bpe:"}, 1, "tokenizer is 'bpe:'; it must be one of gpt2"),
        ({"tokenizer": "bpe:many"}, 1, "tokenizer is 'bpe:many'; write bpe:SIZE with SIZE from 257 to 1,048,576"),
        ({"tokenizer": "bpe:2147483647"}, 1, "tokenizer is 'bpe:2147483647'; write bpe:SIZE with SIZE from 257 to"),
        ({"tokenizer": f"bpe:1{'0' * 9999}"}, 1, "SIZE from 257 to 1,048,576"),
        ({"model.context": 2**31 - 1}, 1, "model.context is 2147483647; it must be at most 16,777,216"),
        ({"model.d_model": 2**31 - 2}, 1, "model.d_model is 2147483646; it must be at most 1,048,576"),
        ({"tokenizer": "bpe:256"}, 1, "tokenizer is 'bpe:256'; write bpe:SIZE with SIZE from 257 to 1,048,576"),
        (
            {"data.split_field": "split", "data.source": "text:prose"},
            1,
            "data.split_field is 'split', but data.source=text has no fields",
        ),
        ({"mesh.fsdp": -1}, None, "mesh.data=-1, mesh.fsdp=-1, mesh.tensor=1: only one axis may be -1"),
        ({"mesh.tensor": 0}, None, "mesh.tensor is 0; it must be at least 1, or -1 for all remaining"),
        ({"mesh.fsdp": 3}, None, "mesh.fsdp is 3, which does not divide model.d_model 128; choose a divisor"),
        ({"mesh.tensor": 8}, None, "mesh.tensor is 8, which does not divide model.heads 4; choose a divisor"),
    ],
)
def test_what_cannot_work_is_refused_by_name(overrides: dict, devices: int, message: str):
    with pytest.raises(ValueError, match=message):
        resolution.resolve(base.apply(base.get_config(), overrides), devices)


def test_all_faults_come_in_one_message():
    c = base.apply(base.get_config(), {"embedding.kind": "x", "model.heads": 5, "train.sequence": 999})
    with pytest.raises(ValueError, match=r"\(1\) embedding.kind.*\(2\) model.heads.*\(3\) train.sequence"):
        resolution.resolve(c)


@pytest.mark.parametrize("vocab_size", [100, 60_000])
def test_a_model_vocabulary_other_than_the_tokenizers_is_refused(vocab_size: int):
    c = resolution.resolve(base.apply(base.get_config(), {"model.vocab_size": vocab_size}))
    with pytest.raises(ValueError, match=rf"model.vocab_size is {vocab_size:,} but tokenizer gpt2 has 50,257 ids"):
        resolution.with_vocabulary(c, 50257)


def test_a_run_of_one_step_needs_no_warm_up_set_by_hand():
    c = resolution.resolve(base.apply(base.get_config(), {"train.steps": 1}))
    assert (c.train.steps, c.train.warmup_steps, c.train.warmup_tokens) == (1, 0, 0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("c.model.layerz = 3", r"mine.py:4: AttributeError.*layerz"),
        ("c.model.layers = 'three'", r"mine.py:4: TypeError.*layers"),
        ("c.model.layers = = 3", r"mine.py:4: invalid syntax"),
        ("import nowhere", r"mine.py:4: ModuleNotFoundError: No module named 'nowhere'"),
    ],
)
def test_a_mistake_in_a_config_file_is_named_with_its_line(tmp_path: Path, line: str, message: str):
    text = f"from configs import base\ndef get_config():\n    c = base.get_config()\n    {line}\n    return c\n"
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ValueError, match=message):
        config_files.load(str(tmp_path / "mine.py"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("configs/gpt2.py:sise=124m", "'sise' is not known; for example :size=124m"),
        ("configs/gpt2.py:size=124m,size=30m", "'size' is repeated"),
        ("configs/gpt2.py:size", "'size' has no value"),
        ("configs/gpt2.py:seed=x", "seed must be a whole number, got 'x'; for example :size=124m"),
        ("configs/gpt2.py:size=125m", "size is '125m'; allowed: 124m"),
        ("configs/demo.py:arm=table", "arm is 'table'; allowed: .*factorized_live, hash_ngram"),
        (
            "configs/nope.py",
            "no such file; configs/ holds base.py, demo.py, .*, study.py, tuned_study.py, tuned_study_technical.py$",
        ),
        ("configs/base.py:x=1", "takes no argument after the colon"),
        ("configs/sizes.py", r"a config file defines get_config\(\)"),
    ],
)
def test_a_wrong_config_argument_is_refused_with_the_right_ones(spec: str, message: str):
    with pytest.raises(ValueError, match=message):
        config_files.load(f"{ROOT}/{spec}")


def test_a_config_elsewhere_may_build_on_the_ones_here(tmp_path: Path):
    (tmp_path / "mine.py").write_text("from configs import base\nget_config = base.get_config\n")
    code = (
        f"from kronecker.schema import config_files; print(config_files.load({str(tmp_path / 'mine.py')!r}).tokenizer)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == "gpt2", done.stderr


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(ValueError, match=r"config.model.layerz: there is no such key; did you mean model.layers\?"):
        dotted.check_key(base.get_config(), "model.layerz")


def test_golden_files_belong_to_configs():
    assert {file.stem for file in GOLDEN.glob("*.json")} - {"losses"} == set(GOLDEN_CONFIGS)
    for name in GOLDEN_CONFIGS:
        assert json.loads((GOLDEN / f"{name}.json").read_text())["seed"] == 0


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for golden_name in GOLDEN_CONFIGS:
        (GOLDEN / f"{golden_name}.json").write_text(golden_text(golden_name))


def test_resolving_leaves_the_config_that_it_is_given_alone():
    c = base.get_config()
    before = json.dumps(c.to_dict())
    resolution.with_vocabulary(resolution.resolve(c), 1000)
    assert json.dumps(c.to_dict()) == before
