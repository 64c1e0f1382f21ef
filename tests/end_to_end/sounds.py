"""Sound that makes alarms come and go, and a program that plays it at a speed."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000
HOP_SAMPLES = 6 * 512
"""From one segment of the test bundle to the next."""
PACED = Path(__file__).with_name("paced.py")


def write_turns(path: Path, turns: Sequence[bool] = (False, True), seconds: float = 12.0, seed: int = 0) -> Path:
    """Noise, with clicks in every turn that is True, `seconds` each.

    The test bundle scores noise at 0.6, clicks at 0.2, give or take 0.02.
    """
    rng = np.random.default_rng(seed)
    parts = []
    for clicking in turns:
        part = rng.standard_normal(int(seconds * RATE)) * 600
        for at in range(0, part.size - 300, 7000) if clicking else ():
            part[at : at + 300] += rng.standard_normal(300) * 6000
        parts.append(part)
    sound = np.concatenate(parts).clip(-32768, 32767).astype("<i2")
    soundfile.write(path, sound, RATE, subtype="PCM_16")
    return path


def played(sound: Path, speed: float) -> str:
    """A command that plays a sound for ever, `speed` times as fast as it is."""
    return shlex.join([sys.executable, "-S", "-E", str(PACED), str(sound), str(speed)])
