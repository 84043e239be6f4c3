"""The output head and the loss behind it, with the logits of no more tokens in memory than asked for.

The gradient is taken with the loss, chunk by chunk: a chunk's logits become its loss and its gradients and are gone, so
they are neither kept for the backward pass nor computed again.

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
    """What turns the last hidden states into logits.

    A tied head is a transposed input table.  With the vocabulary as its last axis for all heads, the gradient of the
    logits is laid out alike for both products that take it; otherwise the CPU's compiler would make a transposed copy.
    """

    matrix: jax.Array  # (d, V)
    vocab_size: int = struct.field(pytree_node=False)  # ids that exist; the logits of those beyond it are masked
    dtype: str = struct.field(pytree_node=False)  # in which it multiplies; sums are float32

    def logits(self, x_BTd: jax.Array) -> jax.Array:
        """Returns float32 logits (B, T, V) of hidden states; those of padded vocabulary entries are -inf."""
        logits_BTV = self._multiply("btd,dv->btv", x_BTd, self.matrix)
        padded = logits_BTV.shape[-1]
        if padded == self.vocab_size:
            return logits_BTV
        return jnp.where(jnp.arange(padded) < self.vocab_size, logits_BTV, -jnp.inf)

    def loss_and_gradients(
        self, x_BTd: jax.Array, targets_BT: jax.Array, weights_BT: jax.Array
    ) -> tuple[jax.Array, "Head", jax.Array]:
        """Returns the weighted sum of -log p in nats, and its gradients to this head and to `x_BTd`, all float32."""
        logits_BTV = self.logits(x_BTd)
        nats_BT, top_BT, sum_BT = _nats(logits_BTV, targets_BT)
        # softmax minus one-hot, in one pass: the derivative of a gather would be a scatter into zeros
        hot_BTV = jnp.arange(logits_BTV.shape[-1]) == targets_BT[..., None]
        p_BTV = jnp.exp(logits_BTV - top_BT[..., None]) * (weights_BT / sum_BT)[..., None]
        grad_BTV = p_BTV - jnp.where(hot_BTV, weights_BT[..., None], 0.0)
        matrix_grad = self._multiply("btd,btv->dv", x_BTd, grad_BTV)
        x_grad = self._multiply("btv,dv->btd", grad_BTV, self.matrix)
        return (nats_BT * weights_BT).sum(), self.replace(matrix=matrix_grad), x_grad

    def _multiply(self, spec: str, *operands: jax.Array) -> jax.Array:
        rounded = (operand.astype(self.dtype) for operand in operands)
        return jnp.einsum(spec, *rounded, preferred_element_type=jnp.float32)


def token_nats(
    head: Head, x_BTd: jax.Array, targets_BT: jax.Array, chunk: int = 0, mesh: Mesh | None = None
) -> jax.Array:
    """Returns -log p of each target, float32 (B, T), from the model's last hidden states.

    `chunk` is the tokens of one device whose logits are in memory at a time, 0 for all; `mesh` splits the batch.
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
    head: Head,
    x_BTd: jax.Array,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
    chunk: int = 0,
    mesh: Mesh | None = None,
) -> jax.Array:
    """Returns the weighted sum of `token_nats`; differentiable once, in `head` and in `x_BTd`."""
    return (token_nats(head, x_BTd, targets_BT, chunk, mesh) * weights_BT).sum()


def _nats_sum_forward(head, x_BTd, targets_BT, weights_BT, chunk, mesh):
    chunks = _chunks(targets_BT.shape, chunk, mesh)
    if chunks == 1:
        nats, head_grad, x_grad = head.loss_and_gradients(x_BTd, targets_BT, weights_BT)
    else:
        whole, split = PartitionSpec(), PartitionSpec(sharding.batch_axes(mesh))
        sums = functools.partial(_sums_of_chunks, chunks=chunks, axes=sharding.batch_axes(mesh))
        if mesh is not None:  # left to the compiler, each chunk would be summed over all devices, not each device's sum
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
    """Returns -log p of the targets, the greatest logit, and the sum of exp(logit - greatest), each (B, T)."""
    top_BT = logits_BTV.max(axis=-1)
    sum_BT = jnp.exp(logits_BTV - top_BT[..., None]).sum(axis=-1)
    target_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]
    return jnp.log(sum_BT) + top_BT - target_BT, top_BT, sum_BT


def _chunks(shape: tuple[int, int], chunk: int, mesh: Mesh | None) -> int:
    """Returns into how many parts of the time axis (B, T) targets fall: no row then leaves its device."""
    batch, time = shape
    devices = math.prod(mesh.shape[axis] for axis in sharding.batch_axes(mesh))
    return -(-time // max(1, chunk * devices // batch)) if chunk else 1


def _split(x_BT: jax.Array, chunks: int) -> jax.Array:
    """Returns (chunks, B, t, ...), the end of the last chunk filled with zeros."""
    time = x_BT.shape[1]
    length = -(-time // chunks)
    x_BT = jnp.pad(x_BT, ((0, 0), (0, chunks * length - time)) + ((0, 0),) * (x_BT.ndim - 2))
    return x_BT.reshape(x_BT.shape[0], chunks, length, *x_BT.shape[2:]).swapaxes(0, 1)


def _join(x_CBt: jax.Array, time: int) -> jax.Array:
    x_BCt = x_CBt.swapaxes(0, 1)
    return x_BCt.reshape(x_BCt.shape[0], -1, *x_BCt.shape[3:])[:, :time]
