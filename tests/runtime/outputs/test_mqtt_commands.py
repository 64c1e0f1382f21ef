"""Commands over MQTT, from anyone and in any form: what is one reaches the callback, nothing else does anything."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made import until
from receivers import Broker

pytest.importorskip("paho.mqtt.client", reason="NO paho-mqtt: pip install 'edgeasd[serve]'")

from subscriber import Listener, hub_to, state

from edgeasd.runtime.alarms.command import Kind
from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.config import read_config
from edgeasd.runtime.outputs.mqtt import MqttSink
from edgeasd.runtime.outputs.settings import MqttSettings
from edgeasd.runtime.outputs.topics import level
from edgeasd.runtime.service import Service

pytestmark = [pytest.mark.timeout(60)]

Make = Callable[..., dict[str, Any]]
_Any = TypeVar("_Any")


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


# Anything at all


def mostly(usual: st.SearchStrategy[_Any], rare: st.SearchStrategy[_Any]) -> st.SearchStrategy[_Any]:
    """One in four is a rare one: what never gets past the first check tests nothing behind it."""
    return st.integers(0, 3).flatmap(lambda drawn: usual if drawn else rare)


_KNOWN = get_args(Kind)
_WORDS = st.sampled_from([*_KNOWN, "acknowlege", "shutdown", "", "../../x", "/etc/passwd"]) | st.text(max_size=8)
_NUMBERS = st.sampled_from([1, 60.0, 0, -5, 1e300, 2**60, True]) | st.integers() | st.floats()
_TEXTS = st.sampled_from(["anna", "01KEZZCJ5C00000000000000ZZ", "../../x", "/tmp/x", "~", "a\x00b"]) | st.text(
    max_size=8
)
_FIELDS = {
    "event": _TEXTS,
    "seconds": _NUMBERS,
    "until": _NUMBERS,
    "by": _TEXTS,
    "note": _TEXTS,
}
_COMMANDS = st.one_of(
    # Whole ones, ones with fields that do not go with them, and ones with anything in place of anything.
    st.fixed_dictionaries({"command": st.sampled_from(_KNOWN)}, optional={"by": st.just("anna"), "note": st.just("x")}),
    st.fixed_dictionaries({"command": st.just("snooze"), "seconds": st.floats(0.1, 1e5)}),
    st.fixed_dictionaries({"command": _WORDS}, optional=_FIELDS),
    st.dictionaries(
        st.sampled_from(["command", *_FIELDS, "path", "__class__"]), _WORDS | _NUMBERS | _TEXTS | st.none(), max_size=5
    ),
)
_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.just("command"), inner),
    max_leaves=8,
)
_PAYLOADS = mostly(
    _COMMANDS.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=200) | _JUNK.map(lambda value: json.dumps(value).encode()),
)
_NAMES = st.sampled_from(["valve", "00", "..", "a/b", "_box", ""]) | st.text(max_size=8)
_TOPICS = mostly(
    st.just("edgeasd/plant/valve/00/command"),
    st.builds(lambda machine, id: f"edgeasd/plant/{level(machine)}/{level(id)}/command", _NAMES, _NAMES)
    | st.text(max_size=40).map(lambda text: f"edgeasd/plant/{text}/command")
    | st.sampled_from(["edgeasd/plant/../../command", "edgeasd/other/valve/00/command"]),
)


def tree(folder: Path, data: Path) -> dict[str, bytes]:
    """Every file below `folder` but those of the data folder."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_relative_to(data))
    return {str(path): path.read_bytes() for path in files}


def test_whatever_comes_in_is_obeyed_as_a_plain_command_or_does_nothing(
    tmp_path: Path, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the topic to the alarm machine of a service, whose keeper writes down what changed."""
    plant = tmp_path / "plant"
    (plant / "data").mkdir(parents=True)
    monkeypatch.chdir(plant)
    (plant / "site.toml").write_text(
        f'site = "plant"\n[streams.pump]\nbundle = "{small_bundle}"\ndevice = "hw:1"\n', "utf-8"
    )
    before = tree(tmp_path, plant / "data")
    site, log = read_config(plant / "site.toml"), list[str]()
    service = Service(site, log=log.append)
    counts: Counter[str] = Counter()

    def arrive(machine: str, id: str, command: dict[str, Any]) -> None:
        counts["arrived"] += 1
        assert machine
        assert id
        assert all(value is None or isinstance(value, str | int | float) for value in command.values())
        assert json.loads(json.dumps(command, allow_nan=False)) == command
        service._command_from_outside(machine, id, command)
        counts[machine] += 1

    sink = MqttSink(MqttSettings(type="mqtt", url="mqtt://127.0.0.1", commands=True), "plant", "box", arrive)

    @settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    @given(topic=_TOPICS, payload=_PAYLOADS, retained=st.sampled_from([False] * 9 + [True]))
    def send(topic: str, payload: bytes, retained: bool) -> None:
        arrived, said, machine = counts["arrived"], len(log), service.keeper.kept["pump"].machine
        number = machine.sequence
        sink._receive(topic, payload, retained)
        service.keeper.call(lambda: None)
        assert sink.warning is None or "\n" not in sink.warning
        assert all(line.isprintable() for line in log[said:]), log[said:]
        if retained:
            assert counts["arrived"] == arrived
        if counts["arrived"] == arrived or len(log) > said:
            assert machine.sequence == number
        counts["refused"] += len(log) > said
        counts["obeyed"] += machine.sequence > number
        assert machine.event is None, "no command raises an alarm"

    service.keeper.start()
    try:
        with Bundle(small_bundle) as bundle:
            manifest = bundle.manifest
        service.keeper.call(lambda: service.keeper.admit("pump", manifest, site.streams["pump"].alarm))
        send()
        assert service.keeper.defect is None
    finally:
        assert service.keeper.close(5.0)
    assert min(counts["arrived"], counts["valve"]) > 50, counts
    assert counts["arrived"] > counts["valve"], "no other machine was named"
    assert min(counts["refused"], counts["obeyed"]) > 10, counts
    assert tree(tmp_path, plant / "data") == before
    assert (plant / "data" / "events.db").exists()
