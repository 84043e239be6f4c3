"""Training as a user starts it: real processes, real files, a real kill -9."""

import ast
import json
import math
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import commands
import ml_collections
import pytest
import tiny_runs
from tiny_runs import lines, losses

from kronecker.run import rundir

ROOT = Path(__file__).parents[2]
GOLDEN_LOSSES = ROOT / "tests" / "golden" / "losses.json"
ARMS = ("kronecker", "kronecker_unit", "table_tied", "table_untied")
STEPS = 16
OPTIONS = {"tokenizer": "bpe:300", "train.steps": STEPS, "checkpoint.every": 2}
MOST_LINES, MOST_LEVELS = 25, 3  # of the loop's body, and of the blocks that hold one another
# A run in a process of its own, on one device, after PATCH.
PATCHED = """
import sys
import jax
from kronecker.runtime import sharding
from kronecker.schema import config_files
from kronecker.training import loop, run_log

c = config_files.load("configs/demo.py:arm=kronecker")
for pair in sys.argv[2:]:
    key, value = pair.split("=", 1)
    c.update_from_flattened_dict({key: int(value) if value.isdigit() else value})
c.mesh.cpu_devices = 1
PATCH
loop.run(c, sys.argv[1])
"""


def command(workdir: Path, data: Path, config: str = "configs/demo.py", **options: Any) -> list[str]:
    return tiny_runs.command(
        workdir, data, OPTIONS | {key.replace("__", "."): value for key, value in options.items()}, config
    )


def train(workdir: Path, data: Path, config: str = "configs/demo.py", **options: Any) -> subprocess.CompletedProcess:
    return commands.run(*command(workdir, data, config, **options)[1:])


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    done = train(workdir, data)
    assert done.returncode == 0, done.stderr
    return workdir


def test_a_run_leaves_the_files_that_everything_else_reads(finished: Path):
    result = json.loads((finished / "result.json").read_text())
    assert result["step"] == STEPS
    config = ml_collections.ConfigDict(json.loads((finished / "config.json").read_text()))
    assert result["config_sha256"] == rundir.config_sha256(config)
    assert result["tokens"] == STEPS * 4 * 32
    assert result["validation_loss"] == lines(finished, "validation")[-1]["loss"]
    assert [line["step"] for line in lines(finished)] == list(range(1, STEPS + 1))
    assert [line["step"] for line in lines(finished, "validation")] == list(range(0, STEPS + 1, 4))
    assert lines(finished)[-1].keys() >= {
        "tokens",
        "lr",
        "grad_norm",
        "clip_share",
        "embedding_std",
        "tokens_per_second",
    }
    assert lines(finished)[-1]["mfu"] is None  # a CPU's peak is not known
    params = json.loads((finished / "params.json").read_text())
    assert params["input"] == 4096 * 16
    assert params["total"] == params["input"] + params["body"] + params["head"]
    env = json.loads((finished / "env.json").read_text())
    assert env["platform"] == "cpu"
    assert env["versions"]["jax"]
    assert not list(finished.glob("*.tmp"))


def test_the_loss_falls_and_starts_near_that_of_guessing(finished: Path):
    first, last = lines(finished, "validation")[0], lines(finished, "validation")[-1]
    assert first["loss"] == pytest.approx(math.log(300), abs=0.2)
    assert last["loss"] < first["loss"]


def test_a_finished_run_is_not_touched_again(finished: Path, data: Path):
    before = {file: file.stat().st_mtime_ns for file in finished.rglob("*")}
    done = train(finished, data)
    assert done.returncode == 0
    assert f"{STEPS} steps" in done.stdout
    assert {file: file.stat().st_mtime_ns for file in finished.rglob("*")} == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({}, "result.json: lacks 'train_loss'"),
        ({"validation_loss": None}, "'validation_loss' is None, not a number"),
        ({"step": "16"}, "'step' is '16', not a whole number"),
    ],
)
def test_a_result_that_is_none_is_named_and_not_printed(
    changed: dict, fault: str, finished: Path, data: Path, tmp_path: Path
):
    workdir = shutil.copytree(finished, tmp_path / "run")
    result = json.loads((workdir / "result.json").read_text())
    (workdir / "result.json").write_text(json.dumps(changed and result | changed))
    refused(train(workdir, data), fault)


def evaluate(workdir: Path, *flags: str) -> subprocess.CompletedProcess:
    return commands.run("eval.py", f"--workdir={workdir}", *flags)


