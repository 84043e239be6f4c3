"""A small language model in Flax NNX, twice: with `nnx.Embed`, and with the layer, which takes three other lines.

The lines that differ are marked.  `pip install .` in the root of the checkout installs all that it needs.
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import kronecker
from kronecker.nnx import KroneckerEmbed  # 1

TEXT = "she sells sea shells by the sea shore; the shells that she sells are sea shells, I am sure. " * 8
WIDTH, TIME = 32, 16


class Model(nnx.Module):
    """A recurrent model around an input embedding."""

    def __init__(self, embed: nnx.Module, vocabulary: int, rngs: nnx.Rngs):
        self.embed = embed
        self.recurrent = nnx.RNN(nnx.GRUCell(WIDTH, WIDTH, rngs=rngs))
        self.head = nnx.Linear(WIDTH, vocabulary, rngs=rngs)

    def __call__(self, ids_BT: jax.Array) -> jax.Array:
        return self.head(self.recurrent(self.embed(ids_BT)))


@nnx.jit
def step(model: Model, optimizer: nnx.Optimizer, ids_BT: jax.Array) -> jax.Array:
    def loss_of(model):
        logits = model(ids_BT[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, ids_BT[:, 1:]).mean()

    loss, gradient = nnx.value_and_grad(loss_of)(model)  # of each nnx.Param; the code's arrays are none
    optimizer.update(model, gradient)
    return loss


def train(name: str, model: Model, ids_BT: jax.Array) -> None:
    optimizer = nnx.Optimizer(model, optax.adamw(1e-2), wrt=nnx.Param)
    losses = [step(model, optimizer, ids_BT) for _ in range(60)]
    count = sum(parameter.size for parameter in jax.tree.leaves(nnx.state(model.embed, nnx.Param)))
    print(f"{name}: loss {losses[0]:.3f} -> {losses[-1]:.3f}, {count:,} parameters in the embedding")


def main() -> None:
    pieces = sorted({TEXT[i : i + 2] for i in range(0, len(TEXT), 2)})
    ids_N = jnp.array([pieces.index(TEXT[i : i + 2]) for i in range(0, len(TEXT), 2)])
    ids_BT = ids_N[: len(ids_N) // TIME * TIME].reshape(-1, TIME)

    rngs = nnx.Rngs(0)
    train("nnx.Embed", Model(nnx.Embed(len(pieces), WIDTH, rngs=rngs), len(pieces), rngs), ids_BT)

    rngs = nnx.Rngs(0)
    code = kronecker.kronecker_code(kronecker.byte_table([piece.encode() for piece in pieces], pos_dim=2))  # 2
    train("KroneckerEmbed", Model(KroneckerEmbed(WIDTH, code, rngs=rngs), len(pieces), rngs), ids_BT)  # 3


if __name__ == "__main__":
    main()
