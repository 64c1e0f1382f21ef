"""Finds when the normal sound of a machine changed: a step, a slope or a wider spread of its hourly scores and levels.

Pure: hours in, changes out, without clock, file or model. Hours with an open event, a sick input or a machine that is
off are not given to it, so that a fault does not count as a new normal. It only names a change. Thresholds and the
bundle stay as they are until a person fits them again.

Hours are gathered into blocks of up to eight hours of sound. At each new block the blocks of the last ten days are
split in two at every place. The change is where the means before and after differ most in units of their standard
error, if that is beyond what chance does and beyond what matters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

Quantity = Literal["score", "level", "spread"]
QUANTITIES: tuple[Quantity, ...] = ("score", "level", "spread")
Shape = Literal["step", "slope"]

HOUR = 3600.0
_BLOCK_SECONDS = 8 * HOUR
_BLOCK_SPAN = 24 * HOUR
"""A machine that runs an hour a day gives one block a day."""
_SHORTEST_BLOCK = 600.0
"""Less sound than this in a day says nothing about its mean."""
_BASELINE_BLOCKS, _CHANGE_BLOCKS = 6, 3
"""At least two days before a change and one day after it, for a machine that runs all day."""
_SPLITS = 30
"""The latest blocks in which a change may have begun."""
_BASELINE_MOST = 180
"""Blocks before a change that it is compared with: two months."""
_CHANCE = 5.5
"""Standard errors that a difference must have. About 200,000 splits are tried in a year."""
_FEW = 8.0
"""With n blocks before it, a change needs `_CHANCE` (1 + _FEW / n): few blocks know their own spread badly."""
_SCORE_MATTERS = 0.15
"""Of the distance from the mean score to the threshold."""
_LEVEL_MATTERS = 1.5
"""In dB."""
_SPREAD_MATTERS = math.log(1.5)
"""As a factor of the standard deviation of scores."""
_CONTINUES = 30 * 86_400.0
"""A further change of the same kind and sign within this time belongs to the one before."""


@dataclass(frozen=True, slots=True)
class Hour:
    """What is known of one hour of one machine in one mode, judged and without an event."""

    at: float
    """Its beginning in seconds since 1970."""
    seconds: float
    """Seconds of sound."""
    score: float
    """Mean of the clip scores."""
    score_std: float
    """Their standard deviation."""
    level: float | None
    """Mean level in dBFS."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the normal."""

    quantity: Quantity
    shape: Shape
    began: float
    """In seconds since 1970, to about eight hours of sound."""
    found: float
    """When there was enough sound to say so."""
    before: float
    """Mean before it: a score, a level in dBFS, or a standard deviation of scores."""
    after: float
    """Mean after it; of a slope, the latest value."""
    ended: float | None = None
    """When it was back to as before."""

    @property
    def size(self) -> float:
        """By how much; of a spread, by what factor."""
        return self.after / self.before if self.quantity == "spread" else self.after - self.before


@dataclass(frozen=True, slots=True)
class _Block:
    at: float
    until: float
    values: tuple[float, float, float]
    """Of score, level and logarithm of the spread; NaN where not known."""


class TrendWatch:
    """The changes of one machine in one mode. Give hours in order; the same hours give the same changes."""

    def __init__(self, threshold: float | None = None) -> None:
        """`threshold` is the clip score that raises an alarm; a change of the score is measured against it."""
        self._waiting: list[Hour] = []
        self._series = [_Series(quantity, threshold) for quantity in QUANTITIES]

    @property
    def changes(self) -> list[Change]:
        """All changes so far, oldest first."""
        found = [change for series in self._series for change in series.changes]
        return sorted(found, key=lambda change: (change.found, change.quantity))

    def add(self, hour: Hour) -> list[Change]:
        """Add an hour, later than all before; returns the changes that it brings to light or to an end."""
        news: list[Change] = []
        if self._waiting and hour.at - self._waiting[0].at >= _BLOCK_SPAN:
            news += self._close()
        self._waiting.append(hour)
        if sum(one.seconds for one in self._waiting) >= _BLOCK_SECONDS:
            news += self._close()
        return news

    def _close(self) -> list[Change]:
        hours, self._waiting = self._waiting, []
        if sum(hour.seconds for hour in hours) < _SHORTEST_BLOCK:
            return []
        block = _block(hours)
        news = [
            series.add(block.at, block.until, value) for series, value in zip(self._series, block.values, strict=True)
        ]
        return [change for change in news if change is not None]


def find_changes(hours: Iterable[Hour], threshold: float | None = None) -> list[Change]:
    """All changes in `hours`, oldest first; see `TrendWatch`."""
    watch = TrendWatch(threshold)
    for hour in sorted(hours, key=lambda one: one.at):
        watch.add(hour)
    return watch.changes


def _block(hours: Sequence[Hour]) -> _Block:
    weights = np.array([hour.seconds for hour in hours])
    spread = np.average([hour.score_std**2 for hour in hours], weights=weights)
    heard = [(hour.level, hour.seconds) for hour in hours if hour.level is not None]
    level = sum(value * seconds for value, seconds in heard) / sum(s for _, s in heard) if heard else math.nan
    score = float(np.average([hour.score for hour in hours], weights=weights))
    log_spread = 0.5 * math.log(spread) if spread > 0 else math.nan
    return _Block(hours[0].at, hours[-1].at + HOUR, (score, level, log_spread))


