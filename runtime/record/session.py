"""Cuts live sound into clips and writes each as soon as it is complete."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgeasd.runtime.audio.reader import Samples
from edgeasd.runtime.health import HealthMonitor
from edgeasd.runtime.health.clip import ClipFigures, measure
from edgeasd.runtime.record.clip_folder import ClipFolder
from edgeasd.runtime.sources import AudioChunk


@dataclass(frozen=True, slots=True)
class RecordedClip:
    """A clip on the disk."""

    path: Path
    figures: ClipFigures
    complaints: tuple[str, ...]
    """Health states of the clip, and those of the running sound that were active at its end."""


@dataclass
class RecordingTotals:
    """Totals of this recording, without earlier ones."""

    clips: int = 0
    samples: int = 0
    clipped: int = 0
    thrown_away: int = 0
    lost_samples: int = 0
    losses: int = 0
    """Gaps in the sound. `lost_samples` has no driver overruns: their size is unknown."""
    lowest_dbfs: float | None = None
    highest_dbfs: float | None = None
    complaints: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Clips with complaints, by file name. They are kept for a person to judge."""


class ClipRecorder:
    """Cuts sound into clips of `clip_samples` and writes each as soon as it is complete.

    A clip that spans lost sound is thrown away and counted; the next one begins after the gap. An incomplete clip
    at the end is never written, so an interrupt at any instant leaves complete clips only.
    """

    def __init__(
        self,
        folder: ClipFolder,
        clip_samples: int,
        bits: int,
        wanted_samples: int,
        health: HealthMonitor | None = None,
    ) -> None:
        """Done at `wanted_samples` in the folder, earlier recordings included, rounded up to complete clips.

        `health` judges the running sound: it finds what no single clip shows, such as stuck sound and dropouts.
        """
        self._folder, self._size, self._bits, self._wanted = folder, clip_samples, bits, wanted_samples
        self._clip: Samples = np.empty(clip_samples, np.float32)
        self._filled, self._position = 0, 0
        self._health = health
        self._has_wrong_rate = False
        self.totals = RecordingTotals()

    @property
    def clip_bytes(self) -> int:
        """The largest size of a clip on the disk."""
        return self._size * self._bits // 8 + 65536

    @property
    def clips_left(self) -> int:
        """Clips still to record."""
        return -(-max(0, self._wanted - self._folder.samples) // self._size)

    def seconds_left(self, sample_rate: int) -> float:
        """Sound still to record, in seconds."""
        return max(0, self.clips_left * self._size - self._filled) / sample_rate

    def accept(self, chunk: AudioChunk, *, has_wrong_rate: bool = False) -> list[RecordedClip]:
        """Add a chunk; returns the clips that it completed. Raises CheckFailed for a full disk, and OSError.

        `has_wrong_rate` says that its source delivers at another rate: the clip that has this chunk is named.
        """
        self._has_wrong_rate = self._has_wrong_rate or has_wrong_rate
        if chunk.start_sample != self._position or chunk.discontinuity:
            self._restart_after_gap(chunk.start_sample - self._position)
        self._position = chunk.end_sample
        clips, at = [], 0
        while at < len(chunk.samples) and self.clips_left:
            part = chunk.samples[at : at + self._size - self._filled]
            self._clip[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            at += len(part)
            if self._health is not None:
                self._health.push(part)
            if self._filled == self._size:
                clips.append(self._finish())
        return clips

    def _restart_after_gap(self, lost_samples: int) -> None:
        if self._health is not None:
            self._health.reset()  # only the clip with the gap is affected
        self.totals.losses += 1
        self.totals.lost_samples += lost_samples
        if self._filled:
            self.totals.thrown_away += 1
            self._filled = 0

    def _finish(self) -> RecordedClip:
        self._filled = 0
        self._folder.check_disk(self.clip_bytes)
        figures = measure(self._clip)
        path = self._folder.write(self._clip, self._bits)
        totals, level = self.totals, figures.level_dbfs
        totals.clips += 1
        totals.samples += self._size
        totals.clipped += figures.clipped
        totals.lowest_dbfs = level if totals.lowest_dbfs is None else min(level, totals.lowest_dbfs)
        totals.highest_dbfs = level if totals.highest_dbfs is None else max(level, totals.highest_dbfs)
        active = self._health.report().active if self._health is not None else ()
        complaints = tuple(dict.fromkeys((*figures.complaints, *active, *("wrong_rate",) * self._has_wrong_rate)))
        self._has_wrong_rate = False
        if complaints:
            totals.complaints[path.name] = complaints
        return RecordedClip(path, figures, complaints)
