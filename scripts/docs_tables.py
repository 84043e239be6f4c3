"""Writes the tables of the documents from the files of results/, between the
markers that name them.

  python scripts/docs_tables.py
  python scripts/docs_tables.py --check
  python scripts/docs_tables.py docs/performance.md

A table stands between the lines `<!-- table: NAME -->` and
`<!-- end of table -->`; to add one, write the two lines and run the script.
Without arguments it reads README.md, results/README.md and docs/*.md.  --check
writes nothing, prints what would change, and exits with 1 if anything would.
"""

from kronecker.runtime import interrupts

if __name__ == "__main__":
    interrupts.end_silently()  # during the other imports

import collections
import difflib
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import parameters
from absl import flags

from kronecker.runtime import cli
from kronecker.schema import config_files
from kronecker.schema.arms import BASELINE

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "results/README.md", "docs/*.md")
MARKED = re.compile(
    r"(?P<begin>^<!-- table: (?P<name>\S+) -->\n)(?P<text>.*?)(?P<end>^<!-- end of table -->$)", re.M | re.S
)
BEGIN = re.compile(r"^<!-- table: ", re.M)
MEASURES = ("forward", "gradient", "update")  # of the encoder's benchmarks
BASELINES = ("table_untied", "table_tied", "kronecker")  # that the study's tables compare with

_CHECK = flags.DEFINE_bool("check", False, "Write nothing; exit with 1 and print a diff if a table is out of date.")
_RESULTS = flags.DEFINE_string("results", str(ROOT / "results"), "The folder of the committed results.")


def main(files: Sequence[str]) -> int:
    """Rewrites the tables, or checks them; returns the exit code."""
    chosen = [Path(file) for file in files] or sorted(file for pattern in DOCUMENTS for file in ROOT.glob(pattern))
    changed = False
    for file in chosen:
        before = file.read_text(encoding="utf-8")
        after = rewritten(before, file)
        if after == before:
            continue
        changed = True
        if _CHECK.value:
            lines = (text.splitlines(keepends=True) for text in (before, after))
            sys.stdout.writelines(difflib.unified_diff(*lines, f"{file}", f"{file}, from the files of results/"))
        else:
            file.write_text(after, encoding="utf-8")
            print(f"written: {file}")
    return int(changed and _CHECK.value)


def rewritten(text: str, file: Path) -> str:
    """Returns a document with its tables rewritten from the result files.

    Raises ValueError if a table's name is unknown or its end is missing.
    """

    def made(match: re.Match[str]) -> str:
        if match["name"] not in TABLES:
            raise ValueError(f"{file}: there is no table {match['name']!r}; there are: {', '.join(TABLES)}")
        return f"{match['begin']}\n{TABLES[match['name']]()}\n\n{match['end']}"

    tables = list(MARKED.finditer(text))
    if len(tables) != len(BEGIN.findall(text)):
        raise ValueError(f"{file}: a table does not end; write `<!-- end of table -->` on a line of its own below it")
    return MARKED.sub(made, text)


# Tables of the study and the demo, from the folders of runs.


def study() -> str:
    """Returns the arms of the study against three baselines, lowest loss first."""
    return _against(_runs("study/runs/study"), BASELINES)


def study_4_seeds() -> str:
    """Returns the same over the seeds that all arms have, with the runs that were added later."""
    return _against(_runs("study/runs/study", "study/runs/more_seeds"), BASELINES)


def study_5_seeds() -> str:
    """Returns the same for the arms that have the most seeds."""
    runs = _runs("study/runs/study", "study/runs/more_seeds")
    seeds = collections.Counter(run.arm for run in runs)
    return _against([run for run in runs if seeds[run.arm] == max(seeds.values())], BASELINES)


def study_all_tokens() -> str:
    """Returns the study's differences over all held-out tokens, from their means over groups of tokens."""
    from kronecker.report.intervals import Difference

    by_frequency = _read("study/compare.json")["by_token"]["target_frequency"]
    tokens = by_frequency["tokens"]
    rows = []
    for arm, groups in by_frequency["differences"].items():
        per_seed = zip(*(group["per_seed"] for group in groups), strict=True)
        means = (sum(n * mean for n, mean in zip(tokens, of_seed, strict=True)) / sum(tokens) for of_seed in per_seed)
        difference = Difference(tuple(groups[0]["seeds"]), tuple(means))
        rows.append(
            (difference.mean, f"`{arm}`", f"{_signed(difference.mean)} ± {difference.half:.4f}", difference.verdict)
        )
    return _table(
        ("arm", f"against `{BASELINE}`, {sum(tokens):,} tokens", "verdict"), [row[1:] for row in sorted(rows)]
    )


