"""Parses the flags of a command as its script does, and stops before the script's main.

python tests/flags_only.py train.py --config=configs/demo.py --config.train.lr=1e-3

Words that stand for others, with `...` or a variable, are left out.
"""

import argparse
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from absl import flags  # noqa: E402  below the path

from kronecker.runtime import cli  # noqa: E402
from kronecker.schema import resolution  # noqa: E402

run = cli.run
known = [word for word in sys.argv[1:] if "..." not in word and "$" not in word]
whole = known == sys.argv[1:]


def run_nothing(main: Callable[..., int | None], positional: bool = False, needs_config: bool = True) -> None:
    """Takes the place of cli.run: all but `main`."""
    del main
    run(resolve, positional, needs_config and whole)


def resolve(*rest: Any) -> None:
    """Refuses a config whose keys do not go together."""
    del rest
    if "config" in flags.FLAGS and flags.FLAGS.config is not None:
        resolution.resolve(flags.FLAGS.config)


parse_args = argparse.ArgumentParser.parse_args


def parse_and_end(self: argparse.ArgumentParser, *given: Any) -> None:
    """Takes the place of parse_args in the examples."""
    parse_args(self, *given)
    sys.exit(0)


argparse.ArgumentParser.parse_args = parse_and_end
if not Path(known[0]).is_file():
    sys.exit(f"{known[0]}: no such script")
cli.run = run_nothing
sys.argv = known
runpy.run_path(sys.argv[0], run_name="__main__")
