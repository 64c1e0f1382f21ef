"""What leaves the box: one envelope for every message, and a body for each kind. `docs/schemas/` is made from here.

A receiver ignores fields it does not know. `schema` changes when a field changes its meaning.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field, TypeAdapter, ValidationError, create_model

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.outputs.bodies import EventBody, EventID, HealthBody, Name, Part, ScoreBody, StatusBody, Time

SCHEMA = 1
LARGEST = 64 * 1024
"""Bytes of one message as JSON in UTF-8."""

Kind = Literal["event", "score", "health", "status", "start", "stop"]
KINDS: tuple[Kind, ...] = get_args(Kind)
DROPPED_FIRST: tuple[Kind, ...] = ("score", "health", "status", "start", "stop", "event")
"""The order in which a full queue gives kinds up: what says least goes first, events last."""


class _Message(Part):
    schema_: Literal[1] = Field(alias="schema")
    site: Name
    machine: Name | None
    """Machine type of the bundle; null in messages of the service itself."""
    id: Name | None
    event: EventID | None
    """The event this belongs to, if one is open or was ended by it."""
    at: Time
    """Wall clock of the box, UTC."""


class EventMessage(_Message):
    """A change of alarm state."""

    kind: Literal["event"]
    machine: Name
    id: Name
    body: EventBody


class ScoreMessage(_Message):
    """A summary of scores, every so many seconds."""

    kind: Literal["score"]
    body: ScoreBody


class HealthMessage(_Message):
    """The health of an input, when it changes and now and then."""

    kind: Literal["health"]
    body: HealthBody


class StatusMessage(_Message):
    """What a stream or the service is doing: `start` first, `stop` last, `status` between."""

    kind: Literal["status", "start", "stop"]
    body: StatusBody


class _Numbered(Part):
    queue: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    """The queue that numbers these messages. A new one begins again at 1."""
    sequence: Annotated[int, Field(ge=1)]
    """1, 2, 3, … for each queue and machine. A number that came before is a resend; a hole was dropped, and counted."""


MODELS: dict[str, type[_Message]] = {
    "event": EventMessage,
    "score": ScoreMessage,
    "health": HealthMessage,
    "status": StatusMessage,
}
DELIVERED: dict[str, type[BaseModel]] = {
    name: create_model(model.__name__, __base__=(_Numbered, model), __doc__=model.__doc__)
    for name, model in MODELS.items()
}
"""The messages as a receiver gets them, numbered by the queue they came through."""

_ANY: TypeAdapter[Any] = TypeAdapter(
    Annotated[EventMessage | ScoreMessage | HealthMessage | StatusMessage, Field(discriminator="kind")]
)


def iso_time(wall: float) -> str:
    """Seconds since 1970 as ISO 8601 in UTC with milliseconds."""
    return datetime.fromtimestamp(wall, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def make_message(
    kind: Kind,
    body: Mapping[str, Any],
    *,
    site: str,
    machine: str | None = None,
    id: str | None = None,
    wall: float,
    event: str | None = None,
) -> dict[str, Any]:
    """A message ready for `Outputs.put`; `wall` is seconds since 1970. An event's ID and time come from its body."""
    if kind == "event":
        machine, id, event = body.get("machine"), body.get("id"), body.get("event")
    return {
        "schema": SCHEMA,
        "kind": kind,
        "site": site,
        "machine": machine,
        "id": id,
        "event": event,
        "at": body["at"] if kind == "event" and "at" in body else iso_time(wall),
        "body": dict(body),
    }


def encode(message: Mapping[str, Any]) -> str:
    """A checked message as JSON on one line; a number that JSON has not (NaN, ±∞) becomes null.

    Raises InputError for what is no message, and for more than `LARGEST` bytes.
    """
    plain = message
    try:
        text = json.dumps(message, ensure_ascii=False, allow_nan=False, separators=(", ", ": "))
    except ValueError:
        plain = _finite(message)
        text = json.dumps(plain, ensure_ascii=False, separators=(", ", ": "))
    except TypeError as error:
        raise InputError(f"message: {error}; give plain JSON values") from None
    try:
        _ANY.validate_python(plain)
        size = len(text.encode())
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "message"
        raise InputError(f"message: {where}: {first['msg']}; see docs/how-to/outputs.md for its fields") from None
    except UnicodeEncodeError:
        raise InputError("message: holds half a surrogate pair, which is no text; give whole characters") from None
    if size > LARGEST:
        raise InputError(f"message: {size} bytes, at most {LARGEST} leave the box; make it smaller")
    return text


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def numbered(text: str, queue: str, sequence: int) -> str:
    """The JSON object `text` with its number in front, as a receiver gets it."""
    return f'{{"queue": "{queue}", "sequence": {sequence}, {text[1:]}'


def new_queue_name() -> str:
    """16 random hexadecimal digits."""
    return secrets.token_hex(8)


def is_queue_name(value: object) -> bool:
    """Whether `value` is what `new_queue_name` may return."""
    return isinstance(value, str) and len(value) == 16 and set(value) <= set("0123456789abcdef")
