"""The report of a calibration: drift of every precision beside its limits, the threshold, the clips used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeasd.calibration.drift.drift import FREE_FLIPS, Drift, DriftLimits
from edgeasd.calibration.drift.ranking import PairedChange
from edgeasd.toolkit.calibrate.record import Calibration, clip_rows
from edgeasd.toolkit.calibrate.thresholds import KEPT
from edgeasd.toolkit.calibrate.variants import VariantResult
from edgeasd.toolkit.reports import DASH, Figure, Table, render
from edgeasd.toolkit.reports.plots import Plot, shared_edges

_HIGHEST_DB = 80.0
"""Layers that a variant leaves as they are have 150; bars of that height would flatten all others."""
_KINDS = (("normal", "normal"), ("anomaly", "known anomaly"))


def calibration_report(found: Calibration) -> bytes:
    """One HTML page that opens offline."""
    machine = found.manifest.machine
    normal, anomaly = found.normal_scores, found.anomaly_scores
    at = found.threshold.threshold.clip
    # Beside known anomalies, the scores of normal clips are a few bars: so they are shown alone first.
    plots = [_threshold_plot(normal, [], at), *([_threshold_plot(normal, anomaly, at)] if anomaly else [])]
    return render(
        "calibration.html",
        title=f"{machine.type} {machine.id}: calibration",
        summary=_summary(found),
        failures=[(one.name, reason) for one in found.variants if not one.passed for reason in one.reasons],
        warnings=found.warnings,
        drift=_drift_table(found.variants),
        explanation=_explanation(found.variants),
        threshold=_threshold_table(found),
        score_plots=plots,
        variants=[_variant_section(one) for one in found.variants],
        clips=_clips_table(found),
    )


def _summary(found: Calibration) -> str:
    parts = [f"{len(found.normals.clips)} normal clips"]
    if found.split is not None:
        parts[0] += f": {len(found.split.ranges)} gave ranges, {len(found.split.drift)} others measured drift"
    if found.anomalies is not None:
        parts.append(f"{len(found.anomalies.clips)} known anomalies")
    outcome = "The bundle was changed." if found.written else "The bundle is as it was."
    return f"{', '.join(parts)}. {outcome} It offers {', '.join(found.manifest.precisions)}."


def _drift_table(variants: Sequence[VariantResult]) -> Table | None:
    if not variants:
        return None
    rows: list[list[object]] = [["verdict", *("in the bundle" if one.passed else "FAILED" for one in variants)]]
    for label, cell in (
        ("rank correlation of clip scores (least)", _rank),
        ("largest change of a normal clip, of its margin (most)", _largest),
        ("99th percentile of changes, units of s", lambda drift, _: f"{drift.p99:.2g}"),
        ("normal clips that change sides of the threshold (most)", _flipped),
        ("AUC change, points [95 %] (least)", lambda drift, limits: _change(drift.auc, limits.auc_loss)),
        (
            "pAUC change, points [95 %] (least)",
            lambda drift, limits: _change(drift.partial_auc, limits.partial_auc_loss),
        ),
    ):
        cells = [DASH if one.gate.drift is None else cell(one.gate.drift, one.gate.limits) for one in variants]
        rows.append([label, *cells])
    rows += [
        ["ranges by", *(one.gate.method or DASH for one in variants)],
        ["layers in higher precision", *(str(len(one.gate.fp16_layers)) for one in variants)],
        ["file", *(f"{one.size / 1e6:.2f} MB" if one.size else DASH for one in variants)],
        ["took", *(f"{one.cost.seconds:.0f} s" for one in variants)],
        ["peak memory", *(f"{one.cost.peak_bytes / 1e6:.0f} MB" for one in variants)],
    ]
    return Table("Drift from fp32 (limit)", ["", *(one.name for one in variants)], rows)


def _rank(drift: Drift, limits: DriftLimits) -> str:
    return f"{drift.rank_clips:.5f} ({limits.rank_correlation:g})"


def _largest(drift: Drift, limits: DriftLimits) -> str:
    return f"{100 * drift.relative:.2g} % ({100 * limits.largest_change:g} %)"


def _flipped(drift: Drift, limits: DriftLimits) -> str:
    if drift.flipped_normals is None:
        return DASH
    allowed = max(FREE_FLIPS, int(limits.flipped_share * drift.normals))
    return f"{drift.flipped_normals} of {drift.normals} ({allowed})"


def _change(change: PairedChange | None, loss: float) -> str:
    if change is None:
        return DASH
    difference, low, high = (100 * value for value in (change.difference, change.low, change.high))
    return f"{difference:+.2f} [{low:+.2f}, {high:+.2f}] ({-100 * loss:+.2g})"


def _explanation(variants: Sequence[VariantResult]) -> str:
    drifts = [one.gate.drift for one in variants if one.gate.drift is not None]
    if not drifts:
        return ""
    return (
        f"Measured on clips that gave no ranges. Margin of a normal clip: {drifts[0].margin:.3g}, from "
        f"{drifts[0].margin_source}. Normal scores spread by {drifts[0].spread:.2g} (standard deviation). Known anomalies "
        "count for rank correlation and AUC only. Peak memory is that of the whole process."
    )


def _threshold_table(found: Calibration) -> Table:
    one = found.threshold
    threshold = one.threshold
    rows: list[list[object]] = [["threshold of the clip score", f"{threshold.clip:.5g}"]]
    if threshold.interval95 is not None:
        rows.append(["95 % interval", _span(threshold.interval95)])
    rows.append(["found by", ("kept: " if one.method == KEPT else "") + threshold.found_by])
    rows.append(["rests on", f"{threshold.clips} clips" + (f", {threshold.hours:.3g} h" if threshold.hours else "")])
    if threshold.promise is not None:
        unit = "false alarms a day" if threshold.promise.kind == "alarms_per_day" else "of single normal clips above it"
        rows.append(["allowed", f"{threshold.promise.target:g} {unit}"])
        rows.append(["expected [95 %]", f"{threshold.promise.expected:.3g} {_span(threshold.promise.interval95)}"])
        if threshold.promise.extrapolation:
            rows.append(["", "extrapolated: no recording given is long enough to show so low a rate"])
    rows.append(["given normal clips above it", f"{one.above} of {one.clips}"])
    if one.method != KEPT and threshold.sources:
        rows.append(["recordings", f"{len(threshold.sources)}, listed below"])
    return Table(f"An alarm takes {threshold.consecutive} clip scores in a row above it", ["", ""], rows)


def _span(interval: tuple[float | None, float | None]) -> str:
    low, high = ("…" if end is None else f"{end:.4g}" for end in interval)
    return f"[{low}, {high}]"


def _threshold_plot(normal: list[float], anomaly: list[float], at: float) -> Figure:
    edges = shared_edges(normal, anomaly, [at])
    counts = [np.histogram(group, edges)[0] for group in (normal, anomaly)]
    plot = Plot(
        "fp32 scores of the given clips",
        f"{len(normal)} normal clips score {min(normal):.3g} to {max(normal):.3g}; the threshold is {at:.4g}.",
        "clip score, fp32",
        "clips",
        (float(edges[0]), float(edges[-1])),
        (0, 1.1 * max(int(count.max()) for count in counts)),
    )
    for count, colour in zip(counts, ("normal", "anomaly"), strict=True):
        plot.bars(edges, count, colour)
    plot.vertical(at, "threshold")
    keys = [("normal", "normal"), *([("anomaly", "known anomalies")] if anomaly else [])]
    return Figure(plot.svg(), "", keys)


def _clips_table(found: Calibration) -> Table:
    rows: list[list[object]] = []
    scores = [*found.normal_scores, *found.anomaly_scores]
    for clip, score in zip(clip_rows(found), scores, strict=True):
        rows.append([clip["name"], ", ".join(clip["roles"]) or "checked", f"{score:.5g}", clip["sha256"][:16]])
    return Table("Each recording once, by content", ["clip", "used for", "fp32 score", "sha256"], sorted(rows, key=str))


def _variant_section(one: VariantResult) -> dict[str, Any]:
    """What the template shows of one precision."""
    plots = []
    if one.gate.drift is not None:
        drift = one.gate.drift
        plots = [_scatter(one.name, drift), _changes(one, drift), _scores(one.name, drift)]
        plots += [_noise_plot(one)] if one.gate.noise else []
    return {
        "name": one.name,
        "verdict": "In the bundle." if one.passed else f"Not in the bundle: {'; '.join(one.reasons)}.",
        "plots": plots,
        "tables": [table for table in (_methods_table(one), _kept_table(one)) if table is not None],
        "noise": _noise_table(one),
    }


def _groups(drift: Drift) -> list[tuple[str, list[tuple[float, float]]]]:
    """(colour, pairs) of normal clips and of anomalies."""
    labelled = list(zip(drift.pairs, drift.anomalous, strict=True))
    return [(colour, [pair for pair, bad in labelled if bad == (colour == "anomaly")]) for colour, _ in _KINDS]


def _scatter(name: str, drift: Drift) -> Figure:
    values = [value for pair in drift.pairs for value in pair]
    low, high = min(values), max(values)
    margin = 0.03 * (high - low) or 0.01
    span = (low - margin, high + margin)
    plot = Plot(
        f"{name} against fp32",
        f"Clip scores of {len(drift.pairs)} clips, rank correlation {drift.rank_clips:.5f}.",
        "clip score, fp32",
        f"clip score, {name}",
        span,
        span,
    )
    plot.reference(span, span)
    for colour, pairs in _groups(drift):
        plot.points([a for a, _ in pairs], [b for _, b in pairs], colour)
    if drift.threshold is not None:
        plot.vertical(drift.threshold, "threshold")
    return Figure(plot.svg(), "Dotted: no change.", _KINDS if drift.anomalies else _KINDS[:1])


def _changes(one: VariantResult, drift: Drift) -> Figure:
    pairs = _groups(drift)[0][1]
    exact = [a for a, _ in pairs]
    percent = [100 * (b - a) / drift.margin for a, b in pairs]
    limit = 100 * one.gate.limits.largest_change
    most = max([abs(value) for value in percent], default=0.0)
    reach = 1.15 * most or 1.0
    margin = 0.03 * (max(exact) - min(exact))
    span = (min(exact) - margin, max(exact) + margin)
    plot = Plot(
        f"Change of normal scores, {one.name}",
        f"Changes of {len(pairs)} normal clips reach {most:.2g} % of the margin to the threshold; {limit:g} % are allowed.",
        "clip score, fp32",
        "change, % of margin",
        span,
        (-reach, reach),
    )
    plot.reference(span, [0, 0])
    for level in (-limit, limit):
        if abs(level) <= reach:
            plot.reference(span, [level, level])
    plot.points(exact, percent, "normal")
    return Figure(plot.svg(), f"Normal clips only. Allowed: {limit:g} % of the margin.")


def _scores(name: str, drift: Drift) -> Figure:
    exact, found = ([pair[which] for pair in drift.pairs] for which in (0, 1))
    edges = shared_edges(exact, found)
    counts = [np.histogram(group, edges)[0] for group in (exact, found)]
    plot = Plot(
        f"Scores of fp32 and {name}",
        f"Histograms of the clip scores of the same {len(exact)} clips.",
        "clip score",
        "clips",
        (float(edges[0]), float(edges[-1])),
        (0, 1.1 * max(int(count.max()) for count in counts)),
    )
    for count, colour in zip(counts, ("normal", "mark"), strict=True):
        plot.bars(edges, count, colour)
    if drift.threshold is not None:
        plot.vertical(drift.threshold, "threshold")
    return Figure(plot.svg(), "The same clips.", (("normal", "fp32"), ("mark", name)))


def _noise_plot(one: VariantResult) -> Figure:
    levels = [float(np.clip(value, 0.0, _HIGHEST_DB)) for value in one.gate.noise.values()]
    names = list(one.gate.noise)
    worst = int(np.argmin(list(one.gate.noise.values())))
    plot = Plot(
        f"Signal-to-noise ratio by layer, {one.name}",
        f"{len(levels)} outputs in the order in which they run; the lowest is {names[worst]}.",
        "layer, in the order in which they run",
        "signal to noise, dB",
        (0, len(levels)),
        (0, 1.1 * max(*levels, 1.0)),
    )
    plot.bars(np.arange(len(levels) + 1), levels, "accent")
    return Figure(
        plot.svg(),
        f"Lowest: {names[worst]}, {one.gate.noise[names[worst]]:.1f} dB. Bars end at "
        f"{_HIGHEST_DB:.0f} dB. Reported, not limited.",
    )


def _methods_table(one: VariantResult) -> Table | None:
    if one.gate.method is None:
        return None
    rows: list[list[object]] = [
        [
            f"{name} (chosen)" if name == one.gate.method else name,
            f"{drift.rank_clips:.5f}",
            f"{drift.largest:.2g}",
            f"{drift.rms:.2g}",
        ]
        for name, drift in one.gate.by_method.items()
    ]
    rows += [[name, why, "", ""] for name, why in one.gate.refused.items()]
    headings = ["ranges by", "rank correlation", "largest change", "rms change"]
    return Table("Ways to find ranges, with all layers in eight bits", headings, rows)


def _kept_table(one: VariantResult) -> Table | None:
    if not one.gate.fp16_layers:
        return None
    rows = [
        [
            layer.name,
            f"{layer.decibels:.1f} dB",
            f"{layer.used_before:.0%} → {layer.used_after:.0%}",
            f"{layer.rms_before:.3g} → {layer.rms_after:.3g}",
        ]
        for layer in one.gate.fp16_layers
    ]
    headings = [
        "layer",
        "signal to noise of z, alone in eight bits",
        "worst figure, of its limit",
        "rms change of normal scores",
    ]
    return Table(f"Layers reverted to higher precision ({one.gate.trials} tried)", headings, rows)


def _noise_table(one: VariantResult) -> Table | None:
    if not one.gate.noise:
        return None
    rows = [[name, f"{value:.1f}"] for name, value in one.gate.noise.items()]
    return Table("dB, noise of all layers before included", ["output", "signal to noise"], rows)
