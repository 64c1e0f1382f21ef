"""Log-mel features: the definition, the door, and the same frames however the sound is cut."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.features.logmel import Amplitude, FeatureSettings, LogMelStream, logmel, mel_filter_bank

pytestmark = pytest.mark.core

AMPLITUDE = Amplitude(mean=0.013, std=0.07)
SMALL = FeatureSettings(n_fft=64, hop_length=24, n_mels=8)


def noise(samples: int, seed: int = 0, level: float = 0.1) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def by_definition(samples: np.ndarray, features: FeatureSettings, amplitude: Amplitude) -> np.ndarray:
    """The formula of the design, frame by frame, without a line of the implementation."""
    x = (samples.astype(np.float64) - amplitude.mean) / amplitude.std
    n = np.arange(features.n_fft)
    window = 0.5 * (1 - np.cos(2 * np.pi * n / features.n_fft))
    bank = mel_filter_bank(16_000, features.n_fft, features.n_mels, features.f_min, features.f_max).astype(np.float64)
    rows = []
    start = 0
    while start + features.n_fft <= len(x):
        magnitude = np.abs(np.fft.rfft(window * x[start : start + features.n_fft]))
        rows.append(np.log10(np.maximum(1e-10, bank @ magnitude)))
        start += features.hop_length
    return np.array(rows).reshape(-1, features.n_mels)


def push_all(stream: LogMelStream, samples: np.ndarray, sizes: list[int]) -> np.ndarray:
    parts, at = [], 0
    for size in [*sizes, len(samples)]:
        parts.append(stream.push(samples[at : at + size]))
        at += size
    return np.concatenate(parts)


# The definition


def test_frames_follow_the_formula() -> None:
    samples = noise(30_000)
    found = logmel(samples, FeatureSettings(), AMPLITUDE)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_definition(samples, FeatureSettings(), AMPLITUDE), rtol=0, atol=2e-6)


def test_ten_seconds_give_311_frames_of_128_bands() -> None:
    assert logmel(noise(160_000)).shape == (311, 128)


def test_frame_t_covers_samples_from_512_t_to_512_t_plus_1024() -> None:
    click = np.zeros(16_000, dtype=np.float32)
    click[5000] = 1.0
    heard = np.flatnonzero((logmel(click) > -9.9).any(axis=1))
    # frames 8 and 9 start at 4096 and 4608; frame 7 ends at 4608
    assert heard.tolist() == [8, 9]


def test_digital_silence_is_the_floor() -> None:
    np.testing.assert_allclose(logmel(np.zeros(5000, dtype=np.float32)), -10.0, rtol=2e-7)


def test_a_loud_tone_leaves_distant_bands_at_the_floor() -> None:
    # The reason for the float64 FFT: in float32 these bands hold rounding noise some 100 times the floor.
    # A quarter of the sample rate, so that every sample of the tone is exact.
    tone = np.tile(np.array([0.0, 0.9, 0.0, -0.9], dtype=np.float32), 2048)
    frames = logmel(tone)
    assert frames.max() > 0
    assert (frames[:, :60] < -9.99).all()


@given(st.integers(0, 5000), st.integers(64, 512), st.data())
def test_the_number_of_frames_is_the_formula(samples: int, n_fft: int, data: st.DataObject) -> None:
    hop = data.draw(st.integers(16, n_fft))
    features = FeatureSettings(n_fft=n_fft, hop_length=hop, n_mels=8)
    expected = len(range(0, samples - n_fft + 1, hop))
    assert features.frame_count(samples) == expected
    assert LogMelStream(features).push(np.zeros(samples, dtype=np.float32)).shape == (expected, 8)
    assert features.frame_count(features.sample_count(expected)) == expected
    if expected:
        assert features.frame_count(features.sample_count(expected) - 1) == expected - 1


# Any cut


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from([0, 1, 2, 511, 512, 513, 1023, 1024, 1025, 3072, 9000]), max_size=40), st.integers(0, 99)
)
def test_any_chunking_gives_the_same_frames(sizes: list[int], seed: int) -> None:
    samples = noise(24_000, seed)
    whole = logmel(samples, FeatureSettings(), AMPLITUDE)
    cut = push_all(LogMelStream(FeatureSettings(), AMPLITUDE), samples, sizes)
    assert cut.shape == whole.shape
    np.testing.assert_allclose(cut, whole, rtol=0, atol=1e-6)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 200), max_size=60), st.integers(64, 200), st.data())
def test_any_chunking_at_any_window_and_hop(sizes: list[int], n_fft: int, data: st.DataObject) -> None:
    features = FeatureSettings(n_fft=n_fft, hop_length=data.draw(st.integers(16, n_fft)), n_mels=8)
    samples = noise(3000, n_fft)
    np.testing.assert_allclose(
        push_all(LogMelStream(features, AMPLITUDE), samples, sizes), logmel(samples, features, AMPLITUDE), atol=1e-6
    )


def test_one_sample_at_a_time() -> None:
    samples = noise(12_000)
    stream, frames = LogMelStream(), []
    for at in range(len(samples)):
        made = stream.push(samples[at : at + 1])
        # a frame appears with its last sample, neither sooner nor later
        assert len(made) == (at + 1 >= 1024 and (at + 1 - 1024) % 512 == 0)
        frames.append(made)
    np.testing.assert_allclose(np.concatenate(frames), logmel(samples), rtol=0, atol=1e-6)
    assert stream.samples_seen == 12_000
    assert stream.frames_made == 22


def test_a_frame_does_not_depend_on_the_block_it_was_computed_in() -> None:
    samples = noise(40_000)
    alone = LogMelStream(block_frames=1).push(samples)
    np.testing.assert_allclose(LogMelStream(block_frames=50).push(samples), alone, rtol=0, atol=1e-6)


def test_progress_changes_nothing_and_counts_samples() -> None:
    seen: list[int] = []
    samples = noise(2 * 60 * 16_000 + 777)
    with_progress = logmel(samples, FeatureSettings(), AMPLITUDE, seen.append)
    assert seen == [960_000, 1_920_000, 1_920_777]
    np.testing.assert_allclose(with_progress, logmel(samples, FeatureSettings(), AMPLITUDE), rtol=0, atol=1e-6)


def test_after_a_reset_the_stream_is_new() -> None:
    stream, samples = LogMelStream(), noise(9000, 1)
    stream.push(noise(5001, 2))
    stream.reset()
    assert (stream.samples_seen, stream.frames_made) == (0, 0)
    np.testing.assert_array_equal(stream.push(samples), LogMelStream().push(samples))


def test_returned_frames_are_the_callers() -> None:
    stream = LogMelStream()
    first = stream.push(noise(4096, 1))
    kept = first.copy()
    stream.push(noise(4096, 2))
    np.testing.assert_array_equal(first, kept)


def test_the_callers_samples_are_not_changed() -> None:
    samples = noise(5000)
    kept = samples.copy()
    LogMelStream(FeatureSettings(), AMPLITUDE).push(samples)
    np.testing.assert_array_equal(samples, kept)


# The door


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_a_bad_sample_is_named_by_its_place_in_the_stream(bad: float) -> None:
    stream, samples = LogMelStream(), noise(20_000)
    stream.push(samples[:7000])
    spoiled = samples[7000:].copy()
    spoiled[1234] = bad
    spoiled[5000] = np.nan
    with pytest.raises(InputError, match=r"^sample 8234 \(0\.515 s\): .*; repair"):
        stream.push(spoiled)


def test_nothing_of_a_refused_chunk_is_accepted() -> None:
    samples = noise(20_000)
    stream = LogMelStream()
    parts = [stream.push(samples[:7000])]
    spoiled = samples[7000:].copy()
    spoiled[-1] = np.nan
    with pytest.raises(InputError):
        stream.push(spoiled)
    assert stream.samples_seen == 7000
    parts.append(stream.push(samples[7000:]))
    np.testing.assert_allclose(np.concatenate(parts), logmel(samples), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("samples", "named"),
    [
        (np.zeros(100), r"float64 \(100,\)"),
        (np.zeros(100, np.int16), r"int16 \(100,\)"),
        (np.zeros((100, 2), np.float32), r"float32 \(100, 2\)"),
        (np.float32(0), "float32"),
        ([0.0, 0.1], "list"),
        (None, "NoneType"),
    ],
)
def test_another_type_or_shape_is_refused_and_named(samples: object, named: str) -> None:
    with pytest.raises(InputError, match=f"samples: {named}.*, expected a float32 array"):
        LogMelStream().push(samples)  # type: ignore[arg-type]


def test_finite_samples_of_any_size_are_accepted() -> None:
    # Together they overflow float32 energy, none of them alone does
    huge = noise(4096, 0, 3e18)
    assert np.sum(np.square(huge, dtype=np.float64)) > np.finfo(np.float32).max
    frames = logmel(huge)
    assert np.isfinite(frames).all()
    assert frames.max() > 15


@given(st.integers(1, 4000), st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 1e6, 1e18]), st.floats(1e-6, 1e6))
def test_whatever_passes_the_door_gives_finite_frames(samples: int, level: float, std: float) -> None:
    sound = noise(samples, 3, 1.0) * np.float32(level)
    assert np.isfinite(logmel(sound, SMALL, Amplitude(mean=-0.5, std=std))).all()


@given(st.integers(64, 4000), st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 1e18]), st.floats(1e-6, 1e6))
def test_power_of_what_passes_the_door_is_finite_too(samples: int, level: float, std: float) -> None:
    sound = noise(samples, 3, 1.0) * np.float32(level)
    power = SMALL.model_copy(update={"spectrum": "power", "scale": 10.0, "preemphasis": 0.97})
    assert np.isfinite(logmel(sound, power, Amplitude(mean=-0.5, std=std))).all()


CHOICES = st.fixed_dictionaries(
    {
        "window": st.sampled_from(["hann_periodic", "hann_symmetric"]),
        "window_length": st.sampled_from([None, 24, 25, 63, 64]),
        "preemphasis": st.sampled_from([0.0, 0.97, 1.0]),
        "spectrum": st.sampled_from(["magnitude", "power"]),
        "mel_scale": st.sampled_from(["slaney", "htk", "kaldi"]),
        "mel_norm": st.sampled_from(["slaney", "none"]),
        "logarithm": st.sampled_from(["log10", "ln"]),
        "floor_rule": st.sampled_from(["clamp", "add"]),
        "offset": st.sampled_from([0.0, 4.5]),
        "scale": st.sampled_from([1.0, 0.2, 10.0]),
    }
)


@settings(deadline=None, max_examples=80)
@given(CHOICES, st.lists(st.integers(0, 200), max_size=40))
def test_any_chunking_with_any_choice(choice: dict[str, Any], sizes: list[int]) -> None:
    features = SMALL.model_copy(update=choice)
    samples = noise(2000, 5)
    cut = push_all(LogMelStream(features, AMPLITUDE), samples, sizes)
    # Blocks of other sizes take other ways through BLAS: the last bit of float32 may differ, as with the defaults.
    np.testing.assert_allclose(cut, logmel(samples, features, AMPLITUDE), rtol=3e-7, atol=1e-6)


def test_the_first_sample_counts_for_nothing() -> None:
    # Every window starts at 0, so no frame needs the sample before it: pre-emphasis has no state and no edge.
    features = FeatureSettings(preemphasis=0.97)
    samples = noise(4096)
    frames = logmel(samples, features)
    samples[0] = 1e3
    assert np.abs(logmel(samples, features)[0] - frames[0]).max() > 1e-3
    np.testing.assert_array_equal(logmel(samples[512:], features), frames[1:])


# Memory


def test_memory_does_not_grow_with_the_stream() -> None:
    stream = LogMelStream(FeatureSettings(), AMPLITUDE)
    sizes = [1, 100, 1024, 3072, 5000]
    chunks = [noise(size, size) for size in sizes]

    def minute_of_sound() -> None:
        for _ in range(105):
            for chunk in chunks:
                stream.push(chunk)

    minute_of_sound()
    gc.collect()
    tracemalloc.start()
    try:
        minute_of_sound()
        gc.collect()
        _, first_peak = tracemalloc.get_traced_memory()
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(5):
            minute_of_sound()
        gc.collect()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # five minutes of sound are 19 MB of samples and 4.8 MB of frames
    assert after - before < 4096
    assert peak < first_peak + 4096


# Settings


@pytest.mark.parametrize(
    "wrong",
    [
        {"f_max": 9000.0},
        {"f_min": 8000.0},
        {"hop_length": 2048},
        {"centred": True},
        {"window": "hamming"},
        {"spectrum": "energy"},
        {"mel_scale": "bark"},
        {"mel_norm": "area"},
        {"logarithm": "log2"},
        {"floor_rule": "none"},
        {"window_length": 1025},
        {"window_length": 511},
        {"preemphasis": 1.1},
        {"preemphasis": float("nan")},
        {"offset": float("inf")},
        {"scale": 0.0},
        {"scale": -1.0},
        {"n_fft": 0},
        {"log_floor": 0.0},
        {"f_max": float("nan")},
    ],
)
def test_settings_that_are_not_defined_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        FeatureSettings(**wrong)  # type: ignore[arg-type]


def test_the_fingerprint_changes_with_any_setting() -> None:
    changed = [{}, {"n_fft": 2048}, {"hop_length": 256}, {"n_mels": 64}, {"f_min": 0.0}, {"f_max": 7000.0}]
    changed += [{"window_length": 800}, {"preemphasis": 0.97}, {"floor_rule": "add"}, {"offset": 4.5}, {"scale": 0.2}]
    changed += [{"window": "hann_symmetric"}, {"spectrum": "power"}, {"logarithm": "ln"}]
    changed += [{"mel_scale": "htk"}, {"mel_scale": "kaldi"}, {"mel_norm": "none"}]
    prints = {FeatureSettings(**change).fingerprint() for change in changed}  # type: ignore[arg-type]
    assert len(prints) == len(changed)
    assert FeatureSettings().fingerprint() == FeatureSettings().fingerprint()


def test_default_settings_are_named_and_written_as_before() -> None:
    # What 0.1 wrote. Feature caches are named by it, and manifests are written back as they were found.
    assert FeatureSettings().fingerprint() == "b75dd40d925867d8"
    assert list(FeatureSettings(scale=1.0, preemphasis=0.0).model_dump()) == [
        *("sample_rate", "n_fft", "hop_length", "n_mels", "f_min", "f_max", "log_floor"),
        *("window", "spectrum", "mel_scale", "mel_norm", "logarithm", "centred"),
    ]
    changed = FeatureSettings(preemphasis=0.5, future="kept")  # type: ignore[call-arg]
    assert FeatureSettings.model_validate(changed.model_dump()) == changed


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan"), float("inf")])
def test_an_amplitude_that_cannot_divide_is_refused(std: float) -> None:
    with pytest.raises(ValidationError):
        Amplitude(std=std)
