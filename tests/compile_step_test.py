"""What the real TPU compiler makes of the sharded training step, with no TPU, and the command that prints it."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs import base
from kronecker import config
from kronecker.cross_compile import collectives, targets, training_step
from kronecker.training import plan

ROOT = Path(__file__).parents[1]
NEEDS_COMPILER = pytest.mark.skipif(targets.library() is None, reason="needs the TPU compiler: make tpu")
GPT2 = str(ROOT / "configs" / "gpt2.py")
BOTH = "--arms=kronecker,table_untied"


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "scripts/compile_for.py", "train", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def compiled(tmp_path: Path, *arguments: str) -> tuple[subprocess.CompletedProcess, dict[str, Any]]:
    done = run(*arguments, f"--json={tmp_path / 'compiled.json'}")
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = json.loads((tmp_path / "compiled.json").read_text())["slices"]
    return done, found


@pytest.fixture(scope="module")
def at_124m(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess, dict[str, Any]]:
    # One sequence a chip, and layers in a loop, for the time of the compiler.
    flags = f"--config={GPT2}:size=124m", BOTH, "--topology=v5e:4x4", "--sequences=1"
    return compiled(tmp_path_factory.mktemp("tpu"), *flags)


@NEEDS_COMPILER
@pytest.mark.slow
def test_at_124m_devices_sum_gradients_and_a_table_has_as_many_more_as_it_has_more_rows(at_124m):
    kronecker, table = at_124m[1]["rows"]
    assert list(kronecker["collectives"]) == list(table["collectives"]) == ["all-reduce"]
    payloads = [row["collectives"]["all-reduce"]["payload_bytes"] for row in (table, kronecker)]
    assert payloads[0] - payloads[1] == (50304 - 4096) * 768 * 4
    body = 12 * 12 * 768**2  # summed in bfloat16, the head in float32
    assert payloads[1] == pytest.approx(2 * body + 4 * 768 * (50304 + 4096), rel=0.02)
    assert kronecker["sent_bytes"] == pytest.approx(2 * 15 / 16 * payloads[1])


@NEEDS_COMPILER
@pytest.mark.slow
def test_at_124m_a_chip_holds_all_parameters_and_both_moments(at_124m):
    for row, params in zip(at_124m[1]["rows"], (127_621_632, 163_109_376), strict=True):
        assert row["memory"]["arguments"] == pytest.approx(3 * 4 * params, rel=0.01)
        assert row["memory"]["aliased"] == pytest.approx(3 * 4 * params, rel=0.01)
        assert row["memory"]["total"] < at_124m[1]["memory"]


@NEEDS_COMPILER
@pytest.mark.slow
def test_the_bound_is_the_longest_of_three_times(at_124m):
    for row in at_124m[1]["rows"]:
        flops = 1024 * (6 * (12 * 12 * 768**2 + 768 * 50304) + 12 * 12 * 1024 * 768)
        assert row["seconds"]["compute"] == pytest.approx(flops / 197e12)
        assert row["seconds"]["links"] == pytest.approx(row["sent_bytes"] / 200e9)
        assert row["bound_seconds"] == max(row["seconds"].values()) == row["seconds"][row["by"]]
        assert row["mfu_bound"] == pytest.approx(flops / 197e12 / row["bound_seconds"])


@NEEDS_COMPILER
@pytest.mark.slow
def test_it_prints_what_it_set_and_the_verdicts(at_124m):
    lines = at_124m[0].stdout.splitlines()
    assert lines[0].startswith("v5e:4x4: 16 chips (TPU v5 lite)")
    assert lines[0].endswith("mesh.data 16 x mesh.fsdp 1 x mesh.tensor 1; 16 x 1,024 tokens a step")
    assert "--config.train.batch=16 --config.train.accumulate=1" in lines[1]
    assert [line for line in lines if line.startswith("met ")] == lines[-3:]
    assert lines[-1].startswith("met      kronecker sends no more than table_untied: ")


@NEEDS_COMPILER
@pytest.mark.slow
@pytest.mark.parametrize("mesh", [{"fsdp": 4, "tensor": 2}])
def test_a_kronecker_input_sends_no_more_than_a_table_where_parameters_are_split(mesh: dict[str, int], tmp_path: Path):
    flags = [f"--config.mesh.{axis}={size}" for axis, size in mesh.items()]
    small = f"--config={GPT2}:size=nano", "--config.model.layers=1", "--topology=v5e:2x4"
    _, found = compiled(tmp_path, *small, BOTH, *flags)
    kronecker, table = found["rows"]
    assert 0 < kronecker["sent_bytes"] <= table["sent_bytes"]
    assert kronecker["collectives"]["all-gather"]["count"] > 0


@NEEDS_COMPILER
@pytest.mark.slow
def test_a_step_that_does_not_fit_is_exit_1_with_what_to_set(tmp_path: Path):
    flags = f"--config={GPT2}:size=1558m", "--topology=v5e:4x4", "--config.mesh.fsdp=1"
    done = run(*flags, f"--json={tmp_path / 'compiled.json'}")
    assert (done.returncode, done.stderr) == (1, "")
    last = done.stdout.splitlines()[-1]
    flags = "--config.train.accumulate=2 --config.train.loss_chunk=1024 --config.mesh.fsdp=8"
    assert last == f"not met  kronecker fits; take less with {flags}"
    (row,) = json.loads((tmp_path / "compiled.json").read_text())["slices"][0]["rows"]
    assert row["needed"] > 16 * 2**30


@NEEDS_COMPILER
def test_a_topology_that_the_compiler_does_not_know_is_exit_2():
    done = run(f"--config={GPT2}", "--topology=v5e:3x5")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: the compiler knows no topology v5e:3x5: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--topology=v5e:4x4"], "error: --config is missing; for example --config=configs/gpt2.py"),
        ([f"--config={GPT2}"], "error: --topology is missing; for example --topology=v5e:16x16"),
        ([f"--config={GPT2}", "--topology=v7:2x2"], "error: --topology=v7:2x2: write CHIP:SIZES with as many"),
        ([f"--config={GPT2}", "--topology=v5p:4x4"], "v5p:4x4x4; chips: v5e, v5p, v6e"),
        ([f"--config={GPT2}", "--topology=v5e"], "error: --topology=v5e: write CHIP:SIZES"),
        ([f"--config={GPT2}", "--topology=v5e:4x4", "--arms=kron"], "error: --arms=kron: there is no kron here; allo"),
        (
            [f"--config={GPT2}", "--topology=v5e:4x4", BOTH, "--config.embedding.norm=z"],
            "error: --config.embedding.norm: each of --arms sets it; leave one of the two out",
        ),
        ([f"--config={GPT2}", "--topology=v5e:4x4", "--tokens=8"], "--tokens belongs to `compile_for.py encoder`"),
        ([f"--config={GPT2}", "--topology=v5e:4x4", "--config.model.heads=5"], "model.heads is 5, which does not div"),
    ],
)
def test_a_wrong_command_is_one_line_and_exit_2(arguments: list[str], message: str):
    done = run(*arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr


def for_slice(size: str, kind: str, count: int, own: dict[str, Any]) -> dict[str, Any]:
    c = base.apply(config.load(f"{GPT2}:size={size}"), own)
    chip = targets.Chip("a slice", (SimpleNamespace(device_kind=kind),) * count)
    return training_step.for_slice(c, own, chip, 50257, 4)


def test_a_batch_that_the_chips_can_split_is_left_as_it_is():
    assert for_slice("1558m", "TPU v5 lite", 256, {"train.batch": 512, "train.accumulate": 2}) == {}


@pytest.mark.parametrize(
    ("size", "kind", "fsdp", "remat"),
    [
        ("124m", "TPU v5 lite", None, None),
        ("1558m", "TPU v5 lite", 8, True),
        ("1558m", "TPU v6 lite", 4, True),
        ("1558m", "TPU v5", None, None),
    ],
)
def test_a_config_for_one_device_is_split_as_far_as_the_chips_memory_needs(
    size: str, kind: str, fsdp: int | None, remat: bool | None
):
    found = for_slice(size, kind, 256, {})
    assert found["train.batch"] == 4 * 256
    assert (found.get("mesh.fsdp"), found.get("model.remat")) == (fsdp, remat)


def test_what_the_command_sets_stays():
    own = {"model.dtype": "float32", "mesh.fsdp": 2, "mesh.tensor": 2, "model.remat": False}
    found = for_slice("1558m", "TPU v5 lite", 256, own)
    assert found == {"model.scan_layers": True, "train.batch": 4 * 128, "train.accumulate": 1}


def step(sent: int, unknown: tuple[str, ...] = ()) -> training_step.Step:
    one = collectives.Collective("collective-permute", 2, sent, 1, "")
    memory = plan.Memory(arguments=0, outputs=0, aliased=0, temporaries=0, code=0)
    return training_step.Step(memory, collectives.Exchange((one,), unknown), False, 0.0, 0.0, 0.0, 0, 0.0)


@pytest.mark.parametrize(
    ("kronecker", "met"),
    [
        (step(100), [True, True, True]),
        (step(101), [True, True, False]),
        (step(50, ("loop",)), [True, True, False]),
        (training_step.Refusal("too large", None, "less"), [False, True]),
    ],
)
def test_a_target_that_is_missed_is_named(kronecker: training_step.Step | training_step.Refusal, met: list[bool]):
    found = training_step.verdicts({"kronecker": kronecker, "table_untied": step(100)})
    assert [verdict["met"] for verdict in found] == met


def test_memory_is_what_has_to_be_there_at_once():
    assert plan.Memory(arguments=10, outputs=9, aliased=8, temporaries=7, code=1).total == 19
