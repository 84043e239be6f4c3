"""A config as dotted keys, and as JSON."""

import difflib
import json
from collections.abc import Iterator
from typing import Any

import ml_collections

from kronecker.schema import keys


def defaults() -> ml_collections.ConfigDict:
    """Returns a locked config in which every key has its default: a nano model with the paper's encoder."""
    config: dict[str, Any] = {}
    for name, key in keys.KEYS.items():
        group, _, last = name.rpartition(".")
        (config.setdefault(group, {}) if group else config)[last] = key.default
    return ml_collections.ConfigDict(config).lock()


def flat(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the config as {dotted key: value}, in alphabetical order."""
    return dict(_walk(config, ""))


def check_key(config: ml_collections.ConfigDict, key: str) -> None:
    """Raises a ValueError that names the nearest key if `config` has no dotted `key`."""
    known = list(flat(config))
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        raise ValueError(f"config.{key}: there is no such key; {hint}")


def to_json(config: ml_collections.ConfigDict) -> str:
    return json.dumps(config.to_dict(), indent=2) + "\n"


def _walk(config: ml_collections.ConfigDict, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from _walk(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
