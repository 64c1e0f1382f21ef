"""Several evaluations side by side: means over IDs, the spread over seeds, and two models on the same clips.

They read what `edgeasd evaluate` stores, the contents of evaluation.json.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeasd.calibration.delong import PairedComparison, delong
from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.evaluation.domains import VARIANTS, harmonic_mean
from edgeasd.toolkit.evaluation.figures import Labels, figures_of


@dataclass(frozen=True)
class Spread:
    """One figure over several seeds."""

    mean: float
    std: float | None
    """Sample standard deviation (n − 1); None for one seed, which has no spread."""
    low: float
    high: float
    runs: int


def over_seeds(
    evaluations: Sequence[Mapping[str, Any]], names: Sequence[object] | None = None
) -> dict[str, dict[str, Spread]]:
    """{way of scoring: {figure: Spread}} over evaluations of one machine ID that differ in their seed.

    Figures are auc and pauc_0.1; a way of scoring that is missing or undefined in one run is left out of
    the result. Raises InputError for none, for different IDs and for different test clips: a mean over those
    would mix two causes. `names` are what errors call the evaluations; their positions by default.
    """
    if not evaluations:
        raise InputError("0 evaluations have no mean; give at least one")
    which = {(str(one["machine"]), str(one["id"])) for one in evaluations}
    if len(which) > 1:
        names = ", ".join(f"{machine} ID {id}" for machine, id in sorted(which))
        raise InputError(f"evaluations of {names}: seeds are averaged for one ID; give those of one")
    first = _labels(evaluations[0])
    called = [f"evaluation {number}" for number in range(len(evaluations))] if names is None else names
    for name, one in zip(called, evaluations, strict=True):
        if _labels(one) != first:
            raise InputError(
                f"{name} has other test clips than {called[0]}; judge all seeds on the same clips "
                "(a layout with its own test split, or --without)"
            )
    found: dict[str, dict[str, Spread]] = {}
    for name in evaluations[0]["figures"]:
        for figure in ("auc", "pauc_0.1"):
            values = [one["figures"].get(name, {}).get(figure) for one in evaluations]
            if all(value is not None for value in values):
                found.setdefault(name, {})[figure] = _spread([float(value) for value in values])
    return found


def over_ids(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """{way of scoring: arithmetic and harmonic means} over IDs, of the figures that are defined.

    auc, pauc_0.1 and their *_harmonic; `ids` is how many count. Where every such ID has all figures of a variant, `domains` has
    for that variant the mean of each figure, and `harmonic_mean` over all AUCs and pAUCs: the official score.
    """
    means: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(name for one in evaluations for name in one["figures"]):
        figures = [one["figures"][name] for one in evaluations if name in one["figures"]]
        defined = [one for one in figures if one["auc"] is not None]
        if not defined:
            continue
        means[name] = {"ids": len(defined)}
        for figure in ("auc", "pauc_0.1"):
            values = [float(one[figure]) for one in defined]
            means[name] |= {figure: statistics.fmean(values), f"{figure}_harmonic": harmonic_mean(values)}
        of_variants = {v: _domain_means([one.get("domains", {}).get(v) for one in defined]) for v in VARIANTS}
        if domains := {variant: found for variant, found in of_variants.items() if found}:
            means[name]["domains"] = domains
    return means


def pooled(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """{way of scoring: figures} over the clips of all IDs together, as if one threshold served them all.

    Each clip keeps the score of its own ID's model. This is the protocol of a section that holds several IDs
    (DCASE 2021 to 2026). A way of scoring that one of the IDs lacks is left out.
    """
    clips = [clip for one in evaluations for clip in one["clips"]]
    labels = Labels(
        anomalous=np.array([clip["label"] == "anomaly" for clip in clips]),
        known=np.array([clip["label"] != "unknown" for clip in clips]),
        domains=[clip.get("domain") for clip in clips],
    )
    names = dict.fromkeys(name for one in evaluations for name in one["figures"])
    return {
        name: figures_of([float(clip[name]) for clip in clips], labels, {"ids": len(evaluations)}).to_json()
        for name in names
        if all(name in clip for clip in clips)
    }


def _domain_means(of_ids: Sequence[Mapping[str, float] | None]) -> dict[str, float]:
    """Means over IDs that have all figures of a variant; empty where one of them has not."""
    complete = [one for one in of_ids if one is not None and "harmonic_mean" in one]
    if len(complete) < len(of_ids):
        return {}
    keys = [key for key in complete[0] if key != "harmonic_mean"]
    means = {key: statistics.fmean(one[key] for one in complete) for key in keys}
    return {**means, "harmonic_mean": harmonic_mean(one[key] for one in complete for key in keys)}


def compare(a: Mapping[str, Any], b: Mapping[str, Any], scoring: str = "deploy") -> PairedComparison:
    """DeLong's test between two evaluations of the same clips, paired by path and never by position.

    `scoring` is a way of scoring both have. Raises InputError where one has it not, where the clips
    differ (the first one missing is named), and as `delong` does.
    """
    for one in (a, b):
        if scoring not in one["figures"]:
            have = ", ".join(one["figures"])
            raise InputError(f"{one['machine']} ID {one['id']}: not scored by {scoring!r} (it has {have}); pass one")
    labels = _labels(a)
    if labels != _labels(b):
        odd = sorted(labels.items() ^ _labels(b).items())
        raise InputError(f"{odd[0][0]}: is not judged alike in both evaluations; compare models on the same clips")
    scores = [{_key(clip): float(clip[scoring]) for clip in one["clips"]} for one in (a, b)]
    normals, anomalies = (sorted(key for key in labels if labels[key] == kind) for kind in ("normal", "anomaly"))
    (a_normal, a_anomaly), (b_normal, b_anomaly) = (
        ([of[key] for key in normals], [of[key] for key in anomalies]) for of in scores
    )
    return delong(a_normal, a_anomaly, b_normal, b_anomaly)


def _labels(one: Mapping[str, Any]) -> dict[str, str]:
    return {_key(clip): str(clip["label"]) for clip in one["clips"]}


def _key(clip: Mapping[str, Any]) -> str:
    # Two folders may hold a file of one name; evaluations written before paths were stored have the name only.
    return str(clip.get("path") or f"{clip['label']}/{clip['file']}")


def _spread(values: list[float]) -> Spread:
    std = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.fmean(values), std, min(values), max(values), len(values))
