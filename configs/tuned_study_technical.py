"""configs/tuned_study.py on technical text, with the arms of its first question and of two controls.

  python scripts/balance_corpus.py --source=jsonl:technical.jsonl.xz --part_field=source \
      --out=texts/balanced_technical.jsonl.xz
  python scripts/sweep.py --config=configs/tuned_study_technical.py --stages --out=results/tuned_technical --parallel=2
"""

from collections.abc import Iterator

import ml_collections

from configs import tuned_study, tuning

CONTROLS = {arm: tuned_study.SPELLING[arm] for arm in ("shuffled_code_space", "random_code")}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the config of one run; options as in configs/tuned_study.py."""
    c = tuned_study.get_config(arg)
    c.data.source = "jsonl:texts/balanced_technical.jsonl.xz"
    return c


def stages(loss: tuned_study.Loss) -> Iterator[tuning.Stage]:
    """Yields the stages in order, as configs/tuned_study.py does."""
    yield from tuned_study.tuned_and_final(loss, (tuned_study.PRIMARY, CONTROLS))
