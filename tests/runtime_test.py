"""The table of what codes kept, written on the fly and summed as rows cost: its arithmetic, and one small real run."""

from pathlib import Path

import pytest

from configs import arms, base
from kronecker import config
from kronecker.benchmark import runtime

ROOT = Path(__file__).parents[1]
P, VOCABULARY = 4, 512


def small(arm: str):
    c = base.apply(base.get_config(), arms.ARMS[arm])
    c.update_from_flattened_dict(
        {
            "tokenizer": "bpe:300",
            "data.source": f"text:{ROOT}/kronecker/*.py",
            "model.layers": 1,
            "model.heads": 2,
            "model.d_model": 8,
            "model.context": 16,
            "train.sequence": 16,
        }
    )
    return c


@pytest.fixture
def smaller(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runtime, "SETTING", {"model.vocab_multiple": VOCABULARY, "embedding.pos_dim": P})
    monkeypatch.setattr(runtime, "SIZE", {"train.batch": 2, "train.sequence": 16, "train.accumulate": 1})


@pytest.mark.slow
def test_every_way_is_timed_with_the_buffers_that_it_keeps(smaller: None):
    found = runtime.measure({arm: small(arm) for arm in runtime.ARMS}, rounds=5)
    rows = {row[1]: row for row in found.rows}
    assert list(rows) == ["look-up", "bag", "onthefly", "cached"]
    bytes_and_lengths = VOCABULARY * (P + 2) + 2 * 4 * (P + 1)  # and A and B by length, float32
    assert [rows[way][2] * 1e6 for way in ("look-up", "bag", "onthefly")] == pytest.approx(
        [0, bytes_and_lengths, bytes_and_lengths], rel=0.02
    )
    assert rows["cached"][2] * 1e6 == pytest.approx(VOCABULARY * 256 * P * 4 + bytes_and_lengths, rel=0.02)
    assert all(row[3] > 0 for row in found.rows)
    assert found.conditions["vocabulary"] == "512"
    assert found.conditions["batch"] == "2 x 16 tokens"
    assert len(found.columns) == len(found.paper[0])


def test_a_step_is_told_by_its_difference_to_the_tables():
    row = {"median_seconds": 0.11, "buffers_bytes": 4_460_000, "implementation": "onthefly"}
    timed = {
        "arms": [
            {"name": "table_untied", "median_seconds": 0.1, "buffers_bytes": 0, "implementation": None, "ratio": {}},
            {"name": "kronecker onthefly", **row, "ratio": {"low": 0.98, "high": 1.25}},
        ],
        **{"vocab": 131_072, "batch": 8, "sequence": 128, "dtype": "float32", "source": "stdlib", "tokenizer": "gpt2"},
    }
    found = runtime.to_result(timed, config.resolve(small("table_untied")))
    assert found.rows[0] == ("table_untied", "look-up", 0, 100, None, None, None, None)
    assert found.rows[1] == ("kronecker", "onthefly", 4.46, *map(pytest.approx, (110, 10, 10, -2, 25)))
