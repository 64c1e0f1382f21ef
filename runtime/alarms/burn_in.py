"""The learning period: a new threshold from the first days of live scores, proposed to a person.

Pure, without clocks and files. Its material are the highest clip scores of single minutes. A fault in the period must
not be learnt: minutes that lie far outside the lower half are left out and named, and so is a level that rose.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeasd.runtime.scoring.tail import ONE_A_WEEK, tail_threshold

Phase = Literal["learning", "proposed", "accepted", "declined"]
FEWEST_MINUTES = 60
_FAR = 12.0
"""A minute is left out beyond the median by so many times the way from the 10 % quantile to the median. Of exponential
scores, one minute in 5,000 is."""
_MOVED = 1.5
"""The medians of both halves may lie apart by so many times the way from the 10 % quantile to the median."""
_SAME_SPELL = 900.0
_MOST_LEFT_OUT = 0.05
"""If more was left out, no setting accepts the proposal: a person must."""
_LISTED = 20


class Spell(BaseModel):
    """A time that was left out, in seconds since 1970, and its highest clip score."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    begun: float
    ended: float
    highest: Annotated[float, Field(allow_inf_nan=False)]


class Proposal(BaseModel):
    """A threshold from the learning period."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    threshold: Annotated[float, Field(allow_inf_nan=False)]
    interval95: tuple[float, float]
    per_day: float
    """Alarms a day that it was made for."""
    minutes: int
    left_out: int
    """Minutes that were not learnt from."""
    spells: tuple[Spell, ...] = ()
    """The highest of them; at most 20."""
    threshold_with_all: Annotated[float, Field(allow_inf_nan=False)]
    """What it would be if nothing were left out."""
    doubt: str | None = None
    """Why a person should listen before it is accepted; then no setting accepts it."""


class BurnIn(BaseModel):
    """Where the learning period of one machine stands; stored whole."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    phase: Phase = "learning"
    scoring: str
    """What makes the scores: the threshold means nothing for another encoder, head or scale."""
    begun: float
    """Seconds since 1970."""
    hours: float
    """That must be heard."""
    heard_minutes: int = 0
    proposal: Proposal | None = None
    by: str | None = None
    decided: float | None = None

    @property
    def accepted(self) -> float | None:
        """The threshold in force; None without an accepted one."""
        return self.proposal.threshold if self.phase == "accepted" and self.proposal is not None else None

    def describe(self, present: float | None) -> str:
        """One line for people; `present` is the threshold in force."""
        if self.phase == "learning":
            return f"learning: {self.heard_minutes / 60:.1f} of {self.hours:g} h heard, no alarm is raised"
        if self.proposal is None:
            return f"learning period: {self.phase}"
        found = self.proposal
        if self.phase != "proposed":
            who = f" by {self.by}" if self.by else ""
            return f"threshold {found.threshold:.4g} from {found.minutes / 60:.0f} h was {self.phase}{who}"
        now = "none" if present is None else f"{present:.4g}"
        doubt = f"; {found.doubt}" if found.doubt else ""
        return (
            f"threshold {found.threshold:.4g} is proposed from {found.minutes / 60:.0f} h (in force: {now}){doubt}; "
            "`edgeasd threshold accept` or `decline`"
        )


def parse_burn_in(text: str) -> BurnIn | None:
    """What `model_dump_json` gave; None for anything else."""
    try:
        return BurnIn.model_validate_json(text)
    except ValidationError:
        return None


def propose(at: Sequence[float], highs: Sequence[float], shipped: float | None) -> Proposal | None:
    """A threshold from minutes: their time in seconds since 1970 and their highest clip score, (minutes,) each.

    One alarm a week, or as few as `tail_threshold` allows from so much. None for less than an hour. `shipped` is the
    threshold of the bundle: if half of the time lay above it, there is a doubt.
    """
    times, values = np.asarray(at, float), np.asarray(highs, float)
    if len(values) < FEWEST_MINUTES:
        return None
    lowest, middle = (float(value) for value in np.quantile(values, (0.1, 0.5)))
    kept = values <= middle + _FAR * max(middle - lowest, 1e-12 * max(1.0, abs(middle)))
    spells = _spells(times[~kept], values[~kept])
    tail, everything = tail_threshold(values[kept], 60.0), tail_threshold(values, 60.0)
    return Proposal(
        threshold=tail.clip,
        interval95=tail.interval95,
        per_day=max(tail.per_day, ONE_A_WEEK),
        minutes=int(kept.sum()),
        left_out=int((~kept).sum()),
        spells=tuple(sorted(spells, key=lambda one: -one.highest)[:_LISTED]),
        threshold_with_all=everything.clip,
        doubt=_doubt(values, kept, middle, shipped),
    )


def _doubt(values: NDArray[np.float64], kept: NDArray[np.bool_], middle: float, shipped: float | None) -> str | None:
    left_out = 1 - float(kept.mean())
    if left_out > _MOST_LEFT_OUT:
        return f"{100 * left_out:.0f} % of the time was unlike the rest and is left out: a fault, or another state?"
    halves = np.array_split(values, 2)
    first, second = (float(np.median(part)) for part in halves)
    spread = min(float(np.median(part) - np.quantile(part, 0.1)) for part in halves)
    if abs(second - first) > _MOVED * spread:
        return f"the scores went from {first:.3g} to {second:.3g} in the period: a fault, or a change of the machine?"
    if shipped is not None and middle > shipped:
        return f"half of the time lay above the threshold of the bundle, {shipped:.3g}: is it this machine and place?"
    return None


def _spells(times: NDArray[np.float64], values: NDArray[np.float64]) -> list[Spell]:
    if not len(times):
        return []
    first = np.flatnonzero(np.concatenate([[True], np.diff(times) > _SAME_SPELL]))
    last = np.append(first[1:] - 1, len(times) - 1)
    highest = np.maximum.reduceat(values, first)
    return [
        Spell(begun=float(times[a]), ended=float(times[b]) + 60.0, highest=float(high))
        for a, b, high in zip(first, last, highest, strict=True)
    ]
