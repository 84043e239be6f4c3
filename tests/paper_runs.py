"""Runs and probe results with made-up numbers, for the pages of the paper's tables."""

from pathlib import Path

from run_folders import write_run

from kronecker.run import finished_runs, result

LOSSES = {"table_tied": (4.60, 4.62, 4.61), "table_untied": (4.50, 4.51, 4.52), "kronecker": (4.52, 4.53, 4.54)}
LAYERED = result.Result(
    name="layered",
    title="Families by depth",
    source="6.8",
    conditions={"model": "small"},
    columns=("run", "space", "family", "words", "loose", "root", "strict"),
    rows=[
        (f"{arm}-seed0", space, "all", 48, 0.9, root, 0.1)
        for arm, root in (("table_tied", 0.25), ("kronecker", 0.125))
        for space in ("E_raw", "L1")
    ],
    paper=[(arm, space, "all", 48, 0.9, 0.3, 0.2) for arm in ("table", "Kronecker") for space in ("E_raw", "L1")],
    paper_conditions={"model": "large"},
)
TYPOS = result.Result(
    name="robustness_categories",
    title="Typos",
    source="6.11",
    conditions={},
    columns=("metric", "category", "pairs", "table_tied-seed0", "kronecker-seed0", "difference", "low", "high", "p"),
    rows=[
        (metric, group, 30, 0.5, 0.6, 0.1, -0.1, 0.3, 0.2)
        for metric in ("stable", "KL, nats")
        for group in ("a", "<b>")
    ],
)


def write_runs(folder: Path, losses: dict[str, tuple[float, ...]] = LOSSES) -> list[finished_runs.Run]:
    for arm, of_seed in losses.items():
        for seed, loss in enumerate(of_seed):
            write_run(folder / f"{arm}-seed{seed}", arm, seed, loss)
    return [finished_runs.read(found) for found in finished_runs.find([folder])]
