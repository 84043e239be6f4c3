"""Where an arm wins by token, and what colliding codes cost it: made-up losses, whose means are taken by hand."""

import base64
import collections
import csv
import html
import itertools
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pytest
from run_folders import SCRIPTS, STEP, vocabulary, write_json, write_losses, write_run

from kronecker.report import breakdown, collisions, compare, comparison_page, losses_by_token, tables
from kronecker.run import finished_runs

ROOT = Path(__file__).parents[2]
SVG, XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
BY_TOKEN = [f"{which}_{what}" for what in ("frequency", "length", "script") for which in ("target", "input")]


def comparison(folder: Path) -> compare.Comparison:
    return compare.compare([finished_runs.read(run) for run in finished_runs.find([folder])])


def broken_down(folder: Path) -> dict[str, breakdown.Breakdown]:
    compared = comparison(folder)
    return {made.name: made for made in breakdown.break_down(compared, losses_by_token.read_all(compared))}


def write_pair(
    folder: Path, facts: dict[str, np.ndarray], inputs: Iterable[int], targets: Iterable[int], nats: dict[str, Any]
) -> Path:
    """Writes seed 0 of the arms that `nats` names."""
    for arm, of_arm in nats.items():
        written = write_run(folder / arm, arm, 0, 4.0)
        tokens = {"inputs": np.asarray(inputs, np.int32), "targets": np.asarray(targets, np.int32)}
        write_losses(written, facts, nats=np.asarray(of_arm, np.float32), **tokens)
    return folder


# A sweep of three arms and two seeds with random facts of everything.

ARMS, SEEDS, IDS, PREDICTIONS = ("table_untied", "kronecker", "kronecker_unit"), (0, 1), 60, 20_000


def random_sweep() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[tuple[str, int], np.ndarray]]:
    """Returns facts of the ids, the tokens, and (arm, seed) -> nats."""
    rng = np.random.default_rng(0)
    facts = vocabulary(
        IDS,
        train_count=rng.integers(0, 1000, IDS),
        bytes=rng.integers(1, 40, IDS),
        special=np.arange(IDS) == 7,
        after_space=rng.random(IDS) < 0.5,
        script=rng.integers(0, len(SCRIPTS), IDS),
    )
    text = rng.integers(0, IDS, PREDICTIONS + 1).astype(np.int32)
    tokens = {"inputs": text[:-1], "targets": text[1:]}
    nats = {key: rng.gamma(4, 1, PREDICTIONS).astype(np.float32) for key in itertools.product(ARMS, SEEDS)}
    return facts, tokens, nats


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "sweep"
    facts, tokens, nats = random_sweep()
    for (arm, seed), of_run in nats.items():
        run = write_run(folder / f"{arm}-seed{seed}", arm, seed, 4.5 + 0.01 * seed + 0.02 * ARMS.index(arm))
        code_group = np.where(np.arange(IDS) % 3 == 0, 4, -1).astype(np.int32) if arm == "kronecker" else None
        codes = {} if code_group is None else {"code_group": code_group}
        write_losses(run, facts, nats=of_run, **tokens, **codes)
    return folder


@pytest.fixture(scope="module")
def page(swept: Path) -> str:
    comparison_page.write(comparison(swept), swept / "report.html", "Sweep")
    return (swept / "report.html").read_text()


