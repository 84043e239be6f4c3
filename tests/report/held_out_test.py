"""Losses over all held-out tokens, intervals over documents, and what differs or diverged beside them.

Recomputed here with a few lines of numpy and scipy's t quantile, none of them ours.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_folders import vocabulary, write_json, write_losses, write_run
from scipy import stats

from kronecker.report import compare, held_out, intervals, losses_by_token, tables
from kronecker.run import finished_runs, rundir

ROOT = Path(__file__).parents[2]
ARMS, SEEDS, DOCUMENTS, END = ("table_untied", "kronecker", "table_tied"), (0, 1, 2), 40, 2
BYTES = (3, 5, 13)  # of each id; END is special, so it stands for no text


def study(folder: Path, arms: tuple[str, ...] = ARMS) -> dict[tuple[str, int], np.ndarray]:
    """Writes runs with losses by token; returns each one's nats by document (D,), and the tokens under "tokens"."""
    rng = np.random.default_rng(5)
    lengths = rng.integers(20, 200, DOCUMENTS)
    ids = np.concatenate([np.r_[rng.integers(0, 2, n), END] for n in lengths])
    topic = rng.normal(0, 0.3, DOCUMENTS)  # documents differ in how much an arm gains
    found: dict[Any, np.ndarray] = {"tokens": np.bincount(np.repeat(np.arange(DOCUMENTS), lengths + 1)[1:])}
    document = np.repeat(np.arange(DOCUMENTS), lengths + 1)[1:]
    facts = vocabulary(3, bytes=BYTES, special=[False, False, True])
    for place, arm in enumerate(arms):
        for seed in SEEDS:
            run = write_run(folder / f"{arm}-seed{seed}", arm, seed, 4.0)
            nats = 4 + place * (0.1 * topic[document] - 0.05) + 0.02 * seed + rng.normal(0, 1, len(document))
            write_losses(run, facts, nats=nats.astype(np.float32), inputs=ids[:-1], targets=ids[1:])
            found[arm, seed] = np.bincount(document, nats.astype(np.float32).astype(np.float64))
    found["bytes"] = sum(BYTES[i] for i in ids[1:] if i != END)
    return found


def read(folder: Path) -> compare.Comparison:
    return held_out.compared(*_gathered(folder))


def _gathered(folder: Path, **more: Any) -> tuple[Any, ...]:
    found, diverged = finished_runs.gather([folder])
    return found, "table_untied", (), diverged


def test_every_number_of_a_small_study_is_that_of_a_few_lines_of_numpy(tmp_path: Path):
    nats = study(tmp_path)
    tokens = nats["tokens"]
    compared = read(tmp_path)
    assert compared.text == compare.Text("", tokens.sum(), tokens.sum(), DOCUMENTS)
    p_values = {}
    for arm in compared.arms:
        losses = [nats[arm.name, seed].sum() / tokens.sum() for seed in SEEDS]
        assert arm.losses == pytest.approx(losses, rel=1e-12)
        bits = [nats[arm.name, seed].sum() / np.log(2) / nats["bytes"] for seed in SEEDS]
        assert arm.bits_per_byte == pytest.approx(bits, rel=1e-12)
    for arm in compared.others:
        difference = np.array([nats[arm.name, s].sum() - nats["table_untied", s].sum() for s in SEEDS]) / tokens.sum()
        half = stats.t.ppf(0.975, 2) * difference.std(ddof=1) / np.sqrt(3)
        assert (arm.difference.mean, arm.difference.half) == pytest.approx((difference.mean(), half), rel=1e-9)
        p_values[arm.name] = stats.ttest_1samp(difference, 0).pvalue
        by_document = np.mean([nats[arm.name, s] - nats["table_untied", s] for s in SEEDS], axis=0)
        rng, drawn = np.random.default_rng(11), []
        for _ in range(4000):
            chosen = rng.integers(0, DOCUMENTS, DOCUMENTS)
            drawn.append(by_document[chosen].sum() / tokens[chosen].sum())
        low, high = np.percentile(drawn, [2.5, 97.5])
        assert arm.documents == pytest.approx((low, high), abs=0.06 * (high - low))
    least, most = sorted(p_values, key=p_values.get)
    survives = {least: p_values[least] <= 0.025, most: p_values[least] <= 0.025 and p_values[most] <= 0.05}
    assert {name: verdict != "not resolved" for name, verdict in compared.adjusted.items()} == survives


