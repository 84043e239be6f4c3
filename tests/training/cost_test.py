"""The estimate of --dry_run: one formula for the FLOPs, a vocabulary that is known or a reason why not."""

import subprocess
from pathlib import Path

import commands
import ml_collections
import pytest

from configs import base
from kronecker.runtime import hardware
from kronecker.schema import resolution
from kronecker.training import cost

ROOT = Path(__file__).parents[2]


def resolved(**keys: object) -> ml_collections.ConfigDict:
    dotted = {key.replace("__", "."): value for key, value in keys.items()}
    return resolution.resolve(base.apply(base.get_config(), {"train.batch": 4, "train.sequence": 256} | dotted))


def script(*command: str) -> subprocess.CompletedProcess:
    return commands.run(*command)


def test_flops_are_tokens_times_those_of_a_token():
    c = resolution.with_vocabulary(resolved(train__steps=1000), 50_257)
    linear = 4 * 12 * 128**2 + 128 * 50_304
    assert cost.training_flops(c) == 1000 * 4 * 256 * (6 * linear + 12 * 4 * 256 * 128)


def test_an_hour_is_what_the_device_does_in_one_at_the_assumed_share():
    assert cost.hours(0.4 * hardware.PEAK_FLOPS["NVIDIA H100"] * 3600) == pytest.approx(1)


@pytest.mark.parametrize(("spec", "size"), [("gpt2", 50_257), ("bpe:8192", 8192)])
def test_the_vocabulary_is_known_without_a_file(spec: str, size: int):
    assert cost.vocab_size(spec) == size


def test_runs_of_one_length_and_of_several_are_told_apart():
    short, long = resolved(train__steps=1), resolved(train__steps=2000)
    assert cost.describe([long, long]).startswith("2 runs x 2.05M tokens = 4.1M tokens, 1.")
    assert cost.describe([short, long]).startswith("2 runs x 1.02k to 2.05M tokens = 2.05M tokens, ")
    assert cost.describe([short]).endswith(" FLOPs, under 0.01 H100 hours")


def test_a_tokenizer_that_is_not_there_leaves_the_flops_unknown():
    told = cost.describe([resolved(tokenizer="tekken:nowhere.json", train__steps=1)])
    assert told.startswith("1 runs x 1.02k tokens = 1.02k tokens, FLOPs unknown: tokenizer tekken:nowhere.json: ")
    assert "\n" not in told


def test_a_rank_that_is_not_low_is_a_fault_and_not_an_unknown_cost():
    c = resolved(tokenizer="bpe:257", embedding__arm="factorized", embedding__kind="factorized", embedding__rank=128)
    with pytest.raises(ValueError, match=r"embedding\.rank is 128 but must be below"):
        cost.describe([c])


def test_a_dry_run_ends_with_the_number_of_runs_and_their_cost():
    done = script("scripts/sweep.py", "--config=configs/ablations/paper.py", "--out=x", "--seeds=3", "--dry_run")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[40].startswith("[21/21] kronecker-seed2 (new)")
    assert lines[42].startswith("time: unknown until a run here has trained; ")
    assert lines[43:] == [
        "cost (H100 hours: training alone, on one NVIDIA H100 at an assumed MFU of 40 %):",
        "  21 runs x 2.5B tokens = 52.5B tokens, 4.49e19 FLOPs, 31.5 H100 hours",
    ]


def test_a_dry_run_without_the_tokenizers_file_lists_the_runs_all_the_same():
    flags = ("--config=configs/ablations/multilingual.py", "--config.tokenizer=tekken:nowhere.json", "--out=x")
    done = script("scripts/sweep.py", *flags, "--dry_run")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sum(line.startswith("[") for line in lines) == 6
    assert "6 runs x 2.5B tokens = 15B tokens, FLOPs unknown: tokenizer tekken:nowhere.json" in lines[-1]


def test_costs_of_several_sweeps_are_a_line_each():
    done = script("scripts/costs.py", "configs/ablations/pos_dim.py", "configs/gpu_study.py", "--seeds=1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == [
        "configs/ablations/pos_dim.py  7 runs x 2.5B tokens = 17.5B tokens, 1.50e19 FLOPs, 10.5 H100 hours",
        "configs/gpu_study.py          6 runs x 60M tokens = 360M tokens, 6.98e16 FLOPs, 0.049 H100 hours",
    ]
    assert script("scripts/costs.py").stderr.startswith("error: no config given; for example")
