"""Checksums: every changed bit is found, on any layout, and by both ways of adding."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kronecker.training import checksums

LAYOUTS = """
import jax
jax.config.update("jax_num_cpu_devices", 8)
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from kronecker.training import checksums

values = np.random.default_rng(2).standard_normal((64, 16, 48)).astype(np.float32)
mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("x", "y"))
for spec in ((), ("x",), (None, "y"), ("y", "x"), (("x", "y"), None)):
    split = jax.device_put(values, NamedSharding(mesh, PartitionSpec(*spec)))
    print(checksums.of({"a": split})["a"])
"""


def number(array: np.ndarray) -> int:
    return checksums.of({"a": jax.device_put(array, jax.devices()[0])})["a"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32", "uint8", "float8_e4m3fn"])
def test_every_bit_of_every_value_counts(dtype: str):
    values = np.random.default_rng(0).integers(0, 256, (3, 5 * jnp.dtype(dtype).itemsize), np.uint8)
    whole = number(values.view(jnp.dtype(dtype)))
    found = set()
    for bit in range(8 * values.size):
        changed = values.copy()
        changed.reshape(-1)[bit // 8] ^= 1 << bit % 8
        found.add(number(changed.view(jnp.dtype(dtype))))
    assert len(found) == 8 * values.size
    assert whole not in found


def test_truth_values_signs_and_places_count():
    truth = np.array([True, False, True])
    assert number(truth) != number(~truth)
    values = np.arange(1, 9, dtype=np.float32)
    signs = values.copy()
    signs[[2, 5]] *= -1  # the top bit of both: a weighted sum would stay as it is
    numbers = {number(x) for x in (values, signs, values[::-1], values.reshape(2, 4), np.zeros(8, np.float32))}
    assert len(numbers) == 4  # the shape is not part of it


def test_wider_values_count_and_others_are_refused():
    with jax.enable_x64(True):
        values = np.arange(4, dtype=np.float64)
        changed = values.copy()
        changed.view(np.uint64)[3] ^= 1
        assert number(values) != number(changed)
    with pytest.raises(TypeError):
        number(np.ones(2, np.complex64))


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_blocks_add_up_to_the_whole(extra: int):
    values = np.random.default_rng(1).standard_normal(9 * checksums.BLOCK + extra, np.float32)
    places = np.arange(1, values.size + 1, dtype=np.uint32)
    mixed = values.view(np.uint32) + places * np.uint32(0x9E3779B9)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        mixed = (mixed ^ mixed >> shift) * np.uint32(factor)
    assert int(checksums._sum(values)) == number(values) == int(mixed.sum(dtype=np.uint32))


def test_the_layout_over_devices_does_not_count():
    command = [sys.executable, "-c", LAYOUTS]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    values = np.random.default_rng(2).standard_normal((64, 16, 48)).astype(np.float32)
    assert done.stdout.split() == [str(number(values))] * 5
