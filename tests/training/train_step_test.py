"""The update: accumulation, clipping, decay, schedule, and the sums behind every loss."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from configs import arms, base
from kronecker.model import accounting, build
from kronecker.runtime import declared, device_mesh, sharding
from kronecker.schema import resolution
from kronecker.training import optimizer, train_step

TOKEN_BYTES = [bytes([97 + i]) * (1 + i % 5) for i in range(26)]


def resolved(arm: str = "kronecker", **overrides) -> ml_collections.ConfigDict:
    tiny = {
        "model.layers": 1,
        "model.heads": 2,
        "model.d_model": 16,
        "model.context": 8,
        "model.vocab_multiple": 32,
        "embedding.pos_dim": 4,
        "embedding.rank": 4 if arm.startswith("factorized") else 0,
        "embedding.rank_rows": "all",  # the rows in use would be too many for this width
        "train.sequence": 8,
        "train.batch": 8,
        "train.steps": 20,
    }
    c = base.apply(base.get_config(), arms.ARMS[arm] | tiny | {k.replace("__", "."): v for k, v in overrides.items()})
    return resolution.with_vocabulary(resolution.resolve(c), len(TOKEN_BYTES))


def initial(c: ml_collections.ConfigDict) -> tuple[build.Arm, train_step.TrainState]:
    arm = build.build(c, TOKEN_BYTES)
    return arm, jax.jit(lambda bag: train_step.init_state(arm.model, bag, c))(arm.bag)


def run(c: ml_collections.ConfigDict, tokens: np.ndarray, weights: np.ndarray | None = None, updates: int = 1):
    arm, state = initial(c)
    update = jax.jit(train_step.make_train_step(arm.model, c))
    weights = jnp.ones(tokens[:, 1:].shape) if weights is None else weights
    for _ in range(updates):
        state, metrics = update(state, arm.bag, tokens, weights)
    return state, metrics


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 26, (8, 9)).astype(np.int32)


@pytest.mark.parametrize("arm", sorted(arms.ARMS))
def test_accumulation_equals_one_large_batch_also_with_uneven_weights(tokens: np.ndarray, arm: str):
    weights = (np.random.default_rng(1).random((8, 8)) < np.linspace(0.1, 1, 8)[:, None]).astype(np.float32)
    # lr is large and eps not tiny, so that a wrong gradient shows and rounding does not
    options = {"train__lr": 1e-2, "train__eps": 1e-3}
    whole, one = run(resolved(arm, **options), tokens, weights)
    parts, four = run(resolved(arm, **options, train__accumulate=4), tokens, weights)
    assert four.loss == pytest.approx(float(one.loss), rel=1e-6)
    assert four.grad_norm == pytest.approx(float(one.grad_norm), rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), parts.params, whole.params)


@pytest.mark.parametrize(("micro", "rows"), [(1, 8), (4, 2)])
def test_logits_in_memory_are_those_of_one_micro_batch(tokens: np.ndarray, micro: int, rows: int):
    c = resolved(train__accumulate=micro)
    arm, state = initial(c)
    assert rows_of_logits(train_step.make_train_step(arm.model, c), state, arm.bag, tokens, jnp.ones((8, 8))) == {rows}


def test_without_a_chunk_all_logits_are_computed_at_once(tokens: np.ndarray):
    arm, state = initial(resolved())
    evaluate = train_step.make_eval_step(arm.model)
    assert rows_of_logits(evaluate, state.params, arm.bag, jnp.zeros(32), tokens, jnp.ones((8, 8))) == {8}
    assert rows_of_logits(lambda params: train_step.token_nats(arm.model, params, arm.bag, tokens), state.params) == {8}


def rows_of_logits(function: Callable, *arguments: Any) -> set[int]:
    """Returns the first axis of each array (rows, 8, 32) in a program, which with tiny sizes are logits alone."""
    return {int(rows) for rows in re.findall(r"f32\[(\d+),8,32\]", str(jax.make_jaxpr(function)(*arguments)))}


def test_tokens_of_weight_zero_do_not_count(tokens: np.ndarray):
    changed = tokens.copy()
    changed[:, -1] = (changed[:, -1] + 1) % 26
    weights = np.ones((8, 8), np.float32)
    weights[:, -1] = 0
    first, second = (run(resolved(), x, weights)[1] for x in (tokens, changed))
    assert first.loss == second.loss
    assert run(resolved(), changed)[1].loss != run(resolved(), tokens)[1].loss


def test_an_update_is_that_of_the_weighted_mean_whatever_the_weights_add_up_to(tokens: np.ndarray):
    c = resolved(train__lr=1e-2, train__eps=1e-3)
    weights = np.random.default_rng(1).random((8, 8)).astype(np.float32)
    weights[:, :3] = 0
    arm, before = initial(c)
    nats = jax.jit(lambda params: train_step.token_nats(arm.model, params, arm.bag, tokens))(before.params)
    update = jax.jit(train_step.make_train_step(arm.model, c))
    once, metrics = update(before, arm.bag, tokens, weights)
    ninefold, same = update(before, arm.bag, tokens, 9 * weights)
    mean = float((np.asarray(nats, np.float64) * weights).sum() / weights.sum(dtype=np.float64))
    assert (metrics.loss, same.loss) == (pytest.approx(mean, rel=1e-6), pytest.approx(mean, rel=1e-6))
    assert same.grad_norm == pytest.approx(float(metrics.grad_norm), rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), ninefold.params, once.params)


@pytest.mark.parametrize(("clip", "clipped"), [(1e-9, 3), (1e9, 2), (0.0, 2)])
def test_an_updates_metrics_are_those_of_the_states_around_it(tokens: np.ndarray, clip: float, clipped: int):
    c = resolved(train__clip=clip)
    arm, state = initial(c)
    before = state.replace(step=jnp.int32(5), clipped=jnp.int32(2))
    after, metrics = jax.jit(train_step.make_train_step(arm.model, c))(before, arm.bag, tokens, jnp.ones((8, 8)))
    assert (after.step, after.clipped) == (6, clipped)
    assert metrics.clip_share == pytest.approx(clipped / 6)
    assert metrics.lr == pytest.approx(float(optimizer.make_schedule(c)(5)))
    change = optax.tree.norm(jax.tree.map(jnp.subtract, after.params, before.params))
    assert metrics.update_norm == pytest.approx(float(change), rel=1e-4)
    std = np.asarray(before.params[accounting.INPUT]["projection"], np.float64).std()
    assert metrics.embedding_std == pytest.approx(std / c.embedding.init_std, rel=1e-5)


def test_a_clipped_gradient_has_the_limits_norm(tokens: np.ndarray):
    c = resolved(train__clip=0.01)
    gradient = {"embed": {"projection": jnp.full((4, 4), 3.0)}, "head": jnp.full((4, 4), 4.0)}
    clip = optimizer.make_optimizer(c, jax.tree.map(lambda _: True, gradient))
    _, state = clip.update(gradient, clip.init(gradient), gradient)
    moments = jax.tree.leaves(state[1].mu)
    assert jnp.sqrt(sum((m**2).sum() for m in moments)) == pytest.approx((1 - c.train.beta1) * 0.01, rel=1e-5)


def test_clipping_by_group_gives_each_group_the_limits_norm_and_counts_an_update_once():
    c = resolved(train__clip=0.01, train__clip_by_group=True)
    gradient = {"embed": {"projection": jnp.full((4, 4), 3.0)}, "head": jnp.full((4, 4), 4.0)}
    small = gradient | {"head": jnp.full((4, 4), 1e-4)}
    clip = optimizer.make_optimizer(c, jax.tree.map(lambda _: True, gradient))
    for of, head_norm in ((gradient, 0.01), (small, 4e-4)):
        _, state = clip.update(of, clip.init(of), of)
        norms = [float(optax.tree.norm(state[1].mu[name])) / (1 - c.train.beta1) for name in ("embed", "head")]
        assert norms == [pytest.approx(0.01, rel=1e-4), pytest.approx(head_norm, rel=1e-4)]
        assert [float(norm) for norm in optimizer.clipped_norms(c, of)] == pytest.approx(
            [12.0, float(optax.tree.norm(of["head"]))]
        )
    assert [float(norm) for norm in optimizer.clipped_norms(resolved(), gradient)] == pytest.approx([20.0])


@pytest.mark.parametrize("arm", sorted(arms.ARMS))
def test_decay_acts_on_matrices_alone_and_on_every_arms_input_matrix(arm: str):
    c = resolved(arm)
    built = build.build(c, TOKEN_BYTES)
    declarations = declared.of(built.model, np.zeros((1, 1), np.int32), built.bag)
    decayed = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, decays in jax.tree_util.tree_leaves_with_path(declared.decays(declarations))
        if decays
    }
    body = {f"blocks/{name}/kernel" for name in ("attention/qkv", "attention/out", "up", "down")} | {"positions"}
    own = {
        "table": {"embed/table"},
        "factorized": {"embed/factor", "embed/up"},
        "table_plus_kronecker": {"embed/table", "embed/projection"},
    }.get(c.embedding.kind, {"embed/projection"})
    assert decayed == body | own | (set() if c.model.tie_head else {"head"})


def test_lr_mult_and_decay_mult_scale_each_a_part_of_the_inputs_update_and_nothing_else():
    params = {"embed": {"projection": jnp.full((4, 4), 2.0)}, "head": jnp.full((4, 4), 2.0)}
    gradient = jax.tree.map(jnp.ones_like, params)

    def move(**keys) -> dict[str, float]:
        c = resolved(train__lr=0.1, train__weight_decay=0.05, train__warmup_steps=1, **keys)
        tx = optimizer.make_optimizer(c, jax.tree.map(lambda _: True, params))
        updates, _ = tx.update(gradient, tx.init(params), params)
        return {name: float(jax.tree.leaves(part)[0][0, 0]) for name, part in updates.items()}

    rate = 0.1 / 2  # after half of the warm-up; Adam's first step has the size of the rate, the decay is .05 * 2 of it
    for times, of_decay in ((1, 1), (3, 1), (1, 4), (3, 3)):
        found = move(embedding__lr_mult=float(times), embedding__decay_mult=float(of_decay))
        assert found["embed"] == pytest.approx(-rate * (times + of_decay * 0.1), rel=1e-5)
        assert found["head"] == pytest.approx(-rate * 1.1, rel=1e-5)


def test_the_schedule_rises_to_the_peak_and_ends_at_its_tenth():
    c = resolved(train__warmup_steps=5, train__steps=50, train__lr=1e-3)
    rate = optimizer.make_schedule(c)
    assert float(rate(0)) == pytest.approx(1e-3 / 6)
    assert float(rate(5)) == pytest.approx(1e-3)
    assert float(rate(50)) == pytest.approx(1e-4)
    assert all(rate(i) > rate(i + 1) for i in range(5, 50))


@pytest.mark.parametrize("arm", sorted(arms.ARMS))
def test_the_embeddings_std_begins_at_one_in_units_of_its_init(tokens: np.ndarray, arm: str):
    assert run(resolved(arm), tokens)[1].embedding_std == pytest.approx(1.0, rel=0.1)


def test_evaluation_sums_nats_tokens_and_the_bytes_of_the_text(tokens: np.ndarray):
    arm, state = initial(resolved())
    params = state.params
    weights = np.ones((8, 8), np.float32)
    weights[3:] = 0
    text_bytes = np.array([len(b) for b in TOKEN_BYTES] + [0] * 6, np.float32)
    sums = jax.jit(train_step.make_eval_step(arm.model))(params, arm.bag, text_bytes, tokens, weights)
    logits = np.asarray(arm.model.apply({"params": params}, tokens[:3, :-1], arm.bag), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    want = -np.take_along_axis(log_p, tokens[:3, 1:, None], axis=-1).sum()
    assert sums.nats == pytest.approx(want, rel=1e-5)
    assert sums.tokens == 24
    assert sums.text_bytes == sum(len(TOKEN_BYTES[i]) for i in tokens[:3, 1:].ravel())


def compiled(c: ml_collections.ConfigDict):
    mesh = device_mesh.make_mesh()
    arm = build.build(c, TOKEN_BYTES, mesh)
    bag = sharding.replicate(arm.bag, mesh)
    like = train_step.abstract_state(arm.model, bag, c, mesh)
    state = train_step.init_on_mesh(arm.model, bag, c, like)
    update = train_step.lower_train_step(arm.model, bag, c, mesh, like).compile()
    return mesh, bag, state, update, train_step.full_weights(c, mesh)


@pytest.mark.parametrize("arm", ["kronecker", "table_tied"])
def test_the_new_state_takes_the_memory_of_the_old_one(arm: str):
    _, _, state, update, _ = compiled(resolved(arm))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert update.memory_analysis().alias_size_in_bytes >= size


def test_a_step_moves_nothing_between_host_and_device_but_its_batch(tokens: np.ndarray):
    mesh, bag, state, update, weights = compiled(resolved(train__sequence=7))
    tokens = tokens[:, :8]
    with jax.transfer_guard("disallow"):
        for _ in range(3):
            state, metrics = update(state, bag, sharding.to_devices(tokens, mesh), weights)
        with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
            update(state, bag, tokens, weights)  # the guard is awake
    assert metrics.loss > 0


def test_the_loss_chunk_moves_no_update_beyond_rounding(tokens: np.ndarray):
    options = {"train__lr": 1e-2, "train__eps": 1e-3}
    whole, one = run(resolved(**options), tokens, updates=2)
    parts, other = run(resolved(**options, train__loss_chunk=16), tokens, updates=2)
    assert other.loss == pytest.approx(float(one.loss), rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), parts.params, whole.params)


def test_equal_seeds_make_equal_dropout_and_other_seeds_make_other(tokens: np.ndarray):
    runs = [run(resolved(model__dropout=0.3, seed=seed), tokens)[1].loss for seed in (0, 0, 1)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
