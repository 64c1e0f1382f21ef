"""The picture of an event shows what was heard, where it was heard."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.runtime.evidence.spectrogram import ScoreOverlay, draw, palette, picture, png, text_width, write_text
from edgeasd.runtime.features.logmel import FeatureSettings, logmel

pytestmark = pytest.mark.core

FEATURES = FeatureSettings()
RATE, MAP = 16_000, 240
LEFT, TOP, HEIGHT = 96, 12, 384
PAPER, INK, ALARM, LINE = 240, 241, 243, 244


def decode(data: bytes) -> np.ndarray:
    """Indices (height, width) of a PNG as `png` writes it."""
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    at, body = 8, b""
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        body += data[at + 8 : at + 8 + length] if data[at + 4 : at + 8] == b"IDAT" else b""
        at += 12 + length
    rows = np.frombuffer(zlib.decompress(body), np.uint8).reshape(height, width + 1)
    assert not rows[:, 0].any()
    return rows[:, 1:]


def test_lightness_rises_along_the_colour_map() -> None:
    linear = (palette()[:MAP] / 255.0) ** 2.2
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) > -1e-3).all()
    assert (np.diff(luminance[::8]) > 0).all()


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31))
def test_a_png_gives_back_its_indices(width: int, height: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 245, (height, width)).astype(np.uint8)
    np.testing.assert_array_equal(decode(png(image, palette(), {"Title": "x"})), image)


def test_matplotlib_reads_it() -> None:
    pyplot = pytest.importorskip("matplotlib.image", reason="matplotlib is not installed; the PNG is read by us only")
    import io

    image = np.arange(200, dtype=np.uint8).reshape(10, 20)
    shown = pyplot.imread(io.BytesIO(png(image, palette(), {"Title": "01KEZZ"})), format="png")
    np.testing.assert_allclose(shown[:, :, :3], palette()[image] / 255.0, atol=1e-6)


@pytest.mark.parametrize("hz", [150, 1000, 3000, 7000])
def test_a_tone_lies_at_its_frequency_and_its_time(hz: int) -> None:
    time = np.arange(10 * RATE) / RATE
    sound = np.where((time > 4) & (time < 6), 0.3 * np.sin(2 * np.pi * hz * time), 0)
    sound = (sound + 1e-4 * np.random.default_rng(0).standard_normal(sound.size)).astype(np.float32)
    image = draw(logmel(sound), FEATURES, ScoreOverlay(raised_seconds=2.0))
    plot = image[TOP : TOP + HEIGHT, LEFT:-20].astype(int)
    width = plot.shape[1]
    row = plot[:, round(0.48 * width) : round(0.52 * width)].mean(axis=1).argmax()
    loud = (plot[row] > 180) & (plot[row] < MAP)
    assert np.flatnonzero(loud)[0] / width == pytest.approx(0.4, abs=0.02)
    assert np.flatnonzero(loud)[-1] / width == pytest.approx(0.6, abs=0.02)
    # The nearest marks on the axis lie on the right sides of it.
    marks = np.flatnonzero(image[TOP : TOP + HEIGHT, LEFT - 6] == INK)
    above = sum(mark < row for mark in marks)
    assert above == {150: len(marks) - 1, 1000: 3, 3000: 2, 7000: 1}[hz] or abs(marks - row).min() <= 4
    # The alarm is a dashed line at its own time.
    column = np.flatnonzero((image[TOP : TOP + HEIGHT, LEFT:-20] == PAPER).mean(axis=0) > 0.5)
    assert column / width == pytest.approx(0.2, abs=0.01)


def test_scores_and_threshold_lie_under_the_sound() -> None:
    frames = np.zeros((311, 128), np.float32)
    scores = [(1.0, 0.1), (5.0, 0.1), (5.2, 0.9), (9.0, 0.9)]
    strip = draw(frames, FEATURES, ScoreOverlay(3.0, scores, 0.5))[TOP + HEIGHT + 14 :, LEFT:-20]
    dashes = (strip == ALARM).mean(axis=1).argmax()
    width = strip.shape[1]
    quiet, loud = (np.flatnonzero(strip[:, round(width * at)] == LINE).mean() for at in (0.25, 0.7))
    assert quiet > dashes + 20
    assert loud < dashes - 20
    assert (strip[:, : round(0.08 * width)] != LINE).all()


def test_digits_differ_and_what_has_no_glyph_is_blank() -> None:
    seen = set()
    for character in "0123456789.-+eksHz\x1b":
        image = np.zeros((14, text_width(character, 2)), np.uint8)
        write_text(image, 0, 0, character, 1)
        seen.add(image.tobytes())
    assert len(seen) == 19


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 5000),
    st.sampled_from([0.0, -10.0, 19.0]),
    st.floats(-1e4, 1e4),
    st.lists(st.tuples(st.floats(-10, 200), st.floats(-1e30, 1e30)), max_size=6),
    st.none() | st.floats(-1e30, 1e30),
)
def test_anything_gives_a_picture_of_bounded_size(
    count: int, level: float, raised: float, scores: list[tuple[float, float]], threshold: float | None
) -> None:
    frames = np.full((count, 128), level, np.float32)
    data = picture(frames, FEATURES, ScoreOverlay(raised, sorted(scores), threshold), {})
    height, width = decode(data).shape
    assert height == 546
    assert 500 < width <= 1716


def test_other_features_give_other_axes() -> None:
    features = FeatureSettings(sample_rate=48_000, f_max=24_000, n_mels=64)
    image = draw(np.zeros((100, 64), np.float32), features, ScoreOverlay(0.5))
    assert image.shape[0] == 546
    assert (image[TOP : TOP + HEIGHT, LEFT - 6] == INK).sum() >= 5
