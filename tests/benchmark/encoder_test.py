"""The benchmarks: timing in turns, the numbers in their files, errors, and the command line."""

import dataclasses
import json
import math
import platform
import shutil
import statistics
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pytest
import reference

from kronecker.benchmark import contenders, encoder, settings, step, texts, timing, train
from kronecker.embedding import codec
from kronecker.schema import config_files, resolution

ROOT = Path(__file__).parents[2]
TEXT = "text:kronecker/**/*.py"
ROUNDS = 5
SIZE, VOCABULARY, P = 30_000, 30_080, 4  # of the steps: more ids than a tokenizer trained on this text gets


def benchmark(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return commands.run("scripts/benchmark.py", *arguments, **environment)


def finished(file: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    done = benchmark(*arguments, f"--data={TEXT}", f"--rounds={ROUNDS}", f"--out={file}")
    assert done.returncode == 0, done.stderr
    return json.loads(file.read_text()), done.stdout


def problem(tokens: int = 40, table: codec.ByteTable | None = None) -> contenders.Problem:
    table = table or codec.byte_table([b"a", b"bc", b"def", b"", None], 4)
    ids = np.arange(2 * tokens, dtype=np.int32).reshape(2, tokens) % len(table.lengths)
    return contenders.Problem(table, ids, 8, "float32", resolution.resolve(base_config()), 1024)


def base_config() -> Any:
    return config_files.load(str(ROOT / "configs" / "base.py"))


# Two small settings of the real command: all kinds of contenders, codes over the limit, and a trained tokenizer.
@pytest.fixture(scope="module")
def encoder_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Any], str, Path]]:
    file = tmp_path_factory.mktemp("benchmark") / "encoder.json"
    small = (
        "tokens=128,d=16,P=4,only=cached+bag+table+reference",
        "tokens=64,d=8,P=4,tokenizer=bpe:300,only=bag+induced",
    )
    arguments = [f"--setting={setting}" for setting in small]
    result, printed = finished(file, "encoder", *arguments, "--cache_limit_mb=100", "--seconds=1")
    yield result, printed, file


@pytest.fixture(scope="module")
def step_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Any], str, Path]]:
    file = tmp_path_factory.mktemp("benchmark") / "step.json"
    small = ("--size=nano", "--batch=2", "--sequence=16", f"--tokenizer=bpe:{SIZE}", "--arms=table_untied,kronecker")
    result, printed = finished(file, "step", *small, f"--pos_dim={P}", "--implementations=auto,onthefly,cached")
    yield result, printed, file


def assert_true_summary(one: dict[str, Any]) -> None:
    assert len(one["seconds"]) == len(one["rounds"]) >= timing.LEAST_ROUNDS
    assert min(one["seconds"]) > 0
    assert one["median_seconds"] == pytest.approx(statistics.median(one["seconds"]))
    assert one["low"] <= one["median_seconds"] <= one["high"]


@reference.needed
@pytest.mark.slow
def test_the_encoders_file_holds_every_sample_of_every_contender(encoder_run):
    result, _, _ = encoder_run
    first, second = result["settings"]
    assert {row["name"] for row in first["contenders"]} == {"bag", "table", settings.REFERENCE}
    assert {row["name"] for row in second["contenders"]} == {"bag", "induced"}
    for setting in result["settings"]:
        assert_true_summary(setting["bandwidth"])
        for row in setting["contenders"]:
            assert set(row["measures"]) == set(contenders.MEASURES)
            for one in row["measures"].values():
                assert_true_summary(one)
                share = one["least_bytes"] / one["median_seconds"] / setting["bandwidth"]["bytes_per_second"]
                assert one["bandwidth_share"] == pytest.approx(share)


@reference.needed
@pytest.mark.slow
def test_the_encoders_ratios_of_medians_are_right(encoder_run):
    result, _, _ = encoder_run
    for setting, (above, below) in zip(result["settings"], [("auto", "table"), ("induced", "bag")], strict=True):
        median = {
            (row["name"], measure): one["median_seconds"]
            for row in setting["contenders"]
            for measure, one in row["measures"].items()
        }
        median |= {("auto", measure): median[setting["auto"], measure] for measure in contenders.MEASURES}
        for measure in contenders.MEASURES:
            found = setting["ratios"][f"{above}_over_{below}_{measure}"]
            assert found["of_medians"] == pytest.approx(median[above, measure] / median[below, measure])
            assert found["low"] <= found["median"] <= found["high"]


