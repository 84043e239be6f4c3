"""Every key of a config, declared once: default, effect on a run's numbers, allowed values, unit, and why it exists.

No other file adds a key: `dotted.defaults()` builds a config of these, config files assign to them, and the lock of
ml_collections makes a misspelt key an error.  Where a comment reads "0: derived", `resolution.resolve` computes the
value; it also refuses values that are not allowed here, and values that contradict each other.

Override any key on the command line:  python train.py --config=configs/demo.py --config.train.steps=100
"""

import dataclasses
import enum
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from kronecker.schema import arms, choices


class Effect(enum.Enum):
    """How another value of a key changes a run's numbers, which decides where the key may differ.

    A resumed run may change keys of ROUNDING and NOTHING.  The two runs of a pair may also differ in keys of INPUT:
    their text, tokens and weights are compared by hash instead, and the same text may come from another place.
    """

    NUMBERS = "a different run"
    INPUT = "a different run if text, tokens or weights differ; each run records their hash"
    ROUNDING = "the same computation in another order or place: equal numbers except for rounding"
    NOTHING = "equal numbers"


NUMBERS, INPUT, ROUNDING, NOTHING = Effect


TYPES = {bool: "true or false", int: "a whole number in digits", float: "a number", str: "text"}  # after "it must be"
INT32 = 2**31 - 1
COUNTABLE = 2**53  # up to here float64 and JSON's readers keep whole numbers exact
FLOAT32 = 2.0**-126, 3.4e38  # the sizes of float32 numbers other than 0: smaller ones are 0 to a device


@dataclasses.dataclass(frozen=True)
class Bound:
    """Which values are allowed: in words that follow "it must be", and as a function."""

    words: str
    holds: Callable[[Any], bool]
    most: float = INT32  # of a whole number; `fault` names it only where it is exceeded


def at_least(least: float, most: float = INT32) -> Bound:
    return Bound(f"at least {least}", lambda value: value >= least, most)


def forms(*allowed: str) -> Bound:
    """Returns the bound of a text that has one of the forms "NAME" and "KIND:ARGUMENT", with any argument."""
    kinds = tuple(form.partition(":")[0] + ":" for form in allowed if ":" in form)
    words = f"one of {', '.join(allowed)}"
    return Bound(words, lambda text: text in allowed or (text.startswith(kinds) and text not in kinds))


POSITIVE = Bound("above 0", lambda value: value > 0)
SIZE = Bound("above 0, at most 1e12", lambda value: 0 < value <= 1e12)  # larger ones overflow in a layer norm
SHARE = Bound("in [0, 1)", lambda value: 0 <= value <= 1 - 2**-24)  # float32 rounds what is above to 1
SEED = Bound(f"from 0 to {2**32 - 1}", lambda value: 0 <= value < 2**32, math.inf)
DEVICES = Bound("at least 1, or -1 for all remaining devices", lambda value: value == -1 or value >= 1)
TOKENIZERS = forms(
    "gpt2",  # GPT-2's 50,257 ids; part of this package, needs no network
    "tiktoken:NAME",  # an encoding of tiktoken, such as o200k_base; downloaded once into TIKTOKEN_CACHE_DIR
    "tiktoken:PATH",  # a rank file of gpt2, cl100k_base, o200k_base, llama3 or qwen, recognised by its sha256
    "tiktoken:PATH@NAME",  # any other, which splits text as NAME does, or qwen3; the id after the last is <|endoftext|>
    "tokenizers:PATH",  # a tokenizer.json of the tokenizers library, byte-level or with byte fallback
    "sentencepiece:PATH",  # a SentencePiece .model with byte fallback, such as Llama 2's and Mistral's
    "tekken:PATH",  # a tekken.json, Mistral's format since 2024
    "bpe:SIZE",  # a byte-level BPE of SIZE ids, trained on the training text when the data are prepared
)
SOURCES = forms(  # `python scripts/prepare_data.py --help` explains each
    "stdlib",  # the source code of the Python standard library, which needs no download
    "prepared:FOLDER",  # a dataset that was prepared before, on this machine or another
    "text:GLOB",
    "jsonl:GLOB",
    "parquet:GLOB",
    "tfds:NAME",
    "fineweb-edu",
    "fineweb-edu:sample-10BT",  # a sample of it
)


@dataclasses.dataclass(frozen=True)
class Key:
    """A key of a config."""

    default: Any  # also sets the key's type
    effect: Effect
    allowed: Bound | tuple[str, ...] | None = None  # None: every value of its type
    unit: str = ""  # of a number
    later: bool = False  # True if checkpoints may be older than the key: they resume while it has their value
    before: str = ""  # of a later key: the key whose value was this one's in older runs; empty: they had the default

    def in_older_runs(self, values: Mapping[str, Any]) -> Any:
        """Returns what a later key stood for in runs that lack it; `values` is {dotted key: value} of such a run."""
        return values[self.before] if self.before else self.default


