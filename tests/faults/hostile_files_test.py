"""Edited and damaged files of every format that is read: each is read rightly or refused, in bounded time and memory.

hypothesis draws the edits.  Readers run in processes of their own, since a library's fault may end the process.
"""

import base64
import contextlib
import copy
import gzip
import io
import json
import lzma
import math
import random
import shutil
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import disturbed
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import run_folders
import tiny_runs
import tokenizers
from disturbed import HARMLESS, WRONG, Draws, Tally
from hypothesis import strategies as st

from kronecker import tokenization
from kronecker.data import manifests, preparation, sources, stream
from kronecker.probes import prompts
from kronecker.report import compare
from kronecker.run import finished_runs
from kronecker.schema import config_files, dotted, keys, resolution
from kronecker.sweep import planning

DEEP = "@deep@"  # becomes 100,000 brackets
WORDS = ["a", "", " ", "text", "../x", "/etc/passwd", "\ud800", "\0", "<script>", "▁", "<0x0A>", "é" * 40, DEEP]
SMALL = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.sampled_from([2**16, 2**24, 2**31, 2**53, 2**63, -(2**63), 10**30, 1e-39, 0.3, 1e308]),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(WORDS),
)
ODD = st.one_of(SMALL, st.lists(SMALL, max_size=3), st.dictionaries(st.sampled_from(WORDS[:6]), SMALL, max_size=2))
TEXTS = [
    *(
        "a b",
        "  two  spaces  ",
        "line\n\n\tends\r\n",
        "From aB to CD 1234",
        "naïve Ünï 日本語 한국어 😀",
        "\0\x7f\u00a0",
    ),
    *("<|endoftext|> </s> <note> see   <note>   here", "Pizza, jazz and a zigzag quiz", "''\"\"``~^|\\", "ﬁ Å K ½ x²"),
]
Check = Callable[[Any], str]


@st.composite
def edited(draw: st.DrawFn, content: Any, plausible: Sequence[tuple[tuple[Any, ...], Any]] = ()) -> tuple[bytes, str]:
    """Draws JSON with up to three changes, or with damaged bytes; returns it, and what was changed."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    if rng.random() < 0.1:
        return damaged_bytes(json.dumps(content).encode(), rng), "bytes"
    changed, told = copy.deepcopy(content), []
    for _ in range(rng.choice((1, 1, 2, 3))):
        if plausible and rng.random() < 0.5:
            path, value = rng.choice(plausible)
        else:
            path, value = place_in(changed, rng), draw(ODD)
        with contextlib.suppress(KeyError, IndexError, TypeError):
            holder = changed
            for key in path[:-1]:
                holder = holder[key]
            if rng.random() < 0.2:
                del holder[path[-1]]
                told.append(f"{path} deleted")
            else:
                holder[path[-1]] = copy.deepcopy(value)
                told.append(f"{path} = {value!r}")
    text = json.dumps(changed).replace(json.dumps(DEEP), "[" * 50_000 + "]" * 50_000)
    return text.encode(), "; ".join(told)


def place_in(content: Any, rng: random.Random) -> tuple[Any, ...]:
    path: list[Any] = []
    while isinstance(content, dict | list) and content and (not path or rng.random() < 0.8):
        key = rng.choice(list(content)) if isinstance(content, dict) else rng.randrange(len(content))
        path.append(key)
        content = content[key]
    return tuple(path) or ("new",)


def damaged_bytes(content: bytes, rng: random.Random) -> bytes:
    kind, at = rng.randrange(4), rng.randrange(len(content))
    if kind == 0:
        return content[:at]
    if kind == 1:
        return disturbed.flipped(content, rng)
    if kind == 2:
        return content[:at] + rng.randbytes(rng.randrange(1, 9)) + content[at:]
    return content[:at] + content[at + rng.randrange(1, 99) :]


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> tuple[bytes, str]:
    seed = draw(st.integers(0, 2**32))
    return damaged_bytes(content, random.Random(seed)), f"damage {seed}"


def searched(kind: str, strategy: st.SearchStrategy, file: Path, read: Check, draws: Draws, cases: int) -> Tally:
    """Writes each case to `file` and reads it."""
    tally = Tally()

    def check(case: tuple[bytes, str]) -> None:
        content, told = case
        file.write_bytes(content)
        disturbed.tried(tally, kind, f"seed {draws.seed}: {told[:300]}", lambda: read(content))

    draws.search(strategy, check, cases)
    return tally


def kept(spec: str, folder: Path) -> str:
    """Loads a tokenizer; what it does not keep of TEXTS, preparation must refuse."""
    tokenizer = tokenization.load(spec)
    lost = [text for text in TEXTS if not is_kept(text, tokenizer.decode(tokenizer.encode_batch([text], 1)[0]))]
    again = [tokenizer.encode_batch([text], 1)[0].tolist() for text in TEXTS]
    if again != [tokenizer.encode_batch([text], 1)[0].tolist() for text in TEXTS]:
        return WRONG  # drawn at random
    if not lost:
        return HARMLESS
    (folder / "texts").mkdir(exist_ok=True)
    (folder / "texts" / "lost.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in lost * 3))
    config = config_files.load("configs/demo.py")
    config.tokenizer, config.data.source, config.data.workers = spec, f"jsonl:{folder}/texts", 1
    config.data.folder = str(folder / "data")
    try:
        preparation.ensure_prepared(resolution.resolve(config))
    finally:
        shutil.rmtree(folder / "data", ignore_errors=True)
    raise AssertionError(f"{lost[0]!r} became {tokenizer.decode(tokenizer.encode_batch([lost[0]], 1)[0])!r}")


def is_kept(text: str, found: bytes) -> bool:
    """Returns whether bytes are a text's, but for one prepended space, U+2581, and a composing normaliser."""
    forms = {text, *(unicodedata.normalize(form, text) for form in ("NFC", "NFKC", "NFD", "NFKD"))}
    forms |= {form.replace("▁", " ") for form in forms}
    return any(found in (form.encode(), b" " + form.encode()) for form in forms)


