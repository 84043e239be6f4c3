"""Run folders with made-up numbers, written as a training run writes them."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from kronecker.schema import config_files, resolution

DEMO = Path(__file__).parents[1] / "configs" / "demo.py"
LINES, STEPS_A_LINE, TOKENS_A_STEP = 30, 10, 2048
PARAMS = {
    "table_untied": {"input": 1_048_576, "body": 809_472, "head": 1_048_576, "total": 2_906_624},
    "table_tied": {"input": 1_048_576, "body": 809_472, "head": 0, "total": 1_858_048},
    "kronecker": {"input": 524_288, "body": 809_472, "head": 1_048_576, "total": 2_382_336},
    "kronecker_unit": {"input": 524_288, "body": 809_472, "head": 1_048_576, "total": 2_382_336},
}


def write_run(
    folder: Path, arm: str, seed: int, final_loss: float, overrides: dict[str, Any] | None = None, **result: Any
) -> Path:
    """Writes a finished run whose last validation loss is `final_loss`; returns its folder."""
    config = config_files.load(f"{DEMO}:arm={arm},seed={seed}")
    config.update_from_flattened_dict({"train.steps": LINES * STEPS_A_LINE} | (overrides or {}))
    config = resolution.with_vocabulary(resolution.resolve(config), 8192)
    params = PARAMS.get(arm, PARAMS["kronecker"]) | {"body_init_sha256": f"{seed:064x}"}
    train, validation = curves(arm, seed, final_loss)
    folder.mkdir(parents=True)
    write_json(folder / "config.json", config.to_dict())
    write_json(
        folder / "env.json",
        {
            "versions": {"jax": "0.11.2", "flax": "0.12.8"},
            "python": "3.12.1",
            "commit": "0123456789ab",
            "platform": "cpu",
            "devices": ["cpu", "cpu"],
            "processes": 1,
            "command": ["train.py", "--config=configs/demo.py", f"--config.seed={seed}"],
            "started": "2026-01-01T00:00:00+00:00",
        },
    )
    write_json(folder / "params.json", params)
    lines = sorted(train + validation, key=lambda line: line["step"])
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_json(
        folder / "result.json",
        {
            "step": LINES * STEPS_A_LINE,
            "tokens": LINES * STEPS_A_LINE * TOKENS_A_STEP,
            "validation_loss": final_loss,
            "validation_bits_per_byte": validation[-1]["bits_per_byte"],
            "train_loss": train[-1]["loss"],
            "tokens_per_second": 5000.0 + 100 * seed,
            "clip_share": train[-1]["clip_share"],
            "seconds": 120.0,
            "peak_memory_bytes": 1_500_000_000,
            "data_fingerprint": "d" * 64,
            "tokenizer_fingerprint": "e" * 64,
            "params": params,
        }
        | result,
    )
    return folder


def curves(arm: str, seed: int, final_loss: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns training and validation lines; the noise depends on the seed alone, as shared batches make it."""
    shared_noise = np.random.default_rng(seed).normal(0, 0.05, LINES + 1)
    own_noise = np.random.default_rng([seed, len(arm)]).normal(0, 0.004, LINES + 1)
    train, validation = [], []
    for i in range(LINES + 1):
        step = i * STEPS_A_LINE
        loss = final_loss + 5 * float(np.exp(-i / 6) - np.exp(-LINES / 6))
        at = {"step": step, "tokens": step * TOKENS_A_STEP}
        if i % 3 == 0:
            numbers = {"loss": loss, "bits_per_byte": loss / 2, "predicted_tokens": 20_000, "text_bytes": 60_000}
            validation.append({"kind": "validation", **at, **numbers})
        if i:
            train.append(
                {
                    "kind": "train",
                    **at,
                    "loss": loss + float(shared_noise[i] + own_noise[i]),
                    "lr": 1e-3,
                    "grad_norm": 0.9,
                    "clip_share": 0.4 * float(np.exp(-i / 9)) + 0.01 * len(arm),
                    "embedding_std": 1 + 0.04 * len(arm) * i / LINES,
                    "tokens_per_second": 5000.0 + 100 * seed + float(40 * own_noise[i]),
                    "mfu": None,
                    "seconds": i * 4.0,
                }
            )
    return train, validation


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Writes `content` as JSON."""
    file.write_text(json.dumps(content))


STEP, FINGERPRINT = LINES * STEPS_A_LINE, "d" * 64  # of every run that write_run writes
SCRIPTS = ("Greek", "Latin", "digits")


def vocabulary(ids: int, **columns: Any) -> dict[str, np.ndarray]:
    """Returns what is known of each id; by default they all are equally frequent Latin tokens of one byte."""
    plain = {
        "train_count": np.ones(ids, np.int64),
        "bytes": np.ones(ids, np.int32),
        "special": np.zeros(ids, bool),
        "after_space": np.zeros(ids, bool),
        "script": np.full(ids, SCRIPTS.index("Latin"), np.int32),
        "scripts": np.array(SCRIPTS),
        "code_group": np.full(ids, -1, np.int32),
    }
    return plain | {name: np.asarray(column, plain[name].dtype) for name, column in columns.items()}


def write_losses(folder: Path, facts: dict[str, np.ndarray], **arrays: Any) -> None:
    """Writes a run's token_losses.npz, and their mean as the run's final loss."""
    text_bytes = (facts["bytes"] * ~facts["special"])[np.asarray(arrays["targets"])].sum()
    of_run = {"step": np.array(STEP), "data_fingerprint": np.array(FINGERPRINT), "text_bytes": text_bytes}
    np.savez_compressed(folder / "token_losses.npz", **(facts | of_run | arrays))
    result = json.loads((folder / "result.json").read_text())
    write_json(folder / "result.json", result | {"validation_loss": float(arrays["nats"].mean(dtype=np.float64))})
