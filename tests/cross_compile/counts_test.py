"""FLOPs and bytes counted in the text of a GPU's programs, against numbers worked out by hand."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from compilers import NEEDS_GPU

from kronecker.cross_compile import counts

CHILD = """
import json
from kronecker.cross_compile import compilers
compilers.reveal_cuda()
import jax
import jax.numpy as jnp
from kronecker.model import attention
from kronecker.cross_compile import targets

target = targets.target("h100")
bf16, f32, i32 = jnp.bfloat16, jnp.float32, jnp.int32
out = {}

def add(name, function, *arguments, donate=()):
    shapes = [jax.ShapeDtypeStruct(shape, dtype, sharding=target.sharding) for shape, dtype in arguments]
    lowered = jax.jit(function, donate_argnums=donate).lower(*shapes)
    for form, options in target.forms.items():
        out[f"{name}, {form}"] = lowered.compile(compiler_options=options).as_text()

def product(precision=None):
    return lambda x, y: jnp.matmul(x, y, precision=precision)

def loop(x, w):
    return jax.lax.scan(lambda x, w: (x @ w, None), x, w)[0]

def gradient(q, k, v, cotangent):
    return jax.vjp(lambda *qkv: attention.causal(*qkv, kernel="cudnn"), q, k, v)[1](cotangent)

for name, dtype, precision in (
    ("bfloat16", bf16, None), ("tf32", f32, None), ("float32", f32, "highest"),
    ("x6", f32, jax.lax.DotAlgorithmPreset.BF16_BF16_F32_X6),
):
    add(name, product(precision), ((256, 512), dtype), ((512, 128), dtype))
add("loop", loop, ((64, 64), f32), ((10, 64, 64), f32))
add("gather", lambda x, i: x.at[i].get(mode="promise_in_bounds"), ((1000, 128), f32), ((64,), i32))
add("small gather", lambda x, i: x.at[i].get(mode="promise_in_bounds"), ((16, 128), f32), ((4096,), i32))
add("scatter", lambda x, i, u: x.at[i].add(u), ((1000, 128), f32), ((64,), i32), ((64, 128), f32), donate=(0,))
add("slice", lambda x, i: jax.lax.dynamic_slice(x, (i, 0), (2, 128)) * 2, ((1000, 128), f32), ((), i32))
add("update", lambda x, i, u: jax.lax.dynamic_update_slice(x, u, (i, 0)), ((1000, 128), f32), ((), i32),
    ((2, 128), f32), donate=(0,))
