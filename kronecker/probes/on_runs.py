"""The probes by name, on the checkpoints of one run, or of a run and one or several baselines.

The last run is compared with each of the others, prompt by prompt.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from kronecker.probes import continuations, generation, layered, prompts, robustness, subjects, survey
from kronecker.run import measured_on, result
from kronecker.schema import dotted
from kronecker.training import restore

Runs = Mapping[str, restore.Restored]
ALL = "all"
TEXTS = "generation_texts"  # every continuation: written to files, not printed


def opened(folders: Mapping[str, epath.PathLike]) -> dict[str, restore.Restored]:
    """Returns runs by their names in tables, each open at its latest checkpoint."""
    return {name: restore.open_run(folder) for name, folder in folders.items()}


def run(names: Sequence[str], found: Runs, pairs: Sequence[prompts.Pair]) -> list[result.Result]:
    """Returns the results of the named probes, or of "all"; the last of several runs is compared with each other one.

    `pairs` are the prompts of the robustness probe.  Raises ValueError if there is no such probe.
    """
    return [one for name in chosen(names) for one in PROBES[name](found, pairs)]


def show(results: Sequence[result.Result]) -> None:
    """Prints all results but the texts."""
    result.show([one for one in results if one.name != TEXTS])


def chosen(names: Sequence[str], known: Iterable[str] | None = None, flag: str = "probes") -> list[str]:
    """Returns the names of the chosen probes, or of `known`, each once; raises ValueError if one is unknown."""
    known = list(PROBES if known is None else known)
    if not names or not {ALL, *known} >= set(names):
        raise ValueError(f"--{flag}={','.join(names)}: allowed: {ALL}, {', '.join(known)}")
    return known if ALL in names else list(dict.fromkeys(names))


def _geometry(found: Runs, pairs: Sequence[prompts.Pair]) -> list[result.Result]:
    del pairs
    tables = []
    for name, one in found.items():
        _, table_Vd = next(layered.spaces(one.arm, one.params, ()))
        tables.append(subjects.Table(name, table_Vd, one.tokenizer))
    first = next(iter(found.values()))
    codes = subjects.Codec("codec", first.tokenizer, first.config.embedding.pos_dim)
    of_runs = measured_on.merged(measured_on.of_run(dotted.flat(one.config), one.step) for one in found.values())
    pos_dim = of_runs.pop("P")
    trained = "; ".join(f"{key} {text}" for key, text in of_runs.items())
    embeddings = f"{', '.join(found)}: {trained}; codec: the codes of their vocabulary alone"
    return survey.survey([*tables, codes], {"P": pos_dim, "embeddings": embeddings})


def _layered(found: Runs, pairs: Sequence[prompts.Pair]) -> list[result.Result]:
    del pairs
    layers = range(min(2, *(one.config.model.layers for one in found.values())))
    return layered.measure(found, tuple(layers))


def _robustness(found: Runs, pairs: Sequence[prompts.Pair]) -> list[result.Result]:
    measured = [dataclasses.replace(robustness.measure(one, pairs), name=name) for name, one in found.items()]
    return [*robustness.describe(*measured), *_against_each(measured, robustness.compare)]


def _generation(found: Runs, pairs: Sequence[prompts.Pair]) -> list[result.Result]:
    del pairs
    templates = continuations.templates()
    measured = [dataclasses.replace(generation.measure(one, templates), name=name) for name, one in found.items()]
    return [*generation.describe(*measured), *_against_each(measured, generation.compare)]


def _against_each(
    measured: Sequence[Any], compare: Callable[[Any, Any], Sequence[result.Result]]
) -> Iterator[result.Result]:
    """Yields the last one's comparison with each of the others; if there are several, names include the baseline."""
    *baselines, last = measured
    for baseline in baselines:
        for one in compare(baseline, last):
            yield one if len(baselines) == 1 else dataclasses.replace(one, name=f"{one.name}-{baseline.name}")


PROBES: dict[str, Callable[[Runs, Sequence[prompts.Pair]], list[result.Result]]] = {
    "geometry": _geometry,
    "layered": _layered,
    "robustness": _robustness,
    "generation": _generation,
}
