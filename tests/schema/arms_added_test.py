"""What a new arm takes, done to a copy of the tree: a record and its maker, or a record and a file."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_runs
from html_page import Page

TREE = ("kronecker", "configs", "scripts", "train.py")
RECORDS = ")\nARMS = "  # where the records end
BAG = '''

def byte_bag(table: codec.ByteTable, norm: str = "length") -> bags.Bag:
    """Returns the bag of a token's bytes, wherever they stand."""
    scale, shift = bags.weights(table.pos_dim, norm, codec.CHAR_DIM)
    lengths = table.lengths.astype(np.int16)
    return bags.Bag(symbols=table.bytes, lengths=lengths, scale=scale, shift=shift, rows=codec.CHAR_DIM)
'''
BAG_RECORD = """    Arm(
        "byte_bag",
        Kind("byte_bag", bag="kronecker.embedding.controls:byte_bag", code_dim=lambda _: CHAR_DIM, norms=("length",)),
        *("sky", "dotted"),
        "kronecker_unit without positions",
        {"norm": "length"},
    ),
"""
MODULE = '''"""A table and a code in one: a row of its own for each token beside what its bytes say."""

from flax import linen as nn

from kronecker.embedding import implementations
from kronecker.runtime import declared


class TablePlusBag(nn.Module):
    """E[ids] + code(ids) W."""

    vocab: int
    rows: int
    features: int
    init_std: float
    dtype: str
    param_dtype: str

    @nn.compact
    def __call__(self, ids_BT, bag):
        table = declared.matrix(nn.initializers.normal(0.02), "vocab", "width")
        projection = declared.matrix(nn.initializers.normal(self.init_std), "code", "width", is_input=True)
        table_Vd = self.param("own_rows", table, (self.vocab, self.features), self.param_dtype)
        projection_Dd = self.param("of_bytes", projection, (self.rows, self.features), self.param_dtype)
        return table_Vd[ids_BT] + implementations.product(projection_Dd, bag, ids_BT, self.dtype)
'''
MODULE_RECORD = """    Arm(
        "table_plus_kronecker",
        Kind(
            "table_plus_kronecker",
            "kronecker.embedding.sums:TablePlusBag",
            ("vocab", "rows"),
            bag="kronecker.embedding.bags:kronecker_bag",
        ),
        *("purple", "dashed"),
        "a table's row beside the code",
    ),
"""
STEPS = 4
OPTIONS = {"tokenizer": "bpe:300", "train.steps": STEPS, "embedding.pos_dim": 8, "mesh.fsdp": 2}
ADDED = {"byte_bag": ("#56b4e9", "kronecker_unit without positions"), "table_plus_kronecker": ("#cc79a7", "beside")}


def in_the_copy(copy: Path, command: list[str]) -> None:
    own = os.environ | {"PYTHONPATH": str(copy)}  # before the package of this checkout, which is installed
    done = subprocess.run(command, cwd=copy, env=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of the baseline and of two new arms, and their page, all made by a copy of the tree."""
    copy = tmp_path_factory.mktemp("tree")
    for name in TREE:
        source = tiny_runs.ROOT / name
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, copy / name, ignore=ignore) if source.is_dir() else shutil.copy(source, copy / name)
    arms, controls = copy / "kronecker" / "schema" / "arms.py", copy / "kronecker" / "embedding" / "controls.py"
    assert arms.read_text().count(RECORDS) == 1
    arms.write_text(arms.read_text().replace(RECORDS, BAG_RECORD + MODULE_RECORD + RECORDS))
    controls.write_text(controls.read_text() + BAG)
    (controls.parent / "sums.py").write_text(MODULE)
    for arm in ("table_untied", *ADDED):
        command = tiny_runs.command(copy / arm, data, OPTIONS, f"configs/demo.py:arm={arm}")
        in_the_copy(copy, [*command, f"--workdir={copy / 'runs' / arm}"])
    in_the_copy(copy, [sys.executable, "scripts/report.py", "runs"])
    return copy / "runs"


@pytest.mark.slow
@pytest.mark.parametrize("arm", ADDED)
def test_a_new_arm_trains_and_learns(runs: Path, arm: str):
    losses = [line["loss"] for line in tiny_runs.lines(runs / arm)]
    assert len(losses) == STEPS
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_its_parameters_and_its_initial_scale_are_those_of_its_own_code(runs: Path):
    def read(arm: str, name: str) -> dict:
        return json.loads((runs / arm / name).read_text())

    assert read("byte_bag", "params.json")["input"] == 256 * 16
    assert read("byte_bag", "config.json")["embedding"]["init_std"] == 256**-0.5
    padded = read("table_untied", "config.json")["model"]["padded_vocab"]
    assert read("table_plus_kronecker", "params.json")["input"] == (256 * 8 + padded) * 16
    assert read("table_plus_kronecker", "config.json")["embedding"]["init_std"] == (256 * 8) ** -0.5
    drift = tiny_runs.lines(runs / "table_plus_kronecker")[0]["embedding_std"]  # of the matrix that it declared
    assert drift == pytest.approx(1, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("arm", ADDED)
def test_the_report_has_its_colour_and_its_line(runs: Path, arm: str):
    colour, line = ADDED[arm]
    assert colour in (runs / "report" / "validation_loss.svg").read_text()
    assert line in Page((runs / "report.html").read_text()).text
