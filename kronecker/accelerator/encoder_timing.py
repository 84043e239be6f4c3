"""Part `encoder`: the encoder's benchmark, its work repeated within one program: dispatching one counts for little."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kronecker.accelerator.extents import Extent, Text, arm_config, encoder_name
from kronecker.benchmark import encoder
from kronecker.schema import resolution

CACHE_LIMIT_MB = 1024.0


@contextlib.contextmanager
def session(
    extent: Extent, text: Text, wanted: Sequence[str], folder: Path, seconds_left: Callable[[], float]
) -> Iterator[Callable[[str], dict[str, Any]]]:
    """Yields a function that returns the numbers of a setting by its name; arguments are `correctness.session`'s."""
    del wanted, folder, seconds_left
    settings = {encoder_name(*one): one for one in extent.encoder}
    resolved = resolution.resolve(arm_config("kronecker", text, {}))
    read = text.read(text.tokenizer, resolved.data)

    def measure(name: str) -> dict[str, Any]:
        setting, dtype = settings[name]
        given = encoder.problem(setting, read, resolved, dtype, CACHE_LIMIT_MB, extent.turns)
        found = encoder.measure(setting, given, read, extent.rounds, extent.seconds, f"encoder {name}")
        return {"dtype": dtype, "turns": extent.turns, **found}

    yield measure


def faults(result: dict[str, Any]) -> None:
    """Returns None: contenders that do not agree are an error."""
    del result
