"""A PNG of up to 256 colours, and the few characters that stand on an axis. Needs zlib and numpy only."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

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
