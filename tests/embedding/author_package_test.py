"""Parity with the paper author's package, `kronecker-embeddings` on PyTorch, and where it is known to differ."""

import collections
import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import tokenizers as library

from kronecker import tokenization
from kronecker.embedding import author_package, bags, codec, linen
from kronecker.embedding.implementations import product
from kronecker.schema import choices

WIDTH = 64
BLOCK = 1024  # ids whose dense codes the package builds at once: 34 MB an array at P = 32
VOCABULARY = 50_257
END_OF_TEXT_ID = 50_256
SOME_IDS = np.random.default_rng(0).integers(0, VOCABULARY, (4, 50))

Buffers = tuple[np.ndarray, np.ndarray]  # bytes (V, P), lengths (V,)


@pytest.fixture(scope="module")
def torch() -> ModuleType:
    """PyTorch.  Not imported above: each test worker imports every test file, and one of them runs this one."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)  # the other workers have the other cores
    return torch


@pytest.fixture(scope="module")
def package(torch: ModuleType) -> ModuleType:
    """The author's package."""
    return importlib.import_module("kronecker_embeddings")


@pytest.fixture(scope="module")
def gpt2() -> tokenization.Tokenizer:
    return tokenization.load("gpt2")


@pytest.fixture(scope="module")
def gpt2_table(gpt2: tokenization.Tokenizer) -> codec.ByteTable:
    """GPT-2's raw bytes at P = 16."""
    return codec.byte_table(gpt2.token_bytes, 16)


class HuggingFaceStyle:
    """GPT-2's vocabulary and decoder in the `tokenizers` library, under the names that the package calls.

    This is what GPT-2's tokenizer in transformers wraps, less the merges, which decoding does not use.
    """

    all_special_ids = (END_OF_TEXT_ID,)

    def __init__(self, gpt2: tokenization.Tokenizer):
        letters = byte_letters()
        pieces = {"".join(map(letters.get, gpt2.token_bytes[i])): i for i in range(END_OF_TEXT_ID)}
        self.library = library.Tokenizer(library.models.BPE(vocab=pieces, merges=[]))
        self.library.decoder = library.decoders.ByteLevel()
        self.library.add_special_tokens([tokenization.END_OF_TEXT])
        self.convert_ids_to_tokens = self.library.id_to_token
        self.get_vocab = self.library.get_vocab

    def decode(self, ids: list[int], skip_special_tokens: bool, clean_up_tokenization_spaces: bool) -> str:
        assert not clean_up_tokenization_spaces
        return self.library.decode(ids, skip_special_tokens=skip_special_tokens)


def byte_letters() -> dict[int, str]:
    """Byte -> letter of the byte-level alphabet: 188 bytes are themselves, the rest follow U+0100 in their order."""
    alphabet = sorted(library.pre_tokenizers.ByteLevel.alphabet())
    own = {ord(letter): letter for letter in alphabet if ord(letter) < 256}
    others = [value for value in range(256) if value not in own]
    return own | dict(zip(others, alphabet[len(own) :], strict=True))


@pytest.fixture(scope="module")
def package_bytes(package: ModuleType, gpt2: tokenization.Tokenizer) -> Callable[[int], Buffers]:
    """P -> the byte and length buffers that the package builds of GPT-2 by itself."""
    adapter = HuggingFaceStyle(gpt2)
    made = {
        pos_dim: tuple(map(np.asarray, package.build_byte_buffer(adapter, pos_dim=pos_dim))) for pos_dim in (16, 32)
    }
    return made.__getitem__


def package_layer(package: ModuleType, torch: ModuleType, table: codec.ByteTable, norm: str = "z") -> Any:
    """The package's layer, dynamic and freshly initialised, on our bytes."""
    raw, lengths = tensors(torch, table)
    vocabulary, pos_dim = table.bytes.shape
    return package.KroneckerEmbedding(
        vocabulary, WIDTH, pos_dim=pos_dim, byte_buffer=raw, length_buffer=lengths, z_normalize=norm == "z"
    )


def tensors(torch: ModuleType, table: codec.ByteTable) -> tuple[Any, Any]:
    """Our bytes and lengths as the package takes them."""
    return torch.from_numpy(table.bytes), torch.from_numpy(table.lengths.astype(np.int16))


