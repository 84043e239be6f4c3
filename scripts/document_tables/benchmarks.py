"""Tables of the benchmarks."""

import collections
from collections.abc import Sequence

from document_tables import committed, markdown

MEASURES = ("forward", "gradient", "update")  # of the encoder's


def encoder_cpu() -> str:
    """Returns the times, in the widest settings, of a table, `auto`, `onthefly` and the author's package."""
    result = committed.read("benchmark/encoder-cpu.json")
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
    return markdown.table(("P", "input", "forward, ms", "+ gradient, ms", "+ AdamW update, ms"), rows, left=2)


def encoder_cpu_ratios() -> str:
    """Returns the time of the automatic choice over a table's, round by round, in every setting."""
    rows = []
    for setting in committed.read("benchmark/encoder-cpu.json")["settings"]:
        ratios = [setting["ratios"][f"auto_over_table_{measure}"] for measure in MEASURES]
        size = (f"{setting[key]:,}" for key in ("tokens", "d", "P", "vocab"))
        rows.append((*size, *map(markdown.quartiles, ratios)))
    return markdown.table(("tokens", "d", "P", "V", "forward", "+ gradient", "+ AdamW update"), rows, left=0)


def step_cpu() -> str:
    """Returns the time of every arm's training step over the baseline's, round by round, and its memory."""
    result = committed.read("benchmark/step-cpu.json")
    rows = [
        (
            f"`{row['name']}`",
            *(f"{row['ratio'][key]:.3f}" for key in ("median", "low", "high")),
            f"{row['memory']['total'] / 1e6:,.0f}",
        )
        for row in result["arms"]
    ]
    headers = ("arm", f"time over `{result['baseline']}`'s", "lower quartile", "upper quartile", "memory, MB")
    return markdown.table(headers, rows)


def train_cpu() -> str:
    """Returns our tokens per second over PyTorch's, round by round with quartiles."""
    sizes = [size for name in ("micro", "124m") for size in committed.read(f"benchmark/train-{name}-cpu.json")["sizes"]]
    others = list(sizes[0]["contenders"][0]["speedup"])
    rows = [
        (
            f"`{size['size']}`",
            f"{size['batch']} x {size['sequence']}",
            f"`{row['name']}`",
            *(markdown.quartiles(row["speedup"][other]) for other in others),
        )
        for size in sizes
        for row in size["contenders"]
        if row["what"] == "ours"
    ]
    return markdown.table(("size", "tokens a step", "ours", *(f"over `{other}`" for other in others)), rows, left=3)


def runs_cpu() -> str:
    """Returns the whole runs that finish an hour, by how many are at work at a time."""
    rows = [
        (
            f"{way['at_a_time']}",
            f"{way['devices_each']}",
            f"{way['runs_per_hour']:.0f}",
            markdown.quartiles(way["speedup"]),
        )
        for way in committed.read("benchmark/runs-cpu.json")["ways"]
    ]
    return markdown.table(("at a time", "simulated devices each", "runs an hour", "over one at a time"), rows, left=0)


def data_cpu() -> str:
    """Returns what preparing and reading took, by tokens."""
    result = committed.read("benchmark/data-cpu.json")
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
    return markdown.table((*preparing, "opening, ms", f"first batch of {result['batch']}, ms", *reading), rows, left=0)


def encoder_h100() -> str:
    """Returns what the compiler of an H100 made of each input side."""
    target = committed.read("benchmark/encoder-h100.json")["targets"][0]
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
    return markdown.table((*headers, "traffic, + AdamW, MB", "bound, + gradient, ms", "bound, + AdamW, ms"), rows)


def train_tpu() -> str:
    """Returns the least memory and time of a training step on slices of TPUs."""
    return _steps("train-tpu-124m", "train-tpu-1558m")


def train_h100() -> str:
    """Returns the least memory and time of a training step on one H100 and on eight."""
    return _steps("train-h100-124m", "train-h100x8-124m")


def _of_forms(numbers: Sequence[float], form: str) -> str:
    """Returns the number of each form of a program, one if they are equal; "unknown" if there is none."""
    from kronecker.cross_compile import input_tables

    return " / ".join(dict.fromkeys(format(number, form) for number in numbers)) or input_tables.NOT_COUNTED


def _steps(*names: str) -> str:
    results = [
        (name.rpartition("-")[2], target)
        for name in names
        for target in committed.read(f"benchmark/{name}.json")["targets"]
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
                    markdown.percent(total / target["memory"]),
                    f"{row['sent_bytes'] / 1e9:.2f}",
                    *(f"{1e3 * row['seconds'][part]:.1f}" for part in ("compute", "links")),
                    markdown.percent(row["mfu_bound"]),
                )
            )
    left = ("size", "devices", "data x fsdp", "arm", *(["products"] if forms else []))
    numbers = ("a device needs, GB", "of its memory", "a device sends, GB", "compute, ms", "links, ms", "MFU at most")
    return markdown.table((*left, *numbers), rows, left=len(left))


TABLES = {
    "encoder-cpu": encoder_cpu,
    "encoder-cpu-ratios": encoder_cpu_ratios,
    "step-cpu": step_cpu,
    "train-cpu": train_cpu,
    "runs-cpu": runs_cpu,
    "data-cpu": data_cpu,
    "encoder-h100": encoder_h100,
    "train-tpu": train_tpu,
    "train-h100": train_h100,
}
