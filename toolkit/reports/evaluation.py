"""The report of an evaluation: tables over all IDs, then curves, scores and the worst clips of each."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import soundfile

from edgeasd.toolkit.data.cache import read_clip
from edgeasd.toolkit.data.machine import MachineData
from edgeasd.toolkit.evaluation.alpha import sweep_alpha
from edgeasd.toolkit.evaluation.at_threshold import share_text
from edgeasd.toolkit.evaluation.evaluate import Evaluation
from edgeasd.toolkit.evaluation.metrics import roc_band, roc_points
from edgeasd.toolkit.reports import DASH, Figure, Table, data_uri, render
from edgeasd.toolkit.reports.plots import Plot, logmel_png, shared_edges

NAMES = {"deploy": "deploy d′", "paper": "paper d′", "bundle": "bundle", "baseline": "Mahalanobis baseline"}
"""Ways of scoring, in the order of the columns."""
_SHOWN_CLIPS = 3
"""Of each kind."""


def evaluation_report(
    judged: Sequence[tuple[Evaluation, MachineData]], means: Mapping[str, Mapping[str, Any]], *, audio: bool = False
) -> bytes:
    """One HTML page over evaluations of one machine type, each with the data it was made from.

    `means` as `stored.over_ids` makes them. With `audio` the sound of the clips shown is in the page. Raises
    InputError if a clip shown can no longer be read.
    """
    found = [one for one, _ in judged]
    tables = [
        _figures_table(found, means),
        _threshold_table(found),
        _kinds_table(found),
        _domains_table(found, means),
        _comparisons_table(found),
    ]
    return render(
        "evaluation.html",
        title=f"{found[0].machine}: evaluation",
        summary=_summary(found),
        tables=[table for table in tables if table is not None],
        ids=[_id_section(one, data, audio=audio) for one, data in judged],
    )


def _summary(found: Sequence[Evaluation]) -> str:
    ids = f"{len(found)} machine IDs" if len(found) > 1 else f"machine ID {found[0].id}"
    normals, anomalies = sum(one.normals for one in found), sum(one.anomalies for one in found)
    return f"{ids}, judged on {normals} normal and {anomalies} anomalous test clips"


def _figures_table(found: Sequence[Evaluation], means: Mapping[str, Mapping[str, Any]]) -> Table:
    names = [name for name in NAMES if any(name in one.figures for one in found)]
    rows: list[list[object]] = [
        [one.id, f"{one.normals} / {one.anomalies}", *(_figures_cell(one, name) for name in names)] for one in found
    ]
    totals = 0
    if len(found) > 1:
        totals = 2
        for label, suffix in (("mean", ""), ("harmonic mean", "_harmonic")):
            cells = [
                f"{_percent(means[n][f'auc{suffix}'])} / {_percent(means[n][f'pauc_0.1{suffix}'])}"
                if n in means
                else DASH
                for n in names
            ]
            rows.append([label, "", *cells])
    headings = ["ID", "normal / anomalous", *(NAMES[name] for name in names)]
    return Table("AUC % [95 % interval] / pAUC %", headings, rows, totals)


def _threshold_table(found: Sequence[Evaluation]) -> Table | None:
    rows: list[list[object]] = []
    for one in found:
        if (facts := one.at_threshold) is None:
            continue
        alarms = facts.get("false_alarms")
        hours = month = DASH
        if alarms is not None:
            low, high = alarms["interval95"]
            hours, month = f"{alarms['hours']:.3g}", f"{alarms['per_month']:.3g} [{low:.3g}, {high:.3g}]"
        shares = [
            share_text(facts[name]) if facts[name]["of"] else DASH
            for name in ("detected", "normals_above", "outliers_above")
        ]
        rows.append([one.id, f"{facts['threshold']:.4g}", *shares, month, hours])
    headings = [
        *("ID", "threshold", "anomalies found", "normals above", "other machines above"),
        *("false alarms a month [95 %]", "hours behind it"),
    ]
    return Table("At the shipped threshold", headings, rows) if rows else None


def _kinds_table(found: Sequence[Evaluation]) -> Table | None:
    rows = [
        [one.id, kind, share_text(share)]
        for one in found
        if one.at_threshold is not None
        for kind, share in one.at_threshold["by_kind"].items()
    ]
    return Table("Anomalies found by kind, as file names tell it", ["ID", "kind", "found"], rows) if rows else None


def _figures_cell(one: Evaluation, name: str) -> str:
    figures = one.figures.get(name)
    if figures is None:
        return DASH
    if figures.auc is None or figures.interval is None or figures.pauc is None:
        return "undefined"
    low, high = figures.interval
    return f"{_percent(figures.auc)} [{_percent(low)}, {_percent(high)}] / {_percent(figures.pauc)}"


def _domains_table(found: Sequence[Evaluation], means: Mapping[str, Mapping[str, Any]]) -> Table | None:
    keys = ("auc_source", "auc_target", "pauc", "harmonic_mean")
    rows = []
    for one in found:
        facts = one.figures[main_scoring(one)].facts.get("domains", {}).get("2022-2026")
        if facts:
            rows.append([one.id, *(_percent(facts.get(key)) for key in keys)])
    if not rows:
        return None
    totals = 0
    overall = means.get("deploy", {}).get("domains", {}).get("2022-2026")
    if len(rows) > 1 and overall:
        rows.append(["mean", *(_percent(overall[key]) for key in keys)])
        totals = 1
    headings = ["ID", "AUC source", "AUC target", "pAUC, both", "harmonic mean"]
    return Table("By domain, as in DCASE 2022 to 2026 (%)", headings, rows, totals)


def _comparisons_table(found: Sequence[Evaluation]) -> Table | None:
    rows: list[list[object]] = []
    for one in found:
        for name, figures in one.figures.items():
            test = figures.facts.get("deploy_minus_this")
            if test:
                low, high = (f"{100 * end:+.1f}" for end in test["interval"])
                p = "undefined" if test["p"] is None else f"{test['p']:.3f}"
                rows.append([one.id, NAMES[name], f"{100 * test['difference']:+.1f} [{low}, {high}]", p])
    if not rows:
        return None
    headings = ["ID", "compared with", "points of AUC [95 % interval]", "p"]
    return Table("deploy d′ minus another scoring of the same clips (DeLong's test)", headings, rows)


def main_scoring(one: Evaluation) -> str:
    """The way of scoring that the curves show: deploy, or paper if the model has no frozen constants."""
    return "deploy" if "deploy" in one.figures else "paper"


def _id_section(one: Evaluation, data: MachineData, *, audio: bool) -> dict[str, Any]:
    """What the template shows of one ID."""
    scoring = main_scoring(one)
    facts = one.figures[scoring].facts
    section: dict[str, Any] = {
        "id": one.id,
        "notes": one.notes,
        "scale": f"Scores: {NAMES[scoring]}, α = {facts['alpha']:g} ({facts['alpha_source']}), d′ from "
        f"{facts['d_min']:.4g} to {facts['d_max']:.4g}. Trained {one.trained[:10]}.",
        "undefined": facts["undefined"] if one.figures[scoring].auc is None else None,
    }
    threshold = facts.get("threshold")
    plots = [_histogram(one, scoring, threshold)]
    if not section["undefined"]:
        plots.insert(0, _roc(one, scoring))
        if one.alpha_is_free:
            plots.append(_alpha_curve(one, scoring))
    settings = data.cache.settings
    pictures = (
        f"Pictures below: log-mel, time to the right, {settings.f_min:g} to {settings.f_max:g} Hz upward on the mel "
        "scale, brighter is louder, one scale of brightness for all of this ID."
    )
    normals, anomalies = worst_clips(one, scoring)
    # One scale for everything that is compared, set by the bulk of the values and not by a single click.
    values = np.concatenate([data.features(one.sources[i]).ravel() for i in (*normals, *anomalies)])
    span = (float(np.quantile(values, 0.02)), float(np.quantile(values, 0.998)))
    clips = [
        (heading, [_clip(one, data, i, scoring, threshold, span, audio=audio) for i in chosen])
        for heading, chosen in (
            ("Normal clips with the highest scores", normals),
            ("Anomalous clips with the lowest scores", anomalies),
        )
        if chosen
    ]
    return {**section, "plots": plots, "pictures": pictures, "clips": clips}


def worst_clips(one: Evaluation, scoring: str, count: int = _SHOWN_CLIPS) -> tuple[list[int], list[int]]:
    """Positions in `one.clips` of the `count` normal clips scored highest and anomalous clips scored lowest.

    The worst first; ties in order of path.
    """

    def ranked(label: str, sign: float) -> list[int]:
        of_kind = [i for i, clip in enumerate(one.clips) if clip["label"] == label]
        return sorted(of_kind, key=lambda i: (sign * one.clips[i][scoring], one.clips[i]["path"]))[:count]

    return ranked("normal", -1), ranked("anomaly", 1)


def _clip(
    one: Evaluation,
    data: MachineData,
    index: int,
    scoring: str,
    threshold: float | None,
    span: tuple[float, float],
    *,
    audio: bool,
) -> dict[str, Any]:
    """Picture, verdict and, if asked for, sound of one clip."""
    clip, row, settings = one.sources[index], one.clips[index], data.cache.settings
    features = np.asarray(data.features(clip))
    seconds = settings.sample_count(len(features)) / settings.sample_rate
    verdict = f"{row['label']}, score {row[scoring]:.4g}"
    if threshold is not None:
        verdict += _verdict(row["label"], row[scoring] > threshold)
    if "domain" in row:
        verdict += f", {row['domain']} domain"
    return {
        "path": row["path"],
        "verdict": verdict,
        "picture": data_uri("image/png", logmel_png(features, *span)),
        "description": f"Log-mel picture of {row['path']}: {seconds:.1f} s to the right, "
        f"{settings.f_min:g} to {settings.f_max:g} Hz upward",
        "sound": _sound(one, data, index) if audio else None,
    }


def _verdict(label: str, is_above: bool) -> str:
    if label == "normal":
        return ": a false alarm" if is_above else ": below the threshold"
    return ": found" if is_above else ": missed"


def _sound(one: Evaluation, data: MachineData, index: int) -> str:
    """The clip as the model hears it (one channel at its rate), FLAC of 16 bits."""
    rate = data.cache.settings.sample_rate
    samples = read_clip(one.sources[index].path, data.cache.settings, data.cache.channel)
    written = io.BytesIO()
    soundfile.write(written, samples, rate, format="FLAC", subtype="PCM_16")
    return data_uri("audio/flac", written.getvalue())


def _scores(one: Evaluation, key: str) -> tuple[list[float], list[float]]:
    normal, anomaly = ([c[key] for c in one.clips if c["label"] == kind] for kind in ("normal", "anomaly"))
    return normal, anomaly


def _roc(one: Evaluation, scoring: str) -> Figure:
    normal, anomaly = _scores(one, scoring)
    area = f"AUC {_figures_cell(one, scoring).partition(' / ')[0]} %"
    plot = Plot(
        f"ROC curve of ID {one.id}",
        f"True-positive rate against false-positive rate, {area}.",
        "false-positive rate",
        "true-positive rate",
        (0, 1),
    )
    plot.band(*roc_band(normal, anomaly), "accent")
    plot.reference([0, 1], [0, 1])
    plot.line(*roc_points(normal, anomaly), "accent")
    return Figure(plot.svg(), f"{area}. Band: middle 95 % of curves over clips drawn anew.")


def _histogram(one: Evaluation, scoring: str, threshold: float | None) -> Figure:
    normal, anomaly = _scores(one, scoring)
    edges = shared_edges(normal, anomaly, [threshold] if threshold is not None else [])
    counts = [np.histogram(group, edges)[0] for group in (normal, anomaly)]
    groups = ((normal, "normal clips"), (anomaly, "anomalous ones"))
    spans = [f"{len(of)} {name} score {min(of):.3g} to {max(of):.3g}" for of, name in groups if of]
    plot = Plot(
        f"Scores of ID {one.id}",
        f"{', '.join(spans)}.",
        "clip score",
        "clips",
        (float(edges[0]), float(edges[-1])),
        (0, 1.1 * max(int(count.max()) for count in counts)),
    )
    for count, colour in zip(counts, ("normal", "anomaly"), strict=True):
        plot.bars(edges, count, colour)
    if threshold is None:
        caption = "No threshold: nothing was held out to take one from."
    else:
        plot.vertical(threshold, "threshold")
        false_alarms, detected = sum(s > threshold for s in normal), sum(s > threshold for s in anomaly)
        caption = (
            f"Above the threshold {threshold:.4g}: {false_alarms} of {len(normal)} normal and {detected} of "
            f"{len(anomaly)} anomalous clips."
        )
    keys = (("normal", "normal"), ("anomaly", "anomalous"))
    return Figure(plot.svg(), caption, keys if anomaly else keys[:1])


def _alpha_curve(one: Evaluation, scoring: str) -> Figure:
    judged = [clip for clip in one.clips if clip["label"] != "unknown"]
    sweep = sweep_alpha(
        [clip["q"] for clip in judged],
        [clip["d_prime"] for clip in judged],
        [clip["label"] == "anomaly" for clip in judged],
    )
    used = float(one.figures[scoring].facts["alpha"])
    plot = Plot(
        f"AUC against α, ID {one.id}",
        f"AUC on the test clips from {_percent(min(sweep.aucs))} to {_percent(max(sweep.aucs))} % as α goes from 0, "
        f"distance alone, to 1, classifier alone. α in use: {used:g}.",
        "α: 0 distance alone, 1 classifier alone",
        "AUC",
        (0, 1),
        (min(0.5, *sweep.aucs), 1.0),
    )
    plot.line(sweep.alphas, sweep.aucs, "accent")
    plot.vertical(used, "in use")
    return Figure(
        plot.svg(), "AUC of the test clips for every α. Not used for choosing: α was set without these clips."
    )


def _percent(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:.1f}"
