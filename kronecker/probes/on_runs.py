"""Every probe of a checkpoint by its name: of one run, or of a pair with paired statistics."""

from collections.abc import Callable, Mapping, Sequence

from kronecker.probes import continuations, generation, layered, prompts, result, robustness, subjects, survey
from kronecker.training import restore

Runs = Mapping[str, restore.Restored]
ALL = "all"
TEXTS = "generation_texts"  # every text that was written: for a file, not for the eye


def run(names: Sequence[str], found: Runs, pairs: Sequence[prompts.Pair]) -> list[result.Result]:
    """Returns what the named probes say.

    Args:
      names: of PROBES, or "all".
      found: name -> run, one or two; of two the first is the baseline of the paired statistics.
      pairs: the prompts of the robustness probe.

    Raises:
      ValueError: if there is no such probe.
    """
    unknown = [name for name in names if name not in (ALL, *PROBES)]
    if unknown or not names:
        raise ValueError(f"--probes={','.join(names)}: known: {ALL}, {', '.join(PROBES)}")
    chosen = PROBES if ALL in names else {name: PROBES[name] for name in dict.fromkeys(names)}
    return [one for probe in chosen.values() for one in probe(found, pairs)]


def _geometry(found: Runs, pairs: Sequence[prompts.Pair]) -> list[result.Result]:
    del pairs
    tables = []
    for name, one in found.items():
        _, table_Vd = next(layered.spaces(one.arm, one.params, ()))
        tables.append(subjects.Table(name, table_Vd, one.tokenizer))
    first = next(iter(found.values()))
    codes = subjects.Codec("codec", first.tokenizer, first.config.embedding.pos_dim)
    return survey.survey([*tables, codes], {"P of the codes": str(first.config.embedding.pos_dim)})


def _layered(found: Runs, pairs: Sequence[prompts.Pair]) -> list[result.Result]:
    del pairs
    layers = range(min(2, *(one.config.model.layers for one in found.values())))
    return layered.measure(found, tuple(layers))


def _robustness(found: Runs, pairs: Sequence[prompts.Pair]) -> list[result.Result]:
    measured = [robustness.measure(one, pairs) for one in found.values()]
    return robustness.compare(*measured) if len(measured) == 2 else robustness.describe(*measured)


def _generation(found: Runs, pairs: Sequence[prompts.Pair]) -> list[result.Result]:
    del pairs
    measured = [generation.measure(one, continuations.templates()) for one in found.values()]
    return generation.compare(*measured) if len(measured) == 2 else generation.describe(*measured)


PROBES: dict[str, Callable[[Runs, Sequence[prompts.Pair]], list[result.Result]]] = {
    "geometry": _geometry,
    "layered": _layered,
    "robustness": _robustness,
    "generation": _generation,
}
