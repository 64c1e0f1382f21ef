"""Samples kept in place of log-mel: the same segments, however the sound is cut, and a front end that is a view."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.runtime.bundle.front_end_check import beyond, compare_logmel, logmel_limit
from edgeasd.runtime.bundle.manifest import FrontEnd
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.features.framing import frame_samples, frames_of, normalise
from edgeasd.runtime.features.logmel import Amplitude, FeatureSettings
from edgeasd.runtime.features.segments import LogMelSegmenter, SampleSegmenter, SegmentSettings, live_starts
from edgeasd.runtime.scoring.clip import score_sound
from edgeasd.runtime.scoring.score import ScoreSettings
from edgeasd.runtime.scoring.scorer import FrontEndDeviation, GraphFrontEndScorer, Scorer
from edgeasd.runtime.scoring.stream import Stream, score_streams

pytestmark = pytest.mark.core

FEATURES = FeatureSettings(n_fft=64, hop_length=32, n_mels=8)
AMPLITUDE = Amplitude(mean=0.01, std=0.2)


class MeanOfFrames:
    """No network and no front end: the embedding is the mean square of the frames. A chain for tiny streams."""

    name, accelerator, precision, max_batch = "mean", "cpu", "fp32", 4

    def __init__(self) -> None:
        self.batches: list[int] = []

    @property
    def encoder(self) -> MeanOfFrames:
        return self

    def logmel(self, frames: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def embed(self, batch: np.ndarray) -> np.ndarray:
        assert batch.shape[1:] == (1, 8, 64)
        self.batches.append(len(batch))
        return np.asarray((batch.astype(np.float64) ** 2).mean(axis=(1, 2, 3)), np.float32)[:, None]

    def close(self) -> None:
        pass


def head(z: np.ndarray) -> dict[str, np.ndarray]:
    return {"logit": z[:, 0], "q": 1 / (1 + np.exp(z[:, 0])), "d": z[:, 0] ** 2}


def tiny_scorer(hop: int = 3) -> GraphFrontEndScorer:
    score = ScoreSettings(alpha=0.5, alpha_source="-", d_min=0, d_max=1, d_min_source="-", d_max_source="-")
    segments = SegmentSettings(frames=8, hop=hop, sections=4)
    chain = MeanOfFrames()
    alike = Scorer(chain, head, FEATURES, AMPLITUDE, segments, score)
    return GraphFrontEndScorer(chain, head, alike, FrontEndDeviation(0.0))


def sound(samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def cut(samples: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    edges = np.minimum(np.cumsum([0, *sizes]), len(samples))
    return [samples[a:b] for a, b in zip(edges, [*edges[1:], len(samples)])]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 900), max_size=30), st.integers(0, 4000), st.integers(1, 20))
def test_segments_of_samples_are_those_of_log_mel(sizes: list[int], samples: int, hop: int) -> None:
    layout, whole = SegmentSettings(frames=8, hop=hop, sections=4), sound(samples)
    kept, made = SampleSegmenter(FEATURES, AMPLITUDE, layout), LogMelSegmenter(FEATURES, AMPLITUDE, layout)
    found, starts = [], []
    for block in cut(whole, sizes):
        found += [(first, segment.copy()) for first, segment in kept.push_checked(block)]
        starts += [first for first, _ in made.push_checked(block)]
        assert kept.samples_seen == made.samples_seen
    frames = frame_samples(whole, FEATURES, AMPLITUDE)
    assert [first for first, _ in found] == starts == live_starts(len(frames), layout)
    for first, segment in found:
        np.testing.assert_array_equal(frames_of(segment, FEATURES), frames[first : first + 8])


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 400), max_size=40), st.integers(0, 3000))
def test_any_chunking_gives_the_same_scores_bit_for_bit(sizes: list[int], samples: int) -> None:
    whole = sound(samples)
    stream = Stream(tiny_scorer())
    found = [score for block in cut(whole, sizes) for score in stream.push(block)]
    assert found == Stream(tiny_scorer()).push(whole)


def test_no_segment_spans_a_reset() -> None:
    stream = Stream(tiny_scorer())
    stream.push(sound(287))
    stream.accept(sound(3))
    stream.reset()
    assert (stream.samples_seen, stream.waiting) == (0, 0)
    assert stream.push(sound(2000, 1)) == Stream(tiny_scorer()).push(sound(2000, 1))


def test_streams_that_wait_together_are_scored_in_common_batches() -> None:
    scorer = tiny_scorer()
    streams = [Stream(scorer), Stream(scorer)]
    need = FEATURES.sample_count(8)
    assert [stream.accept(sound(need + 96 * i, i)) for i, stream in enumerate(streams)] == [1, 2]
    together = score_streams(streams)
    assert scorer.engine.batches == [3]
    assert together == [Stream(tiny_scorer()).push(sound(need + 96 * i, i)) for i in range(2)]


def test_a_clip_has_its_live_scores_or_is_tiled() -> None:
    scorer = tiny_scorer()
    samples = sound(FEATURES.sample_count(8 + 3 * 3))
    clip, live = score_sound(scorer, samples), Stream(scorer).push(samples)
    assert clip.starts == [0, 3, 6, 9]
    assert clip.score == pytest.approx(live[-1].clip_score, rel=1e-6)
    with pytest.raises(InputError, match="about 32 samples"):
        score_sound(scorer, sound(FEATURES.sample_count(7)))
    assert score_sound(scorer, sound(FEATURES.sample_count(7)), tile_short=True).tiled


def test_normalising_in_blocks_is_normalising_at_once() -> None:
    samples = sound(200_000)
    expected = ((samples.astype(np.float64) - AMPLITUDE.mean) / AMPLITUDE.std).astype(np.float32)
    np.testing.assert_array_equal(normalise(samples, AMPLITUDE), expected)


def test_bad_samples_are_refused_before_anything_is_kept() -> None:
    stream = Stream(tiny_scorer())
    spoiled = sound(1000)
    spoiled[7] = np.inf
    with pytest.raises(InputError, match="^sample 7 "):
        stream.push(spoiled)
    with pytest.raises(InputError, match="^sample 7 "):
        tiny_scorer().extract_features(spoiled)
    assert stream.samples_seen == 0


@pytest.mark.parametrize(
    ("stated", "allowed"), [(1e-7, 1e-5), (4.4e-6, 1e-5), (5e-5, 5e-5), (0.3, 1e-4)], ids=["-", "real", "wide", "empty"]
)
def test_noise_is_held_to_what_the_manifest_states_within_bounds(stated: float, allowed: float) -> None:
    front_end = FrontEnd(file="frontend.onnx", logmel=stated, score=0.0, clips=1)
    assert logmel_limit(front_end) == allowed
    assert beyond(FrontEndDeviation(allowed), allowed) == []
    assert beyond(FrontEndDeviation(2 * allowed), allowed)[0].startswith("log-mel deviates by ")
    assert len(beyond(FrontEndDeviation(float("nan"), float("nan")), allowed, 1e-4)) == 2


def test_a_graph_of_another_shape_is_an_error_of_the_bundle() -> None:
    with pytest.raises(InputError, match=r"log-mel of shape \(1, 8\), its encoder takes \(1, 9\)"):
        compare_logmel(np.zeros((1, 8), np.float32), np.zeros((1, 9), np.float32), "b")
