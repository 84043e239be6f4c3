"""train.deterministic: which gradients and compiler options a run gets, what it is told, and what is refused."""

from types import SimpleNamespace
from typing import Any

import ml_collections
import numpy as np
import pytest

from configs import base
from kronecker.runtime import determinism, device_mesh
from kronecker.schema import resolution


def resolved(**values: Any) -> ml_collections.ConfigDict:
    c = base.get_config()
    base.apply(c, {"train.deterministic": True, "train.batch": 4, "train.sequence": 8, "model.d_model": 16, **values})
    return resolution.resolve(base.apply(c, {"model.heads": 2}))


def gpus(count: int) -> Any:
    """Returns what is read of a mesh of GPUs; the tests of compiled steps have real ones."""
    return SimpleNamespace(devices=np.array([SimpleNamespace(platform="gpu")] * count), size=count)


def test_a_gpus_programs_are_compiled_with_xlas_deterministic_operations():
    assert determinism.compiler_options(resolved(), gpus(1)) == {"xla_gpu_deterministic_ops": True}


def test_a_cpu_needs_nothing_and_is_told_nothing():
    c = resolved()
    mesh = device_mesh.make_mesh(c)
    assert determinism.compiler_options(c, mesh) == {}
    assert determinism.line(c, mesh) is None


def test_without_the_key_a_gpus_programs_are_compiled_as_ever():
    c = resolved(**{"train.deterministic": False})
    assert determinism.compiler_options(c, gpus(2)) == {}
    assert determinism.gather_gradient(c) == "auto"


def test_several_gpus_are_refused_with_what_to_set():
    with pytest.raises(ValueError, match=r"works on one GPU only; this run has 2, .* CUDA_VISIBLE_DEVICES=0"):
        determinism.compiler_options(resolved(), gpus(2))


@pytest.mark.parametrize(("asked", "acts"), [("auto", "onehot"), ("onehot", "onehot")])
def test_the_gradient_of_gather_is_the_deterministic_one(asked: str, acts: str):
    assert determinism.gather_gradient(resolved(**{"embedding.gather_gradient": asked})) == acts


def test_a_gradient_that_is_not_deterministic_is_refused():
    with pytest.raises(ValueError, match=r"gather_gradient is scatter, which train\.deterministic does not allow"):
        resolved(**{"embedding.gather_gradient": "scatter"})


@pytest.mark.parametrize(
    ("own", "sorts"),
    [
        ({"embedding.kind": "table", "embedding.arm": "table_untied"}, True),
        ({}, False),
        ({"model.tie_head": True, "embedding.arm": "kronecker_tied"}, False),
    ],
)
def test_a_gpu_is_told_what_it_costs(own: dict[str, Any], sorts: bool):
    line = determinism.line(resolved(**own), gpus(1))
    assert line.startswith("train.deterministic slows steps: ")
    assert ("sorts 512 values" in line) == sorts
