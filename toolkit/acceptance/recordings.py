"""The normal recordings of an acceptance test: sessions in order, read block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from edgeasd.runtime.audio.reader import AudioReader
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.features.logmel import Float32Array
from edgeasd.toolkit.calibrate.clips import JOINED_SECONDS
from edgeasd.toolkit.data.tree import audio_files

_BLOCK_SECONDS = 10


@dataclass(frozen=True)
class Session:
    """Files that are heard as one recording."""

    mode: str
    """Of the machine; empty where the bundle knows no modes."""
    files: tuple[Path, ...]
    seconds: float


def find_sessions(folders: Sequence[Path], modes: Sequence[str] = ()) -> list[Session]:
    """Sessions of all audio files below `folders`: long files one by one, short ones of a folder together.

    Short are those under JOINED_SECONDS, as `edgeasd record` makes them; they are joined in order of name. A file
    below a folder named as one of `modes` is of that mode. Raises InputError for a folder that is none or holds no
    sound, and for a file that is not sound.
    """
    found: list[Session] = []
    for root in folders:
        if not root.is_dir():
            raise InputError(f"--normal {root}: not a folder; name one with normal recordings of this machine")
        short: dict[Path, list[tuple[Path, float]]] = {}
        before = len(found)
        for path in audio_files(root, root):
            seconds = _seconds(path)
            if seconds < JOINED_SECONDS:
                short.setdefault(path.parent, []).append((path, seconds))
            else:
                found.append(Session(_mode(path, root, modes), (path,), seconds))
        for _, clips in sorted(short.items()):
            files = tuple(path for path, _ in clips)
            found.append(Session(_mode(files[0], root, modes), files, sum(seconds for _, seconds in clips)))
        if len(found) == before:
            raise InputError(f"--normal {root}: 0 WAV or FLAC files; record some with `edgeasd record`")
    return found


def read_session(
    session: Session, sample_rate: int, channel: int | None, resample: bool, recorded_rate: int | None = None
) -> Iterator[Float32Array]:
    """The samples of a session in blocks of about 10 s, (n,) float32. Raises InputError as `AudioReader`."""
    for path in session.files:
        reader = AudioReader(
            path,
            sample_rate=sample_rate,
            channel=channel,
            mix=False,
            resample=resample,
            recorded_rate=recorded_rate,
        )
        try:
            while (block := reader.read(_BLOCK_SECONDS * sample_rate)) is not None:
                yield block
        finally:
            reader.close()


class Excerpts:
    """Pieces of `seconds` of sessions, evenly spread, copied while the sessions are read."""

    def __init__(self, sessions: Sequence[Session], count: int, seconds: float, sample_rate: int) -> None:
        self._length = int(seconds * sample_rate)
        total = sum(session.seconds for session in sessions)
        self._wanted: dict[int, list[int]] = {}
        self.sounds: list[tuple[str, Float32Array]] = []
        """(mode, samples (n,) float32) of each."""
        for number in range(count):
            at = (number + 0.5) / count * total
            for index, session in enumerate(sessions):
                if at < session.seconds or index == len(sessions) - 1:
                    latest = max(0.0, session.seconds - seconds)
                    self._wanted.setdefault(index, []).append(int(min(at, latest) * sample_rate))
                    break
                at -= session.seconds

    def take(self, index: int, session: Session, blocks: Iterator[Float32Array]) -> Iterator[Float32Array]:
        """Pass on the blocks of session `index` and keep the pieces of it."""
        starts = sorted(set(self._wanted.get(index, [])))
        pieces: list[list[Float32Array]] = [[] for _ in starts]
        position = 0
        for block in blocks:
            for piece, start in zip(pieces, starts, strict=True):
                low, high = max(0, start - position), min(len(block), start + self._length - position)
                if low < high:
                    piece.append(block[low:high])
            position += len(block)
            yield block
        for piece in pieces:
            if piece:
                # Shorter than an excerpt only if the session is: then it is heard again.
                self.sounds.append((session.mode, np.resize(np.concatenate(piece), self._length)))


def _seconds(path: Path) -> float:
    try:
        return float(soundfile.info(str(path)).duration)
    except (soundfile.SoundFileError, OSError) as error:
        raise InputError(f"{path}: not a sound file that can be read ({error}); repair it or take it away") from None


def _mode(path: Path, root: Path, modes: Sequence[str]) -> str:
    parts = (root.name, *path.relative_to(root).parts[:-1])
    return next((part for part in reversed(parts) if part in modes), "")
