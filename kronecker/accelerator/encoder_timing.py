"""Part `encoder`: the encoder's benchmark, repeated within one program, so that launching it hardly counts."""

from typing import Any

from kronecker.accelerator.extents import Take, Task, arm_config, encoder_name
from kronecker.benchmark import encoder, texts
from kronecker.schema import resolution

CACHE_LIMIT_MB = 1024.0


def session(task: Task) -> Take:
    """Returns a function that returns the numbers of a setting by its name, and raises if contenders disagree."""
    extent, text = task.extent, task.text
    settings = {encoder_name(*one): one for one in extent.encoder}
    resolved = resolution.resolve(arm_config("kronecker", text, {}))
    read = texts.read(text.tokenizer, resolved.data)

    def measure(name: str) -> dict[str, Any]:
        setting, dtype = settings[name]
        given = encoder.problem(setting, read, resolved, dtype, CACHE_LIMIT_MB, extent.turns)
        found = encoder.measure(setting, given, read, extent.rounds, extent.seconds, f"encoder {name}")
        return {"dtype": dtype, "turns": extent.turns, **found}

    return measure