add("attention", gradient, *[((2, 128, 4, 64), bf16)] * 4)
print(json.dumps(out))
"""
ROW = 128 * 4  # bytes


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    done = subprocess.run([sys.executable, "-c", CHILD], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@NEEDS_GPU
@pytest.mark.slow
@pytest.mark.parametrize("form", ["Triton", "cuBLAS"])
@pytest.mark.parametrize(
    ("name", "unit", "passes"),
    [("bfloat16", "bfloat16", 1), ("tf32", "tf32", 1), ("float32", "float32", 1), ("x6", "bfloat16", 6)],
)
def test_a_product_is_counted_on_the_unit_that_computes_it(
    texts: dict[str, str], form: str, name: str, unit: str, passes: int
):
    assert counts.of(texts[f"{name}, {form}"]).flops == {unit: passes * 2 * 256 * 512 * 128}


@NEEDS_GPU
@pytest.mark.slow
def test_a_product_of_cublas_reads_its_operands_and_writes_its_result(texts: dict[str, str]):
    found = counts.of(texts["bfloat16, cuBLAS"])
    assert found.bytes_accessed == 2 * (256 * 512 + 512 * 128 + 256 * 128)
    assert found.calls == {"__cublas$lt$matmul": 1}


@NEEDS_GPU
@pytest.mark.slow
@pytest.mark.parametrize("form", ["Triton", "cuBLAS"])
def test_a_loops_body_counts_once_per_iteration(texts: dict[str, str], form: str):
    found = counts.of(texts[f"loop, {form}"])
    assert found.flops == {"tf32": 10 * 2 * 64**3}
    assert found.unknown_loops == ()
    assert found.bytes_accessed >= 10 * 3 * 64 * 64 * 4
    assert found.bytes_accessed < 10 * 10 * 64 * 64 * 4  # reading all of w in each iteration would exceed this


@NEEDS_GPU
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "moved"),
    [
        ("gather", 64 * 4 + 2 * 64 * ROW),
        ("scatter", 64 * 4 + 3 * 64 * ROW),  # rows of the array and of the updates read, rows written
        ("slice", 4 + 2 * 2 * ROW),
        ("update", 4 + 2 * 2 * ROW),
    ],
)
def test_a_gather_or_update_of_a_part_moves_only_that_part(texts: dict[str, str], name: str, moved: int):
    found = counts.of(texts[f"{name}, Triton"])
    assert (found.bytes_accessed, found.cached_bytes) == (moved, 0)


@NEEDS_GPU
@pytest.mark.slow
def test_an_array_that_fits_the_cache_is_read_from_memory_once(texts: dict[str, str]):
    rows, ids = 16 * ROW, 4096 * 4
    found = counts.of(texts["small gather, Triton"], cache=rows)
    assert (found.bytes_accessed, found.cached_bytes) == (rows + ids + 4096 * ROW, 4096 * ROW - rows)
    found = counts.of(texts["small gather, Triton"], cache=rows - 1)
    assert (found.bytes_accessed, found.cached_bytes) == (4096 * ROW + ids + 4096 * ROW, 0)


@NEEDS_GPU
@pytest.mark.slow
def test_attention_is_two_products_forward_and_five_backward(texts: dict[str, str]):
    found = counts.of(texts["attention, Triton"])
    assert found.calls == {counts.ATTENTION: 1, counts.ATTENTION_BACKWARD: 1}
    assert found.flops == {"bfloat16": 7 * 2 * 2 * 4 * 128 * 128 * 64}
    array, sums = 2 * 128 * 4 * 64 * 2, 2 * 4 * 128 * 4  # sums of exponentials, float32
    assert found.bytes_accessed == (4 * array + sums) + (8 * array + sums)


TEXT = """
%fused (p: f32[10,64], i: s32[]) -> f32[64] {
  %p = f32[10,64]{1,0} parameter(0)
  %twice = f32[10,64]{1,0} add(%p, %p)
  %i = s32[] parameter(1)
  %row = f32[1,64]{1,0} dynamic-slice(%twice, %i, %i), dynamic_slice_sizes={1,64}
  ROOT %out = f32[64]{0} bitcast(%row)
}
%body (s: (s32[], f32[10,64], f32[10,64])) -> (s32[], f32[10,64], f32[10,64]) {
  %s = (s32[], f32[10,64]{1,0}, f32[10,64]{1,0}) parameter(0)
  %j = s32[] get-tuple-element(%s), index=0
  %w = f32[10,64]{1,0} get-tuple-element(%s), index=1
  %y = f32[10,64]{1,0} get-tuple-element(%s), index=2
  %taken = f32[64]{0} fusion(%w, %j), kind=kLoop, calls=%fused
  %flat = f32[1,64]{1,0} bitcast(%taken)
  %put = f32[10,64]{1,0} dynamic-update-slice(%y, %flat, %j, %j)
  %product = (f32[64,64]{1,0}, s8[4096]{0}) custom-call(%flat, %flat), custom_call_target="__cublas$gemm", CONFIG
  ROOT %next = (s32[], f32[10,64]{1,0}, f32[10,64]{1,0}) tuple(%j, %w, %put)
}
%condition (t: (s32[], f32[10,64], f32[10,64])) -> pred[] {
  %t = (s32[], f32[10,64]{1,0}, f32[10,64]{1,0}) parameter(0)
  %k = s32[] get-tuple-element(%t), index=0
  %limit = s32[] constant(10)
  ROOT %less = pred[] compare(%k, %limit), direction=LT
}
%held (a: f32[10,64]) -> f32[10,64] {
  %a = f32[10,64]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %start = (s32[], f32[10,64]{1,0}, f32[10,64]{1,0}) tuple(%zero, %a, %a)
  %while = (s32[], f32[10,64]{1,0}, f32[10,64]{1,0}) while(%start), condition=%condition, body=%body, TRIPS
  ROOT %result = f32[10,64]{1,0} get-tuple-element(%while), index=2
}
ENTRY %main (b: f32[10,64]) -> f32[10,64] {
  %b = f32[10,64]{1,0} parameter(0)
  ROOT %call = f32[10,64]{1,0} call(%b), to_apply=%held
}
"""
KNOWN = 'backend_config={"known_trip_count":{"n":"10"}}'
CONTRACTED = 'backend_config={"lhs_contracting_dimensions":["0"]}'


def counted(
    trips: str = KNOWN, precision: str = '["DEFAULT","DEFAULT"]', algorithm: str = "ALG_UNSET"
) -> counts.Counts:
    config = (
        'backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["0"]},'
        f'"precision_config":{{"operand_precision":{precision},"algorithm":"{algorithm}"}}}}}}'
    )
    return counts.of(TEXT.replace("TRIPS", trips).replace("CONFIG", config))


def test_parts_are_read_through_elementwise_operations_and_workspaces_are_not_counted():
    row, index = 64 * 4, 4
    slice_, update, product = row + index + row, row + index + row, row + 64 * row
    found = counted()
    assert found.bytes_accessed == 10 * (slice_ + update + product)
    assert found.calls == {"__cublas$gemm": 10}


def test_an_asynchronous_fusion_is_counted_once():
    beside = TEXT.replace(
        "  %taken = f32[64]{0} fusion(%w, %j), kind=kLoop, calls=%fused",
        "  %begun = ((f32[10,64]{1,0}, s32[]), f32[64]{0}, u32[]) fusion-start(%w, %j), kind=kLoop, calls=%fused\n"
        "  %taken = f32[64]{0} fusion-done(%begun)",
    )
    assert beside != TEXT
    assert counts.of(beside.replace("TRIPS", KNOWN).replace("CONFIG", CONTRACTED)) == counted()


@pytest.mark.parametrize(
    ("precision", "algorithm", "unit", "passes"),
    [
        ('["DEFAULT","DEFAULT"]', "ALG_UNSET", "tf32", 1),
        ('["HIGHEST","HIGHEST"]', "ALG_UNSET", "float32", 1),
        ('["DEFAULT","DEFAULT"]', "ALG_DOT_BF16_BF16_F32_X3", "bfloat16", 3),
        ('["DEFAULT","DEFAULT"]', "ALG_DOT_TF32_TF32_F32", "tf32", 1),
        ('["DEFAULT","DEFAULT"]', "ALG_DOT_F32_F32_F32", "float32", 1),
    ],
)
def test_a_float32_products_unit_follows_from_its_precision_or_algorithm(
    precision: str, algorithm: str, unit: str, passes: int
):
    assert counted(precision=precision, algorithm=algorithm).flops == {unit: 10 * passes * 2 * 64 * 64}


def test_a_loop_of_unknown_length_is_named_and_counted_once():
    found = counted(trips="sharding={replicated}")
    assert found.unknown_loops == ("while",)
    assert found.flops == {"tf32": 2 * 64 * 64}
