"""Shifts of a week in local time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_MINUTES = 24 * 60
_SHIFT = re.compile(r"(\S+)\s+(\d{1,2}):(\d\d)\s*-\s*(\d{1,2}):(\d\d)")


@dataclass(frozen=True)
class Shift:
    """Days (0 is Monday) on which it begins, and minutes of the day; an end at or before the begin is on the next day."""

    days: frozenset[int]
    begin: int
    end: int

    def includes(self, day: int, minute: int) -> bool:
        """Whether a minute of a weekday lies in it."""
        if self.begin < self.end:
            return day in self.days and self.begin <= minute < self.end
        return (day in self.days and minute >= self.begin) or ((day - 1) % 7 in self.days and minute < self.end)


@dataclass(frozen=True)
class Schedule:
    """Shifts by the clock on the wall: a shift that begins at 06:00 does so in summer and in winter."""

    shifts: tuple[Shift, ...]
    zone: tzinfo | None = None
    """None: that of the device."""

    @classmethod
    def parse(cls, texts: Sequence[str], timezone: str | None = None) -> Schedule:
        """From texts such as "Mon-Fri 06:00-22:00", "Sat,Sun 08:00-12:00" or "daily 22:00-06:00".

        Raises ValueError with one line for anything else, and for a zone that this device does not know.
        """
        zone = None
        if timezone is not None:
            try:
                zone = ZoneInfo(timezone)
            except (ZoneInfoNotFoundError, ValueError, OSError):
                raise ValueError(
                    f"timezone {timezone!r}: not known here; use a name such as Europe/Berlin (package tzdata has them)"
                ) from None
        return cls(tuple(_shift(text) for text in texts), zone)

    def includes(self, wall: float) -> bool:
        """Whether the moment `wall`, seconds since 1970, lies in a shift."""
        local = datetime.fromtimestamp(wall, self.zone)
        minute = 60 * local.hour + local.minute
        return any(shift.includes(local.weekday(), minute) for shift in self.shifts)

    def next_change(self, wall: float) -> datetime | None:
        """The next minute, within 8 days, at which a shift begins or ends, in local time; None if there is none."""
        local = datetime.fromtimestamp(wall, self.zone).replace(second=0, microsecond=0)
        now = self.includes(wall)
        for minutes in range(1, 8 * _DAY_MINUTES):
            there = local + timedelta(minutes=minutes)
            at = 60 * there.hour + there.minute
            if any(shift.includes(there.weekday(), at) for shift in self.shifts) != now:
                return there
        return None


def _shift(text: str) -> Shift:
    match = _SHIFT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f'schedule {text!r}: write a shift as "Mon-Fri 06:00-22:00"')
    begin, end = (60 * int(match[at]) + int(match[at + 1]) for at in (2, 4))
    if begin >= _DAY_MINUTES or end > _DAY_MINUTES or int(match[3]) > 59 or int(match[5]) > 59:
        raise ValueError(f"schedule {text!r}: a time is beyond 24:00; write hours and minutes")
    if begin == end:
        raise ValueError(f"schedule {text!r}: begins and ends at once; write 00:00-24:00 for a whole day")
    return Shift(_days(match[1].lower(), text), begin, end)


def _days(given: str, text: str) -> frozenset[int]:
    if given == "daily":
        return frozenset(range(7))
    days: set[int] = set()
    for part in given.split(","):
        first, _, last = part.partition("-")
        if first not in DAYS or (last or first) not in DAYS:
            raise ValueError(f"schedule {text!r}: {part!r} is no day; use {', '.join(map(str.title, DAYS))} or daily")
        at, end = DAYS.index(first), DAYS.index(last or first)
        days |= {(at + step) % 7 for step in range((end - at) % 7 + 1)}
    return frozenset(days)
