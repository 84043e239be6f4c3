r"""Compiles our programs with the real compiler of a GPU or a TPU, on a machine without one, and prints what comes out.

  python scripts/compile_for.py encoder --target=h100
  python scripts/compile_for.py encoder --target=v5e,v6e --implementations=auto --json=compiled.json
  python scripts/compile_for.py train --config=configs/gpt2.py:size=124m --arms=kronecker,table_untied --target=h100
  python scripts/compile_for.py train --config=configs/gpt2.py:size=1558m,arm=kronecker --target=v5e:16x16
  python scripts/compile_for.py train --config=configs/gpt2.py:size=124m --arms=kronecker,table_untied \
      --target=h100:8,v5p:4x4x4 --config.mesh.fsdp=4 --json=compiled.json

`make gpu` and `make tpu` install the compilers first: JAX's CUDA plugin with cuDNN, and libtpu.  Nothing is run: these
are counts, not timings.  --target is one device (a100, b200, h100, h200; v5e, v5p, v6e) or, for train, several: h100:8
for GPUs of one machine, a slice as the TPU's compiler names it: v5e:4x4, v6e:16x16, v5p:4x4x4, ...  --topology is an
older spelling of it.

encoder  The input side of a model on one device: every implementation of the product, as `auto` would prepare it there,
         and a learned table, each as programs: forward (on a GPU alone); forward and gradient; these and the AdamW
         update that training does.  Parameters, embeddings and gradients are float32; --dtype is of the operands of
         matrix products.  The table's lookup takes its ids to be in bounds: its bytes are below those of
         flax.linen.Embed.  auto's choice and the table are always compiled, for the verdicts are about them;
         --implementations says what stands beside them.  The exit code is 1 if auto's choice fails a verdict.
train    The training step of a config, the very one that train.py compiles, sharded by config.mesh over all devices:
         what a device's memory holds, what the devices exchange, and the time that a step takes at least.  --config and
         --config.KEY are train.py's.  --arms compiles the same config with each of these arms.  The exit code is 1 if a
         step does not fit its device, and then a line says what to set; if a Kronecker arm's devices send more than
         those of table_untied, where both are asked for; or if on one GPU its temporaries exceed the table's by more
         than 20 MB.
         A config whose batch the devices cannot split, as configs/gpt2.py's of 8 sequences over 256, is for one device.
         It gets values for several for what the command does not set, and a line says which; give them to train.py too:
         --sequences a device, bfloat16, layers in a loop, mesh.fsdp as far as parameters and optimizer need it, and
         model.remat where the blocks' values would fill the memory.  A slice of 256 chips takes a minute or two.

On a GPU each program is compiled in two forms, as no GPU is there to time which is faster for a product: Triton, with
the tiles that XLA falls back to, and cuBLAS.  A real GPU chooses product by product, so it lies between the two, and
its tiles are better.  Memory that cuDNN asks for while it runs is not counted, and JAX takes 75 % of a GPU's memory
unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.

How to read encoder.
  GFLOP      on a TPU the compiler's count times the passes that the matrix units make over a product to reach its
             precision: 1 in bfloat16; in float32 3 with a one-hot operand and 6 without.  On a GPU those of all
             matrix products in the compiled program, with every pass.
  units      that make them: bf16 and tf32 are tensor cores, f32 is CUDA cores.
  bytes      on a TPU what all operations access, by the compiler's count, which includes traffic inside the chip and
             the whole operand of a gather: comparable between programs, and above what the chip's memory moves.  On a
             GPU what the memory moves if nothing stays in the cache between two kernels: a look-up reads what it gives,
             an update in place what it changes, and an array that fits the L2 cache is counted once.
  cached     bytes that the cache serves beside them, where look-ups and updates touch a small array many times, as if
             each of the P places of each token were in use.  They are not in the bound.
  temporary  memory beside arguments (in) and results (out); total is all that has to be there at once.
  convolution, dot, ... while, fusion    operations in the program, those inside fusions included.
  bound      the longer of GFLOP at the device's peaks and bytes at its bandwidth; `by` says which of the two it is.  It
             knows nothing of atomic adds to one place and of the time to launch a kernel.
  in loops   numbers that say nothing: a TPU's compiler counts a loop's body once, and a GPU's loop may be of a length
             that the program does not tell.

The verdicts are set for the defaults.  On a TPU the training step is GPT-2's of 124M, at this width and vocabulary, on
as many tokens in sequences of 1,024; its FLOPs are tokens * (6 (12 layers d^2 + d V) + 12 layers T d), the project's
own count (kronecker/model/accounting.py), in one pass.

How to read train.
  arguments  parameters, AdamW's moments, the arm's bag and the batch; outputs that are aliased take their place.
  cuDNN attention, custom calls, collectives    that run in a step, each as often as the loop around it goes round.
  loops, scatters, gathers, sorts               that stand in the program.
  payload    bytes of a device's array where it is whole: before a reduction, after a gathering.
  sent       bytes that a device sends at least, as around a ring of n: 2 (n-1)/n of the payload for an all-reduce,
             (n-1)/n for all-gather, reduce-scatter and all-to-all, all of it for a permute.
  model, done    FLOPs of a device's share by the project's own count, attention over the whole T x T square, of which
             kernels may leave out nearly half.  done: what is executed.  On a TPU, model and the second forward
             pass of model.remat; on a GPU, as counted in the compiled program, with the five products of attention's
             backward pass.
  compute    done at the peaks.
  uncached   on a GPU the bytes as above, loops counted, at the memory's bandwidth: an estimate, and no bound, as
             kernels find in the cache much of what the ones before have left.
  memory     on a TPU the compiler's bytes at the memory's bandwidth; on a GPU, and on a TPU where there are loops,
             whose bodies it counts once, only what every step must: read the arguments and write the outputs.
  links      sent at what all links of a device can send at once: no step is faster, and a mesh that leaves links idle
             is slower.
  bound      the longest of compute, memory and links, as if they overlapped perfectly; MFU is model over peak then.
Peaks stand in kronecker/runtime/hardware.py, the rest in kronecker/cross_compile/targets.py and gpus/.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import rich.console
from absl import flags
from ml_collections import config_flags

from kronecker import cross_compile
from kronecker.cross_compile import compilers
from kronecker.runtime import cli
from kronecker.schema import choices, config_files, resolution
from kronecker.schema.arms import ARMS

_TARGET = flags.DEFINE_list(
    "target", None, "What to compile for: a100, b200, h100, h200, v5e, v5p, v6e; for train also h100:8, v5e:16x16, ..."
)
flags.DEFINE_alias("topology", "target")
_IMPLEMENTATIONS = flags.DEFINE_list(
    "implementations", "auto,cached,onthefly,bag,gather,onehot,induced", "encoder: beside the table, with commas."
)
_TOKENS = flags.DEFINE_integer("tokens", 16384, "encoder: tokens that a device embeds at a time.", lower_bound=1)
_WIDTH = flags.DEFINE_integer("d_model", 768, "encoder: d.", lower_bound=1)
_VOCAB = flags.DEFINE_integer("vocab", 50304, "encoder: V, padding included.", lower_bound=1)
_POS_DIM = flags.DEFINE_integer("pos_dim", 16, "encoder: P, the byte positions kept of a token.", lower_bound=1)
_TOKENIZER = flags.DEFINE_string("tokenizer", "gpt2", "encoder: whose tokens; their lengths lay out `induced`.")
_DTYPE = flags.DEFINE_enum("dtype", "bfloat16", ["float32", "bfloat16"], "encoder: operands of matrix products.")
_CACHE_LIMIT = flags.DEFINE_float("cache_limit_mb", 1024.0, "encoder: the most that cached codes may take.", 0.0)
_CONFIG = config_flags.DEFINE_config_file("config", None, "train: the config file, as train.py takes it.")
_ARMS = flags.DEFINE_list("arms", None, "train: arms of kronecker/schema/arms.py; default: the config's own.")
_SEQUENCES = flags.DEFINE_integer("sequences", 4, "train: of a device, where the config is for one device.", 1)
_JSON = flags.DEFINE_string("json", None, "Also write every number to this file.")
_OWN = {
    "encoder": ("implementations", "tokens", "d_model", "vocab", "pos_dim", "tokenizer", "dtype", "cache_limit_mb"),
    "train": ("config", "arms", "sequences"),
}

ROOT = Path(__file__).parents[1]


def main(words: Sequence[str]) -> int:
    """Compiles, prints, and returns the exit code."""
    commands = {"encoder": _encoder, "train": _train}
    if len(words) != 1 or words[0] not in commands:
        raise ValueError(f"say what to compile: {' or '.join(commands)}, got {' '.join(words) or 'nothing'!r}")
    for command, names in _OWN.items():
        wrong = next((name for name in names if command != words[0] and flags.FLAGS[name].present), None)
        if wrong:
            raise ValueError(f"--{wrong} belongs to `compile_for.py {command}`, not to {words[0]}")
    if _JSON.value and not Path(_JSON.value).parent.is_dir():  # minutes before it would be written
        raise ValueError(f"--json={_JSON.value}: there is no folder {Path(_JSON.value).parent}")
    written, results = commands[words[0]]()
    if _JSON.value:
        from kronecker.report.pages import write_text

        write_text(Path(_JSON.value), json.dumps(written, indent=1) + "\n")
    return 0 if all(verdict["met"] for result in results for verdict in result["verdicts"]) else 1


def _encoder() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    wanted = _known("target", _asked("h100"), (*cross_compile.GPUS, *cross_compile.TOPOLOGIES))
    names = _known("implementations", _IMPLEMENTATIONS.value, (choices.AUTO, *choices.IMPLEMENTATIONS))

    from kronecker import tokenization  # after the flags: --help should not wait for JAX
    from kronecker.cross_compile import input_programs, input_tables, record, targets

    token_bytes = tokenization.load(_TOKENIZER.value).token_bytes
    setting = input_programs.Setting.of(token_bytes, _POS_DIM.value, _VOCAB.value, _TOKENS.value, _gpt2())
    rows = input_programs.rows(name for name in names if name != choices.AUTO)
    results = []
    for name in wanted:
        with rich.console.Console(stderr=True).status("loading the compiler") as status:
            target = targets.target(name)
            results.append(record.encoder_on(target, setting, rows, _CACHE_LIMIT.value, status.update))
        input_tables.show(results[-1])
    return record.to_json(setting, _TOKENIZER.value, results), results


def _train() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    if _CONFIG.value is None:
        raise ValueError("--config is missing; for example --config=configs/gpt2.py:size=124m,arm=kronecker")
    wanted = _asked("h100 or --target=v5e:16x16")
    for name in wanted:
        cross_compile.parse(name)
    own = config_flags.get_override_values(flags.FLAGS["config"])
    arms = _arms(own)
    for c in arms.values():
        resolution.resolve(c)

    from kronecker import tokenization  # after the flags: --help should not wait for JAX
    from kronecker.cross_compile import record, step_tables, targets, training_step

    tokenizer = tokenization.load(_CONFIG.value.tokenizer)
    results = []
    for name in wanted:
        target = targets.target(name)
        changes = training_step.for_devices(_CONFIG.value, own, target, tokenizer.vocab_size, _SEQUENCES.value)
        fitted = {arm: _with(c, changes) for arm, c in arms.items()}
        result = record.devices_of(target, name, next(iter(fitted.values())), changes)
        step_tables.show_target(result)
        with rich.console.Console(stderr=True).status("loading the compiler") as status:
            results.append(result | record.train_on(target, fitted, tokenizer, status.update))
        step_tables.show(results[-1])
    return {"made": record.made(), "targets": results}, results


def _asked(example: str) -> list[str]:
    if _TARGET.value is None:
        raise ValueError(f"--target is missing; for example --target={example}")
    compilers.reveal_cuda()  # before anything imports JAX
    return _TARGET.value


def _arms(own: dict[str, Any]) -> dict[str, ml_collections.ConfigDict]:
    """Returns the configs to compile, by their labels; refuses a key that an arm would overwrite."""
    if _ARMS.value is None:
        return {_CONFIG.value.embedding.arm: _CONFIG.value}
    names = _known("arms", _ARMS.value, ARMS)
    lost = next((key for name in names for key in ARMS[name].overrides if key in own), None)
    if lost:
        raise ValueError(f"--config.{lost}: each of --arms sets it; leave one of the two out")
    return {name: _with(_CONFIG.value, ARMS[name].overrides) for name in names}


def _with(c: ml_collections.ConfigDict, values: dict[str, Any]) -> ml_collections.ConfigDict:
    c = c.copy_and_resolve_references()
    c.update_from_flattened_dict(values)
    return c


def _known(flag: str, names: Sequence[str], allowed: Iterable[str]) -> list[str]:
    """Returns `names`, each once; raises a ValueError that lists the allowed ones if there are others, or none."""
    wrong = [name for name in names if name not in allowed]
    if wrong or not names:
        found = f"there is no {wrong[0]} here" if wrong else "it names none"
        raise ValueError(f"--{flag}={','.join(names)}: {found}; allowed: {', '.join(allowed)}")
    return list(dict.fromkeys(names))


def _gpt2() -> ml_collections.ConfigDict:
    """Returns GPT-2's config of 124M with this run's width, type and vocabulary."""
    c = config_files.load(f"{ROOT / 'configs' / 'gpt2.py'}:size=124m,arm=kronecker,budget=paper")
    c = resolution.resolve(c)
    c.model.d_model, c.model.dtype = _WIDTH.value, _DTYPE.value
    c.model.vocab_size = c.model.padded_vocab = _VOCAB.value
    return c


if __name__ == "__main__":
    cli.run(main, positional=True, needs_config=False)
