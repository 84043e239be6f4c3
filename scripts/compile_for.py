r"""Compiles our programs with the compiler of a GPU or TPU, on a machine without
one, and prints their memory and lower bounds on their time.

  python scripts/compile_for.py encoder --target=h100
  python scripts/compile_for.py encoder --target=v5e,v6e \
      --implementations=auto --json=compiled.json
  python scripts/compile_for.py train --config=configs/gpt2.py:size=124m \
      --arms=kronecker,table_untied --target=h100
  python scripts/compile_for.py train --target=v5e:16x16 \
      --config=configs/gpt2.py:size=1558m,arm=kronecker
  python scripts/compile_for.py train --config=configs/gpt2.py:size=124m \
      --arms=kronecker,table_untied --target=h100:8,v5p:4x4x4 \
      --config.mesh.fsdp=4 --json=compiled.json

`make gpu` (JAX's CUDA plugin with cuDNN) and `make tpu` (libtpu) install the
compilers.  Nothing is run, so the results are counts and lower bounds, not
timings.  --target=A,B names devices: a100, b200, h100, h200; v5e, v5p, v6e.
For train it may name several at once: h100:8 for GPUs of one machine, and TPU
slices such as v5e:4x4, v6e:16x16 or v5p:4x4x4.  --topology is the old name of
--target.

encoder  The input side of a model, from token ids to embeddings, on one device:
         a learned table, and every implementation of the Kronecker product.
         Each is compiled as several programs: forward (on a GPU only); forward
         and gradient; forward, gradient and AdamW update.  Parameters,
         embeddings and gradients are float32; --dtype is the type of matrix
         products' operands.  The table's lookup assumes that ids are in bounds,
         and so moves fewer bytes than flax.linen.Embed.  The table and auto,
         training's default, are always compiled, because the verdicts compare
         them; --implementations adds others.  The exit code is 1 if a verdict
         is not met.
train    The training step of a config, exactly as train.py compiles it, sharded
         by config.mesh over all devices: a device's memory and communication,
         and a lower bound on the time.  --config and --config.KEY are as for
         train.py; --arms=A,B compiles the config with each of these arms.  The
         exit code is 1 if a step does not fit the device (a line names flags
         that need less memory), if a Kronecker arm's devices send more than
         those of table_untied, or if on one GPU a Kronecker arm's temporary
         memory exceeds table_untied's by more than 20 MB.
         If the devices cannot split the config's batch, the config is changed:
         --sequences for each device, bfloat16, layers in a loop, mesh.fsdp as
         parameters and optimizer need it, and model.remat if the blocks'
         activations would fill the memory.  Keys that the command sets stay.  A
         line names the changed keys; set them for train.py too.  A slice of 256
         chips compiles for one or two minutes.

On a GPU XLA times several kernels for each product and uses the fastest.
Without one it cannot, so each program is compiled in two forms: with Triton
kernels, in XLA's default tiles, and with cuBLAS.  A real GPU chooses one of
them for each product, and better tiles.  Memory that cuDNN allocates at run
time is not counted.  JAX uses 75 % of a GPU's memory unless the environment
variable XLA_PYTHON_CLIENT_MEM_FRACTION is set.

How to read encoder's tables.
  GFLOP      On a TPU: the compiler's count, times the number of passes that a
             matrix unit needs for a product: 1 in bfloat16; in float32 3 with a
             one-hot operand and 6 without.  On a GPU: all matrix products of
             the compiled program, in all passes.
  units      The hardware that computes the products: bf16 and tf32 are tensor
             cores, f32 is CUDA cores.
  bytes      On a TPU: what all operations access, by the compiler's count.  It
             includes traffic inside the chip and the full operand of a gather,
             so it exceeds the memory's traffic; compare it between programs
             only.  On a GPU: the memory's traffic if the cache were empty
             before each kernel.  A gather reads its result's size, an update in
             place reads and writes the rows that it changes, and an array that
             fits the L2 cache is counted once.
  cached     Further bytes, served by the L2 cache, where gathers and updates
             use a small array many times.  They are counted as if every token
             had P bytes, and are not in the bound.
  bound, limit    Lower bound on the time: the longer of GFLOP at the peaks
             (compute) and bytes at the bandwidth (memory).  It leaves out
             atomic adds to the same address and kernel launches.
  temporary  Memory besides arguments and results; total is all memory that the
             program needs at once.
  dot, gather, ... custom call    Number of operations in the program, including
             those inside fusions; a kind that no program has gets no column.
  unknown    Not countable: a TPU's compiler counts a loop's body once, and on a
             GPU a loop may have unknown length.

The verdicts are meant for the default flags.  On a TPU one of them compares
FLOPs with those of a training step of GPT-2 (12 layers, sequences of T = 1,024)
with the same width, vocabulary and tokens.  kronecker/model/accounting.py
counts these, with one pass for each product:
tokens * (6 (12 layers d^2 + d V) + 12 layers T d).

How to read train's tables.
  arguments  Parameters, AdamW's moments, the arrays of the arm's code, the
             batch.  Aliased outputs use their memory.
  total      Arguments, outputs that are not aliased, temporaries and the
             program itself.
  cuDNN attention    Calls, forward + backward.  These, custom calls and
             collectives are counted in every iteration of a loop.
  loops, scatters, gathers, sorts    Number in the program.
  payload    Bytes of the full array on a device: an all-gather's result, any
             other's operand.
  sent       The least bytes that a device sends, in a ring of n: 2 (n-1)/n of
             the payload for an all-reduce, (n-1)/n for all-gather, reduce-scatter
             and all-to-all, all of it for a permute.
  model      FLOPs of a device's part of the batch by
             kronecker/model/accounting.py, attention over the
             full T x T square, although kernels may skip nearly half of it.
  executed   FLOPs.  On a TPU: model, plus the second forward pass of
             model.remat.  On a GPU: those counted in the compiled program, with
             the five products of attention's backward pass.
  compute    Time to execute these FLOPs at the peaks.
  memory     On a TPU without loops: the time of the compiler's bytes at the
             memory's bandwidth.  Otherwise: the time to read the arguments and
             write the outputs.
  links      Time to send the sent bytes over all links of a device at once; a
             mesh may leave some idle.
  uncached   On a GPU: the time of all bytes at the memory's bandwidth, if the
             cache were empty before each kernel.  This is an estimate, not a
             bound.
  time at least    The longest of compute, memory and links (limit), as if they
             overlapped perfectly.  MFU and tokens per second follow from it.
Peaks are in kronecker/runtime/hardware.py, other numbers in
kronecker/cross_compile/targets.py and gpus/.
"""

