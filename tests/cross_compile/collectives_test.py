"""Collectives counted in the text of compiled programs: small known ones, and the product's against a table's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kronecker.cross_compile import collectives, hlo

WIDTH, TOKENS = 32, 512  # of a device
BAG_ROWS, TABLE_ROWS = 256 * 8, 256 * 8 * 8
MESHES = {"data": (8, 1, 1), "fsdp": (1, 8, 1), "data and fsdp": (2, 4, 1), "all": (2, 2, 2), "tensor": (2, 1, 4)}
# 15 of 8 x 16 floats over 4 chips, 5 to a neighbour, and one of each of the others.
CHILD = """
import json, sys
import jax
jax.config.update("jax_num_cpu_devices", 8)
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from kronecker.embedding import bags, codec, implementations
from kronecker.runtime import device_mesh, sharding

def known(x):
    def inner(x, _):
        return jax.lax.psum(x, "b") / 2, None

    def outer(x, _):
        x, _ = jax.lax.scan(inner, x, length=3)
        return jax.lax.ppermute(x, "a", [(0, 1), (1, 0)]), None

    x, _ = jax.lax.scan(outer, x, length=5)
    x = jax.lax.all_gather(x, ("a", "b"), tiled=True)
    x = jax.lax.psum_scatter(x, "b", tiled=True)
    return jax.lax.all_to_all(x, "b", 1, 0, tiled=True)

mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
split = PartitionSpec(("a", "b"))
step = jax.jit(jax.shard_map(known, mesh=mesh, in_specs=split, out_specs=split, check_vma=False))
out = {"known": step.lower(jax.ShapeDtypeStruct((64, 16), "float32")).compile().as_text()}

meshes, width, tokens, table_rows = json.loads(sys.argv[1])
rng = np.random.default_rng(8)
words = [rng.integers(0, 256, length, np.uint8).tobytes() for length in range(9) for _ in range(64)]
bag = implementations.prepare(bags.kronecker_bag(codec.byte_table(words, 8)), "onehot")

def of_bag(weights, bag, ids):
    return (implementations.product(weights, bag, ids, mesh=mesh) ** 2).sum()

def of_table(weights, bag, ids):
    return (sharding.constrain(weights[ids], ("batch", "time", "stream"), mesh) ** 2).sum()

def text(loss, rows, spec, tokens):
    layout = NamedSharding(mesh, spec)
    layouts = layout, sharding.replicated(mesh), sharding.split_batch(mesh)
    ids = jax.ShapeDtypeStruct((16, tokens * sharding.batch_shards(mesh) // 16), "int32")
    gradient = jax.jit(jax.grad(loss), in_shardings=layouts, out_shardings=layout)
    return gradient.lower(jax.ShapeDtypeStruct((rows, width), "float32"), bag, ids).compile().as_text()

for name, sizes in meshes.items():
    mesh = device_mesh.mesh_of(sizes, jax.devices())
    out[f"bag, {name}"] = text(of_bag, bag.rows, PartitionSpec(None, "fsdp"), tokens)
    out[f"table, {name}"] = text(of_table, table_rows, PartitionSpec("tensor", "fsdp"), tokens)
mesh = device_mesh.mesh_of(meshes["data and fsdp"], jax.devices())
out["bag, many tokens"] = text(of_bag, bag.rows, PartitionSpec(None, "fsdp"), 2 * bag.rows)
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def programs() -> dict[str, collectives.Exchange]:
    command = [sys.executable, "-c", CHILD, json.dumps([MESHES, WIDTH, TOKENS, TABLE_ROWS])]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {name: collectives.of(text, 8) for name, text in json.loads(done.stdout).items()}


@pytest.mark.slow
def test_every_kind_is_counted_with_its_loops_groups_and_bytes(programs: dict[str, collectives.Exchange]):
    shard, whole = 8 * 16 * 4, 64 * 16 * 4
    assert programs["known"].by_kind() == {
        "all-reduce": {"count": 15, "payload_bytes": 15 * shard, "sent_bytes": 15 * 2 * 3 / 4 * shard},
        "all-gather": {"count": 1, "payload_bytes": whole, "sent_bytes": 7 / 8 * whole},
        "reduce-scatter": {"count": 1, "payload_bytes": whole, "sent_bytes": 3 / 4 * whole},
        "all-to-all": {"count": 1, "payload_bytes": whole / 4, "sent_bytes": 3 / 4 * whole / 4},
        "collective-permute": {"count": 5, "payload_bytes": 5 * shard, "sent_bytes": 5 * shard},
    }
    assert programs["known"].unknown_loops == ()


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
def test_a_product_sends_no_more_than_a_table_of_eight_times_its_rows(
    programs: dict[str, collectives.Exchange], mesh: str
):
    assert 0 < programs[f"bag, {mesh}"].sent <= programs[f"table, {mesh}"].sent


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["data", "tensor"])
def test_only_the_projections_gradient_is_summed_where_it_is_replicated(
    programs: dict[str, collectives.Exchange], mesh: str
):
    (one,) = programs[f"bag, {mesh}"].collectives
    assert (one.kind, one.group, one.payload) == ("all-reduce", MESHES[mesh][0], BAG_ROWS * WIDTH * 4)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["fsdp", "data and fsdp", "all"])
