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

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.outputs.state import OutputState

SCHEMA = 1
LARGEST = 64 * 1024
"""Bytes of one message as JSON in UTF-8."""

Kind = Literal["event", "score", "health", "status", "start", "stop"]
KINDS: tuple[Kind, ...] = get_args(Kind)
DROPPED_FIRST: tuple[Kind, ...] = ("score", "health", "status", "start", "stop", "event")
"""The order in which a full queue gives kinds up: what says least goes first, events last."""

_Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]
_Time = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")]
_EventID = Annotated[str, Field(pattern="^[0-7][0-9A-HJKMNP-TV-Z]{25}$")]
_Count = Annotated[int, Field(ge=0)]
_Number = float | None


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True, populate_by_name=True)


class EventBody(_Part):
    """One change of the alarm state of a machine, numbered without a hole."""

    schema_: Literal[1] = Field(alias="schema")
    type: Literal["alarm_state"]
    machine: _Name
    id: _Name
    sequence: Annotated[int, Field(ge=1, le=2**53 - 1)]
    """1, 2, 3, … for each machine, restarts included; not the `sequence` of the envelope."""
    event: _EventID | None
    previous: str
    state: str
    """normal, warning, alarm, acknowledged or cleared."""
    reason: str
    at: _Time
    raised_at: _Time | None
    score: _Number
    threshold: _Number
    peak: _Number
    snoozed_seconds: float
    maintenance: bool
    frozen: bool
    test: bool
    by: str | None
    note: str | None


class ScoreBody(_Part):
    """The clip scores of a span of time in a few numbers."""

    since: _Time
    """When the span began."""
    count: Annotated[int, Field(ge=1)]
    """Segments scored in it."""
    last: _Number
    """The last clip score."""
    mean: _Number
    lowest: _Number
    highest: _Number
    threshold: _Number
    complete: bool
    """Whether the last clip score is a mean over all the segments it should be."""


class HealthBody(_Part):
    """The health of an input: every state with its figure."""

    schema_: Literal[1] = Field(alias="schema")
    at_seconds: float
    """Seconds of sound since the monitor began."""
    sick: bool
    sick_since_seconds: _Number
    level_dbfs: _Number
    states: dict[str, dict[str, Any]]
    """For each health state `active`, `since_seconds`, `value` and `unit`."""


class Latency(_Part):
    """Seconds from the last sample of a segment to its score."""

    p50: _Number = None
    p95: _Number = None
    p99: _Number = None


class StatusBody(_Part):
    """What a stream, or the service, is doing and with what. What is not known is left out or null."""

    state: str
    """starting, running, degraded, failed or stopped."""
    reason: str | None = None
    """Why it is in that state."""
    source: str | None = None
    engine: str | None = None
    accelerator: str | None = None
    precision: str | None = None
    version: str | None = None
    """Version of edgeasd."""
    uptime_seconds: Annotated[float, Field(ge=0)] | None = None
    segments: _Count | None = None
    """Segments scored since the start."""
    skipped_segments: _Count | None = None
    """Segments left out because scoring could not keep up, since the start."""
    dropped_seconds: Annotated[float, Field(ge=0)] | None = None
    """Sound lost before scoring, since the start."""
    overruns: _Count | None = None
    """Times at which the driver's own buffer ran over, since the start."""
    waiting_seconds: Annotated[float, Field(ge=0)] | None = None
    """Sound that waits to be scored."""
    latency_seconds: Latency | None = None
    level_dbfs: _Number = None
    outputs: list[OutputState] | None = None
    """The outputs of this box; in messages of the service only."""


class _Message(_Part):
    schema_: Literal[1] = Field(alias="schema")
    site: _Name
    machine: _Name | None
    """Machine type of the bundle; null in messages of the service itself."""
    id: _Name | None
    event: _EventID | None
    """The event this belongs to, if one is open or was ended by it."""
    at: _Time
    """Wall clock of the box, UTC."""


class EventMessage(_Message):
    """A change of alarm state."""

    kind: Literal["event"]
    machine: _Name
    id: _Name
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


class _Numbered(_Part):
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
        raise InputError(f"message: {where}: {first['msg']}; see docs/outputs.md for its fields") from None
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
