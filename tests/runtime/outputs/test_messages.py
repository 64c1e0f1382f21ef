"""Messages: what leaves the device fits docs/schemas."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.health.report import HealthReport, StateReport
from edgeasd.runtime.outputs import ScoreSummary, encode, make_message
from edgeasd.runtime.outputs.message_models import MODELS
from edgeasd.runtime.outputs.messages import (
    KINDS,
    health_body,
    numbered,
    segment_body,
    to_json,
)
from edgeasd.runtime.scoring.score import Score
from edgeasd.runtime.storage.outbox import DROPPED_FIRST
from edgeasd.runtime.system.clocks import utc_text

Make = Callable[..., dict[str, Any]]
STORE = "0123456789abcdef"
REPORT = HealthReport(12.0, False, None, -30.0, {"silence": StateReport(False, None, -30.0, "dBFS")})
SCORE = Score(3, 1024, 132_096, 2.0, 0.1, 5.0, 0.2, 0.15, 0.3, 4, True)


def delivered(message: dict[str, Any]) -> dict[str, Any]:
    whole: dict[str, Any] = json.loads(numbered(encode(message), STORE, 7, True))
    return whole


@pytest.mark.core
def test_schemas_in_docs_are_those_of_the_models(repository: Path) -> None:
    made = runpy.run_path(str(repository / "docs" / "make_schemas.py"))["schemas"]()
    stored = {path.name: path.read_text("utf-8") for path in (repository / "docs" / "schemas").glob("*.json")}
    assert made == stored, "run python docs/make_schemas.py"
    assert "site.json" in made, "what is not made is removed by it"


def test_messages_fit_their_schemas_and_no_other(repository: Path, an_event: Make, a_score: Make) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schemas = {
        path.stem.split("-")[0]: json.loads(path.read_text("utf-8"))
        for path in (repository / "docs" / "schemas").glob("*-2.json")
    }
    assert set(schemas) == set(MODELS)
    status = {"state": "running", "segments": 5, "latency_seconds": {"p50": 0.1}, "outputs": []}
    valve: dict[str, Any] = {"machine": "valve", "id": "00"}
    segment = segment_body(SCORE, offset=0, sample_rate=16_000, threshold=0.2)
    gap = {"at_sample": 5, "lost_samples": 7, "driver_overrun": False}
    source = {"state": "lost", "detail": "unplugged", "at_sample": None, "lost_seconds": 0.0}
    whole = {
        "event": delivered(an_event(1)),
        "score": delivered(a_score(0.5)),
        "health": delivered(make_message("health", health_body(REPORT), site="p", wall=1e9, **valve)),
        "status": delivered(make_message("stop", status, site="p", wall=1e9)),
        "segment": json.loads(to_json(make_message("segment", segment, **valve))),
        "gap": json.loads(to_json(make_message("gap", gap, wall=1e9, **valve))),
        "source": json.loads(to_json(make_message("source", source, wall=1e9, **valve))),
    }
    for name, message in whole.items():
        jsonschema.validate(message, schemas[name])
        assert (message.get("store"), message.get("seq")) == ((STORE, 7) if name in KINDS else (None, None))
        for other in set(schemas) - {name}:
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate(message, schemas[other])
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**message, "schema": 3}, schemas[name])


@pytest.mark.core
def test_a_full_outbox_drops_events_last() -> None:
    assert sorted(DROPPED_FIRST) == sorted(KINDS)
    assert DROPPED_FIRST[0] == "score"
    assert DROPPED_FIRST[-1] == "event"


@pytest.mark.core
def test_words_of_schema_version_1_are_replaced() -> None:
    """In messages that waited in the queues of an earlier version."""
    old = {"schema": 1, "type": "alarm_state", "machine": "m", "frozen": True, "reason": "input_sick"}
    waited = json.dumps({"schema": 1, "kind": "event", "site": "p", "body": old})
    body = json.loads(numbered(waited, STORE, 5, True))["body"]
    assert body == {"machine": "m", "suspended": True, "reason": "input_unhealthy"}
    assert json.loads(numbered('{"odd": 1}', STORE, 5, True))["odd"] == 1
    health = {"schema": 1, "at_seconds": 1.0, "sick": True, "sick_since_seconds": 0.5, "level_dbfs": None, "states": {}}
    waited = json.dumps({"schema": 1, "kind": "health", "site": "p", "body": health})
    assert json.loads(numbered(waited, STORE, 5, True)) == {
        "schema": 2,
        "store": STORE,
        "seq": 5,
        "stored": True,
        "kind": "health",
        "site": "p",
        "body": {
            "at_seconds": 1.0,
            "unhealthy": True,
            "unhealthy_since_seconds": 0.5,
            "level_dbfs": None,
            "states": {},
        },
    }


@pytest.mark.core
def test_source_that_is_away_is_unhealthy() -> None:
    assert health_body(REPORT)["unhealthy"] is False
    assert health_body(REPORT, unhealthy=True)["unhealthy"] is True


@pytest.mark.core
@pytest.mark.parametrize(
    ("threshold", "complete", "above"), [(None, True, None), (0.3, True, False), (0.2, True, True), (0.2, False, False)]
)
def test_segment_counts_samples_from_the_begin_of_the_sound(
    threshold: float | None, complete: bool, above: bool | None
) -> None:
    body = segment_body(replace(SCORE, complete=complete), offset=16_000, sample_rate=16_000, threshold=threshold)
    assert (body["start_sample"], body["end_sample"], body["end_seconds"]) == (17_024, 148_096, 9.256)
    assert body["above_threshold"] is above


@pytest.mark.core
@given(note=st.text(max_size=100), value=st.floats())
def test_any_text_and_number_is_one_line_of_json(note: str, value: float) -> None:
    message = make_message(
        "status", {"state": "running", "reason": note, "level_dbfs": value, "more": {"deep": [value]}}, site="p", wall=0
    )
    text = numbered(encode(message), STORE, 1, True)
    assert "\n" not in text
    assert json.loads(text)["body"]["reason"] == note


@pytest.mark.core
def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(InputError):
        encode(make_message("status", {"state": "running", "reason": "\ud800"}, site="p", wall=0))


@pytest.mark.core
def test_scores_are_summarised_in_one_message() -> None:
    summary = ScoreSummary(every_seconds=1.0)
    bodies = []
    for step in range(16):
        body = summary.add(step / 10, complete=step >= 9, threshold=0.5, time=100 + step / 5, wall=1e9 + step / 5)
        bodies += [body] if body else []
    assert [(body["count"], body["lowest"], body["highest"], body["last"]) for body in bodies] == [
        (6, 0.0, 0.5, 0.5),
        (5, 0.6, 1.0, 1.0),
        (5, 1.1, 1.5, 1.5),
    ]
    assert bodies[0]["since"] == utc_text(1e9)
    assert bodies[1]["since"] == utc_text(1e9 + 1.0)
    assert [body["complete"] for body in bodies] == [False, True, True]
    assert bodies[1]["mean"] == pytest.approx(0.8)
    encode(make_message("score", bodies[0], site="p", machine="valve", id="00", wall=1e9))
