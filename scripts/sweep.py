"""Runs a config's sweep() one after another: skips what is finished, goes on with what was cut off.

  python scripts/sweep.py --config=configs/demo.py --out=runs/demo
  python scripts/sweep.py --config=configs/demo.py --out=runs/demo --seeds=3 --dry_run
  python scripts/sweep.py --config=configs/demo.py --out=runs/two_layers --config.model.layers=2

--config.KEY=VALUE sets a key in every run, as in train.py; a key that sweep() sets itself is refused.  Each run gets
the folder OUT/ARM-seedN, with the other keys that vary within an arm in between.  A failed run does not stop the
others; the exit code is 0 if all are finished, 1 if one failed, 2 for bad input.  The same command resumes a sweep.
A sweep ends in a table of last training losses and final validation losses, in nats per token.  The cost that --dry_run
shows is that of all runs, finished ones included.
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from kronecker import cli

_CONFIG = config_flags.DEFINE_config_file("config", None, "A config file with a function sweep(seeds).")
_OUT = flags.DEFINE_string("out", None, "The folder that gets a folder for each run.")
_SEEDS = flags.DEFINE_integer("seeds", 1, "How many seeds sweep(seeds) is asked for.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only list the runs, their state, their commands and what they cost.")

TRAIN = Path(__file__).parents[1] / "train.py"


def main() -> int:
    """Runs the sweep, or lists it; returns the exit code."""
    from kronecker import sweep  # after the flags: --help should be quick

    if not _OUT.value:
        raise ValueError("--out is missing; for example --out=runs/demo")
    flag = flags.FLAGS["config"]
    config, overrides = config_flags.get_config_filename(flag), config_flags.get_override_values(flag)
    out, seeds = Path(_OUT.value), _SEEDS.value
    planned = sweep.plan(config, out, seeds, overrides, TRAIN)
    if _DRY_RUN.value:
        print(sweep.describe(planned), flush=True)
        from kronecker import cost  # imports JAX, for which the list need not wait

        resolved = [run for _, run in sweep.expand(config, seeds, overrides).values()]
        print(f"cost ({cost.BASIS}):\n  {cost.describe(resolved)}")
        return 0
    return sweep.execute(planned, out)


if __name__ == "__main__":
    cli.run(main)
