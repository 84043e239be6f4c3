"""The first visit to an accelerator: rehearsed with real processes that are killed, stopped and resumed; its rules."""

import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny_runs
from etils import epath

from configs import gpu_study
from kronecker.accelerator import correctness, extents, ledger, parts, study_runs, summary
from kronecker.accelerator import visit as one_visit
from kronecker.benchmark import contenders, encoder, settings, texts
from kronecker.run import rundir
from kronecker.schema import config_files, resolution

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "scripts" / "accelerator.py")
FACTS = {
    "devices": ["NVIDIA H100 80GB HBM3"],
    "rehearsal": False,
    "code": "0123456789ab",
    "commit": None,
    "versions": {
        "jax": "0.11.2",
        "jaxlib": "0.11.2",
        "flax": "0.12.12",
        "optax": "0.2.8",
        "orbax-checkpoint": "0.12.8",
    },
    "python": "3.12.3",
    "memory_bytes": 80_000_000_000,
    "driver": "580.159.04",
}


@dataclasses.dataclass(frozen=True)
class Rehearsal:
    """A rehearsal whose worker was killed, that was then stopped, and that a second call finished."""

    folder: Path
    killed: str
    stopped: subprocess.CompletedProcess
    kept: dict[str, int]
    finished: subprocess.CompletedProcess

    @property
    def results(self) -> Path:
        return self.folder / "out" / "cpu"


def command(folder: Path, *flags: str) -> list[str]:
    # More minutes than a rehearsal needs on a machine with ten times as many busy processes as cores.
    shared = ("--rehearse", "--out=out", f"--data={folder / 'texts.jsonl'}", "--minutes=60")
    return [sys.executable, SCRIPT, *shared, *flags]


def visit(folder: Path, *flags: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(folder, *flags), cwd=folder, capture_output=True, text=True)


def results(folder: Path) -> dict[str, int]:
    """Returns every result's file with the time at which it was written."""
    files = (folder / "out" / "cpu").glob("*/*.json")
    return {f"{file.parent.name}/{file.stem}": file.stat().st_mtime_ns for file in files}


def wait_for(what: str, done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while not done():
        assert time.monotonic() < deadline, f"{what}: not within 600 s"
        time.sleep(0.05)


def computed(temporary: Path) -> str | None:
    """Returns the name of the result that a visit with this TMPDIR computes now."""
    file = next(temporary.glob("*/at_work.json"), None)
    return (rundir.read_json(epath.Path(file)) or {}).get("name") if file else None


def worker_of(process: subprocess.Popen) -> int:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[0])


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> Rehearsal:
    folder = tmp_path_factory.mktemp("rehearsal")
    (folder / "text").mkdir()
    tiny_runs.write_texts(folder / "text")
    lines = [json.dumps({"text": file.read_text()}) for file in sorted((folder / "text").iterdir())]
    (folder / "texts.jsonl").write_text("\n".join(lines))
    (folder / "out" / "mine").mkdir(parents=True)  # an unrelated folder
    temporary = folder / "tmp"
    temporary.mkdir()
    process = subprocess.Popen(
        command(folder),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(temporary)},
    )
    wait_for("computing product-bfloat16", lambda: computed(temporary) == "product-bfloat16")
    os.kill(worker_of(process), signal.SIGKILL)
    wait_for("check/product-bfloat16", lambda: "check/product-bfloat16" in results(folder))
    killed = json.loads((folder / "out" / "cpu" / "check" / "product-bfloat16.json").read_text())["error"]
    wait_for("check/attention", lambda: "check/attention" in results(folder))
    process.terminate()
    told = process.communicate(timeout=600)
    kept = results(folder)
    return Rehearsal(folder, killed, subprocess.CompletedProcess([], process.returncode, *told), kept, visit(folder))


def read(rehearsed: Rehearsal, name: str) -> dict[str, Any]:
    return json.loads((rehearsed.results / f"{name}.json").read_text())


@pytest.mark.slow
def test_a_killed_process_costs_one_result_and_the_next_computes_the_rest(rehearsed: Rehearsal):
    assert rehearsed.killed == "its process exited with -9"
    assert {"check/product-float32", "check/attention"} <= set(rehearsed.kept)


