"""facts.json: what the evidence of one event is, and what became of it."""

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
import soxr
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeasd.runtime.alarms.event_id import PATTERN
from edgeasd.runtime.alarms.transition import iso_time
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.evidence.spectrogram import ScoreOverlay, picture
from edgeasd.runtime.features.logmel import FeatureSettings, Float32Array, LogMelStream
from edgeasd.runtime.system.files import fsync_directory, write_bytes

FACTS, CLIP, SCORES, PICTURE = "facts.json", "clip.flac", "scores.jsonl", "picture.png"
FILES = (CLIP, SCORES, PICTURE, FACTS)
LARGEST_FACTS = 1_000_000
MOST_RATE = 655_350
"""Hz; more than that FLAC cannot say."""

_Number = Annotated[float, Field(allow_inf_nan=False)]
_Wall = Annotated[float, Field(ge=0.0, le=1e11, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=0, le=2**62)]
_Word = Annotated[str, Field(max_length=500)]


class Gap(BaseModel):
    """Sound that was lost: silence of the same length stands in its place."""

    model_config = ConfigDict(frozen=True)

    at_seconds: _Number
    """From the beginning of the clip."""
    samples: _Count


class ClipMetadata(BaseModel):
    """The evidence of one event. Times are wall clock in seconds since 1970 unless a name says otherwise."""

    model_config = ConfigDict(frozen=True, extra="allow")

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
    """Bytes of all files of this evidence; 0 after they were deleted."""
    deleted_at: _Wall | None = None
    deleted_why: Literal["age", "size", "room"] | None = None

    def dumped(self) -> bytes:
        """The bytes of facts.json."""
        text = json.dumps(self.model_dump(mode="json", by_alias=True), indent=2, allow_nan=False)
        return f"{text}\n".encode()


def read_metadata(folder: Path) -> ClipMetadata | None:
    """The facts of an evidence folder, None where there are none; InputError, one line, where they are damaged."""
    path = folder / FACTS
    if not is_plain_file(path):
        return None
    try:
        with open(path, "rb") as handle:
            text = handle.read(LARGEST_FACTS)
        return ClipMetadata.model_validate_json(text)
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        what = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
        shown = "".join(c if c.isprintable() else " " for c in what)[:200]
        raise InputError(f"{path}: {shown}; delete this folder, its evidence cannot be trusted") from None


def is_plain_file(path: Path) -> bool:
    """Whether it is a file in a folder, neither of them a link that leads elsewhere."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode) and stat.S_ISDIR(os.lstat(path.parent).st_mode)
    except (OSError, ValueError):
        return False


Pcm = npt.NDArray[np.int16] | npt.NDArray[np.int32]
DTYPES: dict[int, npt.DTypeLike] = {16: np.int16, 24: np.int32}
"""Bits of the clip to the type that is held; 24 bits lie in the upper part of 32, as libsndfile takes them."""


def to_pcm(samples: Float32Array, bits: int) -> Pcm:
    """Samples (n,) float32 in [-1, 1) as int16 or int32 (n,); what lies outside is cut off, NaN becomes 0.

    Sound that came with so many bits or fewer is given back exactly.
    """
    full = float(1 << (bits - 1))
    scaled = np.nan_to_num(np.rint(samples.astype(np.float64) * full), nan=0.0)
    whole = np.clip(scaled, -full, full - 1)
    return whole.astype(np.int16) if bits == 16 else (whole * 256).astype(np.int32)


class PcmRing:
    """Holds the newest `capacity` samples; `memory_bytes` is all it ever takes."""

    def __init__(self, capacity: int, bits: int) -> None:
        self._held = np.zeros(max(1, capacity), DTYPES[bits])
        self.capacity = max(0, capacity)
        self._end = 0
        self.filled = 0
        """Samples that can be asked for."""

    @property
    def memory_bytes(self) -> int:
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
_SALVAGED = ".salvaged.flac"
_SURELY_SHORT = 65_536
"""Bytes of a FLAC file that a kill may leave without a whole frame in it."""


class PartClip:
    """An open clip: FLAC and scores go to the disk as they come, the rest when it ends. Methods raise `FAILURES`."""

    def __init__(self, part: Path, facts: ClipMetadata) -> None:
        """Make the folder `part`, which must not be there; its facts say `recording` until the clip ends."""
        self.part = part
        part.mkdir(parents=True)
        with ExitStack() as opened:
            opened.callback(shutil.rmtree, part, ignore_errors=True)
            write_bytes(part / FACTS, facts.dumped())
            # A kill must find every line on its way to the disk: nothing may wait in a buffer.
            self._scores = opened.enter_context(open(part / SCORES, "wb", buffering=0))
            self._sound = _flac(part / CLIP, facts)
            opened.pop_all()

    def write(self, pcm: Pcm) -> None:
        """Add samples (n,) int16 or int32 as `ring.to_pcm` makes them."""
        self._sound.write(pcm)

    def score(self, line: bytes) -> None:
        """Add one line of scores.jsonl."""
        if self._scores.write(line) != len(line):
            raise OSError(28, os.strerror(28), str(self.part / SCORES))

    def finish(self, final: Path, facts: ClipMetadata) -> ClipMetadata:
        """Close everything, draw the picture, and give the folder its name; returns the facts as written."""
        self._sound.close()
        self._scores.close()
        return complete(self.part, final, facts)

    def abandon(self) -> None:
        """Let go and delete everything."""
        # The disk is full or gone, which is why this is called.
        with suppress(*FAILURES):
            self._sound.close()
        with suppress(OSError):
            self._scores.close()
        shutil.rmtree(self.part, ignore_errors=True)


class Recording:
    """A clip on its way through the queue. Its fields belong to the writer's thread, but for `facts` at the start."""

    def __init__(self, facts: ClipMetadata) -> None:
        self.facts = facts
        self.part: PartClip | None = None
        self.gaps = list(facts.gaps)
        self.written = 0
        self.lost = facts.lost_samples
        self.unlooked = 0


