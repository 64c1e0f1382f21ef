"""Event IDs: 26 characters that sort by time and are never given twice.

48 bits of milliseconds and 80 random bits in Crockford's base 32, the form known as ULID.
"""

from __future__ import annotations

import re
from collections.abc import Callable

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
LENGTH = 26
PATTERN = "^[0-7][0-9A-HJKMNP-TV-Z]{25}$"
RandomBits = Callable[[int], int]
"""Given a number of bits, a random integer below 2 to that power, as `secrets.randbits`."""


def is_event_id(text: str) -> bool:
    """Whether `text` has the form of an event ID."""
    return re.fullmatch(PATTERN[1:-1], text) is not None


def make_event_id(milliseconds: int, random_bits: RandomBits) -> str:
    """The ID of an event at `milliseconds` since 1970, 0 to 2 ** 48 - 1."""
    value = (milliseconds << 80) | random_bits(80)
    return "".join(ALPHABET[(value >> shift) & 31] for shift in range(5 * (LENGTH - 1), -1, -5))


def milliseconds_of(event_id: str) -> int:
    """The milliseconds that an ID was made with."""
    value = 0
    for character in event_id:
        value = (value << 5) | ALPHABET.index(character)
    return value >> 80
