"""The table of the cost of cached codes, codes on the fly and summed rows: its arithmetic, and a small real run."""

import json
from pathlib import Path
from typing import Any

import pytest

from configs import arms, base
from kronecker.benchmark import arm_runtime, timing
from kronecker.run import result
from kronecker.schema import resolution

ROOT = Path(__file__).parents[2]
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
    monkeypatch.setattr(arm_runtime, "SETTING", {"model.vocab_multiple": VOCABULARY, "embedding.pos_dim": P})
    monkeypatch.setattr(arm_runtime, "SIZE", {"train.batch": 2, "train.sequence": 16, "train.accumulate": 1})


@pytest.mark.slow
def test_every_implementation_is_timed_with_the_size_of_its_buffers(smaller: None):
    found = arm_runtime.measure({arm: small(arm) for arm in arm_runtime.ARMS}, rounds=5)
    rows = {row[1]: row for row in found.rows}
    assert list(rows) == ["look-up", "bag", "onthefly", "cached"]
    bytes_and_lengths = VOCABULARY * (P + 2)
    kept = [0, bytes_and_lengths, bytes_and_lengths, bytes_and_lengths + VOCABULARY * 256 * P * 4]
    assert [row[2] * 1e6 for row in found.rows] == pytest.approx(kept)
    assert all(row[3] > 0 for row in found.rows)
    assert found.conditions["vocabulary"] == "512"
    assert found.conditions["batch"] == "2 x 16 tokens"
    assert result.from_json(json.loads(json.dumps(result.to_json(found)))).rows == [list(row) for row in found.rows]


def row(name: str, implementation: str | None, buffers: int, *seconds: float) -> dict[str, Any]:
    summary = timing.Samples(tuple(range(len(seconds))), seconds).summary()
    return {"name": name, "implementation": implementation, "buffers_bytes": buffers, **summary}


def test_a_step_is_compared_with_the_tables_and_with_cached_codes():
    timed = {
        "arms": [
            row("table_untied", None, 0, 0.1, 0.1, 0.1),
            row("kronecker onthefly", "onthefly", 4_460_000, 0.098, 0.11, 0.12),
            row("kronecker cached", "cached", 2_150_000_000, 0.2, 0.1, 0.4),
        ],
        **{"vocab": 131_072, "batch": 8, "sequence": 128, "dtype": "float32", "source": "stdlib", "tokenizer": "gpt2"},
    }
    found = arm_runtime.to_result(timed, resolution.resolve(small("table_untied")))
    table, onthefly, cached = found.rows
    assert table == ("table_untied", "look-up", 0, 100, *[None] * 4, *map(pytest.approx, (-50, -62.5, -25)))
    # Over the rounds' ratios; quartiles lie between the middle one and its neighbours.
    over_table, over_cached = (10, 10, 4, 15), (-51, -60.5, -20.5)
    assert onthefly == ("kronecker", "onthefly", 4.46, *map(pytest.approx, (110, *over_table, *over_cached)))
    assert cached == ("kronecker", "cached", 2150, *map(pytest.approx, (200, 100, 100, 50, 200)), None, None, None)
    assert found.conditions["rounds"] == "3"
