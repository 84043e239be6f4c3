r"""Compiles our programs with the real TPU compiler, on a machine without a TPU, and prints what the compiler says.

  python scripts/compile_for_tpu.py encoder
  python scripts/compile_for_tpu.py encoder --topology=v5e --implementations=auto --json=compiled.json

`make tpu` installs the compiler, libtpu, first.  Nothing is run: these are the compiler's counts, not timings.

encoder  The input side of a model on one chip: every implementation of the product, as `auto` would prepare it for TPU,
         and a learned table, each as two programs: forward and gradient; these and the AdamW update that training
         does.  Parameters, embeddings and gradients are float32; --dtype is of the operands of matrix products.  The
         table's lookup takes its ids to be in bounds: its bytes are below those of flax.linen.Embed.  auto's choice and
         the table are always compiled, for the targets are about them; --implementations says what stands beside them.
         The exit code is 1 if auto's choice misses a target.

How to read it.
  GFLOP      the compiler's count times the passes that the matrix units make over a product to reach its precision: 1
             in bfloat16; in float32 3 with a one-hot operand and 6 without.
  bytes      what all operations access, by the compiler's count, which includes traffic inside the chip and the whole
             operand of a gather: comparable between programs, and above what the chip's memory moves.
  temporary  memory beside arguments (in) and results (out).
  convolution, dot, ... while, fusion    operations in the program, those inside fusions included.
  bound      the longer of GFLOP at the chip's peak and bytes at its bandwidth; `by` says which of the two it is.
  in loops   a loop's body is counted once, however often it runs: such numbers are in the JSON but say nothing.

The targets are set for the defaults.  The training step is GPT-2's of 124M, at this width and vocabulary, on as many
tokens in sequences of 1,024; its FLOPs are tokens * (6 (12 layers d^2 + d V) + 12 layers T d), the project's own count
(kronecker/training/throughput.py), in one pass.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import ml_collections
import rich.console
from absl import flags

from kronecker import cli, config, tpu

_TOPOLOGY = flags.DEFINE_list("topology", "v5e,v6e", "Chips to compile for: v5e, v6e.")
_IMPLEMENTATIONS = flags.DEFINE_list(
    "implementations", "auto,cached,onthefly,bag,onehot,induced", "encoder: beside the table, with commas."
)
_TOKENS = flags.DEFINE_integer("tokens", 16384, "encoder: tokens a chip embeds at a time.", lower_bound=1)
_WIDTH = flags.DEFINE_integer("d_model", 768, "encoder: d.", lower_bound=1)
_VOCAB = flags.DEFINE_integer("vocab", 50304, "encoder: V, padding included.", lower_bound=1)
_POS_DIM = flags.DEFINE_integer("pos_dim", 16, "encoder: P, the byte positions kept of a token.", lower_bound=1)
_TOKENIZER = flags.DEFINE_string("tokenizer", "gpt2", "encoder: whose tokens; their lengths lay out `induced`.")
_DTYPE = flags.DEFINE_enum("dtype", "bfloat16", ["float32", "bfloat16"], "Operands of matrix products.")
_CACHE_LIMIT = flags.DEFINE_float("cache_limit_mb", 1024.0, "encoder: the most that cached codes may take.", 0.0)
_JSON = flags.DEFINE_string("json", None, "Also write every number to this file.")

ROOT = Path(__file__).parents[1]


def main(words: Sequence[str]) -> int:
    """Compiles, prints, and returns the exit code."""
    commands = {"encoder": _encoder}
    if len(words) != 1 or words[0] not in commands:
        raise ValueError(f"say what to compile: {' or '.join(commands)}, got {' '.join(words) or 'nothing'!r}")
    return commands[words[0]]()


def _encoder() -> int:
    topologies = _known("topology", _TOPOLOGY.value, tpu.TOPOLOGIES)
    names = _known("implementations", _IMPLEMENTATIONS.value, config.ALLOWED["embedding.implementation"])
    if _JSON.value and not Path(_JSON.value).parent.is_dir():  # minutes before it would be written
        raise ValueError(f"--json={_JSON.value}: there is no folder {Path(_JSON.value).parent}")

    from kronecker import codec, implementations, tokenizers  # after the flags: --help should not wait for JAX
    from kronecker.report.page import write_text
    from kronecker.tpu import chips, encoder, report, tables

    token_bytes = tokenizers.load(_TOKENIZER.value).token_bytes
    setting = encoder.Setting(codec.byte_table(token_bytes, _POS_DIM.value, _VOCAB.value), _TOKENS.value, _config())
    names = list(dict.fromkeys([setting.auto, *(name for name in names if name != implementations.AUTO)]))
    results = []
    for name in topologies:
        with rich.console.Console(stderr=True).status("loading the compiler") as status:
            results.append(report.encoder_on(chips.chip(name), setting, names, _CACHE_LIMIT.value, status.update))
        tables.show(results[-1])
    if _JSON.value:
        write_text(Path(_JSON.value), json.dumps(report.to_json(setting, _TOKENIZER.value, results), indent=1) + "\n")
    return 0 if all(verdict["met"] for result in results for verdict in result["verdicts"]) else 1


def _known(flag: str, names: Sequence[str], allowed: Iterable[str]) -> list[str]:
    """Returns `names`, each once; raises a ValueError that lists the allowed ones if there are others, or none."""
    wrong = [name for name in names if name not in allowed]
    if wrong or not names:
        found = f"there is no {wrong[0]} here" if wrong else "it names none"
        raise ValueError(f"--{flag}={','.join(names)}: {found}; allowed: {', '.join(allowed)}")
    return list(dict.fromkeys(names))


def _config() -> ml_collections.ConfigDict:
    """Returns GPT-2's config of 124M with this run's width, type and vocabulary."""
    c = config.load(f"{ROOT / 'configs' / 'gpt2.py'}:size=124m,arm=kronecker,budget=paper")
    c = config.resolve(c)
    c.model.d_model, c.model.dtype = _WIDTH.value, _DTYPE.value
    c.model.vocab_size = c.model.padded_vocab = _VOCAB.value
    return c


if __name__ == "__main__":
    cli.run(main, positional=True)
