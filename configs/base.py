"""The base config, which every other one starts from, and what config files share.

kronecker/schema/keys.py holds every key with its unit, its default, what it may be and why it exists.
"""

from collections.abc import Iterable
from typing import Any

import ml_collections

from kronecker.schema import dotted


def get_config() -> ml_collections.ConfigDict:
    """Returns the base config: a nano model with the paper's encoder on the embedded corpus."""
    return dotted.defaults()


def parse_arg(arg: str | None, **spec: Any) -> ml_collections.ConfigDict:
    """Returns the options written after a config file's colon, e.g. `gpt2.py:size=124m,arm=table_tied`.

    Args:
      arg: "key=value,key=value" or None.
      **spec: every allowed key with its default, whose type the value is converted to.

    Raises:
      ValueError: on an unknown or repeated key, a missing "=", or a value of the wrong type.
    """
    options = ml_collections.ConfigDict(spec, type_safe=False)
    seen = set()
    for item in filter(None, (arg or "").split(",")):
        key, equals, text = item.partition("=")
        if key not in spec or key in seen or not equals:
            fault = "repeated" if key in seen else "not known" if equals else "without a value"
            raise ValueError(f"config argument {item!r}: {key!r} is {fault}; write {_example(spec)}")
        seen.add(key)
        try:
            options[key] = type(spec[key])(text)
        except ValueError:
            raise ValueError(
                f"config argument {item!r}: {key} takes {type(spec[key]).__name__}, got {text!r}"
            ) from None
    return options


def apply(c: ml_collections.ConfigDict, overrides: dict[str, Any]) -> ml_collections.ConfigDict:
    """Sets dotted keys, e.g. {"embedding.pos_dim": 32}, and returns `c`; an unknown key raises KeyError."""
    c.update_from_flattened_dict(overrides)
    return c


def choose(table: dict[str, dict[str, Any]], name: str, what: str) -> dict[str, Any]:
    """Returns `table[name]`; an unknown name raises a ValueError that lists the known ones."""
    if name not in table:
        raise ValueError(f"{what} is {name!r}; known: {_list(table)}")
    return table[name]


def _example(spec: dict[str, Any]) -> str:
    return ":" + ",".join(f"{key}={value}" for key, value in spec.items())


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
