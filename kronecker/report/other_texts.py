"""Comparisons on other texts, from what `eval.py --data` has left in the runs' folders.

Runs are paired on a text only if all of them were evaluated on the same text, with the same tokenizer and window.
"""

import collections
import shlex
from collections.abc import Mapping
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
    of_runs = _read_all(comparison)
    shared = [key for key, found in _by_text(of_runs).items() if len(found) == len(of_runs)]
    made = []
    for key in shared:
        files = {run: found[key] for run, found in of_runs.items()}
        first = next(iter(files.values()))
        tokens_D = first["by_document"]["tokens"]
        text = compare.Text(first["name"], int(tokens_D.sum()), int(tokens_D.sum()), len(tokens_D))
        nats = {run: found["by_document"]["nats"] for run, found in files.items()}
        made.append(compare.on(comparison, compare.Evaluated(text, tokens_D, nats, first["text_bytes"])))
    return sorted(made, key=lambda one: one.text.name)


def to_json(comparison: compare.Comparison) -> dict[str, Any]:
    """Returns text -> its comparison, for a file."""
    return {one.text.name: compare.to_json(one) for one in compared(comparison)}


def lacking(comparison: compare.Comparison) -> list[str]:
    """Returns a sentence for each text that some of the runs were evaluated on and others not, with what to type."""
    of_runs, folders, told = _read_all(comparison), {}, []
    for arm in comparison.arms:
        folders |= {(arm.name, run.seed): run.folder for run in arm.runs}
    for key, found in _by_text(of_runs).items():
        if without := [str(folders[run]) for run in of_runs if run not in found]:
            one = next(iter(found.values()))
            options = (f"--{flag}={one[field]}" for field, flag in FLAGS.items() if one[field])
            command = shlex.join(["python", "eval.py", f"--workdir={without[0]}", *options])
            more = f" and for {', '.join(without[1:])}" if without[1:] else ""
            told.append(
                f"No table for the text {one['name']} (sha256 {key[0][:12]}), as {len(without)} of {len(of_runs)} runs "
                f"were not evaluated on it; run: {command}{more}."
            )
    return told


def _by_text(
    of_runs: Mapping[compare.RunKey, Mapping[TextKey, dict[str, Any]]],
) -> dict[TextKey, dict[compare.RunKey, dict[str, Any]]]:
    found: dict[TextKey, dict[compare.RunKey, dict[str, Any]]] = collections.defaultdict(dict)
    for run, of_run in of_runs.items():
        for key, content in of_run.items():
            found[key][run] = content
    return found


def _read_all(comparison: compare.Comparison) -> dict[compare.RunKey, dict[TextKey, dict[str, Any]]]:
    return {(arm.name, run.seed): _read(run) for arm in comparison.arms for run in arm.runs}


def _read(run: finished_runs.Run) -> dict[TextKey, dict[str, Any]]:
    folder, found = run.folder / rundir.TEXTS, {}
    for file in sorted(folder.iterdir()) if folder.exists() else ():
        if file.suffix == ".json":
            content = _checked(run, file)
            tokens = content["by_document"]["tokens"].tobytes()
            found[content["text_sha256"], content["sequence"], tokens] = content | {"name": file.stem}  # as renamed
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
