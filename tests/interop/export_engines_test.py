"""Exported folders in CTranslate2, ONNX Runtime, llama.cpp and lm-evaluation-harness, in one process with one torch."""

import math
from typing import Any

import engines
import exported_runs
import jax
import numpy as np
import pytest

from kronecker.interop import export
from kronecker.training import restore

ARMS = ("kronecker", "kronecker_tied")
WINDOWS, LLAMA_PROMPT = 3, 40
pytestmark = [engines.needed, pytest.mark.slow]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory):
    return exported_runs.prepare(tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="module")
def runs(prepared, tmp_path_factory: pytest.TempPathFactory) -> dict[str, restore.Restored]:
    found = {arm: exported_runs.made(prepared, arm) for arm in ARMS}
    gpt2 = exported_runs.prepare(tmp_path_factory.mktemp("gpt2"), "gpt2")  # a converter takes only what it recognises
    return found | {"gpt2": exported_runs.made(gpt2, "kronecker", tokenizer="gpt2")}


@pytest.fixture(scope="module")
def ids(prepared) -> np.ndarray:
    return exported_runs.rows(prepared[1])


@pytest.fixture(scope="module")
def texts(prepared) -> dict[str, str]:
    """A text that fills windows of the context exactly, and one of which a part is left."""
    tokenizer = prepared[1]
    stream = tokenizer.encode_batch([exported_runs.REAL_TEXT])[0]
    found = {}
    for name, rest in (("whole", 0), ("rest", 50)):
        parts = (stream[at : at + WINDOWS * exported_runs.CONTEXT + rest] for at in range(100))
        found[name] = next(
            text
            for ids in parts
            if np.array_equal(tokenizer.encode_batch([text := tokenizer.decode(ids).decode()])[0], ids)
        )
    return found


@pytest.fixture(scope="module")
def seen(runs, ids, texts, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("exports")
    workdir = exported_runs.records(root / "run")
    for name, run in runs.items():
        assert export.write(run, workdir, root / name) == []
    return engines.ask(
        "in_engines",
        models={arm: root / arm for arm in ARMS},
        onnx=["kronecker"],
        gguf=root / "gpt2",
        gguf_prompts=exported_runs.rows(runs["gpt2"].tokenizer)[:2, :LLAMA_PROMPT].tolist(),
        lm_eval=root / "kronecker",
        texts=texts,
        ids=ids.tolist(),
        prompt=exported_runs.PROMPT,
        work=root,
    )


def is_greedy(run: restore.Restored, prompts: np.ndarray, drawn: list[list[int]]) -> bool:
    """Returns whether each id is the most likely one after those before it, so that our greedy text is the same."""
    drawn = np.array(drawn)
    assert drawn.shape == (len(prompts), 64)
    own = exported_runs.logits(run, np.concatenate([prompts, drawn], axis=1))
    return bool((own[:, prompts.shape[1] - 1 : -1].argmax(axis=-1) == drawn).all())


@pytest.mark.parametrize(
    ("engine", "arm"), [("ctranslate2", "kronecker"), ("ctranslate2", "kronecker_tied"), ("onnx", "kronecker")]
)
def test_an_engine_gives_our_logits_and_greedy_text(engine: str, arm: str, runs, ids, seen):
    found = seen[engine][arm]
    theirs = np.load(found["logits"])
    assert np.abs(exported_runs.logits(runs[arm], ids) - theirs).max() <= 2e-5
    assert is_greedy(runs[arm], ids[:, : exported_runs.PROMPT], found["greedy"])


def test_llama_cpp_writes_our_greedy_text(runs, seen):
    run = runs["gpt2"]
    prompts = exported_runs.rows(run.tokenizer)[:2, :LLAMA_PROMPT]
    assert is_greedy(run, prompts, seen["llama_cpp"]["greedy"])


def test_lm_eval_measures_our_bits_per_byte_where_its_windows_are_ours(runs, texts, seen):
    """Its last window looks back over a whole context; ours begins after the window before it."""
    run, context = runs["kronecker"], exported_runs.CONTEXT
    streams = {name: run.tokenizer.encode_batch([text])[0].astype(np.int32) for name, text in texts.items()}
    given = np.zeros((len(texts), (WINDOWS + 1) * context), np.int32)
    for row, stream in zip(given, streams.values(), strict=True):
        row[: len(stream)] = [run.tokenizer.eot_id, *stream[:-1]]
    log_p = jax.nn.log_softmax(exported_runs.logits(run, given.reshape(-1, context)))
    log_p = np.asarray(log_p).reshape(*given.shape, -1)
    own = {}
    for of_text, (name, stream) in zip(log_p, streams.items(), strict=True):
        nats = -of_text[np.arange(len(stream)), stream].sum(dtype=np.float64)
        own[name] = float(nats) / math.log(2) / len(texts[name].encode())
    assert seen["lm_eval"]["whole"] == pytest.approx(own["whole"], rel=1e-5)
    assert seen["lm_eval"]["rest"] != pytest.approx(own["rest"], rel=1e-5)
    assert seen["lm_eval"]["rest"] == pytest.approx(own["rest"], rel=0.01)
