"""What matters where the machine runs: faults found and false alarms at the shipped threshold."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from edgeasd.calibration.threshold.alarms_per_day import alarm_levels
from edgeasd.calibration.threshold.live import live_clip_scores
from edgeasd.runtime.features.logmel import FeatureSettings
from edgeasd.runtime.features.segments import SegmentSettings
from edgeasd.runtime.scoring.score import ScoreSettings
from edgeasd.runtime.scoring.threshold import Threshold
from edgeasd.toolkit.acceptance.rate import FalseAlarms, Span, count_false_alarms, share_interval

_NOT_A_KIND = {
    "anomaly",
    "anomalous",
    "abnormal",
    "fault",
    "faulty",
    "clip",
    "section",
    "test",
    "id",
    "normal",
    "event",
}


def fault_kind(path: str) -> str | None:
    """The kind of fault that the path of an anomalous clip names, or None.

    The folder below `anomaly/`, else the words of the file name if they come with a number and are none that every
    data set uses: `anomaly/leak/3.wav` and `0002_leak.flac` are of kind leak, `anomaly_id_00_00000001.wav` of none.
    """
    *folders, name = path.split("/")
    for above, folder in pairwise(folders):
        if above.lower() in ("anomaly", "anomalous", "abnormal"):
            return folder.lower()
    words = [word for word in re.split(r"[^a-zA-Z]+", name.rpartition(".")[0].lower()) if word]
    if not words or len(words) > 3 or _NOT_A_KIND & set(words) or not re.search(r"\d", name):
        return None
    return " ".join(words)


def at_threshold(
    clips: Sequence[Mapping[str, Any]],
    scoring: str,
    threshold: Threshold,
    outlier_scores: Sequence[float],
    live: tuple[ScoreSettings, Any, FeatureSettings, SegmentSettings] | None = None,
) -> dict[str, Any]:
    """Plain figures of scored test clips at `threshold`.

    `clips` have path, label and the score of the way `scoring`; `outlier_scores` are of held-out clips of other
    machines; `live` has constants and the outputs of all live segments of the normal test clips joined, for false
    alarms. Shares have the 95 % interval of Clopper and Pearson.
    """
    normal = [float(clip[scoring]) for clip in clips if clip["label"] == "normal"]
    faults = [clip for clip in clips if clip["label"] == "anomaly"]
    kinds: dict[str, list[bool]] = {}
    for clip in faults:
        if (kind := fault_kind(str(clip["path"]))) is not None:
            kinds.setdefault(kind, []).append(clip[scoring] > threshold.clip)
    found: dict[str, Any] = {
        "threshold": threshold.clip,
        "found_by": threshold.found_by,
        "normals_above": _share([score > threshold.clip for score in normal]),
        "detected": _share([clip[scoring] > threshold.clip for clip in faults]),
        # One kind for all says nothing more.
        "by_kind": {kind: _share(hits) for kind, hits in sorted(kinds.items())} if len(kinds) > 1 else {},
        "outliers_above": _share([score > threshold.clip for score in outlier_scores]),
    }
    if normal:
        quantiles = np.quantile(normal, (0.5, 0.9, 1.0))
        found["normal_scores"] = dict(zip(("median", "0.9", "largest"), map(float, quantiles), strict=True))
    if live is not None:
        score, outputs, features, segments = live
        scores = live_clip_scores(score, outputs.q, outputs.d, segments.sections)
        if len(scores):
            found["false_alarms"] = _false_alarms(scores, threshold, features, segments).to_json()
    return found


def _share(hits: Sequence[bool]) -> dict[str, Any]:
    found, of = int(sum(hits)), len(hits)
    return {"found": found, "of": of, "interval95": list(share_interval(found, of)) if of else None}


def _false_alarms(
    scores: np.ndarray, threshold: Threshold, features: FeatureSettings, segments: SegmentSettings
) -> FalseAlarms:
    hop = segments.hop * features.hop_length / features.sample_rate
    levels = alarm_levels(scores, threshold.consecutive)
    above = levels > threshold.clip
    raised = np.flatnonzero(above & ~np.concatenate([[False], above[:-1]]))
    return count_false_alarms([Span(len(scores) * hop / 3600, tuple(float(at) * hop for at in raised))])


def at_threshold_lines(facts: Mapping[str, Any]) -> list[str]:
    """The figures of `at_threshold` in lines for people."""
    lines = []
    detected, above, outliers = facts["detected"], facts["normals_above"], facts["outliers_above"]
    if detected["of"]:
        parts = [f"{kind} {one['found']}/{one['of']}" for kind, one in facts["by_kind"].items()]
        lines.append(
            f"at the threshold {facts['threshold']:.4g}: {share_text(detected)} anomalies found"
            + (f" ({', '.join(parts)})" if parts else "")
            + f", {above['found']} of {above['of']} normal clips above"
        )
    else:
        lines.append(
            f"at the threshold {facts['threshold']:.4g}: {share_text(above)} normal clips above; no anomalies to find"
        )
    if outliers["of"]:
        lines.append(f"of other machines, held out: {share_text(outliers)} clips above the threshold")
    if (alarms := facts.get("false_alarms")) is not None:
        lines.append(f"normal clips one after another: {false_alarms_text(alarms)}")
    return lines


def share_text(share: Mapping[str, Any]) -> str:
    """ "10 of 20 (95 %: 27 to 73 %)" of a share."""
    if not share["of"]:
        return "0 of 0"
    low, high = (100 * end for end in share["interval95"])
    return f"{share['found']} of {share['of']} (95 %: {low:.0f} to {high:.0f} %)"


def false_alarms_text(alarms: Mapping[str, Any]) -> str:
    """One phrase: how many in how many hours, and what that says of a month."""
    hours, (low, high) = alarms["hours"], alarms["interval95"]
    span = f"{60 * hours:.2g} min" if hours < 1 else f"{hours:.3g} h"
    number = f"{alarms['call_outs']} false alarm{'' if alarms['call_outs'] == 1 else 's'}"
    return f"{number} in {span}, {alarms['per_month']:.3g} a month (95 %: {low:.3g} to {high:.3g})"