KEYS: dict[str, Key] = {}


def key(name: str, *fields: Any, later: bool = False, before: str = "") -> None:
    """Declares a key; `fields` are those of Key, in order."""
    KEYS[name] = Key(*fields, later=later, before=before)


# One number sets the body's initial weights, the order of sequences and dropout, so runs with equal seeds are pairs.
key("seed", 0, NUMBERS, SEED)
key("tokenizer", "gpt2", INPUT, TOKENIZERS)

# The text.
key("data.source", "stdlib", INPUT, SOURCES)
key("data.text_field", "text", INPUT)  # the field or column that holds the text (jsonl, parquet, tfds, fineweb-edu)
key("data.split_field", "", INPUT)  # the field that holds "train" or "validation"; empty: split by a hash of the text
key("data.validation_fraction", 0.01, INPUT, SHARE)  # share of documents held out when split_field is empty
key("data.shards", 0, INPUT, at_least(0), "files")  # number of fineweb-edu's files to download; 0: all
# the text of the special token that ends each document; empty: found by name, as <|endoftext|> or </s>
key("data.end_of_text", "", INPUT, later=True)
key("data.folder", "data", NOTHING)  # where downloads and prepared datasets are stored, each in its own folder
# a longer line, cell or piece of text is refused: it would be held in memory whole
key("data.document_bytes", 64_000_000, NOTHING, at_least(1), "bytes", later=True)
key("data.workers", 0, NOTHING, at_least(0, 4096), "threads")  # for tokenising; 0: one per core

# The model.
key("model.layers", 4, NUMBERS, at_least(1, 1_000))
key("model.heads", 4, NUMBERS, at_least(1))
key("model.d_model", 128, NUMBERS, at_least(1, 2**20))
# length of the position table: the longest sequence allowed
key("model.context", 256, NUMBERS, at_least(1, 2**24), "tokens")
# the vocabulary is padded to a multiple of this; logits of the padding are masked
key("model.vocab_multiple", 128, NUMBERS, at_least(1, 2**20), "ids")
key("model.vocab_size", 0, NUMBERS, at_least(0), "ids")  # number of the tokenizer's ids; 0: derived
key("model.padded_vocab", 0, NUMBERS, at_least(0), "ids")  # always derived; leave it at 0
key("model.bias", True, NUMBERS)  # use biases in linear layers and layer norms, as GPT-2 does
key("model.dropout", 0.0, NUMBERS, SHARE)  # after the sum of embeddings and after each residual branch
key("model.tie_head", False, NUMBERS)  # use the input table, learned or induced, as the output head
# add a constant to each id's logit: the log of its share of the training text, counted once beside the prepared data
key("model.unigram_bias", False, NUMBERS, later=True)
# of matrix products; the residual stream, the norms and the loss are always float32
key("model.dtype", "float32", NUMBERS, choices.DTYPES)
key("model.param_dtype", "float32", NUMBERS, choices.DTYPES)  # of parameters and optimizer state
# xla: plain products and a softmax | cudnn: GPU with bfloat16 | splash: TPU | auto: chosen by platform and dtype, see
# kronecker/model/attention.py
key("model.attention", choices.AUTO, ROUNDING, (choices.AUTO, "xla", "cudnn", "splash"))
# compile one block and run it in a loop, instead of `layers` copies: faster to compile
key("model.scan_layers", False, ROUNDING)
# recompute each block in the backward pass: less memory, about a third more time
key("model.remat", False, ROUNDING)

