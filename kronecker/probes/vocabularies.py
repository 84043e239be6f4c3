"""The share of vocabularies that fits into a code: the paper's Table 3."""

from collections.abc import Sequence

import numpy as np

from kronecker import tokenization
from kronecker.probes import subjects, survey, vocabulary_coverage
from kronecker.run import result

POS_DIMS = tuple(vocabulary_coverage.PAPER_COVERAGE)
COLLIDING = (16, 32)
COLUMNS = ("vocabulary", "ordinary tokens", *(f"fit, P = {pos_dim}, %" for pos_dim in POS_DIMS))
COLUMNS += tuple(f"share a code, P = {pos_dim}" for pos_dim in COLLIDING)


def load(specs: Sequence[str]) -> list[tokenization.Tokenizer]:
    """Returns the tokenizers of --vocabularies; raises ValueError if there are none, or one is given twice."""
    loaded = [tokenization.load(spec) for spec in specs]
    if not loaded or len({tokenizer.name for tokenizer in loaded}) < len(loaded):
        raise ValueError(f"--vocabularies={','.join(specs)}: give at least one tokenizer, and each once, e.g. gpt2")
    return loaded


def codes(vocabularies: Sequence[tokenization.Tokenizer], pos_dim: int) -> list[result.Result]:
    """Returns the coverage of the codes of vocabularies, and their geometry at `pos_dim` beside a random table's."""
    found = [subjects.Codec(f"codec, {tokenizer.name}", tokenizer, pos_dim) for tokenizer in vocabularies]
    return [measure(vocabularies), *survey.survey([*found, subjects.random(vocabularies[0])], {"P": str(pos_dim)})]


def measure(vocabularies: Sequence[tokenization.Tokenizer]) -> result.Result:
    """Returns a row for each vocabulary, their mean, and the mean as the author's package counts."""
    rows = [_row(tokenizer) for tokenizer in vocabularies]
    shares = np.mean([row[2 : 2 + len(POS_DIMS)] for row in rows], axis=0).tolist()
    shorter = np.mean([_shorter(tokenizer) for tokenizer in vocabularies], axis=0).tolist()
    none = (None,) * len(COLLIDING)
    return result.Result(
        name="coverage",
        title="Tokens whose bytes all fit into a code",
        source="Table 3",
        conditions={"vocabularies": ", ".join(tokenizer.name for tokenizer in vocabularies)},
        columns=COLUMNS,
        rows=[
            *rows,
            ("mean", None, *shares, *none),
            ("mean, tokens of exactly P bytes counted as cut", None, *shorter, *none),
        ],
        paper=[("mean", None, *(100 * share for share in vocabulary_coverage.PAPER_COVERAGE.values()), *none)],
        notes=(
            "Counted over tokens that have bytes and are not special. The author's package counts a token of exactly P "
            "bytes as cut, and so does the last of our rows. Tokens that share a code have one embedding.",
        ),
        paper_conditions={"vocabularies": "Llama 3.2, Qwen3, Gemma 3, DeepSeek V3, GPT-OSS, SmolLM2"},
    )


def _row(tokenizer: tokenization.Tokenizer) -> tuple[result.Cell, ...]:
    found = {pos_dim: vocabulary_coverage.cover(tokenizer, pos_dim, examples=0) for pos_dim in POS_DIMS}
    counts = {pos_dim: one.ordinary for pos_dim, one in found.items()}
    shares = (100 * counts[pos_dim].coverage for pos_dim in POS_DIMS)
    colliding = (counts[pos_dim].colliding for pos_dim in COLLIDING)
    return (tokenizer.name, counts[POS_DIMS[0]].tokens, *shares, *colliding)


def _shorter(tokenizer: tokenization.Tokenizer) -> list[float]:
    """Returns the shares of ordinary tokens with fewer than P bytes, in percent."""
    special = set(tokenizer.special_ids)
    sizes = np.array([len(token) for i, token in enumerate(tokenizer.token_bytes) if token and i not in special])
    return [100 * float((sizes < pos_dim).mean()) if len(sizes) else float("nan") for pos_dim in POS_DIMS]
