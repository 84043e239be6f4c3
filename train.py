r"""Trains one model from a config file, or goes on where the same command was cut off.

  python train.py --config=configs/demo.py:arm=kronecker --workdir=runs/kronecker
  python train.py --config=configs/gpt2.py:size=124m,arm=table_untied --workdir=runs/table \
      --config.data.source='jsonl:/texts/*.jsonl.xz' --config.train.steps=1000

Any key of kronecker/schema/keys.py can be set with --config.KEY=VALUE.  The folder --workdir then holds config.json,
env.json, params.json, metrics.jsonl, checkpoints/ and, when the run is complete, result.json.

SIGTERM makes it save and leave with exit code 143 within checkpoint.grace_seconds; the same command resumes it.  On a
CPU its losses are then those of an undisturbed run bit for bit; on a GPU, with train.deterministic alone.

Before the first step it says what the run takes, and refuses one for which a device has too little memory;
--compile_only stops there.

Several processes train one run when SLURM, Open MPI or Cloud TPU started them, or when each is told of the others:
--config.distributed.coordinator=HOST:PORT --config.distributed.processes=N --config.distributed.index=I.
"""

from absl import flags
from ml_collections import config_flags

from kronecker.runtime import allocator, cli, preemption
from kronecker.schema import resolution

_CONFIG = config_flags.DEFINE_config_file("config", None, "The config file, with its arguments after a colon.")
_COMPILE_ONLY = flags.DEFINE_bool(
    "compile_only", False, "Stop when step and evaluation are compiled and memory, FLOPs and parameters are told."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder: new, or one that this command left unfinished.")


def main() -> None:
    """Runs the training and prints where it ended."""
    if not _WORKDIR.value:
        raise ValueError("--workdir is missing; for example --workdir=runs/first")
    config = resolution.resolve(_CONFIG.value)
    allocator.keep_freed()
    with preemption.Notice(config.checkpoint.grace_seconds) as notice:
        import jax  # now: --help, bad flags and a config that cannot work should not wait for it

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
