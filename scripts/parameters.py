"""Prints the number of parameters of every size and arm, by group, counted on the
model itself.

  python scripts/parameters.py
  python scripts/parameters.py --vocab_size=131072 --pos_dim=32
  python scripts/parameters.py --tokenizer=gpt2

With --tokenizer it prints, for each arm with a table or a code, the rows in use of
its vocabulary, the effective rank of the code, and how far a step of Adam moves an
embedding.

A table that is also the head (a tied one) counts as input.
"""

from kronecker.runtime import interrupts

if __name__ == "__main__":
    interrupts.end_silently()  # during the other imports

import functools
import types
from pathlib import Path

from absl import flags

from kronecker.runtime import cli, printing
from kronecker.schema import config_files, resolution
from kronecker.schema.arms import ARMS

_VOCAB = flags.DEFINE_integer("vocab_size", 50257, "Number of the tokenizer's ids; the model pads it.", 1, 2**24)
_POS_DIM = flags.DEFINE_integer("pos_dim", 16, "P, the number of byte positions of a Kronecker code.", 1, 4096)
_TOKENIZER = flags.DEFINE_string("tokenizer", None, "A tokenizer, as the config key: print what its vocabulary uses.")

GPT2 = Path(__file__).parents[1] / "configs" / "gpt2.py"
GROUPS = ("input", "body", "head", "total")


def main() -> None:
    """Prints the table."""
    if _TOKENIZER.value:
        from kronecker import tokenization
        from kronecker.probes import input_use
        from kronecker.run import result

        result.show([input_use.measure(tokenization.load(_TOKENIZER.value), _POS_DIM.value)])
        return
    rows = []
    for size in _gpt2().sizes.SIZES:
        for arm in ARMS:
            counts = count(size, arm)
            rows.append((size, arm, *(f"{counts[group]:,}" for group in GROUPS)))
        rows.append(())
    printing.show(printing.Table(("size", "arm", *GROUPS), rows, ("size", "arm")))


def count(size: str, arm: str) -> dict[str, int]:
    """Returns the parameters of a size with an arm, by group, for the vocabulary and P of the flags."""
    import jax  # after the flags: --help should not wait for it

    from kronecker.model import accounting, build
    from kronecker.training import train_step

    c = _gpt2().get_config(f"size={size},arm={arm}")
    c.embedding.pos_dim = _POS_DIM.value
    c.model.scan_layers = True  # as many parameters, and one layer to trace
    c = resolution.with_vocabulary(resolution.resolve(c), _VOCAB.value)
    built = build.build(c, [b""] * _VOCAB.value)
    state = jax.eval_shape(lambda: train_step.init_state(built.model, built.bag, c))
    return accounting.count(state.params)


@functools.cache
def _gpt2() -> types.ModuleType:
    return config_files.load_module(str(GPT2))


if __name__ == "__main__":
    cli.run(main)