def groups_by_hand() -> dict[str, list[str]]:
    """Returns breakdown -> the name of each id's group, from their definitions."""
    facts, _, _ = random_sweep()
    count = facts["train_count"].tolist()
    by_count = sorted(range(IDS), key=lambda i: (-count[i], i))
    before = {i: sum(count[j] for j in by_count[: by_count.index(i)]) for i in range(IDS)}
    decile = [str(min(9, 10 * (2 * before[i] + count[i]) // (2 * sum(count))) + 1) for i in range(IDS)]
    spans = [(n, n) for n in range(1, 9)] + [(9, 10), (11, 12), (13, 16), (17, 32)]
    length_name = {n: f"{a}" if a == b else f"{a}–{b}" for a, b in spans for n in range(a, b + 1)}
    length = [length_name.get(n, "33+") for n in facts["bytes"].tolist()]
    script = [SCRIPTS[i] for i in facts["script"].tolist()]
    length[7] = script[7] = "special"
    return {"frequency": decile, "length": length, "script": script}


@pytest.mark.parametrize("name", BY_TOKEN)
def test_a_groups_numbers_are_means_over_its_tokens_taken_one_by_one(swept: Path, name: str):
    _, tokens, nats = random_sweep()
    which, what = name.split("_")
    group_of = groups_by_hand()[what]
    members = collections.defaultdict(list)
    for position, token in enumerate(tokens[f"{which}s"].tolist()):
        members[group_of[token]].append(position)
    members = {group: positions for group, positions in members.items() if len(positions) >= 200}

    def mean(arm: str, seed: int, group: str) -> float:
        return sum(float(nats[arm, seed][position]) for position in members[group]) / len(members[group])

    made = broken_down(swept)[name]
    assert dict(zip(made.groups, made.tokens, strict=True)) == {group: len(found) for group, found in members.items()}
    for row, group in enumerate(made.groups):
        baseline = [mean("table_untied", seed, group) for seed in SEEDS]
        assert made.baseline[row] == pytest.approx(sum(baseline) / 2)
        for arm in ARMS[1:]:
            expected = [mean(arm, seed, group) - baseline[seed] for seed in SEEDS]
            assert made.differences[arm][row].seeds == SEEDS
            assert made.differences[arm][row].values == pytest.approx(expected, abs=1e-9)


def test_there_is_a_breakdown_of_either_token_by_frequency_length_and_script(swept: Path):
    assert list(broken_down(swept)) == BY_TOKEN


def test_the_groups_of_a_breakdown_and_the_tokens_left_out_are_all_tokens(swept: Path):
    _, tokens, _ = random_sweep()
    group_of = groups_by_hand()["length"]
    rare = {group: n for group, n in collections.Counter(group_of[i] for i in tokens["targets"]).items() if n < 200}
    assert sum(broken_down(swept)["target_length"].tokens) == PREDICTIONS - sum(rare.values())


# Groups of ids.


def deciles(*train_count: int) -> list[str]:
    names, group = breakdown.by_frequency(vocabulary(len(train_count), train_count=train_count))
    return [names[i] for i in group]


@pytest.mark.parametrize(
    ("train_count", "expected"),
    [
        ([1] * 10, [str(i) for i in range(1, 11)]),
        ([3] * 20, [str(1 + i // 2) for i in range(20)]),  # equal counts: the smaller id first
        ([5, 10, 15, 20, 50], ["10", "10", "8", "7", "3"]),  # middles at .975, .9, .775, .6, .25
        ([50, *[1] * 50], ["3", *(str(6 + i // 10) for i in range(50))]),  # one id with half of all mass
        ([0, 7, 0], ["10", "6", "10"]),  # what the text never has is the rarest
        ([9], ["6"]),
    ],
)
def test_an_id_is_in_the_decile_that_holds_the_middle_of_its_share(train_count: list[int], expected: list[str]):
    assert deciles(*train_count) == expected


def test_no_more_frequent_id_is_in_a_rarer_decile_and_no_decile_is_far_from_a_tenth():
    count = (1e6 / np.arange(10, 5000)).astype(np.int64)  # Zipf without a head: no id has 3 % of all
    np.random.default_rng(0).shuffle(count)
    decile = np.array([int(name) for name in deciles(*count.tolist())])
    assert (np.diff(decile[np.argsort(-count, kind="stable")]) >= 0).all()
    share = np.bincount(decile, weights=count, minlength=11)[1:] / count.sum()
    assert np.abs(share - 0.1).max() < 0.03 / 2 + 1e-9


@pytest.mark.parametrize(
    ("length", "name"),
    [
        *((n, str(n)) for n in range(1, 9)),
        *[(9, "9–10"), (10, "9–10"), (11, "11–12"), (12, "11–12"), (13, "13–16"), (16, "13–16")],
        *[(17, "17–32"), (32, "17–32"), (33, "33+"), (500, "33+")],
    ],
)
def test_an_id_is_in_the_group_of_its_length(length: int, name: str):
    names, (group,) = breakdown.by_length(vocabulary(1, bytes=[length]))
    assert names[group] == name


@pytest.mark.parametrize("by", [breakdown.by_length, breakdown.by_script])
def test_special_tokens_are_a_group_of_their_own_whatever_their_text(by: Any):
    names, group = by(vocabulary(3, bytes=[13, 13, 4], special=[False, True, True]))
    assert [names[i] == "special" for i in group] == [False, True, True]


def test_ids_without_bytes_are_in_no_group_of_a_length():
    names, group = breakdown.by_length(vocabulary(2, bytes=[0, 1]))
    assert [names[i] for i in group] == ["special", "1"]


def test_without_any_count_of_the_training_text_nothing_is_broken_down_by_frequency(tmp_path: Path):
    facts = vocabulary(2, train_count=[0, 0], bytes=[1, 2])
    text = np.arange(1000) % 2
    nats = {"table_untied": np.full(1000, 4.0), "kronecker": np.full(1000, 3.0)}
    made = broken_down(write_pair(tmp_path, facts, text, 1 - text, nats))
    assert list(made) == ["target_length", "input_length"]


@pytest.mark.parametrize(("rare", "shown"), [(199, ("1", "2")), (200, ("1", "2", "3"))])
def test_a_group_of_fewer_than_200_tokens_is_left_out(tmp_path: Path, rare: int, shown: tuple[str, ...]):
    targets = [0] * 300 + [1] * 300 + [2] * rare
    facts = vocabulary(3, bytes=[1, 2, 3])
    nats = {"table_untied": np.full(len(targets), 4.0), "kronecker": np.full(len(targets), 3.0)}
    made = broken_down(write_pair(tmp_path, facts, [0] * len(targets), targets, nats))["target_length"]
    assert made.groups == shown


def test_a_breakdown_with_one_group_is_none(tmp_path: Path):
    facts = vocabulary(2, bytes=[1, 2])
    nats = {"table_untied": np.full(500, 4.0), "kronecker": np.full(500, 3.0)}
    made = broken_down(write_pair(tmp_path, facts, [0] * 500, [0] * 250 + [1] * 250, nats))
    assert "target_length" in made
    assert "input_length" not in made


# Collisions.  All losses and effects are sums of powers of two, so that float32 holds them.


def damages(folder: Path) -> list[collisions.Damage]:
    compared = comparison(folder)
    return collisions.damage(compared, losses_by_token.read_all(compared))


def collide(
    folder: Path, facts: dict[str, np.ndarray], inputs: Iterable[int], effect_of_id: list[float], luck: int = 0
) -> Path:
    """Writes a pair in which the arm loses `effect_of_id` more on the token after each input; `luck` both share."""
    inputs = np.asarray(inputs)
    baseline = 2.0 + np.random.default_rng(luck).integers(0, 64, len(inputs)) / 16
    nats = {"table_untied": baseline, "kronecker": baseline + np.array(effect_of_id)[inputs]}
    return write_pair(folder, facts, inputs, np.zeros(len(inputs)), nats)


# Ids 0 and 1 share a code and are unlike most others in one way; 2 is their like, 3 is not.
@pytest.mark.parametrize(
    "confounder",
    [
        {"bytes": [9, 9, 9, 2]},
        {"train_count": [4, 7, 5, 900]},
        {"after_space": [True, True, True, False]},
        {"script": [1, 1, 1, 0]},
    ],
)
def test_planted_damage_is_recovered_though_the_arm_does_worse_on_all_such_tokens(
    tmp_path: Path, confounder: dict[str, list]
):
    facts = vocabulary(4, code_group=[5, 5, -1, -1], **confounder)
    inputs = np.repeat([0, 1, 2, 3], [150, 50, 30, 770])
    collide(tmp_path, facts, inputs, [0.5 + 0.125, 0.5 + 0.125, 0.5, -0.25])  # the like of 0 and 1 cost .5 anyhow
    (found,) = damages(tmp_path)
    assert found.difference.values == pytest.approx((0.125,), abs=1e-12)
    assert (found.arm, found.ids, found.tokens, found.share, found.matched) == ("kronecker", 2, 200, 0.2, 1.0)
    assert found.spread == pytest.approx(0.125 * 0.2)


def test_no_damage_is_found_where_only_length_and_frequency_set_collided_inputs_apart(tmp_path: Path):
    rng = np.random.default_rng(1)
    length, magnitude, space = rng.integers(1, 6, 400), rng.integers(0, 5, 400), rng.integers(0, 2, 400)
    collided = rng.random(400) < 0.1 + 0.1 * length + 0.05 * magnitude  # long and frequent ids collide more
    facts = vocabulary(
        400,
        bytes=length,
        train_count=2**magnitude + rng.integers(0, 2, 400) * (magnitude > 0),
        after_space=space,
        code_group=np.where(collided, 3, -1),
    )
    effect = length / 8 + magnitude / 4 - space / 2
    inputs = rng.integers(0, 400, 20_000)
    delta = effect[inputs]
    assert delta[collided[inputs]].mean() - delta[~collided[inputs]].mean() > 0.1  # what matching is there to remove
    (found,) = damages(collide(tmp_path, facts, inputs, effect.tolist()))
    assert found.difference.mean == pytest.approx(0.0, abs=1e-12)
    assert found.matched > 0.95


def test_strata_are_weighted_by_their_collided_inputs(tmp_path: Path):
    facts = vocabulary(4, bytes=[1, 1, 2, 2], code_group=[8, -1, 9, -1])
    inputs = np.repeat([0, 1, 2, 3], [30, 500, 90, 40])
    (found,) = damages(collide(tmp_path, facts, inputs, [0.125, 0.0, 0.75, 0.25]))
    assert found.difference.mean == pytest.approx((30 * 0.125 + 90 * 0.5) / 120)


@pytest.mark.parametrize(("controls", "collided"), [(19, 100), (100, 19), (0, 100)])
def test_a_stratum_without_twenty_inputs_of_either_kind_is_left_out(tmp_path: Path, controls: int, collided: int):
    facts = vocabulary(4, bytes=[1, 1, 2, 2], code_group=[8, -1, 9, -1])
    inputs = np.repeat([0, 1, 2, 3], [60, 60, collided, controls])
    (found,) = damages(collide(tmp_path, facts, inputs, [0.125, 0.0, 4.0, 0.0]))
    assert found.difference.values == pytest.approx((0.125,))
    assert found.tokens == 60 + collided
    assert found.matched == pytest.approx(60 / (60 + collided))


def test_a_stratum_with_twenty_inputs_of_both_kinds_counts(tmp_path: Path):
    facts = vocabulary(2, code_group=[8, -1])
    (found,) = damages(collide(tmp_path, facts, np.repeat([0, 1], [20, 20]), [0.25, 0.125]))
    assert (found.difference.values, found.matched) == ((0.125,), 1.0)


@pytest.mark.parametrize(("count", "matched"), [((4, 7), 1.0), ((7, 8), 0.0), ((1, 2), 0.0), ((1023, 512), 1.0)])
def test_controls_are_as_frequent_within_a_power_of_two(tmp_path: Path, count: tuple[int, int], matched: float):
    facts = vocabulary(2, train_count=count, code_group=[8, -1])
    (found,) = damages(collide(tmp_path, facts, np.repeat([0, 1], [50, 50]), [0.25, 0.125]))
    assert found.matched == matched


def test_damage_that_nothing_matches_is_no_number_and_the_table_says_so(tmp_path: Path):
    facts = vocabulary(2, bytes=[1, 2], code_group=[8, -1])
    found = damages(collide(tmp_path, facts, np.repeat([0, 1], [50, 150]), [0.25, 0.125]))
    assert (found[0].difference, found[0].spread, found[0].matched) == (None, None, 0.0)
    assert tables.collision_costs(found).rows == (("kronecker", "1", "25.00 %", "0 %", "", "", "", "", "no match"),)


def test_colliding_ids_that_the_held_out_text_never_has_cost_nothing_that_can_be_measured(tmp_path: Path):
    facts = vocabulary(3, code_group=[8, 8, -1])
    (found,) = damages(collide(tmp_path, facts, [2] * 300, [0.0, 0.0, 0.0]))
    assert (found.ids, found.tokens, found.share, found.matched, found.difference) == (2, 0, 0.0, 0.0, None)


@pytest.mark.parametrize("odd", [{"special": [0, 0, 1, 1]}, {"bytes": [3, 3, 0, 0]}], ids=["special", "no bytes"])
def test_special_tokens_and_ids_without_bytes_are_neither_collided_nor_controls(tmp_path: Path, odd: dict[str, list]):
    facts = vocabulary(4, code_group=[8, -1, 8, -1], **odd)
    inputs = np.repeat([0, 1, 2, 3], [50, 50, 50, 50])
    (found,) = damages(collide(tmp_path, facts, inputs, [0.25, 0.125, 4.0, -4.0]))
    assert (found.ids, found.tokens) == (1, 50)
    assert found.difference.values == (0.125,)


def test_every_seed_has_its_own_damage_and_pairs_with_its_own_baseline(tmp_path: Path):
    facts = vocabulary(2, code_group=[8, -1])
    inputs = np.repeat([0, 1], [50, 50])
    for seed, damage in enumerate((0.125, 0.5, -0.25)):
        collide(tmp_path / f"{seed}", facts, inputs, [damage + seed, seed], luck=seed)
        for arm in ("table_untied", "kronecker"):
            run = write_run(tmp_path / "all" / f"{arm}-{seed}", arm, seed, 4.0)
            for name in ("token_losses.npz", "result.json"):
                (tmp_path / f"{seed}" / arm / name).rename(run / name)
    (found,) = damages(tmp_path / "all")
    assert found.difference.seeds == (0, 1, 2)
    assert found.difference.values == pytest.approx((0.125, 0.5, -0.25))


def test_codes_drawn_anew_for_each_seed_have_no_damage_of_the_first_seeds_ids(tmp_path: Path):
    inputs = np.repeat([0, 1], [50, 50])
    for seed, group in enumerate(([8, -1], [-1, 8])):
        collide(tmp_path / f"{seed}", vocabulary(2, code_group=group), inputs, [0.5, 0.0])
        for arm in ("table_untied", "kronecker"):
            run = write_run(tmp_path / "all" / f"{arm}-{seed}", arm, seed, 4.0)
            for name in ("token_losses.npz", "result.json"):
                (tmp_path / f"{seed}" / arm / name).rename(run / name)
    (found,) = damages(tmp_path / "all")
    assert (found.difference, found.spread, found.verdict) == (None, None, "redrawn")
    assert tables.collision_costs([found]).rows[0][-1] == "redrawn"


@pytest.mark.parametrize(("planted", "verdict"), [(0.0, "not resolved"), (1.0, "worse")])
def test_quirks_of_single_ids_are_no_damage_however_many_seeds_repeat_them(
    tmp_path: Path, planted: float, verdict: str
):
    rng = np.random.default_rng(3)
    facts = vocabulary(60, code_group=[1] * 6 + [-1] * 54)
    quirk = rng.integers(-16, 17, 60) / 16
    quirk[:6] += 0.25 - quirk[:6].mean()  # the six collide and happen to be .25 harder, in every seed
    for seed in range(3):
        effect = quirk + planted * (np.arange(60) < 6) + seed / 64
        collide(tmp_path / f"{seed}", facts, np.repeat(np.arange(60), 40), effect.tolist(), luck=seed)
        for arm in ("table_untied", "kronecker"):
            run = write_run(tmp_path / "all" / f"{arm}-{seed}", arm, seed, 4.0)
            for name in ("token_losses.npz", "result.json"):
                (tmp_path / f"{seed}" / arm / name).rename(run / name)
    (found,) = damages(tmp_path / "all")
    assert found.difference.verdict == "worse"  # over seeds alone both would be
    assert found.verdict == verdict
    assert 0.3 < found.placebo < 0.9  # the mean of 6 of 60 such quirks has a standard deviation of about .24


def test_an_arm_whose_codes_are_all_its_own_is_not_in_the_table(swept: Path):
    assert [found.arm for found in damages(swept)] == ["kronecker"]


def test_the_table_of_collisions_holds_the_numbers(tmp_path: Path):
    facts = vocabulary(4, bytes=[1, 1, 2, 2], code_group=[8, -1, 9, -1])
    inputs = np.repeat([0, 1, 2], [60, 120, 20])
    told = tables.collision_costs(damages(collide(tmp_path, facts, inputs, [0.625, 0.5, 0.0, 0.0])))
    assert told.rows == (("kronecker", "2", "40.00 %", "75 %", "+0.1250", "", "0.1250", "+0.0500", "not resolved"),)


# Files.


def test_a_run_without_the_file_has_no_token_losses(tmp_path: Path):
    assert (
        losses_by_token.read(
            finished_runs.read(finished_runs.find([write_run(tmp_path / "run", "kronecker", 0, 4.0)])[0])
        )
        is None
    )


@pytest.mark.parametrize(
    "stale", [{"step": np.array(STEP - 1)}, {"data_fingerprint": np.array("f" * 64)}], ids=["step", "data"]
)
def test_token_losses_of_another_checkpoint_or_other_data_are_refused_in_one_line(
    tmp_path: Path, stale: dict[str, np.ndarray]
):
    facts = vocabulary(2, bytes=[1, 2])
    nats = {"table_untied": np.full(500, 4.0), "kronecker": np.full(500, 3.0)}
    write_pair(tmp_path, facts, [0] * 500, [0] * 250 + [1] * 250, nats)
    tokens = {"nats": nats["kronecker"], "inputs": np.zeros(500, int), "targets": np.zeros(500, int)}
    write_losses(tmp_path / "kronecker", facts, **tokens, **stale)
    done = commands.run("scripts/report.py", tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path}/kronecker/token_losses.npz: belongs to another checkpoint or other data")
    assert line.endswith(f"python scripts/token_losses.py --again {tmp_path}/kronecker")
    assert not [entry for entry in tmp_path.iterdir() if entry.name.startswith("report")]


@pytest.mark.parametrize("left", [0, 3, 200])
def test_token_losses_that_were_cut_are_refused_in_one_line(tmp_path: Path, left: int):
    facts = vocabulary(2, bytes=[1, 2])
    nats = {"table_untied": np.full(500, 4.0), "kronecker": np.full(500, 3.0)}
    write_pair(tmp_path, facts, [0] * 500, [0] * 500, nats)
    file = tmp_path / "kronecker" / "token_losses.npz"
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(ValueError, match=r"token_losses\.npz: damaged .* --again"):
        losses_by_token.read_all(comparison(tmp_path))


def test_token_losses_of_a_run_that_stood_in_the_folder_before_are_refused(tmp_path: Path):
    facts = vocabulary(2, bytes=[1, 2])
    nats = {"table_untied": np.full(500, 4.0), "kronecker": np.full(500, 3.0)}
    write_pair(tmp_path, facts, [0] * 500, [0] * 500, nats)
    result = tmp_path / "kronecker" / "result.json"
    write_json(result, json.loads(result.read_text()) | {"validation_loss": 3.01})
    with pytest.raises(
        ValueError, match=r"3\.0000 nats/token where result\.json has 3\.0100, so it belongs to another run"
    ):
        losses_by_token.read_all(comparison(tmp_path))


def test_the_mean_is_checked_over_the_tokens_of_the_final_evaluation(tmp_path: Path):
    run = write_run(tmp_path / "run", "kronecker", 0, 2.0, {"eval.sequences": 2})
    nats = np.r_[np.full(2 * 128, 2.0), np.full(1000, 7.0)]
    tokens = {"nats": nats, "inputs": np.zeros(len(nats), int), "targets": np.zeros(len(nats), int)}
    write_losses(run, vocabulary(1), **tokens)
    result = json.loads((run / "result.json").read_text())
    write_json(run / "result.json", result | {"validation_loss": 2.0})
    assert losses_by_token.read(finished_runs.read(finished_runs.find([run])[0])) is not None


def test_runs_that_predicted_other_tokens_are_refused(tmp_path: Path):
    facts = vocabulary(2, bytes=[1, 2])
    nats = {"table_untied": np.full(500, 4.0), "kronecker": np.full(500, 3.0)}
    write_pair(tmp_path, facts, [0] * 500, [0] * 500, nats)
    tokens = {"nats": nats["kronecker"], "inputs": np.ones(500, int), "targets": np.zeros(500, int)}
    write_losses(tmp_path / "kronecker", facts, **tokens)
    with pytest.raises(ValueError, match="have losses on different held-out tokens"):
        losses_by_token.read_all(comparison(tmp_path))


def test_what_follows_a_special_token_is_no_control(tmp_path: Path):
    """The arm differs after the end-of-text id alone, which has the length and the count of ids that collide."""
    facts = vocabulary(3, bytes=[5, 5, 5], special=[False, False, True], code_group=[8, -1, -1])
    (found,) = damages(collide(tmp_path, facts, np.repeat([0, 1, 2], [50, 50, 50]), [0.0, 0.0, 4.0]))
    assert found.difference.values == (0.0,)


# The page.


def test_the_page_goes_from_verdicts_to_curves_to_tokens_to_costs(page: str):
    marks = [
        *["<thead>", 'id="paired_differences"', 'id="validation_loss"', 'id="clip_share"'],
        *["<h2>By token</h2>", *(f'id="{name}"' for name in BY_TOKEN), "What shared codes cost"],
        *["<h2>Costs</h2>", 'id="tokens_per_second"', "<h2>Conditions</h2>"],
    ]
    places = [page.find(mark) for mark in marks]
    assert -1 not in places
    assert places == sorted(places)


def test_every_figure_of_the_page_has_its_numbers_and_its_picture_beside_it(page: str, swept: Path):
    pictures = dict(re.findall(r'<figure id="(\w+)">.*?base64,([^"]+)"', page, re.DOTALL))
    assert pictures.keys() >= set(BY_TOKEN)
    assert {file.name for file in (swept / "report").iterdir()} == {
        f"{name}.{suffix}" for name in pictures for suffix in ("csv", "svg")
    }
    for name, picture in pictures.items():
        assert (swept / "report" / f"{name}.svg").read_bytes() == base64.b64decode(picture)


@pytest.mark.parametrize("name", BY_TOKEN)
def test_the_numbers_of_a_figure_are_those_of_the_breakdown(page: str, swept: Path, name: str):
    made = broken_down(swept)[name]
    rows = read_csv(swept, name)
    assert [(row["arm"], row["group"]) for row in rows] == list(itertools.product(made.differences, made.groups))
    for row, difference in zip(rows, itertools.chain(*made.differences.values()), strict=True):
        numbers = (*(float(row[f"seed_{seed}"]) for seed in SEEDS), float(row["difference"]))
        assert numbers == pytest.approx((*difference.values, difference.mean), rel=1e-5)
        ends = (float(row["interval_low"]), float(row["interval_high"]))
        assert ends == pytest.approx(difference.interval, rel=1e-5)
        at = made.groups.index(row["group"])
        assert (int(row["ids"]), int(row["tokens"]), float(row["baseline_loss"])) == (
            made.ids[at],
            made.tokens[at],
            pytest.approx(made.baseline[at], rel=1e-5),
        )
        assert row["verdict"] == difference.verdict


@pytest.mark.parametrize("name", BY_TOKEN)
def test_dots_and_bars_are_drawn_where_the_numbers_are(page: str, swept: Path, name: str):
    rows = {(row["arm"], row["group"]): row for row in read_csv(swept, name)}
    panels = [group for group in ET.parse(swept / "report" / f"{name}.svg").iter(f"{SVG}g") if is_axes(group)]
    groups = list(dict.fromkeys(group for _, group in rows))
    heights = []
    for arm, panel in zip(ARMS[1:], panels, strict=True):
        dots = {group: dot(panel, f"{arm} {group}") for group in groups}
        bars = {round(y, 2): (left, right) for left, right, y in lines(panel, width="2")}
        drawn, written = [], []
        for group, (x, y) in dots.items():
            drawn += [x, *bars[round(y, 2)]]
            written += [float(rows[arm, group][column]) for column in ("difference", "interval_low", "interval_high")]
        (zero,) = {left for left, right, _ in lines(panel, width="1") if left == right}
        scale, offset = np.polyfit(written, drawn, 1)
        assert scale > 0
        np.testing.assert_allclose(drawn, np.multiply(written, scale) + offset, rtol=0, atol=0.01)
        assert zero == pytest.approx(offset, abs=0.01)
        heights.append([y for _, y in dots.values()])
        assert heights[-1] == sorted(heights[-1])  # the first group is at the top
    assert heights[0] == heights[1]


def test_panels_of_more_arms_than_fit_in_a_row_share_one_scale(tmp_path: Path):
    facts = vocabulary(2, bytes=[1, 2])
    text = np.arange(1000) % 2
    baseline = np.full(1000, 4.0)
    write_pair(tmp_path, facts, text, text, {"table_untied": baseline})
    multipliers = [1.0 + i for i in range(7)]
    for i, multiplier in enumerate(multipliers):
        run = write_run(tmp_path / f"{i}", "kronecker", 0, 4.0 + 0.01 * i, {"embedding.lr_mult": multiplier})
        write_losses(run, facts, nats=(baseline + i * (text - 0.5)).astype(np.float32), inputs=text, targets=text)
    comparison_page.write(comparison(tmp_path), tmp_path / "report.html", "x")
    picture = ET.parse(tmp_path / "report" / "target_length.svg")
    panels = [group for group in picture.iter(f"{SVG}g") if is_axes(group)]
    names = [f"kronecker lr_mult={multiplier}" for multiplier in multipliers]
    spans = [dot(panel, f"{name} 2")[0] - dot(panel, f"{name} 1")[0] for name, panel in zip(names, panels, strict=True)]
    assert spans[1] > 1
    np.testing.assert_allclose(spans, np.arange(7) * spans[1], rtol=0, atol=0.01)


def test_one_seed_is_drawn_without_bars(tmp_path: Path):
    facts = vocabulary(2, bytes=[1, 2])
    text = np.arange(1000) % 2
    nats = {"table_untied": np.full(1000, 4.0), "kronecker": 3.5 + text / 4}
    comparison_page.write(comparison(write_pair(tmp_path, facts, text, text, nats)), tmp_path / "report.html", "x")
    rows = read_csv(tmp_path, "target_length")
    assert [(row["difference"], row["interval_low"], row["interval_high"]) for row in rows] == [
        ("-0.5", "", ""),
        ("-0.25", "", ""),
    ]
    (panel,) = [
        group for group in ET.parse(tmp_path / "report" / "target_length.svg").iter(f"{SVG}g") if is_axes(group)
    ]
    assert lines(panel, width="2") == []


def test_nothing_on_the_page_or_in_its_numbers_is_infinite_or_not_a_number(page: str, swept: Path):
    text = re.sub(r'src="[^"]*"', "", page)
    written = [text, *(file.read_text() for file in (swept / "report").iterdir())]
    assert not re.findall(r"(?i)(?<![\w-])-?(?:nan|inf|infinity)(?!\w)", "\n".join(written))


def test_a_run_without_token_losses_leaves_all_breakdowns_out_and_the_page_says_what_to_run(
    swept: Path, tmp_path: Path
):
    folder = tmp_path / "a b"
    for (arm, seed), _ in random_sweep()[2].items():
        run = write_run(folder / f"{arm}-seed{seed}", arm, seed, 4.5)
        if (arm, seed) != ("kronecker_unit", 1):
            for name in ("token_losses.npz", "result.json"):
                (run / name).write_bytes((swept / run.name / name).read_bytes())
    comparison_page.write(comparison(folder), folder / "report.html", "x")
    page = (folder / "report.html").read_text()
    assert f"<code>python scripts/token_losses.py '{folder}'</code>" in html.unescape(page)
    assert "What shared codes cost" not in page
    assert not [name for name in BY_TOKEN if (folder / "report" / f"{name}.csv").exists() or f'id="{name}"' in page]


def test_a_held_out_text_too_short_for_groups_is_not_told_to_write_its_losses_again(tmp_path: Path):
    nats = {"table_untied": np.full(150, 4.0), "kronecker": np.full(150, 3.0)}
    write_pair(tmp_path, vocabulary(2, bytes=[1, 2]), [0] * 150, [0] * 75 + [1] * 75, nats)
    comparison_page.write(comparison(tmp_path), tmp_path / "report.html", "x")
    assert "scripts/token_losses.py" not in (tmp_path / "report.html").read_text()


def test_a_baseline_alone_has_nothing_to_break_down(tmp_path: Path):
    write_run(tmp_path / "run", "table_untied", 0, 4.0)
    comparison_page.write(comparison(tmp_path), tmp_path / "report.html", "x")
    assert "By token" not in (tmp_path / "report.html").read_text()


def read_csv(folder: Path, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "report" / f"{name}.csv").read_text().splitlines()))


def is_axes(group: ET.Element) -> bool:
    return re.fullmatch(r"axes_\d+", group.get("id", "")) is not None


def dot(panel: ET.Element, name: str) -> tuple[float, float]:
    (group,) = [group for group in panel.iter(f"{SVG}g") if group.get("id") == name]
    (mark,) = group.iter(f"{SVG}use")
    return float(mark.get("x")), float(mark.get("y"))


def lines(panel: ET.Element, width: str) -> list[tuple[float, float, float]]:
    """Returns (x of either end, y of the second) of the straight lines of a stroke's width."""
    found = []
    for path in panel.iter(f"{SVG}path"):
        ends = re.fullmatch(r"M (\S+) (\S+) L (\S+) (\S+)", " ".join(path.get("d", "").split()))
        style = dict(part.split(": ") for part in path.get("style", "").split("; ") if ": " in part)
        if ends and style.get("stroke-width", "1") == width and "stroke" in style:
            left, _, right, y = map(float, ends.groups())
            found.append((left, right, y))
    return found