def learning_rates() -> str:
    """Returns the last training loss of each arm at each rate, the lowest of an arm in bold."""
    losses = {(run.arm, run.config["train.lr"]): run.result["train_loss"] for run in _runs("study/runs/learning_rate")}
    arms, rates = (list(dict.fromkeys(parts)) for parts in zip(*sorted(losses, reverse=True), strict=True))
    rates.sort()
    rows = []
    for arm in arms:
        lowest = min(losses[arm, rate] for rate in rates)
        shown = {rate: f"{losses[arm, rate]:.3f}" for rate in rates}
        rows.append((f"`{arm}`", *(f"**{shown[r]}**" if losses[arm, r] == lowest else shown[r] for r in rates)))
    return _table(("peak learning rate", *(f"{rate:.3f}" for rate in rates)), rows)


def twice_the_rate() -> str:
    """Returns the arms that have every seed at both rates, against the baseline at each."""
    runs = _runs("study/runs/study", "study/runs/twice_the_rate")
    count = collections.Counter((run.arm, run.config["train.lr"]) for run in runs)
    rates = sorted({rate for _, rate in count}, reverse=True)
    whole = {arm for arm, _ in count if min(count[arm, rate] for rate in rates) == max(count.values())}
    chosen = [run for run in runs if run.arm in whole]
    return _against(chosen, [f"{BASELINE} lr={rate}" for rate in rates], tuned=True)


def rates_by_seed() -> str:
    """Returns the validation loss of each run at twice the rate, and of the study's with the same arm and seed."""
    twice = _runs("study/runs/twice_the_rate")
    rate = {run.config["train.lr"] for run in twice}.pop()
    first = {(run.arm, run.seed): run for run in _runs("study/runs/study")}
    rows = []
    for run in twice:
        partner = first[run.arm, run.seed]
        losses = (partner.result["validation_loss"], run.result["validation_loss"])
        rows.append(
            (f"`{run.arm}`", str(run.seed), *(f"{loss:.4f}" for loss in losses), _signed(losses[1] - losses[0]))
        )
    before = first[twice[0].arm, twice[0].seed].config["train.lr"]
    return _table(("arm", "seed", f"at {before}", f"at {rate}", "difference"), rows)


def input_rate() -> str:
    """Returns the arms whose input's learning rate was multiplied, against Kronecker and against the table as it is."""
    multiplied = _runs("study/runs/input_rate")
    arms = {run.arm for run in multiplied}
    runs = [run for run in _runs("study/runs/twice_the_rate") if run.arm in arms]
    return _against([*runs, *multiplied], ("kronecker", f"{BASELINE} decay_mult=1.0 lr_mult=1.0"))


def tuning() -> str:
    """Returns each arm's best point of the tuned study so far, by training loss, and its lead over the next."""
    search = config_files.load_module(str(ROOT / "configs" / "tuned_study.py")).tuning
    of_arm = collections.defaultdict(dict)
    for run in _runs("tuned/tuning"):
        of_arm[run.arm][run.config[search.RATE], run.config[search.MULTIPLIER]] = run.loss_at_end
    rows = []
    for arm, losses in of_arm.items():
        best, *others = sorted(losses, key=losses.__getitem__)
        ahead = f"{losses[others[0]] - losses[best]:.4f}" if others else ""
        around = [point for point in search.cross(best) if point not in losses]
        state = f"{len(around)} of its neighbours to run" if around else "each neighbour is worse"
        rows.append((f"`{arm}`", state, str(len(losses)), *(f"{one:g}" for one in best), f"{losses[best]:.4f}", ahead))
    headers = ("arm", "search", "points", "best rate", "multiplier", "training loss", "ahead of the next by")
    return _table(headers, rows, left=2)


def demo() -> str:
    """Returns the first table that compare.py prints of the demo's runs: the verdicts."""
    from kronecker.report import compare, tables
    from kronecker.runtime import printing

    printed = io.StringIO()
    printing.show(tables.verdicts(compare.compare(_runs("demo"))), file=printed)
    lines = "\n".join(line.rstrip() for line in printed.getvalue().splitlines())
    return f"```text\n{lines}\n```"


def _runs(*folders: str) -> list[Any]:
    from kronecker.run import finished_runs

    return [finished_runs.read(run) for run in finished_runs.find(_path(folder) for folder in folders)]