@reference.needed
@pytest.mark.slow
def test_codes_above_the_limit_are_listed_as_too_large_with_their_size(encoder_run):
    result, printed, _ = encoder_run
    size_mb = round(50_304 * 4 * 256 * 4 / 1e6)
    assert f"{size_mb:,} MB" in result["settings"][0]["refused"]["cached"]
    assert f"{size_mb:,} MB" in printed
    assert "too large" in printed


@reference.needed
@pytest.mark.slow
def test_a_benchmark_records_its_machine_versions_and_command(encoder_run, step_run):
    for result, printed, file in (encoder_run, step_run):
        machine = result["machine"]
        assert {"jax", "jaxlib", "flax", "torch", "kronecker-embeddings"} <= set(machine["versions"])
        assert machine["cores"] >= 1
        assert machine["devices"]
        assert machine["command"][0] == "scripts/benchmark.py"
        assert f"--data={TEXT}" in machine["command"]
        assert "--out=" + Path(file).name in machine["command"]  # without its folder
        assert machine["commit"] or not (ROOT / ".git").exists()
        assert machine["keeps_freed_memory"] == (platform.libc_ver()[0] == "glibc")
        assert f"jax {machine['versions']['jax']}" in printed


@reference.needed
@pytest.mark.slow
def test_the_figure_beside_the_file_is_a_picture(encoder_run, step_run):
    for _, printed, file in (encoder_run, step_run):
        assert ElementTree.parse(file.with_suffix(".svg")).getroot().tag.endswith("svg")
        assert str(file.with_suffix(".svg")) in printed


@pytest.mark.slow
def test_the_steps_file_compares_each_arm_with_the_baseline_round_by_round(step_run):
    result, printed, _ = step_run
    arms = {row["name"]: row for row in result["arms"]}
    assert set(arms) == {"table_untied", "kronecker", "kronecker onthefly", "kronecker cached"}
    base = arms["table_untied"]
    for row in arms.values():
        assert_true_summary(row)
        assert len(row["seconds"]) == ROUNDS
        ratios = [own / other for own, other in zip(row["seconds"], base["seconds"], strict=True)]
        assert row["ratio"]["median"] == pytest.approx(statistics.median(ratios))
        assert row["ratio"]["of_medians"] == pytest.approx(row["median_seconds"] / base["median_seconds"])
        assert row["tokens_per_second"] == pytest.approx(2 * 16 / row["median_seconds"])
        assert row["memory"]["total"] > 0
        assert row["name"] in printed
    assert base["ratio"]["median"] == 1
    (verdict,) = result["verdicts"]
    assert verdict["reached"] == (arms["kronecker"]["ratio"]["low"] <= 1)


@pytest.mark.slow
def test_a_trained_vocabulary_is_padded_to_its_size(step_run):
    result, printed, _ = step_run
    assert result["ids"] < SIZE
    assert {row["vocab"] for row in result["arms"]} == {result["vocab"]} == {VOCABULARY}
    assert f"V = {VOCABULARY:,} (bpe:{SIZE} has {result['ids']:,}), P = {P}" in printed


@pytest.mark.slow
def test_steps_record_the_size_of_an_inputs_buffers(step_run):
    result, _, _ = step_run
    kept = {row["name"]: (row["implementation"], row["buffers_bytes"]) for row in result["arms"]}
    bytes_and_lengths = VOCABULARY * (P + 2)
    assert kept == {
        "table_untied": (None, 0),
        "kronecker": ("bag", bytes_and_lengths),
        "kronecker onthefly": ("onthefly", bytes_and_lengths),
        "kronecker cached": ("cached", bytes_and_lengths + VOCABULARY * 256 * P * 4),
    }