@pytest.mark.slow
def test_a_stopped_visit_keeps_finished_results_and_says_so(rehearsed: Rehearsal):
    assert rehearsed.stopped.returncode == 128 + signal.SIGTERM
    assert "stopping; finished results are saved" in rehearsed.stopped.stderr
    assert "out/cpu/report.html" in rehearsed.stopped.stderr
    assert not any(name.startswith("study/") for name in rehearsed.kept)


@pytest.mark.slow
def test_the_same_command_resumes_and_computes_failed_results_again(rehearsed: Rehearsal):
    assert rehearsed.finished.returncode == 0, rehearsed.finished.stderr
    now = results(rehearsed.folder)
    again = {name for name, written in rehearsed.kept.items() if now[name] != written}
    assert "check/product-bfloat16" in again
    assert "check/product-float32" not in again
    wanted = {f"{part}/{name}" for part, names in extents.names(extents.REHEARSAL).items() for name in names}
    study = {name for name in now if name.startswith("study/")}
    assert set(now) == wanted | study
    assert len(study) == 5


@pytest.mark.slow
def test_a_rehearsal_ends_in_its_table(rehearsed: Rehearsal):
    printed = rehearsed.finished.stdout
    assert [part.name for part in parts.PARTS if f"\n{part.name} " in printed] == [part.name for part in parts.PARTS]
    assert "WRONG" not in printed
    assert "peak unknown" in printed
    assert printed.rstrip().endswith("for these devices, this code and these versions.")
    page = (rehearsed.results / "report.html").read_text()
    assert page.count("<table>") >= 7
    assert page.count("<figure ") == 2


@pytest.mark.slow
def test_each_result_says_where_it_is_from(rehearsed: Rehearsal):
    for name in results(rehearsed.folder):
        found = read(rehearsed, name)
        assert found["error"] is None
        assert found["seconds"] > 0
        assert found["key"]["devices"] == ["cpu"]
        assert found["machine"]["command"][:3] == ["python", Path(SCRIPT).name, "--rehearse"]
        assert found["machine"]["versions"]["jax"] == jax.__version__


@pytest.mark.slow
def test_a_further_call_computes_nothing_again(rehearsed: Rehearsal):
    before = results(rehearsed.folder)
    done = visit(rehearsed.folder)
    assert done.returncode == 0, done.stderr
    assert results(rehearsed.folder) == before
    assert "Complete: all results exist" in done.stdout


@pytest.mark.slow
def test_the_costliest_kernels_of_a_setting_are_kept(rehearsed: Rehearsal):
    kernels = read(rehearsed, "mfu/batch4-loss_chunk32")["result"]["kernels"]
    assert len(kernels) == 10
    assert all(kernel["seconds"] > 0 for kernel in kernels)


@pytest.mark.slow
def test_a_finished_run_of_the_study_keeps_only_small_files(rehearsed: Rehearsal):
    folders = [file.parent for file in rehearsed.results.glob("study/runs/*/*/result.json")]
    assert len(folders) == 5
    for folder in folders:
        names = {file.name for file in folder.iterdir()}
        assert names == {"config.json", "env.json", "params.json", "metrics.jsonl", "result.json"}


def study_of(rehearsed: Rehearsal, out: Path, **facts: Any) -> study_runs.Study:
    shutil.copytree(rehearsed.folder / "out", out)
    kept = ledger.Ledger(out, {**read(rehearsed, "step/arms")["machine"], **facts})
    source = extents.Text(f"jsonl:{rehearsed.folder / 'texts.jsonl'}", "", "gpt2")
    return study_runs.Study(extents.REHEARSAL, source, kept, out)


@pytest.mark.slow
def test_a_pair_is_of_one_kind_of_device(rehearsed: Rehearsal, tmp_path: Path):
    study = study_of(rehearsed, tmp_path / "out")
    groups = list(study.groups())
    assert [[one.name for one in study._missing(group)] for group in groups] == [[]] * 3
    mine, partner = groups[-1]
    (partner.planned.folder / "result.json").unlink()
    assert study._missing(groups[-1]) == [partner]
    env = json.loads((mine.planned.folder / "env.json").read_text())
    (mine.planned.folder / "env.json").write_text(json.dumps(env | {"devices": ["NVIDIA H200"]}))
    assert study._missing(groups[-1]) == [mine, partner]
    assert study.left() == (2, False)


