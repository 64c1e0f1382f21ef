"""The rate at which a live source really delivers, measured by the monotonic clock."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

LEAST_ERROR = 0.03
"""Relative. Clocks of sound cards are off by 0.01 %, and 44,100 for 48,000 Hz by 8 %."""
SPANS = (1.0, 2.0, 4.0, 8.0)
"""Seconds between two looks at the count. The longer ones are for sources that deliver in large blocks."""
LOOKS = 8
_EARLY_LOOKS = 4
_MOST_AWAY = 0.05
"""If the reader was busy elsewhere for a larger share of the time, what arrives says nothing of the source."""
_UNEVEN = 0.4
"""Every span must hold so much of the mean error. Then one pause, burst or loss is never taken for another rate."""


_Look = tuple[float, int, float]
"""When, samples so far, and seconds so far that the reader was busy elsewhere."""


class RateWatch:
    """Tells whether a source steadily delivers more or fewer samples a second than it should.

    Over eight spans in a row, each of 1, 2, 4 or 8 s, every one must be off in the same direction and hold a fair
    share of the error. A late start, a burst of stored sound, a pause with what follows it, and a suspended machine
    (the monotonic clock stands still) are errors of one or two spans. So 8 s tell a source of another rate, and
    some 16 to 64 s one that delivers in blocks of seconds.
    """

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self.fault = ""
        """Both figures and what to do, while the rate is wrong; else empty."""
        self.is_doubtful = False
        """The rate may be wrong: it is so over the first few looks, which is too soon to say so."""
        self._total, self._away = 0, 0.0
        self._begin()

    def _begin(self) -> None:
        self.is_doubtful = False
        self._looks: list[deque[_Look]] = [deque(maxlen=LOOKS + 1) for _ in SPANS]

    def restart(self) -> None:
        """The reader made the source wait: what arrives now says nothing. A fault that was found stays."""
        self._begin()

    def add(self, samples: int, now: float, away: float = 0.0) -> bool:
        """Count samples that arrived at `now`, monotonic seconds. Returns whether `fault` has begun or ended.

        `away` is how long the reader was busy elsewhere since the last samples.
        """
        self._total, self._away = self._total + samples, self._away + away
        if all(looks and now - looks[-1][0] < span for span, looks in zip(SPANS, self._looks, strict=True)):
            return False  # nothing to look at yet: most chunks end here
        before, is_right = self.fault, False
        for span, looks in zip(SPANS, self._looks, strict=True):
            if looks and now - looks[-1][0] < span:
                continue
            looks.append((now, self._total, self._away))
            if len(looks) <= LOOKS:
                continue
            rate = self._steady_rate(list(looks))
            if rate is not None and abs(rate / self._rate - 1.0) > LEAST_ERROR:
                self.fault = self._describe(rate)
                break
            is_right = is_right or self._is_right(list(looks))
        else:
            if is_right:
                self.fault = ""
        first = list(self._looks[0])[-_EARLY_LOOKS:]
        early = self._steady_rate(first) if len(first) == _EARLY_LOOKS else None
        self.is_doubtful = early is not None and abs(early / self._rate - 1.0) > LEAST_ERROR
        return (self.fault == "") != (before == "")

    def _steady_rate(self, looks: list[_Look]) -> float | None:
        """Samples a second over all looks; None if single spans contradict it."""
        (first_at, first, away_before), (last_at, last, away) = looks[0], looks[-1]
        if away - away_before > _MOST_AWAY * (last_at - first_at):
            return None
        rate = (last - first) / (last_at - first_at)
        error = rate / self._rate - 1.0
        for (start_at, start, _), (end_at, end, _) in pairwise(looks):
            own = (end - start) / ((end_at - start_at) * self._rate) - 1.0
            if error == 0.0 or not _UNEVEN <= own / error <= 2.0 - _UNEVEN:
                return None
        return rate

    def _is_right(self, looks: list[_Look]) -> bool:
        """Whether the rate over all looks is as it should be."""
        (first_at, first, _), (last_at, last, _) = looks[0], looks[-1]
        return abs((last - first) / ((last_at - first_at) * self._rate) - 1.0) <= LEAST_ERROR

    def _describe(self, rate: float) -> str:
        known = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000, 192000)
        near = min(known, key=lambda one: abs(one / rate - 1.0))
        shown = near if abs(near / rate - 1.0) < 0.01 else round(rate)
        return (
            f"delivers {shown:,} samples a second where {self._rate:,} are expected; "
            f"have it deliver {self._rate:,} Hz, one channel counted once"
        )
