"""Config files: Python modules that define get_config(), loaded by path."""

import contextlib
import importlib.util
import pathlib
import sys
import traceback
import types
from collections.abc import Iterator

import ml_collections


def load_module(path: str) -> types.ModuleType:
    """Returns the config module at `path`, which can import the files beside it as `configs.NAME`.

    Raises ValueError if there is no such file or it is not a config module.
    """
    file = pathlib.Path(path).resolve()
    if not file.is_file():
        raise ValueError(f"--config={path}: no such file; configs/ holds {_config_names()}")
    # `from configs import base` means the configs beside the file or, for a file elsewhere, those of this checkout.
    roots = [parent.parent for parent in file.parents if parent.name == "configs"] or [
        pathlib.Path(__file__).parents[2]
    ]
    sys.path[:0] = [str(root) for root in roots if str(root) not in sys.path]
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"--config={path}: not a Python file; give a .py file that defines get_config()")
    module = importlib.util.module_from_spec(spec)
    with _faults_named(path):
        spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError(f"--config={path}: a config file defines get_config(); this one does not; see configs/demo.py")
    return module


def load(path_and_arg: str) -> ml_collections.ConfigDict:
    """Returns the config of "PATH" or "PATH:key=value,..."; raises ValueError as `load_module` does."""
    path, colon, arg = path_and_arg.partition(":")
    get_config = load_module(path).get_config
    if colon and not get_config.__code__.co_argcount:
        raise ValueError(f"--config={path_and_arg}: {path} takes no argument after the colon, got {arg!r}; remove it")
    with _faults_named(path):
        return get_config(arg) if colon else get_config()


@contextlib.contextmanager
def _faults_named(path: str) -> Iterator[None]:
    """Turns an exception from a config file into one line: the file, the line number and the mistake."""
    try:
        yield
    except SyntaxError as error:
        raise ValueError(f"--config={path}: {error.filename}:{error.lineno}: {error.msg}") from error
    except (AttributeError, ImportError, KeyError, NameError, TypeError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if pathlib.Path(frame.filename).resolve().is_relative_to(_root_of(path))]
        where = own[-1] if own else frames[-1]
        text = " ".join(str(error).split())
        raise ValueError(f"--config={path}: {where.filename}:{where.lineno}: {type(error).__name__}: {text}") from error


def _root_of(path: str) -> pathlib.Path:
    return pathlib.Path(path).resolve().parent


def _config_names() -> str:
    folder = pathlib.Path(__file__).parents[2] / "configs"
    names = sorted(file.name for file in folder.glob("*.py") if "def get_config(" in file.read_text())
    return ", ".join(names) or "no config"
