"""Every configuration key of the project, its unit, its default, and why it exists.

No other file adds a key: a config module starts from `get_config()`, assigns to what is here, and
ml_collections' lock turns a misspelt key into an error.  Values marked "0: derived" are computed by
`kronecker.config.resolve`, which also rejects every unknown enum and every inconsistent pair.

Override any key on the command line:  python train.py --config=configs/demo.py --config.train.steps=100
"""

from collections.abc import Iterable
from typing import Any

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Returns the base config: a nano model with the paper's encoder on the embedded corpus."""
    c = ml_collections.ConfigDict()

    # One number drives body init, the order of sequences and dropout, so that runs with equal seeds are pairs.
    c.seed = 0

    # gpt2 | tiktoken:NAME | tiktoken:PATH | tekken:PATH | tokenizers:PATH | sentencepiece:PATH |
    # bpe:SIZE (byte-level BPE trained on the training text)
    c.tokenizer = "gpt2"

    c.data = data = ml_collections.ConfigDict()
    # stdlib | prepared:FOLDER | text:GLOB | jsonl:GLOB | parquet:GLOB | tfds:NAME | fineweb-edu[:SUBSET]
    # `python scripts/prepare_data.py --help` teaches each
    data.source = "stdlib"
    data.text_field = "text"  # the field or column that holds the text (jsonl, parquet, tfds, fineweb-edu)
    data.split_field = ""  # a field that says "train" or "validation"; empty: split by a hash of the text
    data.validation_fraction = 0.01  # share of documents held out when split_field is empty
    data.shards = 0  # fineweb-edu: how many of its files to download; 0: all
    data.folder = "data"  # downloads and prepared datasets live here, one folder each
    data.workers = 0  # threads that tokenise; 0: one a core

    c.model = model = ml_collections.ConfigDict()
    model.layers = 4
    model.heads = 4
    model.d_model = 128
    model.context = 256  # rows of the learned position table: the longest sequence, in tokens
    model.vocab_multiple = 128  # the vocabulary is padded to a multiple of this; the padding's logits are masked
    model.vocab_size = 0  # ids the tokenizer can produce; 0: derived from the tokenizer
    model.padded_vocab = 0  # 0: derived
    model.bias = True  # biases in the linear layers and layer norms, as GPT-2 has them
    model.dropout = 0.0  # after the embedding sum and after each residual branch
    model.tie_head = False  # the output head is the input table, learned or induced (kinds table and kronecker)
    # matrix products: float32 | bfloat16; the residual stream, the norms and the loss are float32 under both
    model.dtype = "float32"
    model.param_dtype = "float32"  # parameters and optimizer state
    # auto | xla (plain products and a softmax) | cudnn (GPU, bfloat16) | splash (TPU); auto: by platform and type, see
    # kronecker/attention.py
    model.attention = "auto"
    model.scan_layers = False  # one compiled block in a loop instead of `layers` copies: faster to compile
    model.remat = False  # recompute each block in the backward pass: less memory, about a third more time

    # What two arms of a pair may differ in: this group, and model.tie_head.
    c.embedding = embedding = ml_collections.ConfigDict()
    embedding.arm = "kronecker"  # a name of configs/arms.py, for labels; the keys below are what acts
    # table | factorized (U Q) | kronecker | head_tail | random_code | hash_ngram (rivals.py defines the last three)
    embedding.kind = "kronecker"
    embedding.rank = 0  # of factorized; 0: derived, as many parameters as the projection of pos_dim has
    embedding.pos_dim = 16  # P: byte positions kept of a token; the code has D = 256 P coordinates
    # of a token longer than P: head: its first P bytes, cut between characters | head_raw: its first P bytes |
    # head_tail: the first and the last P/2
    embedding.truncation = "head"
    # raw: the tokenizer's own bytes of an id | decode: what its decoder prints, as the author's package has it, where
    # all tokens that are part of a character become one
    embedding.byte_source = "raw"
    embedding.norm = "z"  # z: the paper's z-norm | length: the unit-norm code, no z-norm
    # auto | cached | onthefly | bag | gather | onehot | induced: how the product is computed; same numbers, other costs
    embedding.implementation = "auto"
    # how implementation=gather computes the projection's gradient: auto | scatter (atomic adds on a GPU) | onehot
    # (one-hot matrix products, whose sums have a fixed order)
    embedding.gather_gradient = "auto"
    embedding.cache_limit_mb = 1024.0  # the most memory a device may give to the codes of implementation=cached
    # of the table, of the product U Q or of the projection; 0: derived, .02 for the tables, the paper's 1/sqrt(D) for a
    # projection
    embedding.init_std = 0.0
    embedding.lr_mult = 1.0  # learning rate of the input embedding relative to the body's

    c.train = train = ml_collections.ConfigDict()
    train.batch = 16  # sequences a step, over all devices and accumulation
    train.sequence = 256  # tokens predicted a sequence
    train.steps = 0  # updates; 0: derived from train.tokens
    train.tokens = 1_000_000  # training tokens; used when train.steps is 0
    train.accumulate = 1  # micro-batches a step
    # tokens of one device whose float32 logits are in memory at a time, in training and evaluation; 0: all of a
    # micro-batch.  With V = 50,304 a token's take .2 MB, and as much for their gradient.
    train.loss_chunk = 0
    train.lr = 6e-4  # peak learning rate
    train.lr_final = 0.1  # end of the cosine, as a share of the peak
    train.warmup_tokens = 0  # linear warm-up; 0: warmup_share of the run
    train.warmup_share = 0.02  # of the run's steps, used when warmup_tokens is 0
    train.warmup_steps = 0  # 0: derived from the two above
    train.beta1 = 0.9
    train.beta2 = 0.95
    train.eps = 1e-8
    train.weight_decay = 0.1  # on matrices alone: linear kernels, tables, projection, head
    train.clip = 1.0  # global gradient norm; 0: no clipping
    # bitwise reproducible on one GPU, where sums have no fixed order otherwise; slower there, and refused on several
    train.deterministic = False

    c.eval = evaluation = ml_collections.ConfigDict()
    evaluation.every = 100  # steps; also before step 0 and after the last; 0: only after the last
    evaluation.batch = 0  # sequences; 0: train.batch / train.accumulate
    evaluation.sequences = 0  # the first so many held-out sequences; 0: every held-out token once

    c.checkpoint = checkpoint = ml_collections.ConfigDict()
    checkpoint.every = 100  # steps; the last step is always saved
    checkpoint.keep = 2  # newest checkpoints kept
    checkpoint.keep_every = 0  # steps whose checkpoints are kept for good; 0: none
    # another run's folder, of the same model and tokenizer, whose newest weights to begin with; empty: none
    checkpoint.init_from = ""
    checkpoint.grace_seconds = 30.0  # from SIGTERM to the end of the process, saved or not

    c.log = log = ml_collections.ConfigDict()
    log.every = 10  # steps between lines of metrics.jsonl
    # steps to profile, after 5 to warm up, in the first process alone; written to the run's folder `profile`, for XProf
    # or TensorBoard, and left out of tokens_per_second; 0: none
    log.profile_steps = 0
    log.tensorboard = False  # event files in the run's folder (tensorboardX)
    log.wandb = ""  # W&B project; empty: off

    # A folder, on a disk or gs://, in which compiled programs are kept for the next process; empty: JAX's own setting
    c.compilation_cache = ""

    # Devices along each axis, over all hosts; -1, for one of them: the rest.
    c.mesh = mesh = ml_collections.ConfigDict()
    mesh.data = -1  # splits the batch
    mesh.fsdp = 1  # splits the batch, and parameters and optimizer state along the model's width
    mesh.tensor = 1  # splits heads, the hidden layer and the vocabulary
    mesh.cpu_devices = 1  # simulated devices when the platform is CPU; 2 use two cores better than one does

    # The processes that train one run.  auto: several where SLURM, Open MPI or Cloud TPU started several, or where
    # coordinator, processes and index are set, here or as JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID
    c.distributed = distributed = ml_collections.ConfigDict()
    distributed.enabled = "auto"  # auto | on | off
    distributed.coordinator = ""  # HOST:PORT of process 0, reachable for all
    distributed.processes = 0  # how many; 0: not said
    distributed.index = -1  # of this one, from 0; -1: not said
    distributed.timeout_seconds = 300  # for all to come, and at the end for all to go
    distributed.heartbeat_seconds = 60  # without a sign of life after which a process is dead, and the run with it
    return c.lock()


