"""Every key of a config, declared once: default, effect on a run's numbers, allowed values, unit, and why it exists.

No other file adds a key: `dotted.defaults()` makes a config of these, a config file assigns to what is there, and
ml_collections' lock turns a misspelt key into an error.  "0: derived" is computed by `resolution.resolve`, which also
refuses what is not allowed here and every inconsistent pair.

Override any key on the command line:  python train.py --config=configs/demo.py --config.train.steps=100
"""

import dataclasses
import enum
import math
from collections.abc import Callable
from typing import Any

from kronecker.schema import arms, choices


class Effect(enum.Enum):
    """What another value does to a run's numbers; hence who may differ in it.

    A run that goes on may set keys of ROUNDING and NOTHING anew.  Two runs of a pair may also differ in keys of INPUT:
    what came of them is compared by its fingerprint, and the same text may be read from another place.
    """

    NUMBERS = "it is another run"
    INPUT = "it is another run if it brings other text, tokens or weights, whose hash each run records"
    ROUNDING = "the same computation in another order or place: the same numbers but for rounding"
    NOTHING = "the same numbers"


NUMBERS, INPUT, ROUNDING, NOTHING = Effect


@dataclasses.dataclass(frozen=True)
class Bound:
    """Which values may be: in words that follow "it must be", and as a function."""

    words: str
    holds: Callable[[Any], bool]


def at_least(least: float) -> Bound:
    return Bound(f"at least {least}", lambda value: value >= least)


def forms(*allowed: str) -> Bound:
    """Returns the bound of a text in one of the forms "NAME" and "KIND:ARGUMENT", whose argument may be anything."""
    kinds = tuple(form.partition(":")[0] + ":" for form in allowed if ":" in form)
    words = f"one of {', '.join(allowed)}"
    return Bound(words, lambda text: text in allowed or (text.startswith(kinds) and text not in kinds))


POSITIVE = Bound("above 0", lambda value: value > 0)
SHARE = Bound("in [0, 1)", lambda value: 0 <= value < 1)
SEED = Bound(f"from 0 to {2**32 - 1}", lambda value: 0 <= value < 2**32)
DEVICES = Bound("at least 1, or -1 for the rest", lambda value: value == -1 or value >= 1)
TOKENIZERS = forms(
    "gpt2",  # its 50,257 ids; ships with this package, needs no network
    "tiktoken:NAME",  # an encoding tiktoken knows, say o200k_base; downloaded once into TIKTOKEN_CACHE_DIR
    "tiktoken:PATH",  # a rank file of gpt2, cl100k_base, o200k_base or qwen, recognised by its sha256
    "tiktoken:PATH@NAME",  # any other rank file: text is split as NAME splits it, <|endoftext|> follows the last rank
    "tokenizers:PATH",  # a tokenizer.json of the tokenizers library, byte-level or with byte fallback
    "sentencepiece:PATH",  # a SentencePiece .model with byte fallback, such as Llama 2's and Mistral's
    "tekken:PATH",  # a tekken.json, Mistral's format since 2024
    "bpe:SIZE",  # a byte-level BPE of SIZE ids, trained on the training text when the data are prepared
)
SOURCES = forms(  # `python scripts/prepare_data.py --help` teaches each
    "stdlib",  # the Python standard library's own source, in place of a corpus
    "prepared:FOLDER",  # a dataset made before, here or elsewhere
    "text:GLOB",
    "jsonl:GLOB",
    "parquet:GLOB",
    "tfds:NAME",
    "fineweb-edu",
    "fineweb-edu:sample-10BT",  # a subset of it
)


@dataclasses.dataclass(frozen=True)
class Key:
    """A key of a config."""

    default: Any  # its value, whose type is the key's
    effect: Effect
    allowed: Bound | tuple[str, ...] | None = None  # its values; None: all of its type
    unit: str = ""  # of a number
    later: bool = False  # whether checkpoints are older than the key: at its default, their identity does not hold it


KEYS: dict[str, Key] = {}


def key(name: str, *fields: Any, later: bool = False) -> None:
    """Declares a key by the fields of a Key."""
    KEYS[name] = Key(*fields, later=later)


# One number drives body init, the order of sequences and dropout, so that runs with equal seeds are pairs.
key("seed", 0, NUMBERS, SEED)
key("tokenizer", "gpt2", INPUT, TOKENIZERS)

# The text.
key("data.source", "stdlib", INPUT, SOURCES)
key("data.text_field", "text", INPUT)  # the field or column of the text (jsonl, parquet, tfds, fineweb-edu)
key("data.split_field", "", INPUT)  # a field of "train" or "validation"; empty: split by a hash of the text
key("data.validation_fraction", 0.01, INPUT, SHARE)  # of documents, held out when split_field is empty
key("data.shards", 0, INPUT, at_least(0), "files")  # of fineweb-edu's, to download; 0: all
key("data.folder", "data", NOTHING)  # downloads and prepared datasets live here, one folder each
key("data.workers", 0, NOTHING, at_least(0), "threads")  # that tokenise; 0: one a core