def our_layer(table: codec.ByteTable) -> linen.BagEmbed:
    return linen.BagEmbed(rows=table.code_dim, features=WIDTH, init_std=table.code_dim**-0.5)


def random_tokens(pos_dim: int) -> list[bytes | None]:
    rng = np.random.default_rng(pos_dim)
    tokens = [rng.integers(0, 256, length, np.uint8).tobytes() for length in range(pos_dim + 1) for _ in range(8)]
    return [*tokens, b"\0", b"\0" * pos_dim, b"\0a"[:pos_dim], b"\xff" * pos_dim, None]


def largest_error(got: np.ndarray, want: np.ndarray) -> float:
    """The largest absolute difference over the largest absolute value."""
    return float(np.abs(np.asarray(got) - want).max() / np.abs(want).max())


@reference.needed
@pytest.mark.parametrize("norm", choices.NORMS)
@pytest.mark.parametrize("pos_dim", [1, 8, 16, 32, 48])
def test_codes_of_random_bytes_of_every_length_are_the_packages(
    package: ModuleType, torch: ModuleType, pos_dim: int, norm: str
):
    table = codec.byte_table(random_tokens(pos_dim), pos_dim)
    assert set(table.lengths) == set(range(pos_dim + 1))
    assert_same_codes(package, torch, table, norm)


@reference.needed
@pytest.mark.parametrize("norm", choices.NORMS)
@pytest.mark.parametrize("pos_dim", [16, 32])
def test_codes_of_gpt2s_tokens_are_the_packages(
    package: ModuleType, torch: ModuleType, gpt2: tokenization.Tokenizer, pos_dim: int, norm: str
):
    short_to_long = sorted(gpt2.token_bytes, key=len)  # the first 256 are the single bytes
    tokens = [*short_to_long[:256], *short_to_long[256::400], *short_to_long[-100:]]
    assert_same_codes(package, torch, codec.byte_table(tokens, pos_dim), norm)


def assert_same_codes(package: ModuleType, torch: ModuleType, table: codec.ByteTable, norm: str) -> None:
    codes = package.kronecker_codec(*tensors(torch, table), pos_dim=table.pos_dim, z_normalize=norm == "z")
    expected = codec.dense_code(table, np.arange(len(table.lengths)), norm)
    # Each coordinate against itself: beside the largest one, the z-norm's shift would be too small to be seen.
    np.testing.assert_allclose(codes.numpy(), expected, rtol=1e-6, atol=0)


@reference.needed
@pytest.mark.parametrize("norm", choices.NORMS)
@pytest.mark.parametrize("pos_dim", [16, 32])
def test_layer_and_gradient_on_gpt2s_whole_vocabulary_are_the_packages(
    package: ModuleType, torch: ModuleType, gpt2: tokenization.Tokenizer, pos_dim: int, norm: str
):
    table = codec.byte_table(gpt2.token_bytes, pos_dim)
    rng = np.random.default_rng(pos_dim)
    ids = rng.permutation(VOCABULARY)
    cotangent = rng.normal(size=(VOCABULARY, WIDTH)).astype(np.float32)
    layer = package_layer(package, torch, table, norm)
    assert np.array_equal(layer._byte_buffer, table.bytes)
    assert np.array_equal(layer._length_buffer, table.lengths)
    blocks = []
    for start in range(0, VOCABULARY, BLOCK):
        block = layer(torch.from_numpy(ids[start : start + BLOCK]))
        block.backward(torch.from_numpy(cotangent[start : start + BLOCK]))
        blocks.append(block.detach().numpy())

    @jax.jit
    def ours(weights: jax.Array, arm: bags.Bag) -> tuple[jax.Array, jax.Array]:
        out, pullback = jax.vjp(lambda weights: product(weights, arm, ids), weights)
        return out, pullback(jnp.asarray(cotangent))[0]

    weights = author_package.projection_from_state_dict(layer.state_dict(), pos_dim=pos_dim)
    out, gradient = ours(weights, bags.kronecker_bag(table, norm))
    assert largest_error(out, np.concatenate(blocks)) < 1e-5
    assert largest_error(gradient, layer.projection.weight.grad.numpy().T) < 1e-5


