"""Known anomalies: clips of faults the plant has met, offered for an update of a model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.data.clips import Clip
from edgeasd.toolkit.data.machine import MachineData


@dataclass(frozen=True)
class KnownAnomalies:
    """The clips an update trains on, and all that were offered for it."""

    used: list[Clip]
    candidates: list[Clip]


def choose_known(
    data: MachineData, id: str, hashes: Mapping[Path, str], *, count: int | None, seed: int
) -> KnownAnomalies:
    """Pick `count` of the offered files (all by default) for the model of `id`, and make `data` know them.

    `hashes` has the SHA-256 of every file that is offered.
    The choice is by rank of sha256(seed:anomaly:content): with one seed the clips for n = 2 are
    among those for n = 4. Copies of one recording count once. Raises InputError for more than there
    are, and for a clip that is also a normal of the machine, in training or in its test.
    """
    distinct: dict[str, Path] = {}
    for path, content in hashes.items():
        distinct.setdefault(content, path)
    if count is not None and count > len(distinct):
        raise InputError(f"--count {count}: {len(distinct)} different clips are offered; ask for at most that many")
    normals = {
        data.hashes[clip.path]: clip.path
        for split in data.splits[data.machine].values()
        for clip in (*split.train, *split.holdout, *split.test)
        if clip.label == "normal"
    }
    for content, path in distinct.items():
        if content in normals:
            raise InputError(
                f"{path}: the same recording is a normal of the machine ({normals[content]}); remove one of them"
            )

    def rank(content: str) -> str:
        return hashlib.sha256(f"{seed}:anomaly:{content}".encode()).hexdigest()

    clips = [Clip(distinct[content], data.machine, id, "anomaly") for content in sorted(distinct, key=rank)]
    data.hashes.update(hashes)
    return KnownAnomalies(used=clips[:count], candidates=clips)
