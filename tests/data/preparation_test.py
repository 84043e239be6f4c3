import contextlib
import dataclasses
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
import tokenizer_files

from configs import base
from kronecker import tokenization
from kronecker.data import manifests, preparation, readers, shards, sources
from kronecker.schema import resolution

ROOT = pathlib.Path(__file__).parents[2]
SHARD_TOKENS = 200_000
RUN = """
import sys
from configs import base
from kronecker.data import preparation
c = base.get_config()
c.data.folder, c.data.source = sys.argv[1:3]
print("ready", flush=True)
sys.stdin.readline()
preparation.ensure_prepared(c, *map(int, sys.argv[3:]))
"""
SEGMENT_BYTES = 4_000_000  # of the standard library: three segments, of four parts each


def configured(folder, source="stdlib", tokenizer="gpt2", **keys):
    c = base.get_config()
    c.tokenizer = tokenizer
    c.data.update({"folder": str(folder), "source": source} | keys)
    return resolution.resolve(c)


def start(folder, *sizes):
    [process] = ready(folder, *sizes, count=1)
    begin(process)
    return process


def ready(folder, *sizes, count):
    """Starts processes that have imported what they need and wait: importing takes longer than preparing."""
    command = [sys.executable, "-c", RUN, str(folder), "stdlib", *map(str, sizes or (SHARD_TOKENS,))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, cwd=ROOT, **pipes) for _ in range(count)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    return processes


def begin(process):
    process.stdin.write("\n")
    process.stdin.close()
    process.stdout.close()


@contextlib.contextmanager
def two_at_work(folder, count):
    """Yields processes, the first of which is stopped in the middle of a segment while the others do another one."""
    processes = first, *others = ready(folder, SHARD_TOKENS, SEGMENT_BYTES, count=count)
    try:
        begin(first)
        wait_for(folder, "part-00000-*.json", first)
        first.send_signal(signal.SIGSTOP)
        assert not list(folder.glob("stdlib*/segment-*")), "stopped too late; the test would show nothing"
        for process in others:
            begin(process)
        wait_for(folder, "part-00001-*.json", *others)
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def wait_for(folder, pattern, *processes):
    while not list(folder.glob(f"stdlib*/{pattern}")):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.001)


def contents(folder):
    return {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}


def stamps(folder):
    return {path.name: path.stat().st_mtime_ns for path in pathlib.Path(folder).iterdir()}


def write_corpus(folder, count=400):
    rng = random.Random(0)
    words = ["naïve", "byte", "kernel", "Straße", "of", "the", "tensor", "product", "\n"]
    texts = [" ".join(rng.choices(words, k=rng.randrange(1, 200))) for _ in range(count)]
    file = folder / "corpus.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return f"jsonl:{file}", texts


def stream(prepared, split):
    found = prepared.manifest["splits"][split]
    records = tfds.builder_from_directory(prepared.folder).as_data_source(split)
    tokens, start = [], 0
    for shard in found["shards"]:
        ids = np.concatenate([records[i]["tokens"] for i in range(start, start + shard["records"])])
        assert not ids[shard["tokens"] :].any()
        tokens.append(ids[: shard["tokens"]])
        start += shard["records"]
    return np.concatenate(tokens)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    prepared, _ = preparation.ensure_prepared(configured(tmp_path_factory.mktemp("undisturbed")), SHARD_TOKENS)
    return prepared


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    prepared, _ = preparation.ensure_prepared(configured(folder), SHARD_TOKENS, SEGMENT_BYTES)
    return prepared


@pytest.mark.parametrize("split", manifests.SPLITS)
def test_tfds_reads_every_document_followed_by_end_of_text(tmp_path, split):
    source, texts = write_corpus(tmp_path)
    prepared, tokenizer = preparation.ensure_prepared(configured(tmp_path, source, validation_fraction=0.2), 5_000)
    chosen = [text for text in texts if sources.held_out(text.encode(), 0.2) == (split == "validation")]
    expected = [np.append(ids, tokenizer.eot_id) for ids in tokenizer.encode_batch(chosen)]
    np.testing.assert_array_equal(stream(prepared, split), np.concatenate(expected))


