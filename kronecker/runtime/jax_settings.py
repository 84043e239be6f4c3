"""JAX's settings that a run's numbers depend on, and its failure to start a platform."""

import os
import traceback

# The random numbers of a seed depend on the first four, the types and shapes of all others on the rest.
_NEEDED = {
    "jax_enable_x64": False,
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_disable_jit": False,
}


def check() -> None:
    """Raises a ValueError if a setting, most often from the environment, would change the numbers of runs."""
    import jax  # here, as cli.py imports this module before the flags are read

    for name, needed in _NEEDED.items():
        if (found := getattr(jax.config, name)) != needed:
            raise ValueError(f"{name.upper()} is {found}; runs need {needed}, JAX's default: unset it")


def without_platform(error: BaseException) -> str | None:
    """Returns one line with the remedy if JAX has raised `error` while it started a platform; otherwise None."""
    frames = traceback.extract_tb(error.__traceback__)
    if not any(frame.name == "backends" and frame.filename.endswith("xla_bridge.py") for frame in frames):
        return None
    asked = os.environ.get("JAX_PLATFORMS", "")
    cause = str(error).partition(" (set JAX_PLATFORMS")[0] or f"this machine or this installation has no {asked}"
    return (
        f"JAX_PLATFORMS={asked}: JAX found no device ({' '.join(cause.split())}); unset JAX_PLATFORMS, or install "
        "JAX for the device: pip install 'kronecker-jax[train,gpu]' or 'kronecker-jax[train,tpu]'"
    )
