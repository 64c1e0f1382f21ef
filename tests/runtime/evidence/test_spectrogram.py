"""The picture of an event shows what sounded, where it sounded."""

from __future__ import annotations

import builtins
import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.evidence.clip import ClipMetadata, score_line
from edgeasd.runtime.evidence.spectrogram import ScoreOverlay, draw_clip, draw_spectrogram, palette, to_png
from edgeasd.runtime.features.logmel import FeatureSettings, logmel

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed; no picture is drawn")

FEATURES = FeatureSettings()
RATE, SHADES = 16_000, 240
LEFT, TOP, HEIGHT = 96, 12, 384
PAPER, INK, ALARM, LINE = 240, 241, 243, 244
EVENT = "01MCC5RM000000000000000001"


def test_lightness_rises_along_the_colour_map() -> None:
    linear = (palette()[:SHADES] / 255.0) ** 2.2
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) > -1e-3).all()
    assert (np.diff(luminance[::8]) > 0).all()


def test_a_png_gives_back_colours_and_notes() -> None:
    drawn = draw_spectrogram(np.zeros((100, 128), np.float32), FEATURES, ScoreOverlay(1.0, [(0.5, 1.0)], 0.5))
    image = Image.open(io.BytesIO(to_png(drawn, {"Title": EVENT})))
    assert image.text == {"Title": EVENT}
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), palette()[np.asarray(drawn)])


@pytest.mark.parametrize("hz", [150, 1000, 3000, 7000])
def test_a_tone_lies_at_its_frequency_and_its_time(hz: int) -> None:
    time = np.arange(10 * RATE) / RATE
    sound = np.where((time > 4) & (time < 6), 0.3 * np.sin(2 * np.pi * hz * time), 0)
    sound = (sound + 1e-4 * np.random.default_rng(0).standard_normal(sound.size)).astype(np.float32)
    image = np.asarray(draw_spectrogram(logmel(sound), FEATURES, ScoreOverlay(raised_seconds=2.0)))
    plot = image[TOP : TOP + HEIGHT, LEFT:-20].astype(int)
    width = plot.shape[1]
    row = plot[:, round(0.48 * width) : round(0.52 * width)].mean(axis=1).argmax()
    loud = (plot[row] > 180) & (plot[row] < SHADES)
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
    image = np.asarray(draw_spectrogram(frames, FEATURES, ScoreOverlay(3.0, scores, 0.5)))
    strip = image[TOP + HEIGHT + 14 :, LEFT:-20]
    dashes = (strip == ALARM).mean(axis=1).argmax()
    width = strip.shape[1]
    quiet, loud = (np.flatnonzero(strip[:, round(width * at)] == LINE).mean() for at in (0.25, 0.7))
    assert quiet > dashes + 20
    assert loud < dashes - 20
    assert (strip[:, : round(0.08 * width)] != LINE).all()


@settings(max_examples=25, deadline=None)
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
    image = draw_spectrogram(frames, FEATURES, ScoreOverlay(raised, sorted(scores), threshold))
    assert image.height == 546
    assert 500 < image.width <= 1716


def test_other_features_give_other_axes() -> None:
    features = FeatureSettings(sample_rate=48_000, f_max=24_000, n_mels=64)
    image = np.asarray(draw_spectrogram(np.zeros((100, 64), np.float32), features, ScoreOverlay(0.5)))
    assert image.shape[0] == 546
    assert (image[TOP : TOP + HEIGHT, LEFT - 6] == INK).sum() >= 5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The evidence of an event: 2 s at 44.1 kHz."""
    noise = 0.1 * np.random.default_rng(0).standard_normal(88_200)
    soundfile.write(tmp_path / "clip.flac", noise.astype(np.float32), 44_100)
    (tmp_path / "scores.jsonl").write_bytes(score_line(1.0, 1.8e9, 0.1, 0.2, True) + b'{"at_seconds": 1.2, "clip')
    metadata = ClipMetadata(
        event=EVENT, machine="valve", id="00", raised_at=1.8e9, sample_rate=44_100, bits=16, raised_seconds=1.0
    )
    (tmp_path / "facts.json").write_bytes(metadata.dumped())
    return tmp_path


def test_a_clip_of_any_rate_is_drawn_from_its_folder(folder: Path) -> None:
    image = Image.open(io.BytesIO(draw_clip(folder)))
    assert image.height == 546
    assert image.text == {"Title": EVENT, "Creation Time": "2027-01-15T08:00:00.000Z"}


def test_a_clip_that_cannot_be_read_is_one_line(folder: Path) -> None:
    (folder / "clip.flac").write_bytes(b"x" * 1000)
    with pytest.raises(InputError, match=r"clip.flac: cannot be read \(.*\); no picture is drawn"):
        draw_clip(folder)
    (folder / "clip.flac").unlink()
    with pytest.raises(InputError, match="clip.flac: is not there; the picture is drawn from the clip"):
        draw_clip(folder)


def test_without_pillow_one_line_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *more: object, **options: object) -> object:
        if name == "PIL":
            raise ImportError(name)
        return real(name, *more, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"Pillow is not installed; pip install 'edgeasd\[serve\]'"):
        draw_clip(folder)