def test_the_manifest_counts_what_was_read(tmp_path):
    source, texts = write_corpus(tmp_path)
    prepared, tokenizer = preparation.ensure_prepared(configured(tmp_path, source, validation_fraction=0.2))
    splits = prepared.manifest["splits"].values()
    assert sum(split["documents"] for split in splits) == len(texts)
    assert sum(split["bytes"] for split in splits) == sum(len(text.encode()) for text in texts)
    ids = tokenizer.encode_batch(texts)
    assert sum(split["tokens"] for split in splits) == sum(map(len, ids)) + len(texts)
    assert prepared.manifest["tokenizer"]["fingerprint"] == tokenizer.fingerprint


def test_empty_documents_are_read_past_however_many_there_are(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n' * 300 + '{"text": "a", "split": "train"}\n' + "\n" * 300)
    monkeypatch.setattr(preparation, "BATCH_DOCUMENTS", 50)
    source = sources.open_source(configured(tmp_path, f"jsonl:{tmp_path}").data)
    batches = list(preparation.batches(source.units, (0, 0), 1))
    assert [len(batch.documents) for batch in batches] == [0] * 6 + [1] + [0] * 6
    assert batches[-1].end == (0, 601)


def lossy(tokenizer, change):
    """Returns a tokenizer that encodes another text than it is given, as a library with a fault would."""
    encode = tokenizer._encode
    return dataclasses.replace(tokenizer, _encode=lambda texts, threads: encode(list(map(change, texts)), threads))


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda text: text.replace("z", ""), r"from byte 2 .*'zza'.* 'a'"),
        (lambda text: text + " ", r"from byte 5 .*'nothing more'.* ' '"),
        (lambda text: text[::-1], r"from byte 0 .*'pizza'.* 'azzip'"),
        (lambda text: "", r"from byte 0 .*'pizza'.* 'nothing more'"),
    ],
    ids=["loses", "adds", "turns", "drops"],
)
def test_a_tokenizer_that_does_not_keep_a_text_is_refused_with_its_place(tmp_path, monkeypatch, change, difference):
    gpt2 = lossy(tokenization.load("gpt2"), lambda text: change(text) if text == "pizza" else text)
    lines = ["noon"] * 500 + ["pizza"] + ["noon"] * 500
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in lines))
    monkeypatch.setattr(tokenization, "load", lambda *_: gpt2)
    with pytest.raises(ValueError, match=rf"a.jsonl:501: tokenizer gpt2: it does not keep text: {difference}"):
        preparation.ensure_prepared(configured(tmp_path / "data", f"jsonl:{tmp_path}"))


def test_texts_that_trade_bytes_at_their_borders_are_refused(tmp_path):
    gpt2 = tokenization.load("gpt2")
    moved = dataclasses.replace(gpt2, _encode=lambda texts, threads: gpt2._encode(["a", "bc"], threads))
    documents = [(readers.Document(text, None, 1.0, f"line {text}"), text.encode()) for text in ("ab", "c")]
    with pytest.raises(ValueError, match=r"^line ab: tokenizer gpt2: it does not keep text: from byte 1"):
        preparation.encode_split(documents, moved, np.uint16)


def test_what_a_normaliser_changes_is_counted_and_leaves_the_bytes_of_the_text(tmp_path):
    definition = json.loads((preparation_of_bpe(tmp_path) / "tokenizer.json").read_text())
    definition["normalizer"] = {"type": "NFC"}
    (tmp_path / "nfc.json").write_text(json.dumps(definition))
    texts = ["cafe\u0301 ole\u0301", "plain"]  # each e with its accent is 3 bytes, and 2 when composed
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"text": text, "split": "train"}) + "\n" for text in texts * 9)
    )
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write(json.dumps({"text": texts[0], "split": "validation"}))
    keys = {"tokenizer": f"tokenizers:{tmp_path}/nfc.json", "split_field": "split"}
    prepared, _ = preparation.ensure_prepared(configured(tmp_path, f"jsonl:{tmp_path}/a.jsonl", **keys))
    held_out = prepared.manifest["splits"]["validation"]
    assert [held_out[key] for key in ("bytes", "encoded_bytes", "changed_bytes")] == [12, 10, 6]
    assert prepared.text_share("validation") == 12 / 10
    assert prepared.manifest["splits"]["train"]["changed_bytes"] == 9 * 6


def preparation_of_bpe(folder):
    source, _ = write_corpus(folder)
    return preparation.ensure_prepared(configured(folder, source, "bpe:300", validation_fraction=0.2))[0].folder


def test_the_split_field_decides_where_a_document_goes(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "one", "split": "train"}\n{"text": "two", "split": "validation"}\n')
    prepared, tokenizer = preparation.ensure_prepared(configured(tmp_path, f"jsonl:{file}", split_field="split"))
    assert tokenizer.decode(stream(prepared, "validation")[:-1]) == b"two"


