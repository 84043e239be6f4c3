"""Runs that are exported: not trained, but all weights are drawn, also those that begin as zeros or ones."""

import functools
import inspect
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tiny_runs

from kronecker import tokenization
from kronecker.data import manifests, preparation
from kronecker.embedding import linen
from kronecker.model import build, transformer
from kronecker.runtime import device_mesh
from kronecker.schema import config_files, resolution
from kronecker.training import restore

CONTEXT, PROMPT, ROWS = 128, 64, 4
SIZES = tiny_runs.OPTIONS | {
    "model.layers": 2,
    "model.d_model": 32,
    "model.context": CONTEXT,
    "train.sequence": CONTEXT,
}
SIZES |= {"model.scan_layers": True}  # compiled in half the time
REAL_TEXT = Path(inspect.__file__).read_text()


def prepare(folder: Path, tokenizer: str = "bpe:300") -> tuple[manifests.Prepared, tokenization.Tokenizer]:
    """Returns the dataset of real text that it makes in `folder`, and its tokenizer."""
    (folder / "text").mkdir()
    for i, part in enumerate(REAL_TEXT.split("\n\n\n")):
        (folder / "text" / f"{i:03}.txt").write_text(part)
    options = {"data.folder": str(folder), "data.source": f"text:{folder / 'text'}", "tokenizer": tokenizer}
    return preparation.ensure_prepared(config("kronecker", **options))


def config(arm: str, **options: Any):
    c = config_files.load(f"configs/demo.py:arm={arm}")
    c.update_from_flattened_dict(SIZES | {"tokenizer": "bpe:300", "data.validation_fraction": 0.1} | options)
    return resolution.resolve(c)


@functools.cache
def decoder(bias: bool, vocab_size: int) -> dict[str, Any]:
    """Returns the shapes of a decoder's parameters, with a head."""
    c = resolution.with_vocabulary(config("table_untied", **{"model.bias": bias}), vocab_size)
    shape = transformer.Shape.of(c.model)
    model = transformer.Transformer(shape, linen.TableEmbed(shape.padded_vocab, shape.d_model))
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]


def made(prepared, arm: str, bias: bool = True, **options: Any) -> restore.Restored:
    """Returns a run whose weights are all drawn."""
    data, tokenizer = prepared
    rank = {"embedding.rank": 8, "embedding.rank_rows": "all"} if arm.startswith("factorized") else {}
    c = resolution.with_vocabulary(config(arm, **{"model.bias": bias} | rank | options), tokenizer.vocab_size)
    mesh = device_mesh.make_mesh(c)
    built = build.build(c, tokenizer.bytes_from(c.embedding.byte_source), mesh)
    rng = np.random.default_rng(0)

    def drawn(path, leaf):
        last = path[-1].key
        if last == "logit_scale":
            return jnp.float32(0.2 if c.embedding.norm == "z" else 10)  # to embeddings of std 1, and of 0.02
        std = c.embedding.init_std if last == "projection" else 0.2
        return jnp.asarray((last == "scale") + std * rng.standard_normal(leaf.shape), jnp.float32)

    ids = jnp.zeros((1, 1), jnp.int32)
    shapes = dict(decoder(bias, tokenizer.vocab_size))
    if c.model.tie_head:
        del shapes["head"]
    shapes["embed"] = jax.eval_shape(built.model.embed.init, jax.random.key(0), ids, built.bag)["params"]
    return restore.Restored(c, data, tokenizer, built, jax.tree_util.tree_map_with_path(drawn, shapes), 7, mesh)


def logits(run: restore.Restored, ids: np.ndarray) -> np.ndarray:
    model = run.arm.model.clone(mesh=None)
    found = jax.jit(lambda params, bag, ids: model.apply({"params": params}, ids, bag))(run.params, run.arm.bag, ids)
    return np.asarray(found)[..., : run.arm.model.shape.vocab_size]


def records(folder: Path) -> Path:
    """Writes what the model card reads of a run's folder."""
    env = {"versions": {"jax": "1", "flax": "2"}, "commit": "0123456789ab", "devices": ["cpu"], "started": "2026-01-01"}
    folder.mkdir(parents=True)
    (folder / "env.json").write_text(json.dumps(env))
    numbers = {"loss": 5.5, "bits_per_byte": 2.25}
    lines = [{"kind": "validation", "step": step, "tokens": step, **numbers} for step in (0, 7)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def rows(tokenizer: tokenization.Tokenizer) -> np.ndarray:
    """Returns pieces of real text, (ROWS, CONTEXT), each after the end of a document."""
    stream = tokenizer.encode_batch([REAL_TEXT])[0].astype(np.int32)[: ROWS * (CONTEXT - 1)].reshape(ROWS, -1)
    return np.pad(stream, ((0, 0), (1, 0)), constant_values=tokenizer.eot_id)
