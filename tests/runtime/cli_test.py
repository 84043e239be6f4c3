"""The command line: help that teaches, errors of one line, exit codes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import commands
import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ["train.py", "eval.py", *(f"scripts/{path.name}" for path in sorted((ROOT / "scripts").glob("*.py")))]


def run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_shows_a_full_example_and_every_flag(script: str):
    done = run(script, "--help")
    assert done.returncode == 0
    assert f"  python {script} " in done.stdout
    source = (ROOT / script).read_text()
    flags = [line.split('"')[1] for line in source.splitlines() if "flags.DEFINE_" in line and '"' in line]
    assert flags or "DEFINE" not in source
    for flag in flags:
        assert f"--{flag}" in done.stdout or f"--[no]{flag}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/demo.py", "--config.model.layerz=3"], "config.model.layerz: there is no such key; did you"),
        (
            ["--config=configs/demo.py", "--config.model=3"],
            "config.model is a group of keys; set one of model.attention",
        ),
        (["--config=configs/demo.py", "--noconfig.model.biasx"], "there is no such key; did you mean model.bias?"),
        (["--config=configs/nope.py"], "configs/nope.py: no such file; configs/ holds"),
        (["--config=configs/demo.py:arm=tables"], "arm is 'tables'; allowed: factorized"),
        (["--config=configs/demo.py", "--workdirs=x"], "Did you mean: workdir"),
        (["--config=configs/demo.py"], "--workdir is missing; for example"),
        (["--workdir=x"], "--config is missing; for example"),
        (["--config=configs/demo.py", "--workdir=x", "configs/gpt2.py"], "unexpected argument 'configs/gpt2.py'"),
        (["--config=configs/demo.py", "--workdir=x", "--config.embedding.kind=tabel"], "allowed: table, factorized"),
    ],
)
def test_a_wrong_command_is_one_line_and_exit_2(arguments: list[str], message: str):
    done = run("train.py", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert not (ROOT / "x").exists()


WRONG_TYPES = {
    "--config.train.steps=1e3": "train.steps is '1e3'; it must be a whole number in digits, at least 0, in updates; "
    "for example --config.train.steps=1000",
    "--config.train.steps=3.5": "train.steps is '3.5'; it must be a whole number in digits, at least 0, in updates; "
    "for example --config.train.steps=0",
    "--config.model.layers=three": "model.layers is 'three'; it must be a whole number in digits, at least 1; "
    "for example --config.model.layers=4",
    "--config.train.lr=abc": "train.lr is 'abc'; it must be a number, above 0; for example --config.train.lr=0.001",
    "--config.train.lr=(1,2)": "train.lr is '(1,2)'; it must be a number, above 0; for example --config.train.lr=0.001",
    "--config.train.lr=": "train.lr is ''; it must be a number, above 0; for example --config.train.lr=0.001",
    "--config.train.lr": "train.lr has no value; it must be a number, above 0; for example --config.train.lr=0.001",
    "--config.log.wandb": "log.wandb has no value; it must be text; for example --config.log.wandb=TEXT",
    "--config.model.scan_layers=yes": "model.scan_layers is 'yes'; it must be true or false; "
    "for example --config.model.scan_layers=false",
    "--config.seed=-1": "seed is -1; it must be from 0 to 4294967295; the default is 0",
    "--config.seed=99999999999": "seed is 99999999999; it must be from 0 to 4294967295; the default is 0",
}


@pytest.mark.parametrize("script", ["train.py", "scripts/prepare_data.py"])
@pytest.mark.parametrize("flag", WRONG_TYPES)
def test_a_value_of_the_wrong_type_is_refused_with_the_key_the_allowed_values_and_an_example(script: str, flag: str):
    done = commands.run(script, "--config=configs/demo.py", flag, *(["--workdir=x"] if script == "train.py" else []))
    assert (done.returncode, done.stderr) == (2, f"error: {WRONG_TYPES[flag]}\n")
    assert not (ROOT / "x").exists()


def test_ctrl_c_whose_words_nobody_reads_ends_with_130():
    reads, writes = os.pipe()
    os.close(reads)  # as of `2>&1 | tee log`, whose tee gets the same Ctrl-C
    code = "from kronecker.runtime import cli\ndef main(): raise KeyboardInterrupt\ncli.run(main)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=writes, stderr=writes).returncode == 130


@pytest.mark.parametrize("script", ["scripts/compare.py", "eval.py"])
@pytest.mark.parametrize("module", ["absl.flags", "yaml", "numpy", "jaxlib.xla_client"])
def test_ctrl_c_during_the_imports_prints_no_traceback(script: str, module: str):
    given = ["runs/none"] if script == "scripts/compare.py" else ["--workdir=runs/none"]
    command = [sys.executable, "-X", "importtime", script, *given]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:  # a line as each import ends
        if line.split("|")[-1].strip().startswith(module):
            break
    process.send_signal(signal.SIGINT)
    rest = process.communicate()[1]
    assert process.returncode in (-signal.SIGINT, 130, 2), rest[-1000:]  # 2: it had looked for the run
    assert "Traceback" not in rest


@pytest.mark.parametrize("given", ["--arms=", "--arms=kronecker,,table_untied"])
def test_a_list_with_an_empty_name_is_refused_and_not_taken_for_all(given: str):
    done = run("scripts/benchmark.py", "step", given)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"error: {given}: a name is empty; ")


def test_true_and_false_keys_need_no_value():
    switches = ["--config.model.remat", "--noconfig.model.bias", "--config.seed", "-1"]
    assert "seed is -1" in run("train.py", "--config=configs/demo.py", "--workdir=x", *switches).stderr


@pytest.mark.parametrize("arguments", [("train.py", "--help"), ("scripts/costs.py", "configs/demo.py")])
def test_output_that_nobody_reads_is_no_error(arguments: tuple[str, ...]):
    reading, writing = os.pipe()
    os.close(reading)  # as `head` does when it has its lines
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.stderr, done.returncode) == (b"", 1)


@pytest.mark.parametrize("buffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_output_that_cannot_be_written_is_named(buffered: str):
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "train.py", "--help"],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=os.environ | {"PYTHONUNBUFFERED": buffered},
        )
    assert (done.returncode, done.stderr) == (2, "error: standard output: No space left on device\n")


def test_closed_streams_change_nothing_and_no_file_gets_their_number(tmp_path: Path):
    code = (
        "import os, sys; from kronecker.runtime import preemption; preemption.NOTICE.listen()\n"
        "print('lost', file=sys.stderr); print('lost', flush=True)\n"
        "open(sys.argv[1], 'w').write(' '.join(os.readlink(f'/proc/self/fd/{n}') for n in range(3)))\n"
    )
    closed = f'exec "{sys.executable}" "$@" <&- >&- 2>&-'
    done = subprocess.run(["sh", "-c", closed, "sh", "-c", code, tmp_path / "numbers"], cwd=ROOT)
    assert done.returncode == 0
    assert (tmp_path / "numbers").read_text() == " ".join(["/dev/null"] * 3)
    code = (  # a program that has opened a file before
        "import sys; file = open(sys.argv[1], 'w'); from kronecker.runtime import interrupts\n"
        "print('lost', flush=True); file.write('kept'); sys.exit(file.fileno())"
    )
    without_output = f'exec "{sys.executable}" "$@" >&-'
    assert subprocess.run(["sh", "-c", without_output, "sh", "-c", code, tmp_path / "own"], cwd=ROOT).returncode == 1
    assert (tmp_path / "own").read_text() == "kept"
    command = ["sh", "-c", closed, "sh", "scripts/compare.py", "results/demo"]
    assert subprocess.run(command, cwd=ROOT).returncode == 0