def test_ids_and_embeddings_move_where_the_projection_is_split_and_tokens_are_few(
    programs: dict[str, collectives.Exchange], mesh: str
):
    data, fsdp, _ = MESHES[mesh]
    tokens = TOKENS * 4  # bytes of a device's ids
    moved = [("all-gather", fsdp, tokens * fsdp)] + 2 * [("all-to-all", fsdp, tokens * WIDTH)]
    moved += [("all-reduce", data, BAG_ROWS * WIDTH // fsdp * 4)] if data > 1 else []
    found = [(one.kind, one.group, one.payload) for one in programs[f"bag, {mesh}"].collectives]
    assert sorted(found) == sorted(moved)


@pytest.mark.slow
def test_the_projection_and_its_gradient_move_where_tokens_are_many(programs: dict[str, collectives.Exchange]):
    found = [(one.kind, one.group, one.payload) for one in programs["bag, many tokens"].collectives]
    whole = BAG_ROWS * WIDTH * 4
    assert sorted(found) == [("all-gather", 4, whole), ("all-reduce", 8, whole)]


LOOP = """
%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[]{:T(128)}, f32[8]{0:T(256)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %x = f32[8]{0:T(256)} get-tuple-element(%p), index=1
  %two = s32[]{:T(128)} constant(2)
  %next = s32[]{:T(128)} add(%i, %two)
  %sum = f32[8]{0:T(256)} all-reduce(%x), channel_id=1, GROUPS
  ROOT %out = (s32[], f32[8]) tuple(%next, %sum)
}
%condition (q: (s32[], f32[8])) -> pred[] {
  %q = (s32[]{:T(128)}, f32[8]{0:T(256)}) parameter(0)
  %j = s32[]{:T(128)} get-tuple-element(%q), index=0
  %limit = s32[]{:T(128)} LIMIT
  ROOT %lt = pred[]{:T(512)} compare(%j, %limit), direction=LT
}
ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0:T(256)} parameter(0)
  %one = s32[]{:T(128)} constant(1)
  %start = s32[]{:T(128)} copy(%one)
  %init = (s32[]{:T(128)}, f32[8]{0:T(256)}) tuple(%start, %a)
  %loop = (s32[]{:T(128)}, f32[8]{0:T(256)}) while(%init), condition=%condition, body=%body
  ROOT %result = f32[8]{0:T(256)} get-tuple-element(%loop), index=1
}
"""


def loop(limit: str = "constant(10)", groups: str = "replica_groups={}") -> collectives.Exchange:
    return collectives.of(LOOP.replace("LIMIT", limit).replace("GROUPS", groups), 16)


def test_a_loop_is_as_long_as_start_step_and_limit_make_it():
    assert loop().by_kind()["all-reduce"] == {"count": 5, "payload_bytes": 5 * 32, "sent_bytes": 5 * 2 * 15 / 16 * 32}


def test_a_loop_of_unknown_length_is_named_and_counted_once():
    found = loop(limit="custom-call(%j)")
    assert found.unknown_loops == ("loop",)
    assert found.by_kind()["all-reduce"]["count"] == 1


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}", 4),
        ("replica_groups=[8,2]<=[2,8]T(1,0)", 2),
        ("replica_groups=mesh['axis_0'=8,'axis_1'=1,'axis_2'=2] {'axis_0','axis_1'}", 8),
        ("replica_groups=mesh['axis_0'=1,'axis_1'=4,'axis_2'=2], device_ids=([2,4]T(1,0)) {'axis_1'}", 4),
        ("replica_groups={}", 16),
    ],
)
def test_groups_are_read_in_each_format(groups: str, size: int):
    (one,) = loop(groups=groups).collectives
    assert one.group == size


