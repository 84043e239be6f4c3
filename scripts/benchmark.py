r"""Times the input side of a model, or whole training steps, on token ids of real
text.

  python scripts/benchmark.py encoder
  python scripts/benchmark.py step --size=micro
  python scripts/benchmark.py train --sizes=micro,124m
  python scripts/benchmark.py runtime
  python scripts/benchmark.py runs -- --config=configs/study.py

encoder  The input side alone, from token ids to embeddings: forward; forward
         and gradient; forward, gradient and AdamW update.  The contenders are
         every implementation of the Kronecker product, flax.linen.Embed (table)
         and the paper author's package (reference; `make reference` installs
         it).  A setting has the keys tokens (in a batch), d (width), P (byte
         positions), tokenizer, V (vocabulary size with padding) and only
         (contenders, joined by +).  It takes one to two minutes:

           python scripts/benchmark.py encoder --setting=tokens=8192,d=768,P=16
           python scripts/benchmark.py encoder --rounds=20 \
               --setting=tokens=65536,d=256,tokenizer=bpe:8192,only=bag+table \
               --data='jsonl:texts/*.jsonl.xz'

step     The training step of every arm of kronecker/schema/arms.py, at one size
         of configs/sizes.py:

           python scripts/benchmark.py step --size=124m --batch=16 \
               --sequence=1024 --dtype=bfloat16

         --implementations=A,B times each arm that has a code once with each
         implementation, and prints the size of its buffers.  The cached codes
         of 131,072 ids at P = 32 take 4.3 GB in float32, 2.1 GB in bfloat16:

           python scripts/benchmark.py step --size=nano --pos_dim=32 \
               --arms=table_untied,kronecker --tokenizer=bpe:131072 \
               --implementations=auto,onthefly,cached --cache_limit_mb=5000

train    Tokens per second and MFU of train.py's training steps, by size.  MFU
         is the share of the device's peak FLOP/s; it is "unknown" where
         kronecker/runtime/hardware.py has no peak.  --against adds the same
         GPT-2 in PyTorch (`make reference` installs it), in float32 on CPU,
         from the same weights; the first losses of both must agree.  Each
         contender then has its own process and its own copy of the model in
         memory.  torch is PyTorch with its defaults.  torch_tuned adds AdamW's
         fused kernel and train.py's allocator settings.  torch_compiled adds
         torch.compile to these, which needs a C++ compiler and compiles for one
         or two minutes:

           python scripts/benchmark.py train --sizes=micro \
               --against=torch,torch_tuned,torch_compiled
           python scripts/benchmark.py train --sizes=124m --arms=table_untied \
               --against=torch --rounds=6

runtime  Size of the buffers and time of a training step at size nano, with
         P = 32 and a vocabulary padded to 131,072 ids, of a table and of three
         implementations: the paper's two, cached (all codes in memory) and
         onthefly (none), and our default, auto.  Takes three minutes.

runs     Runs that train.py finishes an hour on this machine's cores: one at a
         time, with a simulated device a core; as many at a time as there are
         cores, each with one; and what is between.  The words after -- are
         train.py's arguments, without --workdir.  A round trains one run for
         each core in each way, and there are a warm-up and five rounds, so give
         few tokens:

           python scripts/benchmark.py runs -- --config=configs/study.py \
               --config.train.tokens=200000

encoder, step and train write every sample to a JSON file and a figure with the
same name; runtime and runs write their tables.

How to read the tables.
  ms         Median over rounds, with the 10 % and 90 % quantiles.  A round runs
             every contender once, in a new random order, so other load on the
             machine affects all of them.
  rounds     Number of rounds in which a contender was timed.  Slow ones run in
             fewer.  For encoder three numbers, one for each time.
  A / B      Ratio in the same round: its median over rounds, and its
             quartiles.  A verdict's first number is the ratio of the two
             medians.
  share of the memory bandwidth   Lower bound on memory traffic (inputs read
             once, outputs written once) divided by the time, relative to the
             bandwidth of a += 2 b on large arrays, which is timed in the same
             rounds.  It can exceed 100 % where arrays fit into caches.
  temporary  Memory that an update needs besides arguments and results, as the
             compiler reports it.  For the contender reference: how much its
             process grows.
  memory     What a training step needs: parameters, optimizer state, buffers,
             batch and temporary memory.
  buffers    An arm's constant arrays, such as the bytes of each token or cached
             codes; part of memory.
All contenders but torch use train.py's allocator settings
(kronecker/runtime/allocator.py): with the default settings large buffers cost a
page fault for each 4 kB.
"""

from kronecker.runtime import interrupts

if __name__ == "__main__":
    interrupts.end_silently()  # during the other imports

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags

from kronecker.runtime import cli
from kronecker.schema import choices, config_files
from kronecker.schema.arms import ARMS