def _against(runs: Sequence[Any], baselines: Sequence[str], tuned: bool = False) -> str:
    from kronecker.report import compare

    comparisons = {name: compare.compare(runs, name, compare.TUNED if tuned else ()) for name in baselines}
    first = comparisons[baselines[0]]
    cells = {
        (name, arm.name): f"{_signed(arm.difference.mean)} ± {arm.difference.half:.4f} {arm.difference.verdict}"
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
    return _table(("arm", "nats/token", *(f"against {_named(name)}" for name in baselines)), rows)


def _named(arm: str) -> str:
    """Returns an arm's name in a comparison as Markdown: `table_untied` at 0.004, or with its settings."""
    name, _, setting = arm.partition(" ")
    key, _, value = setting.partition("=")
    return f"`{name}`" + (f" at {value}" if key == "lr" else f" with {setting}" if setting else "")


def _signed(number: float) -> str:
    return f"{number:+.4f}".replace("-", "−")


# Tables of the benchmarks.


def encoder_cpu() -> str:
    """Returns the times, in the widest settings, of a table, `auto`, `onthefly` and the author's package."""
    result = _read("benchmark/encoder-cpu.json")
    torch = ".".join(result["machine"]["versions"]["torch"].split(".")[:2])
    names = {"table": "`flax.linen.Embed`", "reference": f"the author's package, PyTorch {torch}"}
    rows = []
    for setting in result["settings"]:
        found = {row["name"]: row for row in setting["contenders"]}
        if set(names) - set(found) or setting["d"] < max(other["d"] for other in result["settings"]):
            continue
        for name in ("table", setting["auto"], "onthefly", "reference"):
            times = (f"{1e3 * found[name]['measures'][measure]['median_seconds']:.1f}" for measure in MEASURES)
            rows.append((str(setting["P"]), names.get(name, f"`{name}`"), *times))
    return _table(("P", "input", "forward, ms", "+ gradient, ms", "+ AdamW update, ms"), rows, left=2)


def encoder_cpu_ratios() -> str:
    """Returns the time of the automatic choice over a table's, round by round, in every setting."""
    rows = []
    for setting in _read("benchmark/encoder-cpu.json")["settings"]:
        ratios = [setting["ratios"][f"auto_over_table_{measure}"] for measure in MEASURES]
        size = (f"{setting[key]:,}" for key in ("tokens", "d", "P", "vocab"))
        rows.append((*size, *map(_quartiles, ratios)))
    return _table(("tokens", "d", "P", "V", "forward", "+ gradient", "+ AdamW update"), rows, left=0)


def step_cpu() -> str:
    """Returns the time of every arm's training step over the baseline's, round by round, and its memory."""
    result = _read("benchmark/step-cpu.json")
    rows = [
        (
            f"`{row['name']}`",
            *(f"{row['ratio'][key]:.3f}" for key in ("median", "low", "high")),
            f"{row['memory']['total'] / 1e6:,.0f}",
        )
        for row in result["arms"]
    ]
    headers = ("arm", f"time over `{result['baseline']}`'s", "lower quartile", "upper quartile", "memory, MB")
    return _table(headers, rows)


def train_cpu() -> str:
    """Returns our tokens per second over PyTorch's, round by round with quartiles."""
    sizes = [size for name in ("micro", "124m") for size in _read(f"benchmark/train-{name}-cpu.json")["sizes"]]
    others = list(sizes[0]["contenders"][0]["speedup"])
    rows = [
        (
            f"`{size['size']}`",
            f"{size['batch']} x {size['sequence']}",
            f"`{row['name']}`",
            *(_quartiles(row["speedup"][other]) for other in others),
        )
        for size in sizes
        for row in size["contenders"]
        if row["what"] == "ours"
    ]
    return _table(("size", "tokens a step", "ours", *(f"over `{other}`" for other in others)), rows, left=3)


def runs_cpu() -> str:
    """Returns the whole runs that finish an hour, by how many are at work at a time."""
    rows = [
        (
            f"{way['at_a_time']}",
            f"{way['devices_each']}",
            f"{way['runs_per_hour']:.0f}",
            _quartiles(way["speedup"]),
        )
        for way in _read("benchmark/runs-cpu.json")["ways"]
    ]
    return _table(("at a time", "simulated devices each", "runs an hour", "over one at a time"), rows, left=0)


def data_cpu() -> str:
    """Returns what preparing and reading took, by tokens."""
    result = _read("benchmark/data-cpu.json")
    rows = []
    for one in (*result["sizes"], result["far"]):
        prepare, start, cold = one.get("prepare"), one["start"], one.get("read_cold")
        rows.append(
            (
                f"{(prepare or one)['tokens'] / 1e6:,.0f}",
                *(f"{prepare[key]:.1f}" if prepare else "" for key in ("seconds", "cpu_seconds")),
                f"{prepare['peak_bytes'] / 1e6:,.0f}" if prepare else "",
                *(f"{1e3 * start[key]:,.1f}" for key in ("open_seconds", "first_batch_seconds")),
                f"{one['read']['median'] / 1e6:.1f}",
                f"{cold['median'] / 1e6:.1f}" if cold else "",
                f"{one['read']['peak_bytes'] / 1e6:,.0f}",
            )
        )
    preparing = ("M tokens", "preparing, s", "preparing: CPU time, s", "preparing: peak memory, MB")
    reading = ("reading, M tokens/s", "reading from the disk, M tokens/s", "reading: peak memory, MB")
    return _table((*preparing, "opening, ms", f"first batch of {result['batch']}, ms", *reading), rows, left=0)


def encoder_h100() -> str:
    """Returns what the compiler of an H100 made of each input side."""
    target = _read("benchmark/encoder-h100.json")["targets"][0]
    forms = collections.defaultdict(list)
    for row in target["rows"]:
        forms[row["name"]].append(row["programs"])
    rows = []
    for name, programs in forms.items():
        kind, _, gradient = name.partition(", ")
        words = [kind if kind == "table" else f"`{kind}`", *([f"gradient by {gradient}"] if gradient else [])]
        temporaries = (
            _of_forms([one[measure]["temporary_bytes"] / 1e6 for one in programs], ".1f") for measure in MEASURES[:2]
        )
        traffic, bounds = [], []
        for measure in MEASURES[1:]:
            counted = [one[measure] for one in programs if one[measure]["comparable"]]
            traffic.append(_of_forms([one["bytes_accessed"] / 1e6 for one in counted], ",.0f"))
            bounds.append(_of_forms([1e3 * one["bound_seconds"] for one in counted], ".3f"))
        auto = " (`auto`)" if name == target["auto"] else ""
        rows.append((", ".join(words) + auto, *temporaries, *traffic, *bounds))
    headers = ("embedding", "temporaries, forward, MB", "temporaries, + gradient, MB", "traffic, + gradient, MB")
    return _table((*headers, "traffic, + AdamW, MB", "bound, + gradient, ms", "bound, + AdamW, ms"), rows)


def _of_forms(numbers: Sequence[float], form: str) -> str:
    """Returns the number of each form of a program, one if they are equal; "unknown" if there is none."""
    from kronecker.cross_compile import input_tables

    return " / ".join(dict.fromkeys(format(number, form) for number in numbers)) or input_tables.NOT_COUNTED


def train_tpu() -> str:
    """Returns the least memory and time of a training step on slices of TPUs."""
    return _steps("train-tpu-124m", "train-tpu-1558m")


def train_h100() -> str:
    """Returns the least memory and time of a training step on one H100 and on eight."""
    return _steps("train-h100-124m", "train-h100x8-124m")


def _steps(*names: str) -> str:
    results = [
        (name.rpartition("-")[2], target) for name in names for target in _read(f"benchmark/{name}.json")["targets"]
    ]
    forms = any(row["form"] for _, target in results for row in target["rows"])
    rows = []
    for size, target in results:
        mesh = target["mesh"]
        for row in target["rows"]:
            total = row["memory"]["total"]
            rows.append(
                (
                    size,
                    target["target"],
                    f"{mesh['data']} x {mesh['fsdp']}",
                    f"`{row['arm']}`",
                    *([row["form"]] if forms else []),
                    f"{total / 1e9:.1f}",
                    _percent(total / target["memory"]),
                    f"{row['sent_bytes'] / 1e9:.2f}",
                    *(f"{1e3 * row['seconds'][part]:.1f}" for part in ("compute", "links")),
                    _percent(row["mfu_bound"]),
                )
            )
    left = ("size", "devices", "data x fsdp", "arm", *(["products"] if forms else []))
    numbers = ("a device needs, GB", "of its memory", "a device sends, GB", "compute, ms", "links, ms", "MFU at most")
    return _table((*left, *numbers), rows, left=len(left))


# Tables of published models.


def published_tables() -> str:
    """Returns the geometry of published tables, of their vocabularies' codes and of a random table."""
    found = {one["name"]: one["rows"] for one in _read("probes/geometry-published.json")}
    together = zip(*(found[name] for name in ("loose", "anisotropy", "edit_distance", "unseen")), strict=True)
    rows = [
        (
            loose[0],
            *(f"{round(number, 3) + 0.0:.3f}" for number in (loose[-1], anisotropy[1], *cosines[1:4])),
            f"{unseen[1]} of {unseen[2]}",
        )
        for loose, anisotropy, cosines, unseen in together
    ]
    headers = ("embedding", "loose morph@5", "mean cosine of random pairs", "of one word's spellings", "of one stem")
    return _table((*headers, "of unrelated words", "unseen words near a part"), rows)


def graft() -> str:
    """Returns the residuals of a graft and its losses, before any step and after some, beside the other arms'."""
    found = _read("graft/smollm2.json")
    arms, fits = found["arms"], found["fits"]
    measures = dict.fromkeys(what for fit in fits.values() for what in fit)
    rows = [
        (what, *(f"{fits[arm][what]:.4f}" if what in fits.get(arm, {}) else "" for arm in arms)) for what in measures
    ]
    for at in zip(*(result["held out"] for result in arms.values()), strict=True):
        rows.append((f"held-out loss after {at[0][0]} steps", *(f"{loss:.4f}" for _, loss in at)))
    return _table(("of the graft", *(f"`{arm}`" for arm in arms)), rows)


def graft_fits() -> str:
    """Returns what fits by other weights leave, and the losses of the model that begins with them."""
    keys = ("weights", "stretch", "factor", "unexplained by occurrence", "mean length over the table's", "loss")
    return _table(keys, [tuple(map(str, map(fit.get, keys))) for fit in _read("graft/fits.json")["fits"]])


# Tables of what was counted.


def parameters_of_sizes() -> str:
    """Returns the parameters of the paper's size and of the largest, counted on the models."""
    rows = []
    for size in ("124m", "1558m"):
        for arm in BASELINES:
            counts = parameters.count(size, arm)
            rows.append((size, f"`{arm}`", *(f"{counts[group]:,}" for group in parameters.GROUPS)))
    return _table(("size", "arm", *parameters.GROUPS), rows, left=2)


def corpora() -> str:
    """Returns what each corpus behind the results is made of."""
    rows = []
    for corpus in _read("corpora.json"):
        for name, part in corpus["parts"].items():
            shares = (
                f"{100 * part[split]['bytes'] / total['bytes']:.1f} %" for split, total in corpus["splits"].items()
            )
            rows.append((f"`{corpus['name']}`", name, part["text"], part["licence"], part["get"], *shares))
    headers = ("corpus", "part", "what it is", "licence", "where to get it", "of training bytes", "of held-out bytes")
    return _table(headers, rows, left=5)


def corpora_of_results() -> str:
    """Returns which results are from which corpus, with the sha256 of its one file or of its text."""
    rows = [
        (
            found["files"],
            f"`{corpus['name']}`",
            f"`{(corpus['file_sha256'] or corpus['text_sha256'])[:16]}`",
            found["known"],
        )
        for corpus in _read("corpora.json")
        for found in corpus["results"]
    ]
    return _table(("results", "corpus", "sha256 begins", "how we know"), rows, left=4)


def _quartiles(ratio: Mapping[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _path(name: str) -> Path:
    return Path(_RESULTS.value) / name


def _read(name: str) -> Any:
    return json.loads(_path(name).read_text(encoding="utf-8"))


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Returns a table in Markdown; the first `left` columns are text, all others hold numbers."""
    rule = ["---"] * left + ["---:"] * (len(headers) - left)
    return "\n".join("|" + "".join(f" {cell} |" if cell else " |" for cell in row) for row in (headers, rule, *rows))


TABLES: dict[str, Callable[[], str]] = {
    "study": study,
    "study-4-seeds": study_4_seeds,
    "study-5-seeds": study_5_seeds,
    "study-all-tokens": study_all_tokens,
    "learning-rates": learning_rates,
    "twice-the-rate": twice_the_rate,
    "rates-by-seed": rates_by_seed,
    "input-rate": input_rate,
    "tuning": tuning,
    "demo": demo,
    "encoder-cpu": encoder_cpu,
    "encoder-cpu-ratios": encoder_cpu_ratios,
    "step-cpu": step_cpu,
    "train-cpu": train_cpu,
    "runs-cpu": runs_cpu,
    "data-cpu": data_cpu,
    "encoder-h100": encoder_h100,
    "train-tpu": train_tpu,
    "train-h100": train_h100,
    "published-tables": published_tables,
    "graft": graft,
    "graft-fits": graft_fits,
    "parameters": parameters_of_sizes,
    "corpora": corpora,
    "corpora-of-results": corpora_of_results,
}


if __name__ == "__main__":
    cli.run(main, positional=True)
