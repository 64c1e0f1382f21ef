"""Simulated years of hourly scores and levels: how soon a change of the normal is named, and how often one is that is none.

    python benchmarks/simulate_trends.py [--years 100]

Hours are noise with memory (a first-order process, by default with a correlation of 0.7 from hour to hour), a daily
and, where said, a weekly rhythm. The threshold lies ten standard deviations of an hour above the mean. Steps come at
once, slopes rise over ten days and are counted from the day on which they have risen by what matters.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

import numpy as np

from edgeasd.runtime.trend.watch import Change, Hour, find_changes

DAY = 86_400.0
THRESHOLD, MEAN, NOISE, DAILY = 0.6, 0.3, 0.03, 0.02
LEVEL, LEVEL_NOISE, SPREAD = -30.0, 0.3, 0.1
RAMP_DAYS = 10.0
CHANGE_DAYS = (60.0, 150.0, 250.0)


@dataclass(frozen=True)
class World:
    """How hours behave without a change."""

    name: str
    memory: float = 0.7
    weekly: float = 0.0
    hours_a_day: int = 24


WORLDS = (
    World("all day"),
    World("one shift of 8 h", hours_a_day=8),
    World("weekends louder by 0.05", weekly=0.05),
    World("long memory (0.95)", memory=0.95),
    World("very long memory (0.99)", memory=0.99),
)


def year(seed: int, world: World, quantity: str = "", shape: str = "step", size: float = 0.0) -> list[Hour]:
    """A year of hours. The change comes, goes and comes again on CHANGE_DAYS."""
    random = np.random.default_rng(seed)
    count = 365 * 24
    noises = random.normal(size=(2, count)) * math.sqrt(1.0 - world.memory**2)
    for index in range(1, count):
        noises[:, index] += world.memory * noises[:, index - 1]
    days = np.arange(count) / 24.0
    moved = np.zeros(count)
    for sign, day in zip((1.0, -1.0, 1.0), CHANGE_DAYS, strict=True):
        since = np.maximum(0.0, days - day)
        moved += sign * size * ((since > 0) if shape == "step" else np.minimum(1.0, since / RAMP_DAYS))
    weekend = (np.arange(count) // 24) % 7 >= 5
    score = MEAN + NOISE * noises[0] + DAILY * np.sin(2 * np.pi * days) + world.weekly * weekend
    score = score + (moved if quantity == "score" else 0.0)
    level = LEVEL + LEVEL_NOISE * noises[1] + (moved if quantity == "level" else 0.0)
    spread = SPREAD * np.exp(0.05 * random.normal(size=count) + (moved if quantity == "spread" else 0.0))
    heard = np.arange(count) % 24 < world.hours_a_day
    return [
        Hour(hour * 3600.0, 3600.0, float(score[hour]), float(spread[hour]), float(level[hour]))
        for hour in np.flatnonzero(heard)
    ]


def false_messages(world: World, years: int) -> list[int]:
    """Messages in years without a change."""
    return [len(find_changes(year(seed, world), THRESHOLD)) for seed in range(years)]


def delays(quantity: str, shape: str, size: float, least: float, years: int) -> tuple[list[float], int, int]:
    """Days from each change to its message; how many had none within two weeks; messages about nothing."""
    found, missed, false = [], 0, 0
    # A slope is a change once it has risen by what matters.
    lead = 0.0 if shape == "step" else RAMP_DAYS * least / abs(size)
    for seed in range(years):
        changes = find_changes(year(seed, WORLDS[0], quantity, shape, size), THRESHOLD)
        told = sorted(moment for one in changes for moment in _moments(one, quantity))
        false += sum(not any(day <= moment <= day + RAMP_DAYS + 14 for day in CHANGE_DAYS) for moment in told)
        for day in CHANGE_DAYS:
            later = [moment for moment in told if day <= moment <= day + RAMP_DAYS + 14]
            missed += not later
            found += [max(0.0, later[0] - day - lead)] if later else []
    return found, missed, false


def _moments(change: Change, quantity: str) -> list[float]:
    if change.quantity != quantity:
        return [math.inf]
    return [change.found / DAY] + ([] if change.ended is None else [change.ended / DAY])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--years", type=int, default=100, help="simulated years of each row without changes; a fifth of them with"
    )
    years = parser.parse_args().years
    print(f"{years} years without a change: messages a year")
    for world in WORLDS:
        counts = np.array(false_messages(world, years))
        print(f"  {world.name:26} mean {counts.mean():.2f}, at most 1 in {(counts <= 1).mean():.0%} of the years")
    fewer = max(1, years // 5)
    print(f"{fewer} years with three changes each: days from the change to its message")
    for quantity, size, least in (("score", 0.12, 0.045), ("level", 3.0, 1.5), ("spread", math.log(2), math.log(1.5))):
        for shape in ("step", "slope"):
            found, missed, false = delays(quantity, shape, size, least, fewer)
            late = np.percentile(found, (50, 95, 100)) if found else (math.nan,) * 3
            row = f"median {late[0]:.1f}, 95 % {late[1]:.1f}, longest {late[2]:.1f}, missed {missed}, false {false}"
            print(f"  {quantity:6} {shape:5} by {size:.2f}: {row}")


if __name__ == "__main__":
    main()
