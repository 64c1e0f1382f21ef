"""From a row of frames to 256-frame segments: the live rule and the clip rule.

Live: one segment every `hop` frames from frame 0 after a reset.
Clip: K sections starting at i * ((T - length) // (K - 1)), with the clip's own T.
For a clip of the nominal length both rules give the same segments.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.logmel import Float32Array


class SegmentSettings(BaseModel):
    """How frames become segments and segments a clip; stored in the manifest."""

    model_config = ConfigDict(frozen=True, extra="allow")

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


class SegmentRing:
    """A bounded buffer of frames that yields every live segment exactly once.

    A segment is yielded as a view (frames, n_mels) of the buffer, valid until the next one is
    asked for; the caller copies what it keeps. Frame indices count from the last reset.
    """

    def __init__(self, settings: SegmentSettings, n_mels: int) -> None:
        self.settings = settings
        # Twice the segment: old frames move to the front once per `frames` new ones, not at each push.
        self._buffer = np.empty((2 * settings.frames, n_mels), dtype=np.float32)
        self.reset()

    def reset(self) -> None:
        """Forget all frames; the next frame has index 0 and starts a segment."""
        self._first = 0
        self._end = 0
        self._next = 0

    def push(self, frames: Float32Array) -> Iterator[tuple[int, Float32Array]]:
        """Accept frames (k, n_mels); yield (first frame index, segment view) for each completed segment."""
        length, offset = self.settings.frames, 0
        while offset < len(frames):
            if self._end == len(self._buffer):
                self._compact()
            taken = min(len(self._buffer) - self._end, len(frames) - offset)
            self._buffer[self._end : self._end + taken] = frames[offset : offset + taken]
            self._end += taken
            offset += taken
            while self._first + self._end >= self._next + length:
                at = self._next - self._first
                yield self._next, self._buffer[at : at + length]
                self._next += self.settings.hop

    def _compact(self) -> None:
        """Drop the frames before the next segment. A hop beyond the buffered frames drops them all."""
        drop = min(self._next - self._first, self._end)
        self._buffer[: self._end - drop] = self._buffer[drop : self._end]
        self._first += drop
        self._end -= drop
