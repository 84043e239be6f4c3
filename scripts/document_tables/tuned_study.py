"""Tables of the study in which each arm has its own rate and multiplier."""

import collections

from document_tables import committed, markdown
from kronecker.schema import config_files


def tuning() -> str:
    """Returns each arm's best point of the tuned study so far, by training loss, and its lead over the next."""
    search = config_files.load_module(str(committed.ROOT / "configs" / "tuned_study.py")).tuning
    of_arm = collections.defaultdict(dict)
    for run in committed.runs("tuned/tuning"):
        of_arm[run.arm][run.config[search.RATE], run.config[search.MULTIPLIER]] = run.loss_at_end
    rows = []
    for arm, losses in of_arm.items():
        best, *others = sorted(losses, key=losses.__getitem__)
        ahead = f"{losses[others[0]] - losses[best]:.4f}" if others else ""
        around = [point for point in search.cross(best) if point not in losses]
        state = f"{len(around)} of its neighbours to run" if around else "each neighbour is worse"
        rows.append((f"`{arm}`", state, str(len(losses)), *(f"{one:g}" for one in best), f"{losses[best]:.4f}", ahead))
    headers = ("arm", "search", "points", "best rate", "multiplier", "training loss", "ahead of the next by")
    return markdown.table(headers, rows, left=2)


TABLES = {
    "tuning": tuning,
}
