"""Prints what sweeps will cost, a line each: runs, tokens, training FLOPs, hours.

  python scripts/costs.py configs/ablations/*.py
  python scripts/costs.py configs/ablations/pos_dim.py:setting=gpu configs/study.py --seeds=5

An argument is what --config of scripts/sweep.py takes.  Without --seeds each sweep has the seeds that it has unasked.
"""

from collections.abc import Sequence

from absl import flags

from kronecker.runtime import cli

_SEEDS = flags.DEFINE_integer("seeds", None, "How many seeds each sweep(seeds) is asked for.")


def main(files: Sequence[str]) -> None:
    """Prints the lines."""
    from kronecker.sweep import planning
    from kronecker.training import cost  # after the flags: --help should not wait for JAX

    if not files:
        raise ValueError("no config given; for example: python scripts/costs.py configs/ablations/*.py")
    print(cost.BASIS)
    width = max(map(len, files))
    for file in files:
        print(f"{file:<{width}}  {cost.describe([run for _, run in planning.expand(file, _SEEDS.value, {}).values()])}")


if __name__ == "__main__":
    cli.run(main, positional=True)
