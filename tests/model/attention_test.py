"""Attention's kernels: the same numbers, chosen by platform, compiled for machines that are not here."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilers import NEEDS_TPU
from jax import export

from kronecker.cross_compile import program, targets
from kronecker.model import attention
from kronecker.runtime import device_mesh

AT_124M = jax.ShapeDtypeStruct((16, 1024, 12, 64), jnp.bfloat16)


def gradient(kernel: str):
    def run(q, k, v, cotangent):
        y, pullback = jax.vjp(functools.partial(attention.causal, kernel=kernel), q, k, v)
        return y, pullback(cotangent)

    return run


@pytest.mark.parametrize(
    ("asked", "platform", "dtype", "width", "acts"),
    [
        ("auto", "cpu", "bfloat16", 64, "xla"),
        ("auto", "gpu", "bfloat16", 64, "cudnn"),
        ("auto", "gpu", "float32", 64, "xla"),
        ("auto", "gpu", "bfloat16", 60, "xla"),
        ("auto", "gpu", "bfloat16", 256, "xla"),
        ("auto", "tpu", "float32", 64, "splash"),
        ("xla", "tpu", "bfloat16", 64, "xla"),
    ],
)
def test_auto_is_the_platforms_fused_kernel_where_it_has_one(asked, platform, dtype, width, acts):
    assert attention.resolve(asked, platform, dtype, width) == acts


@pytest.mark.parametrize(
    ("asked", "platform", "dtype", "message"),
    [
        ("cudnn", "cpu", "bfloat16", "model.attention is 'cudnn', which runs on gpu only; choose auto or xla"),
        ("splash", "gpu", "bfloat16", "model.attention is 'splash', which runs on tpu only"),
        ("cudnn", "gpu", "float32", "got model.dtype float32 and head width 64"),
    ],
)
def test_a_kernel_that_is_not_there_is_refused(asked: str, platform: str, dtype: str, message: str):
    with pytest.raises(ValueError, match=message):
        attention.resolve(asked, platform, dtype, 64)


@pytest.mark.parametrize("with_mesh", [False, True])
def test_splash_gives_xlas_numbers_and_gradients(with_mesh: bool):
    mesh = device_mesh.make_mesh() if with_mesh else None
    q, k, v, cotangent = (jax.random.normal(key, (2, 256, 2, 64)) for key in jax.random.split(jax.random.key(0), 4))
    want, pullback = jax.vjp(functools.partial(attention.causal, kernel="xla"), q, k, v)
    splash = functools.partial(attention.causal, kernel="splash", mesh=mesh, interpret=True)
    got, its_pullback = jax.vjp(jax.jit(splash), q, k, v)
    for a, b in zip((got, *its_pullback(cotangent)), (want, *pullback(cotangent)), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    assert "pallas_call" in str(jax.make_jaxpr(splash)(q, k, v))


@NEEDS_TPU
@pytest.mark.slow
def test_splash_compiles_for_a_tpu_at_124m_and_beats_xla_in_bytes_and_memory():
    target = targets.target("v5e")
    made = {name: program.compile_for(target, gradient(name), [AT_124M] * 4)[""] for name in ("xla", "splash")}
    assert made["splash"].temporary_bytes < made["xla"].temporary_bytes / 3
    assert made["splash"].bytes_accessed < made["xla"].bytes_accessed / 4


def test_cudnn_lowers_to_its_flash_attention_forward_and_backward(monkeypatch: pytest.MonkeyPatch):
    # The lowering asks the machine's cuDNN and GPU for their versions, and there are none: it is told an H100's.
    fused = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(fused, "check_compute_capability", lambda least: float(least) <= 9.0)
    monkeypatch.setattr(fused, "is_cuda_compute_capability_equal", lambda capability: capability == "9.0")
    allowed = [
        export.DisabledSafetyCheck.custom_call(f"__cudnn$fmhaSoftmax{direction}") for direction in ("", "Backward")
    ]
    made = export.export(jax.jit(gradient("cudnn")), platforms=["cuda"], disabled_checks=allowed)(*[AT_124M] * 4)
    text = made.mlir_module()
    assert "__cudnn$fmhaSoftmax(" in text
    assert "__cudnn$fmhaSoftmaxBackward(" in text
    assert "16x12x1024x1024" not in text  # no weights in memory