def parse_arg(arg: str | None, **spec: Any) -> ml_collections.ConfigDict:
    """Returns the options written after a config file's colon, e.g. `gpt2.py:size=124m,arm=table_tied`.

    Args:
      arg: "key=value,key=value" or None.
      **spec: every allowed key with its default, whose type the value is converted to.

    Raises:
      ValueError: on an unknown or repeated key, a missing "=", or a value of the wrong type.
    """
    options = ml_collections.ConfigDict(spec, type_safe=False)
    seen = set()
    for item in filter(None, (arg or "").split(",")):
        key, equals, text = item.partition("=")
        if key not in spec or key in seen or not equals:
            fault = "repeated" if key in seen else "not known" if equals else "without a value"
            raise ValueError(f"config argument {item!r}: {key!r} is {fault}; write {_example(spec)}")
        seen.add(key)
        try:
            options[key] = type(spec[key])(text)
        except ValueError:
            raise ValueError(
                f"config argument {item!r}: {key} takes {type(spec[key]).__name__}, got {text!r}"
            ) from None
    return options


def apply(c: ml_collections.ConfigDict, overrides: dict[str, Any]) -> ml_collections.ConfigDict:
    """Sets dotted keys, e.g. {"embedding.pos_dim": 32}, and returns `c`; an unknown key raises KeyError."""
    c.update_from_flattened_dict(overrides)
    return c


def choose(table: dict[str, dict[str, Any]], name: str, what: str) -> dict[str, Any]:
    """Returns `table[name]`; an unknown name raises a ValueError that lists the known ones."""
    if name not in table:
        raise ValueError(f"{what} is {name!r}; known: {_list(table)}")
    return table[name]


def _example(spec: dict[str, Any]) -> str:
    return ":" + ",".join(f"{key}={value}" for key, value in spec.items())


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
