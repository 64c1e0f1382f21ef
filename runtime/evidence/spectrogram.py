"""The picture of a clip: log-mel, the alarm as a dashed line, and the clip scores below.

Drawn when somebody looks at it, by `edgeasd events show --picture` and `events export`. Needs Pillow (extra `serve`).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.evidence.clip import CLIP, SCORES, is_plain_file, read_metadata, read_scores
from edgeasd.runtime.features.logmel import FeatureSettings, Float32Array, LogMelStream, hz_to_mel
from edgeasd.runtime.system.clocks import utc_text

if TYPE_CHECKING:
    from PIL import Image

# Every eighth of viridis (matplotlib, CC0): lightness rises steadily, also for the colour-blind and in grey.
_VIRIDIS = (
    *((68, 1, 84), (71, 45, 123), (59, 82, 139), (44, 114, 142), (33, 145, 140)),
    *((40, 174, 128), (94, 201, 98), (173, 220, 48), (253, 231, 37)),
)
_SHADES = 240
_PAPER, _INK, _GRID, _ALARM, _LINE = range(_SHADES, _SHADES + 5)
_COLOURS = ((255, 255, 255), (40, 40, 40), (210, 210, 210), (214, 39, 40), (31, 90, 160))
_LEFT, _RIGHT, _TOP, _GAP, _BOTTOM, _STRIP = 96, 20, 12, 14, 40, 96
_BAND_PIXELS = 3
_WIDEST, _NARROWEST = 1600, 800
_TEXT_PIXELS = 15
_TICKS_HZ = (100, 200, 500, 1000, 2000, 4000, 8000, 16_000, 32_000)
_TICK_SECONDS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600)


@dataclass(frozen=True, slots=True)
class ScoreOverlay:
    """What the picture shows beside the sound. Seconds count from the beginning of the clip."""

    raised_seconds: float
    scores: Sequence[tuple[float, float]] = ()
    """(seconds, clip score)."""
    threshold: float | None = None


def draw_clip(folder: Path) -> bytes:
    """The PNG of an evidence folder. Raises InputError, one line, without Pillow and if the clip cannot be read."""
    metadata = read_metadata(folder)
    if metadata is None or not is_plain_file(folder / CLIP):
        raise InputError(f"{folder / CLIP}: is not there; the picture is drawn from the clip")
    features = FeatureSettings()
    try:
        frames = clip_logmel(folder / CLIP, features)
    except (OSError, soundfile.SoundFileError) as error:
        raise InputError(f"{folder / CLIP}: cannot be read ({error}); no picture is drawn") from None
    if not len(frames):
        raise InputError(f"{folder / CLIP}: shorter than one frame; no picture is drawn")
    image = draw_spectrogram(
        frames, features, ScoreOverlay(metadata.raised_seconds, _clip_scores(folder), metadata.threshold)
    )
    return to_png(image, {"Title": metadata.event, "Creation Time": utc_text(metadata.raised_at)})


def _clip_scores(folder: Path) -> list[tuple[float, float]]:
    """(seconds, clip score) of all complete clip scores that are numbers."""
    points = []
    for line in read_scores(folder / SCORES):
        seconds, score = line.get("at_seconds"), line.get("clip_score")
        if line.get("complete") is True and isinstance(seconds, (int, float)) and isinstance(score, (int, float)):
            points.append((float(seconds), float(score)))
    return points


def clip_logmel(path: Path, features: FeatureSettings) -> Float32Array:
    """Log-mel (T, n_mels) float32 of a clip at any rate, read in blocks of a second. Raises as soundfile does."""
    stream, frames = LogMelStream(features), [np.empty((0, features.n_mels), np.float32)]
    with soundfile.SoundFile(path) as sound:
        rate = sound.samplerate
        same = rate == features.sample_rate
        resampler = None if same else soxr.ResampleStream(rate, features.sample_rate, 1, dtype="float32")
        remaining = sound.frames
        while remaining > 0:
            block: Float32Array = sound.read(min(remaining, rate), dtype="float32")
            if not block.size:
                raise OSError(5, "the clip ends too early", str(path))
            remaining -= block.size
            if resampler is not None:
                block = resampler.resample_chunk(block, last=not remaining).ravel()
            frames.append(stream.push(block))
    return np.concatenate(frames)


def draw_spectrogram(frames: Float32Array, features: FeatureSettings, overlay: ScoreOverlay) -> Image.Image:
    """An image of palette indices of log-mel frames (T, n_mels), T >= 1. Raises InputError without Pillow.

    One frame is one pixel wide or more; above 1600 frames the loudest of several stands for them.
    """
    plot = _columns(_shades(frames))
    height, width = plot.shape
    bottom = _TOP + height
    indices: NDArray[np.uint8] = np.full((bottom + _GAP + _STRIP + _BOTTOM, _LEFT + width + _RIGHT), _PAPER, np.uint8)
    indices[_TOP:bottom, _LEFT : _LEFT + width] = plot
    canvas = _Canvas(indices)
    seconds = features.sample_count(frames.shape[0]) / features.sample_rate
    across = _Axis(0.0, seconds, _LEFT, _LEFT + width - 1)
    _draw_frequencies(canvas, features, height)
    _draw_scores(canvas, across, overlay, bottom + _GAP)
    _draw_times(canvas, across, overlay.raised_seconds, bottom)
    return canvas.image


def to_png(image: Image.Image, notes: dict[str, str]) -> bytes:
    """The bytes of a PNG, with `notes` as its text chunks."""
    from PIL import PngImagePlugin

    text = PngImagePlugin.PngInfo()
    for name, value in notes.items():
        text.add_text(name, value)
    data = io.BytesIO()
    image.save(data, "PNG", pnginfo=text)
    return data.getvalue()


def palette() -> NDArray[np.uint8]:
    """The colours (245, 3) uint8: 240 shades of the map, then those of paper, ink and lines."""
    at = np.linspace(0, len(_VIRIDIS) - 1, _SHADES)
    anchors = np.array(_VIRIDIS, float)
    shades = np.stack([np.interp(at, np.arange(len(_VIRIDIS)), anchors[:, i]) for i in range(3)], axis=1)
    return np.concatenate([np.rint(shades), np.array(_COLOURS, float)]).astype(np.uint8)


class _Canvas:
    """A Pillow image of palette indices with the few things that are drawn on it."""

    def __init__(self, indices: NDArray[np.uint8]) -> None:
        try:
            from PIL import Image, ImageDraw, ImageFont
        except ImportError:
            raise InputError("pictures: Pillow is not installed; pip install 'edgeasd[serve]'") from None
        # Raw bytes of "L": which mode an array becomes is a deprecated argument of Pillow.
        self.image = Image.frombytes("L", indices.shape[::-1], indices.tobytes())
        self.image.putpalette(palette().tobytes())
        self._draw = ImageDraw.Draw(self.image)
        self._font: Any = ImageFont.load_default(_TEXT_PIXELS)

    def line(self, points: Sequence[tuple[int, int]], colour: int, width: int = 1) -> None:
        """A line through points (x, y)."""
        self._draw.line(points, colour, width)

    def dashes(self, start: tuple[int, int], length: int, colour: int, *, down: bool) -> None:
        """A dashed line from `start`, down or to the right."""
        x, y = start
        for at in range(0, length, 8):
            end = min(at + 4, length - 1)
            self.line([(x, y + at), (x, y + end)] if down else [(x + at, y), (x + end, y)], colour)

    def text(self, at: tuple[int, int], text: str, anchor: str) -> None:
        """Text at (x, y); `anchor` as Pillow names it, such as `rm` for the middle of the right end."""
        self._draw.text(at, text, _INK, self._font, anchor=anchor)

    def text_width(self, text: str) -> int:
        """Pixels that `text` takes."""
        return round(self._draw.textlength(text, self._font))


@dataclass(frozen=True, slots=True)
class _Axis:
    """A straight map from values to pixels."""

    low: float
    high: float
    first: int
    last: int

    def at(self, value: float) -> int:
        """The pixel of a value."""
        return round(self.first + (value - self.low) / (self.high - self.low) * (self.last - self.first))


def _shades(frames: Float32Array) -> NDArray[np.uint8]:
    """(n_mels, T): the middle 98 % of all values over the whole map, at least one decade, low bands below."""
    low, high = (float(v) for v in np.percentile(frames, (1.0, 99.5)))
    high = max(high, low + 1.0)
    scaled = (frames.T[::-1] - low) * ((_SHADES - 1) / (high - low))
    return np.clip(np.rint(scaled), 0, _SHADES - 1).astype(np.uint8)


def _columns(shades: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The shades as pixels, 800 to 1600 wide if there are enough frames."""
    bands, count = shades.shape
    joined = -(-count // _WIDEST)
    if joined > 1:
        shades = np.maximum.reduceat(shades, np.arange(0, count, joined), axis=1)
    wide = max(1, _NARROWEST // shades.shape[1])
    return np.repeat(np.repeat(shades, wide, axis=1), max(1, _BAND_PIXELS * 128 // bands), axis=0)


def _draw_frequencies(canvas: _Canvas, features: FeatureSettings, height: int) -> None:
    low, high = (float(hz_to_mel(f)) for f in (features.f_min, features.f_max))
    up = _Axis(low, high, _TOP + height - 1, _TOP)
    previous = canvas.image.height
    for hz in (hz for hz in _TICKS_HZ if features.f_min <= hz <= features.f_max):
        y = up.at(float(hz_to_mel(hz)))
        # Low frequencies lie close together: a label that would cover the previous one is left out.
        if y > previous - _TEXT_PIXELS - 4:
            continue
        previous = y
        canvas.line([(_LEFT - 8, y), (_LEFT - 3, y)], _INK)
        _label(canvas, y, f"{hz} Hz" if hz < 1000 else f"{hz // 1000} kHz", _TOP, _TOP + height)


def _label(canvas: _Canvas, y: int, text: str, top: int, bottom: int) -> None:
    """A label left of the plot, between `top` and `bottom`."""
    half = _TEXT_PIXELS // 2 + 1
    canvas.text((_LEFT - 14, min(max(y, top + half), bottom - half)), text, "rm")


def _draw_times(canvas: _Canvas, across: _Axis, raised: float, bottom: int) -> None:
    """Seconds from the alarm, which is a dashed line through everything."""
    step = next((s for s in _TICK_SECONDS if across.high / s <= 10), 1200)
    low = canvas.image.height - _BOTTOM
    for number in range(int(-raised // step), int((across.high - raised) // step) + 2):
        seconds = number * step
        if not 0.0 <= raised + seconds <= across.high:
            continue
        x = across.at(raised + seconds)
        canvas.line([(x, low), (x, low + 5)], _INK)
        canvas.line([(x, bottom), (x, bottom + 4)], _INK)
        label = f"{seconds:+d} s" if seconds else "0 s"
        half = canvas.text_width(label) // 2
        canvas.text((min(x, canvas.image.width - half - 4), low + 12), label, "mt")
    if 0.0 <= raised <= across.high:
        x = across.at(raised)
        canvas.dashes((x, _TOP), bottom - _TOP, _PAPER, down=True)
        canvas.dashes((x, bottom), low - bottom, _ALARM, down=True)


def _draw_scores(canvas: _Canvas, across: _Axis, overlay: ScoreOverlay, top: int) -> None:
    """Clip scores as a line, the threshold as a dashed one."""
    bottom = top + _STRIP - 1
    for y in (top, bottom):
        canvas.line([(_LEFT, y), (across.last, y)], _GRID)
    inside = [(t, s) for t, s in overlay.scores if 0.0 <= t <= across.high]
    values = [s for _, s in inside] + ([] if overlay.threshold is None else [overlay.threshold])
    if not values:
        return
    low, high = min(values), max(values)
    margin = max(0.08 * (high - low), 1e-3 * max(abs(high), abs(low)), 1e-9)
    up = _Axis(low - margin, high + margin, bottom, top)
    canvas.line([(across.at(seconds), up.at(score)) for seconds, score in inside], _LINE, width=2)
    shown = high if overlay.threshold is None else overlay.threshold
    if overlay.threshold is not None:
        canvas.dashes((_LEFT, up.at(shown)), across.last + 1 - _LEFT, _ALARM, down=False)
    _label(canvas, up.at(shown), f"{shown:.3g}", top, bottom)
