"""The clips and segments of a calibration: their split into ranges and drift, and the choice of segments.

Clips are split by content, so none both gives ranges and measures drift. Segments are chosen to cover level,
spectrum and time of the clips.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgeasd.calibration.progress import ProgressCallback, no_progress
from edgeasd.calibration.threshold.threshold import finite_clip_scores
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.features.logmel import Float32Array
from edgeasd.runtime.features.segments import SegmentSettings, live_starts

RANGE_CLIPS = 16
"""The next normal clip goes beyond the largest value seen in n of them with a probability of 1 / (n + 1), for
each tensor: 6 % here."""
DRIFT_CLIPS = 24
"""Two neighbours in rank that change places cost a rank correlation of n clips 12 / (n³ − n). From 23 clips on
that is below 0.001, so that the strictest limit, 0.999, is not a verdict on a single pair."""
MOST_DRIFT_CLIPS = 200
"""No single clip decides anything here, and every trial of the gate runs all of them."""
BANDS = 8
"""Parts of the mel axis whose mean levels describe a spectrum."""
DESCRIPTORS = ("level", "loudest frame", "quietest frame", "flux", *(f"band {index}" for index in range(BANDS)))
"""Level: mean of the log-mel. Loudest and quietest frame: of the frames' means. Flux: mean change from frame to
frame. Band k: mean of its mels minus the level, the shape of the spectrum apart from how loud it is."""
Array = NDArray[np.float64]
LEAST_MARGIN = 0.05
"""In units of s, where 0 is the most normal segment and 1 where other machines begin. A model whose normal scores
are nearly constant would otherwise take a small change for another machine."""
EVIDENT_SHARE = 0.5
SEGMENTS = 128
"""Default number. Ranges change little with more segments; time grows with it."""


@dataclass(frozen=True)
class ClipSplit:
    """Positions of clips, in order; of copies of one content only the first is in either list."""

    ranges: list[int]
    drift: list[int]


def needed_clips() -> int:
    """Distinct normal clips that a calibration needs, for ranges and drift together."""
    return RANGE_CLIPS + DRIFT_CLIPS


def why_needed() -> str:
    """One line on the number of `needed_clips`."""
    return (
        f"{RANGE_CLIPS} for ranges (with fewer, more than one clip in {RANGE_CLIPS + 1} goes beyond what was seen) "
        f"and {DRIFT_CLIPS} others to measure drift (with fewer, one swapped pair of ranks decides)"
    )


def split_calibration_clips(hashes: Sequence[str], *, seed: int = 0) -> ClipSplit:
    """Share out clips by their content hashes: half to drift, at least 24 and at most 200, the rest to ranges.

    A clip's place follows from the rank of sha256(seed:drift:content), as in the split of training data, so
    neither names nor order matter. Of copies the first counts. Raises InputError below `needed_clips`.
    """
    distinct = {content: index for index, content in reversed(list(enumerate(hashes)))}
    if len(distinct) < needed_clips():
        copies = len(hashes) - len(distinct)
        copies_note = f" ({copies} more are copies)" if copies else ""
        raise InputError(
            f"{len(distinct)} normal clip{'s' * (len(distinct) != 1)}{copies_note} {'are' if len(distinct) != 1 else 'is'} too few to calibrate: {needed_clips()} are needed, "
            f"{why_needed()}; give more"
        )
    ranked = sorted(distinct, key=lambda content: hashlib.sha256(f"{seed}:drift:{content}".encode()).hexdigest())
    count = min(max(len(ranked) // 2, DRIFT_CLIPS), MOST_DRIFT_CLIPS)
    return ClipSplit(
        ranges=sorted(distinct[content] for content in ranked[count:]),
        drift=sorted(distinct[content] for content in ranked[:count]),
    )


def describe(features: Float32Array, starts: Sequence[int], frames: int, name: str = "") -> Array:
    """DESCRIPTORS of the segments of `frames` frames at `starts` of one clip: (starts, DESCRIPTORS) float64.

    `features` is (T, n_mels) log-mel with T at least the last start plus `frames`. Sums run once over the
    clip, so overlapping segments cost nothing extra. Raises InputError, with `name`, for a value that is not finite.
    """
    values = np.asarray(features, np.float64)
    if not np.isfinite(values).all():
        raise InputError(f"{name or 'a clip'}: its log-mel has a value that is not finite; remove the clip")
    edges = np.linspace(0, values.shape[1], min(BANDS, values.shape[1]) + 1).astype(int)
    bands = np.stack([values[:, a:b].mean(axis=1) for a, b in pairwise(edges)], axis=1)
    if bands.shape[1] < BANDS:
        bands = np.pad(bands, ((0, 0), (0, BANDS - bands.shape[1])), mode="edge")
    level = values.mean(axis=1)
    change = np.abs(np.diff(values, axis=0)).mean(axis=1)
    first = np.asarray(starts)
    means = _means(np.column_stack([level, bands]), first, frames)
    flux = _means(np.append(change, 0.0)[:, None], first, frames - 1) if frames > 1 else np.zeros((len(first), 1))
    loudest = np.array([level[start : start + frames].max() for start in starts])
    quietest = np.array([level[start : start + frames].min() for start in starts])
    return np.column_stack([means[:, :1], loudest, quietest, flux, means[:, 1:] - means[:, :1]])


def _means(rows: Array, first: NDArray[np.int_], frames: int) -> Array:
    sums = np.concatenate([np.zeros((1, rows.shape[1])), np.cumsum(rows, axis=0)])
    return np.asarray((sums[first + frames] - sums[first]) / frames)


def standardised(descriptors: Array) -> Array:
    """Every column with mean 0 and standard deviation 1; a column that does not vary is 0."""
    spread = descriptors.std(axis=0)
    # Below this it is rounding of the running sums, and dividing by it would make noise the main difference.
    varies = spread > 1e-9 * (1.0 + np.abs(descriptors).max(axis=0))
    return np.asarray(np.where(varies, (descriptors - descriptors.mean(axis=0)) / np.where(varies, spread, 1.0), 0.0))


def normal_bounds(reference: Sequence[float], threshold: float | None = None) -> tuple[float, float]:
    """(lowest, highest) clip score that may still be of this machine, from normal clip scores of the bundle.

    `reference` is (n,), finite, fp32, of held-out normals (calibration.json, normal_clip_scores). A score below
    `threshold` is never too high: the bundle itself calls it normal. Raises InputError for
    an empty or not finite reference.
    """
    known = finite_clip_scores(reference)
    middle, lowest, highest = float(np.median(known)), float(known.min()), float(known.max())
    low = lowest - max(middle - lowest, LEAST_MARGIN)
    high = highest + max(highest - middle, LEAST_MARGIN)
    return low, high if threshold is None else max(high, threshold)


def outside_normal_bounds(
    scores: Sequence[float], reference: Sequence[float], threshold: float | None = None
) -> list[int]:
    """Positions of the clips whose fp32 clip scores (m,) lie outside `normal_bounds`; a score that is no number too."""
    low, high = normal_bounds(reference, threshold)
    return [index for index, score in enumerate(scores) if not low <= score <= high]


def is_other_machine(scores: Sequence[float], reference: Sequence[float], threshold: float | None = None) -> bool:
    """Whether at least half of the clips are `outside_normal_bounds`."""
    return len(outside_normal_bounds(scores, reference, threshold)) >= EVIDENT_SHARE * max(len(scores), 1)


class ClipFeatures(Protocol):
    """Log-mel of clips, each (T, n_mels) float32, opened when asked for: a list of arrays, or a reader of files."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Float32Array: ...


