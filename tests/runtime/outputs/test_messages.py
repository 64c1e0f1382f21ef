"""Messages: what leaves the box is what docs/schemas says."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeasd.runtime.outputs import ScoreSummary, iso_time, make_message
from edgeasd.runtime.outputs.messages import DROPPED_FIRST, KINDS, encode, numbered

Make = Callable[..., dict[str, Any]]
QUEUE = "0123456789abcdef"
HEALTH = {
    "schema": 1,
    "at_seconds": 12.0,
    "sick": False,
    "sick_since_seconds": None,
    "level_dbfs": -30.0,
    "states": {"silence": {"active": False, "since_seconds": None, "value": -30.0, "unit": "dBFS"}},
}


def delivered(message: dict[str, Any]) -> dict[str, Any]:
    whole: dict[str, Any] = json.loads(numbered(encode(message), QUEUE, 7))
    return whole


@pytest.mark.core
def test_the_schemas_in_docs_are_those_of_the_models(repository: Path) -> None:
    made = runpy.run_path(str(repository / "docs" / "make_schemas.py"))["schemas"]()
    stored = {path.name: path.read_text("utf-8") for path in (repository / "docs" / "schemas").glob("*.json")}
    assert made == stored, "run python docs/make_schemas.py"
    # What is not made is removed by it.
    assert "site.json" in made


def test_messages_fit_their_schemas_and_others_do_not(repository: Path, an_event: Make, a_score: Make) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schemas = {
        path.stem.split("-")[0]: json.loads(path.read_text("utf-8"))
        for path in (repository / "docs" / "schemas").glob("*-*.json")
    }
    status = {"state": "running", "segments": 5, "latency_seconds": {"p50": 0.1}, "outputs": []}
    whole = {
        "event": delivered(an_event(1)),
        "score": delivered(a_score(0.5)),
        "health": delivered(make_message("health", HEALTH, site="p", machine="valve", id="00", wall=1e9)),
        "status": delivered(make_message("stop", status, site="p", wall=1e9)),
    }
    for name, message in whole.items():
        jsonschema.validate(message, schemas[name])
        assert message["queue"] == QUEUE
        assert message["sequence"] == 7
        for other in set(schemas) - {name}:
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate(message, schemas[other])
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**message, "schema": 2}, schemas[name])


@pytest.mark.core
def test_every_kind_has_its_place_in_the_order_of_dropping_and_events_the_last() -> None:
    assert sorted(DROPPED_FIRST) == sorted(KINDS)
    assert DROPPED_FIRST[0] == "score"
    assert DROPPED_FIRST[-1] == "event"


@pytest.mark.core
@given(note=st.text(max_size=100), value=st.floats())
def test_any_text_and_number_is_one_line_of_json_or_an_error(note: str, value: float) -> None:
    message = make_message(
        "status", {"state": "running", "reason": note, "level_dbfs": value, "more": {"deep": [value]}}, site="p", wall=0
    )
    text = numbered(encode(message), QUEUE, 1)
    assert "\n" not in text
    assert json.loads(text)["body"]["reason"] == note


@pytest.mark.core
def test_half_a_surrogate_pair_is_refused() -> None:
    from edgeasd.runtime.errors import InputError

    with pytest.raises(InputError):
        encode(make_message("status", {"state": "running", "reason": "\ud800"}, site="p", wall=0))


@pytest.mark.core
def test_scores_are_gathered_into_one_message() -> None:
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
    assert bodies[0]["since"] == iso_time(1e9)
    assert bodies[1]["since"] == iso_time(1e9 + 1.0)
    assert [body["complete"] for body in bodies] == [False, True, True]
    assert bodies[1]["mean"] == pytest.approx(0.8)
    encode(make_message("score", bodies[0], site="p", machine="valve", id="00", wall=1e9))
