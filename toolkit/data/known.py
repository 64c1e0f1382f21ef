"""Known anomalies: clips of faults the plant has met, offered for an update of a model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.data.clips import Clip, content_hashes
from edgeasd.toolkit.data.machine import MachineData
from edgeasd.toolkit.data.tree import audio_files


@dataclass(frozen=True)
class KnownAnomalies:
    """The clips an update trains on, and all that were offered for it."""

    used: list[Clip]
    candidates: list[Clip]


def offered_files(source: Path) -> list[Path]:
    """The audio files of a folder (with those below it), or those a text file names, one path a line.

    Paths in a list are relative to the list; empty lines and lines that begin with # are passed over.
    Raises InputError for a source that is missing or names nothing.
    """
    if source.is_dir():
        found = sorted(audio_files(source, source))
    elif source.is_file():
        try:
            lines = [line.strip() for line in source.read_text("utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"--anomalies {source}: not a list of paths ({error}); name a folder or a text file"
            ) from None
        found = [source.parent / line for line in lines if line and not line.startswith("#")]
    else:
        raise InputError(
            f"--anomalies {source}: no such folder or list; name a folder of clips or a text file of paths"
        )
    if not found:
        raise InputError(f"--anomalies {source}: 0 clips; put WAV or FLAC files of faults there")
    return found


def choose_known(data: MachineData, id: str, files: Sequence[Path], *, count: int | None, seed: int) -> KnownAnomalies:
    """Pick `count` of the offered files (all by default) for the model of `id`, and make `data` know them.

    The choice is by rank of sha256(seed:anomaly:content): with one seed the clips for n = 2 are
    among those for n = 4. Copies of one recording count once. Raises InputError for more than there
    are, and for a clip that is also a normal of the machine.
    """
    hashes, _ = content_hashes(files)
    distinct: dict[str, Path] = {}
    for path in files:
        distinct.setdefault(hashes[path], path)
    if count is not None and count > len(distinct):
        raise InputError(f"--count {count}: {len(distinct)} different clips are offered; ask for at most that many")
    normals = {data.hashes[c.path]: c.path for s in data.splits[data.machine].values() for c in (*s.train, *s.holdout)}
    for content, path in distinct.items():
        if content in normals:
            raise InputError(
                f"{path}: the same recording is a training normal ({normals[content]}); remove one of them"
            )

    def rank(content: str) -> str:
        return hashlib.sha256(f"{seed}:anomaly:{content}".encode()).hexdigest()

    clips = [Clip(distinct[content], data.machine, id, "anomaly") for content in sorted(distinct, key=rank)]
    data.hashes.update({path: hashes[path] for path in files})
    return KnownAnomalies(used=clips[:count], candidates=clips)
