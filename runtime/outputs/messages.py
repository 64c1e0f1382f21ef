"""The messages that leave the device: one envelope, one body for each kind. Schema version 2.

Outputs send the kinds of `KINDS`, numbered by the outbox. `--jsonl` and `score --live` write the kinds of
`RECORD_KINDS`, without numbers. `message_models` has their fields, and docs/reference/messages.md describes them.
A receiver must ignore fields that it does not know. `SCHEMA` changes when a field changes its meaning.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import ValidationError

from edgeasd.runtime.alarms.transition import upgrade_message
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.health.report import HealthReport
from edgeasd.runtime.scoring.score import Score
from edgeasd.runtime.system.clocks import utc_text
from edgeasd.runtime.trend.history import change_text
from edgeasd.runtime.trend.watch import Change

SCHEMA = 2
LARGEST = 64 * 1024
"""Bytes of one message as JSON in UTF-8."""

Kind = Literal["event", "score", "health", "trend", "status", "start", "stop"]
RecordKind = Literal["start", "segment", "event", "health", "gap", "source", "status", "stop"]
KINDS: tuple[Kind, ...] = get_args(Kind)
RECORD_KINDS: tuple[RecordKind, ...] = get_args(RecordKind)
_HEALTH_FIELDS = {"sick": "unhealthy", "sick_since_seconds": "unhealthy_since_seconds"}
"""Words of schema version 1."""


def make_message(
    kind: Kind | RecordKind,
    body: Mapping[str, Any],
    *,
    site: str | None = None,
    machine: str | None = None,
    id: str | None = None,
    wall: float | None = None,
    event: str | None = None,
) -> dict[str, Any]:
    """A message without numbers; `wall` is seconds since 1970. An event's machine, ID and time come from its body."""
    at = None if wall is None else utc_text(wall)
    if kind == "event":
        machine, id, event, at = body.get("machine"), body.get("id"), body.get("event"), body.get("at", at)
    head = {"schema": SCHEMA, "kind": kind, "site": site, "machine": machine, "id": id, "event": event, "at": at}
    return {**head, "body": dict(body)}


def to_json(message: Mapping[str, Any]) -> str:
    """`message` as one line of JSON. Numbers that JSON does not have (NaN, infinities) become null.

    Raises InputError for values that JSON does not have.
    """
    try:
        return json.dumps(message, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(message), ensure_ascii=False)
    except TypeError as error:
        raise InputError(f"message: {error}; give plain JSON values") from None


def encode(message: Mapping[str, Any]) -> str:
    """A checked message for the outbox as one line of JSON.

    Raises InputError if it does not fit its model, has no site or time, or is larger than `LARGEST`.
    """
    from edgeasd.runtime.outputs.message_models import any_output

    text = to_json(message)
    try:
        size = len(text.encode())
        checked = any_output().validate_json(text)
    except UnicodeEncodeError:
        raise InputError("message: holds half a surrogate pair, which is no text; give whole characters") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "message"
        raise InputError(f"message: {where}: {first['msg']}; see docs/reference/messages.md for its fields") from None
    if checked.site is None or checked.at is None:
        raise InputError("message: has no site or time; give both")
    if size > LARGEST:
        raise InputError(f"message: {size} bytes, at most {LARGEST} leave the device; make it smaller")
    return text


_HEAD = f'{{"schema": {SCHEMA}, '


def numbered(payload: str, store: str, seq: int, stored: bool) -> str:
    """The JSON object `payload`, as `encode` made it, with its numbers, as a receiver gets it.

    A payload of schema version 1, which a queue of an earlier version held, is brought to this one.
    """
    if not payload.startswith(_HEAD):
        payload = to_json(_upgraded(json.loads(payload)))
    begin = f'{_HEAD}"store": "{store}", "seq": {seq}, "stored": {"true" if stored else "false"}, '
    return begin + payload.removeprefix(_HEAD)


