"""A real run through scripts/export_hf.py, and runs that start from what it wrote."""

import json
import os
import subprocess
import sys
from pathlib import Path

import commands
import model_hub
import numpy as np
import pytest
import safetensors.numpy
import tiny_runs

from kronecker import tokenization
from kronecker.interop import export, gpt2_folder, starting
from kronecker.run import rundir

OPTIONS = tiny_runs.OPTIONS | {"tokenizer": "bpe:300", "train.steps": 4, "embedding.arm": "table_tied"}
OPTIONS |= {"embedding.kind": "table", "model.tie_head": True, "checkpoint.every": 2, "model.vocab_multiple": 1}


def trained(workdir: Path, data: Path, **options: object) -> Path:
    tiny_runs.finish(
        tiny_runs.start(workdir, data, OPTIONS | {key.replace("__", "."): v for key, v in options.items()})
    )
    return workdir


def exported(*flags: object) -> subprocess.CompletedProcess:
    return commands.run("scripts/export_hf.py", *flags)


def uploaded(*flags: object, **environment: str) -> subprocess.CompletedProcess:
    """As a new process: the hub's library reads the environment when it is imported."""
    command = [sys.executable, "scripts/export_hf.py", *map(str, flags)]
    return subprocess.run(command, cwd=tiny_runs.ROOT, env=os.environ | environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "first", data)


@pytest.fixture(scope="module")
def folder(run: Path) -> Path:
    done = exported(f"--workdir={run}", f"--out={run.parent / 'hf'}")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout == f"{run.parent / 'hf'}: {run} step 4 as GPT-2\n"
    return run.parent / "hf"


@pytest.mark.slow
def test_the_folder_of_a_run_holds_its_files_and_its_numbers(run: Path, folder: Path):
    assert {file.name for file in folder.iterdir()} == set(export.FILES)
    card, result = (folder / "README.md").read_text(), json.loads((run / "result.json").read_text())
    assert f"{result['validation_loss']:.4f} nats per token, {result['validation_bits_per_byte']:.4f} bits" in card
    assert result["data_fingerprint"] in card
    assert result["tokenizer_fingerprint"] in card
    assert f"| Code | commit {json.loads((run / 'env.json').read_text())['commit']}; jax " in card
    assert "| Seed | 0 |" in card
    assert "4 steps of 128 tokens, 512 in all" in card
    assert str(run.parent) not in card  # no path of this machine
    assert json.loads((folder / "generation_config.json").read_text()) == {"bos_token_id": 0, "eos_token_id": 0}


@pytest.mark.slow
def test_an_export_is_replaced_and_nothing_else_is(run: Path, folder: Path, tmp_path: Path):
    halves = exported(f"--workdir={run}", f"--out={folder}", "--step=2", "--dtype=bfloat16")
    assert "step 2 as GPT-2" in halves.stdout
    for name in ("hf.old", "hf.tmp"):  # somebody's
        (folder.parent / name).mkdir()
    arrays = safetensors.numpy.load_file(folder / gpt2_folder.WEIGHTS)
    assert {array.dtype.name for array in arrays.values()} == {"bfloat16"}
    assert "not measured at step 2" in (folder / "README.md").read_text()
    with model_hub.serving(tmp_path / "cas") as hub:
        to_hub = {"HF_ENDPOINT": hub.address, "HF_TOKEN": model_hub.TOKEN}
        again = uploaded(f"--workdir={run}", f"--out={folder}", "--push_to_hub=me/mine", **to_hub)
    assert again.stdout.endswith(f"step 4 as GPT-2\n{hub.address}/me/mine\n"), again.stderr
    assert hub.files.keys() | hub.large.keys() == set(export.FILES)
    assert sorted(file.name for file in folder.parent.iterdir()) == ["first", "hf", "hf.old", "hf.tmp"]
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "mine.txt").write_text("mine")
    for out, message in [
        (theirs, "holds mine.txt, which is of no earlier export"),
        (theirs / "mine.txt", "is a file"),
        ("gs://bucket/x", "exports are written to a local disk"),
    ]:
        with pytest.raises(ValueError, match=message):
            export.check_target(out)
    (folder / "mine.txt").write_text("mine")
    refused = exported(f"--workdir={run}", f"--out={folder}")
    assert refused.returncode == 2
    assert (
        refused.stderr
        == f"error: --out={folder}: holds mine.txt, which is of no earlier export; choose another folder\n"
    )
    (folder / "mine.txt").unlink()


@pytest.mark.slow
def test_a_run_starts_from_an_export_where_it_was_and_gives_it_back(run: Path, folder: Path, data: Path):
    second = trained(run.parent / "second", data, checkpoint__init_from=f"hf:{folder}", train__lr=1e-9, train__steps=1)
    before, after = tiny_runs.losses(run), tiny_runs.losses(second)
    assert after["validation 0"] == pytest.approx(before["validation 4"], abs=1e-6)
    began = json.loads((second / "env.json").read_text())["began_with"]
    assert began["run"] == f"hf:{folder}"
    assert len(began["sha256"]) == 64


@pytest.mark.slow
def test_what_a_run_cannot_start_from_is_refused(run: Path, folder: Path, tmp_path: Path):
    config = rundir.read_config(rundir.epath.Path(run) / "config.json")
    data = Path(json.loads((run / "env.json").read_text())["data"])
    tokenizer = tokenization.load(f"tokenizers:{data / 'tokenizer.json'}")
    found = starting.find(str(folder), config, tokenizer)
    theirs = safetensors.numpy.load_file(folder / gpt2_folder.WEIGHTS)["transformer.wte.weight"]
    assert (np.asarray(found.params["embed"]["table"]) == theirs).all()
    config.embedding.kind = "kronecker"
    with pytest.raises(ValueError, match=r"embedding\.kind is kronecker, but GPT-2 has a table; .*graft"):
        starting.find(str(folder), config, tokenizer)
    config.embedding.kind = "table"
    other = tmp_path / "other.json"
    tokenization.train_bpe(["zz zz zz qq qq " * 9], 262, other)
    changed = tokenization.load(f"tokenizers:{other}")
    with pytest.raises(ValueError, match="was exported from a run with another tokenizer"):
        starting.find(str(folder), config, changed)
