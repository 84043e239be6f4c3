"""Every key with values that no run can have: refused in one line that names the key, and none taken for another."""

import math
from typing import Any

import ml_collections
import numpy as np
import pytest

from kronecker.schema import config_files, dotted, keys, resolution

OF_NO_KEY = [None, b"x", [1], (1, 2), {"a": 1}, 1j, object(), np.int64(3), np.float32(0.5), np.bool_(True), np.ones(2)]
NOT_FINITE = [math.nan, math.inf, -math.inf]
WRONG = {  # by the type of a key's default
    bool: [*OF_NO_KEY, *NOT_FINITE, 0, 1, "true", ""],
    int: [*OF_NO_KEY, *NOT_FINITE, True, False, 1.0, 1.5, "3", "", -2, -(10**30), 2**53 + 1, 2**63, 10**400],
    float: [*OF_NO_KEY, *NOT_FINITE, True, False, "0.1", "", -0.5, -1e-39, 1e-39, 5e-324, 1e39, 1e308, -(10**30)],
    str: [*OF_NO_KEY, *NOT_FINITE, True, 0, 1.5],
}


def message_of(name: str, value: Any) -> str:
    """Returns the error of a config that is given the value as a config file gives it."""
    config = dotted.defaults()
    with pytest.raises((TypeError, ValueError)) as raised:
        config.update_from_flattened_dict({name: value})
        resolution.resolve(config)
    return str(raised.value)


@pytest.mark.parametrize("name", keys.KEYS)
def test_a_value_that_a_key_cannot_have_is_refused_by_name(name: str):
    for value in WRONG[type(keys.KEYS[name].default)]:
        assert (fault := keys.fault(name, value)), f"{name}={value!r} is allowed"
        assert fault.startswith(f"{name} is ")
        assert "\n" not in fault
        assert len(fault) < 1000
        assert name.rpartition(".")[2] in message_of(name, value)


@pytest.mark.parametrize("name", [name for name, key in keys.KEYS.items() if type(key.default) is float])
def test_a_float_that_is_a_device_zero_or_one_is_refused(name: str):
    """float32 has no 1e-39 beside 0, and rounds 1 - 1e-9 to 1: a beta of 1 divides by zero."""
    assert keys.fault(name, 1e-39)
    if keys.KEYS[name].allowed is keys.SHARE:
        assert keys.fault(name, 1 - 1e-9)
    assert keys.fault(name, 0.5) is None
    assert keys.fault(name, np.float64(0.5)) is None


@pytest.mark.parametrize("name", [name for name, key in keys.KEYS.items() if type(key.default) is str])
def test_a_text_of_any_characters_is_allowed_or_refused_in_one_line(name: str):
    for text in ["", "\0", "a\nb", "\ud800", "x" * 10**6, "../..", "\u202e", " "]:
        fault = keys.fault(name, text) or ""
        assert len(fault) < 1500
    assert keys.fault(name, "a\0b")  # a sweep could not start the run
    assert keys.fault(name, "a\ud800b")


