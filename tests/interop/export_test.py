"""Exported folders of every arm, and of every family of tokenizers, in transformers."""

import base64
import dataclasses
import errno
import json
import threading
from pathlib import Path
from typing import Any

import engines
import exported_runs
import numpy as np
import pytest
import safetensors.numpy
import tokenizer_files
import tokenizers
from exported_runs import CONTEXT, PROMPT, REAL_TEXT, ROWS

from kronecker import tokenization
from kronecker.data import manifests
from kronecker.interop import export, gpt2_folder, hf_tokenizer, model_card
from kronecker.model import transformer
from kronecker.runtime import storage
from kronecker.schema import arms
from kronecker.tokenization import tiktoken_ranks, trials
from kronecker.training import restore

MODELS = [(arm, bias) for arm in arms.ARMS for bias in (True, False)]
TEXTS = [REAL_TEXT, "", " ", "a  b\n\n\tc ", *trials.ORDINARY_TEXT.values(), "\u0000\uffff 👩‍🔬 ﬁ é"]


def name(arm: str, bias: bool) -> str:
    return arm if bias else f"{arm}-without-biases"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[manifests.Prepared, tokenization.Tokenizer]:
    return exported_runs.prepare(tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="module")
def runs(prepared) -> dict[str, restore.Restored]:
    return {name(arm, bias): exported_runs.made(prepared, arm, bias) for arm, bias in MODELS}


@pytest.fixture(scope="module")
def folders(runs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("exports")
    workdir = exported_runs.records(root / "run")
    for model, run in runs.items():
        assert export.write(run, workdir, root / model) == []
    return {model: root / model for model in runs}


@pytest.fixture(scope="module")
def ids(prepared) -> np.ndarray:
    return exported_runs.rows(prepared[1])


@pytest.fixture(scope="module")
def exported_tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[tokenization.Tokenizer, Path]]:
    """A tokenizer of each family, and the folder of its files."""
    folder = tmp_path_factory.mktemp("tokenizers")
    for part in ("unigram", "plain"):
        (folder / part).mkdir()
    ranks = b"".join(
        base64.b64encode(token) + b" %d\n" % i for i, token in enumerate(tokenization.load("gpt2").token_bytes[:5_000])
    )
    (folder / "part.tiktoken").write_bytes(ranks)
    plain = {"add_dummy_prefix": False, "user_defined_symbols": "def,<x>"}
    specs = [
        "gpt2",
        f"tiktoken:{folder / 'part.tiktoken'}@cl100k_base",
        f"tekken:{tokenizer_files.tekken_json(folder)}",
        f"tokenizers:{tokenizer_files.byte_level_json(folder)}",
        f"tokenizers:{tokenizer_files.byte_fallback_json(folder)}",
        f"sentencepiece:{tokenizer_files.sentencepiece_model(folder)}",
        f"sentencepiece:{tokenizer_files.sentencepiece_model(folder / 'unigram', model_type='unigram')}",
        f"sentencepiece:{tokenizer_files.sentencepiece_model(folder / 'plain', **plain)}",
    ]
    found = {}
    for number, spec in enumerate(specs):
        tokenizer = tokenization.load(spec)
        (folder / str(number)).mkdir()
        for file, content in hf_tokenizer.files(tokenizer, CONTEXT, [REAL_TEXT]).items():
            (folder / str(number) / file).write_text(content)
        found[spec.replace(str(folder), "")] = tokenizer, folder / str(number)
    return found


