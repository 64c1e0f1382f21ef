"""The reference segments: run at every load, they verify that the engine on this device computes the model."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass

import numpy as np

from edgeasd.runtime.bundle.manifest import Tolerance
from edgeasd.runtime.errors import BundleError, CheckFailed, EdgeasdError, printable
from edgeasd.runtime.features.logmel import Float32Array
from edgeasd.runtime.scoring.score import ScoreSettings, SegmentScores
from edgeasd.runtime.scoring.scorer import Scorer

MOST = 256
"""Reference segments of a bundle; export writes a few."""
LARGEST = 256 << 20
"""Bytes of the arrays where no manifest says less."""
_OUTPUTS_BYTES = 64 << 10
"""Outputs of one segment: more than the largest embedding."""


def largest_size(frames: int, mels: int) -> int:
    """Bytes that the reference segments of a manifest can take at most."""
    return min(LARGEST, MOST * (4 * frames * mels + _OUTPUTS_BYTES))


@dataclass(frozen=True, slots=True)
class ReferenceSegments:
    """A few real log-mel segments (G, frames, n_mels) with their fp32 outputs: z (G, D), the rest (G,)."""

    logmel: Float32Array
    z: Float32Array
    logit: Float32Array
    q: Float32Array
    d: Float32Array

    def to_bytes(self) -> bytes:
        """The npz file, without pickled objects; the same arrays give the same bytes."""
        buffer = io.BytesIO()
        # Not np.savez: it writes the time of day into the zip, and equal exports must give equal bytes.
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in self.__slots__:
                member = io.BytesIO()
                np.lib.format.write_array(member, np.ascontiguousarray(getattr(self, name)), allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), member.getvalue())
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, place: str, largest: int = LARGEST) -> ReferenceSegments:
        """Read and check shapes; raises BundleError, also if it would unpack to more than `largest` bytes."""
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                # What a member says of its size is all that is ever read of it.
                size = sum(member.file_size for member in archive.infolist())
            if size > largest:
                raise BundleError(f"{place}: unpacks to {size} bytes, at most {largest} fit its manifest")
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                reference = cls(**{name: np.asarray(arrays[name], np.float32) for name in cls.__slots__})
        except BundleError:
            raise
        except Exception as error:
            # Damaged npz makes numpy, zipfile, zlib and tokenize raise; they share no base class.
            raise BundleError(f"{place}: cannot be read ({printable(error, 200)}); export the bundle again") from None
        count = len(reference.logmel) if reference.logmel.ndim == 3 else 0
        one_each = reference.logit.shape == reference.q.shape == reference.d.shape == (count,)
        if not (count and one_each and reference.z.ndim == 2 and len(reference.z) == count):
            raise BundleError(f"{place}: arrays of unexpected shapes; export the bundle again")
        return reference


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
        """One phrase for each figure beyond its tolerance (NaN is beyond); empty if there is none."""
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


def reference_deviation(scorer: Scorer, reference: ReferenceSegments) -> Deviation:
    """Run the reference segments through `scorer` and compare."""
    z = scorer.embed(reference.logmel)
    if z.shape != reference.z.shape:
        raise BundleError(
            f"golden.npz: embeddings of shape {reference.z.shape}, the encoder gives {z.shape}; export the bundle again"
        )
    expected = SegmentScores.from_head({"logit": reference.logit, "q": reference.q, "d": reference.d}, scorer.score)
    return deviation(reference.z, expected, z, SegmentScores.from_head(scorer.head(z), scorer.score), scorer.score)


def check_reference_segments(
    scorer: Scorer, reference: ReferenceSegments, tolerance: Tolerance, place: str
) -> Deviation:
    """Run the reference segments through `scorer`. Raises CheckFailed if an output is beyond `tolerance`."""
    expected = (scorer.segments.frames, scorer.features.n_mels)
    if reference.logmel.shape[1:] != expected:
        raise BundleError(f"{place}: reference segments of shape {reference.logmel.shape[1:]}, expected {expected}")
    try:
        found = reference_deviation(scorer, reference)
    except EdgeasdError:
        raise
    except Exception as error:
        # The exceptions of engines share no base class; here they mean a model of another shape.
        what = "its models do not fit its manifest"
        raise BundleError(f"{place}: {what} ({printable(error, 200)}); export the bundle again") from None
    problems = found.beyond(tolerance)
    if problems:
        raise CheckFailed(
            f"{place}: reference segments are not reproduced by {scorer.engine.name} at {scorer.engine.precision}: "
            f"{'; '.join(problems)}; use another --engine or --precision, or export the bundle on this version"
        )
    return found
