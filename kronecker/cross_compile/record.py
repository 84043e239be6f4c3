"""Compiles all programs of a target and returns their records for JSON."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

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

    `names` are rows of `input_programs.rows` to compile in addition; "refused" has the errors of those that fail.
    `limit_mb` is as in `input_programs.compile_product`; `progress` is called before each program, which takes seconds
    to minutes.  Raises ValueError if the table or auto's choice does not compile.
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
    """Returns the setting, date and versions, and `results`, one for each target."""
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

    `name` is the value of --target.  The config is unresolved and includes `changes`, made because it was for one
    device.  Raises ValueError if the config's mesh does not match the number of devices.
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

    `arms` are unresolved configs by label; `progress` is called before each is compiled, which takes minutes.  Raises
    ValueError as `training_step.compile_step` does.
    """
    compiled = {}
    for name, config in arms.items():
        progress(f"compiling {name} for {len(target.devices)} x {target.name}")
        compiled[name] = training_step.compile_step(target, config, tokenizer)
    rows = [
        {"arm": name, "form": form} | one.to_json(target)
        for name, forms in compiled.items()
        for form, one in forms.items()
    ]
    return {"rows": rows, "verdicts": training_step.verdicts(target, compiled)}


def made() -> dict[str, Any]:
    """Returns date, commit, command and the versions of JAX and the compilers."""
    here = machine.environment()
    own = {
        "command": machine.without_paths_outside(here["command"]),
        "versions": {name: here["versions"][name] for name in ("jax", "jaxlib")} | compilers.versions(),
    }
    return {name: here[name] for name in ("started", "commit", "python")} | own
