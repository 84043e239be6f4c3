"""Token losses of finished runs, from scripts/token_losses.py; refused unless they belong to the end of the run.

Shapes: N held-out predictions in D documents, V vocabulary.
"""

import contextlib
import os
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, NoReturn

import numpy as np

from kronecker.report import compare
from kronecker.run import finished_runs, rundir
from kronecker.runtime import storage

TokenLosses = Mapping[str, np.ndarray]
OfRuns = Mapping[compare.RunKey, TokenLosses]

# The evaluation at a run's end and token_losses.py add the same numbers in different orders, perhaps on other devices.
CLOSE = 2e-3  # nats per token
SHARED = ("inputs", "targets")
TEXT_BYTES, LOSS = NEWER = "text_bytes", "validation_loss"  # than the other arrays
# The arrays: the kind of their type, and their axis, "" for none.
ARRAYS = {"nats": ("f", "N"), **dict.fromkeys(SHARED, ("i", "N"))}
ARRAYS |= dict.fromkeys(("train_count", "bytes", "script", "code_group"), ("i", "V"))
ARRAYS |= dict.fromkeys(("special", "after_space"), ("b", "V")) | {"scripts": ("U", "S")}
ARRAYS |= {"step": ("i", ""), "data_fingerprint": ("U", ""), TEXT_BYTES: ("i", ""), LOSS: ("f", "")}
_OF_RUN = {"training_step": int, "data_fingerprint": str, "validation_loss": float}  # of held_out.json
_DOCUMENTS = _OF_RUN | {TEXT_BYTES: int, "by_document": dict}
MOST_UNPACKED = 2**28, 64  # bytes that may come of any file, and of each of its own: losses hardly pack


def read(run: finished_runs.Run) -> TokenLosses | None:
    """Returns the arrays of a run's token_losses.npz (`training.token_losses` says which), or None if it has none.

    Raises ValueError if they are damaged, or belong to another checkpoint, other data or an earlier run in this folder:
    their mean over the tokens of the final evaluation must be its loss.
    """
    file = run.folder / rundir.TOKEN_LOSSES
    if not file.exists():
        return None
    storage.check_ends(file)
    again = f"rewrite it: python scripts/token_losses.py --again {run.folder}"
    with file.open("rb") as opened:
        try:
            losses = _checked(opened)
        except Exception as error:  # zipfile and NumPy raise many kinds for files that are not whole
            if storage.is_of_access(error):
                raise
            raise ValueError(f"{file}: damaged ({str(error) or type(error)}); {again}") from error
    loss = run.result["validation_loss"]
    of_run = int(losses["step"]), str(losses["data_fingerprint"]), float(losses.get(LOSS, loss))
    evaluated = run.config["eval.sequences"] * run.config["train.sequence"] or None
    mean = float(losses["nats"][:evaluated].mean(dtype=np.float64))
    if of_run != (run.result["step"], run.result["data_fingerprint"], loss):
        raise ValueError(f"{file}: belongs to another checkpoint or other data than {rundir.RESULT}; {again}")
    if not abs(mean - loss) <= CLOSE:
        raise ValueError(
            f"{file}: has {mean:.4f} nats/token where {rundir.RESULT} has {loss:.4f}, so it belongs to another run; "
            f"{again}"
        )
    return losses


def _checked(opened: BinaryIO) -> dict[str, np.ndarray]:
    """Returns ARRAYS from an open file; raises ValueError if one is missing or cannot be, or what NumPy raises."""
    most = max(MOST_UNPACKED[0], MOST_UNPACKED[1] * opened.seek(0, os.SEEK_END))
    with np.lib.npyio.NpzFile(opened) as arrays:  # it reads no pickles; an array is read when it is asked for
        if (size := sum(part.file_size for part in arrays.zip.infolist())) > most:
            raise ValueError(f"unpacks to {size:,} bytes")
        found = {name: np.asarray(arrays[name]) for name in ARRAYS if name in arrays.files or name not in NEWER}
    shapes: dict[str, tuple[int, ...]] = {"": ()}
    for name, array in found.items():
        kind, axis = ARRAYS[name]
        shape = shapes.setdefault(axis, (array.size,))
        if array.dtype.kind != kind or array.shape != shape or not array.size:
            raise ValueError(f"{name} is {array.dtype} of shape {array.shape}, beside others of {shape}")
    ids = dict.fromkeys(SHARED, shapes["V"]) | {"script": shapes["S"]}
    for name in (*ids, "code_group", "train_count", "bytes", TEXT_BYTES):
        array, least, (end,) = found.get(name, np.zeros(1)), -(name == "code_group"), ids.get(name, (np.inf,))
        if array.min() < least or array.max() >= end:
            raise ValueError(f"{name} has values from {array.min()} to {array.max()}; allowed: {least} to below {end}")
    if not np.isfinite(found["nats"]).all():
        raise ValueError("nats has values that are not finite")
    return found