def test_the_files_do_not_depend_on_the_number_of_workers(undisturbed, tmp_path):
    prepared, _ = preparation.ensure_prepared(configured(tmp_path, workers=5), SHARD_TOKENS)
    assert len(prepared.manifest["splits"]["train"]["shards"]) > 5
    assert contents(prepared.folder) == contents(undisturbed.folder)


def test_a_second_call_writes_nothing(tmp_path):
    source, _ = write_corpus(tmp_path)
    c = configured(tmp_path, source, validation_fraction=0.2)
    first, _ = preparation.ensure_prepared(c)
    written = stamps(first.folder)
    again, _ = preparation.ensure_prepared(c)
    assert again == first
    assert stamps(first.folder) == written


@pytest.mark.parametrize(
    "change",
    [{"validation_fraction": 0.3}, {"text_field": "other"}, {"tokenizer": "bpe:300"}],
    ids=lambda change: next(iter(change)),
)
def test_another_config_gets_another_folder(tmp_path, change):
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps({"text": f"text {i}", "other": f"other {i}"}) + "\n" for i in range(100)))
    keys = {"validation_fraction": 0.2}
    first, _ = preparation.ensure_prepared(configured(tmp_path, f"jsonl:{file}", **keys))
    second, _ = preparation.ensure_prepared(configured(tmp_path, f"jsonl:{file}", **keys | change))
    assert first.folder != second.folder
    assert first.fingerprint != second.fingerprint


@pytest.mark.slow
def test_a_killed_run_goes_on_without_redoing_finished_shards(undisturbed, tmp_path):
    process = start(tmp_path)
    while len(list(tmp_path.glob("stdlib*/part-*.json"))) < 3 and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    [folder] = tmp_path.glob("stdlib*")
    assert not list(folder.glob("kronecker*"))
    finished = {file.stat().st_ino for file in folder.glob("part-*.array_record")}
    assert start(tmp_path).wait() == 0
    assert finished <= {file.stat().st_ino for file in folder.glob("kronecker*")}
    assert contents(folder) == contents(undisturbed.folder)


