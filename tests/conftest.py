"""Makes the root importable (configs/ and kronecker/), as it is for train.py, and holds what several tests use."""

import collections
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_runs

REQUIRED = "KRONECKER_REQUIRE_EXTRAS"
FAULTS = "faults"  # what a test of tests/faults tells of its cases

sys.path.insert(0, str(Path(__file__).parents[1]))
_tallied: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)


def pytest_configure(config: pytest.Config) -> None:
    """Lets all processes of the tests, also those that they start, share what they compile: half the time."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it, and so would children
    flags = os.environ.get("XLA_FLAGS", "").split()
    os.environ["XLA_FLAGS"] = " ".join(dict.fromkeys([*flags, *tiny_runs.QUICK_TO_COMPILE]))
    if hasattr(config, "workerinput") or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = tempfile.TemporaryDirectory(prefix="kronecker-tests-compiled-")
    config.add_cleanup(folder.cleanup)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder.name
    os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(4 << 30)  # with a limit the folder is locked: no half-read entry
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup(FAULTS, "tests/faults")
    group.addoption("--faults", type=float, default=1, metavar="N", help="try N times as many cases of each kind as CI")
    group.addoption("--faults_seed", type=int, default=0, metavar="S", help="draw the cases with another seed")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "teardown":
        for (kind, outcome), count in dict(report.user_properties).get(FAULTS, []):
            _tallied[kind][outcome] += count


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints the cases of tests/faults by kind and outcome."""
    if not _tallied:
        return
    terminalreporter.section(f"faults, seed {config.getoption('faults_seed')}")
    outcomes = list(dict.fromkeys(outcome for of_kind in _tallied.values() for outcome in of_kind))
    outcomes.sort(key=lambda outcome: -sum(of_kind[outcome] for of_kind in _tallied.values()))
    rows = [["kind", "cases", *outcomes]]
    rows += [[kind, of.total(), *(of[outcome] for outcome in outcomes)] for kind, of in sorted(_tallied.items())]
    rows += [["all", *(sum(row[i] for row in rows[1:]) for i in range(1, len(rows[0])))]]
    for row in rows:
        terminalreporter.write_line(f"{row[0]:32}" + "".join(f"{cell:>22}" for cell in row[1:]))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with the files that have the most slow tests, so that no core is without work at the end."""
    slow = collections.Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips a test that is marked `extras` where one is missing, or fails it where the environment asks for all."""
    for missing in (word for mark in item.iter_markers("extras") for word in mark.args):
        if missing and os.environ.get(REQUIRED) == "1":
            pytest.fail(f"{missing} ({REQUIRED}=1 asks for it)", pytrace=False)
        elif missing:
            pytest.skip(missing)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data.folder of tiny runs, their texts in its folder `text`."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "text").mkdir()
    tiny_runs.write_texts(folder / "text")
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MB; `mount -o remount,size=...` makes room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs privileges that are not there")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture
def draws(request: pytest.FixtureRequest):
    """The cases of tests/faults, as the flags ask."""
    import disturbed

    return disturbed.Draws(request.config.getoption("faults_seed"), request.config.getoption("faults"))


@pytest.fixture
def tally(request: pytest.FixtureRequest):
    """The counts of one test's cases, which the summary adds up."""
    import disturbed

    counted = disturbed.Tally()
    yield counted
    request.node.user_properties.append((FAULTS, list(counted.counts.items())))
