"""FLOPs against the compiler's own count, MFU only where the peak is known, and the clock that pauses."""

import time

import jax
import numpy as np
import pytest

from kronecker.embedding import linen
from kronecker.model import accounting, transformer
from kronecker.runtime import progress

SHAPE = transformer.Shape(layers=2, heads=4, d_model=128, context=64, vocab_size=1000, padded_vocab=1024)


def test_flops_per_token_are_what_the_compiler_counts():
    model = transformer.Transformer(SHAPE, linen.TableEmbed(1024, 128))
    ids = np.zeros((4, 64), np.int32)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), ids))
    forward = jax.jit(model.apply).lower(params, ids).compile().cost_analysis()["flops"]
    # A backward pass has twice the products of a forward pass; the count leaves out what is not a product.
    assert accounting.flops_per_token(SHAPE, 64) == pytest.approx(3 * forward / ids.size, rel=0.05)


def test_mfu_is_null_where_the_peak_is_not_known():
    assert accounting.mfu(SHAPE, 64, 1e6, "cpu", 1) is None


def test_mfu_is_the_share_of_all_devices_peak():
    flops = accounting.flops_per_token(SHAPE, 64)
    assert accounting.mfu(SHAPE, 64, 2 * 989e12 / flops, "NVIDIA H100 80GB HBM3", 4) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("kind", "peak"), [("NVIDIA H100 PCIe", 756e12), ("TPU v5 lite", 197e12), ("TPU v5", 459e12), ("TPU v5p", 459e12)]
)
def test_each_device_has_its_own_peak(kind: str, peak: float):
    assert accounting.mfu(SHAPE, 64, 1e6, kind, 1) == pytest.approx(accounting.flops_per_token(SHAPE, 64) * 1e6 / peak)


def test_the_clock_stops_while_paused_and_goes_on_from_what_was():
    watch = progress.Stopwatch(100.0)
    with watch.pause():
        time.sleep(0.3)
    assert 100.0 <= watch.seconds() < 100.2
