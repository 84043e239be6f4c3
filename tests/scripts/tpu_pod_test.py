"""scripts/tpu_pod.sh against a stand-in for gcloud, as there is no cloud here.

The stand-in keeps one slice of two workers.  A worker is a home folder on this machine, in which `ssh` really runs what
it is given: code is copied, installed, started and followed as on a slice, and train.py really trains, one run on both.
"""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_runs
import tiny_sweep

ROOT = Path(__file__).parents[2]
POD = ROOT / "scripts" / "tpu_pod.sh"
GCLOUD = r"""#!/usr/bin/env bash
# Records what it is asked and keeps a slice: `state` and `queued` hold its states, worker0 and worker1 its workers.
set -eu
cd "$CLOUD"
printf '%q ' "$@" >>calls
echo >>calls
command= worker=
for argument; do
	case $argument in
	--command=*) command=${argument#*=} ;;
	--worker=*) worker=${argument#*=} ;;
	esac
done
case $worker in all) workers="0 1" ;; *) workers=$worker ;; esac
case "$3 $4" in
"tpu-vm describe" | "queued-resources describe")
	file=state
	[ "$3" = tpu-vm ] || file=queued
	[ ! -s trouble ] || { head -n 1 trouble >&2; sed -i 1d trouble; exit 1; } # a line for each look that fails
	[ -e $file ] || { echo "ERROR: (gcloud) NOT_FOUND: Resource was not found" >&2; exit 1; }
	cat $file
	[ $file = queued ] && mkdir -p worker0 worker1 && echo READY >state # it is given at the second look
	exit 0
	;;
"tpu-vm create") mkdir worker0 worker1; echo READY >state ;;
"queued-resources create") echo WAITING_FOR_RESOURCES >queued ;;
"tpu-vm delete" | "queued-resources delete") rm -rf state queued worker0 worker1 ;;
"tpu-vm scp") for i in $workers; do cp "$5" "worker$i/${6#*:}"; done ;;
"tpu-vm ssh")
	grep -q READY state || { echo "ERROR: (gcloud) the slice is not READY" >&2; exit 1; }
	for i in $workers; do
		code=0
		# on a slice, JAX asks Google's metadata server for these three
		(cd worker$i && HOME=$PWD JAX_COORDINATOR_ADDRESS=127.0.0.1:$PORT JAX_NUM_PROCESSES=2 JAX_PROCESS_ID=$i \
			bash -c "$command") || code=$?
		[ $code = 0 ] || exit $code
	done
	;;
*) echo "ERROR: unknown command $*" >&2; exit 2 ;;
esac
"""