WAYS = (choices.AUTO, *choices.IMPLEMENTATIONS)

_DATA = flags.DEFINE_string("data", "stdlib", "Source of the text, written as the config key data.source.")
_TOKENIZER = flags.DEFINE_string(
    "tokenizer",
    "gpt2",
    "Tokenizer, as in a config; bpe:SIZE is trained on the text, and step pads its vocabulary to SIZE ids.",
)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Type of the operands of matrix products.")
_ROUNDS = flags.DEFINE_integer(
    "rounds", None, "Number of rounds; default: encoder 30, step and train 15, runtime 10.", lower_bound=5
)
_SECONDS = flags.DEFINE_float(
    "seconds",
    3.0,
    "encoder: seconds for each time of a contender; slow contenders run in fewer rounds, at least 5.",
    0.0,
)
_OUT = flags.DEFINE_string("out", None, "JSON file to write; default: runs/benchmark/COMMAND.json.")
_SETTING = flags.DEFINE_multi_string("setting", [], "encoder: a setting to time, see above; default: nine settings")
_CACHE_LIMIT = flags.DEFINE_float("cache_limit_mb", 1024.0, "encoder, step: limit for cached codes, MB.", 0.0)
_SIZE = flags.DEFINE_string("size", "micro", "step: size of the model, see configs/sizes.py.")
_SIZES = flags.DEFINE_list("sizes", ["micro"], "train: sizes of the model, see configs/sizes.py.")
_AGAINST = flags.DEFINE_list("against", [], "train: any of torch, torch_tuned, torch_compiled; see above.")
_ARMS = flags.DEFINE_list(
    "arms",
    None,
    "step, train: arms to time, with table_untied among them; default: step all, train table_untied,kronecker.",
)
_IMPLEMENTATIONS = flags.DEFINE_list(
    "implementations",
    ["auto"],
    f"step: implementations of the product: {', '.join(WAYS)}.",
)
_POS_DIM = flags.DEFINE_integer(
    "pos_dim", None, "step: P, byte positions of a token; default: the config's.", lower_bound=1
)
_BATCH = flags.DEFINE_integer("batch", 4, "step, train: sequences in a batch.", lower_bound=1)
_SEQUENCE = flags.DEFINE_integer("sequence", 256, "step, train: tokens in a sequence.", lower_bound=1)
_OWN = {
    "encoder": ("rounds", "seconds", "setting", "cache_limit_mb"),
    "step": ("rounds", "size", "arms", "implementations", "pos_dim", "cache_limit_mb", "batch", "sequence"),
    "train": ("rounds", "sizes", "against", "arms", "batch", "sequence"),
    "runtime": ("rounds",),
    "runs": (),
}

ROOT = Path(__file__).parents[1]


def main(words: Sequence[str]) -> None:
    """Runs one benchmark, prints it and writes its files."""
    command, *arguments = words or [""]
    if command not in _OWN or (arguments and command != "runs"):
        raise ValueError(f"name one benchmark: {', '.join(_OWN)}; got {repr(' '.join(words)) if words else 'none'}")
    for name in (name for names in _OWN.values() for name in names):
        users = [other for other, names in _OWN.items() if name in names]
        if command not in users and flags.FLAGS[name].present:
            raise ValueError(
                f"--{name} is a flag of `benchmark.py {' or '.join(users)}`, not of {command}; leave it out"
            )
    out = Path(_OUT.value or f"runs/benchmark/{command}.json")
    if out.suffix != ".json":
        raise ValueError(f"--out={out}: must end in .json; write --out={out.with_suffix('.json')}")

    from kronecker.runtime import allocator
    from kronecker.runtime.storage import local_file

    local_file(str(out), "--out")  # makes its folder, before minutes of timing

    kept = allocator.keep_freed()  # before JAX starts threads, as train.py does
    if command == "runtime":
        _runtime(out)
    elif command == "runs":
        _runs(arguments, out)
    else:
        commands = {"encoder": _encoder, "step": _step, "train": _train}
        _timed(command, commands[command](), out, kept)


def _timed(command: str, run: Callable[[], dict[str, Any]], out: Path, kept: bool) -> None:
    # After the flags: --help should not wait for JAX.
    from kronecker.benchmark import timing_figures, timing_tables
    from kronecker.runtime import machine
    from kronecker.runtime.storage import write_text

    before = machine.facts()
    result = run()
    after = {"load_after": machine.load(), "device_peak_bytes": machine.device_peak_bytes()}
    result = {"machine": before | {"keeps_freed_memory": kept} | after, **result}
    timing_tables.show_verdicts(result["verdicts"])
    draw = {"encoder": timing_figures.encoder, "step": timing_figures.steps, "train": timing_figures.training}
    write_text(out.with_suffix(".svg"), draw[command](result))
    write_text(out, json.dumps(result, indent=1, allow_nan=False) + "\n")
    print(f"\n{machine.line(before)}\nwritten: {out} and {out.with_suffix('.svg')}")


