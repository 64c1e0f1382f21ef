"""The report of a calibration: drift of every precision beside its limits, the threshold, the clips used."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeasd.calibration.drift.drift import FREE_FLIPS, Drift, DriftLimits
from edgeasd.calibration.drift.ranking import PairedChange
from edgeasd.toolkit.calibrate.record import Calibration, clip_rows
from edgeasd.toolkit.calibrate.thresholds import KEPT
from edgeasd.toolkit.calibrate.variants import VariantResult
from edgeasd.toolkit.reports.calibration_plots import variant_section
from edgeasd.toolkit.reports.html import Html, colour_key, figure, grid, joined, page, table, tag
from edgeasd.toolkit.reports.plots import Plot, shared_edges

_DASH = "–"


def calibration_report(found: Calibration) -> Html:
    """One HTML page that opens offline and asks the network for nothing."""
    machine = found.manifest.machine
    return page(
        f"{machine.type} {machine.id}: calibration",
        tag("p", _summary(found), class_="faint"),
        _verdicts(found.variants),
        _warnings(found.warnings),
        _drift_table(found.variants),
        _explained(found.variants),
        _threshold(found),
        *(variant_section(one) for one in found.variants),
        _clips(found),
    )


def _summary(found: Calibration) -> str:
    parts = [f"{len(found.normals.clips)} normal clips"]
    if found.split is not None:
        parts[0] += f": {len(found.split.ranges)} gave ranges, {len(found.split.drift)} others measured drift"
    if found.anomalies is not None:
        parts.append(f"{len(found.anomalies.clips)} known anomalies")
    outcome = "The bundle was changed." if found.written else "The bundle is as it was."
    return f"{', '.join(parts)}. {outcome} It offers {', '.join(found.manifest.precisions)}."


def _verdicts(variants: Sequence[VariantResult]) -> Html:
    failed = [one for one in variants if not one.passed]
    if not failed:
        return Html("")
    items = [tag("li", tag("b", one.name), f": {reason}") for one in failed for reason in one.reasons]
    return joined([tag("p", "Not put into the bundle, since beyond the limits of drift:"), tag("ul", *items)])


def _warnings(warnings: Sequence[str]) -> Html:
    return joined([tag("p", tag("b", "Warning: "), warning) for warning in warnings])


def _drift_table(variants: Sequence[VariantResult]) -> Html:
    if not variants:
        return tag("p", "No precision was asked for, so no drift was measured.")
    rows: list[list[object]] = [["verdict", *("in the bundle" if one.passed else "FAILED" for one in variants)]]
    for label, cell in (
        ("rank correlation of clip scores (least)", _rank),
        ("largest change of a normal clip, of its room (most)", _largest),
        ("99th percentile of changes, units of s", lambda drift, _: f"{drift.p99:.2g}"),
        ("normal clips that change sides of the threshold (most)", _flipped),
        ("AUC change, points [95 %] (least)", lambda drift, limits: _change(drift.auc, limits.auc_loss)),
        (
            "pAUC change, points [95 %] (least)",
            lambda drift, limits: _change(drift.partial_auc, limits.partial_auc_loss),
        ),
    ):
        cells = [_DASH if one.gate.drift is None else cell(one.gate.drift, one.gate.limits) for one in variants]
        rows.append([label, *cells])
    rows += [
        ["ranges by", *(one.gate.method or _DASH for one in variants)],
        ["layers in higher precision", *(str(len(one.gate.fp16_layers)) for one in variants)],
        ["file", *(f"{one.size / 1e6:.2f} MB" if one.size else _DASH for one in variants)],
        ["took", *(f"{one.cost.seconds:.0f} s" for one in variants)],
        ["peak memory", *(f"{one.cost.peak_bytes / 1e6:.0f} MB" for one in variants)],
    ]
    return table("Drift from fp32 (limit)", ["", *(one.name for one in variants)], rows)


def _rank(drift: Drift, limits: DriftLimits) -> str:
    return f"{drift.rank_clips:.5f} ({limits.rank_correlation:g})"


def _largest(drift: Drift, limits: DriftLimits) -> str:
    return f"{100 * drift.relative:.2g} % ({100 * limits.largest_change:g} %)"


def _flipped(drift: Drift, limits: DriftLimits) -> str:
    if drift.flipped_normals is None:
        return _DASH
    allowed = max(FREE_FLIPS, int(limits.flipped_share * drift.normals))
    return f"{drift.flipped_normals} of {drift.normals} ({allowed})"


def _change(change: PairedChange | None, loss: float) -> str:
    if change is None:
        return _DASH
    difference, low, high = (100 * value for value in (change.difference, change.low, change.high))
    return f"{difference:+.2f} [{low:+.2f}, {high:+.2f}] ({-100 * loss:+.2g})"


def _explained(variants: Sequence[VariantResult]) -> Html:
    drifts = [one.gate.drift for one in variants if one.gate.drift is not None]
    if not drifts:
        return Html("")
    return tag(
        "p",
        f"Measured on clips that gave no ranges. Room of a normal clip: {drifts[0].margin:.3g}, from "
        f"{drifts[0].margin_source}. Normal scores spread by {drifts[0].spread:.2g} (standard deviation). Known anomalies "
        "count for rank correlation and AUC only. Peak memory is that of the whole process.",
        class_="faint",
    )


def _threshold(found: Calibration) -> Html:
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
    facts = table(f"An alarm takes {threshold.consecutive} clip scores in a row above it", ["", ""], rows)
    normal, anomaly = found.normal_scores, found.anomaly_scores
    pictures = [_scores(normal, [], threshold.clip)]
    if anomaly:
        pictures.append(_scores(normal, anomaly, threshold.clip))
    return joined([tag("h2", "Threshold"), facts, grid(*pictures)])


def _span(interval: tuple[float | None, float | None]) -> str:
    low, high = ("…" if end is None else f"{end:.4g}" for end in interval)
    return f"[{low}, {high}]"


def _scores(normal: list[float], anomaly: list[float], at: float) -> Html:
    """Beside known anomalies, the scores of normal clips are a few bars: so they are shown alone first."""
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
    keys = [colour_key("normal", "normal")] + ([colour_key("anomaly", "known anomalies")] if anomaly else [])
    for count, colour in zip(counts, ("normal", "anomaly"), strict=True):
        plot.bars(edges, count, colour)
    plot.vertical(at, "threshold")
    return figure(plot.svg(), joined(keys))


def _clips(found: Calibration) -> Html:
    rows: list[list[object]] = []
    scores = [*found.normal_scores, *found.anomaly_scores]
    for clip, score in zip(clip_rows(found), scores, strict=True):
        rows.append([clip["name"], ", ".join(clip["roles"]) or "checked", f"{score:.5g}", clip["sha256"][:16]])
    listed = table(
        "Each recording once, by content", ["clip", "used for", "fp32 score", "sha256"], sorted(rows, key=str)
    )
    return joined([tag("h2", "Clips"), tag("details", tag("summary", f"{len(rows)} clips"), listed)])