@pytest.mark.slow
def test_eval_gives_the_loss_that_training_wrote(finished: Path):
    last = lines(finished, "validation")[-1]
    done = evaluate(finished)
    assert done.returncode == 0, done.stderr
    assert f"step {STEPS}: {last['loss']:.4f} nats/token, {last['bits_per_byte']:.4f} bits/byte" in done.stdout


@pytest.mark.slow
def test_eval_does_not_need_the_text_that_the_data_were_made_from(data: Path, tmp_path: Path):
    elsewhere = tmp_path / "data"
    shutil.copytree(data / "text", elsewhere / "text")
    assert train(tmp_path / "run", elsewhere, train__steps=2).returncode == 0
    shutil.rmtree(elsewhere / "text")
    assert evaluate(tmp_path / "run").returncode == 0


@pytest.mark.slow
def test_a_prompt_is_continued_and_one_seed_is_one_text(finished: Path):
    first, again, other = (
        evaluate(finished, "--prompt=kroner bytes", "--new_tokens=6", f"--seed={seed}").stdout for seed in (1, 1, 2)
    )
    assert first.startswith("kroner bytes")
    assert len(first) > len("kroner bytes\n")
    assert first == again != other


@pytest.mark.parametrize(
    ("flags", "message"), [(["--step=3"], "no checkpoint of step 3 here"), (["--prompt=", "--top_p=2"], "top_p is 2")]
)
def test_an_evaluation_that_cannot_be_is_refused(finished: Path, flags: list[str], message: str):
    refused(evaluate(finished, *flags), message)


def test_evaluating_a_folder_that_is_no_run_is_refused(tmp_path: Path):
    refused(evaluate(tmp_path), "not a run's folder (no config.json)")


