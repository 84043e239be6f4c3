"""Settings of JAX: those that change the numbers of runs are refused, and a platform that is not there is named."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest

from kronecker.runtime import device_mesh

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jax_enable_x64", True),
        ("jax_default_prng_impl", "rbg"),
        ("jax_threefry_partitionable", False),
        ("jax_random_seed_offset", 1),
        ("jax_numpy_dtype_promotion", "strict"),
        ("jax_numpy_rank_promotion", "raise"),
        ("jax_disable_jit", True),
    ],
)
def test_a_setting_that_changes_the_numbers_of_runs_is_refused_with_the_variable_to_unset(name: str, value: Any):
    before = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        with pytest.raises(ValueError, match=f"{name.upper()} is {value}; runs need .*, JAX's default: unset it"):
            device_mesh.make_mesh()
    finally:
        jax.config.update(name, before)
    device_mesh.make_mesh()


@pytest.mark.parametrize("platform", ["cuda", "nonsense"])
def test_a_platform_that_is_not_there_is_one_line_and_exit_2(platform: str):
    code = "from kronecker.runtime import cli; import jax; cli.run(lambda: jax.device_count())"
    env = os.environ | {"JAX_PLATFORMS": platform}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith(f"error: JAX_PLATFORMS={platform}: JAX found no device (")
    assert "unset JAX_PLATFORMS, or install JAX for the device" in done.stderr
