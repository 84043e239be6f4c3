r"""Trains one model from a config file, or resumes a run that was interrupted.

  python train.py --config=configs/demo.py:arm=kronecker \
      --workdir=runs/kronecker
  python train.py --config=configs/gpt2.py:size=124m,arm=table_untied \
      --workdir=runs/table \
      --config.data.source='jsonl:/texts/*.jsonl.xz' --config.train.steps=1000

--config.KEY=VALUE sets any key of kronecker/schema/keys.py.  The folder
--workdir then holds config.json, env.json, params.json, metrics.jsonl,
checkpoints/ and, once the run is complete, result.json.

On SIGTERM, Ctrl-C or the end of its terminal it saves a checkpoint and exits
with code 143, 130 or 129 within checkpoint.grace_seconds; the same command
resumes the run.  A second Ctrl-C ends it at once.  On a CPU a resumed run has
the same losses as an uninterrupted one, bit for bit; on a GPU only if
train.deterministic is set.

Before the first step it prints parameters, memory and FLOPs, and refuses a run
that needs more memory than a device has; --compile_only stops there.  After the
first steps it prints how long the run takes.

Several processes train one run if SLURM, Open MPI or Cloud TPU started them, or
if each of them gets --config.distributed.coordinator=HOST:PORT
--config.distributed.processes=N --config.distributed.index=I.
"""

from kronecker.runtime import preemption

if __name__ == "__main__":
    preemption.NOTICE.listen()  # before the other imports, in which an interrupt could be lost

import contextlib

from absl import flags
from ml_collections import config_flags

from kronecker.runtime import allocator, cli
from kronecker.schema import resolution

_CONFIG = config_flags.DEFINE_config_file("config", None, "The config file, with its arguments after a colon.")
_COMPILE_ONLY = flags.DEFINE_bool(
    "compile_only", False, "Compile training step and evaluation, print parameters, memory and FLOPs, and stop."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder: a new one, or that of an unfinished run to resume.")


def main() -> None:
    """Trains, and prints the final validation loss."""
    if not _WORKDIR.value:
        raise ValueError("--workdir is missing; for example --workdir=runs/first")
    config = resolution.resolve(_CONFIG.value)
    allocator.keep_freed()
    preemption.NOTICE.grace_seconds = config.checkpoint.grace_seconds
    with contextlib.closing(preemption.NOTICE) as notice:
        import jax  # here, so that --help, bad flags and bad configs need not wait for it

        from kronecker.training import loop

        result = loop.run(config, _WORKDIR.value, notice.asked, _COMPILE_ONLY.value)
    if result is None or jax.process_index():
        return
    print(
        f"{_WORKDIR.value}: {result['step']:,} steps, {result['tokens']:,} tokens, "
        f"validation {result['validation_loss']:.4f} nats/token, {result['validation_bits_per_byte']:.4f} bits/byte"
    )


if __name__ == "__main__":
    cli.run(main)
