"""The robustness probe: its metrics and statistics by hand, its driver against the model itself."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from configs import arms, base
from kronecker import tokenization
from kronecker.model import build
from kronecker.probes import paired, prompts, robustness, shifts
from kronecker.run import result
from kronecker.schema import resolution
from kronecker.training import restore

TOKENIZER = tokenization.load("gpt2")
P, Q = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.5, 0.25])
KL_PQ = 0.5 * np.log(2) - 0.25 * np.log(2)
X, Y = np.array([3.0, 4.0]), np.array([4.0, 3.0])
PAIRS = prompts.pairs()[::33]  # of ten categories


def test_the_metrics_are_those_computed_by_hand():
    found = shifts.shift(np.log(P) + 7, np.log(Q) - 2, X, Y)  # logits are known up to a constant
    assert found.kl == pytest.approx(KL_PQ)
    assert found.drop == pytest.approx(np.log(0.5) - np.log(0.25))
    assert found.cosine == pytest.approx(24 / 25)
    assert found.stable is False


def test_a_drop_can_be_negative_and_a_top_1_stable():
    found = shifts.shift(np.log(P), np.log([0.8, 0.1, 0.1]), X, Y)
    assert found.drop == pytest.approx(np.log(0.5 / 0.8))
    assert found.stable is True


def test_identical_prompts_move_nothing():
    assert shifts.shift(np.log(P), np.log(P), X, X) == shifts.Shift(True, 0.0, pytest.approx(1.0), 0.0)


def test_padded_entries_change_no_metric():
    padding = np.full(5, -np.inf)
    padded = shifts.shift(np.append(np.log(P), padding), np.append(np.log(Q), padding), X, Y)
    assert padded == shifts.shift(np.log(P), np.log(Q), X, Y)


def test_an_id_that_only_the_typo_allows_costs_nothing_and_one_that_it_rules_out_costs_everything():
    narrow, wide = np.log([0.5, 0.5]), np.log([0.25, 0.25, 0.5])
    narrow = np.append(narrow, -np.inf)
    assert shifts.shift(narrow, wide, X, Y).kl == pytest.approx(np.log(2))
    assert shifts.shift(wide, narrow, X, Y).kl == np.inf
    assert shifts.shift(wide, narrow, X, Y).drop == np.inf


def test_a_probability_too_small_for_float64_is_none():
    assert np.isfinite(shifts.shift(np.array([0.0, -2000.0]), np.array([0.0, -np.inf]), X, Y).kl)


def test_a_vocabulary_of_one_token_cannot_move():
    assert shifts.shift(np.array([3.0]), np.array([-1.0]), X, Y) == shifts.Shift(True, 0.0, pytest.approx(0.96), 0.0)


def test_of_equally_likely_ids_the_lowest_is_the_top():
    assert shifts.shift(np.zeros(3), np.array([0.0, 0.0, -1.0]), X, Y).stable is True
    assert shifts.shift(np.zeros(3), np.array([0.0, 1.0, 0.0]), X, Y).stable is False


def test_the_cosine_with_a_zero_vector_is_zero():
    assert shifts.cosine(np.zeros(2), X) == 0


@pytest.mark.parametrize("logits", [[np.nan, 0.0], [np.inf, 0.0], [-np.inf, -np.inf]])
def test_logits_of_a_diverged_run_are_refused(logits: list[float]):
    with pytest.raises(ValueError, match="so the run diverged"):
        shifts.shift(np.array(logits), np.zeros(2), X, Y)


def outcomes(both: int, only_a: int, only_b: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    a = np.repeat([True, True, False, False], [both, only_a, only_b, neither])
    b = np.repeat([True, False, True, False], [both, only_a, only_b, neither])
    return a, b


def test_mcnemar_by_hand_counts_only_what_tells_the_arms_apart():
    assert paired.mcnemar(*outcomes(50, 0, 5, 40)) == 2 / 2**5
    assert paired.mcnemar(*outcomes(0, 1, 3, 0)) == 2 * (1 + 4) / 2**4
    assert paired.mcnemar(*outcomes(9, 3, 3, 9)) == 1
    assert paired.mcnemar(*outcomes(9, 0, 0, 9)) == 1


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 1), (2, 9), (40, 25), (300, 260)])
def test_mcnemar_is_the_binomial_test(only_a: int, only_b: int):
    want = stats.binomtest(only_a, only_a + only_b).pvalue
    assert paired.mcnemar(*outcomes(7, only_a, only_b, 3)) == pytest.approx(want)


def test_mcnemar_gives_the_papers_p_from_its_counts():
    a, b = outcomes(39, 13, 22, 36)  # the only counts with 52 and 61 of 110 stable and this p
    assert (a.mean(), b.mean()) == (pytest.approx(0.473, abs=5e-4), pytest.approx(0.555, abs=5e-4))
    assert paired.mcnemar(a, b) == pytest.approx(0.175, abs=5e-4)


def test_wilcoxon_by_hand():
    assert paired.wilcoxon(np.array([1.0, 2.0, 3.0, 4.0, 5.0])) == pytest.approx(2 / 2**5)
    assert paired.wilcoxon(np.array([-1.0, 2.0, 3.0, 4.0, 5.0])) == pytest.approx(4 / 2**5)  # rank sum 1 of 15


def test_wilcoxon_leaves_zeros_out_and_says_nothing_of_zeros_alone():
    assert paired.wilcoxon(np.array([0.0, 1.0, 2.0, 0.0, 3.0, 4.0, 5.0, 0.0])) == pytest.approx(2 / 2**5)
    assert paired.wilcoxon(np.zeros(4)) == 1


def test_wilcoxon_with_ties_and_many_items_is_scipys():
    values = np.random.default_rng(0).integers(-3, 5, 200).astype(float)
    assert paired.wilcoxon(values) == stats.wilcoxon(values).pvalue < 0.05


def test_the_bootstrap_interval_is_repeatable_and_near_the_normal_one():
    values = np.random.default_rng(0).normal(1.0, 2.0, 400)
    low, high = paired.bootstrap(values, seed=3)
    assert (low, high) == paired.bootstrap(values, seed=3) != paired.bootstrap(values, seed=4)
    half = 1.96 * values.std() / 20
    assert (low, high) == (pytest.approx(values.mean() - half, abs=0.03), pytest.approx(values.mean() + half, abs=0.03))


def test_the_bootstrap_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(400):
        low, high = paired.bootstrap(rng.exponential(1.0, 100), seed, resamples=500)
        covered += low <= 1.0 <= high
    assert 0.90 < covered / 400 < 0.98


def test_the_bootstrap_of_constant_values_is_a_point_and_of_one_value_nothing():
    assert paired.bootstrap(np.full(5, 2.0), 0) == (2.0, 2.0)
    assert np.isnan(paired.bootstrap(np.array([2.0]), 0)).all()


def test_a_comparison_is_b_minus_a_and_takes_mcnemar_for_bools():
    found = paired.compare(*outcomes(1, 0, 2, 1), seed=0)
    assert (found.a, found.b, found.difference, found.test, found.p) == (0.25, 0.75, 0.5, "McNemar", 0.5)
    found = paired.compare(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0]), seed=0)
    assert (found.a, found.b, found.difference, found.test, found.p) == (2.0, 4.0, 2.0, "Wilcoxon", 0.25)
    assert found.low <= 2 <= found.high


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([], [], "have shapes"),
        ([1.0], [1.0, 2.0], "have shapes"),
        ([1.0, np.inf], [1.0, 2.0], "outcome 1 is inf and 2.0; paired statistics need finite numbers"),
    ],
)
def test_outcomes_that_cannot_be_compared_are_refused(a: list[float], b: list[float], message: str):
    with pytest.raises(ValueError, match=message):
        paired.compare(np.array(a), np.array(b), 0)


@functools.cache
def run_of(arm: str, context: int = 32, seed: int = 0, **embedding) -> restore.Restored:
    """A tiny run that has trained nothing."""
    c = base.apply(base.get_config(), arms.ARMS[arm])
    c.model.update({"layers": 1, "heads": 2, "d_model": 16, "context": context})
    c.train.sequence = min(c.train.sequence, context)
    c.embedding.update({"pos_dim": 8} | embedding)
    c.seed = seed
    c = resolution.with_vocabulary(resolution.resolve(c), TOKENIZER.vocab_size)
    made = build.build(c, TOKENIZER.token_bytes)
    init = jax.jit(lambda key, bag: made.model.init(key, jnp.zeros((1, 1), jnp.int32), bag)["params"])
    return restore.Restored(c, types.SimpleNamespace(), TOKENIZER, made, init(jax.random.key(seed), made.bag), 7, None)


@pytest.fixture(scope="module")
def table() -> restore.Restored:
    return run_of("table_tied")


@pytest.fixture(scope="module")
def kronecker() -> restore.Restored:
    return run_of("kronecker")


@pytest.fixture(scope="module")
def measured(table: restore.Restored, kronecker: restore.Restored) -> list[robustness.Measured]:
    return [robustness.measure(run, PAIRS) for run in (table, kronecker)]


@pytest.mark.parametrize("name", ["table", "kronecker"])
def test_each_prompt_is_measured_at_its_own_last_position(name: str, request: pytest.FixtureRequest):
    run = request.getfixturevalue(name)
    head_dV = run.params["head"] if "head" in run.params else run.params["embed"]["table"].T
    real = TOKENIZER.vocab_size
    texts = [[TOKENIZER.eot_id, *TOKENIZER.encode_batch([pair.typo])[0].tolist()] for pair in PAIRS[:2]]
    found = list(robustness.last_positions(run.arm, run.params, texts))
    assert len({len(text) for text in texts}) == 2
    apply = jax.jit(run.arm.model.apply)
    for text, (logits_V, hidden_d) in zip(texts, found, strict=True):
        alone_V = apply({"params": run.params}, np.array([text]), run.arm.bag)[0, -1]
        np.testing.assert_allclose(logits_V, alone_V, atol=1e-5)
        np.testing.assert_allclose((hidden_d @ head_dV)[:real], alone_V[:real], atol=1e-5)


def test_batches_change_nothing(table: restore.Restored, monkeypatch: pytest.MonkeyPatch):
    texts = [[1, 2, 3], [4], [5, 6], [7, 8, 9], [10]]
    whole = list(robustness.last_positions(table.arm, table.params, texts))
    monkeypatch.setattr(robustness, "LOGITS", 2 * 3 * table.arm.model.shape.padded_vocab)  # two at a time
    parts = list(robustness.last_positions(table.arm, table.params, texts))
    assert len(parts) == len(whole) == 5
    for (a, b), (c, d) in zip(whole, parts, strict=True):
        np.testing.assert_allclose(a, c, atol=1e-6)
        np.testing.assert_allclose(b, d, atol=1e-5)


def test_a_runs_metrics_are_finite_in_spite_of_the_padded_vocabulary(measured: list[robustness.Measured]):
    for one in measured:
        assert np.isfinite(one.values("kl")).all()
        assert (one.values("kl") > 0).all()
        assert one.values("stable").dtype == bool
    assert measured[0].name == "table_tied-seed0"
    assert measured[0].conditions["training"] == "7 steps of 512 tokens, 3,584 in all"


def test_tokens_are_counted_without_the_end_of_text_in_front(measured: list[robustness.Measured]):
    pair = PAIRS[0]
    clean, typo = (len(ids) for ids in TOKENIZER.encode_batch([pair.clean, pair.typo]))
    assert (measured[0].clean_tokens[0], measured[0].typo_tokens[0]) == (clean, typo)
    tokens = robustness.describe(measured[0])[1]
    assert tokens.rows[0][:2] == ("all", 10)
    want = np.mean(measured[0].typo_tokens / measured[0].clean_tokens)
    assert tokens.rows[0][-1] == pytest.approx(want)


def test_two_runs_are_compared_pair_by_pair(measured: list[robustness.Measured]):
    results = {one.name: one for one in robustness.compare(*measured)}
    assert set(results) == {"robustness_paired", "robustness_categories", "robustness_operators"}
    assert [row[0] for row in robustness.describe(*measured)[0].rows] == ["table_tied-seed0", "kronecker-seed0"]
    differing = result.differences(results["robustness_paired"])
    assert differing["arms"] == ("table_tied-seed0 against kronecker-seed0", "table, tied, against Kronecker")
    row = results["robustness_paired"].rows[1]
    a, b = (one.values("kl") for one in measured)
    assert row[:4] == ("KL(clean || typo), nats", *map(pytest.approx, (a.mean(), b.mean(), (b - a).mean())))
    assert row[-2:] == ("Wilcoxon", pytest.approx(stats.wilcoxon(b - a).pvalue))
    categories = {pair.category for pair in PAIRS}
    assert len(results["robustness_categories"].rows) == 4 * len(categories)
    assert sum(row[2] for row in results["robustness_operators"].rows) == 4 * len(PAIRS)


def test_equal_runs_do_not_differ(measured: list[robustness.Measured]):
    for row in robustness.compare(measured[0], measured[0])[0].rows:
        assert row[3:6] == (0, 0, 0)
        assert row[-1] == 1


def test_pairs_without_operators_have_no_table_of_them(table: restore.Restored):
    pairs = [prompts.Pair("a", "The enormous lamp", "The enromous lamp")]
    measured = robustness.measure(table, pairs)
    assert "robustness_operators" not in {one.name for one in robustness.compare(measured, measured)}


def test_runs_on_other_prompts_are_not_compared(table: restore.Restored, measured: list[robustness.Measured]):
    other = robustness.measure(table, PAIRS[:2])
    with pytest.raises(ValueError, match="table_tied-seed0 and table_tied-seed0 have different prompts"):
        robustness.compare(measured[0], other)


def test_a_prompt_beyond_the_context_and_no_prompts_are_refused(kronecker: restore.Restored):
    with pytest.raises(ValueError, match=r"prompt 1 has \d+ tokens; give 1 to 32"):
        robustness.measure(kronecker, [prompts.Pair("a", "short", "word " * 40)])
    with pytest.raises(ValueError, match="there are no prompt pairs"):
        robustness.measure(kronecker, [])
