"""Sound profiles of the normal clips of a training."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeasd.calibration.fit.profile import ClipSound, clip_sound, mode_of, mode_profiles, sound_profile
from edgeasd.runtime.health.settings import FLOOR_DBFS
from edgeasd.toolkit.data.clips import Clip
from edgeasd.toolkit.data.machine import MachineData

MOST_CLIPS = 500
"""So many, evenly over all, tell a level and a spectrum."""


def profiles_of(data: MachineData, clips: Sequence[Clip]) -> dict[str, Any]:
    """`sound` and `modes` of normal clips of one machine, as run.json holds them; without what there is not.

    Features and statistics come from the cache: no clip is decoded again.
    """
    chosen = [
        clips[i] for i in np.unique(np.linspace(0, len(clips) - 1, min(MOST_CLIPS, len(clips))).round().astype(int))
    ]
    sounds: dict[str | None, list[ClipSound]] = defaultdict(list)
    for clip in chosen:
        statistics = data.cache.clip_statistics(clip.path, data.hashes[clip.path])
        power = statistics.squares / max(1, statistics.samples)
        level = max(FLOOR_DBFS, 10.0 * math.log10(max(power, 1e-30)))
        amplitude = data.amplitudes[clip.machine]
        one = clip_sound(data.features(clip), np.array([level]), data.cache.settings, amplitude)
        sounds[mode_of(clip.path)].append(one)
    whole = sound_profile([one for of_mode in sounds.values() for one in of_mode])
    found = {} if whole is None else {"sound": whole.model_dump(mode="json")}
    modes = {name: {"sound": one.model_dump(mode="json")} for name, one in mode_profiles(sounds).items()}
    return {**found, **({"modes": modes} if modes else {})}
