r"""Prints the cost of sweeps, one line each: runs, tokens, training FLOPs, hours.

  python scripts/costs.py configs/ablations/*.py
  python scripts/costs.py configs/study.py \
      configs/ablations/pos_dim.py:setting=gpu --seeds=5

Give config files as for --config of scripts/sweep.py.  Without --seeds each
sweep has its default number of seeds.
"""

from kronecker.runtime import interrupts

if __name__ == "__main__":
    interrupts.end_silently()  # during the other imports

from collections.abc import Sequence

from absl import flags

from kronecker.runtime import cli

_SEEDS = flags.DEFINE_integer("seeds", None, "Number of seeds of each sweep.")


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
