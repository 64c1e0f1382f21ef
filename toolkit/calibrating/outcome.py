"""What a calibration found and did; the record, the report and the printed lines are made from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from edgeasd.calibration.clip_roles import ClipRoles
from edgeasd.runtime.health.settings import LevelRange
from edgeasd.runtime.manifest import Manifest
from edgeasd.runtime.score import ScoreSettings
from edgeasd.toolkit.calibrating.material import Material
from edgeasd.toolkit.calibrating.request import Request
from edgeasd.toolkit.calibrating.thresholds import FoundThreshold
from edgeasd.toolkit.calibrating.variants import VariantResult


@dataclass(frozen=True)
class Calibration:
    """One calibration of one bundle."""

    bundle: Path
    manifest: Manifest
    """After it."""
    written: bool
    """False where there was nothing to put into the bundle."""
    request: Request
    normals: Material
    roles: ClipRoles | None
    """None where no variant was asked for."""
    anomalies: Material | None
    normal_scores: list[float]
    """fp32 clip scores, in the order of `normals.clips`."""
    anomaly_scores: list[float]
    score: ScoreSettings
    threshold: FoundThreshold
    variants: list[VariantResult]
    level: LevelRange | None
    """At which the machine is expected to be heard, measured on `normals`; None where the old one stays."""
    range_segments: int
    """Segments that gave ranges: as many as were asked for, or all there are."""
    warnings: list[str] = field(default_factory=list)

    @property
    def failed(self) -> list[VariantResult]:
        """Variants that were asked for and did not pass."""
        return [one for one in self.variants if not one.passed]