# The two arms of a pair may differ in this group and in model.tie_head, and nowhere else.
# a label, usually a name from kronecker/schema/arms.py; the other keys of the group decide what is computed
key("embedding.arm", "kronecker", NUMBERS)
# factorized is U Q; kronecker/embedding/controls.py defines the codes beside kronecker
key("embedding.kind", "kronecker", NUMBERS, tuple(arms.KINDS))
# r of kind factorized; 0: derived, so that it has as many parameters as the projection of pos_dim
key("embedding.rank", 0, NUMBERS, at_least(0))
# which rows of that projection count: all | used: those that some token of the vocabulary uses; the rank is then
# derived when the model is built, and embedding.rank stays 0
key("embedding.rank_rows", "all", NUMBERS, choices.RANK_ROWS, later=True)
# draw a random or shuffled code anew for each seed, in place of one draw for all runs
key("embedding.redraw", False, NUMBERS, later=True)
# P: the number of byte positions of a code, which has D = 256 P coordinates
key("embedding.pos_dim", 16, NUMBERS, at_least(1, 4096), "bytes")
# what is kept of a token longer than P bytes: head: the first P, cut between characters | head_raw: the first P |
# head_tail: the first P/2 and the last P/2
key("embedding.truncation", "head", NUMBERS, choices.TRUNCATIONS)
# raw: the bytes of an id in the vocabulary | decode: the bytes that the tokenizer decodes it to, as in the author's
# package: then all ids that are part of a character share one code
key("embedding.byte_source", "raw", NUMBERS, choices.BYTE_SOURCES)
# z: the paper's z-norm | length: unit norm, no z-norm
key("embedding.norm", "z", NUMBERS, choices.NORMS)
# how the product is computed: equal numbers, different cost
key("embedding.implementation", choices.AUTO, ROUNDING, (choices.AUTO, *choices.IMPLEMENTATIONS))
# how implementation=gather computes the gradient of the projection: scatter: atomic adds on a GPU | onehot: one-hot
# matrix products, whose sums have a fixed order
key("embedding.gather_gradient", choices.AUTO, ROUNDING, (choices.AUTO, *choices.GATHER_GRADIENTS))
# the most memory of a device that the codes of implementation=cached may use
key("embedding.cache_limit_mb", 1024.0, ROUNDING, POSITIVE, "MB")
# initial std of the table, of U Q or of the projection; 0: derived, 0.02 for tables, the paper's 1/sqrt(D) for others
key("embedding.init_std", 0.0, NUMBERS, Bound("0, or " + SIZE.words, lambda value: not value or SIZE.holds(value)))
# a fixed multiplier of the input embedding's output; a tied head uses the table without it
key("embedding.scale", 1.0, NUMBERS, SIZE, later=True)
# learning rate of the input embedding, relative to the body's; its decay stays train.lr x train.weight_decay
key("embedding.lr_mult", 1.0, NUMBERS, POSITIVE)
# decay of the input embedding, relative to the body's; before this key was there, lr_mult multiplied the decay too
key("embedding.decay_mult", 1.0, NUMBERS, POSITIVE, later=True, before="embedding.lr_mult")

# Training: its length, the schedule of its learning rate, and the optimizer.
key("train.batch", 16, NUMBERS, at_least(1, 2**20), "sequences")  # per step, over all devices and micro-batches
key("train.sequence", 256, NUMBERS, at_least(1), "tokens")  # predicted per sequence
key("train.steps", 0, NUMBERS, at_least(0), "updates")  # 0: derived from train.tokens
key("train.tokens", 1_000_000, NUMBERS, at_least(1, COUNTABLE), "tokens")  # to train on; used when train.steps is 0
key("train.accumulate", 1, NUMBERS, at_least(1), "micro-batches")  # per step
# tokens per device whose float32 logits are in memory at once, in training and evaluation; 0: a whole micro-batch.
# With V = 50,304 the logits of one token take 0.2 MB, and their gradient as much again.
key("train.loss_chunk", 0, ROUNDING, at_least(0), "tokens")
key("train.lr", 6e-4, NUMBERS, POSITIVE)  # peak learning rate
key("train.lr_final", 0.1, NUMBERS, SHARE)  # learning rate at the end of the cosine, as a share of the peak
# length of the linear warm-up; 0: warmup_share
key("train.warmup_tokens", 0, NUMBERS, at_least(0, COUNTABLE), "tokens")
key("train.warmup_share", 0.02, NUMBERS, SHARE)  # warm-up as a share of the run's steps, when warmup_tokens is 0
key("train.warmup_steps", 0, NUMBERS, at_least(0), "updates")  # 0: derived from the two above
key("train.optimizer", "adamw", NUMBERS, tuple(choices.OPTIMIZERS), later=True)
key("train.beta1", 0.9, NUMBERS, SHARE)
key("train.beta2", 0.95, NUMBERS, SHARE)
key("train.eps", 1e-8, NUMBERS, POSITIVE)
# of matrices only: linear kernels, tables, projection, head
key("train.weight_decay", 0.1, NUMBERS, at_least(0))
key("train.clip", 1.0, NUMBERS, at_least(0))  # largest global gradient norm; 0: no clipping
# clip the input embedding (with a head tied to it) and the rest each by its own norm, in place of the global one
key("train.clip_by_group", False, NUMBERS, later=True)
# bitwise reproducible on one GPU, whose sums otherwise have no fixed order; slower there; refused on several GPUs
key("train.deterministic", False, ROUNDING)

# Evaluation.
# between evaluations, which also run before step 0 and after the last step; 0: only after the last step
key("eval.every", 100, NOTHING, at_least(0), "steps")
# 0: train.batch / train.accumulate.  Padding of the last batch has weight 0, so the loss does not depend on the size.
key("eval.batch", 0, ROUNDING, at_least(0, 2**20), "sequences")
key("eval.sequences", 0, NUMBERS, at_least(0), "sequences")  # evaluate on the first held-out ones; 0: on all

