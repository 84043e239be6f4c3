"""A config as dotted keys, and as JSON."""

import contextlib
import difflib
import json
import operator
from collections.abc import Iterator
from typing import Any

import ml_collections
from absl import flags

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
    if key in known:
        return
    if group := [name for name in known if name.startswith(f"{key}.")]:
        raise ValueError(f"config.{key} is a group of keys; set one of {', '.join(group)}")
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
    raise ValueError(f"config.{key}: there is no such key; {hint}")


def check_override(config: ml_collections.ConfigDict, flag: str, following: str | None) -> None:
    """Raises a ValueError if the flag "config.KEY=VALUE" names no key, or its value is not of the key's type.

    `following` is the next argument of the command: the value of a flag without "=", unless the key is true or false.
    """
    name, equals, value = flag.partition("=")
    key = name.partition(".")[2]
    check_key(config, key)
    default = operator.attrgetter(key)(config)
    if isinstance(default, bool) and not equals:
        return
    text = value if equals else following
    kind, parser = next((found for of, found in _TYPES.items() if isinstance(default, of)), _TYPES[str])
    try:
        if text is None:
            raise ValueError
        parser.parse(text)
    except ValueError:
        got = "has no value" if text is None else f"is {text!r}"
        allowed = ", ".join(filter(None, (kind, keys.allowed(key))))
        example = f"--config.{key}={_example(default, text or '')}"
        raise ValueError(f"{key} {got}; it must be {allowed}; for example {example}") from None


_TYPES: dict[type, tuple[str, flags.ArgumentParser]] = {
    bool: ("true or false", flags.BooleanParser()),
    int: ("a whole number in digits", flags.IntegerParser()),
    float: ("a number", flags.FloatParser()),
    str: ("text", flags.ArgumentParser()),
}


def _example(default: Any, text: str) -> str:
    """Returns the whole number that `text` stands for (1000 for 1e3) if the default is one; otherwise the default."""
    if type(default) is int:
        with contextlib.suppress(ValueError, OverflowError):
            if (number := float(text)).is_integer():
                return str(int(number))
    return str(default).lower() if isinstance(default, bool) else str(default) or "TEXT"


def to_json(config: ml_collections.ConfigDict) -> str:
    return json.dumps(config.to_dict(), indent=2) + "\n"


def _walk(config: ml_collections.ConfigDict, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from _walk(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
