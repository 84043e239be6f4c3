"""The files of results/."""

import json
from pathlib import Path
from typing import Any

from absl import flags

ROOT = Path(__file__).parents[2]

_RESULTS = flags.DEFINE_string("results", str(ROOT / "results"), "The folder of the committed results.")


def path(name: str) -> Path:
    return Path(_RESULTS.value) / name


def read(name: str) -> Any:
    return json.loads(path(name).read_text(encoding="utf-8"))


def runs(*folders: str) -> list[Any]:
    from kronecker.run import finished_runs

    return [finished_runs.read(run) for run in finished_runs.find(path(folder) for folder in folders)]
