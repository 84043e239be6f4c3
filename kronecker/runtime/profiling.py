"""A profile of a few training steps, for XProf or TensorBoard, and its costliest kernels."""

import collections
import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
from etils import epath

from kronecker.runtime import storage

FOLDER = "profile"  # in the run's folder
WARM_UP = 5  # a process's updates before the recorded ones: memory gets allocated, clocks rise
STEP = "train"  # a step's name in the recording
STREAMS, OPS = "Stream", "XLA Ops"  # prefixes of a device's lines: a GPU's kernels, a TPU's operations
OPERATION = "hlo_op"  # an event's value with the program's operation; a CPU's other events lack it


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel, or an operation where a program has no kernels."""

    name: str  # as the device's profiler gives it
    operation: str  # of the program, in one of the calls; "": unknown
    calls: int
    seconds: float  # of all calls, without kernels that ran inside it
    share: float  # of the seconds of all kernels


def check(folder: epath.Path, steps: int) -> None:
    """Raises a ValueError if `steps` is not 0 and the folder is remote."""
    if steps and storage.is_remote(folder):
        raise ValueError(
            f"log.profile_steps={steps} needs a local --workdir, got {folder}; give one, or set log.profile_steps=0"
        )


@contextlib.contextmanager
def recording(folder: epath.PathLike) -> Iterator[None]:
    """Records this process's devices during the `with` block; wait for its results inside the block."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # tracing Python's calls slows the steps and fills the file
    jax.profiler.start_trace(str(folder), profiler_options=options)
    try:
        yield
    finally:
        jax.profiler.stop_trace()


def step(number: int) -> contextlib.AbstractContextManager:
    """Returns a context that marks what is dispatched in it as a training step."""
    return jax.profiler.StepTraceAnnotation(STEP, step_num=number)


def recorded(
    update: Callable[..., Any],
    folder: epath.PathLike,
    steps: int,
    start: int,
    last: int,
    pause: Callable[[], contextlib.AbstractContextManager],
) -> Callable[..., Any]:
    """Returns `update`, called once a step, with `steps` calls recorded: those after WARM_UP calls, or the last ones.

    `start` updates are finished before the first call, and `last` after the last call; `pause` stops the training clock
    while the recording starts and while it is written.
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
    """Returns the costliest kernels, by cost, of the newest recording below a folder."""
    files = sorted(epath.Path(folder).glob("plugins/profile/*/*.xplane.pb"))
    if not files:
        raise FileNotFoundError(f"{folder}: no profile found (plugins/profile/*/*.xplane.pb); set log.profile_steps")
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
    """Yields name, operation and own nanoseconds of each kernel of the devices; without devices, of a CPU's threads."""
    devices = [plane for plane in data.planes if plane.name.startswith("/device:")]
    lines = [line for plane in devices for line in plane.lines if line.name.startswith((STREAMS, OPS))]
    threads = lines or [line for plane in data.planes for line in plane.lines]
    for line in threads:
        events = [(event.start_ns, event.duration_ns, event.name, dict(event.stats)) for event in line.events]
        kernels = [event for event in events if lines or OPERATION in event[3]]
        yield from _own_times(sorted(kernels, key=lambda event: (event[0], -event[1])))


def _own_times(events: list[tuple[float, float, str, dict[str, Any]]]) -> Iterator[tuple[str, str, float]]:
    """Yields each event of one line without the time of the events inside it."""
    inside: list[list[Any]] = []  # end, name, operation, own nanoseconds of open events, outermost first
    for start, duration, name, stats in events:
        while inside and inside[-1][0] <= start:
            yield tuple(inside.pop()[1:])
        if inside:
            inside[-1][3] -= duration
        inside.append([start + duration, name, str(stats.get(OPERATION, "")), duration])
    for event in reversed(inside):
        yield tuple(event[1:])
