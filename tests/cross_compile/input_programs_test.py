"""The input side compiled for TPU and GPU without either, and the command that prints it."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from compilers import NEEDS_GPU, NEEDS_TPU

from kronecker import cross_compile
from kronecker.cross_compile import compilers, input_programs, program, targets
from kronecker.embedding import codec, implementations
from kronecker.schema import config_files, resolution

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "scripts/compile_for.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess, dict[str, Any]]:
    file = tmp_path_factory.mktemp("tpu") / "compiled.json"
    done = run("encoder", "--target=v5e", "--implementations=auto", f"--json={file}")
    assert (done.returncode, done.stderr) == (0, "")
    return done, json.loads(file.read_text())


def programs(written: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
    (target,) = written["targets"]
    return next(row["programs"] for row in target["rows"] if row["name"] == name)


@NEEDS_TPU
@pytest.mark.slow
def test_autos_choice_for_tpu_meets_its_four_targets(done):
    printed, written = done
    (target,) = written["targets"]
    assert [verdict["met"] for verdict in target["verdicts"]] == [True] * 4
    assert sum(line.startswith("met  ") for line in printed.stdout.splitlines()) == 4


@NEEDS_TPU
@pytest.mark.slow
def test_the_bytes_that_a_tpu_moves_are_those_of_the_committed_record(done):
    committed = json.loads((ROOT / "results" / "benchmark" / "encoder-tpu-16384.json").read_text())
    (before,) = (target["rows"] for target in committed["targets"] if target["target"] == "v5e")
    (now,) = (target["rows"] for target in done[1]["targets"])
    moved = [
        {row["name"]: {name: one["bytes_accessed"] for name, one in row["programs"].items()} for row in rows}
        for rows in (before, now)
    ]
    for name, programs_now in moved[1].items():
        assert programs_now == pytest.approx(moved[0][name], rel=0.01)


@NEEDS_TPU
@pytest.mark.slow
def test_the_one_hot_is_never_in_memory(done):
    for one in programs(done[1], "onehot").values():
        assert one["temporary_bytes"] < 16384 * 4096 / 8  # one bit a cell
        assert one["operations"]["convolution"] == 2
        assert [one["operations"][kind] for kind in ("scatter", "sort", "while")] == [0, 0, 0]


@NEEDS_TPU
@pytest.mark.slow
def test_flops_are_those_of_two_one_hot_products(done):
    gradient = programs(done[1], "onehot")["gradient"]
    assert gradient["flops"] == pytest.approx({"bfloat16": 2 * 2 * 16384 * 4096 * 768}, rel=0.01)
    assert gradient["bound_seconds"] == pytest.approx(gradient["flops"]["bfloat16"] / 197e12)


@NEEDS_TPU
@pytest.mark.slow
def test_no_program_holds_its_data_as_constants(done):
    gradient = programs(done[1], "onehot")["gradient"]
    arguments = 4096 * 768 * 4 + 50304 * (16 + 2) + 16384 * 4 + 16384 * 768 * 4
    assert gradient["argument_bytes"] == pytest.approx(arguments, rel=0.01)


@NEEDS_TPU
@pytest.mark.slow
def test_json_has_the_setting_the_command_and_the_versions(done):
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
    made = written["made"]
    assert made["command"][1:3] == ["encoder", "--target=v5e"]
    assert made["command"][-1] == "--json=compiled.json"  # without its folder
    assert all(made[name] for name in ("started", "commit", "python"))
    assert {"jax", "jaxlib", "libtpu"} <= made["versions"].keys()
    assert [row["name"] for row in written["targets"][0]["rows"]] == ["table", "onehot"]


@NEEDS_TPU
@pytest.mark.slow
def test_a_target_that_is_missed_is_exit_1():
    done = run("encoder", "--target=v5e", "--implementations=auto", "--tokens=64", "--d_model=128", "--pos_dim=32")
    assert (done.returncode, done.stderr) == (1, "")
    missed = [line for line in done.stdout.splitlines() if line.startswith("not met")]
    assert [line.startswith("not met  FLOPs of forward + gradient") for line in missed] == [True]


@NEEDS_TPU
def test_two_compilers_run_at_once():
    load = "from kronecker.cross_compile import targets; print(targets.target('v6e').kind, flush=True)"
    holding = subprocess.Popen(
        [sys.executable, "-c", f"{load}; input()"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holding:
        assert holding.stdout.readline() == "TPU v6 lite\n"
        second = subprocess.run([sys.executable, "-c", load], cwd=ROOT, capture_output=True, text=True)
        holding.communicate("\n")
    assert (second.stdout, second.stderr) == ("TPU v6 lite\n", "")


@pytest.mark.parametrize(("target", "finder"), [("v5e", "libtpu"), ("h100", "cuda")])
def test_an_error_without_the_compiler_names_what_installs_it(
    target: str, finder: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(compilers, finder, lambda: None)
    with pytest.raises(ValueError, match=f"`make {target.replace('v5e', 'tpu').replace('h100', 'gpu')}` adds it"):
        targets.target(target)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["encoder"], "error: --target is missing; for example --target=h100"),
        (
            ["encoder", "--target=v5e,v7"],
            "error: --target=v5e,v7: unknown 'v7'; allowed: a100, b200, h100, h200, v5e, v5p, v6e",
        ),
        (["encoder", "--target=h100:8"], "error: --target=h100:8: unknown 'h100:8'; allowed: a100, "),
        (
            ["encoder", "--target=h100", "--implementations=onehut"],
            "error: --implementations=onehut: unknown 'onehut'; allowed: auto, ",
        ),
        (["encoder", "--topology="], "error: --target=: a name is empty; give names"),
        (["encoder", "--json=tests"], "error: --json=tests is a folder; name a file"),
        (["encoder", "--arms=kronecker"], "error: --arms is a flag of `compile_for.py train`, not of encoder"),
        (["decoder"], "error: name what to compile: encoder or train; got 'decoder'"),
        ([], "got none"),
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
    c = resolution.resolve(config_files.load(f"{ROOT / 'configs' / 'gpt2.py'}:size=124m"))
    return input_programs.Setting(
        codec.byte_table([b"a"] * 50257, 16, 50304), 16384, resolution.with_vocabulary(c, 50257)
    )


TABLES = program.Program(
    flops={"bfloat16": 1e7},
    passes=1,
    bytes_accessed=800e6,
    cached_bytes=0,
    temporary_bytes=0,
    argument_bytes=0,
    output_bytes=0,
    total_bytes=0,
    operations=dict.fromkeys(program.KINDS, 0),
    calls={},
    comparable=True,
    compile_seconds=0,
)
OURS = dataclasses.replace(TABLES, flops={"bfloat16": 206e9}, bytes_accessed=500e6, temporary_bytes=900_000)
TPU, GPU = targets.Target("v5e", ()), targets.Target("h100", ())


def verdicts(
    target: targets.Target, setting: input_programs.Setting, ours: dict[str, program.Program] | program.Program
) -> list[bool]:
    names = input_programs.PROGRAMS[target.platform]
    found = [
        {name: dict.fromkeys(target.forms, one.get(name, OURS) if isinstance(one, dict) else one) for name in names}
        for one in (ours, TABLES)
    ]
    return [verdict["met"] for verdict in input_programs.verdicts(target, setting, *found)]


@pytest.mark.parametrize(
    ("worse", "met"),
    [
        ({}, [True, True, True, True]),
        ({"temporary_bytes": 65_000_000}, [False, True, True, True]),
        ({"bytes_accessed": 900e6}, [True, True, False, True]),
        ({"bytes_accessed": 1300e6}, [True, False, False, True]),
        ({"flops": {"bfloat16": 3 * 206e9}}, [True, True, True, False]),
        ({"comparable": False}, [True, False, False, False]),
    ],
)
def test_a_target_that_is_missed_is_named(setting: input_programs.Setting, worse: dict[str, Any], met: list[bool]):
    assert verdicts(TPU, setting, dataclasses.replace(OURS, **worse)) == met


@pytest.mark.parametrize(
    ("where", "worse", "met"),
    [
        ("forward", {}, [True, True, True, True, True]),
        ("forward", {"temporary_bytes": 1_100_000}, [False, True, True, True, True]),
        ("forward", {"operations": OURS.operations | {"while": 1}}, [True, False, True, True, True]),
        ("gradient", {"temporary_bytes": 99_000_000}, [True, True, True, True, True]),
        ("gradient", {"temporary_bytes": 101_000_000}, [True, True, False, True, True]),
        ("gradient", {"operations": OURS.operations | {"while": 1}}, [True, True, True, False, True]),
        ("update", {"bytes_accessed": 800e6}, [True, True, True, True, False]),
        ("update", {"comparable": False}, [True, True, True, True, False]),
    ],
)
def test_a_target_that_is_missed_on_a_gpu_is_named(
    setting: input_programs.Setting, where: str, worse: dict[str, Any], met: list[bool]
):
    assert verdicts(GPU, setting, {where: dataclasses.replace(OURS, **worse)}) == met


@pytest.mark.parametrize("name", cross_compile.GPUS)
def test_a_gpus_description_has_the_peak_that_its_data_sheet_has(name: str):
    kind = re.search(
        'device_description_str: "(.*)"', (ROOT / f"kronecker/cross_compile/gpus/{name}.txtpb").read_text()
    )
    target = targets.Target(name, (SimpleNamespace(device_kind=kind[1]),))
    data_sheets = {"a100": 19.5e12, "b200": 75e12, "h100": 67e12, "h200": 67e12}
    assert target.peaks["float32"] == pytest.approx(data_sheets[name], rel=0.01)
    assert target.peak > 10 * target.peaks["float32"]


@pytest.mark.parametrize(
    ("asked", "found"),
    [("h100", ("h100", "1x1x1")), ("b200:8", ("b200", "1x8x1")), ("v5p:4x4x4", ("v5p", "v5p:4x4x4"))],
)
def test_a_target_is_read(asked: str, found: tuple[str, str]):
    assert cross_compile.parse(asked) == found


@pytest.fixture(scope="module")
def on_h100(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess, dict[str, Any]]:
    file = tmp_path_factory.mktemp("gpu") / "compiled.json"
    done = run("encoder", "--target=h100", "--implementations=gather,bag", f"--json={file}")
    assert (done.returncode, done.stderr) == (0, "")
    return done, json.loads(file.read_text())


@NEEDS_GPU
@pytest.mark.slow
@pytest.mark.parametrize("form", ["Triton", "cuBLAS"])
@pytest.mark.parametrize(("gradient", "scatters"), [("scatter", 1), ("onehot", 0)])
def test_gather_on_a_gpu_needs_little_memory_and_has_no_loop(on_h100, gradient: str, scatters: int, form: str):
    (target,) = on_h100[1]["targets"]
    (found,) = (
        row["programs"] for row in target["rows"] if (row["name"], row["form"]) == (f"gather, {gradient}", form)
    )
    assert found["forward"]["temporary_bytes"] <= 1e6
    assert found["gradient"]["temporary_bytes"] <= 100e6
    assert [one["operations"]["while"] for one in found.values()] == [0, 0, 0]
    assert [one["operations"]["scatter"] for one in found.values()] == [0, scatters, scatters]
    products = {} if scatters else {"bfloat16": 2 * 16384 * 4096 * 768}
    assert found["gradient"]["flops"] == products


@NEEDS_GPU
@pytest.mark.slow
def test_autos_choice_for_a_gpu_meets_its_targets_with_fewer_bytes_than_a_table(on_h100):
    printed, written = on_h100
    (target,) = written["targets"]
    assert target["auto"] == f"gather, {implementations.FASTEST_GATHER_GRADIENT}"
    assert [verdict["met"] for verdict in target["verdicts"]] == [True] * 5
    assert sum(line.startswith("met  ") for line in printed.stdout.splitlines()) == 5
    programs = {row["name"]: row["programs"] for row in target["rows"] if row["form"] == "Triton"}
    for which in ("forward", "gradient", "update"):
        assert programs[target["auto"]][which]["bytes_accessed"] < programs["table"][which]["bytes_accessed"]
    assert "unknown" in printed.stdout  # bag's loops have unknown length
    assert {"jax-cuda13-plugin", "nvidia-cudnn-cu13"} <= written["made"]["versions"].keys()


def test_codes_above_the_limit_are_refused_before_they_are_allocated(setting: input_programs.Setting):
    with pytest.raises(ValueError, match=r"\(50,304, 4,096\) codes of 824 MB in float32, above .* = 100"):
        input_programs.compile_product(TPU, setting, "cached", 100)
