"""One precision in a calibration's report: scatter, changes, scores and noise by layer."""

from __future__ import annotations

import numpy as np

from edgeasd.calibration.drift.drift import Drift
from edgeasd.toolkit.calibrate.variants import VariantResult
from edgeasd.toolkit.reports.html import Html, colour_key, figure, grid, joined, table, tag
from edgeasd.toolkit.reports.plots import Plot, shared_edges

_HIGHEST_DB = 80.0
"""Layers that a variant leaves as they are have 150; bars of that height would flatten all others."""
_KINDS = (("normal", "normal"), ("anomaly", "known anomaly"))


def variant_section(one: VariantResult) -> Html:
    """Heading, verdict, pictures and tables of one precision."""
    verdict = "In the bundle." if one.passed else f"Not in the bundle: {'; '.join(one.reasons)}."
    parts: list[object] = [tag("h2", one.name), tag("p", verdict)]
    if one.gate.drift is not None:
        drift = one.gate.drift
        # Two rows of two: four in one grid stand three and one on a wide screen.
        parts.append(grid(_scatter(one.name, drift), _changes(one, drift)))
        parts.append(grid(_scores(one.name, drift), *([_noise(one)] if one.gate.noise else [])))
    parts += [_methods(one), _kept(one), _layers(one)]
    return joined(parts)


def _groups(drift: Drift) -> list[tuple[str, list[tuple[float, float]]]]:
    """(colour, pairs) of normal clips and of anomalies."""
    labelled = list(zip(drift.pairs, drift.anomalous, strict=True))
    return [(colour, [pair for pair, bad in labelled if bad == (colour == "anomaly")]) for colour, _ in _KINDS]


def _keys(drift: Drift) -> Html:
    return joined(colour_key(colour, word) for colour, word in _KINDS[: 2 if drift.anomalies else 1])


def _scatter(name: str, drift: Drift) -> Html:
    values = [value for pair in drift.pairs for value in pair]
    low, high = min(values), max(values)
    room = 0.03 * (high - low) or 0.01
    span = (low - room, high + room)
    plot = Plot(
        f"{name} against fp32",
        f"Clip scores of {len(drift.pairs)} clips, rank correlation {drift.rank_clips:.5f}.",
        "clip score, fp32",
        f"clip score, {name}",
        span,
        span,
    )
    plot.chance(span, span)
    for colour, pairs in _groups(drift):
        plot.points([a for a, _ in pairs], [b for _, b in pairs], colour)
    if drift.threshold is not None:
        plot.vertical(drift.threshold, "threshold")
    return figure(plot.svg(), joined([_keys(drift), tag("br"), "Dotted: no change."]))


def _changes(one: VariantResult, drift: Drift) -> Html:
    pairs = _groups(drift)[0][1]
    exact = [a for a, _ in pairs]
    percent = [100 * (b - a) / drift.margin for a, b in pairs]
    limit = 100 * one.gate.limits.largest_change
    most = max([abs(value) for value in percent], default=0.0)
    reach = 1.15 * most or 1.0
    room = 0.03 * (max(exact) - min(exact))
    span = (min(exact) - room, max(exact) + room)
    plot = Plot(
        f"Change of normal scores, {one.name}",
        f"Changes of {len(pairs)} normal clips reach {most:.2g} % of the room to the threshold; {limit:g} % are allowed.",
        "clip score, fp32",
        "change, % of room",
        span,
        (-reach, reach),
    )
    plot.chance(span, [0, 0])
    for level in (-limit, limit):
        if abs(level) <= reach:
            plot.chance(span, [level, level])
    plot.points(exact, percent, "normal")
    return figure(plot.svg(), f"Normal clips only. Allowed: {limit:g} % of the room.")


def _scores(name: str, drift: Drift) -> Html:
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
    return figure(
        plot.svg(), joined([colour_key("normal", "fp32"), colour_key("mark", name), tag("br"), "The same clips."])
    )


def _noise(one: VariantResult) -> Html:
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
    return figure(
        plot.svg(),
        f"Lowest: {names[worst]}, {one.gate.noise[names[worst]]:.1f} dB. Bars end at "
        f"{_HIGHEST_DB:.0f} dB. Reported, not limited.",
    )


def _methods(one: VariantResult) -> Html:
    if one.gate.method is None:
        return Html("")
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
    return table("Ways to find ranges, with all layers in eight bits", headings, rows)


def _kept(one: VariantResult) -> Html:
    if not one.gate.fp16_layers:
        return Html("")
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
    return table(f"Layers put back to higher precision ({one.gate.trials} tried)", headings, rows)


def _layers(one: VariantResult) -> Html:
    if not one.gate.noise:
        return Html("")
    rows = [[name, f"{value:.1f}"] for name, value in one.gate.noise.items()]
    listed = table("dB, noise of all layers before included", ["output", "signal to noise"], rows)
    return tag("details", tag("summary", f"Signal-to-noise ratio of {len(rows)} layer outputs"), listed)
