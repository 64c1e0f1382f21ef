"""Runs clips through a candidate graph and the head, as a device would, and measures the drift."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime

from edgeasd.calibration.drift.drift import Drift, measure_drift
from edgeasd.calibration.fit.clips import ClipFeatures
from edgeasd.calibration.fit.deploy import SegmentOutputs
from edgeasd.calibration.progress import ProgressCallback, no_progress
from edgeasd.calibration.quantization.layer_noise import candidate_engine, embed
from edgeasd.runtime.features.segments import SegmentSettings, clip_starts
from edgeasd.runtime.scoring.score import ScoreSettings
from edgeasd.runtime.scoring.scorer import HeadFunction


def clip_outputs(
    model: onnx.ModelProto,
    precision: str,
    head: HeadFunction,
    clips: ClipFeatures,
    segments: SegmentSettings,
    *,
    threads: int | None = None,
    report: ProgressCallback = no_progress,
) -> list[SegmentOutputs]:
    """q and d of the segments of every clip, by the clip rule.

    `precision` is "fp32", "fp16", "int8" or "int8-cpu". Memory is that of the model, four segments and one clip.
    `report` is called with (done, total) clips. Raises InputError for a clip shorter than a segment, and where ONNX
    Runtime cannot load the model.
    """
    engine = candidate_engine(model, precision, threads)
    found = []
    try:
        for index in range(len(clips)):
            features = clips[index]
            starts = clip_starts(len(features), segments)
            windows = np.stack([features[start : start + segments.frames] for start in starts])
            outputs = head(embed(engine, windows))
            found.append(SegmentOutputs(np.asarray(outputs["q"]), np.asarray(outputs["d"])))
            report(index + 1, len(clips))
    finally:
        engine.close()
    return found


@dataclass(frozen=True)
class DriftMeasure:
    """Measures candidates of one precision on clips that gave no ranges: call it with a graph.

    `reference` is `clip_outputs` of the fp32 encoder for the same `clips`; it may serve several precisions.
    """

    precision: str
    reference: Sequence[SegmentOutputs]
    head: HeadFunction
    clips: ClipFeatures
    segments: SegmentSettings
    score: ScoreSettings
    threshold: float | None
    anomalous: Sequence[bool] | None = None
    threads: int | None = None
    report: ProgressCallback = no_progress
    """Called with (done, total) clips of each candidate."""

    def __call__(self, model: onnx.ModelProto) -> Drift:
        """Raises as `clip_outputs` and `edgeasd.calibration.drift.drift.measure_drift` do."""
        found = clip_outputs(
            model, self.precision, self.head, self.clips, self.segments, threads=self.threads, report=self.report
        )
        return measure_drift(self.reference, found, self.score, self.threshold, self.anomalous)

    def evidence(self) -> str:
        """A hash of all that a measurement depends on except the graph: it binds a saved state to this work.

        Clips count by their fp32 outputs, so none is read again.
        """
        labels = [] if self.anomalous is None else [bool(one) for one in self.anomalous]
        facts = (self.precision, self.score.model_dump_json(), self.segments.model_dump_json(), self.threshold, labels)
        digest = hashlib.sha256(repr((facts, onnxruntime.__version__, np.__version__)).encode())
        for clip in self.reference:
            digest.update(np.ascontiguousarray(clip.q).tobytes() + np.ascontiguousarray(clip.d).tobytes())
        return digest.hexdigest()