def of_documents(losses: TokenLosses, validation_loss: float) -> dict[str, Any]:
    """Returns the sums of a run's token losses by document, for held_out.json; the loss of its result tells whose."""
    # Only end-of-text, which follows each document, is a special id: text never becomes one.
    document_N = np.cumsum(losses["special"][losses["inputs"]])
    sums_D = np.bincount(document_N, losses["nats"].astype(np.float64))
    return {
        "training_step": int(losses["step"]),
        "data_fingerprint": str(losses["data_fingerprint"]),
        "validation_loss": validation_loss,
        TEXT_BYTES: int(losses[TEXT_BYTES]),
        "by_document": {"nats": sums_D.tolist(), "tokens": np.bincount(document_N).tolist()},
    }


def documents(run: finished_runs.Run) -> dict[str, Any]:
    """Returns the held-out losses of a run with `has_documents` as `of_documents`, the columns as arrays (D,).

    They are from token_losses.npz or, without one, from held_out.json.  Raises ValueError as `read` does.
    """
    if not counts_text(run):
        return kept(run)
    found = of_documents(read(run), run.result["validation_loss"])
    return found | {
        "by_document": {name: np.array(column, np.float64) for name, column in found["by_document"].items()}
    }


def kept(run: finished_runs.Run) -> dict[str, Any]:
    """Returns the content of a run's held_out.json as `documents`; raises ValueError if it is of another run."""
    return record(run, rundir.HELD_OUT, _DOCUMENTS, ("nats", "tokens"))


def record(run: finished_runs.Run, name: str, needed: Mapping[str, Any], of: Sequence[str] = ()) -> dict[str, Any]:
    """Returns what scripts/token_losses.py wrote; `needed` is as of `rundir.parsed`, `of` are names as of `columns`.

    Raises ValueError if it is damaged, or of another checkpoint than the run's result.
    """
    file, remedy = run.folder / name, f"write it again: python scripts/token_losses.py --again {run.folder}"
    found = rundir.parsed(storage.read_whole(file, remedy=remedy), str(file), needed, remedy)
    of_result = run.result | {"training_step": run.result["step"]}
    if other := [name for name in _OF_RUN if name in needed and found[name] != of_result[name]]:
        raise ValueError(f"{file}: belongs to another run than {rundir.RESULT}: {other[0]} differs; {remedy}")
    return columns(found, of, file, remedy) if of else found


def has_documents(run: finished_runs.Run) -> bool:
    """Returns whether a run has its losses on all held-out documents."""
    return counts_text(run) or (run.folder / rundir.HELD_OUT).exists()


def columns(content: dict[str, Any], names: Sequence[str], file: Any, remedy: str) -> dict[str, Any]:
    """Returns a file's content with `names` of its by_document as arrays (D,); raises ValueError if they cannot be."""
    lists = [content["by_document"].get(name) for name in names]
    numbers = all(isinstance(one, list) and all(rundir.is_of(value, float) for value in one) for one in lists)
    if not numbers or len(set(map(len, lists))) != 1:
        raise ValueError(f"{file}: by_document needs lists of numbers of equal length: {', '.join(names)}; {remedy}")
    found = {name: np.array(column, np.float64) for name, column in zip(names, lists, strict=True)}
    tokens_D = found["tokens"]
    if (tokens_D < 0).any() or (tokens_D % 1).any() or not tokens_D.any() or content[TEXT_BYTES] < 0:
        raise ValueError(f"{file}: tokens and {TEXT_BYTES} must be whole numbers from 0, some above 0; {remedy}")
    return content | {"by_document": found}


def read_all(comparison: compare.Comparison) -> dict[compare.RunKey, TokenLosses]:
    """Returns (arm, seed) -> token losses of every run of a comparison; empty if one of them has none.

    Arrays that all runs share are kept once.  Raises ValueError as `read` does, or if two runs predicted other tokens.
    """
    found: dict[compare.RunKey, TokenLosses] = {}
    if missing(comparison):
        return found
    first: TokenLosses | None = None
    for key, run in comparison.by_key.items():
        losses = read(run)
        first = first or losses
        if not all(np.array_equal(losses[name], first[name]) for name in SHARED):
            refuse_other_tokens(comparison.runs[0], run)
        found[key] = dict(losses) | {name: first[name] for name in SHARED}
    return found


def missing(comparison: compare.Comparison) -> list[str]:
    return [str(run.folder) for run in comparison.runs if not (run.folder / rundir.TOKEN_LOSSES).exists()]


def counts_text(run: finished_runs.Run) -> bool:
    """Returns whether a run has token losses that also count the bytes of their text."""
    file = run.folder / rundir.TOKEN_LOSSES
    if not file.exists():
        return False
    with file.open("rb") as opened, contextlib.suppress(ValueError, NotImplementedError, zipfile.BadZipFile):
        return f"{TEXT_BYTES}.npy" in zipfile.ZipFile(opened).namelist()
    return True  # `read` tells what is wrong


def refuse_other_tokens(one: finished_runs.Run, other: finished_runs.Run) -> NoReturn:
    raise ValueError(
        f"{one.folder} and {other.folder} have losses on different held-out tokens; rewrite both: python "
        f"scripts/token_losses.py --again {one.folder} {other.folder}"
    )
