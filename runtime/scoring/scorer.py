"""Scores batches of segments with an engine, a head and the constants of a manifest. Holds no stream state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeasd.runtime.engines.base import Engine, EngineWithFrontEnd
from edgeasd.runtime.engines.onnxruntime import make_session
from edgeasd.runtime.errors import CheckFailed
from edgeasd.runtime.features.framing import frame_samples, frames_of
from edgeasd.runtime.features.logmel import Amplitude, FeatureSettings, Float32Array, logmel
from edgeasd.runtime.features.segments import LogMelSegmenter, SampleSegmenter, Segmenter, SegmentSettings
from edgeasd.runtime.scoring.score import ScoreSettings, SegmentScores

HEAD_OUTPUTS = ("logit", "q", "p", "d", "d_prime")
_SCORE_OUTPUTS = ("logit", "q", "d")


@dataclass(frozen=True, slots=True)
class FrontEndDeviation:
    """How far a front end deviates from the runtime's features on the self-test sound."""

    logmel: float
    """Largest |Δ log10|."""
    z: float | None = None
    """max|Δz| / max|z| of the embeddings of both; None without an encoder."""


class Head:
    """head.onnx: embeddings (N, D) to logit, q, p, d and the factory d′, each (N,) float32. On the CPU."""

    def __init__(self, model: Path | bytes) -> None:
        # One thread: a dot product of a few hundred numbers ends before a second thread wakes.
        self._session: Any = make_session(model, threads=1, optimisation="all")
        self._input = self._session.get_inputs()[0].name

    def __call__(self, z: Float32Array) -> dict[str, Float32Array]:
        """All outputs by name."""
        return self._run(HEAD_OUTPUTS, z)

    def score_outputs(self, z: Float32Array) -> dict[str, Float32Array]:
        """Only logit, q and d, which a score needs: every fetched output costs time."""
        return self._run(_SCORE_OUTPUTS, z)

    def _run(self, names: tuple[str, ...], z: Float32Array) -> dict[str, Float32Array]:
        return dict(zip(names, self._session.run(names, {self._input: z}), strict=True))


HeadFunction = Callable[[Float32Array], Mapping[str, Float32Array]]
"""Embeddings (N, D) to at least logit, q and d, each (N,) float32."""


class Scorer:
    """Scores batches of segments. Holds no stream state; any number of streams may share one."""

    def __init__(
        self,
        engine: Engine,
        head: HeadFunction,
        features: FeatureSettings,
        amplitude: Amplitude,
        segments: SegmentSettings,
        score: ScoreSettings,
    ) -> None:
        self.engine = engine
        self.head = head
        self.features = features
        self.amplitude = amplitude
        self.segments = segments
        self.score = score

    def make_segmenter(self) -> Segmenter:
        """A new segmenter, which holds the features of one stream."""
        return LogMelSegmenter(self.features, self.amplitude, self.segments)

    def extract_features(self, sound: Float32Array) -> Float32Array:
        """Log-mel frames (T, n_mels) float32 of samples (n,) float32, from which segments are cut. Raises InputError."""
        return logmel(sound, self.features, self.amplitude)

    def embed(self, segments: Float32Array) -> Float32Array:
        """Log-mel segments (N, frames, n_mels) float32 to embeddings (N, D), in batches the engine takes."""
        limit = self.engine.max_batch
        batches = segments[:, None]
        if len(segments) <= limit:
            return self.engine.embed(batches)
        return np.concatenate([self.engine.embed(batches[i : i + limit]) for i in range(0, len(segments), limit)])

    def score_segments(self, segments: Float32Array) -> SegmentScores:
        """Log-mel segments (N, frames, n_mels) float32, N >= 1, to their scores."""
        return self.score_embeddings(self.embed(segments))

    def score_embeddings(self, z: Float32Array) -> SegmentScores:
        """Embeddings (N, D) float32, N >= 1, to the scores of their segments."""
        head = self.head.score_outputs if isinstance(self.head, Head) else self.head
        scores = SegmentScores.from_head(head(z), self.score)
        if not np.isfinite(scores.score).all():
            # NaN is above no threshold: passed on, it would silence the alarm for good.
            raise CheckFailed(
                f"{self.engine.name}: gave a score that is not a number; check device and bundle with `edgeasd verify`"
            )
        return scores

    def embed_waiting(self, waiting: Sequence[Float32Array]) -> Float32Array:
        """Segments (frames, n_mels) from any streams to embeddings (N, D), in as few batches as the engine allows."""
        # The usual live case, one segment, needs no copy.
        return self.embed(waiting[0][None] if len(waiting) == 1 else np.stack(waiting))

    def score_waiting(self, waiting: Sequence[Float32Array]) -> SegmentScores:
        """Segments as `embed_waiting` takes them, to their scores."""
        return self.score_embeddings(self.embed_waiting(waiting))

    def close(self) -> None:
        """Free the engine and the head."""
        self.engine.close()
        close = getattr(self.head, "close", None)
        if close is not None:
            close()


class GraphFrontEndScorer(Scorer):
    """As Scorer, with normalised frames (N, frames, n_fft) float32 in place of log-mel: the engine computes that.

    A waiting segment is its samples (n,): as overlapping frames it would take twice the memory.
    """

    engine: EngineWithFrontEnd

    def __init__(
        self, engine: EngineWithFrontEnd, head: HeadFunction, base: Scorer, front_end_deviation: FrontEndDeviation
    ) -> None:
        """`base` is the scorer of `engine.encoder`, with the same features, segments and constants."""
        super().__init__(engine, head, base.features, base.amplitude, base.segments, base.score)
        self.front_end_deviation = front_end_deviation
        """Measured when the front end was loaded."""

    def make_segmenter(self) -> Segmenter:
        """A new segmenter, which holds samples."""
        return SampleSegmenter(self.features, self.amplitude, self.segments)

    def extract_features(self, sound: Float32Array) -> Float32Array:
        """Normalised frames (T, n_fft) float32 of samples (n,) float32, as a view. Raises InputError."""
        return frame_samples(sound, self.features, self.amplitude)

    def embed_waiting(self, waiting: Sequence[Float32Array]) -> Float32Array:
        """Segments of normalised samples (n,) to embeddings (N, D), in as few batches as the engine allows."""
        samples = waiting[0][None] if len(waiting) == 1 else np.stack(waiting)
        return self.embed(frames_of(samples, self.features))
