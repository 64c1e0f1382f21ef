"""Commands over MQTT, from anyone and in any form: a command reaches the handler, anything else does nothing."""

from __future__ import annotations

import json
import socket
import threading
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

from subscriber import Listener, station_to

from edgeasd.runtime.alarms import AlarmMachine, AlarmSettings, Command
from edgeasd.runtime.alarms.command import Kind
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.outputs.topics import level

pytestmark = [pytest.mark.timeout(60)]

Make = Callable[..., dict[str, Any]]
_Any = TypeVar("_Any")


@pytest.fixture
def listener(shared_broker: Broker, site: str) -> Iterator[Listener]:
    made = Listener(shared_broker.port, f"edgeasd/{site}/+/+/event")
    yield made
    made.close()


def test_command_reaches_the_handler_and_nothing_else_does(
    tmp_path: Path, shared_broker: Broker, site: str, listener: Listener
) -> None:
    got: list[Any] = []
    base = f"edgeasd/{site}"
    listener.publish(f"{base}/valve/00/command", b'{"command": "acknowledge", "by": "kept"}', retain=True)
    port = shared_broker.port
    with station_to(tmp_path, port, site=site, commands=True, on_command=lambda *all: got.append(all)) as station:
        until(lambda: station.state().connected)
        for topic, payload in (
            ("valve/00", b"not json"),
            ("valve/00", b'{"command": "snooze", "seconds": NaN}'),
            ("valve/00", b'{"command": "shutdown"}'),
            ("valve/00", b'{"command": "ack", "command": "clear"}'),
            ("valve/00", b"[" * 4000),
            ("valve/00", b" " * 5000),
            ("_box/box", b'{"command": "clear"}'),
            ("%76alve/00", b'{"command": "clear"}'),
        ):
            listener.publish(f"{base}/{topic}/command", payload)
        listener.publish(f"{base}/a%2Fb/00/command", b'{"command": "snooze", "seconds": 60, "by": "anna"}')
        until(lambda: got)
        assert station.state().last_error is not None
    assert got == [("a/b", "00", Command(command="snooze", seconds=60.0, by="anna"))]


def test_handler_that_fails_ends_nothing(
    tmp_path: Path, shared_broker: Broker, site: str, listener: Listener, an_event: Make
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a defect")

    with station_to(tmp_path, shared_broker.port, site=site, commands=True, on_command=fail) as station:
        until(lambda: station.state().connected)
        listener.publish(f"edgeasd/{site}/valve/00/command", b'{"command": "clear"}')
        until(lambda: station.state().last_error == "a defect")
        station.put(an_event(1))
        until(lambda: station.state().delivered == 1)
        assert station.state().failed == 0


@pytest.mark.parametrize("answer", [b"\xff" * 50, b"\x20\x02\x00\x00\x30\xff\xff\xff\xff\xff", b"HTTP/1.1 400\r\n\r\n"])
def test_broker_that_sends_nonsense_is_a_failed_attempt(tmp_path: Path, answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                for _ in range(3):
                    connection, _ = server.accept()
                    connection.recv(1000)
                    connection.sendall(answer)
                    connection.close()

        threading.Thread(target=serve, daemon=True).start()
        station = station_to(tmp_path, server.getsockname()[1], protocol="5")
        until(lambda: station.state().failed >= 2)
        assert station.close()


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


def test_anything_is_obeyed_as_a_plain_command_or_does_nothing(tmp_path: Path, broker: Broker) -> None:
    """From the topic to an alarm machine."""
    machine = AlarmMachine("valve", "00", AlarmSettings(on=0.5), None)
    counts: Counter[str] = Counter()

    def arrive(machine_type: str, id: str, command: Command) -> None:
        if command.note == "sentinel":
            counts["sentinels"] += 1
            return
        counts["arrived"] += 1
        assert machine_type
        assert id
        if (machine_type, id) != ("valve", "00"):
            counts["of others"] += 1
            return
        with suppress(InputError):  # such as a snooze until a time that has passed
            counts["obeyed"] += bool(machine.command(command, 0.0, 1e9))

    examples: list[tuple[str, bytes, bool]] = []

    @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    @given(topic=_TOPICS, payload=_PAYLOADS, retained=st.sampled_from([False] * 9 + [True]))
    def draw(topic: str, payload: bytes, retained: bool) -> None:
        if topic.isprintable() and not set(topic) & set("+#"):  # else it is no topic for a broker
            examples.append((topic, payload, retained))

    draw()
    # What is drawn depends on the version of hypothesis; commands to other machines are always among it.
    examples += [
        (f"edgeasd/plant/{name}/command", b'{"command": "clear"}', False) for name in ("fan/00", "valve/1", "a/b")
    ]
    with station_to(tmp_path, broker.port, site="plant", commands=True, on_command=arrive) as station:
        until(lambda: station.state().connected)
        sender = Listener(broker.port, "nothing")
        for example in [
            *examples,
            ("edgeasd/plant/valve/00/command", b'{"command": "clear", "note": "sentinel"}', False),
        ]:
            sender.publish(*example)
        until(lambda: counts["sentinels"])
        sender.close()
        warning = station.state().last_error
        assert warning is not None
        assert warning.isprintable()
        assert station.state().failed == 0
    assert machine.event is None, "no command raises an alarm"
    assert counts["arrived"] < len(examples)
    assert min(counts["arrived"] - counts["of others"], counts["of others"]) > 2, counts
    assert counts["obeyed"] > 5, counts


def test_a_tag_of_the_plant_sets_the_state_of_a_stream(
    tmp_path: Path,
    shared_broker: Broker,
    site: str,
    listener: Listener,
    small_bundle: Path,
    edgeasd: Callable[..., Any],
) -> None:
    import numpy as np
    import soundfile

    from edgeasd.runtime.config import read_config
    from edgeasd.runtime.service.service import Service

    noise = 0.05 * np.random.default_rng(0).standard_normal(16_000 * 20)
    soundfile.write(tmp_path / "sound.wav", noise.astype(np.float32), 16_000)
    topic = f"line1/{site}/pump"
    # Retained: a state that was published before we came still holds.
    listener.publish(topic, b'{"value": 0}', retain=True)
    (tmp_path / "site.toml").write_text(
        f'site = "{site}"\nstatus_seconds = 1.0\n[streams.pump]\nbundle = "{small_bundle}"\ninput = "sound.wav"\n'
        f'realtime = true\nloop = true\n[streams.pump.states]\ntag_topic = "{topic}"\ntag_seconds = 600.0\n'
        f'[outputs.plant]\ntype = "mqtt"\nurl = "mqtt://127.0.0.1:{shared_broker.port}"\n'
    )
    service = Service(read_config(tmp_path / "site.toml"))
    service.start()
    try:

        def state() -> str | None:
            service.poll()
            return service.status().streams[0].operating_state

        until(lambda: state() == "off", 30.0)
        (stream,) = service.status().streams
        assert (stream.operating_source, stream.alarm) == ("tag", "normal")
        listener.publish(topic, b"warp 9")
        listener.publish(topic, b"1")
        until(lambda: state() == "running")
        done = edgeasd("alarm", "state", "idle", "--config", tmp_path / "site.toml", cwd=tmp_path)
        assert done.code == 0, done.said
        until(lambda: state() == "idle")
        until(lambda: [one for one in listener.messages("/event") if one["body"].get("operating_state") == "idle"])
    finally:
        service.stop("test")
    refused = edgeasd("alarm", "state", "off", "--config", tmp_path / "site.toml", cwd=tmp_path)
    assert refused.code == 2
    assert "no service runs there" in refused.lines[0]
