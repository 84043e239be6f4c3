"""Every flag of every script with values that it cannot have: one line, exit 2, in a time that no work fits into.

One process imports the scripts, so that a case, which is a fork of it, takes milliseconds.
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPTS = ["train.py", "eval.py", *(f"scripts/{path.name}" for path in sorted((ROOT / "scripts").glob("*.py")))]
NO_NUMBER = ["nan", "-inf", "1e400", "9" * 40, "three", ""]
NO_WHOLE_NUMBER = [*NO_NUMBER, "1.5"]
NO_SWITCH = ["2", ""]
NOT_UTF8 = "\udcff"  # as Python decodes the byte 0xff of an argument
# What each script needs before it looks at its flags; nothing is there, so no work begins.
ARGUMENTS = {
    "train.py": ["--config=configs/demo.py"],
    "scripts/sweep.py": ["--config=configs/demo.py"],
    "scripts/prepare_data.py": ["--config=configs/demo.py"],
    "scripts/describe_corpus.py": ["--source=text:/nowhere"],
    "scripts/balance_corpus.py": ["--source=text:/nowhere", "--part_field=source", "--out=/nowhere/x.jsonl.xz"],
    "scripts/compile_for.py": ["train"],
}
# Prints a list of [command, exit code, seconds, stderr]; argv: {script: arguments}, {type of a flag: wrong values}.
DRIVER = f"""
import json, os, runpy, signal, sys, tempfile, time
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "scripts")!r}]
from absl import flags
from etils import epath  # this and the next are slow to import
from kronecker.cross_compile import compilers
from kronecker.runtime import cli

def fork(work):
    with tempfile.TemporaryFile() as file:
        began, child = time.monotonic(), os.fork()
        if not child:
            signal.alarm(30)
            os.dup2(file.fileno(), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            code = 99
            try:
                work()
            except SystemExit as ended:
                code = ended.code
            finally:
                sys.stderr.flush()
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        file.seek(0)
        return code, time.monotonic() - began, file.read().decode(errors="replace")

def run(command):
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")

def declared(script):
    runpy.run_path(script, run_name=script)
    named = flags.FLAGS.flags_by_module_dict()
    json.dump([(flag.name, flag.flag_type()) for of in named if "absl" not in of for flag in named[of]], sys.stderr)

arguments, wrong = map(json.loads, sys.argv[1:])
results = []
for script, needed in arguments.items():
    for name, kind in json.loads(fork(lambda: declared(script))[2]):
        for value in wrong.get(kind, wrong["string"]):
            command = [script, *needed, f"--{{name}}={{value}}"]
            results.append((command, *fork(lambda: run(command))))
json.dump(results, sys.stdout)
"""


def test_a_value_that_a_flag_cannot_have_is_one_line_and_exit_2():
    wrong = {"bool": NO_SWITCH, "float": NO_NUMBER, "int": NO_WHOLE_NUMBER, "string": [NOT_UTF8]}
    arguments = {script: ARGUMENTS.get(script, []) for script in SCRIPTS}
    command = [sys.executable, "-c", DRIVER, json.dumps(arguments), json.dumps(wrong)]
    results = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    for tried, code, seconds, told in results:
        assert (code, told.count("\n")) == (2, 1), (tried, code, told)
        assert told.startswith("error: ")
        assert seconds < 20
    assert {tried[0] for tried, *_ in results} == set(SCRIPTS)
    assert len(results) > 300
