"""The loss of every held-out token of a real run, written and skipped as a user's command does it."""

import collections
import itertools
import json
import lzma
import random
import re
import shutil
import subprocess
from pathlib import Path

import commands
import numpy as np
import pytest

from kronecker import tokenization
from kronecker.data import manifests, rows, unigrams
from kronecker.embedding import codec
from kronecker.report import breakdown, collisions, compare, comparison_page, inputs, losses_by_token
from kronecker.run import finished_runs

pytestmark = pytest.mark.slow  # two real trainings

ROOT = Path(__file__).parents[2]
POS_DIM, STEPS, BATCH, SEQUENCE = 3, 4, 4, 32
ARMS = ("table_untied", "kronecker")
OPTIONS = {
    "tokenizer": "gpt2",
    "data.validation_fraction": 0.04,
    "model.layers": 1,
    "model.heads": 2,
    "model.d_model": 16,
    "model.context": SEQUENCE,
    "embedding.pos_dim": POS_DIM,
    "train.batch": BATCH,
    "train.sequence": SEQUENCE,
    "train.steps": STEPS,
    "eval.every": 0,
    "eval.batch": 6,
    "checkpoint.every": 2,
    "log.every": 1,
}
WORLD, HELLO, SEVEN, EXCLAMATION, SPACE, LAMBDA, DE, YEAR = 995, 15496, 22, 0, 220, 39377, 43666, 12131
BYTE_FF, END_OF_TEXT, PADDING = 187, 50256, 50257


def script(name: str, *arguments: object) -> subprocess.CompletedProcess:
    return commands.run(name, *arguments)


def write(*arguments: object) -> subprocess.CompletedProcess:
    return script("scripts/token_losses.py", *arguments)


def refused(done: subprocess.CompletedProcess, message: str) -> None:
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 documents in which ids collide at P = 3, so long that they take several blocks to count."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "text").mkdir()
    words = [f"{a}{b}" for a in ("kron", "byte", "code", "table") for b in ("s", "er", "ing", "ed", "")]
    words += ["λόγος", "日本", "2020", "world", "a", "is", "the", "\n"]
    rng = random.Random(0)
    for i in range(400):
        (folder / "text" / f"{i:03}.txt").write_text(" ".join(rng.choices(words, k=250)) + ".\n")
    return folder


