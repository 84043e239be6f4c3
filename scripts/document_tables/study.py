"""Tables of the study and the demo, from the folders of runs."""

import collections
import io
from collections.abc import Sequence
from typing import Any

from document_tables import committed, markdown
from kronecker.schema.arms import BASELINE

BASELINES = ("table_untied", "table_tied", "kronecker")  # that the tables compare with


def study() -> str:
    """Returns the arms of the study against three baselines, lowest loss first."""
    return _against(committed.runs("study/runs/study"), BASELINES)


def study_4_seeds() -> str:
    """Returns the same over the seeds that all arms have, with the runs that were added later."""
    return _against(committed.runs("study/runs/study", "study/runs/more_seeds"), BASELINES)


def study_5_seeds() -> str:
    """Returns the same for the arms that have the most seeds."""
    runs = committed.runs("study/runs/study", "study/runs/more_seeds")
    seeds = collections.Counter(run.arm for run in runs)
    return _against([run for run in runs if seeds[run.arm] == max(seeds.values())], BASELINES)


def study_all_tokens() -> str:
    """Returns the study's differences over all held-out tokens, from their means over groups of tokens."""
    from kronecker.report.intervals import Difference

    by_frequency = committed.read("study/compare.json")["by_token"]["target_frequency"]
    tokens = by_frequency["tokens"]
    rows = []
    for arm, groups in by_frequency["differences"].items():
        per_seed = zip(*(group["per_seed"] for group in groups), strict=True)
        means = (sum(n * mean for n, mean in zip(tokens, of_seed, strict=True)) / sum(tokens) for of_seed in per_seed)
        difference = Difference(tuple(groups[0]["seeds"]), tuple(means))
        rows.append(
            (
                difference.mean,
                f"`{arm}`",
                markdown.difference(difference.mean, difference.half),
                difference.verdict,
            )
        )
    return markdown.table(
        ("arm", f"against `{BASELINE}`, {sum(tokens):,} tokens", "verdict"), [row[1:] for row in sorted(rows)]
    )


def learning_rates() -> str:
    """Returns the last training loss of each arm at each rate, the lowest of an arm in bold."""
    losses = {
        (run.arm, run.config["train.lr"]): run.result["train_loss"]
        for run in committed.runs("study/runs/learning_rate")
    }
    arms, rates = (list(dict.fromkeys(parts)) for parts in zip(*sorted(losses, reverse=True), strict=True))
    rates.sort()
    rows = []
    for arm in arms:
        lowest = min(losses[arm, rate] for rate in rates)
        shown = {rate: f"{losses[arm, rate]:.3f}" for rate in rates}
        rows.append((f"`{arm}`", *(f"**{shown[r]}**" if losses[arm, r] == lowest else shown[r] for r in rates)))
    return markdown.table(("peak learning rate", *(f"{rate:.3f}" for rate in rates)), rows)


def twice_the_rate() -> str:
    """Returns the arms that have every seed at both rates, against the baseline at each."""
    runs = committed.runs("study/runs/study", "study/runs/twice_the_rate")
    count = collections.Counter((run.arm, run.config["train.lr"]) for run in runs)
    rates = sorted({rate for _, rate in count}, reverse=True)
    whole = {arm for arm, _ in count if min(count[arm, rate] for rate in rates) == max(count.values())}
    chosen = [run for run in runs if run.arm in whole]
    return _against(chosen, [f"{BASELINE} lr={rate}" for rate in rates], tuned=True)


def rates_by_seed() -> str:
    """Returns the validation loss of each run at twice the rate, and of the study's with the same arm and seed."""
    twice = committed.runs("study/runs/twice_the_rate")
    rate = {run.config["train.lr"] for run in twice}.pop()
    first = {(run.arm, run.seed): run for run in committed.runs("study/runs/study")}
    rows = []
    for run in twice:
        partner = first[run.arm, run.seed]
        losses = (partner.result["validation_loss"], run.result["validation_loss"])
        rows.append(
            (f"`{run.arm}`", str(run.seed), *(f"{loss:.4f}" for loss in losses), markdown.signed(losses[1] - losses[0]))
        )
    before = first[twice[0].arm, twice[0].seed].config["train.lr"]
    return markdown.table(("arm", "seed", f"at {before}", f"at {rate}", "difference"), rows)


def input_rate() -> str:
    """Returns the arms whose input's learning rate was multiplied, against Kronecker and against the table as it is."""
    multiplied = committed.runs("study/runs/input_rate")
    arms = {run.arm for run in multiplied}
    runs = [run for run in committed.runs("study/runs/twice_the_rate") if run.arm in arms]
    return _against([*runs, *multiplied], ("kronecker", f"{BASELINE} decay_mult=1.0 lr_mult=1.0"))


def demo() -> str:
    """Returns the first table that compare.py prints of the demo's runs: the verdicts."""
    from kronecker.report import compare, tables
    from kronecker.runtime import printing

    printed = io.StringIO()
    printing.show(tables.verdicts(compare.compare(committed.runs("demo"))), file=printed)
    lines = "\n".join(line.rstrip() for line in printed.getvalue().splitlines())
    return f"```text\n{lines}\n```"


def _against(runs: Sequence[Any], baselines: Sequence[str], tuned: bool = False) -> str:
    from kronecker.report import compare

    comparisons = {name: compare.compare(runs, name, compare.TUNED if tuned else ()) for name in baselines}
    first = comparisons[baselines[0]]
    cells = {
        (name, arm.name): f"{markdown.difference(arm.difference.mean, arm.difference.half)} {arm.difference.verdict}"
        for name, comparison in comparisons.items()
        for arm in comparison.others
    }
    rows = [
        (
            _named(arm.name),
            f"{arm.loss:.4f}",
            *(cells.get((name, arm.name), "") for name in baselines),
        )
        for arm in sorted(first.arms, key=lambda arm: arm.loss)
    ]
    return markdown.table(("arm", "nats/token", *(f"against {_named(name)}" for name in baselines)), rows)


def _named(arm: str) -> str:
    """Returns an arm's name in a comparison as Markdown: `table_untied` at 0.004, or with its settings."""
    name, _, setting = arm.partition(" ")
    key, _, value = setting.partition("=")
    return f"`{name}`" + (f" at {value}" if key == "lr" else f" with {setting}" if setting else "")


TABLES = {
    "study": study,
    "study-4-seeds": study_4_seeds,
    "study-5-seeds": study_5_seeds,
    "study-all-tokens": study_all_tokens,
    "learning-rates": learning_rates,
    "twice-the-rate": twice_the_rate,
    "rates-by-seed": rates_by_seed,
    "input-rate": input_rate,
    "demo": demo,
}
