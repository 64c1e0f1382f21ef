"""Cuts frames into segments of 256 frames, by the live rule or the clip rule.

Live: one segment every `hop` frames from frame 0 after a reset.
Clip: K sections starting at i * ((T - length) // (K - 1)), with the clip's own T.
For a clip of the nominal length both rules give the same segments.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.features.framing import normalise
from edgeasd.runtime.features.logmel import Amplitude, FeatureSettings, Float32Array, LogMelStream


class SegmentSettings(BaseModel):
    """How frames become segments and segments a clip; stored in the manifest."""

    model_config = ConfigDict(frozen=True, extra="allow", defer_build=True)

    frames: Annotated[int, Field(ge=1, le=4096)] = 256
    """Length of a segment in frames."""
    hop: Annotated[int, Field(ge=1, le=4096)] = 6
    """Frames from one live segment to the next."""
    sections: Annotated[int, Field(ge=1, le=1000)] = 10
    """K: segments averaged into a clip score."""

    @classmethod
    def for_clip_length(cls, frame_count: int, frames: int = 256, sections: int = 10) -> SegmentSettings:
        """Settings whose live hop equals the clip hop of clips with `frame_count` frames."""
        return cls(frames=frames, sections=sections, hop=max(1, (frame_count - frames) // max(1, sections - 1)))


def clip_starts(frame_count: int, settings: SegmentSettings, *, anchored: bool = False) -> list[int]:
    """First frames of the sections of a clip of `frame_count` frames, distinct and ascending.

    A clip a few frames longer than a segment has fewer than K distinct starts and gives those.
    With `anchored` the last section ends with the clip. Raises InputError below one segment.
    """
    spare = frame_count - settings.frames
    if spare < 0:
        raise InputError(
            f"{frame_count} frames: shorter than one segment of {settings.frames}; use a longer clip or tile it"
        )
    sections = settings.sections
    step = spare // max(1, sections - 1)
    starts = [i * step for i in range(sections)]
    if anchored:
        starts[-1] = spare
    return sorted(set(starts))


def live_starts(frame_count: int, settings: SegmentSettings) -> list[int]:
    """First frames of all live segments that are complete within `frame_count` frames."""
    return list(range(0, frame_count - settings.frames + 1, settings.hop))


def tile(frames: Float32Array, length: int) -> Float32Array:
    """Repeat frames (T, n_mels) in time until they fill `length` frames (evaluation only)."""
    repeats = -(-length // frames.shape[0])
    return np.tile(frames, (repeats, 1))[:length]


class SlidingWindowBuffer:
    """A bounded buffer of rows that yields a window of `length` rows every `hop` rows, each exactly once.

    A window is a view (length, *row) float32 of the buffer, valid until the next one is taken: copy what you keep.
    Rows count from the last reset.
    """

    def __init__(self, length: int, hop: int, row: tuple[int, ...]) -> None:
        self._length, self._hop = length, hop
        # Twice the window: old rows move to the front once per `length` new rows, not at each push.
        self._buffer = np.empty((2 * length, *row), dtype=np.float32)
        self.reset()

    def reset(self) -> None:
        """Forget all rows; the next row has index 0 and starts a window."""
        self._first = 0
        self._end = 0
        self._next = 0

    def push(self, rows: Float32Array) -> Iterator[tuple[int, Float32Array]]:
        """Accept rows (k, *row); yield (index of the first row, view of the window) for each completed window."""
        length, offset = self._length, 0
        while offset < len(rows):
            if self._end == len(self._buffer):
                self._compact()
            taken = min(len(self._buffer) - self._end, len(rows) - offset)
            self._buffer[self._end : self._end + taken] = rows[offset : offset + taken]
            self._end += taken
            offset += taken
            while self._first + self._end >= self._next + length:
                at = self._next - self._first
                yield self._next, self._buffer[at : at + length]
                self._next += self._hop

    def _compact(self) -> None:
        """Drop the rows before the next window. A hop beyond the buffered rows drops them all."""
        drop = min(self._next - self._first, self._end)
        self._buffer[: self._end - drop] = self._buffer[drop : self._end]
        self._first += drop
        self._end -= drop


class SlidingSegments(SlidingWindowBuffer):
    """Frames (n_mels,) in, live segments (frames, n_mels) out, each with the index of its first frame."""

    def __init__(self, settings: SegmentSettings, n_mels: int) -> None:
        super().__init__(settings.frames, settings.hop, (n_mels,))


class Segmenter(Protocol):
    """Turns samples into segments of the live rule. Holds all state of a stream's features."""

    @property
    def samples_seen(self) -> int:
        """Samples accepted since the last reset."""
        ...

    def reset(self) -> None:
        """Forget everything; the next sample is sample 0."""
        ...

    def push_checked(self, samples: Float32Array) -> Iterator[tuple[int, Float32Array]]:
        """Accept samples (n,) that `check_samples` has passed; yield (first frame, segment) for each completed one.

        A segment is a view, valid until the next one is taken.
        """
        ...


class LogMelSegmenter:
    """Segments of log-mel (frames, n_mels) float32; each frame is computed once."""

    def __init__(self, features: FeatureSettings, amplitude: Amplitude, segments: SegmentSettings) -> None:
        self._features = LogMelStream(features, amplitude)
        self._ring = SlidingSegments(segments, features.n_mels)

    @property
    def samples_seen(self) -> int:
        """Samples accepted since the last reset."""
        return self._features.samples_seen

    def reset(self) -> None:
        """Forget everything."""
        self._features.reset()
        self._ring.reset()

    def push_checked(self, samples: Float32Array) -> Iterator[tuple[int, Float32Array]]:
        """As Segmenter."""
        return self._ring.push(self._features.push_checked(samples))


class SampleSegmenter:
    """Segments (n,) float32 of normalised samples, n = features.sample_count(segments.frames)."""

    def __init__(self, features: FeatureSettings, amplitude: Amplitude, segments: SegmentSettings) -> None:
        self._amplitude, self._hop = amplitude, features.hop_length
        self._ring = SlidingWindowBuffer(features.sample_count(segments.frames), segments.hop * features.hop_length, ())
        self.samples_seen = 0
        """Samples accepted since the last reset."""

    def reset(self) -> None:
        """Forget everything."""
        self._ring.reset()
        self.samples_seen = 0

    def push_checked(self, samples: Float32Array) -> Iterator[tuple[int, Float32Array]]:
        """As Segmenter."""
        self.samples_seen += samples.size
        for first, segment in self._ring.push(normalise(samples, self._amplitude)):
            yield first // self._hop, segment
