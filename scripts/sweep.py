r"""Runs the runs of a config's sweep(): skips finished ones, resumes interrupted
ones.

  python scripts/sweep.py --config=configs/demo.py --out=runs/demo
  python scripts/sweep.py --config=configs/demo.py --out=runs/demo \
      --seeds=3 --dry_run
  python scripts/sweep.py --config=configs/demo.py --out=runs/two_layers \
      --config.model.layers=2

--config.KEY=VALUE sets a key in every run, as in train.py; a key that sweep()
sets itself is refused.  Each run has the folder OUT/ARM-seedN; other keys that
vary within an arm stand between ARM and seedN.  A failed run does not stop the
others.  The exit code is 0 if all runs are finished, 1 if one failed, 143 if
one was stopped, 2 for bad input.  The same command resumes the sweep.  At the
end it prints a table of the last training and validation losses, in nats per
token.  --dry_run prints the cost of all runs, finished ones included, and the
time that the unfinished ones take.

Several runs at a time on this machine, each with its log in OUT/logs and an
equal share of the GPUs:
  python scripts/sweep.py --config=configs/gpt2.py:size=124m \
      --out=runs/124m --seeds=3 --launcher=local --parallel=4

As a SLURM job array, whose jobs are requeued after preemption and at their time
limit (docs/gpus.md):
  python scripts/sweep.py --config=configs/gpt2.py:size=124m \
      --out=runs/124m --seeds=3 --launcher=slurm \
      --slurm_partition=gpu --slurm_gpus_per_node=1 \
      --slurm_cpus_per_task=8 --slurm_time=12:00:00
This returns once the jobs are submitted; --wait waits for the last one.  OUT
must be on a disk that the nodes share.

--stages runs the config's stages(loss) in place of sweep(), if it has one: lists
of runs, the later ones chosen by the training losses of the earlier ones.  Each
stage has its folder in OUT.  The same command resumes it; SLURM jobs without
--wait are one stage a call:
  python scripts/sweep.py --config=configs/tuned_study.py --stages \
      --out=results/tuned --parallel=2
"""

from kronecker.runtime import interrupts

if __name__ == "__main__":
    interrupts.end_silently()  # during the other imports

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from kronecker.runtime import cli

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A config file with a function sweep(seeds), or stages(loss)."
)
_OUT = flags.DEFINE_string("out", None, "The sweep's folder; each run gets a folder in it.")
_SEEDS = flags.DEFINE_integer("seeds", 1, "The number of seeds, passed to sweep(seeds).")
_STAGES = flags.DEFINE_bool("stages", False, "Run the config's stages() in place of its sweep().")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only list the runs: state, command, cost and time.")
_LAUNCHER = flags.DEFINE_enum(
    "launcher", "local", ["local", "slurm"], "Where to run: on this machine, or as SLURM jobs."
)
_PARALLEL = flags.DEFINE_integer("parallel", 1, "With --launcher=local: the number of runs at a time.")
_WAIT = flags.DEFINE_bool("wait", False, "With --launcher=slurm: wait for all jobs, then print the table.")
flags.DEFINE_string("slurm_partition", "", "The partition; empty: the cluster's default (sinfo lists them).")
flags.DEFINE_string("slurm_account", "", "The account to charge; empty: your default.")
flags.DEFINE_string(
    "slurm_time", "4:00:00", "A job's time limit: minutes, H:MM:SS or D-H:MM:SS; a longer run is requeued."
)
flags.DEFINE_integer("slurm_nodes", 1, "Nodes of a run.")
flags.DEFINE_integer(
    "slurm_tasks_per_node", 0, "Processes of a run on each node; 0: one, or one per GPU if a run has several nodes."
)
flags.DEFINE_integer("slurm_gpus_per_node", 0, "GPUs of a run on each node.")
flags.DEFINE_integer("slurm_cpus_per_task", 0, "CPU cores of a process; 0: the cluster's default, often one.")
flags.DEFINE_float("slurm_mem", 0.0, "Memory of a run on each node in gigabytes; 0: the cluster's default.")
flags.DEFINE_integer("slurm_array_parallelism", 16, "With --launcher=slurm: the most runs at a time.")
flags.DEFINE_integer("slurm_signal_delay", 120, "Seconds before the time limit at which a run saves and exits.")
flags.DEFINE_integer(
    "slurm_max_timeouts", 100, "How often a run may be requeued at its time limit; preemptions do not count."
)

TRAIN = Path(__file__).parents[1] / "train.py"


def main() -> int:
    """Runs or lists the sweep; returns the exit code."""
    from kronecker.sweep import (
        local,
        planning,  # here, so that --help is quick
        slurm,
        stages,
    )

    if not _OUT.value:
        raise ValueError("--out is missing; for example --out=runs/demo")
    _check_launcher()
    flag = flags.FLAGS["config"]
    config, overrides = config_flags.get_config_filename(flag), config_flags.get_override_values(flag)
    out, seeds = Path(_OUT.value), _SEEDS.value
    names = (field.name for field in dataclasses.fields(slurm.Resources))
    resources = slurm.Resources(**{name: flags.FLAGS[f"slurm_{name}"].value for name in names})

    def launch(planned: Sequence[planning.Planned], out: Path) -> int:
        if _LAUNCHER.value == "local":
            return local.execute(planned, out, _PARALLEL.value)
        return slurm.execute(planned, out, resources, _WAIT.value)

    if _STAGES.value:
        if flags.FLAGS["seeds"].present:
            raise ValueError("--seeds is for sweep(); with --stages the config sets the seeds")
        staged = stages.of_config(config, out, overrides, TRAIN)
        if not _DRY_RUN.value:
            return stages.execute(staged, launch)
        for name, groups in staged:
            planned = [one.planned for group in groups for one in group]
            print(f"stage {name}:\n{planning.describe(planned)}", flush=True)
            print(planning.describe_time(planned, _PARALLEL.value))
        return 0
    runs = planning.expand(config, seeds, overrides)
    planned = planning.plan(config, out, runs, TRAIN)
    if _DRY_RUN.value:
        print(planning.describe(planned), flush=True)
        if _LAUNCHER.value != "local":
            print(slurm.describe(planned, out, resources), flush=True)
        at_once = _PARALLEL.value if _LAUNCHER.value == "local" else resources.array_parallelism
        print(planning.describe_time(planned, at_once), flush=True)
        from kronecker.training import cost  # imports JAX; the list need not wait for it

        print(f"cost ({cost.BASIS}):\n  {cost.describe([resolved for _, resolved in runs.values()])}")
        return 0
    return launch(planned, out)


def _check_launcher() -> None:
    given = [name for name in flags.FLAGS if name.startswith("slurm_") and flags.FLAGS[name].present]
    if _LAUNCHER.value == "local" and (given or _WAIT.value):
        raise ValueError(f"--{given[0] if given else 'wait'} needs --launcher=slurm; the launcher is local")
    if _LAUNCHER.value != "local" and flags.FLAGS["parallel"].present:
        raise ValueError("--parallel needs --launcher=local; for SLURM jobs set --slurm_array_parallelism")


if __name__ == "__main__":
    cli.run(main)