class _Series:
    """The blocks of one quantity, and the changes in it."""

    def __init__(self, quantity: Quantity, threshold: float | None) -> None:
        self.quantity, self.threshold = quantity, threshold
        self.changes: list[Change] = []
        self._at: list[float] = []
        self._values: list[float] = []
        self._starts = [0]
        """Where the blocks begin that a change is compared with: after each change that has not ended."""

    def add(self, at: float, until: float, value: float) -> Change | None:
        """Add a block; returns the change that it brings to light, continues or ends."""
        if not math.isfinite(value):
            return None
        self._at.append(at)
        self._values.append(value)
        start = self._starts[-1]
        found = _split(np.array(self._values[start:]), self.quantity, self.threshold)
        self._refine()
        if found is None:
            return None
        shape, split, latest = found
        first = start + split
        before, after = float(np.mean(self._values[start:first])), float(np.mean(self._values[first:]))
        shown = [_shown(self.quantity, value) for value in (before, latest)]
        one = Change(self.quantity, shape, self._at[first], until, *shown)
        last = self.changes[-1] if self.changes else None
        if last is not None and last.ended is None and _is_back(last, after, self.quantity, self.threshold):
            # As before: the blocks of then count again, and what came between belongs to their spread.
            self.changes[-1] = replace(last, ended=one.found)
            self._starts.pop()
        elif last is not None and _continues(last, one):
            self.changes[-1] = replace(last, shape="slope", after=one.after)
            self._starts[-1] = first
        else:
            self.changes.append(one)
            self._starts.append(first)
        return self.changes[-1]

    def _refine(self) -> None:
        """Of a new step, little is heard at first; its size is known better later."""
        if self.changes and self.changes[-1].ended is None and self.changes[-1].shape == "step":
            # Without the first block, in which it began.
            values = self._values[self._starts[-1] + 1 :]
            self.changes[-1] = replace(self.changes[-1], after=_shown(self.quantity, float(np.mean(values))))


_Split = tuple[Shape, int, float]


def _split(values: npt.NDArray[np.float64], quantity: Quantity, threshold: float | None) -> _Split | None:
    """Of a change at the end of the values, (n,): shape, first index after it, and latest value; None without one."""
    count = len(values)
    firsts = np.arange(max(_BASELINE_BLOCKS, count - _SPLITS), count - _CHANGE_BLOCKS + 1)
    if not firsts.size:
        return None
    offset = max(0, int(firsts[0]) - _BASELINE_MOST)
    values, firsts = values[offset:], firsts - offset
    centre = float(values.mean())
    sums, squares = np.cumsum(values - centre), np.cumsum((values - centre) ** 2)
    later = len(values) - firsts
    before, after = sums[firsts - 1] / firsts, (sums[-1] - sums[firsts - 1]) / later
    variance = np.maximum(squares[firsts - 1] / firsts - before**2, 0.0) * firsts / (firsts - 1)
    error = np.sqrt(np.maximum(variance, 1e-24) * (1.0 / firsts + 1.0 / later))
    distance = np.abs(after - before) / error / (1.0 + _FEW / firsts)
    best = int(distance.argmax())
    if distance[best] < _CHANCE:
        return None
    shape, first, latest = _shape(values, firsts, int(firsts[best]))
    was = centre + float(before[best])
    return (shape, first + offset, latest) if abs(latest - was) >= _matters(quantity, threshold, was) else None


def _shape(values: npt.NDArray[np.float64], firsts: npt.NDArray[np.int64], step: int) -> _Split:
    """A step at `step` or a ramp from one of `firsts`, whichever leaves the smaller sum of squares."""
    before, after = values[:step], values[step:]
    of_step = float(((before - before.mean()) ** 2).sum() + ((after - after.mean()) ** 2).sum())
    ramps = []
    for first in firsts:
        rise = np.maximum(0.0, np.arange(len(values)) - (float(first) - 1.0))
        offset = rise - rise.mean()
        gain = float(offset @ values) / float(offset @ offset)
        squares = float(((values - values.mean() - gain * offset) ** 2).sum())
        ramps.append((squares, int(first), float(values.mean()) + gain * float(offset[-1])))
    squares, first, latest = min(ramps)
    # A ramp over three blocks is a step for all one can tell.
    is_ramp = squares < of_step and len(values) - first > _CHANGE_BLOCKS
    return ("slope", first, latest) if is_ramp else ("step", step, float(after.mean()))


def _matters(quantity: Quantity, threshold: float | None, before: float) -> float:
    """The least difference that is worth a message."""
    if quantity == "score":
        return 0.0 if threshold is None else _SCORE_MATTERS * abs(threshold - before)
    return _LEVEL_MATTERS if quantity == "level" else _SPREAD_MATTERS


def _is_back(change: Change, after: float, quantity: Quantity, threshold: float | None) -> bool:
    """Whether a mean is again what it was before `change`: nearer to it than half the change, and than what matters."""
    before = math.log(change.before) if quantity == "spread" else change.before
    now = math.log(change.after) if quantity == "spread" else change.after
    tolerance = max(_matters(quantity, threshold, before), 0.25 * abs(now - before))
    return abs(after - before) < min(tolerance, 0.5 * abs(now - before))


def _continues(earlier: Change, later: Change) -> bool:
    same_sign = (earlier.after - earlier.before) * (later.after - later.before) > 0
    return earlier.ended is None and same_sign and later.found - earlier.found < _CONTINUES


def _shown(quantity: Quantity, value: float) -> float:
    return math.exp(value) if quantity == "spread" else value
