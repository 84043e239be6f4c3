"""The layered probe: its scores by hand, and its spaces against the model itself."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from kronecker import tokenization
from kronecker.embedding import bags, codec, linen
from kronecker.model import accounting, build, transformer
from kronecker.probes import layered, words
from kronecker.run import result
from kronecker.schema import config_files, resolution
from kronecker.training import restore

DEMO = Path(__file__).parents[2] / "configs" / "demo.py"
SHAPE = transformer.Shape(layers=3, heads=2, d_model=16, context=8, vocab_size=1100, padded_vocab=1152)
FAMILIES, ROOTS = {"run": ("run", "ran")}, {"run": "run"}


def test_the_families_are_six_of_eight_different_words_and_hold_their_roots_or_are_irregular():
    listed = [word for family in words.LAYERED_FAMILIES.values() for word in family]
    assert len(listed) == len(set(listed)) == 48
    without_root = {
        word
        for name, family in words.LAYERED_FAMILIES.items()
        for word in family
        if words.LAYERED_ROOTS[name] not in word
    }
    assert without_root == {"ran", "built", "prebuilt"}
    lengths = {name: len(set(words.LAYERED_RELATIVES[name])) for name in words.LAYERED_FAMILIES}
    assert list(lengths.values()) == [11, 11, 12, 20, 18, 12]  # of the paper's author


def test_scores_are_shares_of_the_neighbours():
    found = layered.score(["run", "running", "ran", "prune"], "run", "run", ["run", "ran"])
    assert (found.loose, found.root, found.strict) == (0.75, 0.75, 0.5)  # "prune" holds the root too
    assert np.isnan(layered.score([], "run", "run", ["run"]).root)


def test_neighbours_are_sought_around_the_mean_and_without_the_query():
    # Centred, row 3 points with the query (row 0), row 1 against it; raw, all rows look alike.
    space = np.array([[101.0, 100.0], [99.0, 100.0], [100.0, 100.0], [100.5, 100.0], [100.0, 99.0], [100.0, 101.0]])
    forms = ["run", "far", "zero", "near", "down", "up"]
    scores = layered.score_space(space, {"run": 0}, forms, 1, {"run": ("run",)}, ROOTS, {"run": ("near",)})
    assert scores["run"] == {"run": layered.Scores(loose=1.0, root=0.0, strict=1.0)}


def test_words_without_a_token_are_left_out_and_families_are_means():
    space = np.eye(4)
    scores = layered.score_space(space, {"ran": 1}, ["run", "ran", "runs", "x"], 3, FAMILIES, ROOTS, FAMILIES)
    assert list(scores["run"]) == ["ran"]
    mean = layered.mean_scores([layered.Scores(1.0, 0.0, 0.5), layered.Scores(0.0, 0.0, 1.0)])
    assert mean == layered.Scores(0.5, 0.0, 0.75)
    assert np.isnan(layered.mean_scores([]).loose)


def kronecker_arm() -> build.Arm:
    codes = codec.byte_table([f"t{i}".encode() for i in range(SHAPE.vocab_size)], 4, SHAPE.padded_vocab)
    made = bags.kronecker_bag(codes)
    return build.Arm(transformer.Transformer(SHAPE, linen.BagEmbed(made.rows, 16, init_std=0.03)), made, codes)


def table_arm() -> build.Arm:
    return build.Arm(transformer.Transformer(SHAPE, linen.TableEmbed(1152, 16, init_std=1.0)), None, None)


@pytest.mark.parametrize("make", [table_arm, kronecker_arm])
@pytest.mark.parametrize("layers", [(0, 1), (2,), ()])
def test_spaces_are_what_the_model_computes_for_each_token_alone(make, layers: tuple[int, ...]):
    arm = make()
    ids = np.arange(SHAPE.vocab_size)[:, None]
    params = jax.jit(arm.model.init)(jax.random.key(1), ids[:2], arm.bag)["params"]
    params["positions"] = params["positions"] * 30  # so that leaving it out would show
    found = dict(layered.spaces(arm, params, layers))
    assert list(found) == ["E_raw", "E_post", *(f"L{layer}" for layer in layers)]
    raw = arm.model.embed.apply({"params": params[accounting.INPUT]}, ids, arm.bag)[:, 0]
    assert found["E_raw"] == pytest.approx(np.asarray(raw), abs=1e-6)
    assert found["E_post"] - found["E_raw"] == pytest.approx(np.tile(params["positions"][0], (1100, 1)), abs=1e-6)
    if 2 in layers:  # the last block's output gives the model's own logits
        norm = SHAPE.norm(None).apply({"params": params["final_norm"]}, found["L2"])
        logits = arm.model.apply({"params": params}, ids, arm.bag)[:, 0, : SHAPE.vocab_size]
        assert np.asarray(norm @ params["head"])[:, : SHAPE.vocab_size] == pytest.approx(np.asarray(logits), abs=2e-5)


def test_a_block_that_the_model_does_not_have_is_refused():
    with pytest.raises(ValueError, match="layers has 3; allowed: 0 to 2"):
        next(layered.spaces(table_arm(), {}, (0, 3)))


def test_the_table_has_every_space_family_and_the_words_of_one_token_apart():
    gpt2 = tokenization.load("gpt2")
    shape = dataclasses.replace(SHAPE, vocab_size=gpt2.vocab_size, padded_vocab=50_304)
    arm = build.Arm(transformer.Transformer(shape, linen.TableEmbed(50_304, 16, init_std=1.0)), None, None)
    params = jax.jit(arm.model.init)(jax.random.key(1), np.zeros((1, 1), np.int32))["params"]
    resolved = resolution.resolve(config_files.load(str(DEMO)))
    run = restore.Restored(resolved, None, gpt2, arm, params, 7, None)
    found = {one.name: one for one in layered.measure({"x": run}, layers=(1,), k=5)}
    assert list(found) == ["layered", "layered_families", "layered_single", "layered_single_families"]
    every, of_family = found["layered"], found["layered_families"]
    single = found["layered_single"]
    assert [row[:4] for row in of_family.rows[:7]] == [
        ("x", "E_raw", family, 8) for family in words.LAYERED_FAMILIES
    ] + [("x", "E_raw", "all", 48)]
    assert [row[1] for row in every.rows] == ["E_raw", "E_post", "L1"]
    assert every.rows == of_family.rows[6::7]
    one_token = {word: len(gpt2.encode_batch([word])[0]) == 1 for f in words.LAYERED_FAMILIES.values() for word in f}
    assert single.rows[0][3] == sum(one_token.values())
    assert every.rows[0][4:] == pytest.approx(np.mean([row[4:] for row in of_family.rows[:6]], axis=0))
    assert dict(zip(every.columns, every.paper[0], strict=True))["root"] == 0.302
    assert result.differences(every)["training"][0] == "7 steps of 2,048 tokens, 14,336 in all"
    assert not result.differences(single)
