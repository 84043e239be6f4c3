"""Tables of the study in which each arm has its own rate and multiplier; docs/protocol.md says what they must hold."""

import collections
from typing import Any

from document_tables import committed, markdown
from kronecker.schema import config_files

PRIMARY = "kronecker:table_untied"
NO_PRICE = 0.02  # nats per token, of the protocol's rule


def tuning() -> str:
    """Returns each arm's best point of the tuned study so far, by training loss, and its lead over the next."""
    search = _search()
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


def finals() -> str:
    """Returns the losses of each arm's final runs over all held-out tokens, lowest first."""
    from kronecker.report import compare, held_out

    search = _search()
    found = held_out.compared(committed.runs("tuned/finals"), tuned=compare.TUNED)
    rows = []
    for arm in sorted(found.arms, key=lambda arm: arm.loss):
        config = arm.runs[0].config
        rows.append(
            (
                f"`{arm.name}`",
                *(f"{config[key]:g}" for key in (search.RATE, search.MULTIPLIER)),
                f"{len(arm.runs)}",
                f"{arm.loss:.4f}",
                f"{min(arm.losses):.4f} to {max(arm.losses):.4f}",
                f"{sum(arm.bits_per_byte) / len(arm.runs):.4f}",
                f"{arm.runs[0].params['total'] / 1e6:.2f}",
            )
        )
    headers = ("arm", "rate", "multiplier", "seeds", "nats/token", "of the seeds", "bits/byte", "M parameters")
    return markdown.table(headers, rows)


def primary() -> str:
    """Returns the primary comparison, its two intervals, and the answer by the protocol's rule."""
    from kronecker.report import pairs

    (arm,) = pairs.read(committed.runs("tuned/finals"), [PRIMARY])[0].others
    both = (arm.difference.interval, arm.documents)
    if all(high < NO_PRICE for _, high in both):
        answer = "the code replaces the table at no price that we call one"
    elif all(low > 0 for low, _ in both):
        answer = "the code costs the difference"
    else:
        answer = "open"
    over_seeds, over_documents = (" to ".join(map(markdown.signed, ends)) for ends in both)
    rows = [
        ("answer by the rule", answer),
        ("mean difference, nats/token", markdown.signed(arm.difference.mean)),
        ("of each seed", ", ".join(map(markdown.signed, arm.difference.values))),
        ("95 % over seeds", over_seeds),
        ("95 % over documents", over_documents),
    ]
    return markdown.table((" − ".join(f"`{name}`" for name in PRIMARY.split(":")), ""), rows, left=2)


def _search() -> Any:
    return config_files.load_module(str(committed.ROOT / "configs" / "tuned_study.py")).tuning


TABLES = {
    "tuning": tuning,
    "tuned-primary": primary,
    "tuned-finals": finals,
}
