"""What `edgeasd calibrate` prints for people."""

from __future__ import annotations

from pathlib import Path

from edgeasd.calibration.drift.drift import Drift
from edgeasd.toolkit.calibrate.record import Calibration
from edgeasd.toolkit.calibrate.thresholds import KEPT
from edgeasd.toolkit.calibrate.variants import VariantResult


def print_calibration(found: Calibration, report: Path) -> None:
    """The bundle, a line or two for each variant, the constants and the threshold, the report."""
    machine = found.manifest.machine
    print(f"{found.bundle}: {machine.type} ID {machine.id}, {_clips(found)}")
    for one in found.variants:
        print_variant(one)
    score, request = found.score, found.request
    if request.refit_distance or request.refit_amplitude:
        print(f"  d_min {score.d_min:.4g} ({score.d_min_source}); d_max {score.d_max:.4g} ({score.d_max_source})")
    if request.refit_amplitude:
        print(f"  amplitude: std {found.normals.amplitude.std:.4g} ({len(found.normals.clips)} given clips)")
    _print_threshold(found)
    if found.level is not None:
        print(f"  level: {found.level.low_dbfs:g} to {found.level.high_dbfs:g} dBFS expected ({found.level.found_by})")
    if not found.written:
        print("  nothing to change: the bundle is as it was")
    print(f"  report: {report}")


def _clips(found: Calibration) -> str:
    parts = [f"{len(found.normals.clips)} normal clips"]
    if found.split is not None:
        parts[0] += f" ({len(found.split.ranges)} for ranges, {len(found.split.drift)} for drift)"
    if found.anomalies is not None:
        parts.append(f"{len(found.anomalies.clips)} anomalies")
    return ", ".join(parts)


def print_variant(one: VariantResult) -> None:
    """What became of one precision: verdict, cost, drift, layers put back, reasons."""
    gate, cost = one.gate, one.cost
    name = one.name if gate.method is None else f"{one.name} ({gate.method} ranges)"
    verdict = "in the bundle" if one.passed else "NOT in the bundle"
    print(f"  {name:<26} {verdict}, {one.size / 1e6:.2f} MB, {cost.seconds:.0f} s, peak {cost.peak_bytes / 1e6:.0f} MB")
    if gate.drift is not None:
        print(f"    {', '.join(_figures(gate.drift))}")
    for layer in gate.fp16_layers:
        print(f"    in higher precision: {layer.reason}")
    for reason in one.reasons:
        print(f"    {reason}")


def _figures(drift: Drift) -> list[str]:
    figures = [f"rank correlation {drift.rank_clips:.5f}", f"largest score change {drift.largest:.2g}"]
    if drift.flipped_normals is not None:
        figures.append(f"{drift.flipped_normals} of {drift.normals} normal clips change sides")
    if drift.auc is not None:
        figures.append(f"AUC {100 * drift.auc.reference:.1f} % → {100 * drift.auc.variant:.1f} %")
    return figures


def _print_threshold(found: Calibration) -> None:
    threshold = found.threshold.threshold
    kept = "kept: " if found.threshold.method == KEPT else ""
    print(
        f"  threshold {threshold.clip:.4f}{threshold.describe_interval()}, "
        f"{kept}{threshold.found_by}, {threshold.clips} clips"
    )
    if threshold.promise is not None:
        print(f"    {threshold.promise.describe()}")
    print(f"    {found.threshold.above} of the {found.threshold.clips} given normal clips lie above it")
