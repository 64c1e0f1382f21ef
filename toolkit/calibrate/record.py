"""The result of a calibration, from which its record, report and printed lines are made."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

import edgeasd
from edgeasd.calibration.drift.drift import Drift
from edgeasd.calibration.fit.clips import ClipSplit
from edgeasd.runtime.bundle.manifest import Manifest
from edgeasd.runtime.health.settings import LevelRange
from edgeasd.runtime.scoring.score import ScoreSettings
from edgeasd.runtime.states import ModeProfile, SoundProfile
from edgeasd.toolkit.calibrate.clips import ClipSet
from edgeasd.toolkit.calibrate.request import Request
from edgeasd.toolkit.calibrate.thresholds import ThresholdResult
from edgeasd.toolkit.calibrate.variants import VariantResult
from edgeasd.toolkit.reports.plots import shared_edges

KEY = "calibration"
"""Of calibration.json; what export wrote stands beside it."""


@dataclass(frozen=True)
class Calibration:
    """One calibration of one bundle."""

    bundle: Path
    manifest: Manifest
    """After it."""
    written: bool
    """False if there was nothing to put into the bundle."""
    request: Request
    normals: ClipSet
    split: ClipSplit | None
    """None if no variant was asked for."""
    anomalies: ClipSet | None
    normal_scores: list[float]
    """fp32 clip scores, in the order of `normals.clips`."""
    anomaly_scores: list[float]
    score: ScoreSettings
    threshold: ThresholdResult
    variants: list[VariantResult]
    level: LevelRange | None
    """Expected level range, measured on `normals`; None if the old one stays."""
    sound: SoundProfile | None
    """What `normals` sound like; None for too little sound."""
    modes: dict[str, ModeProfile]
    """The same for each recorded mode, with its threshold."""
    range_segments: int
    """Segments that gave ranges: as many as were asked for, or all there are."""
    warnings: list[str] = field(default_factory=list)

    @property
    def failed(self) -> list[VariantResult]:
        """Variants that were asked for and did not pass."""
        return [one for one in self.variants if not one.passed]


def calibration_record(found: Calibration, earlier: Mapping[str, Any]) -> dict[str, Any]:
    """What `calibrate` writes into calibration.json: no dates and no costs, so that the same work is the same bytes.

    Precisions that are in the bundle from an earlier calibration keep what that one found.
    """
    variants = {name: facts for name, facts in earlier.items() if name in found.manifest.precisions}
    scale = _scale(found)
    variants |= {one.name: {**_variant(one), "measured_with": scale} for one in found.variants}
    return {
        KEY: {
            "clips": clip_rows(found),
            "segments": found.range_segments,
            "scale": scale,
            "scores": {"normal": found.normal_scores, "anomaly": found.anomaly_scores},
            "histogram": _histogram(found.normal_scores, found.anomaly_scores),
            "threshold": found.threshold.to_json(),
            "level": None if found.level is None else found.level.model_dump(mode="json"),
            "warnings": found.warnings,
            "variants": {name: variants[name] for name in sorted(variants)},
        }
    }


def clip_rows(found: Calibration) -> list[dict[str, Any]]:
    """Every clip with name, sha256 and roles: ranges, drift, threshold, anomaly."""
    of_threshold = ["threshold"] if found.threshold.method != "kept" else []
    split = found.split
    rows = []
    for index, clip in enumerate(found.normals.clips):
        role = (
            [] if split is None else ["ranges"] if index in split.ranges else ["drift"] if index in split.drift else []
        )
        rows.append({"name": clip.name, "sha256": clip.sha256, "roles": [*role, *of_threshold]})
    if found.anomalies is not None:
        rows += [{"name": clip.name, "sha256": clip.sha256, "roles": ["anomaly"]} for clip in found.anomalies.clips]
    return rows


def provenance(found: Calibration) -> dict[str, Any]:
    """For the manifest: how many clips of which fingerprint, and the versions that ran."""
    contents = "".join(clip.sha256 for clip in found.normals.clips)
    return {
        "clips": len(found.normals.clips),
        "anomalies": len(found.anomalies.clips) if found.anomalies is not None else 0,
        "clips_fingerprint": hashlib.sha256(contents.encode()).hexdigest()[:16],
        "segments": found.range_segments,
        "versions": {
            "edgeasd": edgeasd.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
    }


def summary(found: Calibration) -> dict[str, Any]:
    """For --json: the record, what became of each variant, and what it took."""
    record = calibration_record(found, {})[KEY]
    return {
        "bundle": str(found.bundle),
        "machine": found.manifest.machine.type,
        "id": found.manifest.machine.id,
        "written": found.written,
        "precisions": list(found.manifest.precisions),
        **record,
        "costs": {
            one.name: {"seconds": one.cost.seconds, "peak_bytes": one.cost.peak_bytes, "file_bytes": one.size}
            for one in found.variants
        },
    }


def _scale(found: Calibration) -> dict[str, Any]:
    score, amplitude = found.score, found.normals.amplitude
    return {
        "alpha": score.alpha,
        "d_min": score.d_min,
        "d_max": score.d_max,
        "amplitude_std": amplitude.std,
        "threshold": found.threshold.threshold.clip,
    }


def _variant(one: VariantResult) -> dict[str, Any]:
    facts = one.gate.to_json()
    drift = one.gate.drift
    histogram = None if drift is None else _histogram_of_pairs(drift)
    return {**facts, "passed": one.passed, "reasons": list(one.reasons), "histogram": histogram}


def _histogram_of_pairs(drift: Drift) -> dict[str, Any]:
    """Scores of the same clips, fp32 and variant, over the same bins."""
    exact, found = ([pair[which] for pair in drift.pairs] for which in (0, 1))
    edges = shared_edges(exact, found)
    return {
        "edges": edges.tolist(),
        "fp32": np.histogram(exact, edges)[0].tolist(),
        "variant": np.histogram(found, edges)[0].tolist(),
    }


def _histogram(normal: Sequence[float], anomaly: Sequence[float]) -> dict[str, Any]:
    edges = shared_edges(normal, anomaly)
    return {
        "edges": edges.tolist(),
        "normal": np.histogram(normal, edges)[0].tolist(),
        "anomaly": np.histogram(anomaly, edges)[0].tolist(),
    }
