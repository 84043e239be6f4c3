"""Each script of examples/ runs as it is, and prints what it promises."""

import os
import subprocess
import sys
from pathlib import Path

import engines
import pytest

ROOT = Path(__file__).parents[2]
# Script -> what it prints.  tests/embedding/linen_wheel_test.py runs `layer`, where the wheel alone is installed.
PRINTS = {
    "nnx_model": "KroneckerEmbed: loss ",
    "graft": "the layer, on the text: ",
    "equinox_model": "700 of 700 right that were not in the vocabulary",
    "export_and_serve": "the server's text and our sampler's are equal",
}
FLAGS = {"export_and_serve": [f"--transformers={engines.PYTHON.with_name('transformers')}"]}


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(one, marks=engines.needed if one in FLAGS else ()) for one in PRINTS])
def test_an_example_runs(name: str):
    environment = os.environ | engines.ENVIRONMENT | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", ROOT / "examples" / f"{name}.py", *FLAGS.get(name, ())]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert PRINTS[name] in done.stdout


def test_every_example_is_tried():
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == {*PRINTS, "layer"}