def test_a_config_that_cannot_be_set_is_refused():
    with pytest.raises(ValueError, match=r"is no config; take the one of configs\.base\.get_config\(\)"):
        dotted.check_complete(ml_collections.FrozenConfigDict(dotted.defaults()))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "c.train.lr = None",
            "mine.py:2: train.lr is None of type NoneType; it must be a number; the default is 0.0006",
        ),
        ("c.train.lr = True", "mine.py:4: TypeError: lr is True; it must be a number"),
        ("c.train.steps = True", "mine.py:2: train.steps is True of type bool; it must be a whole number in digits"),
        ("c.train.steps = 1e3", "mine.py:4: TypeError: Could not override field 'steps'"),
        ("c.model.bias = 1", "mine.py:4: TypeError: Could not override field 'bias'"),
        (
            "c.train = None",
            "mine.py:2: config.train.accumulate is missing; take the config of configs.base.get_config()",
        ),
        ("c.train = {'lr': 1.0}", "mine.py:2: config.train.accumulate is missing; take the config of"),
        ("c = None", "mine.py:2: None is no config; take the one of configs.base.get_config(), and set keys of it"),
        ("c = {'seed': 0}", "mine.py:2: {'seed': 0} is no config"),
        ("c = c.to_dict()", "is no config; take the one of configs.base"),
        ("import ml_collections; c = ml_collections.ConfigDict()", "mine.py:2: config.checkpoint.every is missing"),
        ("with c.unlocked(): c.train.extra = 1", "mine.py:2: config.train.extra: there is no such key"),
        ("1 / 0", "mine.py:4: ZeroDivisionError: division by zero"),
        ("int('x')", "mine.py:4: invalid literal for int() with base 10: 'x'"),
        ("assert c is None", "mine.py:4: AssertionError"),
        ("raise ValueError", "mine.py:4: ValueError"),
        ("get_config()", "RecursionError: maximum recursion depth exceeded"),
        ("sys.exit(3)", "mine.py:4: SystemExit: 3"),
        ("sys.exit()", "mine.py:4: SystemExit"),
        ("open('/nowhere/at/all')", "mine.py:4: FileNotFoundError: [Errno 2] No such file or directory"),
        ("raise Exception('two\\nlines')", "mine.py:4: Exception: two lines"),
        ("compile('1 +', 'other.py', 'exec')", "other.py:1: invalid syntax"),
    ],
)
def test_a_mistake_in_get_config_is_named_with_file_and_line(tmp_path, line: str, message: str):
    file = tmp_path / "mine.py"
    made = f"    c = base.get_config()\n    {line}\n    return c\n"
    file.write_text(f"import sys; from configs import base\ndef get_config():\n{made}")
    with pytest.raises(ValueError) as raised:
        config_files.load(str(file))
    text = str(raised.value)
    assert text.startswith(f"--config={file}: ")
    assert message in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"get_config = 3\n", "TypeError: 3 is not a callable object"),
        (b"get_config = None\n", "TypeError: None is not a callable object"),
        (
            b"def get_config(arg: int): return arg + 1\n",
            'mine.py:1: TypeError: can only concatenate str (not "int") to str',
        ),
        (b"def get_config(arg): return int(arg)\n", "mine.py:1: invalid literal for int()"),
        (
            b"def get_config(): pass\n",
            "mine.py:1: get_config() takes no argument after the colon, got 'x=1'; remove it",
        ),
        (
            b"def get_config(one, two): pass\n",
            "mine.py:1: TypeError: get_config() missing 1 required positional argument",
        ),
        (b"class get_config:\n    def __init__(self, arg): pass\n", "is no config; take the one of configs.base"),
        (b"def get_config(:\n", "mine.py:1: invalid syntax"),
        (b"\0", "source code string cannot contain null bytes"),
        (b"x = '\xff'\n", "mine.py:1: (unicode error) 'utf-8' codec can't decode byte 0xff"),
        (b"# coding: klingon\n", "mine.py"),
        (b"(" * 10_000, "too many nested parentheses"),
        (b"import beside\n", "beside.py:2: NameError: name 'nothing' is not defined"),
        (b"import wrong\n", "wrong.py:1: invalid syntax"),
        (b"import mine\n", "defines get_config()"),
        (b"raise SystemExit\n", "mine.py:1: SystemExit"),
    ],
)
def test_a_config_file_that_cannot_be_read_or_called_is_refused_in_one_line(
    tmp_path, monkeypatch: pytest.MonkeyPatch, body: bytes, message: str
):
    (tmp_path / "beside.py").write_text("\nnothing\n")
    (tmp_path / "wrong.py").write_text("a b\n")
    (tmp_path / "mine.py").write_bytes(body)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError) as raised:
        config_files.load(f"{tmp_path / 'mine.py'}:x=1")
    text = str(raised.value)
    assert text.startswith(f"--config={tmp_path}")
    assert message in text
    assert "\n" not in text
