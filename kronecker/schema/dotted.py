"""A config as dotted keys."""

import contextlib
import difflib
import operator
from collections.abc import Iterator
from typing import Any

import ml_collections
from absl import flags

from kronecker.schema import keys


class _Config(ml_collections.ConfigDict):
    """Refuses true and false where a number belongs; its base makes them 1.0 and 0.0."""

    def __setitem__(self, key: str, value: Any) -> None:
        if isinstance(value, bool) and isinstance(self.get(key), float):
            raise TypeError(f"{key} is {value}; it must be {keys.TYPES[float]}")
        super().__setitem__(key, value)


def defaults() -> ml_collections.ConfigDict:
    """Returns a locked config in which every key has its default: a nano model with the paper's encoder."""
    config = _Config()
    for name, key in keys.KEYS.items():
        group, _, last = name.rpartition(".")
        if group and group not in config:
            config[group] = _Config()
        (config[group] if group else config)[last] = key.default
    return config.lock()


def check_complete(config: Any) -> None:
    """Raises a ValueError if `config` is no config, lacks a key or has another, or a value is not of its key's type."""
    if not isinstance(config, ml_collections.ConfigDict) or isinstance(config, ml_collections.FrozenConfigDict):
        raise ValueError(f"{config!r:.80} is no config; take the one of configs.base.get_config(), and set keys of it")
    values = flat(config)
    faults = [f"config.{name}: there is no such key" for name in values.keys() - keys.KEYS.keys()]
    faults += [f"config.{name} is missing" for name in keys.KEYS.keys() - values.keys()]
    if faults:
        raise ValueError(f"{min(faults)}; take the config of configs.base.get_config(), and set keys of it")
    if wrong := next(filter(None, (keys.type_fault(name, value) for name, value in values.items())), None):
        raise ValueError(wrong)


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
    kind = type(keys.KEYS[key].default)
    try:
        if text is None:
            raise ValueError
        _PARSERS[kind].parse(text)
    except ValueError:
        got = "has no value" if text is None else f"is {text!r}"
        allowed = ", ".join(filter(None, (keys.TYPES[kind], keys.allowed(key))))
        example = f"--config.{key}={_example(default, text or '')}"
        raise ValueError(f"{key} {got}; it must be {allowed}; for example {example}") from None


_PARSERS: dict[type, flags.ArgumentParser] = {
    bool: flags.BooleanParser(),
    int: flags.IntegerParser(),
    float: flags.FloatParser(),
    str: flags.ArgumentParser(),
}


def _example(default: Any, text: str) -> str:
    """Returns the whole number that `text` stands for (1000 for 1e3) if the default is one; otherwise the default."""
    if type(default) is int:
        with contextlib.suppress(ValueError, OverflowError):
            if (number := float(text)).is_integer():
                return str(int(number))
    return str(default).lower() if isinstance(default, bool) else str(default) or "TEXT"


def _walk(config: ml_collections.ConfigDict, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from _walk(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
