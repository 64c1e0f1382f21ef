"""Whether a sound is one block, again and again: a driver that hands out an old buffer for ever."""

from __future__ import annotations

import numpy as np

from edgeasd.runtime.logmel import Float32Array

_PATTERN = 48
_TRIED = 8


def repeated_block(sound: Float32Array, longest: int) -> int | None:
    """Samples of the block that `sound` (n,) repeats exactly from beginning to end; None where it repeats none.

    Blocks of 2 to `longest` samples are found, for n > longest + 48; a constant is none. The last samples are
    looked up in what came before, so the cost is a few passes over the array and not one for each length.
    """
    if sound[0] == sound[-1] and np.all(sound == sound[0]):
        return None
    last = sound.size - 1
    first = max(_PATTERN, last - longest)
    ends = np.flatnonzero(sound[first:last] == sound[last]) + first
    for back in range(1, _PATTERN):
        if not ends.size:
            return None
        ends = ends[sound[ends - back] == sound[last - back]]
    for end in ends[::-1][:_TRIED]:
        block = last - int(end)
        if np.array_equal(sound[block:], sound[:-block]):
            return block
    return None
