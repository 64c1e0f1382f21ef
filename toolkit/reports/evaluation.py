"""The report of an evaluation: tables over all IDs, then curves, scores and the worst clips of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgeasd.toolkit.data.machine import MachineData
from edgeasd.toolkit.evaluation.alpha import sweep_alpha
from edgeasd.toolkit.evaluation.evaluate import Evaluation
from edgeasd.toolkit.evaluation.metrics import roc_band, roc_points
from edgeasd.toolkit.reports.clips import clip_figures, worst_clips
from edgeasd.toolkit.reports.html import Html, colour_key, figure, grid, joined, page, table, tag
from edgeasd.toolkit.reports.plots import Plot, shared_edges

NAMES = {"deploy": "deploy d′", "paper": "paper d′", "bundle": "bundle", "baseline": "Mahalanobis baseline"}
"""Ways of scoring, in the order of the columns."""
_DASH = "–"


def evaluation_report(
    judged: Sequence[tuple[Evaluation, MachineData]], means: Mapping[str, Mapping[str, Any]], *, audio: bool = False
) -> Html:
    """One HTML page over evaluations of one machine type, each with the data it was made from.

    `means` as `several.over_ids` makes them. With `audio` the sound of the clips shown is in the page. The
    page asks the network for nothing. Raises InputError where a clip shown can no longer be read.
    """
    machine = judged[0][0].machine
    evaluations = [one for one, _ in judged]
    sections = [_section(one, data, audio=audio) for one, data in judged]
    return page(
        f"{machine}: evaluation",
        tag("p", _summary(evaluations), class_="faint"),
        _figures_table(evaluations, means),
        _domains_table(evaluations, means),
        _comparisons_table(evaluations),
        tag(
            "p",
            "AUC: the share of pairs of one normal and one anomalous clip in which the anomaly scores higher; "
            "50 % is chance. Intervals: 95 %, Hanley and McNeil. pAUC: false-positive rates up to 0.1, standardised "
            "after McClish. deploy d′ uses constants frozen before the test; paper d′ takes them from the test "
            "clips themselves.",
            class_="faint",
        ),
        *sections,
    )


def _summary(found: Sequence[Evaluation]) -> str:
    ids = f"{len(found)} machine IDs" if len(found) > 1 else f"machine ID {found[0].id}"
    normals, anomalies = sum(one.normals for one in found), sum(one.anomalies for one in found)
    return f"{ids}, judged on {normals} normal and {anomalies} anomalous test clips"


def _figures_table(found: Sequence[Evaluation], means: Mapping[str, Mapping[str, Any]]) -> Html:
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
                else _DASH
                for n in names
            ]
            rows.append([label, "", *cells])
    headings = ["ID", "normal / anomalous", *(f"{NAMES[name]}" for name in names)]
    return table("AUC % [95 % interval] / pAUC %", headings, rows, totals)


def _figures_cell(one: Evaluation, name: str) -> str:
    figures = one.figures.get(name)
    if figures is None:
        return _DASH
    if figures.auc is None or figures.interval is None or figures.pauc is None:
        return "undefined"
    low, high = figures.interval
    return f"{_percent(figures.auc)} [{_percent(low)}, {_percent(high)}] / {_percent(figures.pauc)}"


def _domains_table(found: Sequence[Evaluation], means: Mapping[str, Mapping[str, Any]]) -> Html:
    keys = ("auc_source", "auc_target", "pauc", "harmonic_mean")
    rows = []
    for one in found:
        facts = one.figures[main_scoring(one)].facts.get("domains", {}).get("2022-2026")
        if facts:
            rows.append([one.id, *(_percent(facts.get(key)) for key in keys)])
    if not rows:
        return Html("")
    totals = 0
    overall = means.get("deploy", {}).get("domains", {}).get("2022-2026")
    if len(rows) > 1 and overall:
        rows.append(["mean", *(_percent(overall[key]) for key in keys)])
        totals = 1
    headings = ["ID", "AUC source", "AUC target", "pAUC, both", "harmonic mean"]
    return table("By domain, as in DCASE 2022 to 2026 (%)", headings, rows, totals)


def _comparisons_table(found: Sequence[Evaluation]) -> Html:
    rows: list[list[object]] = []
    for one in found:
        for name, figures in one.figures.items():
            test = figures.facts.get("deploy_minus_this")
            if test:
                low, high = (f"{100 * end:+.1f}" for end in test["interval"])
                p = "undefined" if test["p"] is None else f"{test['p']:.3f}"
                rows.append([one.id, NAMES[name], f"{100 * test['difference']:+.1f} [{low}, {high}]", p])
    if not rows:
        return Html("")
    headings = ["ID", "compared with", "points of AUC [95 % interval]", "p"]
    return table("deploy d′ minus another scoring of the same clips (DeLong's test)", headings, rows)


def main_scoring(one: Evaluation) -> str:
    """The way of scoring that the curves show: deploy, or paper where the model has no frozen constants."""
    return "deploy" if "deploy" in one.figures else "paper"


def _section(one: Evaluation, data: MachineData, *, audio: bool) -> Html:
    scoring = main_scoring(one)
    facts = one.figures[scoring].facts
    heading = tag("h2", f"ID {one.id}")
    said = [tag("p", note) for note in one.notes]
    said.append(
        tag(
            "p",
            f"Scores: {NAMES[scoring]}, α = {facts['alpha']:g} ({facts['alpha_source']}), d′ from {facts['d_min']:.4g} "
            f"to {facts['d_max']:.4g}. Trained {one.trained[:10]}.",
            class_="faint",
        )
    )
    if one.figures[scoring].auc is None:
        return joined([heading, *said, tag("p", facts["undefined"])])
    threshold = facts.get("threshold")
    plots = [_roc(one, scoring), _histogram(one, scoring, threshold)]
    if one.alpha_is_free:
        plots.append(_alpha_curve(one, scoring))
    worst = worst_clips(one, scoring)

    def shown(chosen: list[int]) -> Html:
        return clip_figures(one, data, chosen, scoring, threshold, audio=audio)

    return joined(
        [
            heading,
            *said,
            grid(*plots),
            tag("p", _picture_note(data), class_="faint"),
            tag("h3", "Normal clips with the highest scores"),
            shown(worst.normals),
            tag("h3", "Anomalous clips with the lowest scores"),
            shown(worst.anomalies),
        ]
    )


def _picture_note(data: MachineData) -> str:
    settings = data.cache.settings
    return (
        f"Pictures below: log-mel, time to the right, {settings.f_min:g} to {settings.f_max:g} Hz upward on the mel "
        "scale, brighter is louder, one scale of brightness for all of this ID."
    )


def _scores(one: Evaluation, key: str) -> tuple[list[float], list[float]]:
    normal, anomaly = ([c[key] for c in one.clips if c["label"] == kind] for kind in ("normal", "anomaly"))
    return normal, anomaly


def _roc(one: Evaluation, scoring: str) -> Html:
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
    plot.chance([0, 1], [0, 1])
    plot.line(*roc_points(normal, anomaly), "accent")
    return figure(plot.svg(), f"{area}. Band: middle 95 % of curves over clips drawn anew.")


def _histogram(one: Evaluation, scoring: str, threshold: float | None) -> Html:
    normal, anomaly = _scores(one, scoring)
    edges = shared_edges(normal, anomaly, [threshold] if threshold is not None else [])
    counts = [np.histogram(group, edges)[0] for group in (normal, anomaly)]
    highest = max(int(count.max()) for count in counts)
    plot = Plot(
        f"Scores of ID {one.id}",
        f"{len(normal)} normal clips score {min(normal):.3g} to {max(normal):.3g}, {len(anomaly)} anomalous ones "
        f"{min(anomaly):.3g} to {max(anomaly):.3g}.",
        "clip score",
        "clips",
        (float(edges[0]), float(edges[-1])),
        (0, highest * 1.1),
    )
    for count, colour in zip(counts, ("normal", "anomaly"), strict=True):
        plot.bars(edges, count, colour)
    said: list[object] = [colour_key("normal", "normal"), colour_key("anomaly", "anomalous"), tag("br")]
    if threshold is None:
        said.append("No threshold: nothing was held out to take one from.")
    else:
        plot.vertical(threshold, "threshold")
        false_alarms, found = sum(s > threshold for s in normal), sum(s > threshold for s in anomaly)
        said.append(
            f"Above the threshold {threshold:.4g}: {false_alarms} of {len(normal)} normal and {found} of "
            f"{len(anomaly)} anomalous clips."
        )
    return figure(plot.svg(), joined(said))


def _alpha_curve(one: Evaluation, scoring: str) -> Html:
    judged = [clip for clip in one.clips if clip["label"] != "unknown"]
    sweep = sweep_alpha(
        [clip["q"] for clip in judged],
        [clip["d_prime"] for clip in judged],
        [clip["label"] == "anomaly" for clip in judged],
    )
    used = float(one.figures[scoring].facts["alpha"])
    low = min(0.5, *sweep.aucs)
    plot = Plot(
        f"AUC against α, ID {one.id}",
        f"AUC on the test clips from {_percent(min(sweep.aucs))} to {_percent(max(sweep.aucs))} % as α goes from 0, "
        f"distance alone, to 1, classifier alone. α in use: {used:g}.",
        "α: 0 distance alone, 1 classifier alone",
        "AUC",
        (0, 1),
        (low, 1.0),
    )
    plot.line(sweep.alphas, sweep.aucs, "accent")
    plot.vertical(used, "in use")
    return figure(
        plot.svg(), "AUC of the test clips for every α. Not used for choosing: α was set without these clips."
    )


def _percent(value: float | None) -> str:
    return _DASH if value is None else f"{100 * value:.1f}"
