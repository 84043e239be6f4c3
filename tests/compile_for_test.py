"""What the real TPU compiler makes of our programs, with no TPU, and the command that prints it."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kronecker import codec, config
from kronecker.cross_compile import input_programs, program, targets

ROOT = Path(__file__).parents[1]
NEEDS_COMPILER = pytest.mark.skipif(targets.library() is None, reason="needs the TPU compiler: make tpu")


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "scripts/compile_for.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess, dict[str, Any]]:
    file = tmp_path_factory.mktemp("tpu") / "compiled.json"
    done = run("encoder", "--topology=v5e", "--implementations=auto", f"--json={file}")
    assert (done.returncode, done.stderr) == (0, "")
    return done, json.loads(file.read_text())


def programs(written: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
    (chip,) = written["chips"]
    return next(row["programs"] for row in chip["rows"] if row["name"] == name)


@NEEDS_COMPILER
@pytest.mark.slow
def test_autos_choice_for_tpu_meets_its_four_targets(done):
    printed, written = done
    (chip,) = written["chips"]
    assert [verdict["met"] for verdict in chip["verdicts"]] == [True] * 4
    assert sum(line.startswith("met  ") for line in printed.stdout.splitlines()) == 4


@NEEDS_COMPILER
@pytest.mark.slow
def test_the_one_hot_is_never_in_memory(done):
    for one in programs(done[1], "onehot").values():
        assert one["temporary_bytes"] < 16384 * 4096 / 8  # one bit a cell
        assert one["operations"]["convolution"] == 2
        assert [one["operations"][kind] for kind in ("scatter", "sort", "while")] == [0, 0, 0]


@NEEDS_COMPILER
@pytest.mark.slow
def test_flops_are_those_of_two_one_hot_products(done):
    gradient = programs(done[1], "onehot")["gradient"]
    assert gradient["flops"] == pytest.approx(2 * 2 * 16384 * 4096 * 768, rel=0.01)
    assert gradient["bound_seconds"] == pytest.approx(gradient["flops"] / 197e12)


@NEEDS_COMPILER
@pytest.mark.slow
def test_no_program_holds_its_data_as_constants(done):
    gradient = programs(done[1], "onehot")["gradient"]
    arguments = 4096 * 768 * 4 + 50304 * (16 + 2) + 16384 * 4 + 16384 * 768 * 4
    assert gradient["argument_bytes"] == pytest.approx(arguments, rel=0.01)


@NEEDS_COMPILER
@pytest.mark.slow
def test_json_says_what_was_compiled_and_with_what(done):
    written = done[1]
    step = 6 * (12 * 12 * 768**2 + 768 * 50304) + 12 * 12 * 1024 * 768
    assert written["setting"].pop("step_flops") == pytest.approx(16384 * step)
    assert written["setting"] == {
        "tokens": 16384,
        "d": 768,
        "vocab": 50304,
        "P": 16,
        "tokenizer": "gpt2",
        "dtype": "bfloat16",
    }
    assert all(written["versions"].values())
    assert [row["name"] for row in written["chips"][0]["rows"]] == ["table", "onehot"]


@NEEDS_COMPILER
@pytest.mark.slow
def test_a_target_that_is_missed_is_exit_1():
    done = run("encoder", "--topology=v5e", "--implementations=auto", "--tokens=64", "--d_model=128", "--pos_dim=32")
    assert (done.returncode, done.stderr) == (1, "")
    missed = [line for line in done.stdout.splitlines() if line.startswith("not met")]
    assert [line.startswith("not met  FLOPs of forward + gradient") for line in missed] == [True]


@NEEDS_COMPILER
def test_two_compilers_run_at_once():
    load = "from kronecker.cross_compile import targets; print(targets.chip('v6e').kind, flush=True)"
    holding = subprocess.Popen(
        [sys.executable, "-c", f"{load}; input()"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holding:
        assert holding.stdout.readline() == "TPU v6 lite\n"
        second = subprocess.run([sys.executable, "-c", load], cwd=ROOT, capture_output=True, text=True)
        holding.communicate("\n")
    assert (second.stdout, second.stderr) == ("TPU v6 lite\n", "")


def test_without_the_compiler_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(targets, "library", lambda: None)
    with pytest.raises(ValueError, match="`make tpu` adds it"):
        targets.chip("v5e")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["encoder", "--topology=v5e,v7"], "error: --topology=v5e,v7: there is no v7 here; allowed: v5e, v5p, v6e"),
        (
            ["encoder", "--implementations=onehut"],
            "error: --implementations=onehut: there is no onehut here; allowed: auto, ",
        ),
        (["encoder", "--topology="], "error: --topology=: it names none; allowed: v5e, v5p, v6e"),
        (["encoder", "--json=nowhere/compiled.json"], "there is no folder nowhere"),
        (["encoder", "--arms=kronecker"], "error: --arms belongs to `compile_for.py train`, not to encoder"),
        (["decoder"], "error: say what to compile: encoder or train, got 'decoder'"),
        ([], "got 'nothing'"),
    ],
)
def test_a_wrong_command_is_one_line_and_exit_2(arguments: list[str], message: str):
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_operations_are_counted_in_every_computation_and_not_in_names():
    text = """
