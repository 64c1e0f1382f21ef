"""What `edgeasd export` says of a bundle it wrote, to people and to programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from edgeasd.toolkit.cli.calibrating import report_path
from edgeasd.toolkit.cli.export_front_end import print_front_end, written_front_end

if TYPE_CHECKING:
    from edgeasd.export.bundle_writer import ExportInput
    from edgeasd.runtime.bundle.manifest import FrontEnd
    from edgeasd.runtime.bundle.reference_segments import Deviation
    from edgeasd.toolkit.calibrate.record import Calibration

_FIGURES = (
    ("z", "max|Δz| / max|z|"),
    ("logit", "|Δℓ| / (1 + |ℓ|)"),
    ("d", "|Δd| / (d_max - d_min)"),
    ("score", "|Δs|"),
)


def print_export(
    model: ExportInput, found: dict[str, Deviation], added: Calibration | None, paths: list[Path], as_json: bool
) -> None:
    """The bundle `paths[0]`: how far ONNX is from torch, what was added, the constants; further paths at the end."""
    front_end = written_front_end(paths[0])
    if as_json:
        print(json.dumps(_facts(model, found, added, paths[0], front_end)))
        return
    print(f"{paths[0]}: {model.machine} ID {model.id}, {model.backbone}, {', '.join(found)}, {model.fit.status}")
    _print_deviations(model, found)
    print_front_end(front_end)
    _print_calibration(added)
    _print_constants(model)
    for path in [*paths[1:], *([report_path(paths[0])] if added is not None else [])]:
        print(f"  {path}")


def _facts(
    model: ExportInput,
    found: dict[str, Deviation],
    added: Calibration | None,
    bundle: Path,
    front_end: FrontEnd | None,
) -> dict[str, object]:
    from dataclasses import asdict

    from edgeasd.toolkit.calibrate.record import summary

    return {
        "bundle": str(bundle),
        "machine": model.machine,
        "id": model.id,
        "status": model.fit.status,
        "segments_compared": len(model.real_segments),
        "deviation": asdict(found["fp32"]),
        "deviation_of": {name: asdict(deviation) for name, deviation in found.items() if name != "fp32"},
        **({} if added is None else {"calibration": summary(added)}),
        **({} if front_end is None else {"front_end": front_end.model_dump()}),
    }


def _print_deviations(model: ExportInput, found: dict[str, Deviation]) -> None:
    from edgeasd.export.fp16 import FP16_LIMITS
    from edgeasd.export.parity import EXPORT_LIMITS

    print(f"  ONNX against torch on {len(model.real_segments)} real segments, largest deviation (limit):")
    for name, meaning in _FIGURES:
        columns = [f"{getattr(found['fp32'], name):.1e} ({getattr(EXPORT_LIMITS, name):.0e})"]
        if "fp16" in found:
            columns.append(f"fp16 {getattr(found['fp16'], name):.1e} ({getattr(FP16_LIMITS, name):.0e})")
        print(f"    {meaning:<24} {', '.join(columns)}")


def _print_calibration(added: Calibration | None) -> None:
    from edgeasd.toolkit.cli.calibrate_table import print_variant

    for variant in added.variants if added is not None else ():
        print_variant(variant)


def _print_constants(model: ExportInput) -> None:
    score, threshold = model.fit.score, model.fit.threshold
    print(f"  α {score.alpha} ({score.alpha_source}); d_min {score.d_min:.4g} ({score.d_min_source});")
    print(f"  d_max {score.d_max:.4g} ({score.d_max_source})")
    if threshold is None:
        print("  uncalibrated: nothing was held out, so no alarms; export again with --clips FOLDER of normal clips")
        return
    print(f"  threshold {threshold.clip:.4f} ({threshold.found_by}, {threshold.clips} clips)")
    if threshold.warning:
        print(f"  warning: {threshold.warning}")
