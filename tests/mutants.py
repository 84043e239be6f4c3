"""Changes the core's code in small ways, one at a time, and counts the changes that its tests catch: `make mutants`.

cosmic-ray makes the changes, in a copy of the tree; forked_tests.py runs the tests.  tests/mutants.toml has the modules
with their tests, and the mutants that need no test.  Each result is kept at once, so the same command resumes; a module
whose text or tests have changed begins anew.  The score is written to results/mutants.json.

  .venv/mutants/bin/python tests/mutants.py [--minutes=M] [--again] [PART_OF_A_MODULE'S_PATH ...]

--again tries those that survived once more, after tests were added.
"""

import argparse
import ast
import datetime
import hashlib
import json
import math
import os
import random
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

from cosmic_ray import mutating
from cosmic_ray.commands.init import init
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import TestOutcome, WorkerOutcome, WorkItem, WorkResult

ROOT = Path(__file__).parents[1]
SCORE = ROOT / "results" / "mutants.json"
KEPT = ROOT / "build" / "mutants"  # results so far, the copy of the tree, and what its tests compile
TESTING = Path(sys.prefix).parent / "bin" / "python"  # of .venv, which holds the environment that runs this
SLOWER = 2  # a change that makes its tests so many times as long, and five seconds, is caught: it may never end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="parts of the paths of modules; none: all")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so many minutes")
    parser.add_argument("--again", action="store_true", help="try those that survived once more")
    given = parser.parse_args()
    end = time.monotonic() + 60 * given.minutes
    settings = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text())
    tree = _copied_tree()
    tests = _Tests(tree)
    for module, of in settings["modules"].items():
        if not given.modules or any(part in module for part in given.modules):
            score = _tried(tree, tests, module, of, settings["seed"], end, given.again)
            scores = json.loads(SCORE.read_text()) if SCORE.exists() else {}
            SCORE.write_text(json.dumps(scores | {module: score}, indent=2, sort_keys=True) + "\n")
            print(f"{module}: {score['caught']} of {score['tried']} caught", flush=True)


class _Tests:
    """Runs tests in the tree, with all that they compile kept from run to run."""

    def __init__(self, tree: Path):
        compiled = {
            "JAX_COMPILATION_CACHE_DIR": str(KEPT / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        self._process = subprocess.Popen(
            [TESTING, "tests/forked_tests.py"],
            cwd=tree,
            env=os.environ | compiled,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, arguments: str, seconds: int) -> tuple[int, float]:
        """Returns the exit code of pytest, which may take so many seconds of a core, and the seconds that it took."""
        temporary = f"--basetemp={KEPT / 'temporary'}"
        fixed = ["-x", "-q", "--tb=no", "-n0", "-p", "no:cacheprovider", temporary]
        self._process.stdin.write(json.dumps([[*fixed, *shlex.split(arguments)], seconds]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def outcome(self, arguments: str, seconds: int) -> tuple[TestOutcome, str]:
        """Runs tests in place of cosmic-ray, which would start a process for each mutant."""
        code, _ = self.run(arguments, seconds)
        return TestOutcome.KILLED if code else TestOutcome.SURVIVED, f"exit code {code}"


def _copied_tree() -> Path:
    """Returns a copy of the files that git has or would add: the mutants never stand in the tree itself."""
    tree = KEPT / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).exists():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    return tree


def _tried(
    tree: Path, tests: _Tests, module: str, of: dict[str, Any], seed: int, end: float, again: bool
) -> dict[str, Any]:
    os.chdir(tree)  # mutants are written here
    text = Path(module).read_bytes()
    session = KEPT / f"{Path(module).stem}-{hashlib.sha256(text + of['tests'].encode()).hexdigest()[:12]}.sqlite"
    code, seconds = tests.run(of["tests"], 3600)
    if code:
        raise SystemExit(f"the tests of {module} fail without a change: pytest {of['tests']}")
    longest = 5 + SLOWER * math.ceil(seconds)
    mutating.run_tests = tests.outcome
    with use_db(session, WorkDB.Mode.create) as work:
        if not work.num_work_items:
            init([Path(module)], work, {})
        items = [item for item in work.work_items if not _in_annotation(item, text)]
        items.sort(key=lambda item: _drawn(item, seed))
        chosen = items[: of["sample"] or None]
        results = dict(work.results)
        for item in chosen:
            known = results.get(item.job_id)
            if known and not (again and known.test_outcome == TestOutcome.SURVIVED and not _reason(of, known)):
                continue
            if time.monotonic() > end:
                break
            result = results[item.job_id] = mutating.mutate_and_test(item.mutations, of["tests"], longest)
            if result.worker_outcome != WorkerOutcome.NORMAL:
                raise SystemExit(f"{module}: {item.mutations} could not be tried: {result.output}")
            work.set_result(item.job_id, result)
    done = [results[item.job_id] for item in chosen if item.job_id in results]
    survived = [result for result in done if result.test_outcome == TestOutcome.SURVIVED]
    equivalent = {_changed(result): reason for result in survived if (reason := _reason(of, result))}
    caught = len(done) - len(survived)
    left = sorted(_changed(result) for result in survived if not _reason(of, result))
    return {
        "mutants": len(items),
        "tried": caught + len(left),
        "caught": caught,
        "survived": left,
        "equivalent": equivalent,
        "sample_seed": seed if len(chosen) < len(items) else None,
        "tests": of["tests"],
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout[:12],
        "date": datetime.date.today().isoformat(),
    }


def _in_annotation(item: WorkItem, text: bytes) -> bool:
    """Returns whether a mutant changes a type alone: most of these fail at import, and would flatter the score."""
    (mutation,) = item.mutations
    annotations = []
    for node in ast.walk(ast.parse(text)):
        annotations += [getattr(node, name, None) for name in ("annotation", "returns")]
    return any(
        (at.lineno, at.col_offset) <= tuple(mutation.start_pos) < (at.end_lineno, at.end_col_offset)
        for at in annotations
        if at is not None
    )


def _reason(of: dict[str, Any], result: WorkResult) -> str | None:
    """Returns why no test needs to catch a mutant, if tests/mutants.toml has a reason."""
    line = _changed(result)
    for entry in of.get("equivalent", []):
        if line == entry["line"] if "line" in entry else line.startswith(entry["begins"]):
            return entry["reason"]
    return None


def _drawn(item: WorkItem, seed: int) -> float:
    (mutation,) = item.mutations
    return random.Random(f"{seed} {mutation.operator_name} {mutation.occurrence}").random()


def _changed(result: WorkResult) -> str:
    """Returns the changed line of a mutant; where several changed, or one went, the diff's."""
    lines = [line for line in result.diff.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    added = [line[1:].strip() for line in lines if line.startswith("+")]
    return " / ".join(added) if added else "without: " + " / ".join(line[1:].strip() for line in lines)


if __name__ == "__main__":
    main()