@pytest.fixture(scope="module")
def seen(folders, prepared, exported_tokenizers, ids, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What transformers makes of all folders, in one process, and two models of its own."""
    exported_tokenizers["bpe:300"] = prepared[1], folders["kronecker"]
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": CONTEXT, "vocab_size": prepared[1].vocab_size}
    return engines.ask(
        "in_transformers",
        models=folders,
        tokenizers={spec: folder for spec, (_, folder) in exported_tokenizers.items()},
        texts=TEXTS,
        sizes=sizes,
        ids=ids.tolist(),
        prompt=PROMPT,
        work=tmp_path_factory.mktemp("seen"),
    )


@engines.needed
@pytest.mark.slow
@pytest.mark.parametrize(("arm", "bias"), MODELS)
def test_every_arm_is_a_gpt2_with_its_logits_and_its_greedy_text(arm: str, bias: bool, runs, ids, seen):
    run, found = runs[name(arm, bias)], seen["models"][name(arm, bias)]
    assert run.arm.model.shape.vocab_size < run.arm.model.shape.padded_vocab
    assert (found["class"], found["keys"], found["dtype"]) == ("GPT2LMHeadModel", {}, "torch.float32")
    assert found["again_is_equal"]
    assert found["tied"] == arms.ARMS[arm].tie_head
    numbers = np.load(found["numbers"])
    own = exported_runs.logits(run, np.concatenate([ids, numbers["greedy"]]))
    assert 4 < np.abs(own).max() < 8  # a large logit would make the difference large
    assert np.abs(own - np.concatenate([numbers["logits"], numbers["greedy_logits"]])).max() <= 2e-5
    # If each id is the most likely one after those before it, our greedy text is the same.
    assert (numbers["greedy"][:, :PROMPT] == ids[:, :PROMPT]).all()
    assert (own[ROWS:, PROMPT - 1 : -1].argmax(axis=-1) == numbers["greedy"][:, PROMPT:]).all()


@engines.needed
@pytest.mark.slow
def test_a_tokenizer_of_each_family_gives_our_ids_and_the_text_back(exported_tokenizers, seen):
    for spec, found in seen["tokenizers"].items():
        tokenizer = exported_tokenizers[spec][0]
        assert found["ids"] == [ids.tolist() for ids in tokenizer.encode_batch(TEXTS)], spec
        assert found["texts"] == TEXTS, spec
        assert found["eos"] == tokenizer.eot_id, spec


@engines.needed
@pytest.mark.slow
@pytest.mark.parametrize("arm", ["table_tied", "table_untied"])
def test_a_gpt2_of_transformers_gives_its_logits_here(arm: str, runs, ids, seen):
    run, found = runs[arm], seen["random"][str(arm == "table_tied")]
    assert found["files"] > 1
    model = gpt2_folder.read(found["folder"], run.arm.model.shape)
    run = dataclasses.replace(run, params=model.params | {"embed": {"table": model.table}})
    theirs = np.load(Path(found["folder"]) / "logits.npy")
    assert np.abs(theirs).max() > 1
    assert np.abs(exported_runs.logits(run, ids) - theirs).max() <= 1e-4


def test_a_tokenizer_without_such_a_form_is_told_and_the_rest_is_exported(prepared, monkeypatch, tmp_path: Path):
    def refuse(*_: object) -> None:
        raise ValueError("it has no such form")

    monkeypatch.setattr(hf_tokenizer, "files", refuse)
    run, workdir, out = (
        exported_runs.made(prepared, "kronecker"),
        exported_runs.records(tmp_path / "run"),
        tmp_path / "out",
    )
    assert export.write(run, workdir, out) == [f"{out}: gets no tokenizer files: it has no such form"]
    assert {file.name for file in out.iterdir()} == set(export.FILES) - {hf_tokenizer.JSON, hf_tokenizer.CONFIG}
    card = (out / "README.md").read_text()
    assert "There are no tokenizer files" in card
    assert "AutoTokenizer" not in card
    assert "5.5000 nats per token, 2.2500 bits per byte" in card


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        (r"\p{N}{1,3}+|\p{L}++|[^\p{L}\p{N}]", r"its pattern has {1,3}+, which other tools read otherwise"),
        (r"(?P<word>\p{L}+)|\P{L}+", "not one that other tools can read (Oniguruma error: undefined group option)"),
        (
            r"\p{Script=Greek}+|\p{L}+|\P{L}",
            "not one that other tools can read (Oniguruma error: invalid character pro",
        ),
        (r"\S+|\s+$|\s", "its form for other tools gives other ids for '"),
        (r"[[:alpha:]]+|[^[:alpha:]]+", "its form for other tools gives other ids for '"),
    ],
)
def test_a_pattern_that_other_tools_cannot_read_or_read_otherwise_is_told_and_the_rest_is_exported(
    prepared, tmp_path: Path, pattern: str, said: str
):
    run, gpt2 = exported_runs.made(prepared, "kronecker"), tokenization.load("gpt2")
    ranks = {token: i for i, token in enumerate(gpt2.token_bytes[:-1])}
    own = tiktoken_ranks.from_ranks("tiktoken:own", "own", ranks, pattern, {"<|endoftext|>": len(ranks)})
    out = tmp_path / "out"
    (line,) = export.write(dataclasses.replace(run, tokenizer=own), exported_runs.records(tmp_path / "run"), out)
    assert line.startswith(f"{out}: gets no tokenizer files: ")
    assert said in line
    assert "\n" not in line
    assert {file.name for file in out.iterdir()} == set(export.FILES) - {hf_tokenizer.JSON, hf_tokenizer.CONFIG}


@pytest.mark.parametrize(
    "pattern", [r"\p{L}++|\p{N}{1,3}|[^\p{L}\p{N}]", r"(?<=\s)\p{L}+|\p{L}|\P{L}", r"(?>\p{L}+)|\P{L}+"]
)
def test_possessive_and_atomic_groups_and_lookbehind_keep_their_meaning(pattern: str):
    ranks = {token: i for i, token in enumerate(tokenization.load("gpt2").token_bytes[:-1])}
    own = tiktoken_ranks.from_ranks("tiktoken:own", "own", ranks, pattern, {"<|endoftext|>": len(ranks)})
    library = tokenizers.Tokenizer.from_str(hf_tokenizer.files(own, CONTEXT)[hf_tokenizer.JSON])
    ids = [one.ids for one in library.encode_batch_fast([REAL_TEXT, *TEXTS], add_special_tokens=False)]
    assert ids == [one.tolist() for one in own.encode_batch([REAL_TEXT, *TEXTS])]


@pytest.mark.parametrize(
    ("arm", "options", "said"),
    [
        ("kronecker", {"embedding.scale": 0.5}, ""),
        ("table_tied", {"embedding.scale": 0.5}, "embedding.scale is 0.5 and the head is tied"),
    ],
)
def test_a_scale_is_part_of_the_table_unless_the_head_is_the_table_too(prepared, tmp_path, arm, options, said):
    run, workdir = exported_runs.made(prepared, arm, **options), exported_runs.records(tmp_path / "run")
    if said:
        with pytest.raises(ValueError, match=said):
            export.write(run, workdir, tmp_path / "out")
        return
    export.write(run, workdir, tmp_path / "out")
    plain = dataclasses.replace(run, arm=dataclasses.replace(run.arm, model=run.arm.model.clone(input_scale=1.0)))
    export.write(plain, workdir, tmp_path / "plain")
    tables = [gpt2_folder.read(tmp_path / name, run.arm.model.shape).table for name in ("out", "plain")]
    np.testing.assert_array_equal(tables[0], tables[1] / 2)
    biased = run.arm.model.clone(head_bias=transformer.Constant(np.zeros(run.arm.model.shape.padded_vocab)))
    with pytest.raises(ValueError, match=r"model\.unigram_bias is True: GPT-2's head has no bias"):
        export.write(dataclasses.replace(run, arm=dataclasses.replace(run.arm, model=biased)), workdir, tmp_path / "no")


def test_an_export_that_ends_early_leaves_the_earlier_one_and_nothing_else(prepared, monkeypatch, tmp_path: Path):
    run, workdir = exported_runs.made(prepared, "kronecker"), exported_runs.records(tmp_path / "run")
    there = tmp_path / "there"
    out = tmp_path / "link"
    out.symlink_to(there)
    export.write(run, workdir, out)
    before = {file.name: file.read_bytes() for file in out.iterdir()}

    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match=rf"No space left on device: '{there}'"):
        patched.setattr(storage, "sync", full)
        export.write(run, workdir, out, "float16")
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    there.rename(tmp_path / ".there.kronecker-old")  # as a process leaves it that is killed between two names
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(storage, "sync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        export.write(run, workdir, out, "float16")
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link", "run", "there"]


def test_a_second_export_into_a_folder_waits_for_the_first_and_replaces_it_whole(prepared, monkeypatch, tmp_path: Path):
    run, workdir = exported_runs.made(prepared, "kronecker"), exported_runs.records(tmp_path / "run")
    out, flush, ended = tmp_path / "out", storage.sync, []
    second = threading.Thread(target=lambda: ended.append(export.write(run, workdir, out, "float16")))

    def sync(path: Path) -> None:
        """In the first export, with all files written: lets the second one begin, and come as far as it can."""
        if not second.ident:
            second.start()
            second.join(5)
            assert not ended, "it did not wait"
        flush(path)

    monkeypatch.setattr(storage, "sync", sync)
    export.write(run, workdir, out, "float32")
    second.join()
    assert len(ended) == 1
    assert {file.name for file in out.iterdir()} == set(export.FILES)
    assert json.loads((out / "config.json").read_text())["dtype"] == "float16"
    arrays = safetensors.numpy.load_file(out / gpt2_folder.WEIGHTS)
    assert {array.dtype.name for array in arrays.values()} == {"float16"}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out", "run"]


def test_weights_that_are_not_finite_are_refused_by_name(prepared, tmp_path: Path):
    run, workdir = exported_runs.made(prepared, "kronecker"), exported_runs.records(tmp_path / "run")
    run.params["positions"] = run.params["positions"].at[3].set(np.nan)
    with pytest.raises(
        ValueError, match=r"wpe\.weight has values that are not finite at step 7; give an earlier --step"
    ):
        export.write(run, workdir, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_name_with_a_bar_or_a_line_break_stays_in_its_cell_of_the_card(prepared, tmp_path: Path):
    run, workdir = exported_runs.made(prepared, "kronecker"), exported_runs.records(tmp_path / "run")
    manifest = {**run.prepared.manifest, "source": {**run.prepared.manifest["source"], "spec": "text:a|b\nc"}}
    odd = dataclasses.replace(run, prepared=dataclasses.replace(run.prepared, manifest=manifest))
    shown = {"scale": 1.0, "tokenizer_files": True, "no_tokenizer": ""}
    assert "\n| Text | text:a\\|b c: " in model_card.render(odd, storage.open_path(workdir, "--workdir"), shown)