def _upgraded(message: dict[str, Any]) -> dict[str, Any]:
    body = message.get("body")
    if isinstance(body, dict) and message.get("kind") == "event":
        body = upgrade_message(body)
    elif isinstance(body, dict) and message.get("kind") == "health":
        body = {_HEALTH_FIELDS.get(name, name): value for name, value in body.items() if name != "schema"}
    return {"schema": SCHEMA, **{key: value for key, value in message.items() if key != "schema"}, "body": body}


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


# Bodies from what the runtime computes


def health_body(report: HealthReport, unhealthy: bool | None = None) -> dict[str, Any]:
    """The body of a health message. `unhealthy` replaces that of the report, for a source that is not there."""
    values = report.to_json()
    return {
        "at_seconds": values["at_seconds"],
        "unhealthy": values["sick"] if unhealthy is None else unhealthy,
        "unhealthy_since_seconds": values["sick_since_seconds"],
        "level_dbfs": values["level_dbfs"],
        "states": values["states"],
    }


_REMEDIES = {
    "score": "listen to it; if it is well, {refit} --refit-distance, or edgeasd grow BUNDLE CLIPS for a bank of normals",
    "level": "look at gain and microphone; if it stays so, {refit} --refit-amplitude",
    "spread": "listen to it; if it is well, {refit} --alarms-per-day 1",
}
_REFIT = "edgeasd calibrate --machine {machine} --id {id} --clips CLIPS"


def trend_body(machine: str, id: str, mode: str, change: Change) -> dict[str, Any]:
    """The body of a message about a change of the normal."""
    refit = _REFIT.format(machine=machine, id=id)
    return {
        **{"quantity": change.quantity, "shape": change.shape, "mode": mode},
        **{"began": utc_text(change.began), "found": utc_text(change.found)},
        "ended": None if change.ended is None else utc_text(change.ended),
        **{"before": change.before, "after": change.after},
        **{"text": change_text(mode, change), "remedy": _REMEDIES[change.quantity].format(refit=refit)},
    }


def segment_body(score: Score, *, offset: int, sample_rate: int, threshold: float | None) -> dict[str, Any]:
    """The body of a segment record. `offset` is the sample at which the stream was last reset."""
    start, end = offset + score.start_sample, offset + score.end_sample
    return {
        "index": score.index,
        "start_sample": start,
        "end_sample": end,
        "end_seconds": round(end / sample_rate, 6),
        "score": score.score,
        "clip_score": score.clip_score,
        "averaged": score.averaged,
        "complete": score.complete,
        "q": score.q,
        "d": score.d,
        "d_prime": score.d_prime,
        "logit": score.logit,
        "threshold": threshold,
        "above_threshold": None if threshold is None else score.complete and score.clip_score > threshold,
    }


class ScoreSummary:
    """Gathers the clip scores of one machine; gives the body of a score message when it is due."""

    def __init__(self, every_seconds: float = 10.0) -> None:
        """`every_seconds` is counted on the monotonic clock that `add` is given."""
        self._every = every_seconds
        self._began: float | None = None
        self._begin(0.0)

    def _begin(self, wall: float) -> None:
        self._since, self._count, self._sum = wall, 0, 0.0
        self._lowest, self._highest = float("inf"), float("-inf")

    def add(
        self, clip_score: float, *, complete: bool, threshold: float | None, time: float, wall: float
    ) -> dict[str, Any] | None:
        """Add a clip score. Returns the body of a message when `every_seconds` have passed, else None.

        `time` is monotonic seconds, `wall` seconds since 1970.
        """
        if self._began is None:
            self._began = time
            self._begin(wall)
        self._count += 1
        self._sum += clip_score
        self._lowest, self._highest = min(self._lowest, clip_score), max(self._highest, clip_score)
        if time - self._began < self._every:
            return None
        body = {
            "since": utc_text(self._since),
            "count": self._count,
            "last": clip_score,
            "mean": self._sum / self._count,
            "lowest": self._lowest,
            "highest": self._highest,
            "threshold": threshold,
            "complete": complete,
        }
        self._began = time
        self._begin(wall)
        return body
