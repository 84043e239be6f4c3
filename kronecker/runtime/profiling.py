"""What the device did in a few training steps: a recording for XProf or TensorBoard, and its costliest kernels."""

import collections
import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
from etils import epath

from kronecker.runtime import storage

FOLDER = "profile"  # of a run's
WARM_UP = 5  # updates of a process that come before those that are recorded: memory is found, clocks are up
STEP = "train"  # the name that a step has in the recording
STREAMS, OPS = "Stream", "XLA Ops"  # how lines of a device begin: a GPU's hold its kernels, a TPU's its operations
OPERATION = "hlo_op"  # what an event of a CPU's threads has if it is a program's operation


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel, or an operation where a program has no kernels."""

    name: str  # as the device's profiler gives it
    operation: str  # of the program, in one of its calls; "": not known
    calls: int  # how often it ran
    seconds: float  # in all, without what ran inside it
    share: float  # of the seconds of all kernels


def check(folder: epath.Path, steps: int) -> None:
    """Raises a ValueError if `steps` are to be recorded into a folder that is no disk's."""
    if steps and storage.is_remote(folder):
        raise ValueError(
            f"log.profile_steps is {steps}, which needs a --workdir on a disk, got {folder}; choose one, or set it to 0"
        )


@contextlib.contextmanager
def recording(folder: epath.PathLike) -> Iterator[None]:
    """Records what this process's devices do inside the `with` block; the block waits for its own work."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # a line for each call of Python slows the steps and fills the file
    jax.profiler.start_trace(str(folder), profiler_options=options)
    try:
        yield
    finally:
        jax.profiler.stop_trace()


def step(number: int) -> contextlib.AbstractContextManager:
    """Returns a context that names what is dispatched in it as one step of training."""
    return jax.profiler.StepTraceAnnotation(STEP, step_num=number)


def recorded(
    update: Callable[..., Any],
    folder: epath.PathLike,
    steps: int,
    start: int,
    last: int,
    pause: Callable[[], contextlib.AbstractContextManager],
) -> Callable[..., Any]:
    """Returns `update`, which records `steps` of its calls after WARM_UP ones, or as late as there are so many.

    It is called once a step; with 0 `steps` it records none.  `start` and `last` are finished updates before its first
    call and after the last one; `pause` stops the clock of training while the recording begins and while it is written.
    """
    first = max(start, min(start + WARM_UP, last - steps))
    own = range(first, min(first + steps, last))
    if not own or jax.process_index():
        return update
    open_recording = contextlib.ExitStack()
    number = start

    def call(*arguments: Any) -> Any:
        nonlocal number
        if number == own[0]:
            with pause():
                open_recording.enter_context(recording(folder))
        with step(number) if number in own else contextlib.nullcontext():
            result = update(*arguments)
        if number == own[-1]:
            jax.block_until_ready(result)
            with pause():
                open_recording.close()
        number += 1
        return result

    return call


def costliest(folder: epath.PathLike, count: int = 10) -> list[Kernel]:
    """Returns the kernels of the newest recording below a folder that took most time, the costliest first.

    Raises FileNotFoundError if there is no recording.
    """
    files = sorted(epath.Path(folder).glob("plugins/profile/*/*.xplane.pb"))
    if not files:
        raise FileNotFoundError(f"{folder}: no recording of a profile (plugins/profile/*/*.xplane.pb) here")
    nanoseconds, calls, operations = collections.Counter(), collections.Counter(), {}
    for name, operation, own in _kernels(jax.profiler.ProfileData.from_file(str(files[-1]))):
        nanoseconds[name] += own
        calls[name] += 1
        operations.setdefault(name, operation)
    total = nanoseconds.total()
    return [
        Kernel(name, operations[name], calls[name], own / 1e9, own / total)
        for name, own in nanoseconds.most_common(count)
        if own
    ]


def _kernels(data: jax.profiler.ProfileData) -> Iterator[tuple[str, str, float]]:
    """Yields name, operation and own nanoseconds of each kernel: of the devices, or of a CPU's threads without any."""
    devices = [plane for plane in data.planes if plane.name.startswith("/device:")]
    lines = [line for plane in devices for line in plane.lines if line.name.startswith((STREAMS, OPS))]
    threads = lines or [line for plane in data.planes for line in plane.lines]
    for line in threads:
        events = [(event.start_ns, event.duration_ns, event.name, dict(event.stats)) for event in line.events]
        kernels = [event for event in events if lines or OPERATION in event[3]]
        yield from _own_times(sorted(kernels, key=lambda event: (event[0], -event[1])))


def _own_times(events: list[tuple[float, float, str, dict[str, Any]]]) -> Iterator[tuple[str, str, float]]:
    """Yields each event of one line less the events inside it: a loop's body is not the loop's own time."""
    inside: list[list[Any]] = []  # end, name, operation, own nanoseconds of the events that are open, outermost first
    for start, duration, name, stats in events:
        while inside and inside[-1][0] <= start:
            yield tuple(inside.pop()[1:])
        if inside:
            inside[-1][3] -= duration
        inside.append([start + duration, name, str(stats.get(OPERATION, "")), duration])
    for event in reversed(inside):
        yield tuple(event[1:])
