r"""Prints the loss of models that only count, on a run's own text: a scale for differences between arms.

  python scripts/count_models.py runs/demo/kronecker-seed0
  python scripts/count_models.py runs/demo/kronecker-seed0 --json=counts.json

The n-grams up to --order are counted on the batches that the run was trained
on, each as often as it was read, and predict every held-out token.  Smoothing
is interpolated Kneser-Ney with a discount of 0.75; nothing is fitted.  The run
needs its token_losses.npz (scripts/token_losses.py writes it) and its prepared
text.
"""

from kronecker.runtime import interrupts

if __name__ == "__main__":
    interrupts.end_silently()  # during the other imports

import itertools
import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from kronecker.runtime import cli, printing, storage

DISCOUNT = 0.75

_ORDER = flags.DEFINE_integer("order", 3, "The longest n-grams, in tokens.", lower_bound=1, upper_bound=4)
_JSON = flags.DEFINE_string("json", None, "Also write the losses to this file.")


class Counts(NamedTuple):
    """How often each n-gram of one length was seen, or, below the longest, after how many ids."""

    grams: np.ndarray  # int64, sorted: its ids as the digits of a number in base V, the last id lowest
    counts: np.ndarray
    contexts: np.ndarray  # of all but the last id, likewise
    totals: np.ndarray  # the sum of the counts after a context
    kinds: np.ndarray  # the number of ids after it


def main(folders: Sequence[str]) -> None:
    """Counts, and prints a table."""
    if len(folders) != 1:
        raise ValueError(f"give one run's folder, not {len(folders)}; for example runs/demo/kronecker-seed0")
    json_file = _JSON.value and storage.local_file(_JSON.value, "--json")
    found = of_run(folders[0], _ORDER.value)
    rows = [(name, f"{loss:.4f}", f"{bits:.4f}") for name, (loss, bits) in found["losses"].items()]
    printing.show(printing.Table(("model", "nats/\ntoken", "bits/\nbyte"), rows, ("model",)))
    print(f"counted on {found['tokens']:,} tokens, evaluated on {found['held_out_tokens']:,}")
    if json_file:
        storage.write_text(json_file, json.dumps(found, indent=1) + "\n")


def of_run(folder: str, order: int) -> dict[str, Any]:
    """Returns the losses of the models up to `order`, each as nats per token and bits per byte."""
    from kronecker.data import rows  # after the flags: --help should not wait for JAX
    from kronecker.report import losses_by_token
    from kronecker.run import finished_runs, rundir
    from kronecker.schema import resolution
    from kronecker.training import restore

    workdir = storage.open_path(folder)
    finished_runs.require_finished(workdir)
    run = finished_runs.read(workdir)
    losses = losses_by_token.read(run)
    if losses is None:
        raise ValueError(f"{folder}: no {rundir.TOKEN_LOSSES}; write it: python scripts/token_losses.py {folder}")
    config = rundir.read_config(workdir / rundir.CONFIG)
    prepared, tokenizer = restore.open_text(workdir, config)
    if prepared.fingerprint != run.result["data_fingerprint"]:
        raise ValueError(f"{folder}: was trained on another text than {config.data.source} is now; restore the text")
    config = resolution.with_vocabulary(config, tokenizer.vocab_size)
    vocab, train = config.model.vocab_size, config.train
    if vocab**order >= 2**63:
        raise ValueError(f"--order={order}: too long for {vocab:,} ids; lower it")
    batches = rows.train_batches(prepared, train.sequence, train.batch, config.seed)
    windows_NT = np.concatenate(list(itertools.islice(batches, run.result["step"])))
    text_N = np.append(losses["inputs"][:1], losses["targets"])  # the held-out text
    to_bits = len(losses["targets"]) / (math.log(2) * int(losses[losses_by_token.TEXT_BYTES]))
    found = {"uniform": math.log(vocab)}
    for n in range(1, order + 1):
        name = {1: "unigram", 2: "bigram", 3: "trigram"}.get(n, f"{n}-gram")
        found[name] = float(-np.log(probabilities(count(windows_NT, n, vocab), text_N, vocab)).mean())
    return {
        "run": workdir.name,
        "data_fingerprint": prepared.fingerprint,
        "tokens": windows_NT[:, 1:].size,
        "held_out_tokens": len(losses["targets"]),
        "losses": {name: [nats, nats * to_bits] for name, nats in found.items()},
    }


def count(windows_NT: np.ndarray, order: int, vocab: int) -> list[Counts]:
    """Returns the counts of n-grams within each window, of each length up to `order`, the shortest first."""
    longest = np.lib.stride_tricks.sliding_window_view(windows_NT, order, axis=1).reshape(-1, order)
    if order == 1:
        longest = windows_NT[:, 1:].reshape(-1, 1)  # what was predicted, as for longer ones
    grams, counts = np.unique(_numbers(longest, vocab), return_counts=True)
    found = []
    for length in range(order, 0, -1):
        contexts, first, kinds = np.unique(grams // vocab, return_index=True, return_counts=True)
        found.append(Counts(grams, counts, contexts, np.add.reduceat(counts, first), kinds))
        grams, counts = np.unique(grams % vocab ** (length - 1), return_counts=True)
    return found[::-1]


def probabilities(counted: Sequence[Counts], text_N: np.ndarray, vocab: int) -> np.ndarray:
    """Returns the probability of each id of a text after the first, given those before it, (N - 1,)."""
    found = np.full(len(text_N) - 1, 1 / vocab)
    for length, of_length in enumerate(counted, 1):
        known = slice(max(length - 2, 0), None)  # the ids with so many before them
        grams = np.lib.stride_tricks.sliding_window_view(text_N[length == 1 :], length)
        numbers = _numbers(grams, vocab)
        contexts = numbers // vocab
        totals = _value(of_length.contexts, of_length.totals, contexts)
        kinds = _value(of_length.contexts, of_length.kinds, contexts)
        own = np.maximum(_value(of_length.grams, of_length.counts, numbers) - DISCOUNT, 0)
        with np.errstate(invalid="ignore"):
            mixed = (own + DISCOUNT * kinds * found[known]) / totals
        found[known] = np.where(totals > 0, mixed, found[known])
    return found


def _numbers(grams: np.ndarray, vocab: int) -> np.ndarray:
    return grams.astype(np.int64) @ vocab ** np.arange(grams.shape[1] - 1, -1, -1, dtype=np.int64)


def _value(known: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Returns the value of each wanted number, 0 of one that is not known."""
    place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[place] == wanted, values[place], 0)


if __name__ == "__main__":
    cli.run(main, positional=True)
