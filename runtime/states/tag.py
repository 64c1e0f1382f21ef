"""Tags of the plant: what a value on a topic, or of any other source of tags, says of the state of a machine."""

from __future__ import annotations

import json
import re

from edgeasd.runtime.errors import InputError, printable
from edgeasd.runtime.states.settings import STATE_NAME, OperationSettings

_LARGEST = 4096
_USUAL = {
    "0": "off",
    "1": "running",
    "false": "off",
    "true": "running",
    "stop": "off",
    "stopped": "off",
    "on": "running",
}
"""What values mean for which the settings say nothing."""


def parse_tag(payload: bytes, settings: OperationSettings, place: str) -> str:
    """The state that a published value says: plain text or a number, or a JSON object with `tag_field`.

    `tag_values` of the settings come first; else 0, false and stop are off, 1, true and on running, and any other
    word is the name of a state. Raises InputError with one line that names `place` for what is none of these.
    """
    if len(payload) > _LARGEST:
        raise InputError(f"{place}: {len(payload)} bytes, at most {_LARGEST} are read; publish the value alone")
    try:
        text = payload.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise InputError(f"{place}: is not UTF-8; publish text or a number") from None
    if text.startswith("{"):
        text = _field(text, settings.tag_field, place)
    text = text.strip('"').strip().lower()
    if re.fullmatch(r"-?\d+\.0+", text):
        text = text.partition(".")[0]
    state = settings.tag_values.get(text) or _USUAL.get(text, text)
    if not re.fullmatch(STATE_NAME, state) or state.isdigit():
        raise InputError(f"{place}: {printable(text, 40)!r} is no state; say what it means in tag_values")
    return state


def _field(text: str, name: str, place: str) -> str:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(f"{place}: not JSON; publish an object with {name!r}, or the value alone") from None
    if not isinstance(value, dict) or isinstance(value.get(name), dict | list) or value.get(name) is None:
        raise InputError(f"{place}: has no field {name!r}; set tag_field to the one that holds the value")
    return json.dumps(value[name]) if not isinstance(value[name], str) else value[name]