def test_the_output_says_what_the_losses_are_over_and_what_each_interval_covers(tmp_path: Path):
    study(tmp_path)
    told = tables.notes(read(tmp_path))
    tokens = read(tmp_path).text.tokens
    assert f"Losses are over all {tokens:,} held-out tokens, in {DOCUMENTS} documents." in told
    assert any(one.startswith("± covers other seeds") for one in told)
    assert any(one.startswith("The interval over documents covers another draw of documents") for one in told)
    assert "95 % over\ndocuments" in tables.verdicts(read(tmp_path)).headers
    written = compare.to_json(read(tmp_path))
    assert written["losses_of"] == {"name": "", "tokens": tokens, "of": tokens, "documents": DOCUMENTS}
    assert len(written["arms"]["kronecker"]["interval_over_documents"]) == 2
    json.dumps(written, allow_nan=False)


@pytest.mark.parametrize(
    ("sequences", "result", "said"),
    [
        (0, {}, "Losses are over all 20,000 held-out tokens."),
        (157, {}, "the first 20,000 of an unrecorded number of held-out tokens (eval.sequences=157)."),
        (157, {"held_out_tokens": 90_000}, "the first 20,000 of 90,000 held-out tokens (eval.sequences=157)."),
        (157, {"held_out_tokens": 20_000}, "Losses are over all 20,000 held-out tokens."),
    ],
)
def test_without_losses_by_token_the_output_says_how_many_tokens_of_how_many_were_validated(
    tmp_path: Path, sequences: int, result: dict[str, Any], said: str
):
    for arm in ("table_untied", "kronecker"):
        write_run(tmp_path / arm, arm, 0, 4.0, {"eval.sequences": sequences}, **result)
    told = held_out.sentences(read(tmp_path))
    assert said in told[0]
    assert told[1].endswith(f"interval over documents, run: python scripts/token_losses.py {tmp_path}")
    assert "95 % over\ndocuments" not in tables.verdicts(read(tmp_path)).headers


def test_losses_by_token_of_some_runs_or_of_an_earlier_version_leave_the_final_validation(tmp_path: Path):
    study(tmp_path, ("table_untied", "kronecker"))
    assert read(tmp_path).text.documents == DOCUMENTS
    file = tmp_path / "kronecker-seed1" / "token_losses.npz"
    with np.load(file) as arrays:
        older = {name: arrays[name] for name in arrays.files if name != "text_bytes"}
    np.savez(file, **older)
    assert read(tmp_path).text.documents is None
    assert read(tmp_path).others[0].losses[0] == json.loads((tmp_path / "kronecker-seed0/result.json").read_text())[
        "validation_loss"
    ]  # fmt: skip
    file.unlink()
    assert read(tmp_path).text.documents is None


def test_few_documents_have_no_interval():
    nats, tokens = np.ones((1, intervals.LEAST_DOCUMENTS - 1)), np.ones(intervals.LEAST_DOCUMENTS - 1)
    assert intervals.over_documents(nats, tokens) is None