def _flac(path: Path, facts: ClipMetadata) -> soundfile.SoundFile:
    subtype = f"PCM_{facts.bits}"
    return soundfile.SoundFile(path, "w", facts.sample_rate, 1, subtype=subtype, format="FLAC")


def score_line(seconds: float, wall: float, score: float, clip_score: float, complete: bool) -> bytes:
    """One line of scores.jsonl; a score that is not a number is null."""
    numbers = {"score": score, "clip_score": clip_score}
    shown = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
    line = {"at_seconds": round(seconds, 6), "at": iso_time(wall), **shown, "complete": complete}
    return f"{json.dumps(line)}\n".encode()


def read_scores(path: Path) -> Iterator[dict[str, object]]:
    """The lines of scores.jsonl that are whole; a kill may have cut off the last."""
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


def complete(part: Path, final: Path, facts: ClipMetadata) -> ClipMetadata:
    """Read the clip in `part` to its end, draw it, write the facts, and rename the folder to `final`."""
    features = FeatureSettings()
    frames, samples = _frames(part / CLIP, features)
    if frames.shape[0]:
        trace = ScoreOverlay(facts.raised_seconds, list(_points(part / SCORES)), facts.threshold)
        notes = {"Title": facts.event, "Creation Time": iso_time(facts.raised_at)}
        write_bytes(part / PICTURE, picture(frames, features, trace, notes))
    size = sum((part / name).stat().st_size for name in FILES if (part / name).exists())
    facts = facts.model_copy(update={"samples": samples, "size": size})
    write_bytes(part / FACTS, facts.dumped())
    for name in (CLIP, SCORES):
        with open(part / name, "rb") as handle:
            os.fsync(handle.fileno())
    fsync_directory(part)
    os.rename(part, final)
    fsync_directory(final.parent)
    return facts


def _points(path: Path) -> Iterator[tuple[float, float]]:
    for line in read_scores(path):
        seconds, score = line.get("at_seconds"), line.get("clip_score")
        if isinstance(seconds, (int, float)) and isinstance(score, (int, float)) and line.get("complete") is True:
            yield float(seconds), float(score)


def _frames(path: Path, features: FeatureSettings) -> tuple[Float32Array, int]:
    """Log-mel (T, n_mels) float32 of a clip at any rate, and its samples. To decode it all is to check it."""
    parts, count = [], 0
    stream = LogMelStream(features)
    with soundfile.SoundFile(path) as sound:
        same = sound.samplerate == features.sample_rate
        resampler = None if same else soxr.ResampleStream(sound.samplerate, features.sample_rate, 1, dtype="float32")
        left = sound.frames
        while left > 0:
            block: Float32Array = sound.read(min(left, sound.samplerate), dtype="float32")
            left -= block.size
            count += block.size
            if not block.size:
                raise OSError(5, "the clip ends too early", str(path))
            parts.append(
                stream.push(block if resampler is None else resampler.resample_chunk(block, last=not left).ravel())
            )
    return (np.concatenate(parts) if parts else np.empty((0, features.n_mels), np.float32)), count


def salvage(part: Path, final: Path, facts: ClipMetadata) -> ClipMetadata | None:
    """What a kill left of a clip, made whole; None, and nothing left, where it holds less than a tenth of a second.

    A clip that is longer than that and cannot be read is damaged. It stays as it is, under its final name.
    """
    salvaged, count = part / _SALVAGED, 0
    if is_plain_file(part / CLIP):
        with _flac(salvaged, facts) as whole:
            for pcm in _readable(part / CLIP, facts.bits):
                whole.write(pcm)
                count += pcm.size
    if count < facts.sample_rate // 10:
        salvaged.unlink(missing_ok=True)
        held = (part / CLIP).stat().st_size if is_plain_file(part / CLIP) else 0
        if held <= _SURELY_SHORT:
            shutil.rmtree(part)
            return None
        facts = facts.model_copy(update={"ended": "killed", "samples": count, "size": held})
        write_bytes(part / FACTS, facts.dumped())
        os.rename(part, final)
        return facts
    os.replace(salvaged, part / CLIP)
    open(part / SCORES, "ab").close()
    return complete(part, final, facts.model_copy(update={"ended": "killed"}))


def _readable(path: Path, bits: int) -> Iterator[Pcm]:
    """Blocks of a FLAC file up to where it breaks off."""
    kind = np.dtype(DTYPES[bits])
    try:
        with soundfile.SoundFile(path) as sound:
            while data := sound.buffer_read(4096, dtype=kind.name):
                yield np.frombuffer(data, kind)
    except soundfile.SoundFileError:
        return
