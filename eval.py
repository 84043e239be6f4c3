r"""Evaluates a run's checkpoint on its held-out text, samples text from it, or runs
the paper's probes on it.

  python eval.py --workdir=runs/demo/kronecker-seed0
  python eval.py --workdir=runs/demo/kronecker-seed0 --step=50
  python eval.py --workdir=runs/demo/kronecker-seed0 \
      --prompt='def main():' --new_tokens=60 \
      --temperature=0.7 --top_p=0.9 --seed=42
  python eval.py --workdir=runs/demo/kronecker-seed0 --probes=robustness,layered

The loss is over the same held-out tokens as in training (eval.sequences); bits
per byte divides it by the bytes of their text.  scripts/probe.py --help lists
the probes; that script also accepts a pair of runs, and writes results to
files.
"""

import codecs

from absl import flags
from etils import epath

from kronecker.runtime import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder, as given to train.py.")
_STEP = flags.DEFINE_integer("step", None, "The checkpoint's step; default: the latest.", lower_bound=0)
_PROMPT = flags.DEFINE_string("prompt", None, "Text to continue; no loss is computed.")
_NEW_TOKENS = flags.DEFINE_integer("new_tokens", 100, "Number of tokens to sample.", lower_bound=1)
_TEMPERATURE = flags.DEFINE_float("temperature", 0.7, "Softmax temperature; 0 always picks the most likely token.")
_TOP_P = flags.DEFINE_float(
    "top_p", 0.9, "Sample from the most likely tokens that together reach this probability; 1: from all."
)
_SEED = flags.DEFINE_integer("seed", 42, "Random seed of the sampling.")
_PROBES = flags.DEFINE_list("probes", [], "Names of probes to run, or all; no loss is computed.")


def main() -> None:
    """Prints the loss, the prompt with its continuation, or the probes' results."""
    if not _WORKDIR.value:
        raise ValueError("--workdir is missing; for example --workdir=runs/demo/kronecker-seed0")
    from kronecker.training import restore  # here, so that --help and bad flags need not wait for JAX

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
    text = run.tokenizer.text_bytes, run.prepared.text_share("validation")
    evaluate = evaluation.make_evaluator(run.arm, run.config, run.params, *text, run.mesh, batches)
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
    utf8 = codecs.getincrementaldecoder("utf-8")("replace")  # one character may span several tokens
    for token in drawn:
        print(utf8.decode(run.tokenizer.token_bytes[token] or b""), end="", flush=True)
    print(utf8.decode(b"", final=True))


if __name__ == "__main__":
    cli.run(main)
