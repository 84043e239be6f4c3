"""What a corpus is made of, counted from a file of which one can count it by hand."""

import hashlib
import json
import lzma
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    {"text": "abc", "source": "letters", "split": "train"},
    {"text": "é", "source": "letters", "split": "validation"},
    {"text": "12345678", "source": "digits", "split": "train"},
]


def test_counts_bytes_by_part_and_split_and_keeps_what_is_written_by_hand(tmp_path: Path):
    corpus, out = tmp_path / "small.jsonl.xz", tmp_path / "corpora.json"
    corpus.write_bytes(lzma.compress("\n".join(map(json.dumps, DOCUMENTS)).encode()))
    options = [f"--source=jsonl:{corpus}", "--part_field=source", "--split_field=split", f"--out={out}"]
    command = [sys.executable, ROOT / "scripts" / "describe_corpus.py", *options]
    subprocess.run(command, check=True)
    (record,) = json.loads(out.read_text())
    assert (record["name"], record["source"]) == ("small.jsonl.xz", "jsonl:small.jsonl.xz")
    assert record["file_sha256"] == hashlib.sha256(corpus.read_bytes()).hexdigest()
    assert record["text_sha256"] == hashlib.sha256("abc\0é\0".encode() + b"12345678\0").hexdigest()
    assert record["splits"] == {"train": {"documents": 2, "bytes": 11}, "validation": {"documents": 1, "bytes": 2}}
    assert list(record["parts"]) == ["digits", "letters"]
    assert record["held_out_parts"] == ["letters"]
    assert record["parts"]["letters"]["train"] == {"documents": 1, "bytes": 3}
    assert record["parts"]["letters"]["validation"] == {"documents": 1, "bytes": 2}

    record["parts"]["digits"]["licence"] = record["results"] = "by hand"
    out.write_text(json.dumps([record]))
    subprocess.run(command, check=True)
    assert json.loads(out.read_text()) == [record]

    without = [option for option in options if not option.startswith("--part")]
    for fewer in (without, [*options, "--part_field=split"]):
        done = subprocess.run([*command[:2], *fewer], capture_output=True, text=True)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert "words of the part 'digits' would be lost, which is not in the text; check --part_field" in done.stderr
        assert json.loads(out.read_text()) == [record]
    del record["parts"]["letters"]["licence"]
    out.write_text(json.dumps([record]))
    subprocess.run(command, check=True)
    assert json.loads(out.read_text())[0]["parts"]["letters"]["licence"] == ""

    faults = ("[", "{}", "[1]", '[{"names": 3}]', '[{"name": 3}]', '[{"name": "a", "parts": [3]}]')
    for other in (*faults, '[{"name": "a", "parts": {"b": 3}}]'):
        out.write_text(other)
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert out.read_text() == other


def test_a_text_without_fields_has_no_parts(tmp_path: Path):
    (tmp_path / "a.txt").write_text("Text.")
    for flag in ("--part_field=source", "--split_field=split"):
        command = [
            ROOT / "scripts" / "describe_corpus.py",
            f"--source=text:{tmp_path}",
            flag,
            f"--out={tmp_path / 'o'}",
        ]
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert "data.source=text has no fields; leave --part_field and --split_field out" in done.stderr
        assert not (tmp_path / "o").exists()
