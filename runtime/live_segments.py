"""What a stream holds of its sound until a segment is complete: log-mel frames, or the samples themselves.

Log-mel made on the CPU is made once for each frame, so frames are kept. A front end elsewhere gets samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from edgeasd.runtime.frames import normalise
from edgeasd.runtime.logmel import Amplitude, FeatureSettings, Float32Array, LogMelStream
from edgeasd.runtime.segments import Ring, SegmentRing, SegmentSettings


class LiveSegments(Protocol):
    """Samples in, segments of the live rule out. All state of a stream's features is here."""

    @property
    def samples_seen(self) -> int:
        """Samples accepted since the last reset."""
        ...

    def reset(self) -> None:
        """Forget everything; the next sample is sample 0."""
        ...

    def push_checked(self, samples: Float32Array) -> Iterator[tuple[int, Float32Array]]:
        """Accept samples (n,) that `check_samples` has passed; yield (first frame, segment) for each completed one.

        A segment is a view, valid until the next one is asked for.
        """
        ...


class LogMelSegments:
    """Segments (frames, n_mels) float32 of log-mel, each frame computed once."""

    def __init__(self, features: FeatureSettings, amplitude: Amplitude, segments: SegmentSettings) -> None:
        self._features = LogMelStream(features, amplitude)
        self._ring = SegmentRing(segments, features.n_mels)

    @property
    def samples_seen(self) -> int:
        """Samples accepted since the last reset."""
        return self._features.samples_seen

    def reset(self) -> None:
        """Forget everything."""
        self._features.reset()
        self._ring.reset()

    def push_checked(self, samples: Float32Array) -> Iterator[tuple[int, Float32Array]]:
        """As LiveSegments."""
        return self._ring.push(self._features.push_checked(samples))


class SampleSegments:
    """Segments (n,) float32 of normalised samples, n = features.sample_count(segments.frames)."""

    def __init__(self, features: FeatureSettings, amplitude: Amplitude, segments: SegmentSettings) -> None:
        self._amplitude, self._hop = amplitude, features.hop_length
        self._ring = Ring(features.sample_count(segments.frames), segments.hop * features.hop_length, ())
        self.samples_seen = 0
        """Samples accepted since the last reset."""

    def reset(self) -> None:
        """Forget everything."""
        self._ring.reset()
        self.samples_seen = 0

    def push_checked(self, samples: Float32Array) -> Iterator[tuple[int, Float32Array]]:
        """As LiveSegments."""
        self.samples_seen += samples.size
        for first, segment in self._ring.push(normalise(samples, self._amplitude)):
            yield first // self._hop, segment
