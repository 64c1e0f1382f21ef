"""A year of simulated normal scores against thresholds that were fitted to a few hours of them.

The correlation is measured: live scores of the small bundle on ten minutes of a synthetic valve. The
year is simulated once, and every fit is judged by the alarms that its threshold raises in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from common import SMALL_BUNDLE, machine, machine_line, parser, report, say, table

from edgeasd.calibration.threshold.alarms_per_day import AlarmCurve, threshold_by_alarms
from edgeasd.calibration.threshold.live import LiveNormals, Recording, live_normals
from edgeasd.calibration.threshold.simulate import simulated_alarms, simulated_scores
from edgeasd.calibration.threshold.threshold import CONSECUTIVE
from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.scoring.stream import Stream
from edgeasd.toolkit.demo.machines import render

LAGS = 300
RATES = (24.0, 1.0, 1 / 7)
KEEP_ABOVE = 1.5
Array = np.ndarray
Change = Callable[[Array], Array]


@dataclass(frozen=True)
class Row:
    """How fits of one kind did. Rates are alarms a day; the last two count fits."""

    scores: str
    hours: float
    promised: float
    low: float
    """10 % of the fits gave less in the year."""
    median: float
    high: float
    rate_held: int
    threshold_held: int
    fits: int
    extrapolation: bool


def measured(seconds: float) -> LiveNormals:
    """Live scores of the small bundle on a healthy synthetic valve."""
    samples = render("valve", "00", seconds=seconds, seed=7).astype(np.float32)
    with Bundle(SMALL_BUNDLE) as bundle:
        scorer, _ = bundle.open_scorer(engine="onnxruntime", threads=1)
        scores = [s.clip_score for s in Stream(scorer).push(samples) if s.complete]
        settings = bundle.manifest
        return live_normals([Recording(np.array(scores))], settings.features, settings.segments)


def tapered(autocorrelation: Array) -> Array:
    """To 0 at the last lag by a triangle, which keeps it positive definite."""
    return autocorrelation * (1 - np.arange(len(autocorrelation)) / len(autocorrelation))


# The same alarms in another distribution: (to scores, back to standard deviations).
MARGINALS: dict[str, tuple[Change, Change]] = {
    "Gaussian": (lambda x: x, lambda y: y),
    "lognormal": (lambda x: np.exp(0.5 * x), lambda y: 2 * np.log(np.maximum(y, 1e-300))),
}


def judge(
    year: AlarmCurve, days: float, live: LiveNormals, correlation: Array, hours: float, fits: int, name: str
) -> list[Row]:
    """Fit `fits` times to `hours` of fresh scores, at every rate."""
    change, back = MARGINALS[name]
    found: dict[float, list[tuple[float, bool, bool, bool]]] = {rate: [] for rate in RATES}
    for seed in range(fits):
        rng = np.random.default_rng([seed, round(hours)])
        count = round(hours * 3600 / live.hop_seconds)
        scores = change(np.concatenate(list(simulated_scores(correlation, count, rng))))
        normals = LiveNormals((Recording(scores),), live.hop_seconds, live.window_seconds)
        for rate in RATES:
            fitted = threshold_by_alarms(normals, rate)
            assert fitted.promise is not None
            assert fitted.interval95 is not None
            real = float(year.count(back(np.array(fitted.clip)))) / days
            low, high = (float(end or 0) for end in fitted.promise.interval95)
            ideal = float(change(np.array(year.lowest_threshold(rate * days))))
            ends = fitted.interval95
            inside = (ends[0] is None or ends[0] <= ideal) and (ends[1] is None or ideal <= ends[1])
            # A count in one year is a whole number: half an alarm either way is not a broken promise.
            held = low - 0.5 / days <= real <= high + 0.5 / days
            found[rate].append((real, held, inside, fitted.promise.extrapolation))
    rows = []
    for rate, results in found.items():
        reals = np.array([r[0] for r in results])
        low, median, high = (float(v) for v in np.quantile(reals, [0.1, 0.5, 0.9]))
        held, inside = sum(r[1] for r in results), sum(r[2] for r in results)
        rows.append(Row(name, hours, rate, low, median, high, held, inside, fits, results[0][3]))
    return rows


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--days", type=float, default=365.0, help="length of the simulation")
    options.add_argument("--fits", type=int, default=40, help="fits to 8 h; a third as many to 100 h")
    given = options.parse_args()
    say("measuring the correlation of live scores")
    live = measured(600)
    correlation = tapered(live.autocorrelation(LAGS))
    say(f"simulating {given.days:g} days")
    count = round(given.days * 86_400 / live.hop_seconds)
    year = simulated_alarms(correlation, count, np.random.default_rng(2026), CONSECUTIVE, KEEP_ABOVE)
    rows: list[Row] = []
    for hours, fits in ((8.0, given.fits), (100.0, max(1, given.fits // 3))):
        for name in MARGINALS:
            say(f"{fits} fits to {hours:g} h of {name} scores")
            rows += judge(year, given.days, live, correlation, hours, fits, name)
    facts = machine()
    shown = [
        [
            r.scores,
            f"{r.hours:g} h",
            f"{r.promised:.3g}",
            "extrapolated" if r.extrapolation else "counted",
            f"{r.median:.3g} ({r.low:.2g} to {r.high:.2g})",
            f"{r.rate_held} of {r.fits}",
            f"{r.threshold_held} of {r.fits}",
        ]
        for r in rows
    ]
    header = ["scores", "fitted to", "allowed a day", "how", "alarms a day in the year", "rate held", "threshold held"]
    lags = live.autocorrelation(LAGS)
    text = (
        f"{machine_line(facts)}\n{count} scores; autocorrelation after 1 s {lags[5]:.2f}, 5 s {lags[26]:.2f}, "
        f"10 s {lags[52]:.2f}, 20 s {lags[104]:.2f}, 40 s {lags[208]:.2f}\n{table(header, shown)}"
    )
    report({"machine": facts, "scores": count, "rows": [asdict(r) for r in rows]}, text, as_json=given.json)


if __name__ == "__main__":
    main()