class Cloud:
    """The stand-in's folder, and what a test does to its slice."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "gcloud").write_text(GCLOUD)
        (folder / "bin" / "gcloud").chmod(0o755)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = str(listener.getsockname()[1])
        self.env = os.environ | {"PATH": f"{folder}/bin:{os.environ['PATH']}", "CLOUD": str(folder), "PORT": port}

    def start(self, *flags: str) -> subprocess.Popen:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen([POD, *flags], cwd=self.folder, env=self.env, text=True, **pipes)

    def run(self, *flags: str) -> subprocess.CompletedProcess:
        return subprocess.run([POD, *flags], cwd=self.folder, env=self.env, text=True, capture_output=True, check=False)

    def calls(self) -> list[str]:
        """What gcloud was asked to do to the slice, in order, without looks at it."""
        file = self.folder / "calls"
        words = [shlex.split(line)[2:4] for line in file.read_text().splitlines()] if file.exists() else []
        return [" ".join(pair) for pair in words if pair[1] != "describe"]

    def preempt(self) -> None:
        """Ends all that runs on the workers; what lies on them goes when the slice is deleted."""
        (self.folder / "state").write_text("PREEMPTED\n")
        if (self.folder / "queued").exists():
            (self.folder / "queued").write_text("SUSPENDED\n")
        self.kill_workers()

    def kill_workers(self) -> None:
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                environment = (entry / "environ").read_bytes()
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
            if f"HOME={self.folder}/worker".encode() in environment:
                tiny_sweep.end(int(entry.name))


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    stand_in = Cloud(tmp_path / "cloud")
    yield stand_in
    stand_in.kill_workers()


def run_flags(tmp_path: Path, *more: str, steps: int = tiny_sweep.STEPS) -> list[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("the script sends a commit, and this is no git checkout")
    config, *options = tiny_sweep.flags(tmp_path, steps)
    flags = ["run", "my-pod", "--zone=here", "--type=v5litepod-8", config, f"--workdir={tmp_path}/run", "--poll=0.1"]
    flags += [f"--install=ln -s {ROOT}/.venv .venv", "--allow_dirty", *more]
    options.append("--config.checkpoint.every=100")  # of two processes, one takes a second
    return [*flags, "--", *options, "--config.embedding.arm=kronecker", "--config.seed=0"]


@pytest.mark.slow
def test_a_preempted_slice_is_made_again_and_the_run_ends_as_if_undisturbed(tmp_path: Path, cloud: Cloud):
    process = cloud.start(*run_flags(tmp_path, "--spot"))
    tiny_sweep.training_process(tmp_path / "run")
    made = ["queued-resources create", "tpu-vm scp", "tpu-vm ssh", "tpu-vm ssh", "tpu-vm ssh"]
    tiny_sweep.wait_until(lambda: cloud.calls() == made, "the log to be followed")
    cloud.preempt()
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert cloud.calls() == [*made, "queued-resources delete", *made]
    assert "my-pod is PREEMPTED; deleting it" in said
    assert f"{tmp_path}/run: 400 steps" in said  # the log of worker 0, to its last line
    assert json.loads((tmp_path / "run" / "env.json").read_text())["processes"] == 2
    tiny_sweep.undisturbed(tmp_path)
    assert tiny_runs.losses(tmp_path / "run") == pytest.approx(tiny_runs.losses(tmp_path / "alone"), abs=1e-5)
    again = cloud.run(*run_flags(tmp_path, "--spot"))
    assert again.returncode == 0
    assert "is ready; installing" in again.stderr
    assert cloud.calls().count("queued-resources create") == 2


@pytest.mark.slow
def test_a_run_that_is_stopped_goes_on_with_the_same_command(tmp_path: Path, cloud: Cloud):
    flags = run_flags(tmp_path, steps=700)  # of several processes, JAX looks for signals once a second
    process = cloud.start(*flags)
    first = tiny_sweep.training_process(tmp_path / "run")
    tiny_sweep.wait_until(lambda: cloud.calls().count("tpu-vm ssh") == 3, "the log to be followed")
    assert cloud.run("stop", "my-pod", "--zone=here").returncode == 0
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert not Path(f"/proc/{first}").exists()
    attached = cloud.start(*flags)
    second = tiny_sweep.training_process(tmp_path / "run")
    attached.send_signal(signal.SIGKILL)  # who follows may leave; the training stays
    attached.wait()
    attached.stdout.close()
    assert Path(f"/proc/{second}").exists()
    other = cloud.run(*flags, "--config.train.lr=0.001")
    assert other.returncode == 2
    assert "my-pod is at work on another commit or with other flags (see above); end it with" in other.stderr
    assert Path(f"/proc/{second}").exists()
    again = cloud.run(*flags)
    assert again.returncode == 0, again.stderr
    assert cloud.calls().count("tpu-vm create") == 1
    assert "tpu-vm delete" not in cloud.calls()


def test_nothing_is_started_where_one_worker_is_at_work_on_something_else(tmp_path: Path, cloud: Cloud):
    (cloud.folder / "state").write_text("READY\n")
    (cloud.folder / "worker0").mkdir()
    run = cloud.folder / "worker1" / "kronecker-run"
    run.mkdir(parents=True)
    (run / "command").write_text("/home/me/kronecker-0123456789ab --config=configs/demo.py \n")
    with subprocess.Popen(["bash", "-c", "exec -a tpu_worker.sh sleep 60"]) as other:
        (run / "supervisor").write_text(f"{other.pid}\n")
        done = cloud.run(*run_flags(tmp_path))
        worker = ROOT / "scripts" / "tpu_worker.sh"
        alone = subprocess.run(
            [worker, "start", "--x=1"], env=os.environ | {"HOME": str(run.parent)}, capture_output=True
        )
        other.kill()
    assert alone.returncode == 70
    assert done.returncode == 2
    assert "my-pod is at work on another commit or with other flags (see above)" in done.stderr
    assert "/home/me/kronecker-0123456789ab --config=configs/demo.py" in done.stderr
    assert cloud.calls() == ["tpu-vm scp", "tpu-vm ssh"]
    assert not (cloud.folder / "worker0" / "kronecker-run" / "command").exists()


@pytest.mark.slow
def test_a_training_that_cannot_work_ends_the_script_and_keeps_the_slice(tmp_path: Path, cloud: Cloud):
    done = cloud.run(*run_flags(tmp_path), "--config.model.heads=3")
    assert done.returncode == 2
    assert "model.heads is 3" in done.stdout
    assert "train.py failed on my-pod (see the log above); the slice is kept" in done.stderr
    assert "tpu-vm delete" not in cloud.calls()


def test_an_installation_that_fails_is_tried_three_times(tmp_path: Path, cloud: Cloud):
    done = cloud.run(*run_flags(tmp_path, "--install=false && true"))
    assert done.returncode == 2
    assert "could not install or start, 3 times in a row; the slice my-pod is kept" in done.stderr
    assert cloud.calls() == ["tpu-vm create", *3 * ["tpu-vm scp", "tpu-vm ssh"]]
    assert not list(cloud.folder.glob("worker*/kronecker-*/installed"))


def test_a_training_that_keeps_dying_is_tried_three_times(tmp_path: Path, cloud: Cloud):
    dies = "mkdir -p .venv/bin && echo 'kill -ABRT $$' >.venv/bin/python && chmod +x .venv/bin/python"
    done = cloud.run(*run_flags(tmp_path, f"--install={dies}"))
    assert done.returncode == 2
    assert "ended by a signal, perhaps as it failed on another worker" in done.stderr
    assert "(see the log of each), 3 times in a row; the slice my-pod is kept" in done.stderr
    assert cloud.calls() == ["tpu-vm create", *3 * ["tpu-vm scp", "tpu-vm ssh", "tpu-vm ssh", "tpu-vm ssh"]]


@pytest.mark.parametrize(
    ("trouble", "passes"), [(3 * ["ERROR: name or service not found"], True), (["ERROR: PERMISSION_DENIED"], False)]
)
def test_trouble_with_a_look_at_the_slice_may_pass(tmp_path: Path, cloud: Cloud, trouble: list[str], passes: bool):
    (cloud.folder / "trouble").write_text("".join(f"{line}\n" for line in trouble))
    done = cloud.run(*run_flags(tmp_path, "--install=false && true"))
    assert done.returncode == 2
    assert done.stderr.count(f"gcloud could not describe my-pod: {trouble[0]}") == len(trouble)
    assert ("tpu-vm create" in cloud.calls()) == passes


def test_a_dry_run_prints_every_command_on_a_line_and_executes_none(tmp_path: Path, cloud: Cloud):
    flags = run_flags(tmp_path, "--spot", "--project=my-project", "--dry_run")
    done = cloud.run(*flags, "--config.data.text_field=two words")
    assert done.returncode == 0, done.stderr
    assert cloud.calls() == []
    assert not (cloud.folder / "calls").exists()
    assert not (tmp_path / "run").exists()
    lines = [shlex.split(line) for line in done.stdout.splitlines() if not line.startswith("#")]
    assert [" ".join(line[:2] if line[0] == "git" else line[3:5]) for line in lines] == [
        "git archive",
        "tpu-vm describe",
        "queued-resources create",
        "tpu-vm scp",
        "tpu-vm ssh",
        "tpu-vm ssh",
        "tpu-vm ssh",
        "queued-resources delete",
    ]
    assert all({"--zone=here", "--project=my-project"} < set(line) for line in lines[1:])
    (start,) = (argument for argument in lines[5] if argument.startswith("--command="))
    assert shlex.split(start.removeprefix("--command="))[-1] == "--config.data.text_field=two words"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["run", "my-pod", "--type=v5litepod-8"], "--zone is missing; for example"),
        (["run", "--zone=here"], "run needs the name of the slice"),
        (["train", "my-pod"], "train: the commands are run, log, status, stop and delete"),
        (["run", "My_Pod", "--zone=here"], "My_Pod: a slice's name has lower-case letters"),
        (["run", "my-pod", "--zone=here", "--typ=x"], "--typ=x: not known, or without a value"),
        (["run", "my-pod", "--zone=here", "--config=c.py"], "--type is missing"),
        (
            ["run", "my-pod", "--zone=here", "--type=v4-8", "--config=c.py", "--workdir=runs/a"],
            "--workdir=runs/a: a worker's",
        ),
    ],
)
def test_bad_flags_end_in_one_line(cloud: Cloud, flags: list[str], message: str):
    done = cloud.run(*flags)
    assert done.returncode == 2
    assert re.fullmatch(rf"error: {re.escape(message)}.*\n", done.stderr)
    assert not (cloud.folder / "calls").exists()


def test_changes_that_are_not_committed_are_refused_or_sent(tmp_path: Path, cloud: Cloud):
    copy = tmp_path / "copy"
    subprocess.run(["git", "clone", "--quiet", ROOT, copy], check=True)
    shutil.copy(POD, copy / "scripts" / "tpu_pod.sh")
    (copy / "README.md").write_text("changed\n")
    flags = [f for f in run_flags(tmp_path) if f != "--allow_dirty"]
    command = [copy / "scripts" / "tpu_pod.sh", *flags]
    refused = subprocess.run(command, env=cloud.env, text=True, capture_output=True, check=False)
    assert refused.returncode == 2
    assert "tracked files have changes that are not committed; commit them, or add --allow_dirty" in refused.stderr
    assert cloud.calls() == []
    split = command.index("--")
    command = [*command[:split], "--allow_dirty", "--install=false", *command[split:]]
    subprocess.run(command, env=cloud.env, text=True, capture_output=True, check=False)
    (sent,) = (cloud.folder / "worker0").glob("kronecker-*/README.md")
    assert sent.read_text() == "changed\n"
    assert (copy / "README.md").read_text() == "changed\n"
