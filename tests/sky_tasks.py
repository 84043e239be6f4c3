"""Prints what SkyPilot's parser reads in launch files, as JSON; run by the Python of .venv/sky: sky_tasks.py FILE..."""

import json
import sys
from pathlib import Path

import sky
import yaml


def read(file: str) -> dict:
    """Returns the parts of a task that decide where and how it runs."""
    task = sky.Task.from_yaml_config(
        yaml.safe_load(Path(file).read_text()), env_overrides=[("WORKDIR", "gs://bucket/run")]
    )
    (resources,) = task.resources
    return {
        "cloud": str(resources.cloud),
        "accelerators": resources.accelerators,
        "runtime": (resources.accelerator_args or {}).get("runtime_version"),
        "spot": resources.use_spot,
        "recovery": resources.job_recovery,
        "workdir": task.workdir,
        "envs": task.envs,
        "nodes": task.num_nodes,
        "run": task.run,
    }


if __name__ == "__main__":
    print(json.dumps({Path(file).name: read(file) for file in sys.argv[1:]}))
