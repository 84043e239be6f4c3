"""How much two predictions differ: the four metrics of the paper's section 6.11, at two prompts' last positions.

Shapes: V vocabulary (padded), d model width.
"""

import dataclasses

import numpy as np

METRICS = ("stable", "kl", "cosine", "drop")


@dataclasses.dataclass(frozen=True)
class Shift:
    """What a typo changes at the last position."""

    stable: bool  # whether the most likely id stays the same; the lowest of equally likely ids counts
    kl: float  # KL(clean || typo) over the vocabulary, nats; infinite if the typo makes a possible id impossible
    cosine: float  # of the two final hidden states, after the final norm; 0 with a zero vector
    drop: float  # log p(clean top-1 | clean) - log p(same id | typo), nats


def shift(clean_V: np.ndarray, typo_V: np.ndarray, clean_d: np.ndarray, typo_d: np.ndarray) -> Shift:
    """Returns the four metrics of one pair, computed in float64, from logits and final hidden states at the last
    positions.

    A logit of -inf has no probability.  Raises ValueError if a logit is NaN or +inf, or none is finite.
    """
    clean_V, typo_V = log_softmax(clean_V), log_softmax(typo_V)
    top = int(clean_V.argmax())
    return Shift(
        stable=top == int(typo_V.argmax()),
        kl=divergence(clean_V, typo_V),
        cosine=cosine(clean_d, typo_d),
        drop=float(clean_V[top] - typo_V[top]),
    )


def log_softmax(logits_V: np.ndarray) -> np.ndarray:
    """Returns log probabilities in float64; -inf stays.

    Raises ValueError if a logit is NaN or +inf, or none is finite.
    """
    logits_V = np.asarray(logits_V, np.float64)
    if not np.isfinite(logits_V.max()):  # the maximum of anything with a NaN is NaN
        raise ValueError("logits are NaN, +inf or all -inf, so the run diverged; give a run whose losses are finite")
    shifted_V = logits_V - logits_V.max()
    return shifted_V - np.log(np.exp(shifted_V).sum())


def divergence(p_V: np.ndarray, q_V: np.ndarray) -> float:
    """Returns KL(p || q) in nats of two distributions given as log probabilities; ids that p rules out add nothing."""
    probability_V = np.exp(p_V)
    possible = probability_V > 0
    return float(probability_V[possible] @ (p_V[possible] - q_V[possible]))


def cosine(a_d: np.ndarray, b_d: np.ndarray) -> float:
    """Returns the cosine of two vectors, in float64; 0 with a zero vector."""
    a_d, b_d = np.asarray(a_d, np.float64), np.asarray(b_d, np.float64)
    norms = float(np.linalg.norm(a_d) * np.linalg.norm(b_d))
    return float(a_d @ b_d) / norms if norms else 0.0
