"""The files of one event: facts.json says what is there, clip.flac has the sound, scores.jsonl the scores.

A clip is written in a hidden folder and takes its name when it is whole. `recover_clip` makes whole what a kill left.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import soundfile
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeasd.runtime.alarms.event_id import PATTERN
from edgeasd.runtime.errors import InputError, printable
from edgeasd.runtime.features.logmel import Float32Array
from edgeasd.runtime.system.clocks import utc_text
from edgeasd.runtime.system.files import fsync_directory, write_bytes

METADATA, CLIP, SCORES, PICTURE = "facts.json", "clip.flac", "scores.jsonl", "picture.png"
FILES = (CLIP, SCORES, PICTURE, METADATA)
"""All that a folder may hold. Versions before 0.2 drew the picture when the clip ended."""
LARGEST_METADATA = 1_000_000
MOST_RATE = 655_350
"""Hz: the highest rate of FLAC."""

_Number = Annotated[float, Field(allow_inf_nan=False)]
_Wall = Annotated[float, Field(ge=0.0, le=1e11, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=0, le=2**62)]
_Word = Annotated[str, Field(max_length=500)]


class Gap(BaseModel):
    """Lost sound. Silence of the same length takes its place."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    at_seconds: _Number
    """From the beginning of the clip."""
    samples: _Count


class ClipMetadata(BaseModel):
    """What the evidence of one event is, and what became of it. Times are seconds since 1970 by the wall clock."""

    model_config = ConfigDict(frozen=True, extra="allow", defer_build=True)

    schema_: Annotated[Literal[1], Field(alias="schema")] = 1
    type: Literal["evidence"] = "evidence"
    event: Annotated[str, Field(pattern=PATTERN)]
    machine: _Word
    id: _Word
    test: bool = False
    raised_at: _Wall
    threshold: _Number | None = None
    sample_rate: Annotated[int, Field(ge=1, le=MOST_RATE)]
    bits: Literal[16, 24]
    raised_seconds: _Number
    """From the beginning of the clip to the alarm."""
    samples: _Count = 0
    ended: Literal["recording", "complete", "longest", "stopped", "source", "killed", "no_room"] = "recording"
    gaps: Annotated[tuple[Gap, ...], Field(max_length=10_000)] = ()
    lost_samples: _Count = 0
    size: _Count = 0
    """Bytes of all files; 0 after they were deleted."""
    deleted_at: _Wall | None = None
    deleted_why: Literal["age", "size", "room"] | None = None

    def dumped(self) -> bytes:
        """The bytes of facts.json."""
        text = json.dumps(self.model_dump(mode="json", by_alias=True), indent=2, allow_nan=False)
        return f"{text}\n".encode()


def read_metadata(folder: Path) -> ClipMetadata | None:
    """The metadata of an evidence folder, or None if it has none. Raises InputError, one line, if it is damaged."""
    path = folder / METADATA
    if not is_plain_file(path):
        return None
    try:
        with open(path, "rb") as handle:
            text = handle.read(LARGEST_METADATA)
        return ClipMetadata.model_validate_json(text)
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        what = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
        raise InputError(
            f"{path}: {printable(what, 200)}; delete this folder, its evidence cannot be trusted"
        ) from None