@pytest.mark.slow
def test_the_finals_have_the_step_that_tuning_found(rehearsed: Rehearsal, tmp_path: Path):
    study = study_of(rehearsed, tmp_path / "out")
    *_, finals = study.groups()
    tried = {name: read(rehearsed, f"study/{name}-kronecker-seed100")["result"] for name in ("rates", "input_step")}
    better = min(tried.values(), key=lambda result: result["train_loss"])
    final = next(one.settings for one in finals if one.settings["embedding.arm"] == "kronecker")
    assert final[gpu_study.STEP] == better["settings"][gpu_study.STEP]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--parts=check,speed"],
            "--parts=check,speed: unknown part 'speed'; allowed: check, encoder, step, mfu, study",
        ),
        (["--minutes=0"], "flag --minutes=0"),
        (["--out=README.md"], "--out=README.md is a file; give a folder"),
        (["check"], "unexpected argument 'check'"),
    ],
)
def test_a_wrong_command_is_one_line_before_jax_is_imported(flags: list[str], message: str):
    command = [sys.executable, "-X", "importtime", SCRIPT, *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 2
    assert len(said) == 1
    assert message in said[0]
    assert not any(line.split("|")[-1].strip() == "jax" for line in done.stderr.splitlines())


@pytest.mark.slow
def test_a_machine_without_an_accelerator_is_refused_in_one_line(tmp_path: Path):
    command = [sys.executable, SCRIPT, "--parts=check", f"--out={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: JAX finds no accelerator, only a CPU; --rehearse")
    assert not list(tmp_path.iterdir())


def test_help_teaches():
    done = subprocess.run([sys.executable, SCRIPT, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert all(f"\n  {part.name} " in done.stdout for part in parts.PARTS)


def test_parts_are_taken_in_their_order_and_all_without_names():
    assert [part.name for part in parts.choose(["mfu", "check"])] == ["check", "mfu"]
    assert parts.choose([]) == parts.PARTS


def test_minutes_are_split_by_the_shares_of_the_parts_that_are_left():
    assert sum(part.share for part in parts.PARTS) == pytest.approx(1)
    ends, now = [], 100.0
    for i in range(len(parts.PARTS)):
        now = parts.end_of_first(parts.PARTS[i:], now, 580.0)
        ends.append(now)
    assert ends[0] == pytest.approx(100 + 480 * parts.PARTS[0].share)
    assert ends[-1] == pytest.approx(580)
    early = parts.end_of_first(parts.PARTS[1:], 110.0, 580.0)  # the first part has left most of its time
    assert early > 110 + (ends[1] - ends[0])
    assert parts.end_of_first(parts.PARTS[2:], 600.0, 580.0) == 600.0


@pytest.mark.parametrize(
    ("changed", "holds"),
    [
        ({}, True),
        ({"commit": "abc"}, True),
        ({"driver": "581"}, True),
        ({"code": "ba9876543210"}, False),
        ({"rehearsal": True}, False),
        ({"devices": ["NVIDIA H100 80GB HBM3"] * 2}, False),
        ({"versions": FACTS["versions"] | {"jaxlib": "0.12.0"}}, False),
    ],
)
def test_a_result_holds_for_its_devices_code_and_versions(tmp_path: Path, changed: dict[str, Any], holds: bool):
    ledger.Ledger(tmp_path, FACTS).write("check", "loss", 1.0, {"rows": []})
    assert ledger.Ledger(tmp_path, FACTS | changed).holds("check", "loss") == holds
    assert not ledger.Ledger(tmp_path, FACTS).holds("check", "attention")


def test_a_failed_result_does_not_hold_and_is_kept_with_its_error(tmp_path: Path):
    kept = ledger.Ledger(tmp_path, FACTS)
    kept.write("mfu", "batch16", 1.0, None, "ValueError: no")
    assert not kept.holds("mfu", "batch16")
    assert kept.records("mfu")["batch16"]["error"] == "ValueError: no"
    assert (tmp_path / "nvidia-h100-80gb-hbm3" / "mfu" / "batch16.json").exists()


def test_a_process_that_ends_after_it_wrote_a_result_leaves_the_result(tmp_path: Path):
    kept = ledger.Ledger(tmp_path, FACTS)
    kept.write("check", "loss", 1.0, {"rows": []})
    for name in ("loss", "attention"):
        one_visit._write_interrupted(kept, {"part": "check", "name": name, "began": 0.0}, -9)
    assert {name: record["error"] for name, record in kept.records("check").items()} == {
        "loss": None,
        "attention": "its process exited with -9",
    }


def test_the_code_is_its_python_files_whatever_is_beside_them(tmp_path: Path):
    (tmp_path / "kronecker").mkdir()
    (tmp_path / "kronecker" / "bag.py").write_text("one = 1\n")
    before = ledger.code_version(tmp_path)
    (tmp_path / "README.md").write_text("new")
    (tmp_path / "kronecker" / "asset.json").write_text("{}")
    assert ledger.code_version(tmp_path) == before
    (tmp_path / "kronecker" / "bag.py").write_text("one = 2\n")
    assert ledger.code_version(tmp_path) != before


def losses(found: dict[tuple, float]):
    """Returns the loss of a run by stage, arm, rate and step; None for those that are not given."""

    def loss(stage: str, run: dict[str, Any]) -> float | None:
        return found.get((stage, run["embedding.arm"], run[gpu_study.RATE], run[gpu_study.STEP]))

    return loss


def everything(best_rate: float, best_step: float):
    """Returns losses that are all there, lowest at one rate and one multiplier of the input step."""
    return lambda stage, run: (
        abs(math.log(run[gpu_study.RATE] / best_rate)) + abs(math.log(run[gpu_study.STEP] / best_step))
    )


def test_the_study_begins_with_rates_all_arms_at_one_rate_in_a_group():
    (first,) = gpu_study.stages(lambda *_: None)
    assert first.name == "rates"
    assert [{run[gpu_study.RATE] for run in group} for group in first.groups] == [{1e-3}, {2e-3}, {4e-3}, {8e-3}]
    assert [run["embedding.arm"] for run in first.groups[0]] == ["table_untied", "kronecker", "table_tied"]
    assert {(run["seed"], run["train.tokens"]) for group in first.groups for run in group} == {(100, 30_000_000)}


def test_a_stage_waits_for_every_run_that_decides_it():
    all_but_one = everything(2e-3, 1.0)
    hidden = ("rates", "table_tied", 8e-3)

    def loss(stage: str, run: dict[str, Any]) -> float | None:
        if (stage, run["embedding.arm"], run[gpu_study.RATE]) == hidden:
            return None
        return all_but_one(stage, run)

    assert [stage.name for stage in gpu_study.stages(loss)] == ["rates"]
    assert [stage.name for stage in gpu_study.stages(all_but_one)] == ["rates", "input_step", "finals", "controls"]


def test_each_arm_continues_at_its_best_rate_and_never_at_one_that_diverged():
    best = {"table_untied": 4e-3, "kronecker": 8e-3, "table_tied": 1e-3}

    def loss(stage: str, run: dict[str, Any]) -> float | None:
        if stage != "rates":
            return None
        rate, wanted = run[gpu_study.RATE], best[run["embedding.arm"]]
        return math.inf if rate > wanted else -rate

    _, steps = gpu_study.stages(loss)
    rates = {group[0]["embedding.arm"]: {run[gpu_study.RATE] for run in group} for group in steps.groups}
    assert rates == {"table_untied": {4e-3}, "kronecker": {8e-3}, "table_std1": {4e-3}, "kronecker_unit": {8e-3}} | {
        "kronecker_unit_tied": {1e-3}
    }


@pytest.mark.parametrize(("step", "expected"), [(10.0, 10.0), (1.0, 1.0)])
def test_finals_are_pairs_of_a_seed_at_the_best_step_the_untouched_one_among_them(step: float, expected: float):
    *_, finals, controls = gpu_study.stages(everything(2e-3, step))
    assert [{run["seed"] for run in group} for group in finals.groups] == [{0}, {1}, {2}, {3}, {4}]
    table = next(run for run in finals.groups[0] if run["embedding.arm"] == "table_untied")
    assert (table[gpu_study.RATE], table[gpu_study.STEP]) == (2e-3, expected)
    kronecker = next(run for run in finals.groups[0] if run["embedding.arm"] == "kronecker")
    own = {"embedding.arm", "embedding.kind", "embedding.init_std", gpu_study.STEP}
    assert {key for key in table if table[key] != kronecker[key]} <= own
    random_code = controls.groups[0][0]
    assert random_code[gpu_study.STEP] == kronecker[gpu_study.STEP]


def test_a_row_beyond_what_is_allowed_is_a_fault_and_nan_too():
    fine = {"what": "bag: value", "error": 1e-6, "allowed": 1e-5}
    assert correctness.faults([fine, fine | {"error": None}]) is None
    for error in (1e-4, math.nan):
        found = correctness.faults([fine, fine | {"what": "gather: value", "error": error}])
        assert found.startswith("gather: value: error ")
        assert "at most 1.0e-05 is allowed" in found
    assert correctness.faults([fine | {"fault": "off by 1"}]) == "off by 1"


@pytest.mark.parametrize(
    ("mfu", "ratio", "verdicts"),
    [(0.5, 0.98, ["reached", "reached"]), (0.4, 1.01, ["not reached", "not reached"])],
)
def test_targets_are_judged_on_one_h100(tmp_path: Path, mfu: float, ratio: float, verdicts: list[str]):
    kept = ledger.Ledger(tmp_path, FACTS)
    ran = {"arm": "kronecker", "size": "124m", "dtype": "bfloat16", "settings": {"train.batch": 16}}
    ran |= {"tokens_per_second": 5e5, "mfu": mfu, "kernels": [], "memory": {"total": 1}, "median_seconds": 0.03}
    kept.write("mfu", "batch16", 1.0, ran | {"attention": "cudnn"})
    kept.write("mfu", "batch64", 1.0, {"settings": {"train.batch": 64}, "out_of_memory": "RESOURCE_EXHAUSTED: ..."})
    verdict = {"what": "time of a step: kronecker / table_untied", "median": ratio, "low": ratio, "high": ratio}
    kept.write("step", "arms", 1.0, {"size": "124m", "baseline": "table_untied", "arms": [], "verdicts": [verdict]})
    assert [row[-1] for row in summary.targets(kept).rows] == verdicts
    assert ("64", "out of memory") in summary._mfu(kept).rows


def test_a_failed_run_of_the_study_leaves_the_tables_complete(tmp_path: Path):
    kept = ledger.Ledger(tmp_path, FACTS)
    kept.write("study", "rates-kronecker-seed100", 1.0, None, "train.py ended with 1: boom")
    assert summary.show(kept, ["study"], {"study": (1, True)})
    assert "boom" in summary.write(kept, {"study": (1, True)}).read_text()


def test_work_in_turns_is_the_same_work():
    base = resolution.resolve(config_files.load(str(ROOT / "configs" / "base.py")))
    read = texts.read("gpt2", base.data)
    setting = settings.Setting(64, 16, 16)
    once, turns = (encoder.problem(setting, read, base, "float32", 100.0, number) for number in (1, 3))
    for name in ("gather", settings.TABLE):
        one, three = (contenders.make(name, given) for given in (once, turns))
        for ours, want in zip(three.result(), one.result(), strict=True):
            np.testing.assert_allclose(ours, want, rtol=1e-6, atol=1e-9)


def test_a_setting_may_have_more_ids_than_the_tokenizer():
    base = resolution.resolve(config_files.load(str(ROOT / "configs" / "base.py")))
    read = texts.read("gpt2", base.data)
    assert (
        len(encoder.problem(settings.parse("tokens=64,d=16,V=131072"), read, base, "float32", 1.0).table.lengths)
        == 131_072
    )


def test_a_record_that_lacks_a_field_is_named(tmp_path: Path):
    kept = ledger.Ledger(tmp_path, FACTS)
    kept.write("check", "loss", 1.0, {"rows": []})
    file = tmp_path / "nvidia-h100-80gb-hbm3" / "check" / "loss.json"
    file.write_text('{"key": 1}')
    for read_it in (lambda: kept.holds("check", "loss"), lambda: kept.records("check")):
        with pytest.raises(ValueError, match=r"loss\.json: lacks 'name'; restore it"):
            read_it()
