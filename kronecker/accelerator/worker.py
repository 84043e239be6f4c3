"""The process that uses the devices: computes missing results and writes each at once.

  python -m kronecker.accelerator.worker JOB

JOB is a `Job` in JSON.  The process exits after an error of JAX's runtime, because its devices may be unusable then;
`visit` starts a new one for the rest.
"""

import contextlib
import dataclasses
import json
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from etils import epath

from kronecker.accelerator import extents, parts
from kronecker.accelerator.ledger import Ledger, facts_here
from kronecker.run import rundir
from kronecker.runtime.printing import say

GRACE = 45.0  # seconds that a result may run beyond the end of its part
AGAIN = 3  # exit code: start a new process for the rest
PREPARING = "preparing"  # name of the record of a part that could not start


@dataclasses.dataclass(frozen=True)
class Job:
    """The work of a process."""

    rehearsal: bool  # toy sizes, on a CPU
    text: dict[str, str]  # the fields of an `extents.Text`
    parts: list[str]  # names of the chosen ones; the study, which is for `visit`, gets its share of the time
    end: float  # of the visit, seconds since 1970
    out: str  # folder of the results
    facts: str  # file to write `ledger.facts_here` to
    at_work: str  # file that names the result being computed; missing if there is none
    avoid: list[list[str]]  # results, as (part, name), that failed in an earlier process of this visit
    command: list[str]  # of the visit
    commit: str  # as in `ledger.facts_here`

    @property
    def extent(self) -> extents.Extent:
        return extents.REHEARSAL if self.rehearsal else extents.FULL


def main(job: Job) -> int:
    import jax

    from kronecker.accelerator import correctness, encoder_timing, mfu, step_timing

    modules = {"check": correctness, "encoder": encoder_timing, "step": step_timing, "mfu": mfu}
    facts = facts_here(job.rehearsal, job.command, job.commit)
    rundir.write_json(epath.Path(job.facts), facts)
    if jax.default_backend() == "cpu" and not job.rehearsal:
        return 0
    ledger = Ledger(Path(job.out), facts)
    for i, name in enumerate(job.parts):
        end = parts.end_of_first(parts.choose(job.parts[i:]), time.time(), job.end)
        missing = [one for one in extents.names(job.extent).get(name, ()) if not ledger.holds(name, one)]
        missing = [one for one in missing if [name, one] not in job.avoid]
        if missing and time.time() < job.end and not _take(job, ledger, name, modules[name], missing, end):
            return AGAIN
    return 0


def _take(job: Job, ledger: Ledger, part: str, module: Any, missing: list[str], end: float) -> bool:
    """Computes results of a part until its time is over; returns whether the devices are still usable."""
    say(f"{part}: computing {len(missing)} results, {max(0, end - time.time()):.0f} s left")
    longest, began = 0.0, time.monotonic()
    ledger.forget(part, PREPARING)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=Path(job.at_work).parent)))
        task = extents.Task(job.extent, extents.Text(**job.text), missing, folder, lambda: end - time.time(), stack)
        try:
            take = module.session(task)
        except Exception as fault:  # noqa: BLE001  the next part may still work
            traceback.print_exc()
            ledger.write(part, PREPARING, time.monotonic() - began, None, f"{type(fault).__name__}: {fault}")
            return True
        for name in missing:
            left = end - time.time()
            if left < longest or left <= 0:
                break
            seconds, usable = _one(job, ledger, part, name, take, end)
            longest = max(longest, seconds)
            if not usable:
                return False
    return True


def _one(job: Job, ledger: Ledger, part: str, name: str, take: extents.Take, end: float) -> tuple[float, bool]:
    """Computes and writes one result; returns its seconds, and whether the devices are still usable."""
    import jax

    at_work, began = epath.Path(job.at_work), time.monotonic()
    rundir.write_json(at_work, {"part": part, "name": name, "until": end + GRACE, "began": time.time()})
    result, error, usable = None, None, True
    try:
        result = take(name)
        error = result.pop("fault", None)
    except TimeoutError as fault:
        at_work.unlink()
        say(f"{part}: {name}: {fault}; run the same command again")
        return time.monotonic() - began, True
    except Exception as fault:  # noqa: BLE001  any error costs this result only
        traceback.print_exc()
        error, usable = f"{type(fault).__name__}: {fault}", not isinstance(fault, jax.errors.JaxRuntimeError)
    seconds = time.monotonic() - began
    ledger.write(part, name, seconds, result, error)
    at_work.unlink()
    say(f"{part}: {name}, {seconds:.1f} s{f', FAILED: {error}' if error else ''}")
    return seconds, usable


if __name__ == "__main__":
    sys.exit(main(Job(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))))
