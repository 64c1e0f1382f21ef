"""What came of the drift gate for one precision."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import onnx

from edgeasd.calibration.drift import Drift
from edgeasd.calibration.drift_limits import DriftLimits


@dataclass(frozen=True)
class KeptLayer:
    """A layer that was put back to higher precision, and why."""

    name: str
    decibels: float
    """Signal-to-noise ratio of the embedding with this layer alone in eight bits; the lower the more harmful."""
    rms_before: float
    """Of the score change of normal clips, in units of s, before it was put back."""
    rms_after: float
    used_before: float
    """The largest part that was used of any limit of drift before it was put back; the gate holds up to 1."""
    used_after: float

    @property
    def reason(self) -> str:
        """One readable line."""
        return (
            f"{self.name}: alone in eight bits it leaves the embedding {self.decibels:.1f} dB above its noise; "
            f"with it put back, the worst figure uses {self.used_after:.0%} of its limit (before {self.used_before:.0%}) "
            f"and scores change by {self.rms_after:.3g} rms (before {self.rms_before:.3g})"
        )

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return {**asdict(self), "reason": self.reason}


@dataclass(frozen=True)
class GateResult:
    """The best graph that was found, with everything that was measured on the way."""

    kind: str
    """ "fp16", "int8" or "int8-cpu"."""
    limits: DriftLimits
    model: onnx.ModelProto | None
    """None where no graph could be built or measured. Of a gate that did not hold: for study, not for a bundle."""
    method: str | None
    """Of the ranges; None for fp16, or where there is no graph."""
    drift: Drift | None
    """Of `model`."""
    by_method: dict[str, Drift]
    """Of each range method, with no layer kept."""
    refused: dict[str, str]
    """Methods whose graph could not be built or gave no numbers, and why."""
    kept: tuple[KeptLayer, ...]
    """In the order in which they were put back, the most harmful first."""
    sensitivity: dict[str, float]
    """dB of every layer alone in eight bits; empty where no layer had to be put back."""
    noise: dict[str, float]
    """dB of every convolution and of z in `model`, in the order in which they run."""
    trials: int
    """Layers that were tried."""
    reasons: tuple[str, ...]
    """Why the gate does not hold; empty where it does."""

    @property
    def passed(self) -> bool:
        """Whether `model` may go into a bundle."""
        return self.model is not None and not self.reasons

    def to_json(self) -> dict[str, Any]:
        """All of it but the graph, as a plain dictionary."""
        return {
            "precision": self.kind,
            "passed": self.passed,
            "reasons": list(self.reasons),
            "limits": self.limits.to_json(),
            "method": self.method,
            "drift": None if self.drift is None else self.drift.to_json(),
            "by_method": {name: drift.to_json() for name, drift in self.by_method.items()},
            "refused": self.refused,
            "kept": [layer.to_json() for layer in self.kept],
            "sensitivity": self.sensitivity,
            "noise": self.noise,
            "trials": self.trials,
        }