@pytest.mark.slow
def test_steps_refuse_codes_above_the_limit():
    small = ("--size=nano", "--batch=2", "--sequence=16", "--tokenizer=bpe:300", "--arms=table_untied,kronecker")
    done = benchmark("step", *small, f"--data={TEXT}", "--implementations=cached", "--cache_limit_mb=1")
    assert done.returncode == 2
    assert "above embedding.cache_limit_mb = 1; raise the limit" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name one benchmark: encoder, step, train, runtime, runs; got none"),
        (["encode"], "name one benchmark: encoder, step, train, runtime, runs; got 'encode'"),
        (["train", "--size=nano"], "--size is a flag of `benchmark.py step`, not of train"),
        (["train", "--against=tensorflow"], "--against=tensorflow: allowed: torch, torch_tuned, torch_compiled"),
        (
            ["train", "--arms=kronecker", "--against=torch"],
            "--arms=kronecker: table_untied is missing; add it, --against",
        ),
        (["runtime", "--size=nano"], "--size is a flag of `benchmark.py step`, not of runtime"),
        (["encoder", "step"], "name one benchmark"),
        (["encoder", "--round=3"], "Did you mean: rounds"),
        (["encoder", "--rounds=4"], "--rounds=4"),
        (["encoder", "--size=nano"], "--size is a flag of `benchmark.py step`"),
        (["step", "--setting=d=8"], "--setting is a flag of `benchmark.py encoder`"),
        (["encoder", "--setting=token=8"], "cannot read 'token=8'; write KEY=VALUE pairs"),
        (["encoder", "--setting=tokens=0"], "cannot read 'tokens=0'"),
        (["encoder", "--setting=only=bags"], "unknown contender 'bags' in only=; allowed: cached"),
        (["encoder", "--out=numbers"], "--out=numbers: must end in .json; write --out=numbers.json"),
        (["encoder", "--data=nothing"], "data.source is 'nothing'; it must be one of stdlib"),
        (["step", "--size=huge"], "size is 'huge'; allowed: 124m"),
        (["step", "--arms=table"], "arm is 'table'; allowed: "),
        (["step", "--implementations=bag,dense"], "--implementations=bag,dense: allowed: auto, cached, onthefly, bag"),
        (["step", "--implementations="], "--implementations=: a name is empty; give names"),
        (["step", "--pos_dim=0"], "--pos_dim=0"),
        (["runtime", "--cache_limit_mb=9"], "--cache_limit_mb is a flag of `benchmark.py encoder or step`, not of run"),
    ],
)
def test_a_wrong_command_is_one_line_and_exit_2(arguments: list[str], message: str):
    done = benchmark(*arguments)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@reference.needed
def test_torch_compile_without_a_cpp_compiler_is_refused_in_one_line():
    done = benchmark("train", "--sizes=nano", "--against=torch_compiled", CXX="no-such-compiler")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "error: --against=torch_compiled: torch.compile needs a C++ compiler, but no-such-compiler is not "
        "installed; install it or set the environment variable CXX to another"
    )
    assert "Traceback" not in done.stderr


WITHOUT_PYTORCH = """
import runpy, sys
sys.modules["torch"] = None  # as if it were not installed
runpy.run_path("scripts/benchmark.py", run_name="__main__")
"""


def test_pytorch_that_is_not_installed_is_refused_in_one_line():
    command = [sys.executable, "-c", WITHOUT_PYTORCH, "train", "--sizes=nano", "--against=torch"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "error: --against=torch: PyTorch is not installed; `make reference` installs it"
    )


@pytest.mark.extras("" if shutil.which("g++") else "needs g++, for torch.compile")
@reference.needed
@pytest.mark.slow
def test_the_trainer_and_pytorch_train_the_same_model_in_turns(tmp_path: Path):
    small = ("--sizes=nano", "--batch=2", "--sequence=16", "--tokenizer=bpe:300", "--arms=table_untied")
    result, printed = finished(tmp_path / "train.json", "train", *small, f"--against={','.join(train.PYTORCH)}")
    (size,) = result["sizes"]
    rows = {row["name"]: row for row in size["contenders"]}
    assert list(rows) == ["table_untied", "torch", "torch_tuned", "torch_compiled"]
    for name, row in rows.items():
        # losses of three updates on different batches, each with the weights of the update before
        assert row["first_losses"] == pytest.approx(rows["table_untied"]["first_losses"], abs=1e-4)
        assert len(set(row["first_losses"])) == 3
        assert row["tokens_per_second"] == pytest.approx(2 * 16 / row["median_seconds"])
        assert row["speedup"]["torch"]["rounds"] == ROUNDS
        assert row["mfu"] is None
        assert name in printed
    ours, theirs = rows["table_untied"], rows["torch"]
    ratios = [b / a for a, b in zip(ours["seconds"], theirs["seconds"], strict=True)]
    assert ours["speedup"]["torch"]["median"] == pytest.approx(statistics.median(ratios))
    assert result["verdicts"] == []  # no target is set for nano
    assert ElementTree.parse(tmp_path / "train.svg").getroot().tag.endswith("svg")


