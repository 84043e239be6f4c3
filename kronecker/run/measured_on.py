"""The conditions of probes, to compare with the paper's: model, training, text, tokenizer, seeds, byte positions P."""

from collections.abc import Iterable, Mapping
from typing import Any

# The 124M runs of the paper's sections 6.6 to 6.12.
PAPER = {
    "model": "12 layers of width 768 with 12 heads",
    "training": "4,623 steps of 540,672 tokens, 2.50B in all",
    "text": "fineweb-edu",
    "tokenizer": "gpt2",
    "P": "16",
}


def of_run(config: Mapping[str, Any], steps: int) -> dict[str, str]:
    """Returns the conditions of one run after `steps` updates; `config` is resolved and flat."""
    tokens = config["train.batch"] * config["train.sequence"]
    return {
        "model": model(config),
        "training": f"{steps:,} steps of {tokens:,} tokens, {steps * tokens:,} in all",
        "text": config["data.source"],
        "tokenizer": config["tokenizer"],
        "P": str(config["embedding.pos_dim"]),
        "seeds": "1",
    }


def model(config: Mapping[str, Any]) -> str:
    layers, width, heads = (config[f"model.{key}"] for key in ("layers", "d_model", "heads"))
    return f"{layers} layers of width {width} with {heads} heads"


def merged(of_runs: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Returns the conditions of several runs, with each different value once."""
    found: dict[str, dict[str, None]] = {}
    for one in of_runs:
        for key, text in one.items():
            found.setdefault(key, {})[text] = None
    return {key: ", ".join(texts) for key, texts in found.items()}
