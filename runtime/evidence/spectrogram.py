"""A PNG of up to 256 colours, and the few characters that stand on an axis. Needs zlib and numpy only."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from edgeasd.runtime.features.logmel import FeatureSettings, Float32Array, hz_to_mel

Image = NDArray[np.uint8]

GLYPH_HEIGHT, GLYPH_WIDTH = 7, 5
# Five columns each, the lowest bit on top.
_GLYPHS = {
    "0": "3e5149453e",
    "1": "00427f4000",
    "2": "4261514946",
    "3": "2141454b31",
    "4": "1814127f10",
    "5": "2745454539",
    "6": "3c4a494930",
    "7": "0171090503",
    "8": "3649494936",
    "9": "064949291e",
    ".": "0060600000",
    "-": "0808080808",
    "+": "08083e0808",
    "e": "3854545418",
    "k": "7f10284400",
    "s": "4854545420",
    "z": "4464544c44",
    "H": "7f0808087f",
    " ": "0000000000",
}


def png(image: Image, palette: Image, text: dict[str, str] | None = None) -> bytes:
    """`image` (height, width) uint8 holds indices into `palette` (up to 256, 3) uint8; `text` goes into tEXt chunks."""
    height, width = image.shape
    rows: Image = np.zeros((height, width + 1), np.uint8)  # each row begins with filter type 0
    rows[:, 1:] = image
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    notes = [_chunk(b"tEXt", f"{k}\0{v}".encode("latin-1", "replace")) for k, v in (text or {}).items()]
    body = [_chunk(b"IHDR", header), *notes, _chunk(b"PLTE", palette.tobytes())]
    body += [_chunk(b"IDAT", zlib.compress(rows.tobytes(), 6)), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def text_width(text: str, scale: int) -> int:
    """Pixels that `write_text` needs."""
    return scale * (len(text) * (GLYPH_WIDTH + 1) - 1)


def write_text(image: Image, x: int, y: int, text: str, colour: int, scale: int = 2) -> None:
    """Draw `text` with its upper left corner at (x, y); what lies outside the image is left out.

    Characters without a glyph are left blank.
    """
    for character in text:
        columns = np.frombuffer(bytes.fromhex(_GLYPHS.get(character, _GLYPHS[" "])), np.uint8)
        dots = (columns[None, :] >> np.arange(GLYPH_HEIGHT)[:, None]) & 1
        dots = np.repeat(np.repeat(dots, scale, 0), scale, 1).astype(bool)
        if x >= 0 and y >= 0:
            part = image[y : y + dots.shape[0], x : x + dots.shape[1]]
            part[dots[: part.shape[0], : part.shape[1]]] = colour
        x += scale * (GLYPH_WIDTH + 1)


# Every eighth of viridis (matplotlib, CC0): lightness rises steadily, also for the colour-blind and in grey.
_VIRIDIS = (
    *((68, 1, 84), (71, 45, 123), (59, 82, 139), (44, 114, 142), (33, 145, 140)),
    *((40, 174, 128), (94, 201, 98), (173, 220, 48), (253, 231, 37)),
)
_MAP = 240
_PAPER, _INK, _GRID, _ALARM, _LINE = range(_MAP, _MAP + 5)
_OTHERS = ((255, 255, 255), (40, 40, 40), (210, 210, 210), (214, 39, 40), (31, 90, 160))
_LEFT, _RIGHT, _TOP, _GAP, _BOTTOM, _STRIP = 96, 20, 12, 14, 40, 96
_BAND_PIXELS = 3
_WIDEST, _NARROWEST = 1600, 800
_TEXT = 2
_TICKS_HZ = (100, 200, 500, 1000, 2000, 4000, 8000, 16_000, 32_000)


@dataclass(frozen=True, slots=True)
class ScoreOverlay:
    """What the picture shows beside the sound. Seconds count from the beginning of the clip."""

    raised_seconds: float
    scores: Sequence[tuple[float, float]] = ()
    """(seconds, clip score)."""
    threshold: float | None = None


def palette() -> Image:
    """The colours (245, 3) uint8: 240 of the map, then those of paper, ink and lines."""
    at = np.linspace(0, len(_VIRIDIS) - 1, _MAP)
    anchors = np.array(_VIRIDIS, float)
    shades = np.stack([np.interp(at, np.arange(len(_VIRIDIS)), anchors[:, i]) for i in range(3)], axis=1)
    return np.concatenate([np.rint(shades), np.array(_OTHERS, float)]).astype(np.uint8)


def draw(frames: Float32Array, features: FeatureSettings, trace: ScoreOverlay) -> Image:
    """Indices into `palette`, (height, width) uint8, of log-mel frames (T, n_mels), T >= 1.

    One frame is one pixel wide or more; above 1600 frames the loudest of several stands for them.
    """
    plot = _columns(_shades(frames))
    height, width = plot.shape
    bottom = _TOP + height
    image: Image = np.full((bottom + _GAP + _STRIP + _BOTTOM, _LEFT + width + _RIGHT), _PAPER, np.uint8)
    image[_TOP:bottom, _LEFT : _LEFT + width] = plot
    seconds = features.sample_count(frames.shape[0]) / features.sample_rate
    across = _Axis(0.0, seconds, _LEFT, _LEFT + width - 1)
    _frequencies(image, features, height)
    _strip(image, across, trace, bottom + _GAP)
    _times(image, across, trace.raised_seconds, bottom)
    return image


def picture(frames: Float32Array, features: FeatureSettings, trace: ScoreOverlay, text: dict[str, str]) -> bytes:
    """`draw` as the bytes of a PNG; `text` goes into it as notes."""
    return png(draw(frames, features, trace), palette(), text)


def _shades(frames: Float32Array) -> Image:
    """(n_mels, T) uint8: the middle 98 % of all values over the whole map, at least one decade, low bands below."""
    low, high = (float(v) for v in np.percentile(frames, (1.0, 99.5)))
    high = max(high, low + 1.0)
    scaled = (frames.T[::-1] - low) * ((_MAP - 1) / (high - low))
    return np.clip(np.rint(scaled), 0, _MAP - 1).astype(np.uint8)


def _columns(shades: Image) -> Image:
    bands, count = shades.shape
    joined = -(-count // _WIDEST)
    if joined > 1:
        shades = np.maximum.reduceat(shades, np.arange(0, count, joined), axis=1)
    wide = max(1, _NARROWEST // shades.shape[1])
    return np.repeat(np.repeat(shades, wide, axis=1), max(1, _BAND_PIXELS * 128 // bands), axis=0)


@dataclass(frozen=True, slots=True)
class _Axis:
    """A straight map from values to pixels."""

    low: float
    high: float
    first: int
    last: int

    def at(self, value: float) -> int:
        return round(self.first + (value - self.low) / (self.high - self.low) * (self.last - self.first))


def _frequencies(image: Image, features: FeatureSettings, height: int) -> None:
    low, high = (float(hz_to_mel(f)) for f in (features.f_min, features.f_max))
    up = _Axis(low, high, _TOP + height - 1, _TOP)
    above = image.shape[0]
    for hz in (hz for hz in _TICKS_HZ if features.f_min <= hz <= features.f_max):
        y = up.at(float(hz_to_mel(hz)))
        # Low frequencies lie close together: a label that would cover the last one is left out.
        if y > above - GLYPH_HEIGHT * _TEXT - 4:
            continue
        above = y
        image[y, _LEFT - 8 : _LEFT - 2] = _INK
        label = f"{hz} Hz" if hz < 1000 else f"{hz // 1000} kHz"
        _label_left(image, y, label, _TOP, _TOP + height)


def _label_left(image: Image, y: int, label: str, top: int, bottom: int) -> None:
    high = GLYPH_HEIGHT * _TEXT
    upper = min(max(y - high // 2, top), bottom - high)
    write_text(image, _LEFT - 14 - text_width(label, _TEXT), upper, label, _INK, _TEXT)


def _times(image: Image, across: _Axis, raised: float, bottom: int) -> None:
    """Seconds from the alarm, which is a dashed line through everything."""
    step = next((s for s in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600) if across.high / s <= 10), 1200)
    low = image.shape[0] - _BOTTOM
    for number in range(int(-raised // step), int((across.high - raised) // step) + 2):
        seconds = number * step
        if not 0.0 <= raised + seconds <= across.high:
            continue
        x = across.at(raised + seconds)
        image[low : low + 6, x] = _INK
        image[bottom : bottom + 5, x] = _INK
        label = f"{seconds:+d} s" if seconds else "0 s"
        left = min(x - text_width(label, _TEXT) // 2, image.shape[1] - text_width(label, _TEXT) - 2)
        write_text(image, left, low + 12, label, _INK, _TEXT)
    if 0.0 <= raised <= across.high:
        x = across.at(raised)
        rows = np.arange(_TOP, low)
        image[rows[rows % 8 < 5], x] = np.where(rows[rows % 8 < 5] < bottom, _PAPER, _ALARM)


def _strip(image: Image, across: _Axis, trace: ScoreOverlay, top: int) -> None:
    """Clip scores as a line, the threshold as another."""
    bottom = top + _STRIP - 1
    right = across.last + 1
    image[[top, bottom], _LEFT:right] = _GRID
    inside = [(t, s) for t, s in trace.scores if 0.0 <= t <= across.high]
    values = [s for _, s in inside] + ([] if trace.threshold is None else [trace.threshold])
    if not values:
        return
    low, high = min(values), max(values)
    spare = max(0.08 * (high - low), 1e-3 * max(abs(high), abs(low)), 1e-9)
    up = _Axis(low - spare, high + spare, bottom, top)
    for one, nearest in pairwise(inside):
        _line(image, (across.at(one[0]), up.at(one[1])), (across.at(nearest[0]), up.at(nearest[1])))
    shown = high if trace.threshold is None else trace.threshold
    if trace.threshold is not None:
        y = up.at(trace.threshold)
        columns = np.arange(_LEFT, right)
        image[y, columns[columns % 8 < 5]] = _ALARM
    _label_left(image, up.at(shown), f"{shown:.3g}", top, bottom)


def _line(image: Image, start: tuple[int, int], end: tuple[int, int]) -> None:
    """Two pixels thick, from one point to another."""
    count = max(abs(end[0] - start[0]), abs(end[1] - start[1])) + 1
    x: NDArray[np.intp] = np.rint(np.linspace(start[0], end[0], count)).astype(np.intp)
    y: NDArray[np.intp] = np.rint(np.linspace(start[1], end[1], count)).astype(np.intp)
    image[y, x] = _LINE
    image[np.minimum(y + 1, image.shape[0] - 1), x] = _LINE
