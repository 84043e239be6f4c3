r"""Evaluates a run's checkpoint on its held-out text or on any other, samples text
from it, or runs the paper's probes on it.

  python eval.py --workdir=runs/demo/kronecker-seed0
  python eval.py --workdir=runs/demo/kronecker-seed0 --step=50
  python eval.py --workdir=runs/demo/kronecker-seed0 \
      --prompt='def main():' --new_tokens=60 \
      --temperature=0.7 --top_p=0.9 --seed=42
  python eval.py --workdir=runs/demo/kronecker-seed0 --probes=robustness,layered
  python eval.py --workdir=runs/demo/kronecker-seed0 --data=text:letters
  python eval.py --workdir=runs/demo/kronecker-seed0 \
      --data=jsonl:manuals.jsonl.xz --text_field=text --split_field=split

The loss is over the same held-out tokens as in training (eval.sequences); bits
per byte divides it by the bytes of their text.

--data is any source that data.source may name: text:, jsonl:, parquet: with a
file, a folder or a glob, tfds:NAME, ...  All of it is evaluated, with the run's
own tokenizer; with --split_field only the documents whose field says
"validation".  The losses, also by document, go to RUN/texts/NAME.json or --out.
For all runs of a sweep:
  for run in runs/demo/*-seed*; do
    python eval.py --workdir=$run --data=text:letters; done
scripts/compare.py and report.py then also compare the runs on that text.  As in
validation, windows of train.sequence tokens do not overlap: the first token of a
window is predicted from one token.  scripts/probe.py --help lists
the probes; that script also accepts a pair of runs, and writes results to
files.
"""

from kronecker.runtime import interrupts

if __name__ == "__main__":
    interrupts.end_silently()  # during the other imports

import codecs
import re

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
_DATA = flags.DEFINE_string("data", None, "Another text to evaluate, as KIND:PATH; for example jsonl:manuals.jsonl.")
_TEXT_FIELD = flags.DEFINE_string("text_field", "text", "With --data: the field or column that holds the text.")
_SPLIT_FIELD = flags.DEFINE_string(
    "split_field", "", "With --data: the field that says train or validation; only the latter is evaluated."
)
_NAME = flags.DEFINE_string("name", None, "With --data: the text's name in tables; default: made from the source.")
_OUT = flags.DEFINE_string("out", None, "With --data: the file to write; default: RUN/texts/NAME.json.")
_PROBES = flags.DEFINE_list("probes", [], "Names of probes to run, or all; no loss is computed.")


def main() -> None:
    """Prints the loss, the prompt with its continuation, or the probes' results."""
    if not _WORKDIR.value:
        raise ValueError("--workdir is missing; for example --workdir=runs/demo/kronecker-seed0")
    given = [name for name in ("text_field", "split_field", "name", "out") if flags.FLAGS[name].present]
    if given and not _DATA.value:
        raise ValueError(f"--{given[0]} needs --data; for example --data=jsonl:manuals.jsonl")
    if _DATA.value and (_PROMPT.value is not None or _PROBES.value):
        other = "probes" if _PROBES.value else "prompt"
        raise ValueError(f"--data and --{other} cannot be given together; use one command for each")
    if _DATA.value and _STEP.value is not None and not _OUT.value:
        raise ValueError("--data with --step needs --out: the run's folder keeps losses of its last checkpoint only")
    if _NAME.value is not None and not re.fullmatch(r"[\w.+-]+", _NAME.value):
        raise ValueError(f"--name={_NAME.value}: use letters, digits, and . _ + - alone, as it becomes a file's name")
    from kronecker.training import other_text, restore  # here, so that --help and bad flags need not wait for JAX

    if _DATA.value and not _OUT.value:
        other_text.require_finished(_WORKDIR.value)
    run = restore.open_run(_WORKDIR.value, _STEP.value)
    if _PROBES.value:
        _print_probes(run)
    elif _DATA.value:
        _print_other_loss(run)
    elif _PROMPT.value is None:
        _print_loss(run)
    else:
        _print_text(run)


def _print_loss(run) -> None:
    from kronecker.training import evaluation

    evaluate = evaluation.make_evaluator(run.arm, run.config, run.params, run.prepared, run.tokenizer, run.mesh)
    numbers = evaluate(run.params)
    print(
        f"{_WORKDIR.value} step {run.step:,}: {numbers['loss']:.4f} nats/token, "
        f"{numbers['bits_per_byte']:.4f} bits/byte on {numbers['predicted_tokens']:,} held-out tokens "
        f"({numbers['text_bytes']:,} bytes)"
    )


def _print_other_loss(run) -> None:
    from kronecker.training import other_text

    data = other_text.data_of(run.config, _DATA.value, _TEXT_FIELD.value, _SPLIT_FIELD.value)
    found, path = other_text.write(_WORKDIR.value, run, data, _NAME.value or "", _OUT.value or "")
    bits = "" if found["bits_per_byte"] is None else f", {found['bits_per_byte']:.4f} bits/byte"
    size = f"{found['predicted_tokens']:,} tokens ({found['text_bytes']:,} bytes) in {found['documents']:,} documents"
    print(f"{_WORKDIR.value} step {run.step:,}: {found['loss']:.4f} nats/token{bits} on {size}; by document: {path}")


def _print_probes(run) -> None:
    from kronecker.probes import on_runs, prompts

    found = on_runs.run(_PROBES.value, {epath.Path(_WORKDIR.value).name: run}, prompts.pairs())
    on_runs.show(found)


def _print_text(run) -> None:
    from kronecker.model import sampling

    prompt = [run.tokenizer.eot_id, *run.tokenizer.encode_batch([_PROMPT.value])[0].tolist()]
    drawn = sampling.Sampler(run.arm, run.params).sample(
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
