"""Blocks of a live sound in, finished clips out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgeasd.runtime.audio.reader import Samples
from edgeasd.runtime.health import HealthMonitor
from edgeasd.runtime.record.clip_folder import ClipFigures, ClipFolder, measure
from edgeasd.runtime.sources.capture import Block


@dataclass(frozen=True, slots=True)
class FinishedClip:
    """A clip that lies on the disk."""

    path: Path
    figures: ClipFigures
    complaints: tuple[str, ...]
    """Health states of the clip, and those of the running sound that were active at its end."""


@dataclass
class Tally:
    """What this recording amounts to so far, earlier ones not included."""

    clips: int = 0
    samples: int = 0
    clipped: int = 0
    thrown_away: int = 0
    lost_samples: int = 0
    losses: int = 0
    """Gaps in the sound; what a driver overrun lost is not in `lost_samples`, as nobody knows it."""
    lowest_dbfs: float | None = None
    highest_dbfs: float | None = None
    complaints: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Clips with complaints, by file name. They are kept: whoever listens to them decides."""


class Recorder:
    """Cuts a sound into clips of `clip_samples` and writes each as soon as it is whole.

    A clip that spans lost sound is thrown away and counted, and the next one begins behind the gap. What has
    not become a whole clip at the end is never written, so an interrupt at any instant leaves whole clips only.
    """

    def __init__(
        self,
        folder: ClipFolder,
        clip_samples: int,
        bits: int,
        wanted_samples: int,
        health: HealthMonitor | None = None,
    ) -> None:
        """Done at `wanted_samples` in the folder, earlier recordings included, rounded up to whole clips.

        `health` judges the running sound: it finds what no single clip shows, stuck sound and holes.
        """
        self._folder, self._size, self._bits, self._wanted = folder, clip_samples, bits, wanted_samples
        self._clip: Samples = np.empty(clip_samples, np.float32)
        self._filled, self._expected = 0, 0
        self._health = health
        self.tally = Tally()

    @property
    def clip_bytes(self) -> int:
        """The most that a clip takes on the disk."""
        return self._size * self._bits // 8 + 65536

    @property
    def clips_left(self) -> int:
        """Clips still to come."""
        return -(-max(0, self._wanted - self._folder.samples) // self._size)

    def seconds_left(self, sample_rate: int) -> float:
        """Sound still to come, in seconds."""
        return max(0, self.clips_left * self._size - self._filled) / sample_rate

    def accept(self, block: Block) -> list[FinishedClip]:
        """Take a block; returns the clips that it completed. Raises CheckFailed for a full disk, OSError as it comes."""
        if block.position != self._expected or block.after_loss:
            self._lose(block.position - self._expected)
        self._expected = block.position + block.samples.size
        finished, at = [], 0
        while at < block.samples.size and self.clips_left:
            taken = min(self._size - self._filled, block.samples.size - at)
            self._clip[self._filled : self._filled + taken] = block.samples[at : at + taken]
            self._filled += taken
            if self._health is not None:
                self._health.push(block.samples[at : at + taken])
            at += taken
            if self._filled == self._size:
                finished.append(self._finish())
        return finished

    def _lose(self, samples: int) -> None:
        if self._health is not None:
            self._health.reset()  # the clip that has the gap goes; those behind it are none the worse
        self.tally.losses += 1
        self.tally.lost_samples += samples
        if self._filled:
            self.tally.thrown_away += 1
            self._filled = 0

    def _finish(self) -> FinishedClip:
        self._filled = 0
        self._folder.check_disk(self.clip_bytes)
        figures = measure(self._clip)
        path = self._folder.write(self._clip, self._bits)
        tally, level = self.tally, figures.level_dbfs
        tally.clips += 1
        tally.samples += self._size
        tally.clipped += figures.clipped
        tally.lowest_dbfs = level if tally.lowest_dbfs is None else min(level, tally.lowest_dbfs)
        tally.highest_dbfs = level if tally.highest_dbfs is None else max(level, tally.highest_dbfs)
        running = self._health.report().active if self._health is not None else ()
        complaints = tuple(dict.fromkeys((*figures.complaints, *running)))
        if complaints:
            tally.complaints[path.name] = complaints
        return FinishedClip(path, figures, complaints)
