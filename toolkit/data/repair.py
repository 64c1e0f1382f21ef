"""Writes the length of a recording anew, by the sound that is really in the file."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from edgeasd.runtime.audio.container import Container, MendedFile, inspect
from edgeasd.runtime.audio.reader import DECODE_SAMPLES, AudioReader
from edgeasd.runtime.errors import CheckFailed, InputError
from edgeasd.runtime.system.files import atomic_file

_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True)
class Repair:
    """What became of one file."""

    path: Path
    """Where the sound is now."""
    seconds: float
    is_changed: bool
    """False for a file that was whole."""


def repair(path: Path) -> Repair:
    """Give a sound file the header that it should have. Its sound stays as it is, bit for bit.

    The file is replaced when the new one is whole and can be read to its end. A cut-off Ogg or MP3 file is left, and
    what is there is written beside it as FLAC. Raises InputError for what is no sound or cannot be repaired.
    """
    path = Path(path)
    try:
        with closing(_reader(path)) as reader:
            container, seconds = reader.container, reader.seconds
    except InputError:
        with open(path, "rb", buffering=0) as handle:
            container = inspect(handle, path)
            seconds = 0.0
        if not container.problem:
            raise
    if container.problem and container.kind in ("Ogg", "MP3"):
        return _decode_beside(path, container)
    if container.mended is None:
        if container.problem:
            raise InputError(
                f"{path}: cannot be repaired, the length of its coding is not known here; "
                f"try `ffmpeg -i {path} {path.with_suffix('.flac')}`"
            )
        return Repair(path, seconds, False)
    _write_mended(path, container)
    with closing(_reader(path)) as reader:
        return Repair(path, reader.seconds, True)


def _reader(path: Path) -> AudioReader:
    return AudioReader(path, sample_rate=16_000, channel=None, mix=True, resample=True)


def _write_mended(path: Path, container: Container) -> None:
    assert container.mended is not None
    _check_room(path, container.mended.length)
    with open(path, "rb", buffering=0) as handle:
        _check_readable(path, MendedFile(handle, container.mended))
        source = MendedFile(handle, container.mended)
        with atomic_file(path) as target:
            while block := source.read(_BLOCK_BYTES):
                target.write(block)
            shutil.copymode(path, target.name)


def _check_readable(path: Path, file: MendedFile) -> None:
    try:
        with soundfile.SoundFile(file) as sound:
            done = 0
            while done < sound.frames:
                block = sound.read(DECODE_SAMPLES // sound.channels, dtype="float32", always_2d=True)
                if not len(block):
                    raise InputError(f"{path}: cannot be repaired, it is damaged after sample {done}")
                done += len(block)
            if not done:
                raise InputError(f"{path}: cannot be repaired, it holds no samples; record it again")
    except soundfile.SoundFileError as error:
        reason = str(error).split(": ", 1)[-1].rstrip(".")
        raise InputError(f"{path}: cannot be repaired ({reason}); record it again") from None


def _decode_beside(path: Path, container: Container) -> Repair:
    """What libsndfile decodes of a cut-off file, as FLAC of 24 bits: the coding cannot be completed."""
    target = path.with_suffix(".flac")
    if target.exists():
        raise InputError(f"{target}: is there already; move it away")
    try:
        with soundfile.SoundFile(str(path)) as sound, atomic_file(target) as handle:
            flac = {"samplerate": sound.samplerate, "channels": sound.channels, "format": "FLAC", "subtype": "PCM_24"}
            with soundfile.SoundFile(handle, "w", **flac) as written:
                while len(block := sound.read(DECODE_SAMPLES // sound.channels, dtype="float32", always_2d=True)):
                    written.write(np.clip(block, -1.0, 1.0))
                seconds = written.frames / sound.samplerate
            if not seconds:
                raise InputError(f"{path}: cannot be repaired, nothing of it can be decoded; record it again")
    except soundfile.SoundFileError as error:
        raise InputError(f"{path}: cannot be repaired ({str(error).rstrip('.')}): {container.problem}") from None
    return Repair(target, seconds, True)


def _check_room(path: Path, more_bytes: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < more_bytes:
        raise CheckFailed(
            f"{path}: {free / 1e6:.0f} MB free, {more_bytes / 1e6:.0f} MB are needed to write it anew; make room"
        )
