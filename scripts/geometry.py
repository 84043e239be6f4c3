r"""Prints the geometry of input embeddings: codes alone, tables of runs, published
models, and a random table.

  python scripts/geometry.py gpt2 tiktoken:cl100k_base.tiktoken
  python scripts/geometry.py gpt2 \
      --runs=runs/demo/kronecker-seed0,runs/demo/table_untied-seed0
  python scripts/geometry.py gpt2 \
      --tables=models/gpt2@gpt2,models/qwen3@tokenizers:models/qwen3/tokenizer.json

Each argument is a tokenizer as in config.tokenizer; the codes of its vocabulary
are measured without any model.  A random table of the first one's size is
added.  --tables lists checkpoints with their tokenizers, CHECKPOINT@TOKENIZER.
A checkpoint is a .safetensors file, or a folder with one or with its shards;
only the embedding tensor is read.  Words have no space in front.  --json writes
every table with the keys that kronecker/run/result.py documents.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from kronecker.runtime import cli

_RUNS = flags.DEFINE_list("runs", [], "Folders of runs whose input embeddings are measured too.")
_TABLES = flags.DEFINE_list("tables", [], "CHECKPOINT@TOKENIZER of each published model to measure.")
_TENSOR = flags.DEFINE_string(
    "tensor", "", "Name of the embedding tensor. Default: the first usual name that is found."
)
_POS_DIM = flags.DEFINE_integer("pos_dim", 32, "P of the codes; the paper has 32.", lower_bound=1)
_K = flags.DEFINE_integer("k", 5, "Number of neighbours of a word.", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "Also write the tables to this JSON file.")


def main(specs: Sequence[str]) -> None:
    """Prints the tables."""
    from kronecker import tokenization  # after the flags: --help should not wait for JAX
    from kronecker.probes import embeddings, subjects, survey
    from kronecker.report.pages import write_text
    from kronecker.run import result

    if not specs and not _RUNS.value and not _TABLES.value:
        raise ValueError("nothing to measure; give a tokenizer, --runs or --tables: python scripts/geometry.py gpt2")
    loaded = {spec: tokenization.load(spec) for spec in specs}
    found = [subjects.Codec(f"codec, {tokenizer.name}", tokenizer, _POS_DIM.value) for tokenizer in loaded.values()]
    for path in _RUNS.value:
        found.append(_of_run(path))
    for entry in _TABLES.value:
        checkpoint, at, spec = entry.rpartition("@")
        if not at:
            raise ValueError(f"--tables={entry}: write CHECKPOINT@TOKENIZER, for example models/gpt2@gpt2")
        matrix = embeddings.from_safetensors(checkpoint, _TENSOR.value)
        found.append(subjects.Table(Path(checkpoint).name, matrix, tokenization.load(spec)))
    if loaded:
        found.append(subjects.random(next(iter(loaded.values()))))
    results = survey.survey(found, {"P": str(_POS_DIM.value)}, _K.value)
    result.show(results)
    if _JSON.value:
        write_text(Path(_JSON.value), json.dumps([result.to_json(one) for one in results], indent=2) + "\n")


def _of_run(path: str):
    from kronecker.probes import layered, subjects
    from kronecker.training import restore

    run = restore.open_run(path)
    _, table = next(layered.spaces(run.arm, run.params, ()))
    return subjects.Table(Path(path).name, table, run.tokenizer)


if __name__ == "__main__":
    cli.run(main, positional=True)
