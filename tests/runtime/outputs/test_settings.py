"""Settings of outputs: strict, with one line that helps."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.outputs.settings import TYPES, JsonlSettings, outbox_limits, parse_outputs, shared_client_ids
from edgeasd.runtime.storage.outbox import OutboxLimits

pytestmark = pytest.mark.core

GOOD: dict[str, dict[str, Any]] = {
    "jsonl": {"type": "jsonl", "path": "/var/lib/edgeasd/o.jsonl"},
    "mqtt": {"type": "mqtt", "url": "mqtts://broker.plant:8883", "username": "edgeasd", "password_env": "MQTT"},
    "webhook": {"type": "webhook", "url": "https://example.org/hook", "secret_file": "/etc/edgeasd/secret"},
    "prometheus": {"type": "prometheus"},
}


def test_every_type_is_read() -> None:
    found = parse_outputs(GOOD, "site.toml: outputs")
    assert {name: settings.type for name, settings in found.items()} == {name: name for name in TYPES}
    assert isinstance(found["jsonl"], JsonlSettings)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"jsonl": {"rotate_megabyte": 3}}, "outputs.jsonl.rotate_megabyte: unknown; did you mean rotate_megabytes?"),
        ({"mqtt": {"password": "hush-hush"}}, "outputs.mqtt.password: unknown; did you mean password_env?"),
        ({"mqtt": {"zzz": 1}}, "outputs.mqtt.zzz: unknown; use one of kinds, "),
        ({"mqtt": {"url": "mqtts://anna:hush-hush@broker"}}, "holds a user or password"),
        ({"mqtt": {"url": None, "ulr": "mqtt://b"}}, "outputs.mqtt.ulr: unknown; did you mean url?"),
        ({"jsonl": {"paht": "/x"}}, "outputs.jsonl.paht: unknown; did you mean path?"),
        ({"mqtt": {"client_id": "a b"}}, "client_id 'a b': is not allowed; use letters, digits, - and _, at most 64"),
        ({"mqtt": {"protocol": "4"}}, "'3.1.1' or '5'; correct it"),
        (
            {"webhook": {"url": "http://example.org/x?token=hush-hush"}},
            "url http://example.org: would be sent in plain",
        ),
        ({"mqtt": {"url": "broker"}}, "is not mqtt://HOST or mqtts://HOST"),
        ({"mqtt": {"url": "mqtts://broker:99999"}}, "outputs.mqtt.url"),
        ({"mqtt": {"url": "mqtts://broker/topic"}}, "has a path"),
        ({"mqtt": {"url": "mqtt://broker"}}, "the password would be sent in plain text"),
        ({"mqtt": {"username": None}}, "a password is given without username"),
        ({"mqtt": {"password_file": "/x"}}, "password_file and password_env are both given; give one"),
        ({"mqtt": {"key_file": "/x"}}, "certificate_file and key_file go together"),
        ({"mqtt": {"prefix": "a/#"}}, "outputs.mqtt.prefix"),
        ({"mqtt": {"prefix": "a//b"}}, "has an empty level"),
        ({"mqtt": {"protocol": "4"}}, "outputs.mqtt.protocol '4'"),
        ({"mqtt": {"keepalive_seconds": "30"}}, "outputs.mqtt.keepalive_seconds '30'"),
        ({"webhook": {"url": "http://example.org"}}, "would be sent in plain text; use https://"),
        ({"webhook": {"url": "ftp://example.org"}}, "is not http://HOST or https://HOST"),
        ({"webhook": {"kinds": ["events"]}}, "outputs.webhook.kinds.0 'events'"),
        ({"webhook": {"kinds": []}}, "outputs.webhook.kinds"),
        ({"webhook": {"retry_first_seconds": float("nan")}}, "outputs.webhook.retry_first_seconds"),
        ({"prometheus": {"address": "9464"}}, "is not HOST:PORT, such as 127.0.0.1:9464"),
        ({"prometheus": {"address": "::1:94640"}}, "is not HOST:PORT"),
        ({"prometheus": {"type": "promethius"}}, "did you mean prometheus?"),
        ({"prometheus": {"type": None}}, "outputs.prometheus.type None: use one of jsonl, mqtt"),
        ({"../x": {"type": "prometheus"}}, "use a name of small letters"),
        ({"jsonl": {"path": "a\nb"}}, "outputs.jsonl.path"),
    ],
)
def test_error_is_one_line_with_place_and_remedy(change: dict[str, dict[str, Any]], said: str) -> None:
    tables = {name: {**GOOD.get(name, {}), **change.get(name, {})} for name in {**GOOD, **change}}
    with pytest.raises(InputError) as refused:
        parse_outputs(tables, "site.toml: outputs")
    message = str(refused.value)
    assert said in message
    assert message.startswith("site.toml: outputs")
    assert message.isprintable()
    assert "hush-hush" not in message


def test_plain_text_is_sent_on_loopback_or_if_allowed() -> None:
    for url in ("http://127.0.0.1:8000/", "http://[::1]/", "http://localhost/x"):
        parse_outputs({"a": {"type": "webhook", "url": url}}, "o")
    parse_outputs({"a": {"type": "webhook", "url": "http://example.org", "allow_plain_text": True}}, "o")


def test_two_outputs_with_one_client_id_at_one_broker_are_found() -> None:
    mqtt = {"type": "mqtt", "url": "mqtt://broker"}
    tables = {
        "a": {**mqtt, "client_id": "box"},
        "b": {**mqtt, "url": "mqtt://broker:1883", "client_id": "box"},
        "other_broker": {**mqtt, "url": "mqtt://broker:1884", "client_id": "box"},
        "other_id": {**mqtt, "client_id": "box2"},
        "default": mqtt,
        "default_too": mqtt,
    }
    problems = shared_client_ids(parse_outputs(tables, "o"))
    assert list(problems) == ["b"]
    assert problems["b"].startswith("client_id 'box': is that of outputs.a at the same broker")
    assert problems["b"].endswith("give each its own")


def test_largest_limits_of_all_outputs_apply_to_the_outbox() -> None:
    tables: dict[str, dict[str, Any]] = {
        "a": {"type": "jsonl", "path": "/a", "queue_megabytes": 10.0, "queue_hours": 1.0, "queue_event_hours": 3.0},
        "b": {"type": "jsonl", "path": "/b", "queue_megabytes": 1.0, "queue_hours": 2.0, "queue_event_hours": 2.0},
        "c": {"type": "prometheus"},
    }
    assert outbox_limits(parse_outputs(tables, "o")) == OutboxLimits(10_000_000, 7200.0, 10_800.0)
    assert outbox_limits({}) == OutboxLimits()


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30) | st.sampled_from([*TYPES]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=6,
)
_FIELDS = sorted({field for model in TYPES.values() for field in model.model_fields})


@given(
    value=_VALUES
    | st.dictionaries(
        st.text(max_size=8) | st.just("a"),
        st.builds(
            lambda table, kind: {**table, "type": kind},
            st.dictionaries(st.sampled_from(_FIELDS) | st.text(max_size=8), _VALUES, max_size=5),
            st.sampled_from([*TYPES]),
        ),
        max_size=3,
    )
)
def test_anything_is_read_or_refused_in_one_line(value: Any) -> None:
    try:
        parse_outputs(value, "outputs")
    except InputError as refused:
        assert str(refused).isprintable()  # noqa: PT017
