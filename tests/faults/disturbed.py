"""What the tests of faults share: drawn cases that a seed repeats, and their counts."""

import collections
import dataclasses
import faulthandler
import json
import random
import resource
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
from commands import SERVERS

SMALL = {"tokenizer": "bpe:300", "embedding.pos_dim": 4, "mesh.cpu_devices": 1}  # keys of every run here
# How a case may end, and how it may not.
REFUSED, RECOVERED, HARMLESS = "refused in one line", "recovered exactly", "harmless"
WRONG, FAULT = "wrong numbers", "other faults"
OUTCOMES = (REFUSED, RECOVERED, HARMLESS, WRONG, FAULT)
BAD_INPUT = (ValueError, OSError, FloatingPointError)  # what runtime/cli.py makes one line of
LONGEST = 10  # seconds of a case
CLOCK = ("seconds", "tokens_per_second", "mfu", "peak_memory_bytes", "started", "command", "commit")


class Tally:
    """Counts of cases by kind and outcome, and what went wrong."""

    def __init__(self) -> None:
        self.counts: collections.Counter[tuple[str, str]] = collections.Counter()
        self.endless = 0  # cases that took too long
        self.faults: list[tuple[str, str]] = []  # what went wrong, and how to repeat it

    def add(self, kind: str, outcome: str, case: str = "", what: str = "") -> None:
        """Counts a case; of an outcome that may not be, `case` is how to repeat it and `what` went wrong."""
        self.counts[kind, outcome] += 1
        if outcome in (WRONG, FAULT):
            self.faults.append((f"{kind}: {outcome} {what}", case))

    def update(self, other: "Tally") -> None:
        self.counts.update(other.counts)
        self.faults += other.faults

    def check(self) -> None:
        """Fails if a case ended as none may, with the first case of each fault."""
        first = dict(reversed(self.faults))
        many = collections.Counter(what for what, _ in self.faults)
        shown = "\n".join(f"{many[what]} x {what}\n      {first[what]}" for what in first)
        assert not self.faults, f"{len(self.faults)} of {self.counts.total()} cases:\n{shown}"


@dataclasses.dataclass(frozen=True)
class Draws:
    """Cases drawn with a seed: `factor` times as many as in CI."""

    seed: int
    factor: float

    def count(self, cases: int) -> int:
        return max(1, round(cases * self.factor))

    def each(self, kind: str, cases: int) -> Iterator[tuple[str, random.Random]]:
        """Yields the name of each case and its numbers, which do not depend on how many cases there are."""
        for number in range(self.count(cases)):
            name = f"{kind}, seed {self.seed}, case {number}"
            yield name, random.Random(name)

    def search(self, strategy: hypothesis.strategies.SearchStrategy, check: Callable[[Any], None], cases: int) -> None:
        """Calls `check` with cases of a strategy; a failure shows the smallest case that hypothesis finds."""
        settings = hypothesis.settings(
            max_examples=self.count(cases),
            database=None,
            deadline=None,
            suppress_health_check=list(hypothesis.HealthCheck),
            phases=(hypothesis.Phase.generate,),
            verbosity=hypothesis.Verbosity.quiet,
        )
        hypothesis.seed(self.seed)(settings(hypothesis.given(strategy)(check)))()


def isolated(function: Callable[..., Tally], *arguments: Any, memory: int = 3 << 30, seconds: float = 300) -> Tally:
    """Returns what a function returns in a process of its own, which may take so much memory and time."""
    ours, theirs = SERVERS.Pipe(duplex=False)
    process = SERVERS.Process(target=_in_isolation, args=(theirs, function, arguments, memory))
    process.start()
    theirs.close()
    if not ours.poll(seconds):
        process.kill()
        raise AssertionError(f"{function.__name__}: no answer within {seconds:g} s")
    try:
        return ours.recv()
    except EOFError:
        process.join()
        raise AssertionError(
            f"{function.__name__}: its process ended with {process.exitcode}: {arguments[0]}"
        ) from None
    finally:
        process.join()


def tried(tally: Tally, kind: str, case: str, read: Callable[[], str]) -> None:
    """Counts a case by what `read` returns, or by how it ends; after three that take too long no more are tried."""
    if tally.endless >= 3:
        return

    def too_long(*_: object) -> None:
        raise TimeoutError(f"more than {LONGEST} s")

    before = signal.signal(signal.SIGPROF, too_long)
    signal.setitimer(signal.ITIMER_PROF, LONGEST)  # of processors, as the machine may be busy
    try:
        tally.add(kind, read(), case)
    except TimeoutError as error:
        tally.endless += 1
        tally.add(kind, FAULT, case, str(error))
    except BAD_INPUT as error:
        text = " ".join(str(error).split())
        tally.add(kind, REFUSED if text else FAULT, case, "an error without words")
    except BaseException as error:  # whatever else comes is what the tests look for
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        tally.add(kind, FAULT, case, f"{type(error).__name__}: {' '.join(str(error).split())[:120]}")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def numbers(folder: Path) -> dict[str, Any]:
    """Returns what the files below a folder hold, without clocks, logs, locks and the checkpoints' own bytes."""
    found: dict[str, Any] = {}
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)  # locks
        unfinished = file.suffix == ".tmp"  # of a killed process; nothing reads it
        if not file.is_file() or hidden or unfinished or "checkpoints/" in name or "logs/" in name:
            continue
        try:
            found[name] = _content(file)
        except ValueError as error:  # damaged
            found[name] = repr(error)
    return found


def differences(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """Returns the names of the files that differ."""
    return sorted(name for name in now.keys() | before.keys() if now.get(name) != before.get(name))


def copied(source: Path, target: Path) -> Path:
    """Returns `target`, made anew as a copy of `source` with its times."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, symlinks=True)
    return target


def flipped(content: bytes, rng: random.Random) -> bytes:
    """Returns the bytes with one bit changed."""
    changed = bytearray(content)
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _content(file: Path) -> Any:
    if file.suffix == ".npz":
        with np.load(file) as arrays:
            return {key: arrays[key].tobytes() for key in arrays.files}
    if file.name == "metrics.jsonl":
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        return [_without_clock(line) for line in lines if line["kind"] != "held"]
    if file.name in ("result.json", "env.json"):
        return _without_clock(json.loads(file.read_text()))
    return file.read_bytes()


def _without_clock(content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in CLOCK}


def _in_isolation(answer: Any, function: Callable[..., Tally], arguments: tuple[Any, ...], memory: int) -> None:
    faulthandler.enable()
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (has + memory, has + memory))
    answer.send(function(*arguments))
    answer.close()
