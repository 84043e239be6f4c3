r"""Runs the paper's probes on the checkpoint of one run, or on those of several
with paired statistics.

  python scripts/probe.py runs/demo/kronecker-seed0
  python scripts/probe.py \
      --pair runs/demo/table_tied-seed0 runs/demo/kronecker-seed0 \
      --probes=robustness,layered
  python scripts/probe.py \
      --pair runs/demo/table_tied-seed0 runs/demo/kronecker-seed0 \
      --pairs=typos.json \
      --json=probes.json --page=probes.html

The last of several runs is compared with each of the others; --pair refuses
runs that compare.py --tuned would not pair.  Intervals are over prompts; other
seeds may differ by more.

geometry      of the input embedding, beside the codes alone
layered       word families by depth
robustness    one typo in a prompt
generation    continuations of normal, misspelled and unseen words

--pairs is a JSON list of {category, clean, typo} that replaces our 330 pairs,
or robustness_results.json of the paper author's repository.  --json writes
every table, and the texts of the generation probe, with the keys that
kronecker/run/result.py documents.  --page writes a page, and each table as CSV
into a folder of its name.
"""

from kronecker.runtime import interrupts

if __name__ == "__main__":
    interrupts.end_silently()  # during the other imports

import json
from collections.abc import Sequence

from absl import flags
from etils import epath

from kronecker.runtime import cli

_PROBES = flags.DEFINE_list("probes", ["all"], "Probes to run: geometry, layered, robustness, generation, or all.")
_PAIRS = flags.DEFINE_string("pairs", None, "A JSON file with prompt pairs for the robustness probe.")
_PAIR = flags.DEFINE_bool("pair", False, "Require two runs that are a pair.")
_PAGE = flags.DEFINE_string("page", None, "Also write the tables and figures to this .html page.")
_JSON = flags.DEFINE_string("json", None, "Also write every table to this JSON file.")


def main(folders: Sequence[str]) -> None:
    """Prints the tables."""
    from kronecker.probes import on_runs, prompts
    from kronecker.report.pages import require_name
    from kronecker.run import result  # after the flags: --help should not wait for JAX
    from kronecker.runtime.storage import local_file, write_text

    if not folders:
        raise ValueError("no runs given; give one, or two that are a pair: scripts/probe.py --pair RUN_A RUN_B")
    json_file, page = (
        path and local_file(path, flag) for path, flag in ((_JSON.value, "--json"), (_PAGE.value, "--page"))
    )
    if page:
        require_name(page)
    if _PAIR.value:
        _require_pair(folders)
    pairs = prompts.read_pairs(_PAIRS.value) if _PAIRS.value else prompts.pairs()
    on_runs.chosen(_PROBES.value)  # a misspelt name should not wait for the checkpoints
    found = on_runs.opened({epath.Path(folder).name: folder for folder in folders})
    if len(found) < len(folders):
        raise ValueError(f"two of {', '.join(folders)} have the same name; give runs in folders with different names")
    results = on_runs.run(_PROBES.value, found, pairs)
    on_runs.show(results)
    if json_file:
        write_text(json_file, json.dumps([result.to_json(one) for one in results], indent=2) + "\n")
    if page:
        from kronecker.paper import probe_page

        probe_page.write(results, page, f"Probes of {', '.join(found)}")


def _require_pair(folders: Sequence[str]) -> None:
    from kronecker.report import compare
    from kronecker.run import finished_runs

    if len(folders) != 2:
        raise ValueError(f"--pair: {len(folders)} runs given; give two: scripts/probe.py --pair RUN_A RUN_B")
    first, second = (finished_runs.read(folder) for folder in finished_runs.find(folders))
    if first.seed != second.seed:
        raise ValueError(
            f"--pair: {folders[0]} has seed {first.seed}, {folders[1]} has {second.seed}; give runs of one seed"
        )
    both = [first, second]
    compare.compare(both, compare.names(both, compare.TUNED)[0], compare.TUNED)


if __name__ == "__main__":
    cli.run(main, positional=True)