def test_evaluating_a_folder_of_runs_names_one_of_them(tmp_path: Path):
    for name in ("kronecker-seed1", "kronecker-seed0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    refused(evaluate(tmp_path), f"give one of the runs in it, such as {tmp_path}/kronecker-seed0")


@pytest.mark.slow
def test_kill_9_in_mid_run_changes_no_loss(finished: Path, data: Path, tmp_path: Path):
    workdir = tmp_path / "killed"
    kills = 0
    for after_lines in (3, 7):
        process = subprocess.Popen(command(workdir, data), cwd=ROOT, stderr=subprocess.DEVNULL)
        while process.poll() is None and _line_count(workdir) < after_lines:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills == 2, "the run ended before it was killed; the test shows nothing"
    assert not (workdir / "result.json").exists()
    done = train(workdir, data)
    assert done.returncode == 0, done.stderr
    assert "resumes after step " in done.stderr
    assert losses(workdir) == losses(finished)


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_changes_no_loss(finished: Path, data: Path, tmp_path: Path):
    workdir = shutil.copytree(finished, tmp_path / "run")
    manifest = workdir / "checkpoints" / str(STEPS) / "state" / "manifest.ocdbt"
    manifest.write_bytes(manifest.read_bytes()[:-9])
    fault = f"checkpoints/{STEPS}: damaged (state: "
    for done in (evaluate(workdir), train(tmp_path / "other", data, checkpoint__init_from=workdir)):
        refused(done, fault)
        assert f"; intact steps: {STEPS - 2}; eval.py --step={STEPS - 2} uses one" in done.stderr
    (workdir / "result.json").unlink()
    done = train(workdir, data)
    assert done.returncode == 0, done.stderr
    [line] = [line for line in done.stderr.splitlines() if fault in line]
    assert line.endswith(f"run/damaged-checkpoints/{STEPS}; resumes from step {STEPS - 2}")
    assert "Traceback" not in done.stderr
    assert losses(workdir) == losses(finished)
    assert {folder.name for folder in (workdir / "checkpoints").iterdir()} == {str(STEPS - 2), str(STEPS)}


def test_a_second_command_on_a_run_waits_and_takes_over_and_one_of_another_config_is_refused_at_once(
    finished: Path, data: Path, tmp_path: Path
):
    workdir = tmp_path / "run"
    first = subprocess.Popen(command(workdir, data, checkpoint__every=STEPS), cwd=ROOT, stderr=subprocess.DEVNULL)
    while not _line_count(workdir):
        time.sleep(0.005)
    first.send_signal(signal.SIGSTOP)  # no checkpoint yet, so without the lock the folder would be free for any config
    assert not list((workdir / "checkpoints").glob("[0-9]"))
    same = [subprocess.Popen(command(workdir, data), cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        refused(train(workdir, data, train__lr=1e-2), f"process {first.pid} on ")
        assert json.loads((workdir / "config.json").read_text())["train"]["lr"] == 1e-3
        for process in same:
            while "waiting for it" not in process.stderr.readline():
                assert process.poll() is None
    finally:
        first.kill()
        first.wait()
    assert [process.communicate()[1] and process.returncode for process in same] == [0, 0]
    assert losses(workdir) == losses(finished)


# Reads or resumes each folder in one process, and prints how it ended.
EACH = """
import json, sys
from pathlib import Path
from kronecker.run import rundir
from kronecker.schema import resolution
from kronecker.training import loop, restore
for folder in sys.argv[2:]:
    try:
        if sys.argv[1] == "eval":
            restore.open_run(folder)
        else:
            config = rundir.read_config(rundir.epath.Path(sys.argv[1]) / "config.json")
            config.model.padded_vocab = 0  # derived again
            loop.run(config, folder)
        print(json.dumps([folder, ""]))
    except (ValueError, OSError) as error:
        print(json.dumps([folder, str(error)]))
"""


def each(what: str, copies: dict[str, Path]) -> tuple[dict[str, str], str]:
    """Returns the error of each folder, empty if there was none, and stderr."""
    done = commands.run("-c", EACH, what, *copies.values())
    assert done.returncode == 0, done.stderr
    names = {str(folder): name for name, folder in copies.items()}
    return {names[folder]: error for folder, error in map(json.loads, done.stdout.splitlines())}, done.stderr


def copies_of(run: Path, folder: Path, names: Sequence[str]) -> dict[str, Path]:
    found = {name: folder / str(i) for i, name in enumerate(names)}
    for copy in found.values():
        shutil.copytree(run, copy)
    return found


@pytest.mark.slow
def test_a_run_with_a_damaged_config_or_environment_is_not_evaluated_and_the_file_is_named(
    finished: Path, tmp_path: Path
):
    config, env = (json.loads((finished / name).read_text()) for name in ("config.json", "env.json"))
    lacking = config | {"train": {key: value for key, value in config["train"].items() if key != "lr"}}
    damages = {
        "config.json: lacks train.lr": ("config.json", json.dumps(lacking)),
        "config.json: model.layers is 'one', not a whole number": (
            "config.json",
            json.dumps(config | {"model": config["model"] | {"layers": "one"}}),
        ),
        "config.json: embedding.kind is 'tabel'; allowed:": (
            "config.json",
            json.dumps(config | {"embedding": config["embedding"] | {"kind": "tabel"}}),
        ),
        "config.json: holds [1], not a JSON object": ("config.json", "[1]"),
        "config.json: not JSON (": ("config.json", "[" * 100_000),
        "env.json: lacks 'data'": ("env.json", "{}"),
        "env.json: 'data' is 3, not text": ("env.json", json.dumps(env | {"data": 3})),
        "env.json: not JSON (": ("env.json", ""),
        "result.json: lacks 'step'": ("result.json", "{}"),
    }
    copies = copies_of(finished, tmp_path, list(damages))
    for name, (file, content) in damages.items():
        (copies[name] / file).write_text(content)
    for name, error in each("eval", copies)[0].items():
        assert name in error
        assert "\n" not in error


@pytest.mark.slow
def test_what_a_resumed_run_has_lost_is_written_again_or_named(finished: Path, data: Path, tmp_path: Path):
    lost = tmp_path / "base"
    shutil.copytree(finished, lost)
    (lost / "result.json").unlink()
    shutil.rmtree(lost / "checkpoints" / str(STEPS))  # it resumes from the one before
    names = [
        "nothing",
        "params",
        "cut params",
        "env",
        "older",
        "both",
        "middle",
        "end",
        "all",
        "broken",
        "other env",
        "other lines",
    ]
    copies = copies_of(lost, tmp_path / "copies", names)
    was = json.loads((lost / "env.json").read_text())
    older = was | {"commit": None, "versions": was["versions"] | {"jax": "0.1"}, "devices": ["abacus"]}
    (copies["older"] / "env.json").write_text(json.dumps(older))
    (copies["params"] / "params.json").unlink()
    (copies["cut params"] / "params.json").write_text('{"input": 1')
    (copies["env"] / "env.json").write_text("")
    for name in ("params.json", "env.json"):
        (copies["both"] / name).unlink()
    (copies["other env"] / "env.json").write_text(json.dumps(was | {"body_init_sha256": "0" * 64}))
    text = (lost / "metrics.jsonl").read_text().splitlines(keepends=True)
    for name, kept in {
        "other lines": [json.dumps(json.loads(line) | {"config": "0" * 12}) + "\n" for line in text],
        "middle": text[:5] + text[8:],
        "end": text[:9],
        "all": [],
        "broken": [*text[:3], "{]\n"],
    }.items():
        (copies[name] / "metrics.jsonl").write_text("".join(kept))
    copies["last"] = tmp_path / "last"
    shutil.copytree(finished, copies["last"])
    for name in ("result.json", "metrics.jsonl"):
        (copies["last"] / name).unlink()
    ended, told = each(str(lost), copies)
    result = {name: folder / "result.json" for name, folder in copies.items()}
    for name in ("nothing", "params", "cut params", "env"):
        assert ended[name] == ""
        assert losses(copies[name]) == losses(finished)
        assert json.loads((copies[name] / "params.json").read_text()) == json.loads(
            (finished / "params.json").read_text()
        )
        assert json.loads(result[name].read_text())["metrics_gaps"] == []
        env = json.loads((copies[name] / "env.json").read_text())
        assert env["body_init_sha256"] == json.loads((finished / "params.json").read_text())["body_init_sha256"]
        assert (f"{copies[name]}: env.json or params.json was lost: written again" in told) == (name != "nothing")
    assert json.loads((copies["nothing"] / "env.json").read_text()) == was
    after = json.loads((copies["older"] / "env.json").read_text())
    assert after["versions"] == was["versions"] | {"jax": f"0.1, then {was['versions']['jax']}"}
    assert after["commit"] == (was["commit"] and f"None, then {was['commit']}")
    assert after["devices"] == ["abacus", *was["devices"]]
    assert "lost or damaged, and body_init_sha256 is not in env.json; restore one of them" in ended["both"]
    assert "params.json: of another run than env.json; restore one of them" in ended["other env"]
    assert "metrics.jsonl: its line of step 0 is of another config; restore the file" in ended["other lines"]
    last = lines(finished, "validation")[-1]["loss"]
    for name in ("middle", "end", "all"):
        assert ended[name] == ""
        assert f"{copies[name]}/metrics.jsonl: lacks lines between steps " in told
        found = json.loads(result[name].read_text())
        assert found["metrics_gaps"]
        assert found["validation_loss"] == last
    assert "metrics.jsonl line 4: not JSON (" in ended["broken"]
    assert f"the training line of step {STEPS} is lost" in ended["last"]
    assert not result["broken"].exists()


@pytest.mark.slow
@pytest.mark.parametrize("arm", ARMS)
def test_the_first_losses_are_the_golden_ones(arm: str, data: Path, tmp_path: Path):
    workdir = tmp_path / arm
    done = train(workdir, data, f"configs/demo.py:arm={arm}", tokenizer="gpt2", checkpoint__every=STEPS)
    assert done.returncode == 0, done.stderr
    got = losses(workdir)
    if os.environ.get("REGENERATE_GOLDEN"):
        golden = json.loads(GOLDEN_LOSSES.read_text()) if GOLDEN_LOSSES.exists() else {}
        GOLDEN_LOSSES.write_text(json.dumps(golden | {arm: got}, indent=2, sort_keys=True) + "\n")
    golden = json.loads(GOLDEN_LOSSES.read_text())[arm]
    assert got == pytest.approx(golden, abs=2e-4), "if meant: REGENERATE_GOLDEN=1 make test ARGS='-k golden_ones'"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train__lr": 1e-2}, "holds a run of another config (train.lr was 0.001, is 0.01)"),
        ({"seed": 7}, "holds a run of another config (seed was 0, is 7)"),
        ({"model__d_model": 32}, "model.d_model was 16, is 32"),
        ({"data__validation_fraction": 0.02}, "data.validation_fraction was 0.01, is 0.02"),
    ],
)
def test_another_runs_folder_is_refused(finished: Path, data: Path, options: dict, message: str):
    refused(train(finished, data, **options), message)


def test_a_run_whose_text_changed_is_refused(finished: Path, data: Path, tmp_path: Path):
    workdir, elsewhere = tmp_path / "run", tmp_path / "data"
    shutil.copytree(finished, workdir)
    (workdir / "result.json").unlink()
    shutil.copytree(data / "text", elsewhere / "text")
    first, last = elsewhere / "text" / "000.txt", elsewhere / "text" / "299.txt"
    swapped = last.read_text(), first.read_text()  # another dataset, of which the same tokenizer is made
    first.write_text(swapped[0])
    last.write_text(swapped[1])
    config = json.loads((workdir / "config.json").read_text())
    config["data"]["source"] = f"text:{elsewhere / 'text'}"  # so that only the checkpoint still knows
    (workdir / "config.json").write_text(json.dumps(config))
    refused(train(workdir, elsewhere), "was saved with another dataset")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data__source": "text:/nowhere"}, "text:/nowhere"),
        ({"tokenizer": "tiktoken:/nowhere.tiktoken"}, "/nowhere.tiktoken does not exist"),
        (
            {"tokenizer": "gpt2", "model__vocab_size": 1000},
            "model.vocab_size is 1,000 but tokenizer gpt2 has 50,257 ids",
        ),
        ({"data__validation_fraction": 0.0}, "validation split has 0 tokens"),
        ({"train__sequence": 64}, "train.sequence is 64, longer than model.context 32"),
        ({"model__context": 10**6, "train__sequence": 10**6}, "train.sequence = 1,000,000 needs"),
        ({"log__wandb": "project"}, "wandb is not installed; pip install wandb"),
    ],
)
def test_bad_input_is_one_line_exit_2_and_writes_nothing(data: Path, tmp_path: Path, options: dict, message: str):
    workdir = tmp_path / "run"
    refused(train(workdir, data, **options), message)
    assert not workdir.exists()


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(finished: Path, data: Path, small_disk: Path):
    workdir = small_disk / "run"
    subprocess.run(["mount", "-o", "remount,size=500k", small_disk], check=True)
    refused(train(workdir, data), "a checkpoint needs 1 MB")
    assert not list((workdir / "checkpoints").iterdir())
    subprocess.run(["mount", "-o", "remount,size=200m", small_disk], check=True)
    done = train(workdir, data)
    assert done.returncode == 0, done.stderr
    assert losses(workdir) == losses(finished)