@dataclass(frozen=True, order=True)
class SegmentChoice:
    """A segment of a clip: the number of the clip and the first frame."""

    clip: int
    start: int


def choose_segments(
    clips: ClipFeatures, count: int, segments: SegmentSettings, seed: int = 0, *, report: ProgressCallback = no_progress
) -> list[SegmentChoice]:
    """`count` distinct segments that cover level, spectrum and time of the clips, in order of clip and start.

    Candidates are the live segments, one every `segments.hop` frames; if there are at most `count`,
    all are taken. The same clips in the same order, count and seed give the same segments. Every clip is opened
    once; memory is that of one clip and a dozen numbers for each candidate. `report` is called with (done,
    total) clips. Raises InputError for a count below 1, without clips, for a clip shorter than a segment, and for a value that is not finite.
    """
    if count < 1:
        raise InputError(f"{count} calibration segments: choose 1 or more")
    if len(clips) == 0:
        raise InputError("0 clips give no calibration segments; give normal clips")
    candidates: list[SegmentChoice] = []
    described = []
    for index in range(len(clips)):
        features = clips[index]
        starts = live_starts(len(features), segments)
        if not starts:
            raise InputError(
                f"clip {index}: {len(features)} frames, a calibration segment takes {segments.frames}; leave it out"
            )
        described.append(describe(features, starts, segments.frames, f"clip {index}"))
        candidates += [SegmentChoice(index, start) for start in starts]
        report(index + 1, len(clips))
    if count >= len(candidates):
        return candidates
    place = standardised(np.concatenate(described))
    usual = _evenly(candidates, described, (count + 1) // 2, np.random.default_rng(seed))
    unusual = _farthest(place, usual, count - len(usual))
    return sorted(candidates[index] for index in (*usual, *unusual))


def _evenly(
    candidates: list[SegmentChoice], described: list[NDArray[np.float64]], count: int, draw: np.random.Generator
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
    """SegmentChoice segments for `edgeasd.calibration.quantization.ranges.collect`, cut out of the clips on demand."""

    def __init__(self, clips: ClipFeatures, chosen: list[SegmentChoice], frames: int) -> None:
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
