"""Which segments of the clips the ranges are collected from: the usual ones and the unusual ones.

Half are drawn evenly over clips ordered by level, and over time within them: histograms, from which entropy
and percentile ranges come, then show how often a value occurs. The other half are drawn farthest first (the
greedy k-center method of Gonzalez, Theoretical Computer Science 38, 1985): each is the segment least like all
that were drawn before, so that a rare loud or oddly coloured one, which sets a min-max range, is not missed.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgeasd.calibration.descriptors import describe, standardised
from edgeasd.calibration.reporting import Report, unreported
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.logmel import Float32Array
from edgeasd.runtime.segments import SegmentSettings, live_starts

SEGMENTS = 128
"""What is asked for where nobody says. Ranges change little beyond; time grows with it."""


class ClipFeatures(Protocol):
    """Log-mel of clips, each (T, n_mels) float32, opened when asked for: a list of arrays, or a reader of files."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Float32Array: ...


@dataclass(frozen=True, order=True)
class Chosen:
    """A segment: the number of its clip and its first frame."""

    clip: int
    start: int


def choose_segments(
    clips: ClipFeatures, count: int, segments: SegmentSettings, seed: int = 0, *, report: Report = unreported
) -> list[Chosen]:
    """`count` distinct segments that cover level, spectrum and time of the clips, in order of clip and start.

    Candidates are the live segments, one every `segments.hop` frames; where there are no more than `count`,
    all are taken. The same clips in the same order, count and seed give the same segments. Every clip is opened
    once; memory is that of one clip and a dozen numbers for each candidate. `report` is called with (done,
    total) clips. Raises InputError for a count below 1, without clips, for a clip shorter than a segment, and for a value that is not finite.
    """
    if count < 1:
        raise InputError(f"{count} calibration segments: choose 1 or more")
    if len(clips) == 0:
        raise InputError("0 clips give no calibration segments; give normal clips")
    candidates: list[Chosen] = []
    described = []
    for index in range(len(clips)):
        features = clips[index]
        starts = live_starts(len(features), segments)
        if not starts:
            raise InputError(
                f"clip {index}: {len(features)} frames, a calibration segment takes {segments.frames}; leave it out"
            )
        described.append(describe(features, starts, segments.frames, f"clip {index}"))
        candidates += [Chosen(index, start) for start in starts]
        report(index + 1, len(clips))
    if count >= len(candidates):
        return candidates
    place = standardised(np.concatenate(described))
    usual = _evenly(candidates, described, (count + 1) // 2, np.random.default_rng(seed))
    unusual = _farthest(place, usual, count - len(usual))
    return sorted(candidates[index] for index in (*usual, *unusual))


def _evenly(
    candidates: list[Chosen], described: list[NDArray[np.float64]], count: int, draw: np.random.Generator
) -> list[int]:
    """One candidate at random from each of `count` equal stretches of all, in order of their clips' level."""
    levels = [float(one[:, 0].mean()) for one in described]
    order = sorted(range(len(candidates)), key=lambda i: (levels[candidates[i].clip], candidates[i]))
    edges = np.linspace(0, len(order), count + 1).astype(int)
    return [order[int(draw.integers(a, b))] for a, b in pairwise(edges)]


def _farthest(place: NDArray[np.float64], drawn: list[int], count: int) -> list[int]:
    """`count` candidates, each the one farthest from all drawn so far; of equals the first."""
    nearest = np.full(len(place), np.inf)
    for index in drawn:
        np.minimum(nearest, _squared_distances(place, index), out=nearest)
    # Not 0: a candidate like one drawn is still better than the same one twice.
    nearest[drawn] = -1.0
    found: list[int] = []
    for _ in range(count):
        index = int(np.argmax(nearest))
        found.append(index)
        np.minimum(nearest, _squared_distances(place, index), out=nearest)
        nearest[index] = -1.0
    return found


def _squared_distances(place: NDArray[np.float64], index: int) -> NDArray[np.float64]:
    return np.asarray(np.square(place - place[index]).sum(axis=1))


class SegmentView:
    """Chosen segments as `edgeasd.calibration.ranges.collect` wants them, cut out of the clips when asked for."""

    def __init__(self, clips: ClipFeatures, chosen: list[Chosen], frames: int) -> None:
        self._clips = clips
        self._chosen = chosen
        self._frames = frames

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, part: slice, /) -> Float32Array:
        """Segments (n, frames, n_mels) float32; neighbours of one clip open it once.

        A step is allowed: `view[:: max(1, len(view) // 8)]` is some eight of them from all over the clips.
        """
        found = []
        for clip, members in groupby(self._chosen[part], key=lambda one: one.clip):
            features = self._clips[clip]
            found += [np.asarray(features[m.start : m.start + self._frames], np.float32) for m in members]
        if not found:
            raise IndexError(f"segments {part}: none of {len(self)}")
        return np.stack(found)
