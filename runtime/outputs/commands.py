"""Commands as they come over a network: anything at all, until it was parsed."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from edgeasd.runtime.errors import InputError

LARGEST = 4096
"""Bytes of a payload."""
_MOST_FIELDS, _LONGEST_NAME, _LONGEST_TEXT = 16, 32, 500
_REMEDY = 'send an object such as {"command": "acknowledge", "by": "anna"}'


def parse_payload(payload: bytes, place: str) -> dict[str, Any]:
    """A flat JSON object with a `command`; which commands and fields there are, the alarm machine knows.

    Its values are texts without control characters, finite numbers, true, false and null. Raises InputError
    with one line that names `place` for anything else: too long, not UTF-8, nested, NaN, a name given twice.
    """
    if len(payload) > LARGEST:
        raise InputError(f"{place}: {len(payload)} bytes, at most {LARGEST} are read; {_REMEDY}")
    try:
        value = json.loads(payload.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise InputError(f"{place}: not a JSON object with each name once; {_REMEDY}") from None
    if not isinstance(value, dict) or not 1 <= len(value) <= _MOST_FIELDS:
        raise InputError(f"{place}: not an object of 1 to {_MOST_FIELDS} fields; {_REMEDY}")
    for name, item in value.items():
        if not (0 < len(name) <= _LONGEST_NAME and name.isascii() and name.isidentifier()):
            raise InputError(f"{place}: a field has no plain name; {_REMEDY}")
        if not _plain(item):
            raise InputError(f"{place}: {name} is neither short text, number, true, false nor null; {_REMEDY}")
    command = value.get("command")
    if not (isinstance(command, str) and 0 < len(command) <= _LONGEST_NAME and command.isidentifier()):
        raise InputError(f"{place}: there is no command in it; {_REMEDY}")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice")
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _plain(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= _LONGEST_TEXT and all(c.isprintable() for c in value)
    if isinstance(value, int):
        return abs(value) < 2**53
    return value is None or (isinstance(value, float) and math.isfinite(value))
