"""Folders that data sets put around the machines' folders, so that they can be read as they unpack.

6_dB_fan/fan/id_00/abnormal/00000000.wav     MIMII: one folder for each noise level and machine
dev_data/fan/train/normal_id_00_00000000.wav DCASE: development here, evaluation in eval_data
"""

from __future__ import annotations

import re

_OF_DCASE = frozenset({"dev_data", "eval_data", "raw"})
_OF_MIMII = re.compile(r"(?P<level>-?[0-9]+)_?dB(?:_.+)?", re.IGNORECASE)


def is_wrapper(name: str) -> bool:
    """Whether a folder of this name may hold machines' folders instead of being one."""
    return name in _OF_DCASE or noise_level(name) is not None


def noise_level(name: str) -> str | None:
    """`6_dB_fan` and `6dB` give "6 dB", the level of machine over factory noise; other names give None."""
    match = _OF_MIMII.fullmatch(name)
    return f"{int(match['level'])} dB" if match else None
