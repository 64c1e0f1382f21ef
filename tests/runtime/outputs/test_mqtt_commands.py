"""Commands over MQTT, from anyone and in any form: what is one reaches the callback, nothing else does anything."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made import until
from receivers import Broker

pytest.importorskip("paho.mqtt.client", reason="NO paho-mqtt: pip install 'edgeasd[serve]'")

from subscriber import Listener, hub_to, state

pytestmark = [pytest.mark.timeout(60)]

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def listener(broker: Broker) -> Iterator[Listener]:
    made = Listener(broker.port)
    yield made
    made.close()


def test_a_command_reaches_the_callback_and_nothing_else_does(
    tmp_path: Path, broker: Broker, listener: Listener
) -> None:
    given_: list[Any] = []
    base = "edgeasd/plant 1"
    listener.publish(f"{base}/valve/00/command", b'{"command": "acknowledge", "by": "kept"}', retain=True)
    with hub_to(tmp_path, broker.port, commands=True, on_command=lambda *got: given_.append(got)) as hub:
        until(lambda: state(hub).connected)
        for topic, payload in (
            ("valve/00", b"not json"),
            ("valve/00", b'{"command": "snooze", "seconds": NaN}'),
            ("valve/00", b'{"command": "ack", "command": "clear"}'),
            ("valve/00", b"[" * 4000),
            ("valve/00", b" " * 5000),
            ("_box/box", b'{"command": "clear"}'),
            ("%76alve/00", b'{"command": "clear"}'),
        ):
            listener.publish(f"{base}/{topic}/command", payload)
        listener.publish(f"{base}/a%2Fb/00/command", b'{"command": "snooze", "seconds": 60, "by": "anna"}')
        until(lambda: given_)
        assert state(hub).last_error is not None
    assert given_ == [("a/b", "00", {"command": "snooze", "seconds": 60, "by": "anna"})]


def test_a_handler_that_fails_ends_nothing(tmp_path: Path, broker: Broker, listener: Listener, an_event: Make) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a defect")

    with hub_to(tmp_path, broker.port, commands=True, on_command=fail) as hub:
        until(lambda: state(hub).connected)
        listener.publish("edgeasd/plant 1/valve/00/command", b'{"command": "clear"}')
        until(lambda: state(hub).last_error == "a defect")
        hub.put(an_event(1))
        until(lambda: state(hub).delivered == 1)
        assert state(hub).failed == 0


@pytest.mark.parametrize("answer", [b"\xff" * 50, b"\x20\x02\x00\x00\x30\xff\xff\xff\xff\xff", b"HTTP/1.1 400\r\n\r\n"])
def test_a_broker_that_talks_nonsense_is_a_failed_attempt(tmp_path: Path, answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                for _ in range(3):
                    connection, _ = server.accept()
                    connection.sendall(answer)
                    time.sleep(0.1)
                    connection.close()

        threading.Thread(target=serve, daemon=True).start()
        hub = hub_to(tmp_path, server.getsockname()[1], protocol="5")
        until(lambda: state(hub).failed >= 1)
        assert hub.close()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    topic=st.text(max_size=40).map(lambda text: f"edgeasd/plant/{text}/command")
    | st.sampled_from(["edgeasd/plant/valve/00/command", "edgeasd/plant/../../command"]),
    payload=st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.just("command"), inner),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode()),
)
def test_whatever_comes_in_gives_a_plain_command_or_nothing(topic: str, payload: bytes) -> None:
    from edgeasd.runtime.outputs.mqtt import MqttSink
    from edgeasd.runtime.outputs.settings import MqttSettings

    got: list[tuple[str, str, dict[str, Any]]] = []
    sink = MqttSink(
        MqttSettings(type="mqtt", url="mqtt://127.0.0.1", commands=True), "plant", "box", lambda *a: got.append(a)
    )
    sink._receive(topic, payload, False)
    for machine, id, command in got:
        assert machine
        assert id
        assert all(value is None or isinstance(value, str | int | float) for value in command.values())
        assert command["command"].isidentifier()
        assert json.loads(json.dumps(command, allow_nan=False)) == command
    assert got or sink.warning is None or "\n" not in sink.warning
