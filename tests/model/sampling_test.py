"""Sampling: temperature, nucleus, seeds, windows."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import arms, base
from kronecker.embedding import linen
from kronecker.model import build, sampling, transformer
from kronecker.schema import resolution

SHAPE = transformer.Shape(layers=1, heads=2, d_model=16, context=40, vocab_size=50, padded_vocab=64)


@pytest.fixture(scope="module")
def arm() -> build.Arm:
    return build.Arm(transformer.Transformer(SHAPE, linen.TableEmbed(64, 16, init_std=1.0)), None, None)


@pytest.fixture(scope="module")
def params(arm: build.Arm) -> dict:
    params = jax.jit(arm.model.init)(jax.random.key(0), np.zeros((1, 4), np.int32))["params"]
    return params | {"head": params["head"] * 50}


TOKENS = [bytes([value]) for value in range(40)] + [b"ab", b"abc", None, b"", b"ba", b"bab", b"cc", b"c", b"dd", b"e"]


def draw(arm: build.Arm, params: dict, prompt: list[int], cache: bool = True, **options) -> list[int]:
    return list(sampling.Sampler(arm, params, cache).sample(prompt, **({"new_tokens": 12} | options)))


def confident(name: str, **model) -> tuple[build.Arm, dict]:
    """Returns an arm with a body of large random parameters, whose predictions are far from uniform."""
    c = base.apply(base.get_config(), arms.ARMS[name])
    c.model.update({"layers": 2, "heads": 2, "d_model": 16, "context": 40, "vocab_multiple": 64} | model)
    c.train.sequence, c.embedding.pos_dim = 40, 8
    c = resolution.with_vocabulary(resolution.resolve(c), len(TOKENS))
    arm = build.build(c, TOKENS)
    params = jax.jit(arm.model.init)(jax.random.key(0), np.zeros((1, 4), np.int32), arm.bag)["params"]
    keys = iter(jax.random.split(jax.random.key(1), 100))
    noisy = jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(next(keys), leaf.shape), params)
    return arm, noisy | {"embed": params["embed"]}


def test_one_seed_is_one_text_and_another_seed_another(arm: build.Arm, params: dict):
    first, again, other = (draw(arm, params, [1, 2], seed=seed, temperature=1.5, top_p=1.0) for seed in (0, 0, 1))
    assert first == again != other
    assert all(0 <= token < 50 for token in first)  # never the padding


def test_temperature_zero_takes_the_likeliest_whatever_the_window(arm: build.Arm, params: dict):
    apply = jax.jit(arm.model.apply)
    ids = [3]
    for token in draw(arm, params, [3], temperature=0.0, new_tokens=45):
        window = np.pad(ids[-40:], (0, 40 - len(ids[-40:])))
        assert token == int(apply({"params": params}, window[None])[0, len(ids[-40:]) - 1].argmax())
        ids.append(token)
    assert len(ids) == 46  # six more than the context


def test_a_tiny_nucleus_leaves_the_likeliest_alone(arm: build.Arm, params: dict):
    greedy = draw(arm, params, [5], temperature=0.0)
    assert draw(arm, params, [5], temperature=2.0, top_p=1e-6) == greedy


def test_the_nucleus_holds_the_smallest_set_that_reaches_top_p():
    logits = jnp.log(jnp.array([0.1, 0.5, 0.15, 0.25]))
    pick = jax.jit(lambda key: sampling._draw(logits, key, 1.0, 0.7))
    drawn = {int(pick(jax.random.key(i))) for i in range(200)}
    assert drawn == {1, 3}


def test_frequencies_follow_the_probabilities():
    probabilities = jnp.array([0.1, 0.5, 0.15, 0.25])
    pick = jax.jit(jax.vmap(lambda key: sampling._draw(jnp.log(probabilities), key, 1.0, 1.0)))
    drawn = np.asarray(pick(jax.random.split(jax.random.key(0), 20_000)))
    np.testing.assert_allclose(np.bincount(drawn) / len(drawn), probabilities, atol=0.015)


@pytest.mark.parametrize("spread", [0.1, 2.5, 20.0])
@pytest.mark.parametrize("top_p", [1e-6, 0.5, 0.9, 0.999])
def test_the_nucleus_is_what_sorting_finds(spread: float, top_p: float):
    log_p = jax.nn.log_softmax(spread * jax.random.normal(jax.random.key(1), (5000,)))
    p = np.sort(np.exp(np.asarray(log_p, np.float64)))[::-1]
    want = 1 + int((np.cumsum(p) < top_p).sum())  # the smallest number of ids that reaches it
    kept = int((log_p >= jax.jit(sampling._least_of_nucleus)(log_p, top_p)).sum())
    assert abs(kept - want) <= (1 if spread < 1 else 0)  # where ids are nearly equal, rounding decides about one


def test_the_stop_token_ends_the_text_and_is_not_part_of_it(arm: build.Arm, params: dict):
    text = draw(arm, params, [7], temperature=0.0)
    stop = text[4]
    assert draw(arm, params, [7], temperature=0.0, stop=stop) == list(itertools.takewhile(lambda t: t != stop, text))


@pytest.mark.parametrize("name", ["table_untied", "table_tied", "kronecker", "kronecker_tied"])
def test_one_text_is_drawn_with_a_cache_and_without_up_to_the_context_and_beyond(name: str):
    samplers = [sampling.Sampler(*confident(name), cache) for cache in (True, False)]
    for prompt in ([3], [*range(38)], [*range(49)]):
        for options in ({"temperature": 0.0}, {"temperature": 1.0, "top_p": 0.95, "seed": 5}):
            cached, plain = (list(sampler.sample(prompt, new_tokens=45, **options)) for sampler in samplers)
            assert cached == plain
            assert len(plain) == 45
            assert options["temperature"] == 0 or len(set(plain)) > 5


@pytest.mark.parametrize("model", [{}, {"scan_layers": True, "remat": True}, {"bias": False}])
def test_a_text_in_parts_has_the_logits_of_the_whole(model: dict):
    arm, params = confident("kronecker", **model)
    ids = np.random.default_rng(0).integers(0, 50, (2, 40))
    apply = jax.jit(arm.model.apply, static_argnames="mutable")
    whole = apply({"params": params}, ids, arm.bag)
    variables, parts = {"params": params}, []
    for start, stop in itertools.pairwise([0, 20, 21, 40]):
        part, cache = apply(variables, ids[:, start:stop], arm.bag, start=start, mutable=("cache",))
        variables = {"params": params} | cache
        parts.append(part)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=2e-5)
    assert {leaf.shape for leaf in jax.tree.leaves(cache)} == {(2, 2, 40, 2, 8)}  # layers, B, context, heads, width


def test_an_id_drawn_costs_one_position(arm: build.Arm, params: dict, monkeypatch: pytest.MonkeyPatch):
    widths = []
    original = sampling._after_part

    def watched(model, params, bag, cache, window_T, start, length):
        widths.append(window_T.shape)
        return original(model, params, bag, cache, window_T, start, length)

    monkeypatch.setattr(sampling, "_after_part", watched)
    draw(arm, params, [1, 2, 3])
    assert widths == [(32,), (1,)]  # each once, when it is compiled


def test_a_sampler_draws_many_texts(arm: build.Arm, params: dict):
    sampler = sampling.Sampler(arm, params)
    for prompt in ([1], [2, 3], [1]):
        assert list(sampler.sample(prompt, new_tokens=12)) == draw(arm, params, prompt)


OUT_OF_RANGE = {
    "temperature": [-1.0, 1e-39, 1e-7, 1e7, 1e400, np.nan, -np.inf],
    "top_p": [0.0, 1.1, -1.0, 1e-39, np.nan, np.inf],
    "seed": [-1, 2**32, 10**30],
    "new_tokens": [-1, 2**32, 10**30],
}


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_options_out_of_range_are_refused(arm: build.Arm, params: dict, name: str):
    for value in OUT_OF_RANGE[name]:
        with pytest.raises(ValueError, match=rf"^{name} is {value}; it must be "):
            draw(arm, params, [1], **{name: value})


def test_options_at_the_ends_of_their_ranges_draw_ids_of_the_vocabulary(arm: build.Arm, params: dict):
    greedy = draw(arm, params, [5], temperature=0.0)
    assert draw(arm, params, [5], temperature=sampling.COLDEST) == greedy
    assert draw(arm, params, [5], temperature=1.0, top_p=sampling.LEAST_P) == greedy
    hot = draw(arm, params, [5], temperature=sampling.HOTTEST, top_p=1.0, seed=2**32 - 1, new_tokens=60)
    assert max(hot) < 50
    assert len(set(hot)) > 20
    assert draw(arm, params, [5], new_tokens=0) == []


def test_an_empty_prompt_is_refused(arm: build.Arm, params: dict):
    with pytest.raises(ValueError, match="the prompt is empty"):
        draw(arm, params, [])