def byte_level() -> dict[str, Any]:
    """Returns a small byte-level tokenizer.json with added tokens."""
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    library.train_from_iterator(TEXTS * 3, trainer)
    library.add_tokens([tokenizers.AddedToken("<note>", normalized=False)])
    return json.loads(library.to_str())


def byte_fallback() -> dict[str, Any]:
    """Returns a small tokenizer.json that writes a space as U+2581."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{value:02X}>" for value in range(256)), "▁", *"abcdefghinopqrstz", "▁a"]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
            | {"special": True}
            for i, text in enumerate(pieces[:3])
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {piece: i for i, piece in enumerate(pieces)},
            "merges": [["▁", "a"]],
        },
    }


NORMALIZERS = [
    *({"type": name} for name in ("Lowercase", "NFC", "NFKC", "NFD", "NFKD", "StripAccents", "Nmt", "ByteLevel")),
    {"type": "Strip", "strip_left": True, "strip_right": True},
    {"type": "Prepend", "prepend": "x"},
    {"type": "Replace", "pattern": {"String": "e"}, "content": ""},
    {"type": "Replace", "pattern": {"Regex": "z+"}, "content": "y"},
    {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None}
    | {"lowercase": False},
]
SPLITS = [
    {"type": "Split", "pattern": {"String": text}, "behavior": how, "invert": invert}
    for text in (" ", "z", "zz")
    for how in ("Removed", "Isolated", "MergedWithNext")
    for invert in (False, True)
]
SPLITS += [{"type": name} for name in ("Whitespace", "WhitespaceSplit", "BertPreTokenizer", "UnicodeScripts")]
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
ADDED = [
    {"id": 300 + (i > 7), "content": text, "single_word": i == 1, "lstrip": i == 2, "rstrip": i == 3}
    | {"normalized": i == 4, "special": i == 5}
    for i, text in enumerate(["zag", "aB", "zz", "<note>", "ﬁ", "</s>", " ", "e", "\n", "é"])
]
PLAUSIBLE = [
    *((("normalizer",), value) for value in NORMALIZERS),
    *((("pre_tokenizer",), {"type": "Sequence", "pretokenizers": [value, BYTES]}) for value in SPLITS),
    *(
        (("pre_tokenizer",), BYTES | {key: value})
        for key in ("add_prefix_space", "use_regex")
        for value in (0, 1, True)
    ),
    *((("added_tokens", -1), value) for value in ADDED),
    *((("added_tokens",), [value]) for value in ADDED),
    *((("added_tokens", -1, key), True) for key in ("single_word", "lstrip", "rstrip", "normalized", "special")),
    *((("model", "dropout"), value) for value in (0.0, 0.3, 1.0, -1)),
    *((("model", key), value) for key in ("byte_fallback", "fuse_unk", "ignore_merges") for value in (True, False)),
    *((("model", key), "z") for key in ("continuing_subword_prefix", "end_of_word_suffix", "unk_token")),
    *((("model", "vocab", key), value) for key in ("z", "Ġ", "new", "<0x0A>", "▁") for value in (5, 2**24, 2**31, -1)),
    (("model", "merges"), []),
]


def json_tokenizers(folder: Path, draws: Draws) -> Tally:
    file = folder / "tokenizer.json"
    tally = Tally()
    for original, cases in ((byte_level(), 2400), (byte_fallback(), 1600)):
        strategy = edited(original, PLAUSIBLE)
        tally.update(
            searched("tokenizer.json", strategy, file, lambda _: kept(f"tokenizers:{file}", folder), draws, cases)
        )
    return tally


def rank_files(folder: Path, draws: Draws) -> Tally:
    file = folder / "mine.tiktoken"
    tokens = [bytes([value]) for value in range(256)] + [b"th", b"the", b" a", b"zz", b"  "]
    lines = [[base64.b64encode(token).decode(), str(rank)] for rank, token in enumerate(tokens)]
    odd = ["-1", "0", str(2**24), str(2**31), str(2**32), str(2**64), "", "1.5", "x", "261", "٣", "nan"]

    @st.composite
    def ranks(draw: st.DrawFn) -> tuple[bytes, str]:
        rng = random.Random(draw(st.integers(0, 2**32)))
        changed = copy.deepcopy(lines)
        row = rng.randrange(len(changed))
        kind = rng.randrange(5)
        if kind == 0:
            changed[row][1] = draw(st.sampled_from(odd))
        elif kind == 1:
            changed[row][0] = draw(st.sampled_from([lines[0][0], "", "=", "!!", "YQ", "YWI="]))
        elif kind == 2:
            changed[row] = draw(st.lists(st.sampled_from(["YWI=", "7", "x"]), max_size=3))
        elif kind == 3:
            del changed[row]
        content = "\n".join(map(" ".join, changed)).encode()
        return (damaged_bytes(content, rng) if kind == 4 else content), f"row {row}: {changed[row - 1 : row + 1]}"

    return searched("tiktoken file", ranks(), file, lambda _: kept(f"tiktoken:{file}@gpt2", folder), draws, 1500)


def tekken_files(folder: Path, draws: Draws) -> Tally:
    file = folder / "tekken.json"
    tokens = [bytes([value]) for value in range(256)] + [b"th", b"the", b" a"]
    content = {
        "config": {"pattern": r"\s+|\S+", "num_vocab_tokens": 259, "default_vocab_size": 269}
        | {"default_num_special_tokens": 10, "version": "v3"},
        "vocab": [
            {"rank": i, "token_bytes": base64.b64encode(b).decode(), "token_str": None} for i, b in enumerate(tokens)
        ],
    }
    plausible = [
        *((("config", key), value) for key in content["config"] for value in (0, 3, 2**31, -1, 1e9, "(", None)),
        *((("vocab", 258, "rank"), value) for value in (0, -1, 2**31, 2**64, "258", 258.5)),
    ]
    strategy = edited(content, plausible)
    return searched("tekken.json", strategy, file, lambda _: kept(f"tekken:{file}", folder), draws, 1500)


def sentencepiece_models(folder: Path, draws: Draws) -> Tally:
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 20), model_writer=model, vocab_size=400, byte_fallback=True, model_type="bpe",
        normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    file = folder / "tokenizer.model"
    strategy = damaged(model.getvalue())
    return searched("SentencePiece model", strategy, file, lambda _: kept(f"sentencepiece:{file}", folder), draws, 1000)


DATA = config_files.load("configs/demo.py").data


def texts_of(source: str) -> list[str]:
    DATA.source = source
    found = sources.open_source(DATA)
    texts = [document.text for unit in found.units for document in unit.read(0)]
    for text in texts:
        text.encode()  # raises if there are half characters, which have no bytes
    return texts


RECORDS = [{"text": text, "url": "x", "n": number, "more": {"deep": [1, 2]}} for number, text in enumerate(TEXTS)]
LINES = [
    *(
        b"",
        b"[]",
        b"null",
        b'"x"',
        b"{}",
        b'{"text": null}',
        b'{"text": 3}',
        b'{"text": ["x"]}',
        b'{"text": "\\ud800x"}',
    ),
    *(b'{"text": "\xff"}', b'{"text": "a", "text": "b"}', b'\xef\xbb\xbf{"text": "bom"}', b'{"text": "x", "n": NaN}'),
    *(b'{"text": "\xed\xa0\x80"}', b'{"text": "x", "n": ' + b"9" * 5000 + b"}", b'{"text": "\\u0000"}', b"\0\0\0\0"),
    *(b'{"text": "x", "n": ' + b"[" * 90_000 + b"]" * 90_000 + b"}", b'{"text": ' + b'{"a":' * 90_000 + b"}"),
]


def json_lines(folder: Path, draws: Draws) -> Tally:
    file = folder / "part.jsonl"
    whole = [json.dumps(record, ensure_ascii=number % 2 == 0).encode() for number, record in enumerate(RECORDS)]

    @st.composite
    def lines(draw: st.DrawFn) -> tuple[bytes, str]:
        rng = random.Random(draw(st.integers(0, 2**32)))
        changed = list(whole)
        at = rng.randrange(len(changed))
        kind = rng.randrange(3)
        if kind == 0:
            changed[at] = draw(st.sampled_from(LINES))
        elif kind == 1:
            changed[at] = draw(edited(RECORDS[at]))[0]
        content = draw(st.sampled_from([b"\n", b"\n", b"\r\n"])).join(changed)
        return (damaged_bytes(content, rng) if kind == 2 else content), f"line {at}: {changed[at][:80]!r}"

    def read(content: bytes) -> str:
        return HARMLESS if texts_of(f"jsonl:{file}") or not content else WRONG

    return searched("JSON lines", lines(), file, read, draws, 3000)


def compressed_lines(folder: Path, draws: Draws) -> Tally:
    content = b"".join(json.dumps(record).encode() + b"\n" for record in RECORDS)
    tally = Tally()
    for suffix, packed in (
        (".gz", gzip.compress(content)),
        (".xz", lzma.compress(content)),
        (".zst", pa.compress(content, codec="zstd", asbytes=True)),
    ):
        file = folder / f"part.jsonl{suffix}"

        def read(_: bytes, file: Path = file) -> str:
            whole = texts_of(f"jsonl:{file}") == TEXTS
            return HARMLESS if whole or file.suffix == ".zst" else WRONG  # pyarrow's frames have no checksum

        tally.update(searched(f"JSON lines{suffix}", damaged(packed), file, read, draws, 500))
    return tally


def parquet_files(folder: Path, draws: Draws) -> Tally:
    file = folder / "part.parquet"
    pq.write_table(pa.table({"text": TEXTS * 5, "n": list(range(5 * len(TEXTS)))}), file, row_group_size=20)

    def read(_: bytes) -> str:
        texts_of(f"parquet:{file}")
        return HARMLESS

    return searched("parquet", damaged(file.read_bytes()), file, read, draws, 1000)


def text_files(folder: Path, draws: Draws) -> Tally:
    file = folder / "part.txt"

    def read(content: bytes) -> str:
        return HARMLESS if "".join(texts_of(f"text:{file}")).encode() == content else WRONG

    strategy = st.one_of(damaged("\n".join(TEXTS).encode()), st.tuples(st.binary(max_size=40), st.just("any bytes")))
    return searched("text", strategy, file, read, draws, 500)


def dataset_manifests(folder: Path, draws: Draws) -> Tally:
    (folder / "texts").mkdir()
    (folder / "texts" / "a.jsonl").write_text(
        "".join(json.dumps({"text": f"{t} {i}"}) + "\n" for t in TEXTS for i in range(99))
    )
    config = config_files.load("configs/demo.py")
    config.tokenizer, config.data.folder = "bpe:300", str(folder / "data")
    config.data.source = f"jsonl:{folder}/texts"
    prepared, _ = preparation.ensure_prepared(resolution.resolve(config), shard_tokens=4096)
    file = Path(prepared.folder) / manifests.MANIFEST
    original = json.loads(file.read_text())

    def everything() -> tuple[str, bytes]:
        found = manifests.open_prepared(prepared.folder)
        whole = [stream.Stream(found, split) for split in ("train", "validation")]
        return found.fingerprint, b"".join(one.read(0, len(one)).tobytes() for one in whole)

    calm = everything()
    shard = original["splits"]["train"]["shards"][0]
    names = [
        "../x",
        f"../{file.parent.name}/{shard['file']}",
        str(file.parent / shard["file"]),
        "",
        ".",
        "manifest.json",
    ]
    at = ("splits", "train", "shards", 0)
    plausible = [
        *(((*at, "file"), name) for name in (*names, original["splits"]["validation"]["shards"][0]["file"])),
        *(((*at, key), shard[key] + more) for key in ("tokens", "records", "size") for more in (-1, 1, 2048)),
        *((("splits", split, "tokens"), value) for split in ("train", "validation") for value in (0, 5, 10**9)),
        *((("splits", "train", "shards"), value) for value in ([], original["splits"]["train"]["shards"][::-1])),
        *((("dtype",), value) for value in ("uint32", "int64", "object", "float32", "V2")),
        *((("tokens_per_record",), value) for value in (0, 1, 2047, 4096, 2**40)),
    ]

    @st.composite
    def changed(draw: st.DrawFn) -> tuple[bytes, str]:
        content, told = draw(edited(original, plausible))
        if draw(st.booleans()):
            with contextlib.suppress(Exception):  # such a manifest has no fingerprint
                manifest = json.loads(content)
                content = json.dumps(manifest | {"fingerprint": manifests.content_fingerprint(manifest)}).encode()
                told += "; fingerprint made anew"
        return content, told

    def read(content: bytes) -> str:
        found = everything()
        splits = json.loads(content)["splits"].values()
        listed = [shard["file"] for split in splits for shard in split["shards"]]
        if any(Path(name).name != name for name in listed):
            return WRONG  # files outside the folder
        return HARMLESS if found == calm or found[0] != calm[0] else WRONG

    return searched("manifest", changed(), file, read, draws, 2500)


def run_files(folder: Path, draws: Draws) -> Tally:
    runs = [
        run_folders.write_run(folder / "runs" / arm, arm, 0, loss)
        for arm, loss in (("table_untied", 4.6), ("kronecker", 4.5))
    ]
    tally = Tally()

    def read(_: bytes) -> str:
        found = [finished_runs.read(run) for run in finished_runs.find([str(folder / "runs")])]
        json.dumps(compare.to_json(compare.compare(found)), allow_nan=False)
        return HARMLESS

    for name in ("config.json", "result.json", "env.json", "params.json"):
        file = runs[1] / name
        before = file.read_bytes()
        tally.update(searched(f"a run's {name}", edited(json.loads(before)), file, read, draws, 400))
        file.write_bytes(before)
    file = runs[1] / "metrics.jsonl"
    before = [json.loads(line) for line in file.read_text().splitlines()]

    @st.composite
    def lines(draw: st.DrawFn) -> tuple[bytes, str]:
        at = draw(st.integers(0, len(before) - 1))
        changed = [json.dumps(line).encode() for line in before]
        changed[at], told = draw(edited(before[at], [(("kind",), "held"), (("step",), -1), (("loss",), float("nan"))]))
        return b"\n".join(changed) + b"\n", f"line {at}: {told}"

    tally.update(searched("a run's metrics.jsonl", lines(), file, read, draws, 400))
    return tally


def config_values(folder: Path, draws: Draws) -> Tally:
    file = folder / "mine.py"
    names = sorted(keys.KEYS)
    head = f"import sys\nsys.path.insert(0, {str(tiny_runs.ROOT)!r})\nfrom configs import arms, demo\n"
    head += "nan, inf = float('nan'), float('inf')\n"

    @st.composite
    def config_file(draw: st.DrawFn) -> tuple[bytes, str]:
        told = f"c.{draw(st.sampled_from(names))} = {draw(ODD)!r}"
        return f"{head}def get_config():\n    c = demo.get_config()\n    {told}\n    return c\n".encode(), told

    def read(_: bytes) -> str:
        resolved = resolution.resolve(config_files.load(str(file)))
        finite = all(math.isfinite(value) for value in dotted.flat(resolved).values() if isinstance(value, float))
        return HARMLESS if finite and json.dumps(resolved.to_dict()) else WRONG

    tally = searched("config file", config_file(), file, read, draws, 1000)
    loaded = config_files.load("configs/demo.py")
    flags = st.tuples(st.sampled_from(names), st.one_of(SMALL.map(str), st.sampled_from(["1e3", "True", "inf", "nan"])))

    def override(case: tuple[str, str]) -> None:
        disturbed.tried(
            tally, "--config.KEY=VALUE", f"seed {draws.seed}: {case}",
            lambda: dotted.check_override(loaded, f"--config.{case[0]}={case[1]}", None) or HARMLESS,
        )  # fmt: skip

    draws.search(flags, override, 500)

    @st.composite
    def sweep_file(draw: st.DrawFn) -> tuple[bytes, str]:
        row = 'arms.ARMS["kronecker"] | {"seed": seed'
        told = draw(
            st.one_of(
                st.tuples(st.sampled_from(names), ODD).map(lambda pair: f"yield {row}, {pair[0]!r}: {pair[1]!r}}}"),
                ODD.map(lambda value: f"yield {value!r}"),
                ODD.map(lambda value: f"return {value!r}"),
                st.sampled_from(
                    ["yield arms.ARMS['no']", "1 / 0", "yield {}[1]", "import nothing", "raise OSError", "x"]
                ),
            )
        )
        body = f"def sweep(seeds):\n    for seed in range(seeds):\n        {told}\n"
        return f"{head}from configs.demo import get_config\n{body}".encode(), told

    def plan(_: bytes) -> str:
        runs = planning.expand(str(file), 2, {})
        return HARMLESS if planning.plan(str(file), folder / "out", runs, tiny_runs.ROOT / "train.py") else WRONG

    tally.update(searched("sweep file", sweep_file(), file, plan, draws, 500))
    return tally


def prompt_files(folder: Path, draws: Draws) -> Tally:
    file = folder / "pairs.json"
    original = [{"category": "c", "clean": f"text {i}", "typo": f"tetx {i}", "operator": "swap"} for i in range(5)]

    def read(_: bytes) -> str:
        for pair in prompts.read_pairs(file):
            (pair.clean + pair.typo + pair.category).encode()  # half characters have no tokens
        return HARMLESS

    return searched("prompt pairs", edited(original), file, read, draws, 500)


READERS = (
    *(json_tokenizers, rank_files, tekken_files, sentencepiece_models, json_lines, compressed_lines, parquet_files),
    *(text_files, dataset_manifests, run_files, config_values, prompt_files),
)


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_hostile_files_are_read_rightly_or_refused(
    reader: Callable[[Path, Draws], Tally], tmp_path: Path, draws: Draws, tally: Tally
):
    tally.update(disturbed.isolated(reader, tmp_path, draws, seconds=600 * max(1, draws.factor)))
    tally.check()
