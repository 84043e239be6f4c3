"""The layer in a Flax Linen model of your own, without the trainer: learns the next word of a rhyme in a few seconds.

`pip install .` in the root of the checkout installs all that it needs.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import kronecker

RHYME = """one two buckle my shoe three four knock at the door five six pick up sticks
seven eight lay them straight nine ten a big fat hen"""


class NextWord(nn.Module):
    """Predicts a word from the two before it; the output head is the layer itself."""

    code: kronecker.Code

    @nn.compact
    def __call__(self, words_BT: jax.Array) -> jax.Array:
        embed = kronecker.KroneckerEmbed(features=32, code=self.code)  # here could stand nn.Embed(vocabulary, 32)
        x_BTd = embed(words_BT)
        x_Bd = nn.tanh(nn.Dense(32)(x_BTd.reshape(len(x_BTd), -1)))
        return embed.attend(x_Bd / 32**0.5)


def main() -> None:
    words = RHYME.split()
    vocabulary = sorted(set(words))
    code = kronecker.kronecker_code(kronecker.byte_table([word.encode() for word in vocabulary], pos_dim=16))
    ids_N = jnp.array([vocabulary.index(word) for word in words])
    context_B2, next_B = jnp.stack([ids_N[:-2], ids_N[1:-1]], axis=1), ids_N[2:]

    model, optimizer = NextWord(code), optax.adam(1e-2)
    variables = jax.jit(model.init)(jax.random.key(0), context_B2)
    params, fixed = variables["params"], {"code": variables["code"]}  # only the first is trained
    predict = jax.jit(lambda params, fixed: model.apply({"params": params, **fixed}, context_B2))

    def loss_of(params, fixed):
        logits_BV = predict(params, fixed)
        return optax.softmax_cross_entropy_with_integer_labels(logits_BV, next_B).mean()

    @jax.jit
    def step(params, state, fixed):
        loss, gradient = jax.value_and_grad(loss_of)(params, fixed)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, loss

    state = optimizer.init(params)
    for number in range(31):
        params, state, loss = step(params, state, fixed)
        if number % 10 == 0:
            print(f"step {number:2}  loss {loss:.3f}")
    right = (predict(params, fixed).argmax(axis=1) == next_B).sum()
    print(f"{right} of {len(next_B)} words right")

    # A string outside the vocabulary has an embedding too, near those that share its spelling.
    projection_Dd = params["KroneckerEmbed_0"]["projection"]
    strange_d = code.encode_bytes(projection_Dd, [b"stick"])[0]
    table_Vd = jax.jit(kronecker.induced_table)(projection_Dd, code.bag)
    cosine_V = table_Vd @ strange_d / jnp.linalg.norm(table_Vd, axis=1) / jnp.linalg.norm(strange_d)
    print(f"nearest to 'stick': {vocabulary[int(cosine_V.argmax())]!r}, cosine {cosine_V.max():.2f}")


if __name__ == "__main__":
    main()
