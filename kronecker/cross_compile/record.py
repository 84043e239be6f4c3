"""All programs of one target, and the record of them that JSON holds."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jaxlib
import ml_collections

from kronecker import tokenization
from kronecker.cross_compile import compilers, input_programs, targets, training_step
from kronecker.runtime import machine
from kronecker.schema import choices, dotted, resolution


def encoder_on(
    target: targets.Target,
    setting: input_programs.Setting,
    names: Sequence[str],
    limit_mb: float,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Returns every program of the input side on one device, and the verdicts on `auto`'s choice.

    Args:
      names: rows of the table, see `input_programs.rows`, beside `auto`'s choice; one that is refused is named with its
        reason.
      limit_mb: see `input_programs.compile_product`.
      progress: told what is being compiled; one of them takes seconds to minutes.

    Raises:
      ValueError: if the table or auto's choice does not compile: there is nothing to judge then.
    """
    progress(f"compiling {input_programs.TABLE} for {target.name}")
    compiled = {input_programs.TABLE: input_programs.compile_table(target, setting)}
    refused, auto = {}, setting.auto(target.platform)
    for name in dict.fromkeys([auto, *names]):
        progress(f"compiling {name} for {target.name}")
        try:
            compiled[name] = input_programs.compile_product(target, setting, name, limit_mb)
        except ValueError as error:
            if name == auto:
                raise
            refused[name] = str(error)
    return facts(target) | {
        "auto": auto,
        "rows": [
            {
                "name": name,
                "form": form,
                "programs": {which: forms[form].to_json(target) for which, forms in programs.items()},
            }
            for name, programs in compiled.items()
            for form in target.forms
        ],
        "refused": refused,
        "verdicts": input_programs.verdicts(target, setting, compiled[auto], compiled[input_programs.TABLE]),
    }


def facts(target: targets.Target) -> dict[str, Any]:
    return {
        "target": target.name,
        "kind": target.kind,
        "peak_flops": target.peaks,
        "memory": target.memory,
        "bandwidth": target.bandwidth,
        "links": target.links,
    }


def to_json(setting: input_programs.Setting, tokenizer: str, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns what was compiled, when and with which versions, and `results`, one of each target."""
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
        "made": made(),
        "targets": list(results),
    }


def devices_of(
    target: targets.Target, name: str, config: ml_collections.ConfigDict, changes: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the facts of a target and of the config that is compiled for it.

    `name` is the target's on the command line; the config is not resolved, and has in it already the `changes` that one
    for one device needed.  Raises ValueError if the config's mesh does not make up the devices.
    """
    sizes = resolution.mesh_sizes(config.mesh, len(target.devices))
    return facts(target) | {
        "target": name,
        "devices": len(target.devices),
        "mesh": dict(zip(choices.MESH_AXES, sizes, strict=True)),
        "batch": config.train.batch,
        "sequence": config.train.sequence,
        "changes": dict(changes),
        "config": dotted.flat(config),
    }


def train_on(
    target: targets.Target,
    arms: Mapping[str, ml_collections.ConfigDict],
    tokenizer: tokenization.Tokenizer,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Returns every arm's training step on all devices of a target, and the verdicts on them.

    `arms` are configs by label, not resolved; `progress` is told what is being compiled, one of them takes minutes.
    Raises ValueError as `training_step.compile_step` does.
    """
    compiled = {}
    for name, config in arms.items():
        progress(f"compiling {name} for {len(target.devices)} of {target.name}")
        compiled[name] = training_step.compile_step(target, config, tokenizer)
    rows = [
        {"arm": name, "form": form} | one.to_json(target)
        for name, forms in compiled.items()
        for form, one in forms.items()
    ]
    return {"rows": rows, "verdicts": training_step.verdicts(target, compiled)}


def made() -> dict[str, Any]:
    """Returns when, from which commit and by which command this is made, and the versions of what compiles."""
    here = machine.environment()
    own = {
        "command": machine.without_paths_outside(here["command"]),
        "versions": {"jax": jax.__version__, "jaxlib": jaxlib.__version__} | compilers.versions(),
    }
    return {name: here[name] for name in ("started", "commit", "python")} | own