def test_a_folder_that_is_no_run_is_refused(data: Path, tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("x")
    refused(train(tmp_path, data), "not empty and not a run")
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_steps(data: Path, tmp_path: Path):
    done = train(tmp_path / "run", data, train__lr=1e30, train__clip=0.0, log__every=4, checkpoint__every=STEPS)
    assert done.returncode == 1
    assert "is not finite between steps" in done.stderr
    assert "try a lower train.lr" in done.stderr
    assert not (tmp_path / "run" / "result.json").exists()
    assert "is not finite between steps" in json.loads((tmp_path / "run" / "diverged.json").read_text())["reason"]


@pytest.mark.slow
def test_a_last_update_that_is_not_finite_leaves_no_finished_run(data: Path, tmp_path: Path):
    # One step: its loss, taken before the update, is fine.
    options = {"train__steps": 1, "train__lr": 3e38, "train__warmup_steps": 0, "eval__every": 0}
    done = train(tmp_path / "run", data, **options)
    assert done.returncode == 1
    assert "is not finite between steps 1 and 1" in done.stderr
    assert not (tmp_path / "run" / "result.json").exists()
    assert not [child for child in (tmp_path / "run" / "checkpoints").iterdir() if child.name.isdigit()]


@pytest.mark.slow
def test_attention_that_this_machine_lacks_is_refused_before_anything_is_written(data: Path, tmp_path: Path):
    refused(
        train(tmp_path / "run", data, model__attention="cudnn"), "model.attention is 'cudnn', which runs on gpu only"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_metrics_are_fetched_once_a_line_and_not_once_a_step(data: Path, tmp_path: Path):
    patch = """
get = jax.device_get
def counted(x):
    if isinstance(x, list):
        print(len(x))
    return get(x)
jax.device_get = counted
"""
    done = run_patched(patch, tmp_path / "run", data, {"log.every": 5, "eval.every": 0, "eval.sequences": 4})
    assert done.returncode == 0, done.stderr
    # 16 updates: lines after 5, 10, 15 and 16 (the evaluation's one batch is the last list)
    assert done.stdout.split() == ["5", "5", "5", "1", "1"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "patch",
    [
        "sharding.to_devices = lambda local, mesh: local",  # the step would take it, and copy it while the device waits
        "add = run_log.Log.add; run_log.Log.add = lambda log, metrics: add(log, metrics._replace(lr=metrics.lr * 2))",
    ],
)
def test_a_transfer_in_the_loop_that_nobody_asked_for_ends_the_run(patch: str, data: Path, tmp_path: Path):
    done = run_patched(patch, tmp_path / "run", data, {"eval.every": 0})
    assert done.returncode == 1
    assert "Disallowed host-to-device transfer" in done.stderr
    assert "_train_steps" in done.stderr


def test_the_loop_is_short_and_flat():
    module = ast.walk(ast.parse((ROOT / "kronecker" / "training" / "loop.py").read_text()))
    (function,) = (node for node in module if isinstance(node, ast.FunctionDef) and node.name == "_train_steps")
    (steps,) = (node for node in ast.walk(function) if isinstance(node, ast.For))
    assert steps.end_lineno - steps.lineno <= MOST_LINES
    assert levels(function) <= MOST_LEVELS
    assert sum(isinstance(node, ast.Break | ast.Return | ast.Raise | ast.Continue) for node in ast.walk(steps)) == 1


def levels(node: ast.AST) -> int:
    """Returns how many blocks hold one another inside `node`; an elif stands beside its if."""
    deepest = 0
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                block = isinstance(child, ast.With | ast.For | ast.While | ast.If | ast.Try)
                elif_ = isinstance(node, ast.If) and field == "orelse" and isinstance(child, ast.If)
                deepest = max(deepest, levels(child) + (block and not elif_))
    return deepest


@pytest.mark.slow
def test_a_run_without_a_checkpoint_may_start_anew_with_another_config(data: Path, tmp_path: Path):
    failed = train(tmp_path / "run", data, train__steps=1, train__lr=3e38, train__warmup_steps=0, eval__every=0)
    assert failed.returncode == 1
    refused(train(tmp_path / "run", data, train__steps=2), "holds a run of another config (train.lr was 3e+38")
    (tmp_path / "run" / "diverged.json").unlink()  # the record of why it ended is lost if another run begins here
    done = train(tmp_path / "run", data, train__steps=2)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "config.json").read_text())["model"]["attention"] == "auto"


