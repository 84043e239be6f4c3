r"""What to run first on an accelerator that this code has never seen: everything worth knowing, in minutes.

  python scripts/accelerator.py --out=results/accelerator --data='texts/*.jsonl.xz' --minutes=8
  python scripts/accelerator.py --out=results/accelerator --data='texts/*.jsonl.xz' --minutes=8 --parts=study
  python scripts/accelerator.py --rehearse --out=runs/rehearsal

Parts, each with its share of the minutes; what one does not use goes to those after it:

  check    every implementation and gradient against the dense code in float64, attention, the loss in chunks, the check
           before training, 20 steps of every arm against the same on the CPU, and whether steps give equal bits twice
  encoder  the input side's forward, gradient and update against a learned table: 8,192 to 65,536 tokens, width 768 and
           2,048, 50,304 and 131,072 ids, 16 and 32 bytes
  step     whole training steps of all arms at 124m, in turns
  mfu      124m by batch, loss_chunk, scan_layers and remat: share of the device's peak, and the ten costliest kernels
  study    the plan in configs/gpu_study.py: learning rates, then input steps, then a seed of the final runs at a time

Each result is a JSON file of its own, OUT/DEVICE/PART/NAME.json, written as soon as it is ready.  Results that exist
for this kind of device, this code (the content of its Python files, not the commit) and these versions are reused, so
several short visits add up; those that failed are computed again.  Runs of the study hold for all code, as those of a
sweep do.  The command ends in tables, and writes them as OUT/DEVICE/report.html too.  Another text goes into another
--out.

It needs no network: the text is --data, the tokenizer --tokenizer.  A text shorter than a run of the study (30 million
tokens) is read several times.  SIGTERM and Ctrl-C keep what is done.  Exit code: 0; 1 if a result is wrong or could not
be had; 2 for a wrong command; 128 and more for a signal.

--rehearse does all of it at toy size on a CPU, in two to five minutes, and says nothing about any device.
docs/accelerator.md says how to read the files, what to commit, and what to do about each verdict.
"""

import re
from pathlib import Path

from absl import flags

from kronecker.accelerator import parts
from kronecker.runtime import cli

_OUT = flags.DEFINE_string("out", "runs/accelerator", "Folder that gets a folder for each kind of device.")
_PARTS = flags.DEFINE_list("parts", [], f"Of {', '.join(part.name for part in parts.PARTS)}; default: all.")
_MINUTES = flags.DEFINE_float("minutes", None, "For all parts; default: 8, or 10 with --rehearse.", lower_bound=0.1)
_DATA = flags.DEFINE_string(
    "data", "stdlib", "The text: a file or pattern of JSON lines, *.jsonl or *.jsonl.xz, or any data.source."
)
_SPLIT_FIELD = flags.DEFINE_string(
    "split_field", "", 'The field of its lines that says "train" or "validation"; default: split by a hash.'
)
_TOKENIZER = flags.DEFINE_string("tokenizer", "gpt2", "As in a config; gpt2 comes with the package.")
_REHEARSE = flags.DEFINE_bool("rehearse", False, "All parts at toy size on a CPU.")
_COMMIT = flags.DEFINE_string("commit", "", "What to write as the commit where the code is in no git repository.")

JSON_LINES = re.compile(r"[^:]*\.jsonl(\.\w+)?")


def main() -> int:
    """Makes the visit and returns its exit code."""
    chosen = parts.choose(_PARTS.value)
    out = Path(_OUT.value)
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out={out}: is a file; name a folder")

    from kronecker.accelerator import extents, visit  # after the flags: they import Matplotlib

    extent = extents.REHEARSAL if _REHEARSE.value else extents.FULL
    source = f"jsonl:{_DATA.value}" if JSON_LINES.fullmatch(_DATA.value) else _DATA.value
    text = extents.Text(source, _SPLIT_FIELD.value, _TOKENIZER.value)
    return visit.run(chosen, _MINUTES.value or extent.minutes, extent, text, out, _COMMIT.value)


if __name__ == "__main__":
    cli.run(main)
