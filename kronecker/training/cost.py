"""The cost of runs before they start: tokens, training FLOPs, and hours on one device at an assumed MFU."""

from collections.abc import Sequence

import ml_collections

from kronecker import tokenization
from kronecker.model import accounting
from kronecker.runtime import hardware
from kronecker.schema import resolution

DEVICE = "NVIDIA H100"
BASIS = f"H100 hours: training alone, on one {DEVICE} at an assumed MFU of {100 * hardware.MFU:.0f} %"


def describe(configs: Sequence[ml_collections.ConfigDict]) -> str:
    """Returns a line with the number of runs, their tokens, and their FLOPs and hours, or why these are unknown."""
    tokens = [c.train.tokens for c in configs]
    each = " to ".join(_count(n) for n in sorted({min(tokens), max(tokens)}))
    words = f"{len(configs)} runs x {each} tokens = {_count(sum(tokens))} tokens"
    try:
        vocabularies = {spec: vocab_size(spec) for spec in dict.fromkeys(c.tokenizer for c in configs)}
    except (OSError, ValueError) as error:
        return f"{words}, FLOPs unknown: {' '.join(str(error).split())}"
    flops = sum(training_flops(resolution.with_vocabulary(c, vocabularies[c.tokenizer])) for c in configs)
    digits = f"{flops:.2e}".replace("e+", "e")
    took = hours(flops)
    return f"{words}, {digits} FLOPs, {_three_digits(took) if took >= 0.01 else 'under 0.01'} H100 hours"


def vocab_size(spec: str) -> int:
    """Returns the number of the tokenizer's ids; that of bpe:SIZE, which need not be trained yet, is SIZE."""
    return tokenization.bpe_size(spec) or tokenization.load(spec).vocab_size


def training_flops(c: ml_collections.ConfigDict) -> float:
    """Returns the FLOPs of a whole run; `c` has its vocabulary."""
    return c.train.tokens * accounting.flops_per_token(c.model, c.train.sequence)  # its keys are a Shape's fields


def hours(flops: float) -> float:
    return flops / (hardware.PEAK_FLOPS[DEVICE] * hardware.MFU * 3600)


def _count(tokens: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if tokens >= 0.9995 * size:  # else 999,999 is "1,000k"
            return f"{_three_digits(tokens / size)}{unit}"
    return str(tokens)


def _three_digits(number: float) -> str:
    return f"{float(f'{number:.3g}'):,g}"
