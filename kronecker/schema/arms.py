"""Every arm, one record each: what a run of a pair may replace the input embedding with.

A new arm is a record.  One with a code or a module of its own has a Kind of its own, which names what makes them as
"module:object": a config is read without JAX, so nothing is imported here.

V is the vocabulary, P the byte positions of a code, D its coordinates, d the model's width.  The self-entropy
regulariser that the paper's author mentions is no arm: its formula is not published.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

CHAR_DIM = 256  # byte values
TABLE_STD = 0.02  # of a learned table's initial entries
BASELINE = "table_untied"  # of every paired difference, unless another is asked for
TARGETED = "kronecker"  # the paper's, which targets of speed are set for


def byte_grid(pos_dim: int) -> int:
    """Returns D of a code with a coordinate for each byte value at each of P positions."""
    return CHAR_DIM * pos_dim


@dataclasses.dataclass(frozen=True)
class Kind:
    """An input embedding: what embedding.kind says."""

    name: str
    # of the Flax module: made with features, init_std, dtype, param_dtype and what it `takes`; called as (ids, bag)
    module: str = "kronecker.embedding.linen:BagEmbed"
    takes: tuple[str, ...] = ("rows", "logit_scale", "mesh")  # of these, vocab and rank; the first two need a bag
    bag: str = ""  # of the function (codec.ByteTable, norm) -> bags.Bag that makes its code; empty: it has none
    code_dim: Callable[[int], int] = byte_grid  # P -> D, the rows of its bag
    init_std: float = 0.0  # of its matrix, where embedding.init_std is 0; 0: 1/sqrt(D)
    norms: tuple[str, ...] = ()  # of embedding.norm, that it allows; empty: all
    truncation: str = ""  # of embedding.truncation, that it needs; empty: any
    tieable: bool = False  # whether its table can be the head: the module then has output(bag)


@dataclasses.dataclass(frozen=True)
class Arm:
    """What sets an arm apart."""

    name: str
    kind: Kind
    colour: str  # in figures, a key of plot.COLOURS
    dash: str  # in figures, a key of plot.DASHES
    line: str  # what it is, and what for
    embedding: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # what it sets in that group of a config
    tie_head: bool = False  # as model.tie_head

    @property
    def overrides(self) -> dict[str, Any]:
        """Returns dotted key -> value.

        The keys that set arms apart are all there, so that a sweep whose config was changed still runs this arm.
        """
        plain = {"arm": self.name, "norm": "z", "truncation": "head", "init_std": 0.0, "kind": self.kind.name}
        group = {f"embedding.{key}": value for key, value in {**plain, **self.embedding}.items()}
        return group | {"model.tie_head": self.tie_head}


TABLE = Kind("table", "kronecker.embedding.linen:TableEmbed", ("vocab",), init_std=TABLE_STD, tieable=True)
FACTORIZED = Kind("factorized", "kronecker.embedding.linen:FactorizedEmbed", ("vocab", "rank"), init_std=TABLE_STD)
KRONECKER = Kind("kronecker", bag="kronecker.embedding.bags:kronecker_bag", tieable=True)
HEAD_TAIL = Kind("head_tail", bag="kronecker.embedding.controls:head_tail_bag", truncation="head_tail")
RANDOM_CODE = Kind("random_code", bag="kronecker.embedding.controls:random_code_bag")
# Of one norm: grams may share a cell, and the z-norm's closed form is that of distinct cells.
HASH_NGRAM = Kind("hash_ngram", bag="kronecker.embedding.controls:hash_ngram_bag", norms=("length",))
UNIT = {"norm": "length", "init_std": TABLE_STD}  # the code's norm, and a table's initial std

_ARMS = (
    Arm(
        *("table_untied", TABLE, "black", "solid"),
        "a learned table E (V, d), N(0, .02²) at first, and a head of its own: the baseline that the paper lacks",
    ),
    Arm(
        *("table_tied", TABLE, "orange", "dashed"),
        "a learned table whose transpose is the head: the paper's baseline",
        tie_head=True,
    ),
    Arm(
        *("table_std1", TABLE, "sky", "dashed"),
        "table_untied that starts at the scale of kronecker: the mirror of kronecker_unit",
        {"init_std": 1.0},
    ),
    Arm(
        *("factorized", FACTORIZED, "purple", "solid"),
        "a table of low rank, U (V, r) Q (r, d), with the parameters of the projection: what low rank alone does",
    ),
    Arm(
        *("kronecker", KRONECKER, "blue", "solid"),
        "the paper's encoder: the z-normalised byte code times a projection, N(0, 1/D) at first, output std 1",
    ),
    Arm(
        *("kronecker_unit", KRONECKER, "vermilion", "dashdot"),
        "the same code with unit norm and no z-norm, and a projection at .02: kronecker at a table's scale",
        UNIT,
    ),
    Arm(
        *("kronecker_tied", KRONECKER, "green", "solid"),
        "kronecker whose induced table, times one learned scale, is the head too",
        tie_head=True,
    ),
    Arm(
        *("head_tail", HEAD_TAIL, "blue", "dotted"),
        "kronecker whose positions count from both ends: suffixes, and tokens that differ after byte P",
        {"truncation": "head_tail"},
    ),
    Arm(
        *("random_code", RANDOM_CODE, "green", "dotted"),
        "kronecker with pseudo-random bytes for each id: the same sharing of rows without spelling",
    ),
    Arm(
        *("hash_ngram", HASH_NGRAM, "purple", "dotted"),
        "kronecker_unit with hashed byte 1- to 3-grams for cells: spelling without the grid of positions",
        UNIT,
    ),
)
ARMS = {arm.name: arm for arm in _ARMS}
KINDS = {arm.kind.name: arm.kind for arm in ARMS.values()}


def kind(name: str) -> Kind:
    """Returns the kind of that name; raises ValueError if there is none."""
    if name not in KINDS:
        raise ValueError(f"embedding.kind is {name!r}; allowed: {', '.join(KINDS)}")
    return KINDS[name]


def derived_init_std(values: Mapping[str, Any]) -> float:
    """Returns the initial std of an input matrix where embedding.init_std is 0; `values`: dotted key -> value."""
    known = kind(values["embedding.kind"])
    return known.init_std or known.code_dim(values["embedding.pos_dim"]) ** -0.5


def faults(values: Mapping[str, Any]) -> Iterator[str]:
    """Yields what a config's kind, and the arm that it names, do not allow.

    `values`: dotted key -> value, of all keys; what is wrong with a value alone is left to others.
    """
    name, label, tie_head = (values[key] for key in ("embedding.kind", "embedding.arm", "model.tie_head"))
    if name not in KINDS:
        return
    known, norm, truncation = KINDS[name], values["embedding.norm"], values["embedding.truncation"]
    if tie_head and not known.tieable:
        tieable = " or ".join(one.name for one in KINDS.values() if one.tieable)
        yield f"model.tie_head needs embedding.kind {tieable}, got {name}"
    if known.truncation and truncation != known.truncation:
        yield f"embedding.kind={name} needs embedding.truncation={known.truncation}, got {truncation}"
    if known.norms and norm not in known.norms:
        yield f"embedding.kind={name} needs embedding.norm={' or '.join(known.norms)}, got {norm}"
    if values["embedding.rank"] and "rank" not in known.takes:
        yield f"embedding.rank is {values['embedding.rank']}, which kind {name} does not have; leave it at 0"
    advice = "choose the arm by name, :arm=NAME, or set embedding.arm to a name of your own"
    # A label that no record bears may be any that does not say another kind, or another head, than the config has.
    names_a_kind = label.startswith(tuple(KINDS)) and not label.startswith(name)
    if ARMS[label].kind is not known if label in ARMS else names_a_kind:
        yield f"embedding.arm is {label!r} but embedding.kind is {name!r}; {advice}"
    if label.endswith(("_tied", "_untied")) and label.endswith("_tied") != tie_head:
        yield f"embedding.arm is {label!r} but model.tie_head is {tie_head}; {advice}"