def test_the_interval_over_documents_holds_the_truth_nineteen_times_in_twenty(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(intervals, "RESAMPLES", 500)
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        tokens = rng.integers(50, 150, 100)
        ((low, high),) = intervals.over_documents(rng.normal(0.5, 0.3, (1, 100)) * tokens, tokens)
        held += low <= 0.5 <= high
    assert held / 400 == pytest.approx(0.95, abs=0.035)


def test_more_documents_than_are_drawn_one_by_one_give_the_same_width(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    tokens = rng.integers(50, 150, 3000)
    nats = rng.normal(0.5, 0.3, (1, 3000)) * tokens
    ((low, high),) = intervals.over_documents(nats, tokens)
    assert high - low == pytest.approx(2 * 1.96 * 0.3 / math.sqrt(3000), rel=0.1)
    monkeypatch.setattr(intervals, "MOST_UNITS", 500)
    ((coarse_low, coarse_high),) = intervals.over_documents(nats, tokens)
    assert coarse_high - coarse_low == pytest.approx(high - low, rel=0.15)


def test_another_machine_version_or_commit_within_a_pair_is_named_and_not_refused(tmp_path: Path):
    for arm in ("table_untied", "kronecker"):
        for seed in (0, 1):
            write_run(tmp_path / f"{arm}{seed}", arm, seed, 4.0 + 0.01 * seed)
    assert not any("Not equal" in told for told in tables.notes(read(tmp_path)))
    file = tmp_path / "kronecker1" / "env.json"
    env = json.loads(file.read_text())
    env |= {"commit": "f" * 12, "platform": "gpu", "devices": ["H200"], "versions": {"jax": "0.10.2", "flax": "0.12.8"}}
    write_json(file, env)
    (told,) = [one for one in tables.notes(read(tmp_path)) if one.startswith("Not equal within every pair")]
    for said in (
        "the hardware is gpu: 1 × H200 against cpu: 2 × cpu in kronecker seed 1",
        "the code's commit is ffffffffffff against 0123456789ab in kronecker seed 1",
        "jax is 0.10.2 against 0.11.2 in kronecker seed 1",
    ):
        assert said in told
    assert "flax" not in told


def test_a_diverged_run_is_named_with_its_reason_and_no_arm_is_compared_on_its_seed(tmp_path: Path):
    for arm in ("table_untied", "kronecker"):
        for seed in (0, 1, 2):
            write_run(tmp_path / f"{arm}{seed}", arm, seed, 4.0 + 0.01 * seed)
    (tmp_path / "kronecker1" / "result.json").unlink()
    write_json(tmp_path / "kronecker1" / "diverged.json", {"reason": "loss is not finite between steps 3 and 4"})
    compared = read(tmp_path)
    assert [run.seed for run in compared.baseline.runs] == [0, 2]
    told = " ".join(tables.notes(compared))
    assert "Diverged, so without a loss: kronecker seed 1 (loss is not finite between steps 3 and 4)." in told
    assert compare.to_json(compared)["diverged"]["kronecker seed 1"]["run"] == str(tmp_path / "kronecker1")
    with pytest.raises(ValueError, match=r"kronecker1: the run diverged \(loss is .*\); train it with a lower"):
        finished_runs.read(finished_runs.find([tmp_path / "kronecker1"])[0])
    with pytest.raises(ValueError, match=r"every run here diverged: .*kronecker1; train them with a lower"):
        finished_runs.gather([tmp_path / "kronecker1"])
    older = json.loads((tmp_path / "kronecker0" / "result.json").read_text())
    write_json(tmp_path / "kronecker0" / "result.json", older | {"validation_loss": None})
    assert list(read(tmp_path).diverged) == ["kronecker seed 0", "kronecker seed 1"]
    (tmp_path / "kronecker0" / "result.json").unlink()
    (tmp_path / "kronecker2" / "result.json").unlink()
    with pytest.raises(ValueError, match=r"no such arm .*; there are: table_untied; kronecker seed 1 diverged; give"):
        compare.compare(finished_runs.gather([tmp_path])[0], "kronecker", (), finished_runs.gather([tmp_path])[1])


def test_the_committed_study_recomputed_from_its_files_alone():
    folder = ROOT / "results" / "study" / "runs" / "study"
    losses: dict[str, dict[int, float]] = {}
    for file in folder.glob("*/result.json"):
        name, _, seed = file.parent.name.rpartition("-seed")
        losses.setdefault(name, {})[int(seed)] = json.loads(file.read_text())["validation_loss"]
    compared = read(folder)
    p_values = {}
    for arm in compared.others:
        values = np.array([losses[arm.name][seed] - losses["table_untied"][seed] for seed in (0, 1, 2)])
        half = stats.t.ppf(0.975, 2) * values.std(ddof=1) / np.sqrt(3)
        assert (arm.difference.mean, arm.difference.half) == pytest.approx((values.mean(), half), rel=1e-9)
        p_values[arm.name] = stats.ttest_1samp(values, 0).pvalue
    assert len(p_values) == 9
    surviving = set()
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        if p > 0.05 / (9 - rank):
            break
        surviving.add(name)
    assert {name for name, verdict in compared.adjusted.items() if verdict != "not resolved"} == surviving
    told = held_out.sentences(compared)[0]
    assert told.startswith("Losses are over the first 32,768 of an unrecorded number of held-out tokens")


def keep_sums_alone(folder: Path) -> list[Path]:
    """Puts held_out.json in the place of each run's losses by token; returns the files."""
    files = []
    for losses in sorted(folder.glob(f"*/{rundir.TOKEN_LOSSES}")):
        files.append(losses.with_name(rundir.HELD_OUT))
        loss = json.loads((losses.parent / rundir.RESULT).read_text())["validation_loss"]
        rundir.write_json(files[-1], losses_by_token.of_documents(np.load(losses), loss))
        losses.unlink()
    return files


def test_sums_by_document_give_the_comparison_of_the_losses_by_token(tmp_path: Path):
    study(tmp_path)
    before = compare.to_json(read(tmp_path))
    assert len(keep_sums_alone(tmp_path)) == len(ARMS) * len(SEEDS)
    assert compare.to_json(read(tmp_path)) == before


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"training_step": 1}, "belongs to another run than result.json: training_step differs"),
        ({"data_fingerprint": "x"}, "belongs to another run than result.json: data_fingerprint differs"),
        ({"validation_loss": 4.0}, "belongs to another run than result.json: validation_loss differs"),
        ({"text_bytes": "9"}, "'text_bytes' is '9', not a whole number"),
        ({"text_bytes": 10**400}, "'text_bytes' is 10+.*, not a whole number"),
        ({"text_bytes": -1}, "tokens and text_bytes must be whole numbers from 0"),
        *(
            ({"by_document": {"nats": nats, "tokens": tokens}}, "by_document needs lists of numbers of equal length")
            for nats, tokens in (
                *(([1.0], [1, 2]), ([1e999], [1]), (["1.5"], [1]), ([True], [1]), ([None], [1]), ([[1.0]], [[1]])),
                *(({"0": 1.0}, [1]), (1.0, [1]), ([1.0], None), ([10**400], [1]), ([1.0, 1.0], [1e308, 1e308])),
            )
        ),
        *(
            ({"by_document": {"nats": [1.0, 1.0], "tokens": tokens}}, "tokens and text_bytes must be whole numbers")
            for tokens in ([0.5, 1], [-1, 3], [0, 0])
        ),
    ],
)
def test_sums_that_are_damaged_or_of_another_run_are_refused(tmp_path: Path, change: dict, fault: str):
    study(tmp_path, ARMS[:2])
    file = keep_sums_alone(tmp_path)[0]
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(
        ValueError, match=rf"^{file}: {fault}.*; write it again: python scripts/token_losses\.py --again"
    ):
        read(tmp_path)


def test_sums_of_another_run_of_the_same_data_and_length_are_refused(tmp_path: Path):
    study(tmp_path, ARMS[:2])
    first, *_, last = keep_sums_alone(tmp_path)
    first.write_bytes(last.read_bytes())
    with pytest.raises(
        ValueError, match=rf"^{first}: belongs to another run .* validation_loss differs; write it again"
    ):
        read(tmp_path)
