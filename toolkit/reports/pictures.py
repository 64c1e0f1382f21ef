"""Log-mel pictures as PNG: one byte a pixel and a palette, written with zlib alone."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

# Dark to light in even steps of lightness, so that it also reads in grey: interpolated between these.
_ANCHORS = ((0, 0, 8), (40, 11, 84), (101, 21, 110), (159, 42, 99), (212, 72, 66), (245, 125, 21), (250, 193, 39), (252, 255, 164))  # fmt: skip

WIDEST = 1000
"""Columns of a picture."""


def palette() -> NDArray[np.uint8]:
    """256 colours, (256, 3) uint8, from quiet to loud."""
    anchors = np.array(_ANCHORS, float)
    at = np.linspace(0, len(anchors) - 1, 256)
    channels = [np.interp(at, np.arange(len(anchors)), anchors[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=1).round().astype(np.uint8)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG (W3C, third edition) of palette indices, (rows, columns) uint8, top row first."""
    rows, columns = pixels.shape
    header = struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)
    # Every row begins with its filter type, 0: none.
    raw = np.concatenate([np.zeros((rows, 1), np.uint8), pixels], axis=1).tobytes()
    chunks = [(b"IHDR", header), (b"PLTE", palette().tobytes()), (b"IDAT", zlib.compress(raw, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, body) for name, body in chunks)


def logmel_png(features: NDArray[np.float32], low: float, high: float) -> bytes:
    """A log-mel (T, n_mels) as a picture, time to the right, frequency upward; `low` to `high` span the colours."""
    span = max(high - low, 1e-9)
    scaled = np.clip((_narrowed(np.asarray(features, np.float64)) - low) / span, 0, 1)
    return png((scaled.T[::-1] * 255).round().astype(np.uint8))


def _narrowed(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """At most WIDEST frames: of neighbours the loudest, so that a click in a long clip stays visible."""
    step = -(-len(features) // WIDEST)
    if step <= 1:
        return features
    return np.maximum.reduceat(features, np.arange(0, len(features), step), axis=0)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
