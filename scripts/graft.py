r"""Trains a published Llama on with its own input table, and with a code of
each token's bytes in place of the table, from one start and in one order of
batches.  It prints how much of the table the fitted code does not explain, and
the losses on held-out text before and after.

  python scripts/graft.py models/SmolLM2-135M-Instruct.Q4_1.gguf \
      --config=configs/base.py --config.data.source='jsonl:texts/*.jsonl' \
      --config.train.batch=4 --config.train.sequence=128 \
      --config.train.steps=100 --config.train.lr=1e-4 --out=graft.json

MODEL is a .gguf file, whose own tokenizer is taken, or a Hugging Face folder,
whose tokenizer is --config.tokenizer.  Its text is prepared as for train.py, and
the keys of the batch, the optimizer and the evaluation are the config's.
--arms: arms with a table or a code, by their names in schema/arms.py.
kronecker/unfitted is kronecker with a random W at the scale of the fit, which
tells what the fit gives from what training does.  A GPT-2 folder needs no
script: train.py --config.checkpoint.init_from=hf:FOLDER.
"""

from kronecker.runtime import interrupts

if __name__ == "__main__":
    interrupts.end_silently()  # during the other imports

import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from kronecker.runtime import cli
from kronecker.schema import resolution

_CONFIG = config_flags.DEFINE_config_file("config", None, "The config file: data, batches, optimizer, evaluation.")
_ARMS = flags.DEFINE_list(
    "arms", ["table_untied", "kronecker", "kronecker/unfitted"], "The arms, in the order in which they are trained."
)
_OUT = flags.DEFINE_string("out", None, "Also write the numbers to this JSON file.")


def main(models: Sequence[str]) -> None:
    """Fits, trains and prints."""
    if len(models) != 1:
        raise ValueError(f"{len(models)} models; give one: python scripts/graft.py MODEL --config=configs/base.py")
    config = resolution.resolve(_CONFIG.value)
    from kronecker.data import preparation  # after the flags: --help should not wait for JAX
    from kronecker.interop import gguf_file, grafted_training, llama_weights, tensors
    from kronecker.runtime import machine, printing, storage
    from kronecker.runtime.storage import local_file, write_text

    out = _OUT.value and local_file(_OUT.value, "--out")
    facts, path = machine.facts(), Path(models[0])  # `facts` has the time and the load of the start
    original = llama_weights.read(path)
    configs = grafted_training.configs_of(config, _ARMS.value, original.shape.tie_head)
    if path.suffix == tensors.GGUF:
        file = storage.at_home(config.data.folder) / f"{path.stem}.tokenizer.json"
        write_text(file, gguf_file.tokenizer_json(path))
        config.tokenizer = f"tokenizers:{file}"
    prepared, tokenizer = preparation.ensure_prepared(config)
    found = grafted_training.train(original, configs, tokenizer.token_bytes, prepared, printing.say)
    if out:
        about = {
            "model": path.name,
            "command": facts.pop("command"),
            "data": prepared.fingerprint,
            "P": config.embedding.pos_dim,
            "batch": [config.train.batch, config.train.sequence],
            "steps": config.train.steps,
            "lr": config.train.lr,
        }
        write_text(out, json.dumps({**about, **found, "machine": facts}, indent=2) + "\n")


if __name__ == "__main__":
    cli.run(main, positional=True)