def test_a_run_stopped_between_shards_and_manifest_is_finished(tmp_path, monkeypatch):
    source, _ = write_corpus(tmp_path)
    c = configured(tmp_path, source, validation_fraction=0.2)
    whole, _ = preparation.ensure_prepared(c)
    expected = contents(whole.folder)
    shutil.rmtree(whole.folder)
    with monkeypatch.context() as patch:
        patch.setattr(manifests, "content_fingerprint", lambda manifest: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            preparation.ensure_prepared(c)
    assert not (whole.folder / manifests.MANIFEST).exists()
    preparation.ensure_prepared(c)
    assert contents(whole.folder) == expected


def test_segments_change_where_shards_end_and_nothing_else(undisturbed, alone):
    assert alone.folder.name != undisturbed.folder.name
    for split in manifests.SPLITS:
        np.testing.assert_array_equal(stream(alone, split), stream(undisturbed, split))


@pytest.mark.slow
def test_processes_at_once_share_the_segments_of_one_dataset(alone, tmp_path):
    with two_at_work(tmp_path, count=3) as processes:
        processes[0].send_signal(signal.SIGCONT)
        assert [process.wait() for process in processes] == [0, 0, 0]
    [folder] = tmp_path.glob("stdlib*")
    assert contents(folder) == contents(alone.folder)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_what_a_killed_process_left_is_taken_over_by_one_that_lives(alone, tmp_path, victim):
    with two_at_work(tmp_path, count=2) as processes:
        processes[victim].kill()
        assert processes[victim].wait() == -signal.SIGKILL
        [folder] = tmp_path.glob("stdlib*")
        whole = {file.with_suffix("").name for file in folder.glob("part-*.json")}
        kept = {
            file.stat().st_ino
            for file in folder.glob("part-*.array_record")
            if file.name[: len("part-N....-N....")] in whole
        }
        processes[0].send_signal(signal.SIGCONT)
        assert processes[1 - victim].wait() == 0
    assert kept <= {file.stat().st_ino for file in folder.glob("kronecker*")}  # nothing was redone
    assert contents(folder) == contents(alone.folder)


def test_a_bpe_is_trained_on_the_training_split_alone(tmp_path):
    source, texts = write_corpus(tmp_path)
    prepared, tokenizer = preparation.ensure_prepared(configured(tmp_path, source, "bpe:400", validation_fraction=0.2))
    train = [text for text in texts if not sources.held_out(text.encode(), 0.2)]
    tokenization.train_bpe(train, 400, tmp_path / "expected.json")
    assert (prepared.folder / "tokenizer.json").read_bytes() == (tmp_path / "expected.json").read_bytes()
    assert tokenizer.name == prepared.manifest["tokenizer"]["name"] == "bpe400"
    assert prepared.manifest["dtype"] == "uint16"


@pytest.mark.parametrize("tokenizer", ["gpt2", "bpe:300"])
def test_a_prepared_folder_needs_neither_its_text_nor_its_place(tmp_path, tokenizer):
    source, _ = write_corpus(tmp_path)
    made, with_tokenizer = preparation.ensure_prepared(configured(tmp_path / "data", source, tokenizer))
    (tmp_path / "corpus.jsonl").unlink()
    moved = shutil.move(made.folder, tmp_path / "moved")
    found, its_tokenizer = preparation.ensure_prepared(configured(tmp_path / "new", f"prepared:{moved}", tokenizer))
    assert found.fingerprint == made.fingerprint
    assert its_tokenizer.fingerprint == with_tokenizer.fingerprint
    assert its_tokenizer.name == with_tokenizer.name
    assert not (tmp_path / "new").exists()


def test_a_dataset_under_the_name_of_another_is_refused(tmp_path):
    source, _ = write_corpus(tmp_path)
    made, other = (
        preparation.ensure_prepared(configured(tmp_path, source, "bpe:300", validation_fraction=share))[0].folder
        for share in (0.1, 0.2)
    )
    shutil.rmtree(other)
    shutil.copytree(made, other)
    with pytest.raises(ValueError, match=f"{other.name}: holds {made.name}, of another text, tokenizer or field"):
        preparation.ensure_prepared(configured(tmp_path, source, "bpe:300", validation_fraction=0.2))


def test_a_prepared_folder_under_another_tokenizer_is_refused(tmp_path):
    source, _ = write_corpus(tmp_path)
    made, _ = preparation.ensure_prepared(configured(tmp_path / "data", source, "bpe:300"))
    for other in ("gpt2", "bpe:400"):
        fault = rf"prepared with another tokenizer \(bpe:300\) than the one given \({other}\)"
        with pytest.raises(ValueError, match=fault):
            preparation.ensure_prepared(configured(tmp_path, f"prepared:{made.folder}", other))


def test_a_key_names_the_token_that_ends_documents(tmp_path):
    source, _ = write_corpus(tmp_path, 50)
    special = [{"rank": rank, "token_str": text} for rank, text in enumerate(("<a>", "<eot>"))]
    spec = f"tekken:{tokenizer_files.tekken_json(tmp_path, special_tokens=special)}"
    with pytest.raises(
        ValueError, match=r"no end-of-text token.*set --config.data.end_of_text to .* '<a>', '<eot>', '<SP"
    ):
        preparation.ensure_prepared(configured(tmp_path, source, spec))
    prepared, _ = preparation.ensure_prepared(configured(tmp_path, source, spec, end_of_text="<eot>"))
    assert stream(prepared, "train")[-1] == 1
    other, _ = preparation.ensure_prepared(configured(tmp_path, source, spec, end_of_text="<a>"))
    assert other.folder != prepared.folder
    moved = f"prepared:{prepared.folder}"
    again, tokenizer = preparation.ensure_prepared(configured(tmp_path, moved, spec, end_of_text="<eot>"))
    assert (again.fingerprint, tokenizer.eot_id) == (prepared.fingerprint, 1)
    with pytest.raises(ValueError, match="prepared with another tokenizer"):
        preparation.ensure_prepared(configured(tmp_path, moved, spec, end_of_text="<a>"))


def test_a_rank_file_of_unknown_pattern_is_refused_before_anything_is_written(tmp_path):
    source, _ = write_corpus(tmp_path, 5)
    path = tokenizer_files.write_ranks(tmp_path / "mine.tiktoken")
    with pytest.raises(ValueError, match="so how it splits text before merging is not known"):
        preparation.ensure_prepared(configured(tmp_path / "data", source, f"tiktoken:{path}"))
    assert not (tmp_path / "data").exists()


def test_a_large_vocabulary_is_stored_in_four_bytes(tmp_path):
    ranks = ROOT.parent / "shared" / "tokenizers" / "cl100k_base.tiktoken"
    if not ranks.exists():
        pytest.skip(f"{ranks} is not there")
    source, _ = write_corpus(tmp_path, 50)
    prepared, tokenizer = preparation.ensure_prepared(
        configured(tmp_path, source, f"tiktoken:{ranks}", validation_fraction=0.2)
    )
    assert prepared.manifest["dtype"] == "uint32"
    assert stream(prepared, "train")[-1] == tokenizer.eot_id > 1 << 16


@pytest.mark.parametrize(
    ("text", "keys", "message"),
    [
        ("\n\n", {}, "contains no text"),
        ('{"text": ""}\n', {}, "contains no text"),
        ('{"text": "a"}\n', {}, r"has no validation text among 1 documents; raise data.validation_fraction"),
        (
            '{"text": "a"}\n',
            {"validation_fraction": 0.999},
            r"no training text, all of its 1 documents are held out; lower .* \(now 0.999\) or add documents",
        ),
        (
            '{"text": "a", "split": "validation"}\n',
            {"split_field": "split"},
            "has no training text, .* set the field 'split' of some to \"train\"",
        ),
        (
            '{"text": "a"}\n',
            {"text_field": "body"},
            r"a.jsonl:1: data.text_field is 'body', but there is no such field",
        ),
    ],
)
def test_a_corpus_that_cannot_be_used_leaves_no_folder(tmp_path, text, keys, message):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        preparation.ensure_prepared(configured(tmp_path / "data", f"jsonl:{tmp_path}/a.jsonl", **keys))
    assert not list((tmp_path / "data").glob("[!.]*"))


def test_a_full_disk_ends_in_one_error_and_goes_on_when_there_is_room(undisturbed, small_disk):
    with pytest.raises(OSError, match=r"cannot write .*No space left on device.*; free some space, or set data.folder"):
        preparation.ensure_prepared(configured(small_disk), SHARD_TOKENS)
    [folder] = small_disk.glob("stdlib*")
    assert len(shards.finished_parts(folder, 0)) > 1
    assert not list(folder.glob("kronecker*")) + list(folder.glob("*.tmp"))
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    preparation.ensure_prepared(configured(small_disk), SHARD_TOKENS)
    assert contents(folder) == contents(undisturbed.folder)


def test_a_text_that_cannot_be_read_is_no_fault_of_the_file_that_is_written(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, shards.writing(tmp_path / "tokenizer.json"):
        (tmp_path / "text").read_bytes()
    assert caught.value.filename == str(tmp_path / "text")


def test_a_file_size_limit_ends_the_script_in_one_line(tmp_path):
    command = [
        sys.executable,
        "scripts/prepare_data.py",
        "--config=configs/base.py",
        f"--config.data.folder={tmp_path}",
    ]
    result = subprocess.run(
        ["sh", "-c", 'ulimit -f 2048; exec "$@"', "sh", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: cannot write ")
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.glob("[!.]*/*"))


@pytest.mark.parametrize("tokenizer", ["gpt2", "bpe:300"])
def test_text_that_changes_while_it_is_read_is_refused_and_no_part_of_it_stays(tmp_path, monkeypatch, tokenizer):
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": f"Document {i}."}) + "\n" for i in range(500)))
    config = configured(tmp_path / "data", f"jsonl:{text}", tokenizer)
    as_it_was, of_file = text.read_text(), text.stat()
    whole, _ = preparation.ensure_prepared(configured(tmp_path / "whole", f"jsonl:{text}", tokenizer))
    read = readers.read_jsonl

    def changes(*arguments):  # once it is read from, and so before a part, or the BPE, is written
        yield next(documents := read(*arguments))
        text.write_text(as_it_was.replace("Document", "Replaced"))
        yield from documents

    monkeypatch.setattr(readers, "read_jsonl", changes)
    with pytest.raises(ValueError, match=rf"text\.jsonl changed while it was read; .*, and delete {tmp_path}/data/"):
        preparation.ensure_prepared(config)
    assert not list((tmp_path / "data").glob("jsonl-*/*"))
    monkeypatch.undo()
    changed, _ = preparation.ensure_prepared(config)
    assert changed.folder.name != whole.folder.name
    text.write_text(as_it_was)  # put back, as from a copy, with its times
    os.utime(text, ns=(of_file.st_atime_ns, of_file.st_mtime_ns))
    again, _ = preparation.ensure_prepared(config)
    assert (again.folder.name, again.fingerprint) == (whole.folder.name, whole.fingerprint)
