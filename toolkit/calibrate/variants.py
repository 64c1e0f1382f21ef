"""The precision variants: ranges once for all, a gate for each, and what goes into the bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx

from edgeasd.calibration.drift.candidate import DriftMeasure
from edgeasd.calibration.drift.gate import GateResult, pass_gate
from edgeasd.calibration.fit.amplitude import golden_under
from edgeasd.calibration.fit.clips import ClipSplit, SegmentView, choose_segments
from edgeasd.calibration.fit.deploy import SegmentOutputs
from edgeasd.calibration.quantization.layer_noise import candidate_engine
from edgeasd.calibration.quantization.ranges import PERCENTILE, Collected, ProgressCallback, collect, no_progress
from edgeasd.export.bundle_update import MadeVariant, tolerance_of
from edgeasd.export.fp16 import FP16_LIMITS
from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.bundle.reference_segments import Deviation, reference_deviation
from edgeasd.runtime.features.logmel import Float32Array
from edgeasd.runtime.scoring.scorer import Scorer
from edgeasd.toolkit.calibrate.clips import CalibrationClip, ClipSet
from edgeasd.toolkit.calibrate.request import Request
from edgeasd.toolkit.calibrate.work import Cost, Work, measured

COMPARED_SEGMENTS = 8
"""Segments on which layers are compared one by one."""


@dataclass(frozen=True)
class VariantResult:
    """The result of one precision."""

    gate: GateResult
    made: MadeVariant | None
    """None if it does not go into the bundle."""
    reasons: tuple[str, ...]
    """Why not; empty if it does."""
    size: int
    """Of its file in bytes; 0 without one."""
    cost: Cost

    @property
    def name(self) -> str:
        """fp16, int8 or int8-cpu."""
        return self.gate.kind

    @property
    def passed(self) -> bool:
        """Whether it goes into the bundle."""
        return self.made is not None


@dataclass(frozen=True)
class _CachedRanges(Collected):
    """Ranges by entropy take seconds; both kinds of INT8 ask for the same ones."""

    cache: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)

    def ranges(
        self, method: str, percentile: float = PERCENTILE, report: ProgressCallback = no_progress
    ) -> dict[str, tuple[float, float]]:
        key = f"{method} {percentile}"
        if key not in self.cache:
            self.cache[key] = super().ranges(method, percentile, report)
        return self.cache[key]


@dataclass(frozen=True)
class ClipView:
    """Clips as edgeasd.calibration reads them: features opened one clip at a time, (T, n_mels) float32 each."""

    clips: Sequence[tuple[ClipSet, CalibrationClip]]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int, /) -> Float32Array:
        clip_set, clip = self.clips[index]
        return clip_set.features(clip)


@dataclass(frozen=True)
class VariantMaker:
    """Makes variants of the fp32 encoder of `bundle`; `scorer` is fp32 under the new amplitude and constants."""

    bundle: Bundle
    scorer: Scorer
    threshold: float
    request: Request
    state: Path
    work: Work

    def make(
        self,
        normals: ClipSet,
        split: ClipSplit,
        fp32_outputs: Sequence[SegmentOutputs],
        anomalies: ClipSet | None,
        fault_outputs: Sequence[SegmentOutputs],
    ) -> tuple[list[VariantResult], int]:
        """All precisions of the request, and how many segments gave ranges. `fp32_outputs` and `fault_outputs` are what fp32 says of all clips, in their order.

        Ranges and drift are of different clips. Raises InputError or CheckFailed if ranges cannot be collected.
        """
        encoder = onnx.load(self.bundle.file(self.bundle.manifest.precisions["fp32"].file))
        faults = [(anomalies, clip) for clip in anomalies.clips] if anomalies is not None else []
        drift_clips = ClipView([*((normals, normals.clips[i]) for i in split.drift), *faults])
        measure = DriftMeasure(
            precision="fp32",
            reference=[*(fp32_outputs[i] for i in split.drift), *fault_outputs],
            head=self.scorer.head,
            clips=drift_clips,
            segments=self.scorer.segments,
            score=self.scorer.score,
            threshold=self.threshold,
            anomalous=[*(False for _ in split.drift), *(True for _ in faults)],
        )
        compared = self._segments(drift_clips, COMPARED_SEGMENTS)[:]
        collected = None
        if set(self.request.precisions) - {"fp16"}:
            collected = self._collect(encoder, ClipView([(normals, normals.clips[i]) for i in split.ranges]))
        made = [self._one(kind, encoder, collected, measure, compared) for kind in self.request.precisions]
        return made, 0 if collected is None else collected.segments

    def _segments(self, clips: ClipView, count: int) -> SegmentView:
        settings = self.scorer.segments
        return SegmentView(clips, choose_segments(clips, count, settings), settings.frames)

    def _collect(self, encoder: onnx.ModelProto, clips: ClipView) -> Collected:
        chosen = self._segments(clips, self.request.segments)
        self.work.step(f"ranges from {len(chosen)} segments of {len(clips)} clips")
        with self.work.part("ranges") as report:
            found = collect(encoder, chosen, state=self.state / "ranges.npz", report=report)
        return _CachedRanges(found.segments, found.tensors, found.lowest, found.highest, found.histograms)

    def _one(
        self,
        kind: str,
        encoder: onnx.ModelProto,
        collected: Collected | None,
        measure: DriftMeasure,
        compared: Float32Array,
    ) -> VariantResult:
        self.work.step(f"{kind}: drift on {len(measure.reference)} clips")
        with measured() as cost, self.work.part(kind) as report:
            of_kind = replace(measure, precision=kind, report=self.work.beat)
            gate = pass_gate(
                encoder,
                None if kind == "fp16" else collected,
                kind,
                of_kind,
                self.request.limits_of(kind),
                segments=compared,
                evidence=of_kind.evidence(),
                methods=self.request.methods,
                budget=self.request.budget,
                state=self.state / f"gate-{kind}.json",
                report=report,
            )
            size = 0 if gate.model is None else gate.model.ByteSize()
            deviation = None if gate.model is None else self._deviation(gate.model, kind)
        reasons = gate.reasons
        if kind == "fp16" and deviation is not None:
            reasons = (*reasons, *(f"reference segments: {one}" for one in deviation.beyond(FP16_LIMITS)))
        made = None
        if gate.model is not None and deviation is not None and not reasons:
            made = MadeVariant(kind, gate.model, tolerance_of(kind, deviation), manifest_facts(gate))
        return VariantResult(gate, made, reasons, size, cost)

    def _deviation(self, model: onnx.ModelProto, kind: str) -> Deviation:
        """Of the reference segments, under the amplitude and in the units that the bundle will have."""
        fp32 = self.scorer
        golden = golden_under(self.bundle, fp32.amplitude)
        engine = candidate_engine(model, kind)
        try:
            tried = Scorer(engine, fp32.head, fp32.features, fp32.amplitude, fp32.segments, fp32.score)
            return reference_deviation(tried, golden)
        finally:
            engine.close()


def manifest_facts(gate: GateResult) -> dict[str, Any]:
    """What a device's owner may ask of a precision: how far it is from fp32, and what was done to keep it near."""
    assert gate.drift is not None
    drift = gate.drift
    figures: dict[str, Any] = {
        "clips": len(drift.pairs),
        "rank_correlation": drift.rank_clips,
        "largest_score_change": drift.largest,
        "p99_score_change": drift.p99,
        "flipped_normals": drift.flipped_normals,
    }
    if drift.auc is not None:
        figures["auc_change"] = {"change": drift.auc.difference, "interval95": [drift.auc.low, drift.auc.high]}
    facts: dict[str, Any] = {"drift": figures}
    if gate.method is not None:
        facts |= {"range_method": gate.method, "kept_layers": [layer.name for layer in gate.fp16_layers]}
    return facts
