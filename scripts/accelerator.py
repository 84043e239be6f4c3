r"""Checks and measures a new GPU or TPU in a few minutes: correctness, speed, and the
first runs of a study.

  python scripts/accelerator.py --data='texts/*.jsonl.xz' --minutes=8 \
      --out=results/accelerator
  python scripts/accelerator.py --data='texts/*.jsonl.xz' --minutes=8 \
      --out=results/accelerator --parts=study
  python scripts/accelerator.py --rehearse --out=runs/rehearsal

Parts, each with a share of the minutes; time that a part does not use goes to
the parts after it:

  check    correctness: every implementation and gradient against dense codes in
           float64, attention, the loss in chunks, training's self-check, 20
           steps of every arm against the CPU, and whether a second run gives
           equal bits
  encoder  time of the input side, from token ids to embeddings, against a
           learned table: 8,192 to 65,536 tokens, width 768 and 2,048, 50,304
           and 131,072 ids, 16 and 32 byte positions
  step     time and memory of a training step of every arm at size 124m
  mfu      training steps at 124m by batch, loss_chunk, scan_layers and remat:
           share of the device's peak FLOP/s (MFU), and the ten costliest
           kernels
  study    runs of configs/gpu_study.py: first learning rates, then those of the
           input, then the final runs, seed by seed

Each result is written to OUT/DEVICE/PART/NAME.json as soon as it is ready.  The
next call reuses results of the same kind of device, code (the content of its
Python files) and versions, computes failed ones again, and so continues where
the last one stopped.  Runs of the study are reused even if the code has
changed, as in a sweep.  The command ends with tables, and writes them to
OUT/DEVICE/report.html with figures.  Use another --out for another text.

No network is needed if --data names files of this machine and --tokenizer is
gpt2.  A text shorter than a run of the study (30 million tokens) is read
several times.
SIGTERM, SIGHUP and Ctrl-C stop the command; finished results are saved.  Exit code: 1
if a result is wrong or failed, 2 for a wrong command, 128 plus the signal's
number if a signal ended it, otherwise 0.

How to read the tables.
  error, allowed  Norm of the error over the norm of the exact result; for
                  losses the largest difference in nats per token.  WRONG: error
                  is above allowed.  not run: codes would be too large.
  second run      Whether the same steps gave equal or different bits when
                  repeated.
  AdamW / table's Time of forward + gradient + AdamW, over that of a learned
                  table.
  bandwidth used  Lower bound on memory traffic (inputs read once, outputs
                  written once) over the time with AdamW, as a share of the
                  bandwidth measured in the same rounds.
  left            Results that are missing; 2+ means two, and others that depend
                  on them.

--rehearse runs all parts at toy size on a CPU in two to five minutes; its times
mean nothing.
docs/accelerator.md explains the files, what to commit, and what to do about
each verdict.
"""

from kronecker.runtime import interrupts

if __name__ == "__main__":
    interrupts.end_silently()  # during the other imports

import re
from pathlib import Path

from absl import flags

from kronecker.accelerator import parts
from kronecker.runtime import cli

_OUT = flags.DEFINE_string("out", "runs/accelerator", "Folder of results; each kind of device gets a folder in it.")
_PARTS = flags.DEFINE_list(
    "parts", [], f"Parts to run: any of {', '.join(part.name for part in parts.PARTS)}; default: all."
)
_MINUTES = flags.DEFINE_float(
    "minutes", None, "Minutes for all parts; default: 8, or 10 with --rehearse.", lower_bound=0.1
)
_DATA = flags.DEFINE_string(
    "data", "stdlib", "Text: a file or pattern of JSON lines (*.jsonl, *.jsonl.xz), or a value of data.source."
)
_SPLIT_FIELD = flags.DEFINE_string(
    "split_field", "", 'Field of a JSON line that says "train" or "validation"; default: split by hash.'
)
_TOKENIZER = flags.DEFINE_string("tokenizer", "gpt2", "Tokenizer, as in a config; gpt2 needs no download.")
_REHEARSE = flags.DEFINE_bool("rehearse", False, "Run all parts at toy size on a CPU.")
_COMMIT = flags.DEFINE_string("commit", "", "Commit to record if the code is in no git repository.")

JSON_LINES = re.compile(r"[^:]*\.jsonl(\.\w+)?")


def main() -> int:
    """Runs the parts and returns the exit code."""
    chosen = parts.choose(_PARTS.value)
    out = Path(_OUT.value)
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out={out} is a file; give a folder")

    from kronecker.accelerator import extents, visit  # after the flags: they import Matplotlib

    extent = extents.REHEARSAL if _REHEARSE.value else extents.FULL
    source = f"jsonl:{_DATA.value}" if JSON_LINES.fullmatch(_DATA.value) else _DATA.value
    text = extents.Text(source, _SPLIT_FIELD.value, _TOKENIZER.value)
    return visit.run(chosen, _MINUTES.value or extent.minutes, extent, text, out, _COMMIT.value)


if __name__ == "__main__":
    cli.run(main)
