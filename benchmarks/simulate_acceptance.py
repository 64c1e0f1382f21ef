"""A hundred simulated years against what `edgeasd accept` promises from their first weeks.

Each year has live scores with the correlation of a mean over ten segments, a threshold of its own, and, in half of the
years, a level that wanders over days, so that alarms come in spells. The promise is the one-sided 95 % bound of the
first weeks; it holds if the call-outs of the whole year, a month, are no more.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from common import machine, machine_line, parser, report, table

from edgeasd.calibration.threshold.alarms_per_day import alarm_levels
from edgeasd.calibration.threshold.simulate import simulated_scores
from edgeasd.toolkit.acceptance.rate import Span, count_false_alarms, hours_needed

HOP_SECONDS, LAGS = 3.84, 4
"""Coarser than live (0.192 s): a mean over 10 s of sound still spans three scores."""
YEAR_HOURS = 8766.0


@dataclass(frozen=True)
class Row:
    """Years of one kind that were judged on their first `weeks`."""

    years: int
    wandering: bool
    weeks: float
    held: int
    call_outs_a_month: float
    """Median over the years."""
    promised: float
    """Median."""


def alarms_of(draw: np.random.Generator, *, wandering: bool) -> np.ndarray:
    """Hours of the alarms of one year at a threshold that is drawn for it."""
    count = int(YEAR_HOURS * 3600 / HOP_SECONDS)
    lags = np.maximum(0.0, 1 - np.arange(LAGS) * HOP_SECONDS / 9.952)
    scores = np.concatenate(list(simulated_scores(lags, count, draw)))
    if wandering:
        days = np.convolve(draw.standard_normal(400), [0.5, 0.7, 0.5], "same")
        scores += 0.5 * np.interp(np.arange(count) * HOP_SECONDS / 86_400, np.arange(400), days)
    levels = alarm_levels(scores, 3)
    above = levels > draw.uniform(2.6, 3.6)
    return np.flatnonzero(above & ~np.concatenate([[False], above[:-1]])) * HOP_SECONDS / 3600


def span(alarms: np.ndarray, hours: float) -> Span:
    """The first `hours` of a year."""
    return Span(hours, tuple(3600 * alarms[alarms < hours]))


def main() -> None:
    """Simulate and report."""
    options = parser(__doc__)
    options.add_argument("--years", type=int, default=100)
    options.add_argument("--weeks", type=float, nargs="*", default=[1.0, 4.0, 13.0])
    given = options.parse_args()
    facts, draw, rows = machine(), np.random.default_rng(0), []
    for wandering in (False, True):
        years = [alarms_of(draw, wandering=wandering) for _ in range(given.years // 2)]
        whole = [count_false_alarms([span(one, YEAR_HOURS)]).per_month for one in years]
        for weeks in given.weeks:
            promised = [count_false_alarms([span(one, 168 * weeks)]).at_most for one in years]
            held = sum(rate <= bound for rate, bound in zip(whole, promised, strict=True))
            rows.append(Row(len(years), wandering, weeks, held, float(np.median(whole)), float(np.median(promised))))
    needed = {f"{rate:g} a month": round(hours_needed(rate)) for rate in (30.0, 4.35, 1.0)}
    text = table(
        ("level wanders", "judged on", "promise held", "call-outs a month, median", "promised at most, median"),
        [
            (
                "yes" if row.wandering else "no",
                f"{row.weeks:g} weeks",
                f"{row.held} of {row.years} years",
                row.call_outs_a_month,
                row.promised,
            )
            for row in rows
        ],
    )
    hours = ", ".join(f"{name}: {value} h" for name, value in needed.items())
    result = {"machine": facts, "rows": [asdict(row) for row in rows], "hours_needed": needed}
    report(result, f"{machine_line(facts)}\n\n{text}\n\nwithout a false alarm, {hours}", as_json=given.json)


if __name__ == "__main__":
    main()
