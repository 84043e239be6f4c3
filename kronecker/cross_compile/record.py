"""All programs of one chip or slice, and the record of them that JSON holds."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jaxlib
import ml_collections

from kronecker import config as configs
from kronecker import tokenizers
from kronecker.cross_compile import input_programs, targets, training_step


def encoder_on(
    chip: targets.Chip,
    setting: input_programs.Setting,
    names: Sequence[str],
    limit_mb: float,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Returns every program of the input side on one chip, and the verdicts on `auto`'s choice.

    Args:
      chip: to compile for.
      setting: what to compile.
      names: implementations, `auto`'s choice among them; one that is refused is named with its reason.
      limit_mb: see `input_programs.compile_product`.
      progress: told what is being compiled; one of them takes seconds to minutes.

    Raises:
      ValueError: if the table or auto's choice does not compile: there is nothing to judge then.
    """
    progress(f"compiling {input_programs.TABLE} for {chip.name}")
    compiled = {input_programs.TABLE: input_programs.compile_table(chip, setting)}
    refused = {}
    for name in names:
        progress(f"compiling {name} for {chip.name}")
        try:
            compiled[name] = input_programs.compile_product(chip, setting, name, limit_mb)
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
        "verdicts": input_programs.verdicts(setting, compiled[setting.auto], compiled[input_programs.TABLE]),
    }


def to_json(setting: input_programs.Setting, tokenizer: str, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns what was compiled, with which versions, and `results`, one of each chip."""
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
        "versions": versions(),
        "chips": list(results),
    }


def slice_of(chip: targets.Chip, topology: str, config: ml_collections.ConfigDict, changes: Mapping[str, Any]) -> dict:
    """Returns the facts of a slice and of the config that is compiled for it.

    Args:
      chip: with the slice's devices.
      topology: its name.
      config: not resolved; `changes` are in it already.
      changes: the keys that a config for one device had to change.

    Raises:
      ValueError: if the config's mesh does not make up the devices.
    """
    sizes = configs.mesh_sizes(config.mesh, len(chip.devices))
    return {
        "topology": topology,
        "chips": len(chip.devices),
        "kind": chip.kind,
        "peak_flops": chip.peak,
        "memory": chip.memory,
        "bandwidth": chip.bandwidth,
        "links": chip.links,
        "mesh": dict(zip(configs.MESH_AXES, sizes, strict=True)),
        "batch": config.train.batch,
        "sequence": config.train.sequence,
        "changes": dict(changes),
        "config": configs.flat(config),
    }


def train_on(
    chip: targets.Chip,
    arms: Mapping[str, ml_collections.ConfigDict],
    tokenizer: tokenizers.Tokenizer,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Returns every arm's training step on one slice, and the verdicts on them.

    Args:
      chip: with the slice's devices.
      arms: of each, by its label, the config; not resolved.
      tokenizer: of all of them.
      progress: told what is being compiled; one of them takes minutes.

    Raises:
      ValueError: as `training_step.compile_step` does.
    """
    compiled = {}
    for name, config in arms.items():
        progress(f"compiling {name} for {len(chip.devices)} chips of {chip.name}")
        compiled[name] = training_step.compile_step(chip, config, tokenizer)
    rows = [{"arm": name} | one.to_json(chip) for name, one in compiled.items()]
    return {"rows": rows, "verdicts": training_step.verdicts(compiled)}


def versions() -> dict[str, str | None]:
    """Returns the versions of JAX, of what compiles for it, and of libtpu; None: there is none."""
    library = targets.library()
    return {
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "libtpu": targets.library_version(library) if library else None,
    }
