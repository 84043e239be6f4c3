"""Every arm, one record each: the input embeddings that paired runs compare.

To add an arm, add a record.  If it needs its own code or module, give it its own Kind, which names them as
"module:object": a config is read without JAX, so this file imports neither.

V is the vocabulary size, P the number of byte positions of a code, D its number of coordinates, d the model's width.
There is no arm for the self-entropy regulariser that the paper's author mentions: its formula is not published.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

CHAR_DIM = 256  # number of byte values
TABLE_STD = 0.02  # initial standard deviation of a learned table
BASELINE = "table_untied"  # paired differences are against this arm, unless --baseline names another
TARGETED = "kronecker"  # the paper's arm, for which speed targets are set


def byte_grid(pos_dim: int) -> int:
    """Returns D of a code with one coordinate for each byte value at each of P positions."""
    return CHAR_DIM * pos_dim


@dataclasses.dataclass(frozen=True)
class Kind:
    """An input embedding, selected by embedding.kind."""

    name: str
    # the Flax module: built with features, init_std, dtype, param_dtype and what `takes` names; called as (ids, bag)
    module: str = "kronecker.embedding.linen:BagEmbed"
    takes: tuple[str, ...] = ("rows", "logit_scale", "mesh")  # also "vocab", "rank"; rows, logit_scale need a bag
    bag: str = ""  # the function (codec.ByteTable, norm) -> bags.Bag that makes its code; empty: no code
    drawn: bool = False  # whether `bag` takes the number of a draw as a third argument
    code_dim: Callable[[int], int] = byte_grid  # P -> D, the number of rows of its bag
    init_std: float = 0.0  # initial std of its matrix where embedding.init_std is 0; 0: 1/sqrt(D)
    norms: tuple[str, ...] = ()  # allowed values of embedding.norm; empty: all
    truncation: str = ""  # required value of embedding.truncation; empty: any
    tieable: bool = False  # whether its table can be the output head; the module then has output(bag)

    @property
    def is_code(self) -> bool:
        """Whether it is a code times a projection and nothing else, so that a graft can fit the projection."""
        return bool(self.bag) and self.module == Kind.module


@dataclasses.dataclass(frozen=True)
class Arm:
    """One arm: its kind, the config keys that it sets, and how figures draw it."""

    name: str
    kind: Kind
    colour: str  # in figures, a key of plot.COLOURS
    dash: str  # in figures, a key of plot.DASHES
    line: str  # what it is and what it tests, for reports
    embedding: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # the keys that it sets in this config group
    tie_head: bool = False  # its value of model.tie_head

    @property
    def overrides(self) -> dict[str, Any]:
        """Returns {dotted key: value}, with every key in which arms differ, so that any config then runs this arm."""
        plain = {"arm": self.name, "norm": "z", "truncation": "head", "init_std": 0.0, "kind": self.kind.name}
        plain["rank_rows"] = "all"
        group = {f"embedding.{key}": value for key, value in {**plain, **self.embedding}.items()}
        return group | {"model.tie_head": self.tie_head}


TABLE = Kind("table", "kronecker.embedding.linen:TableEmbed", ("vocab",), init_std=TABLE_STD, tieable=True)
FACTORIZED = Kind("factorized", "kronecker.embedding.linen:FactorizedEmbed", ("vocab", "rank"), init_std=TABLE_STD)
KRONECKER = Kind("kronecker", bag="kronecker.embedding.bags:kronecker_bag", tieable=True)
HEAD_TAIL = Kind("head_tail", bag="kronecker.embedding.controls:head_tail_bag", truncation="head_tail")
RANDOM_CODE = Kind("random_code", bag="kronecker.embedding.controls:random_code_bag", drawn=True)
SHUFFLED_CODE = Kind("shuffled_code", bag="kronecker.embedding.controls:shuffled_code_bag", drawn=True)
SHUFFLED_CODE_SPACE = Kind(
    "shuffled_code_space", bag="kronecker.embedding.controls:shuffled_code_space_bag", drawn=True
)
TABLE_PLUS_KRONECKER = Kind(
    "table_plus_kronecker",
    "kronecker.embedding.linen:TablePlusBagEmbed",
    ("vocab", "rows", "mesh"),
    bag="kronecker.embedding.bags:kronecker_bag",
    init_std=TABLE_STD,
)
# The z-norm is not allowed: its closed form holds for distinct cells, and grams may share a cell.
HASH_NGRAM = Kind("hash_ngram", bag="kronecker.embedding.controls:hash_ngram_bag", norms=("length",))
UNIT = {"norm": "length", "init_std": TABLE_STD}  # unit norm, and the initial std of a table

_ARMS = (
    Arm(
        *("table_untied", TABLE, "black", "solid"),
        "a learned table E (V, d), initially N(0, 0.02²), with a separate output head: the paper has no such baseline",
    ),
    Arm(
        *("table_tied", TABLE, "orange", "dashed"),
        "a learned table whose transpose is also the output head: the paper's baseline",
        tie_head=True,
    ),
    Arm(
        *("table_std1", TABLE, "sky", "dashed"),
        "table_untied with the initial std of kronecker, 1: tests the effect of initial scale, as kronecker_unit does",
        {"init_std": 1.0},
    ),
    Arm(
        *("factorized", FACTORIZED, "purple", "solid"),
        "a low-rank table, U (V, r) Q (r, d), with as many parameters as kronecker: tests the effect of low rank",
    ),
    Arm(
        *("factorized_live", FACTORIZED, "purple", "dashed"),
        "factorized with as many parameters as the rows of kronecker's projection that some token uses",
        {"rank_rows": "used"},
    ),
    Arm(
        *("kronecker", KRONECKER, "blue", "solid"),
        "the paper's encoder: the z-normalised byte code times a projection, initially N(0, 1/D): output std 1",
    ),
    Arm(
        *("kronecker_unit", KRONECKER, "vermilion", "dashdot"),
        "kronecker with unit norm in place of the z-norm, and initial std 0.02: output at the scale of a table",
        UNIT,
    ),
    Arm(
        *("kronecker_tied", KRONECKER, "green", "solid"),
        "kronecker whose induced table, times one learned scale, is also the output head",
        tie_head=True,
    ),
    Arm(
        *("kronecker_unit_tied", KRONECKER, "green", "dashdot"),
        "kronecker_unit whose induced table is also the output head: table_tied with spelling, and fewer parameters",
        UNIT,
        tie_head=True,
    ),
    Arm(
        *("table_plus_kronecker", TABLE_PLUS_KRONECKER, "black", "dashdot"),
        "table_untied plus a code of unit norm times W, which begins at 0: what spelling adds (arXiv 2601.18030)",
        UNIT,
    ),
    Arm(
        *("head_tail", HEAD_TAIL, "blue", "dotted"),
        "kronecker with positions counted from both ends: encodes suffixes, and bytes beyond the first P",
        {"truncation": "head_tail"},
    ),
    Arm(
        *("shuffled_code", SHUFFLED_CODE, "sky", "dotted"),
        "kronecker with codes exchanged among ids of equal length: the same codes, so it tests spelling alone",
    ),
    Arm(
        *("shuffled_code_space", SHUFFLED_CODE_SPACE, "orange", "dotted"),
        "shuffled_code that also keeps which ids begin with a space",
    ),
    Arm(
        *("random_code", RANDOM_CODE, "green", "dotted"),
        "kronecker with pseudo-random bytes for each id: tokens share rows, but not by spelling",
    ),
    Arm(
        *("hash_ngram", HASH_NGRAM, "purple", "dotted"),
        "kronecker_unit with hashed byte 1- to 3-grams as cells: spelling without the grid of positions",
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
    """Returns the initial std of the input matrix where embedding.init_std is 0; `values` is {dotted key: value}."""
    known = kind(values["embedding.kind"])
    return known.init_std or known.code_dim(values["embedding.pos_dim"]) ** -0.5


def faults(values: Mapping[str, Any]) -> Iterator[str]:
    """Yields an error for each value that the config's kind or its arm label does not allow.

    `values` is {dotted key: value}, with all keys; `keys.fault` checks each value by itself.
    """
    name, label, tie_head = (values[key] for key in ("embedding.kind", "embedding.arm", "model.tie_head"))
    if name not in KINDS:
        return
    known, norm, truncation = KINDS[name], values["embedding.norm"], values["embedding.truncation"]
    if tie_head and not known.tieable:
        tieable = " or ".join(one.name for one in KINDS.values() if one.tieable)
        yield f"model.tie_head is True but embedding.kind is {name}; set it to False, or use embedding.kind {tieable}"
    if known.truncation and truncation != known.truncation:
        yield f"embedding.truncation is {truncation} but embedding.kind={name} needs {known.truncation}; set it to that"
    if known.norms and norm not in known.norms:
        yield f"embedding.norm is {norm} but embedding.kind={name} needs {' or '.join(known.norms)}; set it to that"
    if values["embedding.rank"] and "rank" not in known.takes:
        yield f"embedding.rank is {values['embedding.rank']} but embedding.kind={name} has no rank; set it to 0"
    if values["embedding.redraw"] and not known.drawn:
        drawn = " or ".join(one.name for one in KINDS.values() if one.drawn)
        yield f"embedding.redraw is True, but kind {known.name} draws nothing; set it to False, or kind to {drawn}"
    if values["embedding.rank_rows"] == "used" and (values["embedding.rank"] or "rank" not in known.takes):
        yield "embedding.rank_rows is used, which derives the rank of kind factorized; set it to all, or rank to 0"
    advice = "write :arm=NAME after the config file, or set embedding.arm to a new name"
    # A label that is no arm is allowed, unless it names another kind or head than the config's.
    names_a_kind = label.startswith(tuple(KINDS)) and not label.startswith(name)
    if ARMS[label].kind is not known if label in ARMS else names_a_kind:
        yield f"embedding.arm is {label!r} but embedding.kind is {name!r}; {advice}"
    if label.endswith(("_tied", "_untied")) and label.endswith("_tied") != tie_head:
        yield f"embedding.arm is {label!r} but model.tie_head is {tie_head}; {advice}"
