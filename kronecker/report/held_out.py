"""Comparisons over all held-out tokens, where these were evaluated; else over those of the final validation."""

import shlex
from collections.abc import Sequence

import numpy as np
from etils import epath

from kronecker.report import compare, intervals, losses_by_token
from kronecker.run import finished_runs


def compared(
    found: Sequence[finished_runs.Run],
    baseline: str = compare.BASELINE,
    tuned: Sequence[str] = (),
    diverged: Sequence[finished_runs.Diverged] = (),
) -> compare.Comparison:
    """Returns `compare.compare`, over all held-out tokens if every run has its losses by document.

    Raises ValueError as it does, and as `losses_by_token.documents` does, or if two runs predicted other tokens.
    """
    comparison = compare.compare(found, baseline, tuned, diverged)
    if lacking(comparison):
        return comparison
    nats, tokens_D, text_bytes = {}, None, 0.0
    for key, run in comparison.by_key.items():
        losses = losses_by_token.documents(run)
        of_run = losses["by_document"]
        if tokens_D is not None and not np.array_equal(of_run["tokens"], tokens_D):
            losses_by_token.refuse_other_tokens(comparison.runs[0], run)
        tokens_D, text_bytes = of_run["tokens"], float(losses[losses_by_token.TEXT_BYTES])
        nats[key] = of_run["nats"]
    return compare.on(comparison, "", nats, tokens_D, text_bytes)


def lacking(comparison: compare.Comparison) -> list[str]:
    """Returns the folders of runs without losses by document; those of a version that did not count text are none."""
    return [str(run.folder) for run in comparison.runs if not losses_by_token.has_documents(run)]


def sentences(comparison: compare.Comparison) -> list[str]:
    """Returns which tokens the losses of a comparison are over, and what its intervals cover."""
    text, lacks = comparison.text, lacking(comparison)
    sequences = comparison.baseline.runs[0].config["eval.sequences"]
    if text.tokens is None:
        over = f"the first {sequences:,} held-out sequences" if sequences else "all held-out tokens"
    elif text.tokens == text.of:
        over = f"all {text.tokens:,} held-out tokens"
    else:
        whole = "an unrecorded number of" if text.of is None else f"{text.of:,}"
        over = f"the first {text.tokens:,} of {whole} held-out tokens (eval.sequences={sequences})"
    told = [f"Losses are over {over}."]
    if text.documents is not None:
        told[0] = f"Losses are over {over}, in {text.documents:,} documents."
        if text.documents < intervals.LEAST_DOCUMENTS:
            told.append(f"An interval over documents needs at least {intervals.LEAST_DOCUMENTS} documents.")
    elif lacks:
        more = "For all of them, with an" if text.tokens != text.of else "For an"
        folders = shlex.join(dict.fromkeys(str(epath.Path(folder).parent) for folder in lacks))
        told.append(f"{more} interval over documents, run: python scripts/token_losses.py {folders}")
    return told
