"""The output head and its loss, with the logits of a limited number of tokens in memory.

The gradient is computed with the loss, chunk by chunk, so that a chunk's logits are neither stored for the backward
pass nor computed again.

Shapes: B batch, T time, t time of a chunk, V padded vocabulary, d model width.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh, PartitionSpec

from kronecker.runtime import sharding


class Head(struct.PyTreeNode):
    """The matrix that turns the last hidden states into logits.

    A tied head is a transposed input table.  The vocabulary is the last axis of all heads, as otherwise the CPU's
    compiler would make a transposed copy of the logits' gradient.
    """

    matrix: jax.Array  # (d, V)
    vocab_size: int = struct.field(pytree_node=False)  # the logits of ids beyond it are masked
    dtype: str = struct.field(pytree_node=False)  # of the products; sums are float32
    bias: jax.Array | None = None  # float32 (V,), added to the logits: a constant, whose gradient is left out

    def logits(self, x_BTd: jax.Array) -> jax.Array:
        """Returns float32 logits (B, T, V) of hidden states; those of padded vocabulary entries are -inf."""
        logits_BTV = self._multiply("btd,dv->btv", x_BTd, self.matrix)
        if self.bias is not None:
            logits_BTV += self.bias
        padded = logits_BTV.shape[-1]
        if padded == self.vocab_size:
            return logits_BTV
        return jnp.where(jnp.arange(padded) < self.vocab_size, logits_BTV, -jnp.inf)

    def loss_and_gradients(
        self, x_BTd: jax.Array, targets_BT: jax.Array, weights_BT: jax.Array
    ) -> tuple[jax.Array, "Head", jax.Array]:
        """Returns the weighted sum of -log p in nats, and its gradients with respect to head and `x_BTd`, float32."""
        logits_BTV = self.logits(x_BTd)
        nats_BT, top_BT, sum_BT = _nats(logits_BTV, targets_BT)
        # softmax minus one-hot, in one pass: the derivative of a gather would be a scatter
        hot_BTV = jnp.arange(logits_BTV.shape[-1]) == targets_BT[..., None]
        p_BTV = jnp.exp(logits_BTV - top_BT[..., None]) * (weights_BT / sum_BT)[..., None]
        grad_BTV = p_BTV - jnp.where(hot_BTV, weights_BT[..., None], 0.0)
        matrix_grad = self._multiply("btd,btv->dv", x_BTd, grad_BTV)
        x_grad = self._multiply("btv,dv->btd", grad_BTV, self.matrix)
        of_bias = jax.tree.map(jnp.zeros_like, self.bias)
        return (nats_BT * weights_BT).sum(), self.replace(matrix=matrix_grad, bias=of_bias), x_grad

    def _multiply(self, spec: str, *operands: jax.Array) -> jax.Array:
        rounded = (operand.astype(self.dtype) for operand in operands)
        return jnp.einsum(spec, *rounded, preferred_element_type=jnp.float32)


def token_nats(
    head: Head, x_BTd: jax.Array, targets_BT: jax.Array, chunk: int = 0, mesh: Mesh | None = None
) -> jax.Array:
    """Returns -log p of each target, float32 (B, T), from the model's last hidden states.

    `chunk`: at most so many tokens of a device have logits in memory at a time, 0: all; `mesh` splits the batch.
    """

    def nats(x_BTd, targets_BT):
        return _nats(head.logits(x_BTd), targets_BT)[0]

    chunks = _chunks(targets_BT.shape, chunk, mesh)
    if chunks == 1:
        return nats(x_BTd, targets_BT)
    parts = _split(x_BTd, chunks), _split(targets_BT, chunks)
    return _join(jax.lax.map(lambda part: nats(*part), parts), targets_BT.shape[1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def nats_sum(
    head: Head, x_BTd: jax.Array, targets_BT: jax.Array, weights_BT: jax.Array, chunk: int = 0, mesh: Mesh | None = None
) -> jax.Array:
    """Returns the weighted sum of `token_nats`; differentiable once, in `head` and `x_BTd`."""
    return (token_nats(head, x_BTd, targets_BT, chunk, mesh) * weights_BT).sum()


def _nats_sum_forward(head, x_BTd, targets_BT, weights_BT, chunk, mesh):
    chunks = _chunks(targets_BT.shape, chunk, mesh)
    if chunks == 1:
        nats, head_grad, x_grad = head.loss_and_gradients(x_BTd, targets_BT, weights_BT)
    else:
        whole, split = PartitionSpec(), PartitionSpec(sharding.batch_axes(mesh))
        sums = functools.partial(_sums_of_chunks, chunks=chunks, axes=sharding.batch_axes(mesh))
        if mesh is not None:  # the compiler alone would sum each chunk over all devices, not each device's sum
            sums = jax.shard_map(
                sums,
                mesh=mesh,
                in_specs=(whole, split, split, split),
                out_specs=(whole, whole, split),
                axis_names=set(sharding.batch_axes(mesh)),
                check_vma=False,
            )
        nats, head_grad, x_grad = sums(head, x_BTd, targets_BT, weights_BT)
    head_grad = head_grad.replace(matrix=head_grad.matrix.astype(head.matrix.dtype))
    return nats, (head_grad, x_grad.astype(x_BTd.dtype))


def _nats_sum_backward(chunk, mesh, gradients, cotangent):
    del chunk, mesh
    return *jax.tree.map(lambda x: (cotangent * x).astype(x.dtype), gradients), None, None


nats_sum.defvjp(_nats_sum_forward, _nats_sum_backward)


def _sums_of_chunks(head, x_BTd, targets_BT, weights_BT, chunks, axes):
    def add(sums, part):
        nats, head_grad, x_grad = head.loss_and_gradients(*part)
        return jax.tree.map(jnp.add, sums, (nats, head_grad)), x_grad

    zeros = jnp.zeros(()), jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), head)
    parts = tuple(_split(array, chunks) for array in (x_BTd, targets_BT, weights_BT))
    sums, x_grads = jax.lax.scan(add, zeros, parts)
    nats, head_grad = jax.lax.psum(sums, axes) if axes else sums
    return nats, head_grad, _join(x_grads, targets_BT.shape[1])


def _nats(logits_BTV: jax.Array, targets_BT: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns -log p of the targets, the largest logit, and the sum of exp(logit - largest), each (B, T)."""
    top_BT = logits_BTV.max(axis=-1)
    sum_BT = jnp.exp(logits_BTV - top_BT[..., None]).sum(axis=-1)
    target_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]
    return jnp.log(sum_BT) + top_BT - target_BT, top_BT, sum_BT


def _chunks(shape: tuple[int, int], chunk: int, mesh: Mesh | None) -> int:
    """Returns the number of chunks of the time axis, along which no row leaves its device."""
    batch, time = shape
    devices = math.prod(mesh.shape[axis] for axis in sharding.batch_axes(mesh))
    return -(-time // max(1, chunk * devices // batch)) if chunk else 1


def _split(x_BT: jax.Array, chunks: int) -> jax.Array:
    """Returns (chunks, B, t, ...), with zeros at the end of the last chunk."""
    time = x_BT.shape[1]
    length = -(-time // chunks)
    x_BT = jnp.pad(x_BT, ((0, 0), (0, chunks * length - time)) + ((0, 0),) * (x_BT.ndim - 2))
    return x_BT.reshape(x_BT.shape[0], chunks, length, *x_BT.shape[2:]).swapaxes(0, 1)


def _join(x_CBt: jax.Array, time: int) -> jax.Array:
    x_BCt = x_CBt.swapaxes(0, 1)
    return x_BCt.reshape(x_BCt.shape[0], -1, *x_BCt.shape[3:])[:, :time]
