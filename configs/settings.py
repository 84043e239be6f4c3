"""The settings of ablations: text, vocabulary, size, length and schedule.  Each ablation adds its own arms.

  setting  config file                        content
  paper    configs/ablations/paper.py         124m on FineWeb-Edu, GPT-2's vocabulary, 2.5B tokens a run
  gpu      configs/gpu_study.py               tiny on FineWeb-Edu, GPT-2's vocabulary, 60M tokens a run
  study    configs/study.py                   nano on English prose, a BPE of 8,192 ids: two CPU cores

Seeds count from 0 in every ablation.  Ablations with the same --out train an arm once if none of them varies its
keys; in most this is true of table_untied.
"""

import ml_collections

from configs import base, gpu_study, study
from configs.ablations import paper

SETTINGS = {"paper": paper.get_config, "gpu": gpu_study.get_config, "study": study.get_config}


def get(name: str, *allowed: str) -> ml_collections.ConfigDict:
    """Returns the config of a setting.

    Args:
      name: a key of SETTINGS.
      *allowed: the settings that suit the ablation; none: all.

    Raises:
      ValueError: if it is not one of them.
    """
    known = allowed or tuple(SETTINGS)
    if name not in known:
        raise ValueError(f"setting is {name!r}; allowed: {', '.join(known)}")
    return SETTINGS[name]()


def from_arg(arg: str | None, *allowed: str) -> ml_collections.ConfigDict:
    """Returns the config of `setting=NAME` after the colon of a config file; without it, of the first allowed one."""
    option = base.parse_arg(arg, setting=(allowed or tuple(SETTINGS))[0])
    return get(option.setting, *allowed)
