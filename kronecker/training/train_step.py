"""One update and one evaluation as pure functions, and the initial state and the update on a mesh.

Losses are weighted sums in float32.  The weights of an update sum to 1 over the whole batch, so micro-batches and
devices may hold different numbers of tokens.

Shapes: B batch, T time, A micro-batches, V vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from flax import struct
from jax.sharding import Mesh

from kronecker.embedding import bags
from kronecker.model import output_head, transformer
from kronecker.runtime import declared, sharding
from kronecker.training import optimizer

_AN_ID = np.zeros((1, 1), np.int32)  # ids (B, T) to initialise with


class TrainState(struct.PyTreeNode):
    """The content of a checkpoint."""

    step: jax.Array  # int32, finished updates
    clipped: jax.Array  # int32, updates whose gradient, or one group of it, was clipped
    params: dict[str, Any]
    opt_state: Any


class StepMetrics(NamedTuple):
    """Scalars of one update, on the device until they are fetched."""

    loss: jax.Array  # nats per token, mean over the batch
    lr: jax.Array  # learning rate of the body
    grad_norm: jax.Array  # global norm before clipping
    clip_share: jax.Array  # share of all updates so far whose gradient was clipped
    update_norm: jax.Array  # global norm of the change of the parameters
    embedding_std: jax.Array  # std of the input matrix in units of its initial std (the paper's norm drift)


class EvalSums(NamedTuple):
    """Sums over the predicted tokens of a batch: nats, tokens, and bytes of the text that they stand for."""

    nats: jax.Array
    tokens: jax.Array
    text_bytes: jax.Array


def init_state(model: transformer.Transformer, bag: bags.Bag | None, config: ml_collections.ConfigDict) -> TrainState:
    """Returns the state before the first update, which depends on config.seed only."""
    return state_of(model, bag, config, model.init(jax.random.key(config.seed), _AN_ID, bag)["params"])


def state_of(
    model: transformer.Transformer, bag: bags.Bag | None, config: ml_collections.ConfigDict, params: dict[str, Any]
) -> TrainState:
    """Returns the state before the first update of these parameters."""
    decays = declared.decays(declared.of(model, _AN_ID, bag))
    opt_state = optimizer.make_optimizer(config, decays).init(params)
    zero = jnp.zeros((), jnp.int32)
    return TrainState(step=zero, clipped=zero, params=params, opt_state=opt_state)


def init_on_mesh(
    model: transformer.Transformer, bag: bags.Bag | None, config: ml_collections.ConfigDict, abstract: TrainState
) -> TrainState:
    """Returns the state of `init_state`, laid out as `abstract` from `abstract_state`; `bag` is on its mesh."""
    layout = jax.tree.map(lambda x: x.sharding, abstract)
    return jax.jit(lambda bag: init_state(model, bag, config), out_shardings=layout)(bag)


def abstract_state(
    model: transformer.Transformer, bag: bags.Bag | None, config: ml_collections.ConfigDict, mesh: Mesh
) -> TrainState:
    """Returns the shapes, types and shardings of the state on `mesh`, to create it, restore it, or compile for it.

    Raises ValueError as `sharding.with_shardings` does, or if a parameter has no declaration.
    """
    state = jax.eval_shape(lambda: init_state(model, bag, config))
    return sharding.with_shardings(state, declared.of(model, _AN_ID, bag), mesh)


def token_nats(
    model: transformer.Transformer, params: dict[str, Any], bag: bags.Bag | None, tokens_BT1: jax.Array, chunk: int = 0
) -> jax.Array:
    """Returns -log p of each next token, float32 (B, T), for rows of T + 1 tokens; `chunk`: train.loss_chunk."""
    x_BTd, head = model.apply({"params": params}, tokens_BT1[:, :-1], bag, apart=True)
    return output_head.token_nats(head, x_BTd, tokens_BT1[:, 1:], chunk, model.mesh)


def make_train_step(
    model: transformer.Transformer, config: ml_collections.ConfigDict
) -> Callable[[TrainState, bags.Bag | None, jax.Array, jax.Array], tuple[TrainState, StepMetrics]]:
    """Returns update(state, bag, tokens (B, T + 1), weights (B, T)) -> (state, metrics).

    The gradient is that of the weighted mean over all tokens of the batch, for any number of micro-batches.
    """
    schedule = optimizer.make_schedule(config)
    micro, clip = config.train.accumulate, config.train.clip

    def loss_part(params, bag, tokens_BT1, weights_BT, key):
        x_BTd, head = model.apply(
            {"params": params},
            tokens_BT1[:, :-1],
            bag,
            train=key is not None,
            rngs=None if key is None else {"dropout": key},
            apart=True,
        )
        return output_head.nats_sum(head, x_BTd, tokens_BT1[:, 1:], weights_BT, config.train.loss_chunk, model.mesh)

    def loss_and_gradient(state, bag, tokens_BT1, weights_BT):
        key = jax.random.fold_in(jax.random.key(config.seed), state.step) if config.model.dropout else None
        value_and_grad = jax.value_and_grad(loss_part)
        if micro == 1:
            return value_and_grad(state.params, bag, tokens_BT1, weights_BT, key)

        def add(sums, batch):
            index, tokens, weights = batch
            part_key = None if key is None else jax.random.fold_in(key, index)
            part = value_and_grad(state.params, bag, tokens, weights, part_key)
            return jax.tree.map(jnp.add, sums, part), None

        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)), state.params)
        batches = (jnp.arange(micro), _micro_batches(tokens_BT1, micro), _micro_batches(weights_BT, micro))
        return jax.lax.scan(add, (jnp.zeros(()), zeros), batches)[0]

    def update(state, bag, tokens_BT1, weights_BT):
        declarations = declared.of(model, _AN_ID, bag)
        tx = optimizer.make_optimizer(config, declared.decays(declarations))
        # Weights that sum to 1: dividing the gradient at the end would be one more pass over all parameters.
        loss, grads = loss_and_gradient(state, bag, tokens_BT1, weights_BT / weights_BT.sum())
        grads = jax.tree.map(lambda g, p: g.astype(p.dtype), grads, state.params)
        grad_norm = optax.tree.norm(grads)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        too_large = [norm > clip for norm in optimizer.clipped_norms(config, grads)] if clip else [jnp.zeros((), bool)]
        clipped = state.clipped + jnp.stack(too_large).any().astype(jnp.int32)
        input_matrix = declared.input_matrix(state.params, declarations)
        metrics = StepMetrics(
            loss=loss,
            lr=schedule(state.step),
            grad_norm=grad_norm,
            clip_share=clipped / (state.step + 1),
            update_norm=optax.tree.norm(updates),
            embedding_std=input_matrix.astype(jnp.float32).std() / config.embedding.init_std,
        )
        params = optax.apply_updates(state.params, updates)
        return TrainState(step=state.step + 1, clipped=clipped, params=params, opt_state=opt_state), metrics

    return update


def lower_train_step(
    model: transformer.Transformer,
    bag: bags.Bag | None,
    config: ml_collections.ConfigDict,
    mesh: Mesh,
    abstract: TrainState,
) -> jax.stages.Lowered:
    """Returns the update of `make_train_step` for `mesh`, whose devices may be simulated, ready to compile.

    The program's arguments are a state laid out as `abstract` from `abstract_state`, whose memory it reuses (donation),
    `bag` on every device, and tokens int32 (B, T + 1) and weights float32 (B, T), split along the batch.
    """
    whole, split = sharding.replicated(mesh), sharding.split_batch(mesh)
    layout = jax.tree.map(lambda x: x.sharding, abstract)
    update = jax.jit(
        make_train_step(model, config),
        in_shardings=(layout, whole, split, split),
        out_shardings=(layout, whole),
        donate_argnums=0,
    )
    batch = abstract_batch(config.train.batch, config.train.sequence, mesh)
    return update.lower(abstract, sharding.abstract_replica(bag, mesh), *batch)


def full_weights(config: ml_collections.ConfigDict, mesh: Mesh) -> jax.Array:
    shape = config.train.batch, config.train.sequence
    return jax.jit(lambda: jnp.ones(shape), out_shardings=sharding.split_batch(mesh))()


def make_eval_step(
    model: transformer.Transformer, chunk: int = 0
) -> Callable[[dict[str, Any], bags.Bag | None, jax.Array, jax.Array, jax.Array], EvalSums]:
    """Returns evaluate(params, bag, text_bytes (V,), tokens (B, T + 1), weights (B, T)) -> EvalSums."""

    def evaluate(params, bag, text_bytes_V, tokens_BT1, weights_BT):
        nats_BT = token_nats(model, params, bag, tokens_BT1, chunk)
        return EvalSums(
            nats=(nats_BT * weights_BT).sum(),
            tokens=weights_BT.sum(),
            text_bytes=(text_bytes_V[tokens_BT1[:, 1:]] * weights_BT).sum(),
        )

    return evaluate


def abstract_batch(batch: int, sequence: int, mesh: Mesh) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Returns shape, type and sharding of tokens (B, T + 1) and weights (B, T), to compile for them."""
    split = sharding.split_batch(mesh)
    tokens = jax.ShapeDtypeStruct((batch, sequence + 1), jnp.int32, sharding=split)
    return tokens, jax.ShapeDtypeStruct((batch, sequence), jnp.float32, sharding=split)


def _micro_batches(x_BT: jax.Array, micro: int) -> jax.Array:
    # Row b goes to micro-batch b % A, so that rows stay on their device.
    return x_BT.reshape(-1, micro, *x_BT.shape[1:]).swapaxes(0, 1)