from kronecker.runtime import interrupts

if __name__ == "__main__":
    interrupts.end_silently()  # during the other imports

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
    "target", None, "Devices: a100, b200, h100, h200, v5e, v5p, v6e; train also accepts h100:8, v5e:16x16, ..."
)
flags.DEFINE_alias("topology", "target")
_IMPLEMENTATIONS = flags.DEFINE_list(
    "implementations",
    "auto,cached,onthefly,bag,gather,onehot,induced",
    "encoder: implementations of the product to compile.",
)
_TOKENS = flags.DEFINE_integer("tokens", 16384, "encoder: N, tokens in a batch.", lower_bound=1)
_WIDTH = flags.DEFINE_integer("d_model", 768, "encoder: d, the model's width.", lower_bound=1)
_VOCAB = flags.DEFINE_integer("vocab", 50304, "encoder: V, vocabulary size with padding.", lower_bound=1)
_POS_DIM = flags.DEFINE_integer("pos_dim", 16, "encoder: P, byte positions of a token.", lower_bound=1)
_TOKENIZER = flags.DEFINE_string(
    "tokenizer", "gpt2", "encoder: tokenizer; token lengths determine the layout of induced."
)
_DTYPE = flags.DEFINE_enum(
    "dtype", "bfloat16", ["float32", "bfloat16"], "encoder: type of the operands of matrix products."
)
_CACHE_LIMIT = flags.DEFINE_float("cache_limit_mb", 1024.0, "encoder: limit for cached codes, MB.", 0.0)
_CONFIG = config_flags.DEFINE_config_file("config", None, "train: the config file, as for train.py.")
_ARMS = flags.DEFINE_list("arms", None, "train: arms of kronecker/schema/arms.py; default: the config's.")
_SEQUENCES = flags.DEFINE_integer("sequences", 4, "train: sequences per device, if the config is for one device.", 1)
_JSON = flags.DEFINE_string("json", None, "Write all numbers to this JSON file too.")
_OWN = {
    "encoder": ("implementations", "tokens", "d_model", "vocab", "pos_dim", "tokenizer", "dtype", "cache_limit_mb"),
    "train": ("config", "arms", "sequences"),
}

ROOT = Path(__file__).parents[1]


def main(words: Sequence[str]) -> int:
    """Compiles, prints, and returns the exit code."""
    commands = {"encoder": _encoder, "train": _train}
    if len(words) != 1 or words[0] not in commands:
        raise ValueError(
            f"name what to compile: {' or '.join(commands)}; got {repr(' '.join(words)) if words else 'none'}"
        )
    for command, names in _OWN.items():
        wrong = next((name for name in names if command != words[0] and flags.FLAGS[name].present), None)
        if wrong:
            raise ValueError(f"--{wrong} is a flag of `compile_for.py {command}`, not of {words[0]}; leave it out")
    from kronecker.runtime.storage import local_file, write_text

    json_file = _JSON.value and local_file(_JSON.value, "--json")  # before minutes of compiling
    written, results = commands[words[0]]()
    if json_file:
        write_text(json_file, json.dumps(written, indent=1) + "\n")
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
    """Returns the configs to compile by label; raises ValueError for a key of the command that an arm overwrites."""
    if _ARMS.value is None:
        return {_CONFIG.value.embedding.arm: _CONFIG.value}
    names = _known("arms", _ARMS.value, ARMS)
    lost = next((key for name in names for key in ARMS[name].overrides if key in own), None)
    if lost:
        raise ValueError(f"--config.{lost}: --arms sets this key too; leave one of the two out")
    return {name: _with(_CONFIG.value, ARMS[name].overrides) for name in names}


def _with(c: ml_collections.ConfigDict, values: dict[str, Any]) -> ml_collections.ConfigDict:
    c = c.copy_and_resolve_references()
    c.update_from_flattened_dict(values)
    return c


def _known(flag: str, names: Sequence[str], allowed: Iterable[str]) -> list[str]:
    """Returns `names` without duplicates; raises ValueError if one is not allowed, or there are none."""
    wrong = [name for name in names if name not in allowed]
    if wrong or not names:
        found = f"unknown {wrong[0]!r}" if wrong else "empty"
        raise ValueError(f"--{flag}={','.join(names)}: {found}; allowed: {', '.join(allowed)}")
    return list(dict.fromkeys(names))


def _gpt2() -> ml_collections.ConfigDict:
    """Returns GPT-2's config of 124M with the width, type and vocabulary of the flags."""
    c = config_files.load(f"{ROOT / 'configs' / 'gpt2.py'}:size=124m,arm=kronecker,budget=paper")
    c = resolution.resolve(c)
    c.model.d_model, c.model.dtype = _WIDTH.value, _DTYPE.value
    c.model.vocab_size = c.model.padded_vocab = _VOCAB.value
    return c


if __name__ == "__main__":
    cli.run(main, positional=True, needs_config=False)
