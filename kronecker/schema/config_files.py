"""Config files: Python modules that define get_config(), loaded by path."""

import contextlib
import importlib.util
import inspect
import pathlib
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from typing import Any

import ml_collections

from kronecker.schema import dotted


def load_module(path: str) -> types.ModuleType:
    """Returns the config module at `path`, which can import the files beside it as `configs.NAME`.

    Raises ValueError if there is no such file or it is not a config module.
    """
    file = pathlib.Path(path).resolve()
    if not file.is_file():
        raise ValueError(f"--config={path}: no such file; configs/ holds {_config_names()}")
    if (size := file.stat().st_size) > (most := 2**24):
        raise ValueError(f"--config={path}: has {size:,} bytes; a config file has at most {most:,}; give another")
    # `from configs import base` means the configs beside the file or, for a file elsewhere, those of this checkout.
    roots = [parent.parent for parent in file.parents if parent.name == "configs"]
    roots = roots or [pathlib.Path(__file__).parents[2]]
    sys.path[:0] = [str(root) for root in roots if str(root) not in sys.path]
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"--config={path}: not a Python file; give a .py file that defines get_config()")
    module = importlib.util.module_from_spec(spec)
    with faults_named(path):
        spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError(f"--config={path}: a config file defines get_config(); this one does not; see configs/demo.py")
    return module


def load(path_and_arg: str) -> ml_collections.ConfigDict:
    """Returns the config of "PATH" or "PATH:key=value,..."; raises ValueError as `load_module` does."""
    path, colon, arg = path_and_arg.partition(":")
    get_config = load_module(path).get_config
    with faults_named(path, lambda: line_of(get_config)):
        if colon and not inspect.signature(get_config).parameters:
            raise ValueError(f"get_config() takes no argument after the colon, got {arg!r}; remove it")
        config = get_config(arg) if colon else get_config()
        dotted.check_complete(config)
    return config


@contextlib.contextmanager
def faults_named(path: str, otherwise: Callable[[], str] = str) -> Iterator[None]:
    """Turns whatever a config file raises into one line: the file, the line number and the mistake.

    `otherwise` returns the place of a mistake that no line of the config's folder has raised.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [f"{frame.filename}:{frame.lineno}" for frame in frames if _is_beside(path, frame.filename)]
        where, text = own[-1] if own else otherwise(), " ".join(str(error).split())
        if isinstance(error, SyntaxError) and error.lineno:
            where, text = f"{error.filename}:{error.lineno}", error.msg
        elif not (isinstance(error, ValueError) and text):  # the text of a ValueError is whole by itself
            text = f"{type(error).__name__}: {text}".removesuffix(": ")
        raise ValueError(": ".join(filter(None, (f"--config={path}", where, text)))) from error


def line_of(function: Any, made: Any = None) -> str:
    """Returns "FILE:LINE" of a function, or where the generator that it has made stands; empty if it has none."""
    frame, code = getattr(made, "gi_frame", None), getattr(inspect.unwrap(function), "__code__", None)
    if frame:
        return f"{frame.f_code.co_filename}:{frame.f_lineno}"
    return f"{code.co_filename}:{code.co_firstlineno}" if code else ""


def _is_beside(path: str, file: str) -> bool:
    other, folder = pathlib.Path(file), pathlib.Path(path).resolve().parent
    return other.is_file() and other.resolve().is_relative_to(folder)


def _config_names() -> str:
    folder = pathlib.Path(__file__).parents[2] / "configs"
    names = sorted(file.name for file in folder.glob("*.py") if "def get_config(" in file.read_text(encoding="utf-8"))
    return ", ".join(names) or "no config"
