"""Clips that an option names (a folder, or a list of paths), and the known anomalies of an update among them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.data.clips import Clip, content_hashes, refuse_bad
from edgeasd.toolkit.data.machine import MachineData
from edgeasd.toolkit.data.tree import audio_files


def offered_files(source: Path, option: str) -> list[Path]:
    """The audio files of a folder (with those below it), or those a text file names, one path a line.

    Paths in a list are relative to the list. Raises InputError, which begins with `option`, for a source that is
    missing or names nothing.
    """
    if source.is_dir():
        found = sorted(audio_files(source, source))
    elif source.is_file():
        found = [source.parent / line for line in path_lines(source, option)]
    else:
        raise InputError(f"{option} {source}: no such folder or list; name a folder of clips or a text file of paths")
    if not found:
        raise InputError(f"{option} {source}: 0 clips; put WAV or FLAC files there, or name another")
    return found


def path_lines(source: Path, option: str) -> list[str]:
    """The lines of a list of paths, without empty ones and those that begin with #.

    UTF-8, with or without a byte-order mark, as editors of some systems write it. Raises InputError, which begins
    with `option`, for what cannot be read as text.
    """
    try:
        lines = [line.strip() for line in source.read_text("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{option} {source}: not a folder or a list of paths ({reason}); name one of the two"
        ) from None
    return [line for line in lines if line and not line.startswith("#")]


def offered_hashes(paths: Iterable[Path], source: Path, option: str) -> dict[Path, str]:
    """SHA-256 of every clip that `option` names with `source`; InputError names those that cannot be read."""
    wanted = list(paths)
    hashes, bad = content_hashes(wanted, skip_bad=True)
    refuse_bad(bad, len(wanted), f"correct {option} {source}")
    return hashes


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