# The model.
key("model.layers", 4, NUMBERS, at_least(1))
key("model.heads", 4, NUMBERS, at_least(1))
key("model.d_model", 128, NUMBERS, at_least(1))
key("model.context", 256, NUMBERS, at_least(1), "tokens")  # rows of the position table: the longest sequence
# the vocabulary is padded to a multiple of this; the padding's logits are masked
key("model.vocab_multiple", 128, NUMBERS, at_least(1), "ids")
key("model.vocab_size", 0, NUMBERS, at_least(0), "ids")  # the tokenizer can produce; 0: derived from it
key("model.padded_vocab", 0, NUMBERS)  # 0: derived
key("model.bias", True, NUMBERS)  # biases in the linear layers and layer norms, as GPT-2 has them
key("model.dropout", 0.0, NUMBERS, SHARE)  # after the embedding sum and after each residual branch
key("model.tie_head", False, NUMBERS)  # the output head is the input table, learned or induced
# of matrix products; the residual stream, the norms and the loss are float32 under both
key("model.dtype", "float32", NUMBERS, choices.DTYPES)
key("model.param_dtype", "float32", NUMBERS, choices.DTYPES)  # of parameters and optimizer state
# xla: plain products and a softmax | cudnn: GPU, bfloat16 | splash: TPU | auto: by platform and type, see
# kronecker/model/attention.py
key("model.attention", choices.AUTO, ROUNDING, (choices.AUTO, "xla", "cudnn", "splash"))
# one compiled block in a loop instead of `layers` copies: faster to compile
key("model.scan_layers", False, ROUNDING)
# compute each block again in the backward pass: less memory, about a third more time
key("model.remat", False, ROUNDING)

# What two arms of a pair may differ in: this group, and model.tie_head.
# a name of kronecker/schema/arms.py: a label, the keys below are what acts; a run of another name is another run
key("embedding.arm", "kronecker", NUMBERS)
# factorized: U Q; kronecker/embedding/controls.py defines the last three
key("embedding.kind", "kronecker", NUMBERS, tuple(arms.KINDS))
# of factorized; 0: derived, as many parameters as the projection of pos_dim has
key("embedding.rank", 0, NUMBERS, at_least(0))
# P: positions kept of a token; the code has D = 256 P coordinates
key("embedding.pos_dim", 16, NUMBERS, at_least(1), "bytes")
# of a token longer than P: head: its first P bytes, cut between characters | head_raw: its first P bytes |
# head_tail: the first and the last P/2
key("embedding.truncation", "head", NUMBERS, choices.TRUNCATIONS)
# raw: the tokenizer's own bytes of an id | decode: what its decoder prints, as the author's package has it, where
# all tokens that are part of a character become one
key("embedding.byte_source", "raw", NUMBERS, choices.BYTE_SOURCES)
# z: the paper's z-norm | length: the unit-norm code, no z-norm
key("embedding.norm", "z", NUMBERS, choices.NORMS)
# how the product is computed: same numbers, other costs
key("embedding.implementation", choices.AUTO, ROUNDING, (choices.AUTO, *choices.IMPLEMENTATIONS))
# how implementation=gather computes the projection's gradient: scatter: atomic adds on a GPU | onehot: one-hot
# matrix products, whose sums have a fixed order
key("embedding.gather_gradient", choices.AUTO, ROUNDING, (choices.AUTO, *choices.GATHER_GRADIENTS))
# the most memory a device may give to the codes of implementation=cached
key("embedding.cache_limit_mb", 1024.0, ROUNDING, POSITIVE, "MB")
# of the table, of the product U Q or of the projection; 0: derived, .02 for the tables, the paper's 1/sqrt(D) for a
# projection
key("embedding.init_std", 0.0, NUMBERS, at_least(0))
key("embedding.lr_mult", 1.0, NUMBERS, POSITIVE)  # learning rate of the input embedding relative to the body's

# Training: its length, the schedule of its learning rate, and AdamW.
key("train.batch", 16, NUMBERS, at_least(1), "sequences")  # a step, over all devices and accumulation
key("train.sequence", 256, NUMBERS, at_least(1), "tokens")  # predicted a sequence
key("train.steps", 0, NUMBERS, at_least(0), "updates")  # 0: derived from train.tokens
key("train.tokens", 1_000_000, NUMBERS, at_least(1), "tokens")  # of training; used when train.steps is 0
key("train.accumulate", 1, NUMBERS, at_least(1), "micro-batches")  # a step
# of one device, whose float32 logits are in memory at a time, in training and evaluation; 0: all of a micro-batch.
# With V = 50,304 a token's take .2 MB, and as much for their gradient.
key("train.loss_chunk", 0, ROUNDING, at_least(0), "tokens")
key("train.lr", 6e-4, NUMBERS, POSITIVE)  # peak learning rate
key("train.lr_final", 0.1, NUMBERS, SHARE)  # end of the cosine, as a share of the peak
key("train.warmup_tokens", 0, NUMBERS, at_least(0), "tokens")  # linear warm-up; 0: warmup_share of the run
key("train.warmup_share", 0.02, NUMBERS, SHARE)  # of the run's steps, used when warmup_tokens is 0
key("train.warmup_steps", 0, NUMBERS, at_least(0), "updates")  # 0: derived from the two above
key("train.beta1", 0.9, NUMBERS, SHARE)
key("train.beta2", 0.95, NUMBERS, SHARE)
key("train.eps", 1e-8, NUMBERS, POSITIVE)
# on matrices alone: linear kernels, tables, projection, head
key("train.weight_decay", 0.1, NUMBERS, at_least(0))
key("train.clip", 1.0, NUMBERS, at_least(0))  # global gradient norm; 0: no clipping
# bitwise reproducible on one GPU, where sums have no fixed order otherwise; slower there, and refused on several
key("train.deterministic", False, ROUNDING)

