"""The end of a file of lines: half a line that a power cut or a full disk has left there."""

from __future__ import annotations

import os


def torn_end(file: int, most: int) -> bytes:
    """The last `most` bytes at the most of what follows the last line end; nothing where the last line is whole.

    `file` is a descriptor that can be read. Raises OSError.
    """
    size = os.fstat(file).st_size
    tail = os.pread(file, min(size, most), max(0, size - most))
    return tail[tail.rfind(b"\n") + 1 :]
