"""Comparisons on other texts, from what `eval.py --data` has left in the runs' folders.

Runs are paired on a text only if all of them were evaluated on the same text, with the same tokenizer and window.
"""

import collections
import shlex
from typing import Any

from etils import epath

from kronecker.report import compare, losses_by_token
from kronecker.run import finished_runs, rundir
from kronecker.runtime import storage

TextKey = tuple[str, int, bytes]  # the text's hash, the window, and the tokens of each document

FLAGS = {"source": "data", "text_field": "text_field", "split_field": "split_field", "name": "name"}  # of eval.py

_NEEDED = {**dict.fromkeys(FLAGS, str), "sequence": int, "text_sha256": str, "step": int} | {
    "tokenizer_fingerprint": str,
    "validation_loss": (float, type(None)),
    "text_bytes": int,
    "by_document": dict,
}


def compared(comparison: compare.Comparison) -> list[compare.Comparison]:
    """Returns the comparison on each text that all of its runs were evaluated on, by the text's name.

    Raises ValueError if a file is damaged, or belongs to another checkpoint, tokenizer or run than result.json.
    """
    made = []
    for found in _by_text(comparison).values():
        if len(found) == len(comparison.runs):
            first = next(iter(found.values()))
            nats = {key: one["by_document"]["nats"] for key, one in found.items()}
            tokens_D = first["by_document"]["tokens"]
            made.append(compare.on(comparison, first["name"], nats, tokens_D, first["text_bytes"]))
    return sorted(made, key=lambda one: one.text.name)


def to_json(comparison: compare.Comparison) -> dict[str, Any]:
    """Returns text -> its comparison, for a file."""
    return {one.text.name: compare.to_json(one) for one in compared(comparison)}


def lacking(comparison: compare.Comparison) -> list[str]:
    """Returns a sentence for each text that some of the runs were evaluated on and others not, with what to type."""
    told = []
    for (digest, *_), found in _by_text(comparison).items():
        if without := [str(run.folder) for key, run in comparison.by_key.items() if key not in found]:
            one = next(iter(found.values()))
            options = (f"--{flag}={one[field]}" for field, flag in FLAGS.items() if one[field])
            command = shlex.join(["python", "eval.py", f"--workdir={without[0]}", *options])
            more = f" and for {', '.join(without[1:])}" if without[1:] else ""
            told.append(
                f"No table for the text {one['name']} (sha256 {digest[:12]}), as {len(without)} of "
                f"{len(comparison.runs)} runs were not evaluated on it; run: {command}{more}."
            )
    return told


def _by_text(comparison: compare.Comparison) -> dict[TextKey, dict[compare.RunKey, dict[str, Any]]]:
    found: dict[TextKey, dict[compare.RunKey, dict[str, Any]]] = collections.defaultdict(dict)
    for key, run in comparison.by_key.items():
        folder = run.folder / rundir.TEXTS
        for file in sorted(folder.iterdir()) if folder.exists() else ():
            if file.suffix == ".json":
                content = _checked(run, file)
                tokens = content["by_document"]["tokens"].tobytes()
                text = content["text_sha256"], content["sequence"], tokens
                found[text][key] = content | {"name": file.stem}  # as renamed
    return found


def _checked(run: finished_runs.Run, file: epath.Path) -> dict[str, Any]:
    remedy = f"delete it and evaluate again: python eval.py --workdir={run.folder} --data=..."
    content = rundir.parsed(storage.read_whole(file, remedy=remedy), str(file), _NEEDED, remedy)
    belongs = {"step": run.result["step"], "validation_loss": run.result["validation_loss"]}
    belongs["tokenizer_fingerprint"] = run.result["tokenizer_fingerprint"]
    for name, expected in belongs.items():
        if content[name] != expected:
            raise ValueError(
                f"{file}: {name} is {content[name]}, but {expected} in {rundir.RESULT}, so it is of another "
                f"checkpoint; {remedy}"
            )
    return losses_by_token.columns(content, ("nats", "tokens", "bytes"), file, remedy)