def test_groups_of_an_unknown_format_are_refused():
    with pytest.raises(ValueError, match=r"unknown format of replica groups.*by_magic"):
        loop(groups="replica_groups=by_magic")


def test_a_collective_over_groups_of_one_moves_nothing():
    assert loop(groups="replica_groups={{0},{1}}").collectives == ()


TPU = """
%start (p: bf16[1,32]) -> (bf16[1,32], bf16[1,128]) {
  %p = bf16[1,32]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %gather.1 = bf16[1,128]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=6, replica_groups={{0,1,2,3}}, CHAIN
  ROOT %call = (bf16[1,32], bf16[1,128]) custom-call(%gather.1), custom_call_target="AsyncCollectiveStart"
}
%async_collective_fusion (r: bf16[1,32]) -> bf16[1,128] {
  %r = bf16[1,32]{1,0} parameter(0)
  ROOT %gather.2 = bf16[1,128]{1,0} all-gather(%r), channel_id=6, replica_groups={{0,1,2,3}}, CHAIN
}
%all-reduce-scatter.3 (s: f32[8,4]) -> f32[2,4] {
  %s = f32[8,4]{1,0:T(8,128)S(1)} parameter(0)
  %sum = f32[8,4]{1,0:T(8,128)} all-reduce(%s), channel_id=7, replica_groups={{0,1,2,3}}
  ROOT %part = f32[2,4]{1,0} dynamic-slice(%sum), dynamic_slice_sizes={2,4}
}
ENTRY %main (a: bf16[1,32], b: f32[8,4]) -> f32[2,4] {
  %a = bf16[1,32]{1,0} parameter(0)
  %b = f32[8,4]{1,0} parameter(1)
  %begun = (bf16[1,32], bf16[1,128]) fusion(%a), kind=kCustom, calls=%start
  %ended = bf16[1,128] fusion(%a), kind=kOutput, calls=%async_collective_fusion
  %sent = (f32[8,4]{1,0}, f32[8,4]{1,0}, u32[], u32[]) collective-permute-start(%b), source_target_pairs={{0,1},{1,0}}
  %received = f32[8,4]{1,0} collective-permute-done(%sent)
  ROOT %out = f32[2,4] fusion(%received), kind=kCustom, calls=%all-reduce-scatter.3, metadata={op_name="head/dot"}
}
"""


def test_collectives_inside_a_tpus_fusions_are_counted_once_by_their_real_kind():
    found = collectives.of(TPU.replace("CHAIN", 'frontend_attributes={chain_id="2"}'), 4)
    assert found.by_kind() == {
        "all-gather": {"count": 1, "payload_bytes": 256, "sent_bytes": 192.0},
        "reduce-scatter": {"count": 1, "payload_bytes": 128, "sent_bytes": 96.0},
        "collective-permute": {"count": 1, "payload_bytes": 128, "sent_bytes": 128.0},
    }
    assert found.largest(1)[0]["kind"] == "all-gather"
    assert {"kind": "reduce-scatter", "source": "head/dot", "sent_bytes": 96.0} in found.largest(3)


def test_all_gathers_without_a_chain_id_are_counted_separately():
    assert collectives.of(TPU.replace("CHAIN", "dimensions={1}"), 4).by_kind()["all-gather"]["count"] == 2


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("f32[]{:T(128)}", 4),
        ("(bf16[8,3]{1,0:T(8,128)(2,1)S(1)}, /*index=1*/pred[5]{0}, u32[])", 48 + 5 + 4),
        ("f8e4m3fn[16]", 16),
        ("s4[6]", 3),
        ("token[]", 0),
    ],
)
def test_bytes_of_a_type(text: str, size: int):
    assert hlo.bytes_of(text) == size