@pytest.mark.slow
def test_checkpoints_of_another_arm_are_refused(finished: Path, data: Path, tmp_path: Path):
    workdir = tmp_path / "run"
    shutil.copytree(finished / "checkpoints", workdir / "checkpoints")
    config = json.loads((finished / "config.json").read_text())
    config["embedding"] |= {"arm": "kronecker_unit", "norm": "length", "init_std": 0.02}
    (workdir / "config.json").write_text(json.dumps(config))
    refused(train(workdir, data, "configs/demo.py:arm=kronecker_unit"), "was saved with another config")


@pytest.mark.slow
def test_two_devices_train_as_one_does(finished: Path, data: Path, tmp_path: Path):
    done = train(tmp_path / "one", data, mesh__cpu_devices=1)
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "one") == pytest.approx(losses(finished), abs=1e-5)


@pytest.mark.slow
def test_tensorboard_gets_the_same_numbers(data: Path, tmp_path: Path):
    from tensorboardX.proto import event_pb2

    done = train(tmp_path / "run", data, log__tensorboard=True)
    assert done.returncode == 0, done.stderr
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    content, values = events.read_bytes(), {}
    while content:
        length = int.from_bytes(content[:8], "little")
        event = event_pb2.Event.FromString(content[12 : 12 + length])
        values |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        content = content[16 + length :]
    for line in lines(tmp_path / "run"):
        assert values["train/loss", line["step"]] == pytest.approx(line["loss"], rel=1e-6)


def run_patched(patch: str, workdir: Path, data: Path, options: dict[str, Any]) -> subprocess.CompletedProcess:
    own = {"data.folder": data, "data.source": f"text:{data / 'text'}", "checkpoint.every": 100}
    pairs = [f"{key}={value}" for key, value in (tiny_runs.OPTIONS | OPTIONS | own | options).items()]
    return commands.run("-c", PATCHED.replace("PATCH", patch), workdir, *pairs)


def refused(done: subprocess.CompletedProcess, message: str) -> None:
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()[-1:]
    assert line.startswith("error: ")
    assert message in line
    assert "Traceback" not in done.stderr


def _line_count(workdir: Path) -> int:
    path = workdir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0
