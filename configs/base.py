"""The base config, from which every other config starts, and the functions that config files share.

kronecker/schema/keys.py has every key with its default, its allowed values, its unit and its purpose.
"""

from collections.abc import Iterable
from typing import Any

import ml_collections

from kronecker.schema import dotted


def get_config() -> ml_collections.ConfigDict:
    """Returns the base config: a nano model with the paper's encoder on the embedded corpus."""
    return dotted.defaults()


def parse_arg(arg: str | None, **spec: Any) -> ml_collections.ConfigDict:
    """Returns the options after the colon of a config file, as in `gpt2.py:size=124m,arm=table_tied`.

    Args:
      arg: "key=value,key=value" or None.
      **spec: every allowed key with its default; values are converted to the default's type.

    Raises:
      ValueError: on an unknown or repeated key, a missing "=", or a value of the wrong type.
    """
    options = ml_collections.ConfigDict(spec, type_safe=False)
    seen = set()
    for item in filter(None, (arg or "").split(",")):
        key, equals, text = item.partition("=")
        if key not in spec or key in seen or not equals:
            fault = "is repeated" if key in seen else "is not known" if equals else "has no value"
            raise ValueError(f"config option {item!r}: {key!r} {fault}; for example {_example(spec)}")
        seen.add(key)
        try:
            options[key] = type(spec[key])(text)
        except ValueError:
            kind = "a whole number" if isinstance(spec[key], int) else "a number"
            raise ValueError(
                f"config option {item!r}: {key} must be {kind}, got {text!r}; for example {_example(spec)}"
            ) from None
    return options


def apply(c: ml_collections.ConfigDict, overrides: dict[str, Any]) -> ml_collections.ConfigDict:
    """Sets dotted keys, e.g. {"embedding.pos_dim": 32}, and returns `c`; an unknown key raises KeyError."""
    c.update_from_flattened_dict(overrides)
    return c


def choose(table: dict[str, dict[str, Any]], name: str, what: str) -> dict[str, Any]:
    """Returns `table[name]`; an unknown name raises a ValueError that lists the allowed ones."""
    if name not in table:
        raise ValueError(f"{what} is {name!r}; allowed: {_list(table)}")
    return table[name]


def _example(spec: dict[str, Any]) -> str:
    return ":" + ",".join(f"{key}={value}" for key, value in spec.items())


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