def is_plain_file(path: Path) -> bool:
    """Whether `path` is a regular file in a folder, neither of them a link."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode) and stat.S_ISDIR(os.lstat(path.parent).st_mode)
    except (OSError, ValueError):
        return False


Pcm = npt.NDArray[np.int16] | npt.NDArray[np.int32]
DTYPES: dict[int, npt.DTypeLike] = {16: np.int16, 24: np.int32}
"""Bits of a clip to the type of its samples; 24 bits lie in the upper part of 32, as libsndfile takes them."""


def to_pcm(samples: Float32Array, bits: int) -> Pcm:
    """Samples (n,) float32 in [-1, 1) as int16 or int32 (n,); values outside are clipped, NaN becomes 0.

    Exact for sound that came with at most `bits` bits.
    """
    # float32 holds every whole number of 24 bits, and a power of two changes the exponent alone.
    full = np.float32(1 << (bits - 1))
    whole = samples * full
    np.rint(whole, out=whole)
    np.minimum(whole, full - np.float32(1.0), out=whole)
    np.maximum(whole, -full, out=whole)
    if whole.size and np.isnan(whole.min()):
        whole[np.isnan(whole)] = 0.0
    return whole.astype(np.int16) if bits == 16 else whole.astype(np.int32) << 8


class PcmRing:
    """The newest `capacity` samples, in memory that is allocated once (`memory_bytes`)."""

    def __init__(self, capacity: int, bits: int) -> None:
        self._held = np.zeros(max(1, capacity), DTYPES[bits])
        self.capacity = max(0, capacity)
        self._end = 0
        self.filled = 0
        """Samples in it."""

    @property
    def memory_bytes(self) -> int:
        """Bytes that the ring takes."""
        return int(self._held.nbytes)

    def push(self, pcm: Pcm) -> None:
        """Add samples (n,), any n >= 0."""
        if not self.capacity:
            return
        pcm = pcm[-self.capacity :]
        first = min(pcm.size, self.capacity - self._end)
        self._held[self._end : self._end + first] = pcm[:first]
        self._held[: pcm.size - first] = pcm[first:]
        self._end = (self._end + pcm.size) % self.capacity
        self.filled = min(self.capacity, self.filled + pcm.size)

    def last(self, count: int) -> Pcm:
        """A copy of the newest `count` samples, 0 <= count <= filled."""
        if not count:
            return self._held[:0].copy()
        return np.roll(self._held, -self._end)[self.capacity - count :].copy()

    def clear(self) -> None:
        """Forget everything."""
        self._end = self.filled = 0


FAILURES = (OSError, soundfile.SoundFileError)
"""What a full or broken disk raises here."""
_RECOVERED = ".recovered.flac"
_MAY_BE_EMPTY = 65_536
"""Bytes of a FLAC file that a kill may leave without a whole frame in it."""


class PartClip:
    """An open clip: sound and scores go to the disk as they come. Methods raise `FAILURES`."""

    def __init__(self, part: Path, metadata: ClipMetadata) -> None:
        """Create the folder `part`, which must not exist; its metadata says `recording` until the clip ends."""
        self.part = part
        part.mkdir(parents=True)
        with ExitStack() as opened:
            opened.callback(shutil.rmtree, part, ignore_errors=True)
            write_bytes(part / METADATA, metadata.dumped())
            # No buffer: a kill must not lose a line that was written.
            self._scores = opened.enter_context(open(part / SCORES, "wb", buffering=0))
            self._sound = _open_flac(part / CLIP, metadata)
            opened.pop_all()

    def write(self, pcm: Pcm) -> None:
        """Add samples (n,) int16 or int32, as `to_pcm` makes them."""
        self._sound.write(pcm)

    def score(self, line: bytes) -> None:
        """Add one line of scores.jsonl."""
        if self._scores.write(line) != len(line):
            raise OSError(28, os.strerror(28), str(self.part / SCORES))

    def finish(self, final: Path, metadata: ClipMetadata) -> ClipMetadata:
        """Close the files and rename the folder to `final`; returns the metadata as written."""
        self._sound.close()
        self._scores.close()
        return _finish_folder(self.part, final, metadata)

    def abandon(self) -> None:
        """Delete the clip. Errors are ignored: this is called when the disk is full or gone."""
        with suppress(*FAILURES):
            self._sound.close()
        with suppress(OSError):
            self._scores.close()
        shutil.rmtree(self.part, ignore_errors=True)


def _open_flac(path: Path, metadata: ClipMetadata) -> soundfile.SoundFile:
    subtype = f"PCM_{metadata.bits}"
    return soundfile.SoundFile(path, "w", metadata.sample_rate, 1, subtype=subtype, format="FLAC")


def _finish_folder(part: Path, final: Path, metadata: ClipMetadata) -> ClipMetadata:
    """Check the clip in `part`, write the metadata, and rename the folder to `final`."""
    samples = _count_samples(part / CLIP)
    size = sum((part / name).stat().st_size for name in FILES if (part / name).exists())
    metadata = metadata.model_copy(update={"samples": samples, "size": size})
    write_bytes(part / METADATA, metadata.dumped())
    for name in (CLIP, SCORES):
        with open(part / name, "rb") as handle:
            os.fsync(handle.fileno())
    fsync_directory(part)
    os.rename(part, final)
    fsync_directory(final.parent)
    return metadata


def _count_samples(path: Path) -> int:
    """Samples of a clip, which is decoded to its end: to decode it is to check it."""
    count = 0
    with soundfile.SoundFile(path) as sound:
        while count < sound.frames:
            block = sound.read(min(sound.frames - count, sound.samplerate), dtype="int32")
            if not block.size:
                raise OSError(5, "the clip ends too early", str(path))
            count += block.size
    return count


def score_line(seconds: float, wall: float, score: float, clip_score: float, complete: bool) -> bytes:
    """One line of scores.jsonl; a score that is not a finite number is null."""
    numbers = {"score": score, "clip_score": clip_score}
    shown = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
    line = {"at_seconds": round(seconds, 6), "at": utc_text(wall), **shown, "complete": complete}
    return f"{json.dumps(line)}\n".encode()


def read_scores(path: Path) -> Iterator[dict[str, object]]:
    """The whole lines of scores.jsonl; a kill may have cut off the last."""
    if not is_plain_file(path):
        return
    with open(path, "rb") as handle:
        for text in handle:
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict):
                yield line


def recover_clip(part: Path, final: Path, metadata: ClipMetadata) -> ClipMetadata | None:
    """Make whole what a kill left in `part`; None, and the folder deleted, if it holds less than 0.1 s of sound.

    A longer clip that cannot be read is damaged: it gets its final name as it is.
    """
    recovered, count = part / _RECOVERED, 0
    if is_plain_file(part / CLIP):
        with _open_flac(recovered, metadata) as whole:
            for pcm in _readable_blocks(part / CLIP, metadata.bits):
                whole.write(pcm)
                count += pcm.size
    if count < metadata.sample_rate // 10:
        recovered.unlink(missing_ok=True)
        size = (part / CLIP).stat().st_size if is_plain_file(part / CLIP) else 0
        if size <= _MAY_BE_EMPTY:
            shutil.rmtree(part)
            return None
        metadata = metadata.model_copy(update={"ended": "killed", "samples": count, "size": size})
        write_bytes(part / METADATA, metadata.dumped())
        os.rename(part, final)
        return metadata
    os.replace(recovered, part / CLIP)
    open(part / SCORES, "ab").close()
    return _finish_folder(part, final, metadata.model_copy(update={"ended": "killed"}))


def _readable_blocks(path: Path, bits: int) -> Iterator[Pcm]:
    """Blocks of a FLAC file up to where it breaks off."""
    kind = np.dtype(DTYPES[bits])
    try:
        with soundfile.SoundFile(path) as sound:
            while data := sound.buffer_read(4096, dtype=kind.name):
                yield np.frombuffer(data, kind)
    except soundfile.SoundFileError:
        return