# Evaluation.
# also before step 0 and after the last; 0: only after the last
key("eval.every", 100, NOTHING, at_least(0), "steps")
# 0: train.batch / train.accumulate.  What fills the last batch has no weight, so another size adds the same nats.
key("eval.batch", 0, ROUNDING, at_least(0), "sequences")
key("eval.sequences", 0, NUMBERS, at_least(0), "sequences")  # the first held-out ones; 0: every token once

# Checkpoints.
key("checkpoint.every", 100, NOTHING, at_least(1), "steps")  # the last step is always saved
key("checkpoint.keep", 2, NOTHING, at_least(1), "checkpoints")  # the newest
key("checkpoint.keep_every", 0, NOTHING, at_least(0), "steps")  # whose checkpoints are kept for good; 0: none
# another run's folder, of the same model and tokenizer, whose newest weights to begin with; empty: none
key("checkpoint.init_from", "", INPUT, later=True)
# from SIGTERM to the end of the process, saved or not
key("checkpoint.grace_seconds", 30.0, NOTHING, POSITIVE, "seconds")

# What is told of a run.
key("log.every", 10, NOTHING, at_least(1), "steps")  # between lines of metrics.jsonl
# to profile, after 5 to warm up, in the first process alone; written to the run's folder `profile`, for XProf or
# TensorBoard, and left out of tokens_per_second; 0: none
key("log.profile_steps", 0, NOTHING, at_least(0), "steps")
key("log.tensorboard", False, NOTHING)  # event files in the run's folder (tensorboardX)
key("log.wandb", "", NOTHING)  # W&B project; empty: off

# A folder, on a disk or gs://, in which compiled programs are kept for the next process; empty: JAX's own setting
key("compilation_cache", "", NOTHING)

# Devices along each axis, over all hosts; -1, for one of them: the rest.
key("mesh.data", -1, ROUNDING, DEVICES)  # splits the batch
# splits the batch, and parameters and optimizer state along the model's width
key("mesh.fsdp", 1, ROUNDING, DEVICES)
key("mesh.tensor", 1, ROUNDING, DEVICES)  # splits heads, the hidden layer and the vocabulary
# simulated devices of a process when the platform is CPU; 2 use two cores better than one does
key("mesh.cpu_devices", 1, ROUNDING, at_least(1))

# The processes that train one run.  auto: several where SLURM, Open MPI or Cloud TPU started several, or where
# coordinator, processes and index are set, here or as JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID
key("distributed.enabled", "auto", ROUNDING, ("auto", "on", "off"))
key("distributed.coordinator", "", NOTHING)  # HOST:PORT of process 0, reachable for all
key("distributed.processes", 0, ROUNDING, at_least(0))  # how many; 0: not said
key("distributed.index", -1, NOTHING, at_least(-1))  # of this one, from 0; -1: not said
# for all to come, and at the end for all to go
key("distributed.timeout_seconds", 300, NOTHING, at_least(1), "seconds")
# without a sign of life after which a process is dead, and the run with it
key("distributed.heartbeat_seconds", 60, NOTHING, at_least(1), "seconds")


def having(*effects: Effect) -> frozenset[str]:
    """Returns the names of the keys with one of these effects."""
    return frozenset(name for name, known in KEYS.items() if known.effect in effects)


def allowed(name: str) -> str:
    """Returns which values a key may have, in words that follow "it must be"; empty: all of its type."""
    known = KEYS[name]
    if isinstance(known.allowed, tuple):
        return f"one of {', '.join(known.allowed)}"
    unit = f"in {known.unit}" if known.unit else ""
    return ", ".join(filter(None, (known.allowed.words if known.allowed else "", unit)))


def fault(name: str, value: Any) -> str | None:
    """Returns what is wrong with a key's value and which values are allowed; None if the value is allowed."""
    known = KEYS[name]
    if isinstance(known.allowed, tuple):
        return None if value in known.allowed else f"{name} is {value!r}; allowed: {', '.join(known.allowed)}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{name} is {value!r}; it must be finite; the default is {known.default!r}"
    if known.allowed is None or known.allowed.holds(value):
        return None
    return f"{name} is {value!r}; it must be {allowed(name)}; the default is {known.default!r}"
