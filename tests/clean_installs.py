"""Clean environments: a wheel built from the files that git knows, and what is installed beside it."""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
INDEX = {"UV_PYTHON_DOWNLOADS": "never", "UV_SYSTEM_CERTS": "1"}  # as in the Makefile


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | INDEX
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def install(python: Path, *what: str | Path) -> None:
    """Installs by uv, which takes seconds; by pip where uv is missing or cannot reach an index that pip can."""
    try:
        run(sys.executable, "-m", "uv", "pip", "install", "--quiet", f"--python={python}", *what)
    except AssertionError:
        run(python, "-m", "pip", "install", "--quiet", *what)


def build_wheel(source: Path, folder: Path) -> Path:
    """Builds the wheel in two new folders, so that what is lying about in the checkout cannot help."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "kronecker", "*.toml", "README.md")
    for name in filter(lambda name: (ROOT / name).is_file(), listed.splitlines()):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={folder}", source)
    (built,) = folder.glob("*.whl")
    return built


def make_environment(folder: Path, *what: str | Path) -> Path:
    """Makes an environment with `what` and our versions of NumPy, JAX, Flax and Optax; returns its Python."""
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    install(python, *what, *(f"{name}=={metadata.version(name)}" for name in ("numpy", "jax", "flax", "optax")))
    return python
