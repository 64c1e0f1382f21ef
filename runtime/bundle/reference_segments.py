"""The reference segments: proof, at every load, that this engine on this device still computes the model."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass

import numpy as np

from edgeasd.runtime.bundle.manifest import Tolerance
from edgeasd.runtime.errors import BundleError, CheckFailed, EdgeasdError
from edgeasd.runtime.features.logmel import Float32Array
from edgeasd.runtime.scoring.score import ScoreSettings, SegmentScores
from edgeasd.runtime.scoring.scorer import Scorer


@dataclass(frozen=True, slots=True)
class ReferenceSegments:
    """A few real log-mel segments (G, frames, n_mels) with their fp32 outputs: z (G, D), the rest (G,)."""

    logmel: Float32Array
    z: Float32Array
    logit: Float32Array
    q: Float32Array
    d: Float32Array

    def to_bytes(self) -> bytes:
        """As npz without pickled objects; the same arrays give the same bytes."""
        buffer = io.BytesIO()
        # Not np.savez: it stamps the time of day into the zip, and equal exports should be equal bytes.
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in self.__slots__:
                member = io.BytesIO()
                np.lib.format.write_array(member, np.ascontiguousarray(getattr(self, name)), allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), member.getvalue())
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, place: str) -> ReferenceSegments:
        """Read and check shapes; raises BundleError."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                golden = cls(**{name: np.asarray(arrays[name], np.float32) for name in cls.__slots__})
        except Exception as error:
            # Damaged npz makes numpy, zipfile, zlib and tokenize raise; they share no base.
            reason = " ".join(str(error).split())[:200]
            raise BundleError(f"{place}: cannot be read ({reason}); export the bundle again") from None
        count = len(golden.logmel) if golden.logmel.ndim == 3 else 0
        one_each = golden.logit.shape == golden.q.shape == golden.d.shape == (count,)
        if not (count and one_each and golden.z.ndim == 2 and len(golden.z) == count):
            raise BundleError(f"{place}: arrays of unexpected shapes; export the bundle again")
        return golden


@dataclass(frozen=True, slots=True)
class Deviation:
    """Largest deviations from reference outputs, in the units of `Tolerance`."""

    z: float
    """max|Δz| / max|z|"""
    logit: float
    """max |Δℓ| / (1 + |ℓ|)"""
    d: float
    """max |Δd| / (d_max - d_min)"""
    score: float
    """max |Δs|"""

    def beyond(self, tolerance: Tolerance) -> list[str]:
        """One phrase for each figure that is not within tolerance (NaN is not); empty when all are."""
        return [
            f"{name} deviates by {getattr(self, name):.2e} (allowed {getattr(tolerance, name):.0e})"
            for name in self.__slots__
            if not getattr(self, name) <= getattr(tolerance, name)
        ]


def deviation(
    reference_z: Float32Array,
    reference: SegmentScores,
    z: Float32Array,
    scores: SegmentScores,
    settings: ScoreSettings,
) -> Deviation:
    """Compare embeddings (N, D) and scores with their references."""
    z64 = reference_z.astype(np.float64)
    logit64 = reference.logit.astype(np.float64)
    spread = settings.d_max - settings.d_min
    return Deviation(
        z=float(np.max(np.abs(z - z64)) / max(np.max(np.abs(z64)), np.finfo(np.float32).tiny)),
        logit=float(np.max(np.abs(scores.logit - logit64) / (1.0 + np.abs(logit64)))),
        d=float(np.max(np.abs(scores.d.astype(np.float64) - reference.d)) / spread),
        score=float(np.max(np.abs(scores.score - reference.score))),
    )


def reference_deviation(scorer: Scorer, golden: ReferenceSegments) -> Deviation:
    """Run the reference segments through `scorer` and compare."""
    z = scorer.embed(golden.logmel)
    if z.shape != golden.z.shape:
        raise BundleError(
            f"golden.npz: embeddings of shape {golden.z.shape}, the encoder gives {z.shape}; export the bundle again"
        )
    reference = SegmentScores.from_head({"logit": golden.logit, "q": golden.q, "d": golden.d}, scorer.score)
    return deviation(golden.z, reference, z, SegmentScores.from_head(scorer.head(z), scorer.score), scorer.score)


def check_reference_segments(scorer: Scorer, golden: ReferenceSegments, tolerance: Tolerance, place: str) -> Deviation:
    """Raise CheckFailed where `scorer` does not reproduce the golden outputs within `tolerance`."""
    expected = (scorer.segments.frames, scorer.features.n_mels)
    if golden.logmel.shape[1:] != expected:
        raise BundleError(f"{place}: reference segments of shape {golden.logmel.shape[1:]}, expected {expected}")
    try:
        found = reference_deviation(scorer, golden)
    except EdgeasdError:
        raise
    except Exception as error:
        # The engine's own exceptions share no base; what they mean here is a model of another shape.
        reason = " ".join(str(error).split())[:200]
        raise BundleError(f"{place}: its models do not fit its manifest ({reason}); export the bundle again") from None
    problems = found.beyond(tolerance)
    if problems:
        raise CheckFailed(
            f"{place}: reference segments are not reproduced by {scorer.engine.name} at {scorer.engine.precision}: "
            f"{'; '.join(problems)}; use another --engine or --precision, or export the bundle on this version"
        )
    return found