# Checkpoints.
key("checkpoint.every", 100, NOTHING, at_least(1), "steps")  # between checkpoints; the last step is always saved
key("checkpoint.keep", 2, NOTHING, at_least(1), "checkpoints")  # how many of the newest to keep
key("checkpoint.keep_every", 0, NOTHING, at_least(0), "steps")  # between checkpoints that are never deleted; 0: none
# start from the newest weights in the folder of another run with the same model and tokenizer, or from those of a GPT-2
# in Hugging Face's form, as hf:FOLDER, in an arm with a table or a code; empty: start from the seed
key("checkpoint.init_from", "", INPUT, later=True)
# from SIGTERM to the end of the process, whether the checkpoint is saved or not
key("checkpoint.grace_seconds", 30.0, NOTHING, Bound("above 0, at most 1e6", lambda value: 0 < value <= 1e6), "seconds")

# Logs.
key("log.every", 10, NOTHING, at_least(1), "steps")  # between lines of metrics.jsonl
# to profile, after 5 warm-up steps, in the first process only; written to the folder `profile` of the run, for XProf or
# TensorBoard, and left out of tokens_per_second; 0: none
key("log.profile_steps", 0, NOTHING, at_least(0), "steps")
key("log.tensorboard", False, NOTHING)  # event files in the run's folder (tensorboardX)
key("log.wandb", "", NOTHING)  # project of Weights & Biases; empty: off

# Folder, on a disk or gs://, that stores compiled programs for later processes; empty: JAX's own setting.
key("compilation_cache", "", NOTHING)

# Devices along each mesh axis, over all hosts; one axis may be -1: all remaining devices.
key("mesh.data", -1, ROUNDING, DEVICES)  # splits the batch
# splits the batch, and also parameters and optimizer state along the model's width
key("mesh.fsdp", 1, ROUNDING, DEVICES)
key("mesh.tensor", 1, ROUNDING, DEVICES)  # splits heads, the hidden layer and the vocabulary
# simulated devices per process on a CPU; on two cores, 2 are faster than 1
key("mesh.cpu_devices", 1, ROUNDING, at_least(1))

# Whether several processes train one run.  auto: yes if SLURM, Open MPI or Cloud TPU started several, or if
# coordinator, processes and index are set, here or as JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID.
key("distributed.enabled", "auto", ROUNDING, ("auto", "on", "off"))
key("distributed.coordinator", "", NOTHING)  # HOST:PORT of process 0, reachable from all processes
key("distributed.processes", 0, ROUNDING, at_least(0))  # number of processes; 0: not set
key("distributed.index", -1, NOTHING, at_least(-1))  # number of this process, from 0; -1: not set
# longest wait for the other processes, at the start and at the end
key("distributed.timeout_seconds", 300, NOTHING, at_least(1), "seconds")
# a process that sends no heartbeat for so long counts as dead, and the run ends
key("distributed.heartbeat_seconds", 60, NOTHING, at_least(1), "seconds")


def having(*effects: Effect) -> frozenset[str]:
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
    if wrong := type_fault(name, value):
        return wrong
    if isinstance(known.allowed, tuple):
        return None if value in known.allowed else f"{name} is {value!r:.200}; allowed: {', '.join(known.allowed)}"
    words, bound = "", known.allowed or Bound("", lambda _: True)
    if isinstance(value, float) and not math.isfinite(value):
        words = "finite"
    elif not bound.holds(value):
        words = allowed(name)
    elif type(value) is int and value > bound.most:
        words = f"at most {bound.most:,}"
    elif isinstance(value, float) and value and not FLOAT32[0] <= abs(value) <= FLOAT32[1]:
        words = f"0, or in size from {FLOAT32[0]:.2g} to {FLOAT32[1]:.2g}, as a float32"
    elif isinstance(value, str) and re.search("[\0\ud800-\udfff]", value):  # no argument of a command can hold it
        words = "text in UTF-8 without the character NUL"
    return f"{name} is {value!r:.200}; it must be {words}; the default is {known.default!r}" if words else None


def type_fault(name: str, value: Any) -> str | None:
    """Returns what is wrong with the type of a key's value; None if a config may hold it."""
    default = KEYS[name].default
    of_type = isinstance(value, type(default)) or (isinstance(value, int) and isinstance(default, float))
    if of_type and isinstance(value, bool) == isinstance(default, bool):
        return None
    got = f"{value!r:.80} of type {type(value).__name__}"
    return f"{name} is {got}; it must be {TYPES[type(default)]}; the default is {default!r}"
