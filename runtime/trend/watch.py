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
_BASELINE_BLOCKS, _CHANGE_BLOCKS = 6, 5
"""At least two days before a change, and more than one and a half after it, for a machine that runs all day."""
_LOCATED_BLOCKS = 2
"""Blocks after a change with which its place may be seen."""
_MEMORY_BLOCKS = 12
"""Fewer blocks do not tell how alike neighbours are."""
_MOST_MEMORY = 0.9
_REFINED_BLOCKS = 30
"""Blocks that the size of a step is the mean of, at most."""
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
_PASSING = 10 * 86_400.0
"""A change that is over within this time may come again without being one."""
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
        self._settled = 0
        """No change is looked for in blocks before this one."""

    def add(self, at: float, until: float, value: float) -> Change | None:
        """Add a block; returns the change that it brings to light, continues or ends."""
        if not math.isfinite(value):
            return None
        self._at.append(at)
        self._values.append(value)
        start = self._starts[-1]
        earliest = max(0, self._settled - start)
        found = _split(np.array(self._values[start:]), earliest, self.quantity, self.threshold)
        is_refined = self._refine()
        if found is None:
            return self.changes[-1] if is_refined else None
        shape, split, latest = found
        first = start + split
        before, after = float(np.mean(self._values[start:first])), float(np.mean(self._values[first:]))
        shown = [_shown(self.quantity, value) for value in (before, latest)]
        one = Change(self.quantity, shape, self._at[first], until, *shown)
        last = self.changes[-1] if self.changes else None
        if last is not None and last.ended is None and _is_back(last, after, self.quantity, self.threshold):
            self.changes[-1] = replace(last, ended=one.found)
            # After days that were otherwise, such as a weekend, the blocks before count again, and those days belong
            # to their spread. After weeks a new time begins.
            self._starts.pop()
            self._settled = first
            if one.began - last.began > _PASSING:
                self._starts[-1] = first
        elif last is not None and _continues(last, one):
            self.changes[-1] = replace(last, shape="slope", after=one.after)
            self._starts[-1] = first
        else:
            self.changes.append(one)
            self._starts.append(first)
        return self.changes[-1]

    def _refine(self) -> bool:
        """Of a new step, little is heard at first; its size is known better after some days. True if it changed."""
        last = self.changes[-1] if self.changes else None
        # Without the first block, in which it began.
        values = self._values[self._starts[-1] + 1 :]
        if last is None or last.ended is not None or last.shape != "step" or not 0 < len(values) <= _REFINED_BLOCKS:
            return False
        self.changes[-1] = replace(last, after=_shown(self.quantity, float(np.mean(values))))
        return True


_Split = tuple[Shape, int, float]


def _split(
    values: npt.NDArray[np.float64], earliest: int, quantity: Quantity, threshold: float | None
) -> _Split | None:
    """Of a change at the end of the values, (n,): shape, first index after it, and latest value; None without one.

    `earliest` is the first index that may come after a change.
    """
    count = len(values)
    firsts = np.arange(max(_BASELINE_BLOCKS, earliest, count - _SPLITS), count - _LOCATED_BLOCKS + 1)
    if not firsts.size:
        return None
    offset = max(0, int(firsts[0]) - _BASELINE_MOST)
    values, firsts = values[offset:], firsts - offset
    centre = float(values.mean())
    sums, squares = np.cumsum(values - centre), np.cumsum((values - centre) ** 2)
    later = len(values) - firsts
    before, after = sums[firsts - 1] / firsts, (sums[-1] - sums[firsts - 1]) / later
    variance = np.maximum(squares[firsts - 1] / firsts - before**2, 0.0) * firsts / (firsts - 1)
    error = np.sqrt(np.maximum(variance, 1e-24) * (1.0 / firsts + 1.0 / later)) * _inflation(values, firsts)
    distance = np.abs(after - before) / error / (1.0 + _FEW / firsts)
    best = int(distance.argmax())
    # With fewer blocks behind it than are needed, the best place is waited for: another would be too early.
    if distance[best] < _CHANCE or later[best] < _CHANGE_BLOCKS:
        return None
    shape, first, latest = _shape(values, firsts[later >= _CHANGE_BLOCKS], int(firsts[best]))
    was = centre + float(before[best])
    return (shape, first + offset, latest) if abs(latest - was) >= _matters(quantity, threshold, was) else None


def _inflation(values: npt.NDArray[np.float64], firsts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """By how much the error of a mean is larger because blocks are like their neighbours, for each split.

    sqrt((1 + r) / (1 - r)) of a first-order process whose correlation of neighbours before the split is r.
    """
    values = values - values.mean()
    sums, squares = np.cumsum(values)[firsts - 1], np.cumsum(values**2)[firsts - 1]
    products = np.concatenate([[0.0], np.cumsum(values[1:] * values[:-1])])[firsts - 1]
    means = sums / firsts
    # Sums of products and squares about the mean of the values before each split.
    apart = products - means * (2.0 * sums - values[0] - values[firsts - 1]) + (firsts - 1) * means**2
    memory = np.clip(apart / np.maximum(squares - firsts * means**2, 1e-24), 0.0, _MOST_MEMORY)
    memory = np.where(firsts >= _MEMORY_BLOCKS, memory, 0.0)
    return np.asarray(np.sqrt((1.0 + memory) / (1.0 - memory)))


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
    is_ramp = squares < of_step
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
