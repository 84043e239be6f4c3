r"""Evaluates a run's checkpoint on its held-out text, lets it write, or runs the paper's probes on it.

  python eval.py --workdir=runs/demo/kronecker-seed0
  python eval.py --workdir=runs/demo/kronecker-seed0 --step=50
  python eval.py --workdir=runs/demo/kronecker-seed0 --prompt='def main():' --new_tokens=60 \
      --temperature=0.7 --top_p=0.9 --seed=42
  python eval.py --workdir=runs/demo/kronecker-seed0 --probes=robustness,layered

The loss covers every held-out token once; bits per byte divides by the bytes of the text that the tokens stand for.
scripts/probe.py --help says which probes there are; it also takes a pair of runs, and writes what they say.
"""

import codecs

from absl import flags
from etils import epath

from kronecker.runtime import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder, as given to train.py.")
_STEP = flags.DEFINE_integer("step", None, "Which checkpoint; the latest if not given.", lower_bound=0)
_PROMPT = flags.DEFINE_string("prompt", None, "Text to go on from, instead of a loss.")
_NEW_TOKENS = flags.DEFINE_integer("new_tokens", 100, "Tokens to write.", lower_bound=1)
_TEMPERATURE = flags.DEFINE_float("temperature", 0.7, "Of the softmax; 0 takes the most likely token.")
_TOP_P = flags.DEFINE_float("top_p", 0.9, "Draw from the likeliest tokens that reach this probability; 1: from all.")
_SEED = flags.DEFINE_integer("seed", 42, "Of the draws: one seed, one text.")
_PROBES = flags.DEFINE_list("probes", [], "Names of probes to run instead, or all.")


def main() -> None:
    """Prints the loss, the prompt and what the model makes of it, or what the probes say."""
    if not _WORKDIR.value:
        raise ValueError("--workdir is missing; for example --workdir=runs/demo/kronecker-seed0")
    from kronecker.training import restore  # after the flags: --help and bad flags should not wait for JAX

    run = restore.open_run(_WORKDIR.value, _STEP.value)
    if _PROBES.value:
        _print_probes(run)
    elif _PROMPT.value is None:
        _print_loss(run)
    else:
        _print_text(run)


def _print_loss(run) -> None:
    from kronecker.training import evaluation

    batches = evaluation.held_out(run.prepared, run.config, run.mesh)
    evaluate = evaluation.make_evaluator(run.arm, run.config, run.params, run.tokenizer.text_bytes, run.mesh, batches)
    numbers = evaluate(run.params)
    print(
        f"{_WORKDIR.value} step {run.step:,}: {numbers['loss']:.4f} nats/token, "
        f"{numbers['bits_per_byte']:.4f} bits/byte on {numbers['predicted_tokens']:,} held-out tokens "
        f"({numbers['text_bytes']:,} bytes)"
    )


def _print_probes(run) -> None:
    from kronecker.probes import on_runs, prompts

    found = on_runs.run(_PROBES.value, {epath.Path(_WORKDIR.value).name: run}, prompts.pairs())
    on_runs.show(found)


def _print_text(run) -> None:
    from kronecker.model import sampling

    prompt = [run.tokenizer.eot_id, *run.tokenizer.encode_batch([_PROMPT.value])[0].tolist()]
    drawn = sampling.sample(
        run.arm,
        run.params,
        prompt,
        new_tokens=_NEW_TOKENS.value,
        temperature=_TEMPERATURE.value,
        top_p=_TOP_P.value,
        seed=_SEED.value,
        stop=run.tokenizer.eot_id,
    )
    print(_PROMPT.value, end="", flush=True)
    utf8 = codecs.getincrementaldecoder("utf-8")("replace")  # a character may be spread over tokens
    for token in drawn:
        print(utf8.decode(run.tokenizer.token_bytes[token] or b""), end="", flush=True)
    print(utf8.decode(b"", final=True))


if __name__ == "__main__":
    cli.run(main)
