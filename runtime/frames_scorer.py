"""A scorer whose front end is a graph: segments are samples until the engine takes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeasd.runtime.engines.base import ChainedEngine
from edgeasd.runtime.frames import frame_samples, frames_of
from edgeasd.runtime.front_end import FrontEndDeviation
from edgeasd.runtime.live_segments import LiveSegments, SampleSegments
from edgeasd.runtime.logmel import Float32Array
from edgeasd.runtime.score import SegmentScores
from edgeasd.runtime.scorer import HeadFunction, Scorer


class FramesScorer(Scorer):
    """As Scorer, but with normalised frames (N, frames, n_fft) float32 where that has log-mel.

    A waiting segment is its samples (n,), once: frames overlap, and are twice as many values.
    """

    engine: ChainedEngine

    def __init__(
        self, engine: ChainedEngine, head: HeadFunction, alike: Scorer, front_end_deviation: FrontEndDeviation
    ) -> None:
        """`alike` is the scorer of `engine.encoder`, with the same features, segments and constants."""
        super().__init__(engine, head, alike.features, alike.amplitude, alike.segments, alike.score)
        self.front_end_deviation = front_end_deviation
        """How far the front end was from the features of the runtime when it was loaded."""

    def live_segments(self) -> LiveSegments:
        """What a stream keeps of its sound, new and empty: samples."""
        return SampleSegments(self.features, self.amplitude, self.segments)

    def rows(self, sound: Float32Array) -> Float32Array:
        """Normalised frames (T, n_fft) float32 of samples (n,) float32, as a view. Raises InputError."""
        return frame_samples(sound, self.features, self.amplitude)

    def score_waiting(self, waiting: Sequence[Float32Array]) -> SegmentScores:
        """Segments of normalised samples (n,) from any streams, in as few batches as the engine allows."""
        samples = waiting[0][None] if len(waiting) == 1 else np.stack(waiting)
        return self.score_segments(frames_of(samples, self.features))
