"""Runs the paper's probes on the checkpoints of one run, or of a pair with paired statistics.

  python scripts/probe.py runs/demo/kronecker-seed0
  python scripts/probe.py runs/demo/table_tied-seed0 runs/demo/kronecker-seed0 --probes=robustness,layered
  python scripts/probe.py runs/demo/table_tied-seed0 runs/demo/kronecker-seed0 --pairs=typos.json --json=probes.json

Of two runs the first is the baseline.  Probes: geometry (of the input embedding, beside the codes alone), layered
(word families by depth), robustness (one typo in a prompt), generation (normal, misspelled and unseen words).
--pairs names a JSON list of {category, clean, typo} to use instead of our 330 pairs, or a result file of the paper
author's package.  --json also writes every table, the texts of the generation probe among them, under the keys that
kronecker/probes/result.py documents.  Intervals are over prompts: other seeds may differ by more.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from kronecker import cli

_PROBES = flags.DEFINE_list("probes", ["all"], "Names of probes, or all.")
_PAIRS = flags.DEFINE_string("pairs", None, "A JSON file with prompt pairs for the robustness probe.")
_JSON = flags.DEFINE_string("json", None, "Also write every table to this file.")


def main(folders: Sequence[str]) -> None:
    """Prints the tables."""
    from kronecker.probes import on_runs, prompts, result  # after the flags: --help should not wait for JAX
    from kronecker.report.page import write_text
    from kronecker.training import restore

    if len(folders) not in (1, 2):
        raise ValueError(f"{len(folders)} runs given; give one, or two that are a pair: scripts/probe.py RUN_A RUN_B")
    pairs = prompts.read_pairs(_PAIRS.value) if _PAIRS.value else prompts.pairs()
    found = {Path(folder).name: restore.open_run(folder) for folder in folders}
    if len(found) < len(folders):
        raise ValueError(f"{folders[0]} and {folders[1]} have one name; give runs in folders of different names")
    results = on_runs.run(_PROBES.value, found, pairs)
    result.show([one for one in results if one.name != on_runs.TEXTS])
    if _JSON.value:
        write_text(Path(_JSON.value), json.dumps([result.to_json(one) for one in results], indent=2) + "\n")


if __name__ == "__main__":
    cli.run(main, positional=True)