@reference.needed
def test_a_saved_model_with_the_packages_layer_loads_into_ours(
    package: ModuleType, torch: ModuleType, gpt2_table: codec.ByteTable, tmp_path: Path
):
    layer = package_layer(package, torch, gpt2_table)
    torch.save(torch.nn.ModuleDict({"wte": layer}).state_dict(), tmp_path / "model.pt")
    saved = torch.load(tmp_path / "model.pt", weights_only=True)
    weights = jnp.asarray(author_package.projection_from_state_dict(saved, prefix="wte.", pos_dim=16))
    out = our_layer(gpt2_table).apply({"params": {"projection": weights}}, SOME_IDS, bags.kronecker_bag(gpt2_table))
    assert largest_error(out, layer(torch.from_numpy(SOME_IDS)).detach().numpy()) < 1e-5


@reference.needed
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_our_projection_loads_into_the_packages_layer(
    package: ModuleType, torch: ModuleType, gpt2_table: codec.ByteTable, dtype: jnp.dtype
):
    ours, arm = our_layer(gpt2_table), bags.kronecker_bag(gpt2_table)
    weights = ours.init(jax.random.key(0), SOME_IDS, arm)["params"]["projection"].astype(dtype)
    layer = package_layer(package, torch, gpt2_table)
    arrays = author_package.state_dict_from_projection(weights, pos_dim=16)
    layer.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    expected = ours.apply({"params": {"projection": weights.astype(jnp.float32)}}, SOME_IDS, arm)
    assert largest_error(layer(torch.from_numpy(SOME_IDS)).detach().numpy(), expected) < 1e-5


def test_a_projection_survives_the_way_there_and_back_bit_by_bit():
    weights = np.random.default_rng(0).normal(size=(512, 3)).astype(np.float32)
    there = author_package.state_dict_from_projection(weights, prefix="wte.")
    assert [(name, array.shape) for name, array in there.items()] == [("wte.projection.weight", (3, 512))]
    assert np.array_equal(author_package.projection_from_state_dict(there, prefix="wte."), weights)


@reference.needed
def test_a_bfloat16_tensor_is_refused_with_what_to_pass(torch: ModuleType):
    with pytest.raises(ValueError, match=r"'projection.weight'.*BFloat16.*pass value.detach\(\).cpu\(\).float\(\)"):
        author_package.projection_from_state_dict({"projection.weight": torch.zeros(8, 256, dtype=torch.bfloat16)})


@pytest.mark.parametrize(
    ("shapes", "arguments", "message"),
    [
        ({"wte.projection.weight": (8, 256)}, {}, r"no 'projection.weight'.*pass prefix='wte.'"),
        ({"wte.weight": (8, 256)}, {}, "no 'projection.weight'.*pass one that has it; this one has wte.weight"),
        ({}, {}, "this one has none"),
        ({"projection.weight": (4096,)}, {}, r"shape \(4096,\); pass floats of shape \(d, 256 P\)"),
        ({"projection.weight": (4096, 8)}, {}, r"shape \(4096, 8\); it must be \(d, 256 P\).*P at least 1; transpose"),
        ({"projection.weight": (8, 4096)}, {"pos_dim": 32}, "256 P = 8,192 at pos_dim 32"),
        ({"projection.weight": (4096, 768)}, {"pos_dim": 16}, "transpose it if its axes are swapped"),
    ],
)
def test_a_state_dict_that_does_not_fit_is_refused(
    shapes: dict[str, tuple[int, ...]], arguments: dict[str, int], message: str
):
    state_dict = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    with pytest.raises(ValueError, match=message):
        author_package.projection_from_state_dict(state_dict, **arguments)


@pytest.mark.parametrize(
    ("weights", "pos_dim", "message"),
    [
        (np.zeros((8, 4096)), 0, r"projection has shape \(8, 4096\); it must be \(256 P, d\)"),
        (np.zeros((4096, 8)), 8, "256 P = 2,048 at pos_dim 8"),
        (np.zeros((0, 8)), 0, "P at least 1"),
        (np.zeros((256, 8), np.int32), 0, "projection is int32"),
    ],
)
def test_a_projection_that_does_not_fit_is_refused(weights: np.ndarray, pos_dim: int, message: str):
    with pytest.raises(ValueError, match=message):
        author_package.state_dict_from_projection(weights, pos_dim=pos_dim)