def test_every_case_runs_once_in_every_round_in_random_order():
    log: list[tuple[int, str]] = []
    cases = {name: lambda number, name=name: log.append((number, name)) for name in "abc"}
    samples = timing.interleave(cases, rounds=8, seconds=math.inf)
    timed = log[2 * len(cases) :]  # after two warm-up calls each
    orders = [tuple(name for number, name in timed if number == r) for r in range(8)]
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert len(set(orders)) > 1
    assert all(own.rounds == tuple(range(8)) for own in samples.values())


def test_a_slow_case_runs_in_five_rounds_spread_over_the_run():
    samples = timing.interleave({"slow": lambda _: None, "b": lambda _: None}, rounds=30, seconds=0.0)
    assert samples["slow"].rounds == (5, 11, 17, 23, 29)


def test_a_ratio_pairs_the_rounds_that_both_have():
    fast = timing.Samples((0, 1, 2, 3), (1.0, 2.0, 1.0, 1.0))
    slow = timing.Samples((1, 3), (6.0, 5.0))
    found = timing.ratio(slow, fast)
    assert (found["median"], found["rounds"], found["of_medians"]) == (4.0, 2, 5.5)


def test_steps_are_not_timed_without_the_arm_they_are_compared_with():
    with pytest.raises(ValueError, match="--arms=kronecker: table_untied is missing"):
        step.run({"kronecker": base_config()}, ROUNDS)


def test_arms_with_a_code_are_timed_once_an_implementation_and_tables_once():
    base = base_config()
    arms = {"kronecker": base, "table_untied": config_files.load(f"{ROOT}/configs/gpt2.py:arm=table_untied")}
    made = step.by_implementation(arms, ["auto", "bag"])
    ways = {name: c.embedding.implementation for name, c in made.items()}
    assert ways == {"kronecker": "auto", "kronecker bag": "bag", "table_untied": "auto"}
    assert base.embedding.implementation == "auto"


def test_the_lower_bound_on_memory_traffic_is_counted_as_documented():
    asked = problem(tokens=40)
    rows, d, n, distinct = 4 * 256, 8, 40, 5
    least = contenders.least_bytes(asked)
    forward = 4 * n + distinct * (4 + 2) + 4 * d * (rows + n)
    assert least == {
        "forward": forward,
        "gradient": forward + 4 * d * (n + rows),
        "update": forward + 4 * d * (n + 8 * rows),
    }
    table = contenders.least_bytes(asked, table=True)
    assert table["forward"] == 4 * n + 4 * d * (distinct + n)


def test_products_that_disagree_are_not_timed():
    asked = problem()
    right = contenders.make("onthefly", asked)
    assert encoder.disagreements([right, contenders.make("bag", asked)], "float32")["bag"] < 1e-4
    halved = dataclasses.replace(asked)
    halved.__dict__["bag"] = asked.bag.replace(scale=tuple(a / 2 for a in asked.bag.scale))
    broken = contenders.make("bag", halved)
    with pytest.raises(FloatingPointError, match="one of them is wrong"):
        encoder.disagreements([right, broken], "float32")


def test_batches_are_different_pieces_of_the_text():
    data = base_config().data
    data.source = f"text:{ROOT}/kronecker/*.py"
    read = texts.read("bpe:300", data)
    batches = read.batches(3, 4, 32)
    assert batches.shape == (3, 4, 32)
    assert len({row.tobytes() for row in batches.reshape(-1, 32)}) == 12
    assert read.ids.max() < read.tokenizer.vocab_size
    with pytest.raises(ValueError, match="use smaller batches or more text"):
        read.batches(3, 4000, 128)
