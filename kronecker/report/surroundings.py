"""What surrounded the two runs of a pair: machine, library versions, code.  It may change a loss a little."""

import collections
from collections.abc import Iterable

from kronecker.run import finished_runs


def differing(pairs: Iterable[tuple[str, finished_runs.Run, finished_runs.Run]]) -> list[str]:
    """Returns what differs within pairs, a line each, and in which; a pair is an arm's name, a run and its partner."""
    places = collections.defaultdict(list)
    for arm, run, partner in pairs:
        own, other = _facts(run), _facts(partner)
        for what in dict.fromkeys([*own, *other]):
            if own.get(what) != other.get(what):
                change = f"{what} is {own.get(what, 'unknown')} against {other.get(what, 'unknown')}"
                places[change].append(f"{arm} seed {run.seed}")
    return [f"{change} in {', '.join(runs)}" for change, runs in places.items()]


def devices(run: finished_runs.Run) -> str:
    """Returns e.g. "cpu: 2 × cpu"."""
    counts = collections.Counter(run.env["devices"])
    return f"{run.env['platform']}: {', '.join(f'{n} × {kind}' for kind, n in counts.items())}"


def _facts(run: finished_runs.Run) -> dict[str, str]:
    env = run.env
    return {
        "the hardware": devices(run),
        "the code's commit": env["commit"] or "unknown",
        "Python": env["python"],
        **env["versions"],
    }
