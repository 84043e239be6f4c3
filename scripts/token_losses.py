r"""Writes the loss of every held-out token of finished runs, and what their inputs
use, for the report.

  python scripts/token_losses.py runs/demo
  python scripts/token_losses.py runs/demo/table_untied-seed0 \
      runs/demo/kronecker-seed0
  python scripts/token_losses.py --again runs/demo

Each argument is a run's folder or a folder of runs.  Every run gets
token_losses.npz: each held-out token, its loss, and for each id its frequency
in the training text, bytes, script and shared code.  It also gets
input_use.json: rows in use, effective rank, the step of an embedding, and
Adam's second moments at the end, and held_out.json: the sums of its losses by
document.  Runs whose files are up to date are skipped, as are those without
checkpoints that have the two small files.
scripts/compare.py and report.py then take their losses over all held-out
tokens, with an interval over documents, and report.py shows losses by
frequency, length and script, the cost of shared codes, and a table of inputs.
"""

from kronecker.runtime import interrupts

if __name__ == "__main__":
    interrupts.end_silently()  # during the other imports

import sys
from collections.abc import Sequence

from absl import flags

from kronecker.runtime import cli

_AGAIN = flags.DEFINE_bool("again", False, "Also evaluate runs whose files are up to date.")


def main(folders: Sequence[str]) -> None:
    """Evaluates runs without up-to-date files, and prints their mean losses."""
    from kronecker.probes import input_use
    from kronecker.report import losses_by_token
    from kronecker.run import finished_runs, rundir  # after the flags: --help should not wait for JAX
    from kronecker.training import token_losses

    if not folders:
        raise ValueError("no runs given; for example: python scripts/token_losses.py runs/demo")
    found = finished_runs.find(folders)
    for folder in found:
        finished_runs.require_finished(folder)
    due = [folder for folder in found if _AGAIN.value or not _is_current(folder)]
    for number, folder in enumerate(due, 1):
        print(f"[{number}/{len(due)}] {folder}", file=sys.stderr)
        loss = finished_runs.read(folder).result["validation_loss"]
        arrays = token_losses.write(folder, loss)
        rundir.write_json(folder / rundir.HELD_OUT, losses_by_token.of_documents(arrays, loss))
        rundir.write_json(folder / rundir.INPUT_USE, input_use.of_run(folder) | {"validation_loss": loss})
        print(f"  {arrays['nats'].mean():.4f} nats/token on {len(arrays['nats']):,} held-out tokens", file=sys.stderr)
    print(f"token losses: {len(due)} written, {len(found) - len(due)} up to date")


def _is_current(folder) -> bool:
    from kronecker.report import inputs, losses_by_token
    from kronecker.run import finished_runs, rundir

    try:
        run = finished_runs.read(folder)
        has_losses = losses_by_token.counts_text(run) and losses_by_token.read(run) is not None
        has_losses = has_losses or not rundir.has_checkpoint(folder)  # from elsewhere, without its large files
        has_losses = has_losses and (folder / rundir.HELD_OUT).exists() and bool(losses_by_token.kept(run))
        return has_losses and inputs.read(run) is not None
    except ValueError as error:
        print(error, file=sys.stderr)
        return False


if __name__ == "__main__":
    cli.run(main, positional=True)
