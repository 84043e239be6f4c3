"""Tables of the study in which each arm has its own rate and multiplier; docs/protocol.md says what they must hold."""

import collections
import csv
import json
import re
from typing import Any

import numpy as np

from document_tables import committed, markdown
from kronecker.schema import config_files

PRIMARY = "kronecker:table_untied"
TEXT = "balanced_prose.jsonl.xz"
BASELINE = PRIMARY.partition(":")[2]
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


def secondary() -> str:
    """Returns those of the protocol's twelve secondary comparisons whose arms have final runs, and their verdicts.

    Holm's correction is over all twelve; those that are not there yet count as if their p were 1.
    """
    from kronecker.report import intervals, pairs

    protocol = (committed.ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    lines = re.findall(r"^[A-Z]+=(\S+:\S+)$", protocol, re.MULTILINE)
    family = [pair for line in lines for pair in line.split(",")]
    found = committed.runs("tuned/finals")
    arms = {run.arm for run in found}
    there = [pair for pair in family if set(pair.split(":")) <= arms]
    compared = pairs.read(found, there)
    verdicts = pairs.adjusted(compared, len(family))
    rows = []
    for pair, of_pair, verdict in zip(there, compared, verdicts, strict=True):
        arm = of_pair.others[0]
        over = map(markdown.interval, (arm.difference.interval, arm.documents))
        name = " − ".join(f"`{one}`" for one in pair.split(":"))
        told = markdown.signed(arm.difference.mean), *over, f"{arm.difference.p_value:.2g}"
        if verdict == intervals.NOT_RESOLVED and len(there) < len(family):
            verdict = "not yet"
        rows.append((name, str(len(arm.difference.values)), *told, verdict))
    headers = (
        "comparison",
        "seeds",
        "difference",
        "95 % over seeds",
        "95 % over documents",
        "p",
        "after Holm's correction",
    )
    return markdown.table(headers, rows)


def finals() -> str:
    """Returns the losses of each arm's final runs over all held-out tokens, lowest first."""
    search, rows = _search(), []
    for arm in _final_arms():
        config = arm.runs[0].config
        rows.append(
            (
                f"`{arm.name}`",
                *(f"{config[key]:g}" for key in (search.RATE, search.MULTIPLIER)),
                f"{len(arm.runs)}",
                f"{arm.loss:.4f}",
                f"{arm.bits:.4f}",
                f"{arm.runs[0].params['total'] / 1e6:.2f}",
            )
        )
    headers = ("arm", "rate", "multiplier", "seeds", "nats/token", "bits/byte", "M parameters")
    return markdown.table(headers, rows)


def seeds() -> str:
    """Returns the loss of each final run over all held-out tokens, and the share of its steps that were clipped."""
    of_arm = {
        arm.name: {run.seed: (loss, run.result["clip_share"]) for run, loss in zip(arm.runs, arm.losses, strict=True)}
        for arm in _final_arms()
    }
    every = sorted({seed for of_seed in of_arm.values() for seed in of_seed})
    rows = [
        (
            f"`{arm}`",
            *(
                f"{of_seed[seed][0]:.4f} ({100 * of_seed[seed][1]:.1f}\N{NO-BREAK SPACE}%)" if seed in of_seed else ""
                for seed in every
            ),
        )
        for arm, of_seed in of_arm.items()
    ]
    return markdown.table(("arm", *(f"seed {seed}" for seed in every)), rows)


def counts() -> str:
    """Returns the losses of models that count the tokens of the final runs, and which arms have higher ones."""
    files = sorted(committed.path("tuned/counts").glob("*.json"))
    of_seed = [json.loads(file.read_text(encoding="utf-8"))["losses"] for file in files]
    means = {name: np.mean([losses[name] for losses in of_seed], axis=0) for name in of_seed[0]}
    arms = _final_arms()
    rows = []
    for name, (nats, bits) in means.items():
        worse = ", ".join(f"`{arm.name}`" for arm in arms if arm.loss > nats)
        rows.append((name, f"{nats:.4f}", f"{bits:.4f}", worse))
    return markdown.table(("counts of", "nats/token", "bits/byte", "arms with a higher loss"), rows)


def frequency() -> str:
    """Returns by how much `kronecker` differs from an untied table, by the frequency of input and predicted token."""
    by_side = {side: _by_decile(side) for side in ("input", "target")}
    rows = [(decile, ids, told, by_side["target"][decile][1]) for decile, (ids, told) in by_side["input"].items()]
    return markdown.table(("decile", "ids", "of the input token", "of the predicted token"), rows)


def _by_decile(side: str) -> dict[str, tuple[str, str]]:
    """Returns decile -> its number of ids, and the difference there."""
    found = {}
    with committed.path(f"tuned/report/best/{side}_frequency.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["arm"] == PRIMARY.partition(":")[0]:
                half = (float(row["interval_high"]) - float(row["interval_low"])) / 2
                found[row["group"]] = f"{int(row['ids']):,}", markdown.difference(float(row["difference"]), half)
    return found


def works() -> str:
    """Returns the primary difference on each work that held-out documents are pieces of, and over works."""
    from kronecker.report import intervals, losses_by_token

    (corpus,) = (one for one in committed.read("corpora.json") if one["name"] == TEXT)
    losses = collections.defaultdict(dict)  # arm -> seed -> (D,) nats
    for run in committed.runs("tuned/finals"):
        by_document = losses_by_token.documents(run)["by_document"]
        losses[run.arm][run.seed], tokens_D = by_document["nats"], by_document["tokens"]
    ours, its = (losses[arm] for arm in PRIMARY.split(":"))
    seeds = tuple(sorted(ours.keys() & its.keys()))
    nats_SD = np.stack([ours[seed] - its[seed] for seed in seeds])
    names, work_D = np.unique(corpus["held_out_parts"], return_inverse=True)
    nats_SW = np.stack([np.bincount(work_D, weights=nats_D) for nats_D in nats_SD])
    tokens_W = np.bincount(work_D, weights=tokens_D)
    rows = []
    for i in np.argsort(nats_SW.mean(axis=0) / tokens_W):
        of_work = intervals.Difference(seeds, tuple(nats_SW[:, i] / tokens_W[i]))
        count = int((work_D == i).sum())
        told = markdown.difference(of_work.mean, of_work.half)
        rows.append((str(names[i]), str(count), f"{tokens_W[i]:,.0f}", told))
    (ends,) = intervals.over_documents(nats_SW.mean(axis=0)[None], tokens_W)
    over = markdown.interval(ends)
    rows.append(("95 % if other works were drawn", str(len(work_D)), f"{tokens_W.sum():,.0f}", over))
    return markdown.table(("work", "documents", "tokens", " − ".join(f"`{one}`" for one in PRIMARY.split(":"))), rows)


def texts() -> str:
    """Returns the losses of the final runs on other texts, and their differences from the untied table's."""
    from kronecker.report import other_texts

    rows = []
    for comparison in other_texts.compared(_all_finals()):
        for arm in sorted(comparison.arms, key=lambda arm: arm.loss):
            over = [arm.difference.interval, arm.documents] if arm.difference else []
            rows.append(
                (
                    comparison.text.name,
                    f"`{arm.name}`",
                    f"{arm.loss:.4f}",
                    f"{arm.bits:.4f}",
                    markdown.signed(arm.difference.mean) if arm.difference else "",
                    *map(markdown.interval, over),
                    *[""] * (2 - len(over)),
                )
            )
    headers = ("text", "arm", "nats/token", "bits/byte", f"− `{BASELINE}`", "95 % over seeds", "95 % over documents")
    return markdown.table(headers, rows, left=2)


def misspelling() -> str:
    """Returns what a typo in a prompt changes in each primary arm, and the differences of `kronecker`, over seeds."""
    from kronecker.report import intervals

    arm, tables = PRIMARY.partition(":")[0], (BASELINE, "table_tied")
    found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in (*tables, arm)}  # arm -> seed -> metric
    for file in sorted(committed.path("tuned/probes").glob("*.json")):
        means = next(one for one in json.loads(file.read_text(encoding="utf-8")) if one["name"] == "robustness")
        for name, _, *values in means["rows"]:
            own, _, seed = name.rpartition("-seed")
            found[own][seed] = dict(zip(means["columns"][2:], values, strict=True))
    seeds = sorted(found[arm])
    rows = []
    for metric in found[arm][seeds[0]]:
        values = {name: [of_seed[seed][metric] for seed in seeds] for name, of_seed in found.items()}
        differences = [
            intervals.Difference(
                tuple(map(int, seeds)), tuple(ours - its for ours, its in zip(values[arm], values[name], strict=True))
            )
            for name in tables
        ]
        rows.append(
            (
                metric.replace("|", "\\|"),
                *(f"{sum(of) / len(of):.4f}" for of in values.values()),
                *(markdown.difference(one.mean, one.half) for one in differences),
            )
        )
    headers = ("mean over prompts", *(f"`{name}`" for name in found), *(f"`{arm}` − `{name}`" for name in tables))
    return markdown.table(headers, rows)


def _all_finals() -> Any:
    """Returns the comparison of the final runs of all arms, over the seeds that all of them have."""
    from kronecker.report import compare, held_out

    return held_out.compared(committed.runs("tuned/finals"), BASELINE, compare.TUNED)


def _final_arms() -> list[Any]:
    """Returns each arm with all of its final runs, by rising loss."""
    from kronecker.report import pairs

    found = committed.runs("tuned/finals")
    others = sorted({run.arm for run in found} - {BASELINE})
    compared = pairs.read(found, [f"{arm}:{BASELINE}" for arm in others])
    baseline = max((of_pair.baseline for of_pair in compared), key=lambda arm: len(arm.runs))
    return sorted([baseline, *(of_pair.others[0] for of_pair in compared)], key=lambda arm: arm.loss)


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
    over_seeds, over_documents = map(markdown.interval, both)
    rows = [
        ("answer by the rule", answer),
        ("mean difference, nats/token", markdown.signed(arm.difference.mean)),
        ("of each seed", ", ".join(map(markdown.signed, arm.difference.values))),
        ("95 % over seeds", over_seeds),
        ("95 % over documents", over_documents),
        ("runs that diverged", str(len(list(committed.path("tuned/finals").glob("*/diverged.json"))))),
    ]
    return markdown.table((" − ".join(f"`{name}`" for name in PRIMARY.split(":")), ""), rows, left=2)


def _search() -> Any:
    return config_files.load_module(str(committed.ROOT / "configs" / "tuned_study.py")).tuning


TABLES = {
    "tuning": tuning,
    "tuned-primary": primary,
    "tuned-secondary": secondary,
    "tuned-finals": finals,
    "tuned-seeds": seeds,
    "tuned-counts": counts,
    "tuned-frequency": frequency,
    "tuned-works": works,
    "tuned-texts": texts,
    "tuned-misspelling": misspelling,
}
