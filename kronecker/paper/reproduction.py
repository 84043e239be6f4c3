"""The parts of the paper that can be measured here.  Each is a file of results, measured again only if outdated.

A part's file holds {"made_of": what it was measured on, "results": [...]}, the results as `run.result` documents them.
It is outdated once `made_of` differs from what it would be measured on now.
"""

import dataclasses
import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from kronecker.paper import paper_page
from kronecker.probes import on_runs, parameters, prompts, vocabularies
from kronecker.run import finished_runs, result
from kronecker.runtime import machine, printing, storage

CODES, PARAMETERS, PROBES, RUNTIME = paper_page.PARTS
ROOT = Path(__file__).parents[1]
CODES_POS_DIM = 32  # of the paper's sections 6.1 to 6.5


@dataclasses.dataclass(frozen=True)
class Part:
    """Results that are measured together."""

    name: str  # stem of their file
    what: str  # what is measured, for progress lines
    made_of: Mapping[str, Any]  # what they depend on, ready for JSON
    measure: Callable[[], list[result.Result]]  # measures them


def parts(probed: Sequence[finished_runs.Run], specs: Sequence[str], benchmark: Sequence[str]) -> list[Part]:
    """Returns all parts: of runs of one seed, the last of which is compared with each other one, and of tokenizers.

    `benchmark` is the command that times codes on the fly and writes its result to --out=FILE.  It is a process of its
    own, because it needs one device and the runs may have been trained on several simulated ones.
    """
    loaded = vocabularies.load(specs)
    losses = {
        str(run.folder): [run.result[key] for key in ("step", "validation_loss", "data_fingerprint")] for run in probed
    }
    names = [[tokenizer.name, tokenizer.fingerprint] for tokenizer in loaded]
    code = {"code": _digest("probes")}
    machine_here = {"jax": metadata.version("jax"), "processor": machine.processor(), "cores": os.cpu_count()}
    return [
        Part(
            *(CODES, f"codes of {', '.join(name for name, _ in names)}", code | {"vocabularies": names}),
            lambda: vocabularies.codes(loaded, CODES_POS_DIM),
        ),
        Part(PARAMETERS, "parameters of published models", code, lambda: [parameters.measure()]),
        Part(
            *(PROBES, f"probes of {', '.join(run.folder.name for run in probed)}"),
            {"code": _digest("probes", "assets"), "runs": losses},
            lambda: _probes(probed),
        ),
        Part(
            *(RUNTIME, "training steps with cached codes, codes computed on the fly, and a table"),
            {"code": _digest("benchmark")} | machine_here,
            lambda: _timed(benchmark),
        ),
    ]


def chosen(known: Sequence[Part], names: Sequence[str]) -> list[Part]:
    """Returns the parts of these names, in their order, or of "all"; raises ValueError if there is no such part."""
    names = on_runs.chosen(names, [part.name for part in known], "parts")
    return [part for part in known if part.name in names]


def measure(wanted: Sequence[Part], folder: Path, again: bool = False) -> dict[str, list[result.Result]]:
    """Returns part -> its results: from its file in `folder` if that is up to date and not `again`, else measured.

    Raises ValueError if a file is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for number, part in enumerate(wanted, 1):
        file = folder / f"{part.name}.json"
        kept = None if again else _kept(file, part)
        state = "up to date" if kept else "measuring"
        printing.say(f"[{number}/{len(wanted)}] {part.what}: {state}")
        if kept is None:
            kept = part.measure()
            content = {"made_of": part.made_of, "results": [result.to_json(one) for one in kept]}
            storage.write_text(file, json.dumps(content, indent=1) + "\n")
        found[part.name] = kept
    return found


def _digest(*folders: str) -> str:
    """Returns a fingerprint of folders of this package: the code that measures, and its prompts."""
    files = sorted(file for name in folders for file in (ROOT / name).iterdir() if file.suffix in (".py", ".json"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _kept(file: Path, part: Part) -> list[result.Result] | None:
    if not file.exists():
        return None
    try:
        content = json.loads(storage.read_whole(file).decode())
        if content["made_of"] != json.loads(json.dumps(part.made_of)):
            return None
        return [result.from_json(one) for one in content["results"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{file}: damaged, or written by another version ({error}); delete it and it will be measured again"
        ) from None


def _probes(probed: Sequence[finished_runs.Run]) -> list[result.Result]:
    opened = on_runs.opened({f"{run.arm}-seed{run.seed}": run.folder for run in probed})
    return on_runs.run([on_runs.ALL], opened, prompts.pairs())


def _timed(benchmark: Sequence[str]) -> list[result.Result]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "runtime.json"
        done = subprocess.run([*benchmark, f"--out={file}"], stdout=subprocess.DEVNULL)  # its table is on the page
        if done.returncode:
            raise ValueError(
                f"{' '.join(benchmark)} ended with exit code {done.returncode}; to leave it out, give other --parts: "
                f"{CODES},{PARAMETERS},{PROBES}"
            )
        return [result.from_json(one) for one in json.loads(file.read_text(encoding="utf-8"))]
