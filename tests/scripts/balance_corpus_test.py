"""A balanced part of a corpus, by the real script: its shares, its splits and its bytes."""

import collections
import hashlib
import json
import lzma
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def balance(corpus: Path, out: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts" / "balance_corpus.py", f"--source=jsonl:{corpus}", f"--out={out}"]
    return subprocess.run([*command, "--part_field=source", *flags], capture_output=True, text=True)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources of 400, 200, 100, 50 and 50 documents of different lengths, and one text twice."""
    path = tmp_path_factory.mktemp("corpus") / "all.jsonl"
    documents = [
        {"text": f"{source} {i} " + "é" * (i % 37), "source": source}
        for source, count in zip("abcde", (400, 200, 100, 50, 50), strict=True)
        for i in range(count)
    ]
    path.write_text("\n".join(map(json.dumps, [*documents, documents[0]])))
    return path


def test_no_source_has_more_than_its_share_in_either_split(corpus: Path, tmp_path: Path):
    out = tmp_path / "balanced.jsonl.xz"
    done = balance(corpus, out, "--most=0.3", "--validation_fraction=0.2")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in lzma.decompress(out.read_bytes()).decode().splitlines()]
    assert len({line["text"] for line in lines}) == len(lines)
    every = [json.loads(line) for line in corpus.read_text().splitlines()]
    order = {line["text"]: number for number, line in reversed(list(enumerate(every)))}
    assert [order[line["text"]] for line in lines] == sorted(order[line["text"]] for line in lines)
    for split in ("train", "validation"):
        sizes = collections.Counter()
        for line in lines:
            if line["split"] == split:
                sizes[line["part"]] += len(line["text"].encode())
        shares = {part: size / sizes.total() for part, size in sizes.items()}
        assert all(share <= 0.3 for share in shares.values()), shares
        assert shares["a"] > 0.27
        assert shares["b"] > 0.27
        kept = {line["text"] for line in lines}
        small = [line for line in every if line["source"] in "de"]
        assert all(line["text"] in kept for line in small)
    for line in lines:
        fraction = int(hashlib.sha256(line["text"].encode()).hexdigest()[:16], 16) / 2**64
        assert line["split"] == ("validation" if fraction < 0.2 else "train")
    again = tmp_path / "again.jsonl.xz"
    balance(corpus, again, "--most=0.3", "--validation_fraction=0.2")
    assert again.read_bytes() == out.read_bytes()


def test_too_few_sources_and_another_name_are_refused(corpus: Path, tmp_path: Path):
    done = balance(corpus, tmp_path / "x.jsonl.xz", "--most=0.1")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "5 sources" in done.stderr
    done = balance(corpus, tmp_path / "x.txt")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    done = balance(corpus, tmp_path / "x.jsonl.xz", "--part_field=sourze")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--part_field is 'sourze', but there is no such field; set it to one of 'text', 'source'" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_split_without_documents_is_refused_and_nothing_is_written(tmp_path: Path):
    out = tmp_path / "out.jsonl.xz"
    texts: dict[bool, list[str]] = {False: [], True: []}  # whether held out, shortest first
    for text in map(str, range(40)):
        texts[int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) < 2**63].append(text)
    train, held = texts.values()
    faults = {
        "none of its 1 texts is drawn for validation; change": train[:1],
        "none of its 2 texts is drawn for train; change": ["", *held[:1]],
        "no whole documents of 2 sources fit this share": [train[0], train[-1], *held[:1]],  # a longer one in b
    }
    for fault, of_corpus in faults.items():
        corpus = tmp_path / "few.jsonl"
        lines = ({"text": text, "source": source} for text, source in zip(of_corpus, "aba", strict=False))
        corpus.write_text("\n".join(map(json.dumps, lines)))
        done = balance(corpus, out, "--validation_fraction=0.5", "--most=0.5")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert fault in done.stderr
        assert not out.exists()


def test_the_corpus_itself_is_not_replaced_by_its_part(corpus: Path, tmp_path: Path):
    packed = tmp_path / "all.jsonl.xz"
    packed.write_bytes(lzma.compress(corpus.read_bytes()))
    (tmp_path / "link.jsonl.xz").symlink_to(packed)
    before = packed.read_bytes()
    for out in (packed, tmp_path / "link.jsonl.xz"):
        done = balance(packed, out, "--most=0.3")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "is a file of the text" in done.stderr
    assert packed.read_bytes() == before


CHANGED = """
import runpy, sys
from kronecker.data import sources
with_parts = sources.with_parts

def changing(data, field):
    yield from with_parts(data, field)
    with open(data.source.removeprefix("jsonl:"), "a") as file:
        file.write('\\n{"text": "more", "source": "a"}')

sources.with_parts = changing
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("script", ["balance_corpus", "describe_corpus"])
def test_a_corpus_that_changes_while_it_is_read_is_refused(script: str, corpus: Path, tmp_path: Path):
    copy, out = tmp_path / "all.jsonl", tmp_path / "out.jsonl.xz"
    copy.write_bytes(corpus.read_bytes())
    path = str(ROOT / "scripts" / f"{script}.py")
    code = CHANGED.replace("sys.argv[0]", repr(path))
    flags = [f"--source=jsonl:{copy}", "--part_field=source", f"--out={out}"]
    flags += ["--most=0.3", "--validation_fraction=0.2"] * (script == "balance_corpus")
    done = subprocess.run([sys.executable, "-c", code, *flags], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert f"data.source=jsonl:{copy} changed while it was read; run the same command again" in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["all.jsonl"]
