"""What of the paper can be measured here, in parts: each a file of results, measured once and kept while it is current.

A part's file holds {"made_of": what it was measured on, "results": [...]}, the results as `run.result` documents
them.  It is current while `made_of` is what it would be measured on now; a part that is not is measured again.
"""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from kronecker.paper import paper_page
from kronecker.probes import on_runs, parameters, prompts, vocabularies
from kronecker.report import pages
from kronecker.run import finished_runs, result
from kronecker.runtime import machine

CODES, PARAMETERS, PROBES, RUNTIME = paper_page.PARTS
ALL = "all"
ROOT = Path(__file__).parents[1]
CODES_POS_DIM = 32  # of the paper's sections 6.1 to 6.5


@dataclasses.dataclass(frozen=True)
class Part:
    """Results that are measured together."""

    name: str  # stem of their file
    what: str  # what is measured, for the one who waits
    made_of: Mapping[str, Any]  # what they depend on, ready for JSON
    measure: Callable[[], list[result.Result]]  # measures them


def parts(probed: Sequence[finished_runs.Run], specs: Sequence[str], benchmark: Sequence[str]) -> list[Part]:
    """Returns all parts.

    Args:
      probed: runs of one seed; the last is compared with each of the others.
      specs: tokenizers, as config.tokenizer names them, whose codes are measured without any model.
      benchmark: the command that times codes on the fly and writes its result to the file of its --out=FILE; a process
        of its own, as it wants one device and the runs may have been trained on several simulated ones.
    """
    loaded = vocabularies.load(specs)
    losses = {
        str(run.folder): [run.result[key] for key in ("step", "validation_loss", "data_fingerprint")] for run in probed
    }
    return [
        Part(
            CODES,
            f"codes of {', '.join(tokenizer.name for tokenizer in loaded)}",
            {
                "code": _digest("probes"),
                "vocabularies": [[tokenizer.name, tokenizer.fingerprint] for tokenizer in loaded],
            },
            lambda: vocabularies.codes(loaded, CODES_POS_DIM),
        ),
        Part(PARAMETERS, "parameters of published models", {"code": _digest("probes")}, lambda: [parameters.measure()]),
        Part(
            PROBES,
            f"probes of {', '.join(run.folder.name for run in probed)}",
            {"code": _digest("probes", "assets"), "runs": losses},
            lambda: _probes(probed),
        ),
        Part(
            RUNTIME,
            "training steps with codes kept, codes written on the fly, and a table",
            {
                "code": _digest("benchmark"),
                "jax": metadata.version("jax"),
                "processor": machine.processor(),
                "cores": os.cpu_count(),
            },
            lambda: _timed(benchmark),
        ),
    ]


def chosen(known: Sequence[Part], names: Sequence[str]) -> list[Part]:
    """Returns the parts of these names, in their order; `all` means all.

    Raises ValueError if there is no such part.
    """
    by_name = {part.name: part for part in known}
    unknown = [name for name in names if name not in (*by_name, ALL)]
    if unknown or not names:
        raise ValueError(f"--parts={','.join(names)}: known: {ALL}, {', '.join(by_name)}")
    return list(known) if ALL in names else [part for part in known if part.name in names]


def measure(wanted: Sequence[Part], folder: Path, again: bool = False) -> dict[str, list[result.Result]]:
    """Returns part -> its results, from its file in `folder` where that is current and `again` does not forbid it.

    Raises ValueError if a file is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for number, part in enumerate(wanted, 1):
        file = folder / f"{part.name}.json"
        kept = None if again else _kept(file, part)
        state = "there before" if kept else "measuring"
        print(f"[{number}/{len(wanted)}] {part.what}: {state}", file=sys.stderr, flush=True)
        if kept is None:
            kept = part.measure()
            content = {"made_of": part.made_of, "results": [result.to_json(one) for one in kept]}
            pages.write_text(file, json.dumps(content, indent=1) + "\n")
        found[part.name] = kept
    return found


def _digest(*folders: str) -> str:
    """Returns a fingerprint of what stands in folders of this package: code that measures, and what it asks."""
    files = sorted(file for name in folders for file in (ROOT / name).iterdir() if file.suffix in (".py", ".json"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _kept(file: Path, part: Part) -> list[result.Result] | None:
    if not file.exists():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["made_of"] != json.loads(json.dumps(part.made_of)):
            return None
        return [result.from_json(one) for one in content["results"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file}: not what this version writes ({error}); delete it, it will be measured again"
        ) from None


def _probes(probed: Sequence[finished_runs.Run]) -> list[result.Result]:
    opened = on_runs.opened({f"{run.arm}-seed{run.seed}": run.folder for run in probed})
    return on_runs.run([on_runs.ALL], opened, prompts.pairs())


def _timed(benchmark: Sequence[str]) -> list[result.Result]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "runtime.json"
        done = subprocess.run([*benchmark, f"--out={file}"], stdout=subprocess.DEVNULL)  # its table is on the page
        if done.returncode:
            raise ValueError(f"{' '.join(benchmark)} ended with exit code {done.returncode}; --parts can leave it out")
        return [result.from_json(one) for one in json.loads(file.read_text(encoding="utf-8"))]
