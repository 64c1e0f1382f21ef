"""One live sound: samples in, scores out. All stream state is here; the model has none.

    stream = Stream(scorer)
    for block in source:
        for score in stream.push(block):
            ...

Several streams that share an encoder are scored together, each by its own head: `accept` samples into each, then
`score_streams` runs everything that waits in common batches.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeasd.runtime.engines.pool import engine_group
from edgeasd.runtime.errors import EdgeasdError, InputError
from edgeasd.runtime.features.logmel import Float32Array, check_samples
from edgeasd.runtime.scoring.score import ClipMean, Score, SegmentScores, blend, relative_distance
from edgeasd.runtime.scoring.scorer import Scorer

FAR_OUTSIDE = 64.0
"""Float recordings may peak above 1, by a few dB; integers that were only converted lie beyond this (+36 dB)."""


class Stream:
    """Features, segments and the clip mean of one sound (live rule)."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self._segments = scorer.make_segmenter()
        self._mean = ClipMean(scorer.segments.sections)
        self._waiting: list[tuple[int, Float32Array]] = []
        self.decimation = 1
        """Only every so many-th segment is scored, on a device that cannot keep up; 1: all of them."""
        self.distances: tuple[float, float] | None = None
        """d_min and d_max of the present mode of the machine; None: those of the scorer."""
        self.skipped = 0
        """Segments left out by `decimation`, since the stream was made."""
        # As many samples as complete about one batch, so that a long push takes bounded memory.
        self._slice = max(1, scorer.engine.max_batch * scorer.segments.hop * scorer.features.hop_length)

    @property
    def samples_seen(self) -> int:
        """Samples accepted since the last reset."""
        return self._segments.samples_seen

    @property
    def waiting(self) -> int:
        """Segments accepted and not yet scored."""
        return len(self._waiting)

    def reset(self) -> None:
        """Forget everything, segments that wait included; the next sample is sample 0."""
        self._segments.reset()
        self._mean.reset()
        self._waiting.clear()

    def push(self, samples: Float32Array) -> list[Score]:
        """Accept samples (n,) float32, any n >= 0, and return a Score for each segment they complete.

        The same samples give the same scores however they are cut. Raises InputError, before
        anything is accepted, for another dtype or shape, for NaN or infinities, and for samples so far outside
        [-1, 1) that they must be of another scale.
        """
        check_samples(samples, self.samples_seen, self.scorer.features.sample_rate)
        if samples.size and float(largest := np.max(np.abs(samples))) > FAR_OUTSIDE:
            raise InputError(
                f"samples: up to {largest:g}, expected [-1, 1); divide 16-bit samples by 32768 before they are pushed"
            )
        scores: list[Score] = []
        for start in range(0, samples.size, self._slice):
            self.accept_checked(samples[start : start + self._slice])
            scores += score_streams([self])[0]
        return scores

    def accept(self, samples: Float32Array) -> int:
        """Accept samples without scoring; returns the number of segments that wait.

        A waiting segment holds 4 * frames * n_mels bytes until `score_streams` is called, four times that as samples.
        Raises InputError, and accepts nothing, for another dtype or shape and for NaN or infinities.
        """
        return self.accept_checked(check_samples(samples, self.samples_seen, self.scorer.features.sample_rate))

    def accept_checked(self, samples: Float32Array) -> int:
        """`accept` without its check, for samples that `check_samples` has passed."""
        hop = self.scorer.segments.hop
        for first, segment in self._segments.push_checked(samples):
            if (first // hop) % self.decimation:
                self.skipped += 1
            else:
                self._waiting.append((first, segment.copy()))
        return len(self._waiting)

    def continue_with(self, scorer: Scorer) -> bool:
        """Replace the model between two segments; frames are kept, the clip mean begins again.

        False, and nothing changes, if its features or segments differ, or if segments wait for the old one.
        """
        old = self.scorer
        same = (old.features, old.amplitude, old.segments) == (scorer.features, scorer.amplitude, scorer.segments)
        # One kind of scorer holds frames, the other samples.
        if not same or type(old) is not type(scorer) or self._waiting:
            return False
        self.scorer = scorer
        self._mean.reset()
        return True

    def take_waiting(self) -> list[tuple[int, Float32Array]]:
        """Hand over (first frame, segment) of everything that waits, for `score_streams`."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def finish(self, first_frame: int, scores: SegmentScores, row: int) -> Score:
        """Make the Score of the segment at `first_frame` from row `row` of a scored batch."""
        features, length = self.scorer.features, self.scorer.segments.frames
        value, d_prime = float(scores.score[row]), float(scores.d_prime[row])
        if self.distances is not None:
            of_mode = relative_distance(scores.d[row : row + 1], *self.distances)
            value = float(blend(scores.q[row : row + 1], of_mode, self.scorer.score.alpha)[0])
            d_prime = float(of_mode[0])
        clip_score, averaged, complete = self._mean.add(value)
        start = first_frame * features.hop_length
        result = Score(
            index=first_frame // self.scorer.segments.hop,
            start_sample=start,
            end_sample=start + features.sample_count(length),
            logit=float(scores.logit[row]),
            q=float(scores.q[row]),
            d=float(scores.d[row]),
            d_prime=d_prime,
            score=value,
            clip_score=clip_score,
            averaged=averaged,
            complete=complete,
        )
        return result


def score_streams(streams: Sequence[Stream]) -> list[list[Score]]:
    """Score everything that waits in `streams` in common batches; one list of scores per stream.

    All streams must share one encoder, and may have heads of their own. Raises InputError otherwise, and CheckFailed
    for scores that are not numbers.
    """
    results, failures = score_shared(streams)
    for error in failures.values():
        raise error
    return results


def score_shared(streams: Sequence[Stream]) -> tuple[list[list[Score]], dict[Scorer, EdgeasdError]]:
    """As `score_streams`; a head that fails is named with its error, and its streams have no scores."""
    if len({id(engine_group(stream.scorer.engine)) for stream in streams}) > 1:
        raise InputError("score_streams: the streams use different encoders; score them in one call per encoder")
    batches = [stream.take_waiting() for stream in streams]
    results: list[list[Score]] = [[] for _ in streams]
    failures: dict[Scorer, EdgeasdError] = {}
    groups: dict[tuple[int, ...], list[int]] = {}
    for at, waiting in enumerate(batches):
        if waiting:
            groups.setdefault(waiting[0][1].shape, []).append(at)
    for group in groups.values():
        z = streams[group[0]].scorer.embed_waiting([segment for at in group for _, segment in batches[at]])
        rows: dict[Scorer, list[tuple[int, int]]] = {}
        row = 0
        for at in group:
            rows.setdefault(streams[at].scorer, []).append((at, row))
            row += len(batches[at])
        for scorer, owned in rows.items():
            # Without a copy where all rows are of one head.
            own = z if len(rows) == 1 else np.concatenate([z[row : row + len(batches[at])] for at, row in owned])
            try:
                scores = scorer.score_embeddings(own)
            except EdgeasdError as error:
                failures[scorer] = error
                continue
            taken = 0
            for at, _ in owned:
                results[at] = [streams[at].finish(first, scores, taken + i) for i, (first, _) in enumerate(batches[at])]
                taken += len(batches[at])
    return results, failures
