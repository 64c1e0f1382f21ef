"""Timing side by side: what is compared runs by turns in one process, so that both see the same machine."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Times = dict[str, list[float]]
"""Seconds per call, by name; entry i of every list comes from round i."""


@dataclass(frozen=True)
class Span:
    """How long to measure: until `seconds` have passed and `least` rounds are done, but no longer than
    `longest` seconds and no more than `rounds` rounds. At least one round is always done."""

    rounds: float = math.inf
    seconds: float = math.inf
    least: int = 1
    longest: float = math.inf

    def over(self, done: int, elapsed: float) -> bool:
        """Whether to stop after `done` rounds in `elapsed` seconds."""
        if done < 1:
            return False
        return done >= self.rounds or elapsed >= self.longest or (elapsed >= self.seconds and done >= self.least)


def side_by_side(
    functions: Mapping[str, Callable[[], object]],
    *,
    rounds: float = math.inf,
    calls: int = 1,
    span: Span | None = None,
) -> Times:
    """Time every function in every round, `calls` calls each, after one unmeasured round.

    A shared machine changes its speed from second to second; neighbours in a round see the same
    machine, so only ratios within a round are worth quoting. The order turns by one each round.
    """
    until = span or Span(rounds=rounds)
    names = list(functions)
    times: Times = {name: [] for name in names}
    started, done = time.perf_counter(), -1
    while not until.over(done, time.perf_counter() - started):
        turn = done % len(names)
        for name in names[turn:] + names[:turn]:
            call = functions[name]
            begun = time.perf_counter()
            for _ in range(calls):
                call()
            if done >= 0:
                times[name].append((time.perf_counter() - begun) / calls)
        done += 1
        if done == 0:
            started = time.perf_counter()
    return times


@dataclass(frozen=True)
class Ratio:
    """How much longer `name` takes than `base`, and how far single rounds lie apart."""

    name: str
    base: str
    of_medians: float
    low: float
    """10th percentile of the ratios within a round."""
    high: float
    """90th percentile of the ratios within a round."""


def ratio(times: Times, name: str, base: str) -> Ratio:
    """Ratio of the medians, with the spread of the ratios of each round."""
    each = [a / b for a, b in zip(times[name], times[base], strict=True)]
    medians = statistics.median(times[name]) / statistics.median(times[base])
    return Ratio(name, base, medians, quantile(each, 0.1), quantile(each, 0.9))


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the sorted values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
