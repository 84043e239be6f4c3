"""All programs of one chip, and the record of them that JSON holds."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jaxlib

from kronecker.tpu import chips, encoder


def encoder_on(
    chip: chips.Chip,
    setting: encoder.Setting,
    names: Sequence[str],
    limit_mb: float,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Returns every program of the input side on one chip, and the verdicts on `auto`'s choice.

    Args:
      chip: to compile for.
      setting: what to compile.
      names: implementations, `auto`'s choice among them; one that is refused is named with its reason.
      limit_mb: see `encoder.compile_product`.
      progress: told what is being compiled; one of them takes seconds to minutes.

    Raises:
      ValueError: if the table or auto's choice does not compile: there is nothing to judge then.
    """
    progress(f"compiling {encoder.TABLE} for {chip.name}")
    compiled = {encoder.TABLE: encoder.compile_table(chip, setting)}
    refused = {}
    for name in names:
        progress(f"compiling {name} for {chip.name}")
        try:
            compiled[name] = encoder.compile_product(chip, setting, name, limit_mb)
        except ValueError as error:
            if name == setting.auto:
                raise
            refused[name] = str(error)
    return {
        "chip": chip.name,
        "kind": chip.kind,
        "peak_flops": chip.peak,
        "bandwidth": chip.bandwidth,
        "auto": setting.auto,
        "rows": [
            {"name": name, "programs": {which: one.to_json(chip) for which, one in programs.items()}}
            for name, programs in compiled.items()
        ],
        "refused": refused,
        "verdicts": encoder.verdicts(setting, compiled[setting.auto], compiled[encoder.TABLE]),
    }


def to_json(setting: encoder.Setting, tokenizer: str, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns what was compiled, with which versions, and `results`, one of each chip."""
    library = chips.library()
    return {
        "setting": {
            "tokens": setting.tokens,
            "d": setting.config.model.d_model,
            "vocab": len(setting.table.lengths),
            "P": setting.table.pos_dim,
            "tokenizer": tokenizer,
            "dtype": setting.config.model.dtype,
            "step_flops": setting.step_flops,
        },
        "versions": {
            "jax": jax.__version__,
            "jaxlib": jaxlib.__version__,
            "libtpu": chips.library_version(library) if library else None,
        },
        "chips": list(results),
    }