%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0:T(256)} parameter(0)
  ROOT %gather.1 = f32[8,4]{1,0:T(8,128)S(1)} gather(%p, %p), metadata={op_name="jit(f)/while (body)/sort"}
}
ENTRY %main (a: f32[8]) -> (f32[8], s32[]) {
  %fusion = (f32[8]{0:T(256)}, s32[]{:T(128)}) fusion(%a), kind=kLoop, calls=%fused
  %convolution.scatter = bf16[8,4]{1,0:T(8,128)(2,1)} convolution(%a, %b), dim_labels=bf_io->bf
  ROOT %tuple = (f32[8]{0}, s32[]) tuple(%fusion, %fusion)
}
"""
    found = program.count_operations(text)
    assert {kind: count for kind, count in found.items() if count} == {"convolution": 1, "gather": 1, "fusion": 1}


@pytest.fixture(scope="module")
def setting() -> input_programs.Setting:
    c = config.resolve(config.load(f"{ROOT / 'configs' / 'gpt2.py'}:size=124m"))
    return input_programs.Setting(codec.byte_table([b"a"] * 50257, 16, 50304), 16384, config.with_vocabulary(c, 50257))


TABLES = program.Program(1e7, 1, 800e6, 0, 0, 0, dict.fromkeys(program.KINDS, 0), 0.0)
OURS = dataclasses.replace(TABLES, flops=206e9, bytes_accessed=500e6, temporary_bytes=2_000_000)


@pytest.mark.parametrize(
    ("worse", "met"),
    [
        ({}, [True, True, True, True]),
        ({"temporary_bytes": 65_000_000}, [False, True, True, True]),
        ({"bytes_accessed": 900e6}, [True, True, False, True]),
        ({"bytes_accessed": 1300e6}, [True, False, False, True]),
        ({"passes": 3}, [True, True, True, False]),
        ({"operations": OURS.operations | {"while": 1}}, [True, False, False, False]),
    ],
)
def test_a_target_that_is_missed_is_named(setting: input_programs.Setting, worse: dict[str, Any], met: list[bool]):
    ours = dict.fromkeys(input_programs.PROGRAMS, dataclasses.replace(OURS, **worse))
    found = input_programs.verdicts(setting, ours, dict.fromkeys(input_programs.PROGRAMS, TABLES))
    assert [verdict["met"] for verdict in found] == met


def test_codes_above_the_limit_are_refused_before_they_are_made(setting: input_programs.Setting):
    with pytest.raises(ValueError, match=r"\(50,304, 4,096\) codes, 824 MB in float32, above .* = 100"):
        input_programs.compile_product(None, setting, "cached", 100)
