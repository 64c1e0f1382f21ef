"""Faults found and false alarms at the shipped threshold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeasd.calibration.fit.deploy import SegmentOutputs
from edgeasd.runtime.features.logmel import FeatureSettings
from edgeasd.runtime.features.segments import SegmentSettings
from edgeasd.runtime.scoring.score import ScoreSettings
from edgeasd.runtime.scoring.threshold import Threshold
from edgeasd.toolkit.evaluation.at_threshold import at_threshold, at_threshold_lines, fault_kind

THRESHOLD = Threshold(clip=0.5, consecutive=3, found_by="by hand", clips=1)


def clip(path: str, score: float) -> dict[str, Any]:
    return {"path": path, "label": "anomaly" if "anomaly" in path else "normal", "deploy": score}


CLIPS = [
    clip("valve/00/anomaly/0000_leak.flac", 0.9),
    clip("valve/00/anomaly/0001_leak.flac", 0.8),
    clip("valve/00/anomaly/0002_sticking.flac", 0.4),
    clip("valve/00/normal/0000.flac", 0.1),
    clip("valve/00/normal/0001.flac", 0.6),
]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("valve/00/anomaly/0000_leak.flac", "leak"),
        ("valve/00/anomaly/bearing/7.wav", "bearing"),
        ("pump/02/abnormal/Loose Belt/a.wav", "loose belt"),
        ("valve/test/anomaly_id_00_00000001.wav", None),
        ("ToyCar/test/section_00_source_test_anomaly_0001_car_B1.flac", None),
        ("valve/00/anomaly/00000007.wav", None),
        ("valve/00/anomaly/strange.wav", None),
    ],
)
def test_kind_is_read_from_the_path_where_it_tells(path: str, kind: str | None) -> None:
    assert fault_kind(path) == kind


def test_detected_share_is_counted_by_kind() -> None:
    facts = at_threshold(CLIPS, "deploy", THRESHOLD, [0.7, 0.2])
    assert (facts["detected"]["found"], facts["detected"]["of"]) == (2, 3)
    assert facts["by_kind"]["leak"]["found"] == 2
    assert facts["by_kind"]["sticking"]["found"] == 0
    assert facts["normals_above"]["found"] == 1
    assert facts["outliers_above"]["interval95"] == pytest.approx([0.0126, 0.9874], abs=1e-3)
    first, other = at_threshold_lines(facts)
    assert "2 of 3 (95 %: 9 to 99 %) anomalies found (leak 2/2, sticking 0/1), 1 of 2 normal clips above" in first
    assert other.startswith("of other machines, held out: 1 of 2")


def test_without_anomalies_the_normals_are_all_there_is() -> None:
    facts = at_threshold(CLIPS[3:], "deploy", THRESHOLD, [])
    (line,) = at_threshold_lines(facts)
    assert line == "at the threshold 0.5: 1 of 2 (95 %: 1 to 99 %) normal clips above; no anomalies to find"
    assert facts["normal_scores"]["largest"] == 0.6


def test_false_alarms_are_counted_by_the_live_rule() -> None:
    score = ScoreSettings(alpha=0.0, alpha_source="-", d_min=0, d_max=1, d_min_source="-", d_max_source="-")
    d = np.zeros(4000, np.float32)
    d[1000:1100] = d[3000:3002] = 2.0  # the second is over before the mean has risen
    outputs = SegmentOutputs(d, d)
    live = (score, outputs, FeatureSettings(), SegmentSettings())
    facts = at_threshold(CLIPS, "deploy", THRESHOLD, [], live)
    alarms = facts["false_alarms"]
    assert alarms["call_outs"] == 1
    assert alarms["hours"] == pytest.approx(3991 * 0.192 / 3600)
    assert "1 false alarm in 13 min" in at_threshold_lines(facts)[-1]
