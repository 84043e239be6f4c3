r"""Writes a run as a Hugging Face folder that opens as a plain GPT-2.

  python scripts/export_hf.py --workdir=runs/demo/kronecker-seed0 --out=runs/hf
  python scripts/export_hf.py --workdir=runs/demo/kronecker-seed0 --out=runs/hf \
      --step=50 --dtype=bfloat16
  python scripts/export_hf.py --workdir=runs/demo/kronecker-seed0 --out=runs/hf \
      --push_to_hub=OWNER/NAME

The folder holds config.json, model.safetensors, generation_config.json, the
tokenizer's files, and a model card, README.md, with the run's numbers.  The
input embedding of every arm becomes a table, and padded ids are left out.
transformers, CTranslate2, ONNX exporters, llama.cpp's converters and
lm-evaluation-harness open it as GPT-2; docs/export.md shows how.

A tokenizer that tokenizer.json cannot express is named in one line, and the
rest is written.  The folder appears whole; an earlier export in it is replaced,
and anything else there is refused.  float32 keeps the logits; bfloat16 and
float16 halve the file and change them in the second or third digit.

--push_to_hub uploads the folder with huggingface_hub, which takes the token
from `hf auth login` or HF_TOKEN; a new repository is private.
"""

from kronecker.runtime import interrupts

if __name__ == "__main__":
    interrupts.end_silently()  # during the other imports

from absl import flags

from kronecker.runtime import cli
from kronecker.schema import choices

_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder, as given to train.py.")
_OUT = flags.DEFINE_string("out", None, "The folder to write: new, empty, or an earlier export.")
_STEP = flags.DEFINE_integer("step", None, "The checkpoint's step; default: the latest.", lower_bound=0)
_DTYPE = flags.DEFINE_enum("dtype", None, choices.EXPORT_DTYPES, "Type of the weights; default: model.param_dtype.")
_PUSH = flags.DEFINE_string("push_to_hub", None, "OWNER/NAME of a model repository on the hub, made if missing.")


def main() -> None:
    """Writes the folder, and uploads it if asked."""
    for flag in (_WORKDIR, _OUT):
        if not flag.value:
            example = "--workdir=runs/demo/kronecker-seed0 --out=runs/hf"
            raise ValueError(f"--{flag.name} is missing; for example {example}")
    from kronecker.interop import export  # here, so that --help and bad flags need not wait for JAX
    from kronecker.runtime import printing
    from kronecker.training import restore

    out = export.check_target(_OUT.value)
    run = restore.open_run(_WORKDIR.value, _STEP.value)
    for line in export.write(run, _WORKDIR.value, out, _DTYPE.value):
        printing.say(line)
    print(f"{out}: {_WORKDIR.value} step {run.step:,} as GPT-2")
    if _PUSH.value:
        print(export.push(out, _PUSH.value))


if __name__ == "__main__":
    cli.run(main)
