"""The self-test of a front end: is the log-mel of a graph still that of the runtime?

The front end "cpu" is `edgeasd.runtime.features.logmel`. "graph" is frontend.onnx of the bundle, run before the encoder
on its accelerator. The reference segments are log-mel already, so a graph is verified at every load on noise that
fills every band.
"""

from __future__ import annotations

import numpy as np

from edgeasd.runtime.bundle.manifest import FrontEnd, Manifest, Tolerance
from edgeasd.runtime.engines.base import EngineWithFrontEnd
from edgeasd.runtime.errors import BundleError, CheckFailed, EdgeasdError, printable
from edgeasd.runtime.features.framing import frame_samples
from edgeasd.runtime.features.logmel import Amplitude, FeatureSettings, Float32Array, logmel
from edgeasd.runtime.scoring.scorer import FrontEndDeviation

FRONT_ENDS = ("cpu", "graph")
"""Front ends: where log-mel is computed."""

_LEAST = 1e-5
"""float32 deviates by about 1e-6 on this noise; another processor sums in another order."""
_MOST = 1e-4
"""The limit even if clips with empty bands deviated more at export: noise has none. TF32 deviates more."""


def logmel_limit(stated: FrontEnd) -> float:
    """Largest |Δ log10| allowed on `self_test_sound`: what the manifest states, but at least 1e-5 and at most 1e-4."""
    return min(max(stated.logmel, _LEAST), _MOST)


def self_test_sound(features: FeatureSettings, amplitude: Amplitude, frames: int) -> Float32Array:
    """Noise (n,) float32 of `frames` frames, with the mean and spread of the machine's sound; always the same."""
    noise = np.random.default_rng(0).standard_normal(features.sample_count(frames))
    return (amplitude.mean + amplitude.std * noise).astype(np.float32)


def self_test_pair(manifest: Manifest) -> tuple[Float32Array, Float32Array]:
    """One segment of `self_test_sound`: frames (1, frames, n_fft), and log-mel (1, 1, frames, n_mels) of the runtime."""
    features, amplitude = manifest.features, manifest.amplitude
    sound = self_test_sound(features, amplitude, manifest.segments.frames)
    return frame_samples(sound, features, amplitude)[None], logmel(sound, features, amplitude)[None, None]


def compare_logmel(made: Float32Array, expected: Float32Array, place: str, decade: float = 1.0) -> float:
    """Largest |Δ log10| of the mel magnitudes of two log-mel segments; `decade` is that of their `FeatureSettings`.

    Raises BundleError if the shapes differ.
    """
    if made.shape != expected.shape:
        raise BundleError(
            f"{place}: its front end gives log-mel of shape {made.shape}, its encoder takes {expected.shape}; "
            "export the bundle again"
        )
    return float(np.max(np.abs(made - expected))) / decade


def check_front_end(
    engine: EngineWithFrontEnd, manifest: Manifest, tolerance: Tolerance, place: str
) -> FrontEndDeviation:
    """Verify the front end of `engine` on one segment of noise. Raises CheckFailed if it deviates too far.

    Its log-mel must be within `logmel_limit` of the runtime's, and the embedding of front end and encoder within
    `tolerance` of the encoder's. Raises BundleError if front end and manifest do not fit.
    """
    assert manifest.front_end is not None
    frames, expected = self_test_pair(manifest)
    try:
        furthest = compare_logmel(engine.logmel(frames), expected, place, manifest.features.decade)
        wanted, made = engine.encoder.embed(expected), engine.embed(frames[:, None])
    except EdgeasdError:
        raise
    except Exception as error:
        # The exceptions of engines share no base class; here they mean a graph of another shape.
        raise BundleError(
            f"{place}: its front end does not fit its manifest ({printable(error, 200)}); export the bundle again"
        ) from None
    largest = max(float(np.max(np.abs(wanted))), float(np.finfo(np.float32).tiny))
    found = FrontEndDeviation(furthest, float(np.max(np.abs(made - wanted))) / largest)
    problems = beyond(found, logmel_limit(manifest.front_end), tolerance.z)
    if problems:
        raise CheckFailed(
            f"{place}: the front end of {engine.name} is not that of the runtime: {'; '.join(problems)}; "
            "use --front-end cpu, or export the bundle on this version"
        )
    return found


def beyond(found: FrontEndDeviation, limit: float, tolerance: float = 0.0) -> list[str]:
    """One phrase for each figure beyond its limit (NaN is beyond); empty if there is none."""
    problems = []
    if not found.logmel <= limit:
        problems.append(f"log-mel deviates by {found.logmel:.2e} (allowed {limit:.0e})")
    if found.z is not None and not found.z <= tolerance:
        problems.append(f"z deviates by {found.z:.2e} (allowed {tolerance:.0e})")
    return problems
