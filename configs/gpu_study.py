"""The study on one H100-class GPU (size tiny, bfloat16, GPT-2's vocabulary), and a plan to train it in short calls.

`sweep()` compares arms at one learning rate, which is not tuned, with 60M tokens of FineWeb-Edu per run and three
seeds: table_untied, which the paper does not have, against kronecker; table_tied, the paper's baseline; kronecker_unit
and table_std1, which swap the initial scales; random_code, which removes the spelling.

Expected: the paper has no run of this size and no untied table.  Reported by others, not checked here: with 50,000
ids or more an untied table is better than Kronecker, by 0.25 nats per token at 131,000 ids and 98M tokens.

Cost of three seeds, as --dry_run prints it for an assumed MFU of 40 %; a model this small may reach far less:
  18 runs x 60M tokens = 1.08B tokens, 2.09e17 FLOPs, 0.147 H100 hours

  python scripts/sweep.py --config=configs/gpu_study.py --out=runs/gpu --seeds=3
  python scripts/report.py runs/gpu

For other text add --config.data.source='jsonl:texts/*.jsonl.xz', and --config.data.split_field=split if its lines have
this field.  To add other learning rates of the input in the two main arms:

  python scripts/sweep.py --config=configs/ablations/lr_mult.py:setting=gpu --out=runs/gpu --seeds=3
  python scripts/report.py runs/gpu --baseline='table_untied lr_mult=1.0'

`stages()` is the study in which each main arm has its own learning rate, and its own multiplier of it for the input
(lr_mult).  Both are chosen by the last TRAINING loss, on a seed that no comparison uses.  Each call of
`scripts/accelerator.py --parts=study` trains as many of its runs as the given minutes allow.  `PLAN` gives

  stage       runs                                                                                      tokens
  rates       4 learning rates x {table_untied, kronecker, table_tied}                                  360M
  input_step  embedding.lr_mult of these but table_tied, of table_std1, kronecker_unit and its tied arm 360M
  finals      the 3 arms of rates, table_std1 and kronecker_unit, each at its best, 5 seeds             1.5B
  controls    6 arms that isolate spelling, crowding, rank, tying and addition to a table, 2 seeds      720M
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_collections

from configs import arms, base, sizes
from configs.tuning import MULTIPLIER as STEP
from configs.tuning import RATE, Settings, Stage

SWEEP_ARMS = ("table_untied", "table_tied", "kronecker", "kronecker_unit", "table_std1", "random_code")


@dataclasses.dataclass(frozen=True)
class Plan:
    """The settings of the stages; runs come in the order of the arms.

    Attributes:
      seed: of the first two stages, used only for tuning.
      rates: learning rates to try for each arm of `tuned`.
      tuned: arms with their own tuned learning rate.
      rate_of: other arm -> the arm of `tuned` whose rate it uses.
      steps: arm -> multipliers to try for its input's learning rate, in addition to 1 for an arm of `tuned`.
      finals: arms of the comparison, each at the best of its tried settings.
      controls: arms that explain the comparison, at their best if they were tuned, else at that of their `rate_of`.
      final_seeds: number of seeds of `finals`.
      control_seeds: number of seeds of `controls`.
      tuning_tokens: training tokens of a run in the first two stages.
      final_tokens: training tokens of the other runs.
      final_sequences: validation sequences of the other runs; 0: all of the validation text.
      warmup_tokens: of every run, so that runs of different lengths start alike.
    """

    seed: int = 100
    rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3, 8e-3)
    tuned: tuple[str, ...] = ("table_untied", "kronecker", "table_tied")
    rate_of: Mapping[str, str] = dataclasses.field(
        default_factory=lambda: {
            "table_std1": "table_untied",
            "kronecker_unit": "kronecker",
            "kronecker_unit_tied": "table_tied",
            "shuffled_code": "kronecker",
            "random_code": "kronecker",
            "head_tail": "kronecker",
            "factorized_live": "table_untied",
            "table_plus_kronecker": "table_untied",
        }
    )
    steps: Mapping[str, tuple[float, ...]] = dataclasses.field(
        default_factory=lambda: {
            "table_untied": (3.0, 10.0, 30.0),
            "kronecker": (0.3, 3.0),
            "table_std1": (10.0, 50.0),
            "kronecker_unit": (1.0, 10.0, 65.0),
            "kronecker_unit_tied": (0.1, 1.0),
        }
    )
    finals: tuple[str, ...] = ("table_untied", "kronecker", "table_tied", "table_std1", "kronecker_unit")
    controls: tuple[str, ...] = (
        *("shuffled_code", "random_code", "head_tail"),
        *("factorized_live", "table_plus_kronecker", "kronecker_unit_tied"),
    )
    final_seeds: int = 5
    control_seeds: int = 2
    tuning_tokens: int = 30_000_000
    final_tokens: int = 60_000_000
    final_sequences: int = 0
    warmup_tokens: int = 2_000_000


PLAN = Plan()


def get_config() -> ml_collections.ConfigDict:
    """Returns the config of the setting `gpu`."""
    c = base.apply(base.get_config(), sizes.SIZES["tiny"])
    c.tokenizer = "gpt2"
    c.data.source = "fineweb-edu:sample-10BT"
    c.data.shards = 1  # 2 GB, about 0.7B tokens
    c.model.dtype = "bfloat16"
    c.train.batch = 64
    c.train.sequence = c.model.context
    c.train.tokens = 60_000_000
    c.train.lr = 2e-3  # not tuned here; `stages` does that
    c.train.warmup_share = 0.05
    c.eval.every = 200
    c.eval.sequences = 1024
    c.checkpoint.every = 500
    c.checkpoint.keep = 1
    return c


def sweep(seeds: int = 3) -> Iterator[dict[str, Any]]:
    """Yields the runs, one seed after another."""
    for seed in range(seeds):
        for arm in SWEEP_ARMS:
            yield arms.ARMS[arm] | {"seed": seed}


def stages(loss: Callable[[str, Settings], float | None], plan: Plan = PLAN) -> Iterator[Stage]:
    """Yields the stages in order, up to the first one whose settings depend on an unfinished run.

    `loss` maps (stage, settings of a run) to its last training loss in nats per token: infinite if the run diverged,
    None if it is unfinished.
    """

    def run(arm: str, tuning: bool, **own: Any) -> Settings:
        length = {"train.tokens": plan.tuning_tokens, "eval.every": 0, "eval.sequences": 32}
        if not tuning:
            length = {"train.tokens": plan.final_tokens, "eval.sequences": plan.final_sequences}
        return arms.ARMS[arm] | length | {"train.warmup_tokens": plan.warmup_tokens} | own

    def best(tried: list[tuple[str, Settings]]) -> Settings | None:
        losses = [loss(*one) for one in tried]
        return None if None in losses else tried[losses.index(min(losses))][1]

    at_rates = {
        arm: [run(arm, True, **{RATE: rate, STEP: 1.0, "seed": plan.seed}) for rate in plan.rates] for arm in plan.tuned
    }
    yield Stage("rates", tuple(zip(*at_rates.values(), strict=True)))
    chosen = {arm: best([("rates", one) for one in tried]) for arm, tried in at_rates.items()}
    if None in chosen.values():
        return

    at_steps = {}
    for arm, multipliers in plan.steps.items():
        rate = chosen[plan.rate_of.get(arm, arm)][RATE]
        at_steps[arm] = [run(arm, True, **{RATE: rate, STEP: one, "seed": plan.seed}) for one in multipliers]
    yield Stage("input_step", tuple(map(tuple, at_steps.values())))
    for arm, tried in at_steps.items():
        first = [("rates", chosen[arm])] if arm in chosen else []
        chosen[arm] = best(first + [("input_step", one) for one in tried])
    if None in chosen.values():
        return

    def final(arm: str, like: str, seed: int) -> Settings:
        return run(arm, False, **{key: chosen[like][key] for key in (RATE, STEP)}, seed=seed)

    finals = [tuple(final(arm, arm, seed) for arm in plan.finals) for seed in range(plan.final_seeds)]
    yield Stage("finals", tuple(finals))
    controls = [
        tuple(final(arm, arm if arm in chosen else plan.rate_of[arm], seed) for arm in plan.controls)
        for seed in range(plan.control_seeds)
    ]
    yield Stage("controls", tuple(controls))
