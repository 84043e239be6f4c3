r"""The study on two CPU cores in which each arm has its own learning rate, and its own multiplier of it for the input.

docs/protocol.md says what is compared, and why.  Size nano, a byte-level BPE of 8,192 ids trained on the text, and 1M
tokens a run; the config differs from configs/study.py's in text, rates, warm-up and seeds.

  python scripts/balance_corpus.py --source=jsonl:prose.jsonl.xz --part_field=source --out=texts/balanced_prose.jsonl.xz
  python scripts/sweep.py --config=configs/tuned_study.py --stages --out=results/tuned --parallel=2
  python scripts/token_losses.py results/tuned/finals
  python scripts/compare.py results/tuned/tuning results/tuned/finals
  python scripts/compare.py results/tuned/finals --pairs=kronecker:table_untied

prose.jsonl.xz is your own text: JSON lines of {"text": ..., "source": ...}.  The same command resumes the study, and
may run beside other work.  The arms come in BATCHES; each batch has its final runs before the next one is tuned.

  stage     runs
  tuning    of every arm, until its best rate and multiplier have a worse neighbour on each side; one seed
  finals    every arm at its best: five new seeds
  longer    the primary arms and random_code at their best, with ten times the tokens
  variants  the primary arms at their best, with model.unigram_bias and with train.clip_by_group, three seeds

configs/tuned_study_technical.py has the same for some of the arms on another text.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import ml_collections

from configs import arms, base, study, tuning
from kronecker.schema.arms import KINDS

Loss = Callable[[str, tuning.Settings], float | None]
Batch = Mapping[str, tuning.Point]  # arm -> the rate and multiplier at which its search begins

# The searches begin at the best points of a first round of runs on this text, whose files were lost with a machine.
PRIMARY: Batch = {"table_untied": (4e-3, 100.0), "table_tied": (2e-3, 3.0), "kronecker": (4e-3, 1.0)}
SPELLING: Batch = {
    "table_plus_kronecker": (4e-3, 30.0),
    "shuffled_code_space": (4e-3, 1.0),
    "random_code": (4e-3, 3.0),
}
OTHERS: Batch = {
    "table_std1": (4e-3, 300.0),
    "kronecker_unit": (4e-3, 100.0),
    "shuffled_code": (4e-3, 1.0),
    "head_tail": (8e-3, 1.0),
    "factorized": (4e-3, 3.0),
    "factorized_live": (4e-3, 1.0),
    "hash_ngram": (4e-3, 3.0),
    "kronecker_unit_tied": (2e-3, 1.0),
}
BATCHES = (PRIMARY, SPELLING, OTHERS)
LONGER = (*PRIMARY, "random_code")
EVALUATION = {"eval.every": 0, "eval.sequences": 32}  # at the end alone; token_losses.py takes all held-out tokens

TUNING_SEED = 100
FINAL_SEEDS = (200, 201, 202, 203, 204)
TOKENS, LONGER_TOKENS, WARMUP_TOKENS = 1_000_000, 10_000_000, 50_000


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the config of one run; options: arm, seed."""
    option = base.parse_arg(arg, arm="kronecker", seed=0)
    c = study.get_config(f"arm={option.arm},seed={option.seed}")
    c.data.source = "jsonl:texts/balanced_prose.jsonl.xz"
    c.train.tokens = TOKENS
    c.train.warmup_tokens = WARMUP_TOKENS
    c.mesh.cpu_devices = 1  # with --parallel=2 this finishes 1.4 times as many runs an hour as one run on both cores
    return c


def stages(loss: Loss) -> Iterator[tuning.Stage]:
    """Yields the stages in order, a stage again when it has more runs; `loss` is as in configs/gpu_study.py."""
    best = yield from tuned_and_final(loss, BATCHES)
    if best is None:
        return
    yield tuning.Stage("longer", _by_seed(best, LONGER, FINAL_SEEDS[:2], {"train.tokens": LONGER_TOKENS}))
    variants = ({"model.unigram_bias": True}, {"train.clip_by_group": True})
    yield tuning.Stage(
        "variants", tuple(it for own in variants for it in _by_seed(best, PRIMARY, FINAL_SEEDS[:3], own))
    )


def tuned_and_final(loss: Loss, batches: Sequence[Batch]) -> Generator[tuning.Stage, None, Batch | None]:
    """Yields the stages "tuning" and "finals" of each batch and of those before it; returns the best point of each arm.

    Returns None where a stage has unfinished runs.
    """
    begin: dict[str, tuning.Point] = {}
    best: dict[str, tuning.Point] = {}
    points: dict[str, list[tuning.Point]] = {}
    for batch in batches:
        begin |= batch
        points |= {arm: tuning.cross(start) for arm, start in batch.items()}
        while len(best) < len(begin):
            yield tuning.Stage(
                "tuning", tuple(tuple(_tuning(arm, point) for point in of) for arm, of in points.items())
            )
            found = {
                arm: tuning.search(lambda point, arm=arm: loss("tuning", _tuning(arm, point)), start)
                for arm, start in begin.items()
            }
            best = {arm: point for arm, (_, point) in found.items() if point}
            more = {arm: tried for arm, (tried, _) in found.items()}
            if more == points and len(best) < len(begin):
                return None
            points = more
        yield tuning.Stage("finals", _by_seed(best, begin, FINAL_SEEDS))
    return best


def _by_seed(
    best: Batch, of: Iterable[str], seeds: tuple[int, ...], own: Mapping[str, Any] | None = None
) -> tuple[tuple[tuning.Settings, ...], ...]:
    return tuple(tuple(_settings(arm, best[arm], seed) | (own or {}) for arm in of) for seed in seeds)


def _tuning(arm: str, point: tuning.Point) -> tuning.Settings:
    return _settings(arm, point, TUNING_SEED)


def _settings(arm: str, point: tuning.Point, seed: int) -> tuning.Settings:
    rate, multiplier = point
    own = arms.ARMS[arm]
    redraw = {"embedding.redraw": True} if KINDS[own["embedding.kind"]].drawn else {}
    return own | {tuning.RATE: rate, tuning.MULTIPLIER: multiplier, "seed": seed} | redraw | EVALUATION
