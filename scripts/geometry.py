r"""Prints the geometry of input embeddings: codes alone, tables of runs, published
models, and a random table.

  python scripts/geometry.py gpt2 tiktoken:cl100k_base.tiktoken
  python scripts/geometry.py gpt2 \
      --runs=runs/demo/kronecker-seed0,runs/demo/table_untied-seed0
  python scripts/geometry.py gpt2 \
      --tables=models/gpt2@gpt2,models/qwen3@tokenizers:models/qwen3/tokenizer.json
  python scripts/geometry.py --tables=models/SmolLM2-135M-Instruct.Q4_1.gguf

Each argument is a tokenizer as in config.tokenizer; the codes of its vocabulary
are measured without any model.  --tables lists published models with their
tokenizers, MODEL@TOKENIZER; the codes of their vocabularies are measured beside
them.  A model is a .safetensors file, a folder with one or with its shards, or a
.gguf file, whose own tokenizer is taken if none is given.  Only its embedding
tensor is read.  A random table of the first vocabulary's size is added.  Words
have no space in front.  --json writes every table with the keys that
kronecker/run/result.py documents.
"""

from kronecker.runtime import interrupts

if __name__ == "__main__":
    interrupts.end_silently()  # during the other imports

import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from kronecker.runtime import cli

_RUNS = flags.DEFINE_list("runs", [], "Folders of runs whose input embeddings are measured too.")
_TABLES = flags.DEFINE_list("tables", [], "MODEL@TOKENIZER of each published model to measure.")
_TENSOR = flags.DEFINE_string(
    "tensor", "", "Name of the embedding tensor. Default: the first usual name that is found."
)
_POS_DIM = flags.DEFINE_integer("pos_dim", 32, "P of the codes; the paper has 32.", lower_bound=1)
_K = flags.DEFINE_integer("k", 5, "Number of neighbours of a word.", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "Also write the tables to this JSON file.")


def main(specs: Sequence[str]) -> None:
    """Prints the tables."""
    from kronecker import tokenization  # after the flags: --help should not wait for JAX
    from kronecker.probes import subjects, survey
    from kronecker.run import result
    from kronecker.runtime.storage import local_file, write_text

    if not specs and not _RUNS.value and not _TABLES.value:
        raise ValueError("nothing to measure; give a tokenizer, --runs or --tables: python scripts/geometry.py gpt2")
    json_file = _JSON.value and local_file(_JSON.value, "--json")
    loaded = {spec: tokenization.load(spec) for spec in specs}
    found = [subjects.Codec(f"codec, {tokenizer.name}", tokenizer, _POS_DIM.value) for tokenizer in loaded.values()]
    found += [_of_run(path) for path in _RUNS.value]
    tokenizers = [*loaded.values()]
    for entry in _TABLES.value:
        table = _published(entry)
        found.append(table)
        if table.tokenizer.fingerprint not in [one.fingerprint for one in tokenizers]:
            found.append(subjects.Codec(f"codec, {table.name}", table.tokenizer, _POS_DIM.value))
            tokenizers.append(table.tokenizer)
    if tokenizers:
        found.append(subjects.random(tokenizers[0]))
    results = survey.survey(found, {"P": str(_POS_DIM.value)}, _K.value)
    result.show(results)
    if json_file:
        write_text(json_file, json.dumps([result.to_json(one) for one in results], indent=2) + "\n")


def _of_run(path: str):
    from kronecker.probes import layered, subjects
    from kronecker.training import restore

    run = restore.open_run(path)
    _, table = next(layered.spaces(run.arm, run.params, ()))
    return subjects.Table(Path(path).name, table, run.tokenizer)


def _published(entry: str):
    from kronecker import tokenization
    from kronecker.interop import gguf_file, tensors
    from kronecker.probes import subjects

    model, at, spec = entry.rpartition("@")
    model = model if at else entry
    if not at and not model.endswith(tensors.GGUF):
        raise ValueError(f"--tables={entry}: write MODEL@TOKENIZER, for example models/gpt2@gpt2")
    matrix = tensors.input_table(model, _TENSOR.value)
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        if not at:
            file.write(gguf_file.tokenizer_json(Path(model)))
            file.flush()
        tokenizer = tokenization.load(spec if at else f"tokenizers:{file.name}")
    if not at:  # without the bytes for which the model has no row
        own = slice(len(matrix))
        tokenizer = dataclasses.replace(
            tokenizer, token_bytes=tokenizer.token_bytes[own], text_bytes=tokenizer.text_bytes[own]
        )
    return subjects.Table(Path(model).name, matrix, tokenizer)


if __name__ == "__main__":
    cli.run(main, positional=True)