@reference.needed
@pytest.mark.parametrize("pos_dim", [16, 32])
def test_byte_tables_of_decoded_bytes_are_the_packages(
    gpt2: tokenization.Tokenizer, package_bytes: Callable[[int], Buffers], pos_dim: int
):
    table = codec.byte_table(tokenization.decoded(gpt2.token_bytes), pos_dim)
    raw, lengths = package_bytes(pos_dim)
    np.testing.assert_array_equal(table.lengths, lengths)
    np.testing.assert_array_equal(table.bytes, raw)


@reference.needed
@pytest.mark.parametrize("pos_dim", [16, 32])
def test_raw_bytes_differ_from_the_packages_just_where_a_token_is_not_utf8(
    gpt2: tokenization.Tokenizer, package_bytes: Callable[[int], Buffers], pos_dim: int
):
    table = codec.byte_table(gpt2.token_bytes, pos_dim)
    raw, lengths = package_bytes(pos_dim)
    differs = (table.lengths != lengths) | np.any(table.bytes != raw, axis=1)
    not_utf8 = [i for i, token in enumerate(gpt2.token_bytes) if token.decode(errors="ignore").encode() != token]
    assert len(not_utf8) == 344
    assert np.flatnonzero(differs).tolist() == not_utf8


@reference.needed
def test_384_tokens_collide_by_decoded_bytes_255_of_them_on_one_vector_and_44_by_raw_bytes(
    gpt2_table: codec.ByteTable, package_bytes: Callable[[int], Buffers]
):
    decoded, raw = group_sizes(*package_bytes(16)), group_sizes(gpt2_table.bytes, gpt2_table.lengths)
    assert (sum(decoded), max(decoded)) == (384, 255)
    assert sum(raw) == 44


def group_sizes(rows: np.ndarray, lengths: np.ndarray) -> list[int]:
    """How many tokens share a byte string, for each that two or more share."""
    counts = collections.Counter(row[:length].tobytes() for row, length in zip(rows, lengths, strict=True))
    return [count for count in counts.values() if count > 1]


@reference.needed
def test_over_long_bytes_that_are_not_utf8_become_empty_in_the_package_alone(package: ModuleType):
    token = b"\x80" * 20
    assert package.utf8_safe_truncate(token, 16) == b""
    assert codec.truncate(token, 16) == token[:16]


@reference.needed
def test_over_long_utf8_is_cut_as_the_package_cuts_it(package: ModuleType):
    tokens = [
        " \u0928\u092e\u0938\u094d\u0924\u0947",
        "a\u00e9" * 9,
        "\U0001f600" * 9,
        "ab\u65e5\u672c\u8a9e\u65e5\u672c\u8a9e",
    ]
    for token in map(str.encode, tokens):
        for pos_dim in range(4, len(token) + 1):
            assert codec.truncate(token, pos_dim) == package.utf8_safe_truncate(token, pos_dim)


@reference.needed
def test_a_padded_vocabulary_is_refused_by_the_package_alone(
    package: ModuleType, gpt2: tokenization.Tokenizer, gpt2_table: codec.ByteTable
):
    with pytest.raises(ValueError, match="50304"):
        package.KroneckerEmbedding(50304, WIDTH, tokenizer=HuggingFaceStyle(gpt2), pos_dim=16)
    padded = codec.byte_table(gpt2.token_bytes, 16, padded_vocab=50304)
    assert np.array_equal(padded.bytes[:VOCABULARY], gpt2_table.bytes)


@reference.needed
def test_a_token_of_exactly_p_bytes_counts_as_truncated_in_the_package_alone(package: ModuleType, torch: ModuleType):
    table = codec.byte_table([b"abcd", b"abcde"], 4)
    assert package.coverage_stats(tensors(torch, table)[1], pos_dim=4)["n_at_or_above_pos_dim"] == 2
    assert table.truncated == (1,)