def _runtime(out: Path) -> None:
    from kronecker.benchmark import arm_runtime
    from kronecker.run import result
    from kronecker.runtime.storage import write_text

    timed = {arm: _config(f"gpt2.py:size=nano,arm={arm}", **{"model.dtype": _DTYPE.value}) for arm in arm_runtime.ARMS}
    found = arm_runtime.measure(timed, _ROUNDS.value or arm_runtime.ROUNDS)
    result.show([found])
    write_text(out, json.dumps([result.to_json(found)], indent=1) + "\n")
    print(f"written: {out}")


def _runs(arguments: Sequence[str], out: Path) -> None:
    from kronecker.benchmark import whole_runs
    from kronecker.runtime import machine
    from kronecker.runtime.storage import write_text

    before, folder = machine.facts(), out.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    found = whole_runs.run(arguments, folder)
    whole_runs.show(found)
    found["arguments"] = machine.without_paths_outside(arguments)
    write_text(out, json.dumps({"machine": before | {"load_after": machine.load()}, **found}, indent=1) + "\n")
    print(f"{machine.line(before)}\nwritten: {out}; the runs and their logs: {folder}")


def _encoder() -> Callable[[], dict[str, Any]]:
    from kronecker.benchmark import settings

    chosen = [settings.parse(text) for text in _SETTING.value] or settings.SETTINGS
    base = _config("base.py")

    def run() -> dict[str, Any]:
        from kronecker.benchmark import encoder, timing_tables

        limit, rounds, seconds = _CACHE_LIMIT.value, _ROUNDS.value or 30, _SECONDS.value
        return encoder.run(chosen, base, _DTYPE.value, limit, rounds, seconds, timing_tables.show_setting)

    return run


def _step() -> Callable[[], dict[str, Any]]:
    own = {"train.batch": _BATCH.value, "train.sequence": _SEQUENCE.value, "train.accumulate": 1}
    own |= {"model.dtype": _DTYPE.value, "embedding.cache_limit_mb": _CACHE_LIMIT.value}
    if _POS_DIM.value:
        own["embedding.pos_dim"] = _POS_DIM.value
    ways = _IMPLEMENTATIONS.value
    if not ways or set(ways) - set(WAYS):
        raise ValueError(f"--implementations={','.join(ways)}: allowed: {', '.join(WAYS)}")
    arms = {name: _config(f"gpt2.py:size={_SIZE.value},arm={name}", **own) for name in _ARMS.value or ARMS}
    for c in arms.values():
        c.model.vocab_multiple = _padding(_TOKENIZER.value, c.model.vocab_multiple)

    def run() -> dict[str, Any]:
        from kronecker.benchmark import step, timing_tables

        timed = step.by_implementation(arms, ways)
        result = {"size": _SIZE.value, **step.run(timed, _ROUNDS.value or 15)}
        timing_tables.show_steps(result)
        return result

    return run


def _train() -> Callable[[], dict[str, Any]]:
    own = {"train.batch": _BATCH.value, "train.sequence": _SEQUENCE.value, "train.accumulate": 1}
    own["model.dtype"] = _DTYPE.value
    names = _ARMS.value or ["table_untied", "kronecker"]
    arms = {size: {name: _config(f"gpt2.py:size={size},arm={name}", **own) for name in names} for size in _SIZES.value}

    def run() -> dict[str, Any]:
        from kronecker.benchmark import timing, timing_tables, train

        unknown = [name for name in _AGAINST.value if name not in train.PYTORCH]
        if unknown:
            raise ValueError(f"--against={','.join(unknown)}: allowed: {', '.join(train.PYTORCH)}")
        results = []
        for size, configs in arms.items():
            results.append(train.run(configs, _AGAINST.value, _ROUNDS.value or 15, size))
            timing_tables.show_training(results[-1])
        every = [verdict for one in results for verdict in one.pop("verdicts")]
        return {"benchmark": "train", "threads": timing.threads(), "sizes": results, "verdicts": every}

    return run


def _padding(tokenizer: str, multiple: int) -> int:
    """Returns the multiple that pads a vocabulary bpe:SIZE to SIZE: 4 MB of text may give far fewer ids."""
    kind, _, size = tokenizer.partition(":")
    return multiple * max(1, math.ceil(int(size) / multiple)) if kind == "bpe" and size.isdecimal() else multiple


def _config(name: str, **overrides: Any) -> ml_collections.ConfigDict:
    c = config_files.load(str(ROOT / "configs" / name))
    c.update_from_flattened_dict({"data.source": _DATA.value, "tokenizer": _TOKENIZER.value, **overrides})
    return c


if __name__ == "__main__":
    cli.run(main, positional=True)
