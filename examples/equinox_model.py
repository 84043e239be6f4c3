"""The layer in Equinox, or in plain JAX: a bag is a pytree of integers, and the embedding is one function of it.

Classifies numerals as even or odd.  Needs `pip install equinox` beside the layer.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import kronecker


class KroneckerEmbed(eqx.Module):
    """The input embedding of ids: `weight` is trained, `bag` holds the bytes of the vocabulary."""

    weight: jax.Array
    bag: kronecker.Bag

    def __init__(self, features: int, code: kronecker.Code, *, key: jax.Array):
        self.weight = code.projection(key, features)
        self.bag = jax.tree.map(jnp.asarray, code.bag)

    def __call__(self, ids: jax.Array) -> jax.Array:
        return kronecker.product(self.weight, self.bag, ids)


class Classifier(eqx.Module):
    """Even or odd, from the embedding of one token."""

    embed: KroneckerEmbed
    head: eqx.nn.Linear

    def __call__(self, token: jax.Array) -> jax.Array:
        return self.head(self.embed(token))


@eqx.filter_jit
def step(model, state, optimizer, ids_N, labels_N):
    def loss_of(model):
        logits = jax.vmap(model)(ids_N)  # the embedding is computed once for all of the batch
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels_N).mean()

    loss, gradient = eqx.filter_value_and_grad(loss_of)(model)
    updates, state = optimizer.update(gradient, state, eqx.filter(model, eqx.is_inexact_array))
    return eqx.apply_updates(model, updates), state, loss


@eqx.filter_jit
def right(model: Classifier, ids_N: jax.Array) -> jax.Array:
    return (jax.vmap(model)(ids_N).argmax(axis=1) == ids_N % 2).sum()


def main() -> None:
    numerals = [str(number).encode().rjust(3) for number in range(300)]
    code = kronecker.kronecker_code(kronecker.byte_table(numerals, pos_dim=3))
    keys = jax.random.split(jax.random.key(0))
    model = Classifier(KroneckerEmbed(8, code, key=keys[0]), eqx.nn.Linear(8, 2, key=keys[1]))

    seen_N, unseen_N = np.split(np.random.default_rng(0).permutation(300), [200])
    optimizer = optax.adamw(1e-2, weight_decay=0.1)
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    for number in range(41):
        model, state, loss = step(model, state, optimizer, jnp.asarray(seen_N), jnp.asarray(seen_N % 2))
        if number % 10 == 0:
            print(f"step {number:2}  loss {loss:.3f}")
    print(f"{right(model, jnp.asarray(unseen_N))} of {len(unseen_N)} numerals right that were not trained on")

    # A larger vocabulary over the same weight.
    longer = code.for_vocabulary([*numerals, *(str(number).encode() for number in range(300, 1000))])
    model = eqx.tree_at(lambda model: model.embed.bag, model, jax.tree.map(jnp.asarray, longer.bag))
    print(f"{right(model, jnp.arange(300, 1000))} of 700 right that were not in the vocabulary")


if __name__ == "__main__":
    main()
