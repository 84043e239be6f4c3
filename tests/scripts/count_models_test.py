"""Models that count: against the formula, one n-gram at a time, and on a real run."""

import collections
import json
from pathlib import Path

import commands
import numpy as np
import pytest
import tiny_runs

from scripts import count_models

VOCAB = 7


def slow(windows: np.ndarray, order: int, before: tuple[int, ...], following: int) -> float:
    """Returns p(following | before) of interpolated Kneser-Ney, by its definition."""
    seen = collections.Counter(
        tuple(row[i : i + order]) for row in windows.tolist() for i in range(order == 1, len(row) - order + 1)
    )
    while len(next(iter(seen))) > len(before) + 1:
        seen = collections.Counter(gram[1:] for gram in seen)
    after = {gram[-1]: times for gram, times in seen.items() if gram[:-1] == before}
    lower = slow(windows, order, before[1:], following) if before else 1 / VOCAB
    if not after:
        return lower
    left = len(after) * count_models.DISCOUNT * lower
    return (max(after.get(following, 0) - count_models.DISCOUNT, 0) + left) / sum(after.values())


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_a_probability_is_that_of_the_formula_and_all_sum_to_one(order: int):
    rng = np.random.default_rng(order)
    windows, text = rng.integers(0, VOCAB - 1, (6, 9)), rng.integers(0, VOCAB, 60)
    counted = count_models.count(windows, order, VOCAB)
    found = count_models.probabilities(counted, text, VOCAB)
    expected = [
        slow(windows, order, tuple(text[max(i - order + 1, 0) : i].tolist()), int(text[i])) for i in range(1, len(text))
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    begin = text[:order]
    every = [count_models.probabilities(counted, np.append(begin, last), VOCAB)[-1] for last in range(VOCAB)]
    assert sum(every) == pytest.approx(1, abs=1e-12)


@pytest.mark.slow
def test_a_runs_text_is_counted_as_it_was_read(data: Path, tmp_path: Path):
    options = {"train.steps": 6, "eval.sequences": 0}
    tiny_runs.finish(tiny_runs.start(tmp_path / "run", data, options))
    refused = commands.run("scripts/count_models.py", tmp_path / "run")
    assert refused.returncode == 2
    assert refused.stderr.endswith(f"no token_losses.npz; write it: python scripts/token_losses.py {tmp_path}/run\n")
    assert commands.run("scripts/token_losses.py", tmp_path / "run").returncode == 0
    done = commands.run("scripts/count_models.py", tmp_path / "run", f"--json={tmp_path / 'new' / 'counts.json'}")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "new" / "counts.json").read_text())
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert found["tokens"] == result["tokens"]
    assert found["held_out_tokens"] == result["held_out_tokens"]
    assert list(found["losses"]) == ["uniform", "unigram", "bigram", "trigram"]
    assert found["losses"]["bigram"][0] < found["losses"]["uniform"][0]
    for nats, bits in found["losses"].values():
        assert bits / nats == pytest.approx(result["validation_bits_per_byte"] / result["validation_loss"])
    assert f"counted on {found['tokens']:,} tokens, evaluated on {found['held_out_tokens']:,}" in done.stdout
