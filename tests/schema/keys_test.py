"""The declarations of keys, and that a config which breaks them is refused before anything slow is imported."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kronecker.report import compare
from kronecker.run import rundir
from kronecker.schema import dotted, keys

ROOT = Path(__file__).parents[2]
SECONDS = 15  # a quiet machine needs under one; importing JAX, data and tokenizers comes to some


@pytest.mark.parametrize("name", keys.KEYS)
def test_a_default_is_allowed_and_of_a_type_that_the_command_line_takes(name: str):
    assert keys.fault(name, keys.KEYS[name].default) is None
    assert type(keys.KEYS[name].default) in (bool, int, float, str)


def test_the_defaults_are_one_locked_config_with_every_key():
    assert dotted.flat(dotted.defaults()) == {name: key.default for name, key in keys.KEYS.items()}
    with pytest.raises(AttributeError):
        dotted.defaults().model.layerz = 3


def test_who_may_differ_in_a_key_follows_from_its_effect():
    """A resumed run and a pair agree but for what is recorded by its hash, which a pair compares instead of the key."""
    differing = compare.FREE_IN_A_PAIR - rundir.FREE_ON_RESUME
    assert rundir.FREE_ON_RESUME < compare.FREE_IN_A_PAIR
    assert differing == {
        "checkpoint.init_from",
        "data.end_of_text",
        "data.shards",
        "data.source",
        "data.split_field",
        "data.text_field",
        "data.validation_fraction",
        "tokenizer",
    }
    assert not {"seed", "train.lr", "embedding.kind", "model.dtype", "eval.sequences"} & compare.FREE_IN_A_PAIR


def test_a_key_that_came_later_leaves_the_identity_of_older_checkpoints_as_it_was():
    assert "checkpoint.init_from" not in rundir.fixed(dotted.defaults())
    c = dotted.defaults()
    c.checkpoint.init_from = "runs/other"
    assert rundir.fixed(c)["checkpoint.init_from"] == "runs/other"


def test_a_run_older_than_a_key_is_read_at_the_keys_default():
    saved = dotted.defaults().to_dict()
    del saved["train"]["optimizer"], saved["checkpoint"]["init_from"]
    assert dotted.flat(rundir.completed(saved)) == dotted.flat(dotted.defaults())


def test_a_run_older_than_decay_mult_has_the_decay_and_the_hash_that_it_was_trained_with():
    newer = dotted.defaults()
    newer.embedding.lr_mult = 30.0
    saved = newer.to_dict()
    del saved["embedding"]["decay_mult"]
    older = rundir.completed(saved)
    assert older.embedding.decay_mult == 30.0
    assert "embedding.decay_mult" not in rundir.fixed(older)  # so its hash is that of its result.json
    assert rundir.fixed(newer)["embedding.decay_mult"] == 1.0


# What each script would need next must not be there yet when it refuses.
WATCHED = f"""
import atexit, runpy, sys
loaded = lambda: [name for name in ("jax", "tiktoken", "tokenizers", "pyarrow") if name in sys.modules]
atexit.register(lambda: print("loaded:", *loaded()))
sys.argv = sys.argv[1:]
sys.path.insert(0, {str(ROOT)!r})
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train.py --config.model.heads=7", "model.heads is 7, which does not divide model.d_model 128"),
        ("train.py --config.embedding.norm=y", "embedding.norm is 'y'; allowed: z, length"),
        ("train.py --config.train.lr=-1", "train.lr is -1.0; it must be above 0"),
        ("train.py --config.model.headz=7", "config.model.headz: there is no such key; did you mean model.heads?"),
        ("train.py --config.data.source=txt:a", "data.source is 'txt:a'; it must be one of stdlib"),
        ("train.py --config.mesh.tensor=3", "mesh.tensor is 3, which does not divide model.heads 4"),
        ("scripts/sweep.py --dry_run --config.model.heads=7", "model.heads is 7, which does not divide"),
        ("scripts/sweep.py --dry_run --config.model.headz=7", "config.model.headz: there is no such key"),
        ("scripts/prepare_data.py --config.data.shards=-1", "data.shards is -1; it must be at least 0, in files"),
    ],
)
def test_a_config_that_cannot_work_is_refused_before_jax_data_or_tokenizer(command: str, message: str, tmp_path: Path):
    script, *flags = command.split()
    out = {"train.py": ["--workdir", tmp_path / "x"], "scripts/sweep.py": ["--out", tmp_path / "x"]}.get(script, [])
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, ROOT / script, "--config=configs/demo.py", *flags, *out],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert time.monotonic() - began < SECONDS
    assert (done.returncode, done.stdout.splitlines()[-1]) == (2, "loaded:")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_the_package_imports_outside_a_checkout(tmp_path: Path):
    code = f"""
import sys, importlib.machinery
sys.path = [path for path in sys.path if path not in ("", {str(ROOT)!r})]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
import pathlib; pathlib.Path("kronecker").symlink_to({str(ROOT / "kronecker")!r}); sys.path.append(".")
import importlib, pkgutil, kronecker
for module in pkgutil.walk_packages(kronecker.__path__, "kronecker."):
    importlib.import_module(module.name)
assert "configs" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr


def test_the_schemas_names_need_no_config_library():
    code = (
        "import sys; from kronecker.schema import keys; assert not {'ml_collections', 'jax', 'numpy'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, env=environment())


def environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