@pytest.fixture(scope="module")
def swept(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of each arm, and the output of the command that wrote their token losses."""
    folder = tmp_path_factory.mktemp("runs") / "sweep"
    options = OPTIONS | {"data.folder": text, "data.source": f"text:{text / 'text'}"}
    overrides = [f"--config.{key}={value}" for key, value in options.items()]
    for arm in ARMS:
        workdir = f"--workdir={folder / arm}"
        done = script("train.py", f"--config=configs/demo.py:arm={arm}", workdir, *overrides)
        assert done.returncode == 0, done.stderr
    done = write(folder)
    assert done.returncode == 0, done.stderr
    (folder / "told.txt").write_text(done.stdout + done.stderr)
    return folder


@pytest.fixture(scope="module", params=ARMS)
def arm(request: pytest.FixtureRequest) -> str:
    return request.param


def losses(run: Path) -> dict[str, np.ndarray]:
    with np.load(run / "token_losses.npz") as arrays:
        return dict(arrays)


def prepared(run: Path) -> manifests.Prepared:
    return manifests.open_prepared(json.loads((run / "env.json").read_text())["data"])


def held_out(run: Path) -> np.ndarray:
    stream = rows.Stream(prepared(run), "validation")
    return stream.read(0, len(stream))


def test_the_command_tells_each_runs_mean_loss_and_how_many_it_wrote(swept: Path):
    told = (swept / "told.txt").read_text()
    assert told.startswith("token losses: 2 written, 0 up to date\n")
    for arm in ARMS:
        result = json.loads((swept / arm / "result.json").read_text())
        assert re.search(
            rf"/{arm}\n  {result['validation_loss']:.3f}\d nats/token on {len(held_out(swept / arm)) - 1:,} ", told
        )


def test_the_mean_over_all_tokens_is_the_loss_that_training_wrote(swept: Path, arm: str):
    result = json.loads((swept / arm / "result.json").read_text())
    assert losses(swept / arm)["nats"].mean(dtype=np.float64) == pytest.approx(result["validation_loss"], abs=1e-5)
    by_document = json.loads((swept / arm / "held_out.json").read_text())["by_document"]
    assert sum(by_document["tokens"]) == result["held_out_tokens"]
    assert sum(by_document["nats"]) / result["held_out_tokens"] == pytest.approx(result["validation_loss"], abs=1e-5)


def test_the_mean_over_all_tokens_is_the_loss_that_eval_prints(swept: Path):
    done = script("eval.py", f"--workdir={swept / 'kronecker'}")
    assert done.returncode == 0, done.stderr
    nats = losses(swept / "kronecker")["nats"]
    loss, count = re.search(r"step 4: (\S+) nats/token, .* on (\S+) held-out tokens", done.stdout).groups()
    assert float(loss) == pytest.approx(nats.mean(dtype=np.float64), abs=6e-5)  # it prints four decimals
    assert int(count.replace(",", "")) == len(nats)


def test_inputs_and_targets_are_the_held_out_stream_in_order_without_its_padding(swept: Path, arm: str):
    stream, found = held_out(swept / arm), losses(swept / arm)
    assert (len(stream) - 1) % SEQUENCE, "the last row is full, so the test shows less"
    np.testing.assert_array_equal(found["inputs"], stream[:-1])
    np.testing.assert_array_equal(found["targets"], stream[1:])
    assert found["nats"].shape == found["targets"].shape


# One row at a time, by a process of its own: opening a run sets the number of devices.
ROW_BY_ROW = """
import json, sys
import jax.numpy as jnp
from kronecker.training import restore, train_step
run = restore.open_run(sys.argv[1])
rows = jnp.array(json.loads(sys.argv[2]))
print([train_step.token_nats(run.arm.model, run.params, run.arm.bag, row[None])[0].tolist() for row in rows])
"""


def test_each_tokens_loss_stands_at_its_own_place(swept: Path):
    stream, nats = held_out(swept / "kronecker"), losses(swept / "kronecker")["nats"]
    starts = (0, 7 * SEQUENCE)
    rows_of = [stream[start : start + SEQUENCE + 1].tolist() for start in starts]
    done = script("-c", ROW_BY_ROW, swept / "kronecker", json.dumps(rows_of))
    assert done.returncode == 0, done.stderr
    for start, expected in zip(starts, json.loads(done.stdout), strict=True):
        assert np.abs(np.diff(expected)).max() > 0.1, "neighbours' losses are equal, so the test shows nothing"
        np.testing.assert_allclose(nats[start : start + SEQUENCE], expected, rtol=0, atol=1e-4)


def test_types_are_the_documented_ones(swept: Path, arm: str):
    found = losses(swept / arm)
    types = {name: found[name].dtype for name in ("nats", "inputs", "targets", "train_count", "special", "after_space")}
    assert types == {
        "nats": np.float32,
        "inputs": np.int32,
        "targets": np.int32,
        "train_count": np.int64,
        "special": bool,
        "after_space": bool,
    }


def test_the_file_names_its_checkpoint_and_its_data(swept: Path, arm: str):
    found, result = losses(swept / arm), json.loads((swept / arm / "result.json").read_text())
    assert (int(found["step"]), str(found["data_fingerprint"])) == (STEPS, result["data_fingerprint"])


def test_the_counts_of_the_training_text_are_those_of_the_documents_that_were_not_held_out(swept: Path, text: Path):
    gpt2 = tokenization.load("gpt2")
    encoded = gpt2.encode_batch([file.read_text() for file in (text / "text").iterdir()])
    expected = collections.Counter(i for ids in encoded for i in [*ids.tolist(), gpt2.eot_id])
    expected.subtract(held_out(swept / "kronecker").tolist())
    count = losses(swept / "kronecker")["train_count"]
    assert {i: n for i, n in enumerate(count.tolist()) if n} == {i: n for i, n in expected.items() if n}
    assert count.sum() == prepared(swept / "kronecker").tokens("train")
    assert count.sum() > 2 * unigrams.BLOCK, "the text is one block, so the test shows less"


def test_a_long_training_text_is_counted_in_whole_blocks_from_its_first_to_its_last(
    swept: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(unigrams, "BLOCK", 1000)
    stream = rows.Stream(prepared(swept / "kronecker"), "train")
    last = len(stream) // 1000
    parts = [stream.read(0, 1000), stream.read(1000 * last, len(stream))]
    count = unigrams.sampled(prepared(swept / "kronecker"), "train", 50_304, 3000)
    rest = count - np.bincount(np.concatenate(parts), minlength=50_304)
    assert (rest.min(), rest.sum()) == (0, 1000)


@pytest.mark.parametrize(
    ("token", "length", "special", "after_space", "script"),
    [
        (WORLD, 6, False, True, "Latin"),
        (HELLO, 5, False, False, "Latin"),
        (SPACE, 1, False, True, "white space"),
        (SEVEN, 1, False, False, "digits"),
        (YEAR, 5, False, True, "digits"),
        (EXCLAMATION, 1, False, False, "punctuation and symbols"),
        (LAMBDA, 2, False, False, "Greek"),
        (DE, 2, False, False, "Cyrillic"),
        (BYTE_FF, 1, False, False, "bytes that are not UTF-8"),
        (END_OF_TEXT, 13, True, False, "Latin"),
    ],
)
def test_what_is_known_of_an_id(
    swept: Path, arm: str, token: int, length: int, special: bool, after_space: bool, script: str
):
    found = losses(swept / arm)
    facts = tuple(found[name][token] for name in ("bytes", "special", "after_space"))
    assert facts == (length, special, after_space)
    assert found["scripts"][found["script"][token]] == script


def test_padding_of_the_vocabulary_is_known_to_be_nothing(swept: Path, arm: str):
    found = losses(swept / arm)
    assert len(found["bytes"]) == 50_304
    for name in ("bytes", "special", "after_space", "train_count"):
        assert not found[name][PADDING:].any(), name
    assert (found["code_group"][PADDING:] == -1).all()


def test_a_tables_ids_share_no_code(swept: Path):
    assert (losses(swept / "table_untied")["code_group"] == -1).all()


def test_code_groups_are_the_codecs_collisions(swept: Path):
    table = codec.byte_table(tokenization.load("gpt2").token_bytes, POS_DIM, padded_vocab=50_304)
    found = collections.defaultdict(list)
    for token, group in enumerate(losses(swept / "kronecker")["code_group"].tolist()):
        if group >= 0:
            found[group].append(token)
    assert sorted(map(tuple, found.values())) == sorted(codec.collisions(table))


def test_the_report_reads_what_the_command_wrote(swept: Path):
    compared = compare.compare([finished_runs.read(run) for run in finished_runs.find([swept])])
    read = losses_by_token.read_all(compared)
    assert "target_length" in {made.name for made in breakdown.break_down(compared, read)}
    (damage,) = collisions.damage(compared, read)
    table = codec.byte_table(tokenization.load("gpt2").token_bytes, POS_DIM)
    colliding = {i for group in codec.collisions(table) for i in group} - {END_OF_TEXT}
    assert (damage.arm, damage.ids) == ("kronecker", len(colliding))
    assert damage.tokens == sum(i in colliding for i in held_out(swept / "kronecker")[:-1].tolist())


def test_what_an_input_uses_is_of_its_vocabulary_and_of_the_batches(swept: Path, arm: str):
    use = json.loads((swept / arm / "input_use.json").read_text())
    config = json.loads((swept / arm / "config.json").read_text())
    batches = itertools.islice(rows.train_batches(prepared(swept / arm), SEQUENCE, BATCH, config["seed"]), STEPS)
    seen = np.unique(np.concatenate([batch[:, :-1] for batch in batches]))
    table = codec.byte_table(tokenization.load("gpt2").token_bytes, POS_DIM)
    lit = {(i, byte) for of, n in zip(table.bytes, table.lengths, strict=True) for i, byte in enumerate(of[:n])}
    in_use, number, share, std = {
        "table_untied": (50_257, 50_257, len(seen) / 50_304, 0.02),
        "kronecker": (len(lit), POS_DIM * 256, 1.0, 1.0),  # the z-norm's shift reaches every row
    }[arm]
    assert (use["training_step"], use["rows_in_use"], use["rows"]) == (STEPS, in_use, number)
    assert use["trained_share"] == pytest.approx(share)
    assert use["std"] == pytest.approx(std, rel=0.01)
    assert use["peak_step_over_std"] == pytest.approx(config["train"]["lr"] * use["step"] / use["std"])
    assert use["median_moment_over_eps"] > use["rare_moment_over_eps"] > 0


def test_the_page_tells_what_inputs_use_and_refuses_what_is_of_another_checkpoint(swept: Path, tmp_path: Path):
    for name in ARMS:
        shutil.copytree(swept / name, tmp_path / name)
    compared = compare.compare([finished_runs.read(run) for run in finished_runs.find([tmp_path])])
    comparison_page.write(compared, tmp_path / "report.html", "runs")
    page = (tmp_path / "report.html").read_text()
    (row,) = [row for row in inputs.table(compared).rows if row[0] == "kronecker"]
    assert page.index("<h2>What the inputs use</h2>") < page.index(f"{row[1]}</td>")
    file = tmp_path / "kronecker" / "input_use.json"
    file.write_text(file.read_text().replace('"training_step": 4', '"training_step": 2'))
    with pytest.raises(
        ValueError, match=r"input_use\.json: belongs to another run .*: training_step differs; write it"
    ):
        inputs.table(compared)


def test_runs_that_have_the_file_are_skipped(swept: Path):
    before = {run: (run / "token_losses.npz").stat().st_mtime_ns for run in map(swept.joinpath, ARMS)}
    done = write(swept / "kronecker", swept)
    assert (done.returncode, done.stdout) == (0, "token losses: 0 written, 2 up to date\n")
    assert {run: (run / "token_losses.npz").stat().st_mtime_ns for run in before} == before


def test_a_run_from_elsewhere_without_its_large_files_is_skipped(swept: Path, tmp_path: Path):
    run = tmp_path / "kronecker"
    shutil.copytree(swept / "kronecker", run, ignore=shutil.ignore_patterns("checkpoints", "token_losses.npz"))
    done = write(tmp_path)
    assert (done.returncode, done.stdout) == (0, "token losses: 0 written, 1 up to date\n"), done.stderr
    (run / "held_out.json").unlink()
    assert write(tmp_path).returncode == 2


def test_the_sums_of_another_run_beside_its_losses_are_written_again(swept: Path, tmp_path: Path):
    shutil.copytree(swept / "kronecker", tmp_path / "kronecker")
    shutil.copy(swept / "table_untied" / "held_out.json", tmp_path / "kronecker")
    done = write(tmp_path)
    assert (done.returncode, done.stdout) == (0, "token losses: 1 written, 0 up to date\n"), done.stderr
    assert "held_out.json: belongs to another run than result.json: validation_loss differs" in done.stderr
    first, again = (json.loads((one / "kronecker" / "held_out.json").read_text()) for one in (swept, tmp_path))
    assert again == first


def test_again_replaces_the_file_of_the_named_run_alone_and_by_a_whole_one(swept: Path, tmp_path: Path):
    for arm in ARMS:
        shutil.copytree(swept / arm, tmp_path / arm)
        (tmp_path / arm / "token_losses.npz").write_text("cut")
    done = write("--again", tmp_path / "kronecker")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "token losses: 1 written, 0 up to date\n"
    again, first = losses(tmp_path / "kronecker"), losses(swept / "kronecker")
    assert again.keys() == first.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(again[name], values)
    assert (tmp_path / "table_untied" / "token_losses.npz").read_text() == "cut"
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.fixture(scope="module")
def on_held_out(swept: Path, text: Path) -> Path:
    """The file of eval.py --data on the documents that were held out: those that kronecker validates on."""
    end = tokenization.load("gpt2").eot_id
    ids = held_out(swept / "kronecker")
    parts = np.split(ids, np.flatnonzero(ids == end) + 1)[:-1]
    documents = [tokenization.load("gpt2").decode(part[:-1]).decode() for part in parts]
    with lzma.open(text / "mine.jsonl.xz", "wt") as file:
        for i, document in enumerate(documents):
            lines = [{"body": document, "part": "validation"}, {"body": "other text", "part": "train"}, {"body": None}]
            file.writelines(json.dumps({"part": "train"} | line) + "\n" for line in lines[: 3 if i else 2])
    options = ["--text_field=body", "--split_field=part", "--name=mine"]
    done = script("eval.py", f"--workdir={swept / 'kronecker'}", f"--data=jsonl:{text}/mine.jsonl.xz", *options)
    assert done.returncode == 0, done.stderr
    file = swept / "kronecker" / "texts" / "mine.json"
    said = rf"step 4: \S+ nats/token, \S+ bits/byte on [\d,]+ tokens \([\d,]+ bytes\) in {len(documents)} documents"
    assert re.search(rf"{said}; by document: {re.escape(str(file))}\n$", done.stdout)
    return file


def test_a_text_equal_to_the_held_out_one_has_its_loss_token_for_token_and_its_bits(swept: Path, on_held_out: Path):
    found, result = json.loads(on_held_out.read_text()), json.loads((swept / "kronecker/result.json").read_text())
    by_token = losses(swept / "kronecker")
    document = np.cumsum(by_token["inputs"] == END_OF_TEXT)
    assert found["by_document"]["tokens"] == np.bincount(document).tolist()
    np.testing.assert_allclose(found["by_document"]["nats"], np.bincount(document, by_token["nats"]), atol=2e-3)
    assert found["loss"] == pytest.approx(by_token["nats"].mean(dtype=np.float64), abs=1e-5)
    assert found["bits_per_byte"] == pytest.approx(result["validation_bits_per_byte"], rel=1e-5)
    lengths = np.bincount(document, tokenization.load("gpt2").text_bytes[by_token["targets"]])
    assert found["by_document"]["bytes"] == lengths.tolist()
    assert found["text_bytes"] == by_token["text_bytes"] == lengths.sum()
    assert found["tokenizer_fingerprint"] == result["tokenizer_fingerprint"]
    assert (found["step"], found["validation_loss"]) == (STEPS, result["validation_loss"])
    assert result["held_out_tokens"] == len(by_token["nats"])


def test_another_text_by_the_same_name_is_refused_and_one_run_alone_is_not_compared(
    swept: Path, text: Path, on_held_out: Path
):
    before = on_held_out.read_text()
    (on_held_out.parents[2] / "short.txt").write_text("A short text.")
    data = f"--data=text:{on_held_out.parents[2] / 'short.txt'}"
    refused(
        script("eval.py", f"--workdir={swept / 'kronecker'}", data, "--name=mine"),
        f"mine.json: holds losses on jsonl:{text}/mine",
    )
    assert on_held_out.read_text() == before
    long = on_held_out.parents[2] / f"{'é' * 100}.txt"
    long.write_text("A short text.")
    refused(script("eval.py", f"--workdir={swept / 'kronecker'}", f"--data=text:{long}"), "shorter name with --name")
    done = script("scripts/compare.py", swept)
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stdout.split())
    assert f"1 of 2 runs were not evaluated on it; run: python eval.py --workdir={swept}/table_untied --data=" in told
    assert f"Losses are over all {len(held_out(swept / 'kronecker')) - 1:,} held-out tokens, in " in told


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--name=x"], "--name needs --data; for example --data=jsonl:manuals.jsonl"),
        (["--data=text:a.txt", "--prompt=a"], "--data and --prompt cannot be given together"),
        (["--data=text:a.txt", "--step=2"], "--data with --step needs --out"),
        (["--data=text:a.txt", "--name=a/b"], "--name=a/b: use letters, digits"),
    ],
)
def test_flags_of_eval_that_do_not_fit_are_refused_before_anything_is_read(flags: list[str], said: str):
    refused(script("eval.py", "--workdir=nowhere", *flags), said)


def test_a_folder_without_runs_is_refused(tmp_path: Path):
    refused(write(tmp_path), f"{tmp_path}: no run here")


def test_no_folder_at_all_is_refused():
    refused(write(), "no runs given; for example: python scripts/token_losses.py runs/demo")


def test_an_unfinished_run_is_refused_and_left_as_it_is(swept: Path, tmp_path: Path):
    unfinished = tmp_path / "run"
    shutil.copytree(swept / "kronecker", unfinished)
    (unfinished / "result.json").unlink()
    (unfinished / "token_losses.npz").unlink()
    refused(write(unfinished), f"{unfinished}: the run is not finished")
    refused(script("eval.py", f"--workdir={unfinished}", "--data=text:a.txt"), f"{unfinished}: the run is not finished")
    refused(write(tmp_path), f"{tmp_path}: no run here has finished")
    assert not (unfinished / "token_losses.npz").exists()
