"""A stream: the same scores however the sound is cut, and the same as offline."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.features.logmel import Amplitude, FeatureSettings, logmel
from edgeasd.runtime.features.segments import SegmentSettings, live_starts
from edgeasd.runtime.scoring.clip import score_features
from edgeasd.runtime.scoring.score import Score, ScoreSettings
from edgeasd.runtime.scoring.scorer import Scorer
from edgeasd.runtime.scoring.stream import Stream, score_streams

pytestmark = pytest.mark.core

NOMINAL = 160_000


class CountingEngine:
    """Passes batches to a real engine and remembers their sizes."""

    def __init__(self, scorer: Scorer, max_batch: int = 10) -> None:
        self._engine = scorer.engine
        self.name, self.accelerator, self.precision = scorer.engine.name, "cpu", "fp32"
        self.max_batch = max_batch
        self.batches: list[int] = []

    def embed(self, batch: np.ndarray) -> np.ndarray:
        assert len(batch) <= self.max_batch
        self.batches.append(len(batch))
        return self._engine.embed(batch)

    def close(self) -> None:
        pass


class MeanEngine:
    """No network at all: the embedding is the mean of the segment, for tests of many tiny pushes."""

    name, accelerator, precision, max_batch = "mean", "cpu", "fp32", 4

    def embed(self, batch: np.ndarray) -> np.ndarray:
        return np.asarray(batch.mean(axis=(1, 2, 3), dtype=np.float64), np.float32)[:, None]

    def close(self) -> None:
        pass


def tiny_scorer() -> Scorer:
    def head(z: np.ndarray) -> dict[str, np.ndarray]:
        return {"logit": z[:, 0], "q": 1 / (1 + np.exp(z[:, 0])), "d": z[:, 0] ** 2}

    score = ScoreSettings(alpha=0.5, alpha_source="-", d_min=0, d_max=1, d_min_source="-", d_max_source="-")
    features = FeatureSettings(n_fft=64, hop_length=32, n_mels=8)
    return Scorer(MeanEngine(), head, features, Amplitude(), SegmentSettings(frames=8, hop=3, sections=4), score)


@pytest.fixture(scope="module")
def scorer(small_bundle: Path) -> Iterator[Scorer]:
    with Bundle(small_bundle) as bundle:
        opened, _ = bundle.open_scorer(threads=1)
        yield opened
        opened.close()


def counted(scorer: Scorer, max_batch: int = 10) -> tuple[Scorer, CountingEngine]:
    engine = CountingEngine(scorer, max_batch)
    return (
        Scorer(engine, scorer.head, scorer.features, scorer.amplitude, scorer.segments, scorer.score),
        engine,
    )


def machine(samples: int, seed: int = 0) -> np.ndarray:
    """Clicks and hum over noise, different for each seed."""
    rng, t = np.random.default_rng(seed), np.arange(samples) / 16_000
    sound = 0.01 * rng.standard_normal(samples) + 0.02 * np.sin(2 * np.pi * (90 + 40 * seed) * t)
    sound[:: 4000 + 700 * seed] += 0.4
    return sound.astype(np.float32)


def push(stream: Stream, samples: np.ndarray, sizes: list[int]) -> list[Score]:
    scores, at = [], 0
    for size in [*sizes, len(samples)]:
        scores += stream.push(samples[at : at + size])
        at += size
    return scores


def assert_equal(found: list[Score], expected: list[Score]) -> None:
    assert [s.index for s in found] == [s.index for s in expected]
    for a, b in zip(found, expected, strict=True):
        assert (a.start_sample, a.end_sample, a.averaged, a.complete) == (
            b.start_sample,
            b.end_sample,
            b.averaged,
            b.complete,
        )
        for name in ("logit", "q", "d", "d_prime", "score", "clip_score"):
            assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-6, abs=1e-9), name


# Live and offline


def test_scores_are_those_of_the_live_rule_computed_offline(scorer: Scorer) -> None:
    """As `score --live` goes: log-mel of the whole file, live segments, one batch, means of ten."""
    samples = machine(NOMINAL + 70_001)
    frames = logmel(samples, scorer.features, scorer.amplitude)
    starts = live_starts(len(frames), scorer.segments)
    offline = scorer.score_segments(np.stack([frames[start : start + 256] for start in starts]))
    scores = push(Stream(scorer), samples, [1, 30_000, 7, 100_000, 511])
    assert len(scores) == len(starts) > 30
    for row, score in enumerate(scores):
        assert score.score == pytest.approx(offline.score[row], rel=1e-6)
        assert score.q == pytest.approx(offline.q[row], rel=1e-6)
        assert score.d == pytest.approx(offline.d[row], rel=1e-6)
        last = offline.score[max(0, row - 9) : row + 1]
        assert score.clip_score == pytest.approx(last.mean(), rel=1e-6)
        assert (score.averaged, score.complete) == (len(last), len(last) == 10)


@pytest.mark.parametrize("seed", range(3))
def test_a_nominal_clip_after_a_reset_equals_its_clip_score(scorer: Scorer, seed: int) -> None:
    samples = machine(NOMINAL, seed)
    clip = score_features(scorer, logmel(samples, scorer.features, scorer.amplitude))
    stream = Stream(scorer)
    push(stream, machine(123_456, 5), [40_000])
    stream.reset()
    scores = push(stream, samples, [3072] * 60)
    assert len(scores) == 10
    assert [score.complete for score in scores] == [False] * 9 + [True]
    assert scores[-1].clip_score == pytest.approx(clip.score, rel=1e-9)


@settings(deadline=None, max_examples=12)
@given(st.lists(st.sampled_from([0, 1, 5, 511, 512, 1024, 3072, 16_000, 131_584, 160_001]), max_size=60))
def test_any_chunking_gives_the_same_scores(scorer: Scorer, sizes: list[int]) -> None:
    samples = machine(NOMINAL + 20_000, 1)
    assert_equal(push(Stream(scorer), samples, sizes), Stream(scorer).push(samples))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 400), max_size=60), st.integers(0, 3000))
def test_any_chunking_of_a_tiny_stream(sizes: list[int], samples: int) -> None:
    tiny = tiny_scorer()
    sound = machine(samples)
    whole = Stream(tiny).push(sound)
    assert len(whole) == len(live_starts(tiny.features.frame_count(samples), tiny.segments))
    assert_equal(push(Stream(tiny), sound, sizes), whole)


def test_each_score_comes_with_its_last_sample() -> None:
    sound, stream = machine(1500), Stream(tiny_scorer())
    scores = []
    for at in range(len(sound)):
        for score in stream.push(sound[at : at + 1]):
            assert score.end_sample == at + 1
            scores.append(score)
    assert_equal(scores, Stream(tiny_scorer()).push(sound))


# Positions


def test_timestamps_are_samples_since_the_start(scorer: Scorer) -> None:
    scores = Stream(scorer).push(machine(NOMINAL))
    # 256 frames take 1024 + 255 * 512 samples; a segment starts every 6 * 512
    assert [(s.start_sample, s.end_sample) for s in scores] == [(3072 * i, 3072 * i + 131_584) for i in range(10)]
    assert [s.index for s in scores] == list(range(10))


def test_no_score_before_the_last_sample_of_the_first_segment(scorer: Scorer) -> None:
    stream, samples = Stream(scorer), machine(131_584)
    assert stream.push(samples[:-1]) == []
    assert len(stream.push(samples[-1:])) == 1


def test_after_a_reset_the_stream_is_new(scorer: Scorer) -> None:
    stream, samples = Stream(scorer), machine(NOMINAL, 2)
    stream.push(machine(150_000, 3))
    stream.accept(machine(40_000, 3))
    assert stream.waiting > 0
    stream.reset()
    assert (stream.samples_seen, stream.waiting) == (0, 0)
    assert stream.push(samples) == Stream(scorer).push(samples)


# The door


def test_bad_samples_are_refused_whole_with_their_position(scorer: Scorer) -> None:
    """Also where a long push would be taken in slices, of which the first are good."""
    stream, samples = Stream(scorer), machine(NOMINAL + 100_000)
    first = stream.push(samples[:1000])
    spoiled = samples[1000:].copy()
    spoiled[-7] = np.nan
    with pytest.raises(InputError, match=f"^sample {len(samples) - 7} "):
        stream.push(spoiled)
    with pytest.raises(InputError, match=f"^sample {len(samples) - 7} "):
        stream.accept(spoiled)
    assert (stream.samples_seen, stream.waiting) == (1000, 0)
    assert_equal(first + stream.push(samples[1000:]), Stream(scorer).push(samples))


@pytest.mark.parametrize(
    "samples", [np.zeros(10), np.zeros((10, 1), np.float32), [0.0]], ids=["float64", "2-D", "list"]
)
def test_another_type_or_shape_is_refused(scorer: Scorer, samples: np.ndarray) -> None:
    with pytest.raises(InputError, match="expected a float32 array"):
        Stream(scorer).push(samples)


# Many streams, one engine


def test_two_streams_that_share_a_scorer_do_not_mix(scorer: Scorer) -> None:
    sounds = [machine(NOMINAL + 9000, 1), machine(NOMINAL + 9000, 2)]
    streams = [Stream(scorer), Stream(scorer)]
    found: list[list[Score]] = [[], []]
    for at in range(0, len(sounds[0]), 4096):
        for stream, sound, scores in zip(streams, sounds, found, strict=True):
            scores += stream.push(sound[at : at + 4096])
    for sound, scores in zip(sounds, found, strict=True):
        assert_equal(scores, Stream(scorer).push(sound))
    assert found[0][-1].score != pytest.approx(found[1][-1].score, rel=1e-3)


def test_segments_that_wait_together_are_one_batch(scorer: Scorer) -> None:
    shared, engine = counted(scorer)
    streams = [Stream(shared) for _ in range(3)]
    sounds = [machine(131_584 + 3072 * i, i) for i in range(3)]
    waiting = [stream.accept(sound) for stream, sound in zip(streams, sounds, strict=True)]
    assert waiting == [1, 2, 3]
    assert engine.batches == []
    found = score_streams(streams)
    assert engine.batches == [6]
    assert [stream.waiting for stream in streams] == [0, 0, 0]
    for sound, scores in zip(sounds, found, strict=True):
        assert_equal(scores, Stream(scorer).push(sound))


@pytest.mark.parametrize(("limit", "batches"), [(4, [4, 2]), (1, [1] * 6), (6, [6])])
def test_batches_never_exceed_what_the_engine_takes(scorer: Scorer, limit: int, batches: list[int]) -> None:
    shared, engine = counted(scorer, limit)
    streams = [Stream(shared), Stream(shared)]
    for stream in streams:
        stream.accept(machine(131_584 + 2 * 3072))
    assert [len(scores) for scores in score_streams(streams)] == [3, 3]
    assert engine.batches == batches


def test_a_long_push_is_scored_in_full_batches(scorer: Scorer) -> None:
    shared, engine = counted(scorer)
    scores = Stream(shared).push(machine(131_584 + 3072 * 95))
    assert sum(engine.batches) == len(scores) == 96
    assert len(engine.batches) <= 12


def test_nothing_waiting_runs_nothing(scorer: Scorer) -> None:
    shared, engine = counted(scorer)
    assert score_streams([Stream(shared), Stream(shared)]) == [[], []]
    assert score_streams([]) == []
    assert engine.batches == []


def test_streams_of_different_encoders_are_refused(scorer: Scorer) -> None:
    other, _ = counted(scorer)
    streams = [Stream(scorer), Stream(other)]
    streams[0].accept(machine(131_584))
    with pytest.raises(InputError, match="different encoders"):
        score_streams(streams)
    assert streams[0].waiting == 1, "a refused call takes nothing"


# Memory


def test_memory_does_not_grow_with_the_stream() -> None:
    stream, sound = Stream(tiny_scorer()), machine(16_000)
    for _ in range(2):
        stream.push(sound)
    tracemalloc.start()
    try:
        stream.push(sound)
        before, first_peak = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(40):
            stream.push(sound)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 4096
    assert peak < first_peak + 16_384


def test_samples_of_another_scale_are_refused_with_the_remedy(small_bundle: Path) -> None:
    with Bundle(small_bundle) as bundle:
        stream = Stream(bundle.open_scorer(engine="onnxruntime")[0])
    loud = (3000 * np.sin(np.arange(16_000))).astype(np.int16)
    with pytest.raises(InputError, match=r"int16 \(16000,\).*divide by 32768 and convert"):
        stream.push(loud)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"up to 2999, expected \[-1, 1\); divide 16-bit samples by 32768"):
        stream.push(loud.astype(np.float32))
    assert stream.samples_seen == 0
    stream.push((loud / 1000).astype(np.float32))  # a peak of +9.5 dB is sound
    assert stream.samples_seen == 16_000
