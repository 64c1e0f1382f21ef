"""MQTT against a real mosquitto: topics, retained states, the last will, cuts, TLS, Home Assistant."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from certificates import make_certificates
from made import Station, firsts, until
from receivers import Broker

from edgeasd.runtime.errors import InputError

pytest.importorskip("paho.mqtt.client", reason="NO paho-mqtt: pip install 'edgeasd[serve]'")

from subscriber import Listener, station_to

pytestmark = [pytest.mark.timeout(60)]

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def listener(shared_broker: Broker, site: str) -> Iterator[Listener]:
    """Hears all that is published for the site of the test."""
    made = Listener(shared_broker.port, f"edgeasd/{site}/#")
    yield made
    made.close()


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_topics_by_machine_and_kind_with_retained_state(
    tmp_path: Path, shared_broker: Broker, site: str, listener: Listener, an_event: Make, a_score: Make, protocol: str
) -> None:
    base, odd = f"edgeasd/{site}/valve/00", f"edgeasd/{site}/a%2Fb%2B%23%25/%5Fx"
    online = f"edgeasd/{site}/_box/box/online"
    with station_to(tmp_path, shared_broker.port, site=site, protocol=protocol) as station:
        station.put(a_score(0.1))
        second = station.put(an_event(1))
        station.put(an_event(1, machine="a/b+#%", id="_x"))
        until(lambda: station.state().delivered == 3 and len(listener.got) == 6)
        assert station.state().connected is True
        late = Listener(shared_broker.port, f"edgeasd/{site}/#", name="late")
        until(lambda: len(late.got) >= 4)
        late.close()
    topics = [topic for topic, _, _ in listener.got]
    assert topics[:6] == [online, f"{base}/score", f"{base}/event", f"{base}/state", f"{odd}/event", f"{odd}/state"]
    retained = {topic for topic, _, is_retained in late.got if is_retained}
    assert retained == {online, f"{base}/score", f"{base}/state", f"{odd}/state"}
    assert json.loads(listener.of(f"{base}/state")[0])["state"] == "alarm"
    assert listener.messages("/event")[0]["seq"] == second
    until(lambda: listener.of(online) == [b"online", b"offline"])


def test_device_that_dies_is_reported_offline(
    tmp_path: Path, shared_broker: Broker, site: str, listener: Listener
) -> None:
    program = (
        f"import sys, time; sys.path.append({str(Path(__file__).parent)!r})\n"
        "from pathlib import Path; from subscriber import station_to\n"
        f"station_to(Path({str(tmp_path)!r}), {shared_broker.port}, site={site!r})\n"
        "time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program])
    online = f"edgeasd/{site}/_box/box/online"
    until(lambda: listener.of(online) == [b"online"], 20)
    process.kill()
    process.wait()
    until(lambda: listener.of(online) == [b"online", b"offline"])


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_broker_that_is_killed_and_restarted_costs_nothing(
    tmp_path: Path, broker: Broker, an_event: Make, protocol: str
) -> None:
    """It forgets everything; presence and states are published again, in parts that fit into a timeout."""
    base = "edgeasd/plant 1"
    station = station_to(tmp_path, broker.port, protocol=protocol, discovery=True)
    for number in range(1, 21):
        station.put(an_event(number))
        station.put(an_event(1, machine=f"m{number}"))
    until(lambda: station.state().delivered == 40)
    broker.stop(signal.SIGKILL)
    for number in range(21, 41):
        station.put(an_event(number))
    until(lambda: station.state().failed >= 2)
    assert station.state().queued == 20
    broker.start()
    # Before the station is back: its waits are short here, so the subscriber hurries.
    seen = Listener(broker.port, "edgeasd/#")
    try:
        for number in range(41, 51):
            station.put(an_event(number))
        until(lambda: station.state().delivered == 70)
        until(lambda: seen.messages("/event") and seen.messages("/event")[-1]["body"]["sequence"] == 50)
        numbers = [message["body"]["sequence"] for message in firsts(seen.messages("/event"))]
        assert numbers == list(range(numbers[0], 51))
        assert seen.of(f"{base}/_box/box/online")[-1] == b"online"
        states = {topic for topic, _, _ in seen.got if topic.endswith("/state")}
        assert states == {f"{base}/valve/00/state", *(f"{base}/m{number}/00/state" for number in range(1, 21))}
    finally:
        seen.close()
        station.close()


def test_states_from_before_the_start_are_retained(tmp_path: Path, broker: Broker, an_event: Make) -> None:
    """Of an alarm from before, and of a machine without an event; a broker that forgets gets them again."""
    base = "edgeasd/plant 1"
    with station_to(tmp_path, broker.port) as station:
        set_state = station.manager.set_retained_state
        set_state("valve", "00", an_event(1, state="warning")["body"])
        # A message of the outbox is later than what is set.
        station.put(an_event(2, state="alarm"))
        set_state("fan", "00", an_event(7, machine="fan", state="acknowledged")["body"])
        set_state("pump", "00", {"state": "normal", "event": None, "at": "2027-01-15T08:00:00.000Z"})
        seen = Listener(broker.port, "edgeasd/+/+/+/+")
        topics = {f"{base}/{machine}/00/state" for machine in ("valve", "fan", "pump")}
        until(lambda: {topic for topic, _, _ in seen.got if topic.endswith("/state")} == topics)
        until(lambda: json.loads(seen.of(f"{base}/valve/00/state")[-1])["state"] == "alarm")
        broker.stop(signal.SIGKILL)
        seen.close()
        broker.start()
        later = Listener(broker.port, "edgeasd/+/+/+/+", name="later")
        until(lambda: {topic for topic, _, _ in later.got if topic.endswith("/state")} == topics)
        states = {topic: json.loads(later.of(topic)[-1])["state"] for topic in topics}
        assert later.messages("/event") == [], "no event comes of it"
        station.put(an_event(8, machine="pump"))
        until(lambda: json.loads(later.of(f"{base}/pump/00/state")[-1])["state"] == "alarm")
        later.close()
    assert sorted(states.values()) == ["acknowledged", "alarm", "normal"]


def test_lost_connections_keep_no_file_open(tmp_path: Path, shared_broker: Broker, proxies: Callable[..., Any]) -> None:
    proxy = proxies(shared_broker.port)
    with station_to(tmp_path, proxy.port, site="files") as station:
        until(lambda: station.state().connected)
        before = len(os.listdir("/proc/self/fd"))
        for count in range(1, 4):
            proxy.cut()
            until(lambda count=count: station.state().failed >= count and station.state().connected)
        assert len(os.listdir("/proc/self/fd")) < before + 3


def test_line_that_stalls_and_is_cut_loses_nothing(
    tmp_path: Path, shared_broker: Broker, site: str, listener: Listener, an_event: Make, proxies: Callable[..., Any]
) -> None:
    proxy = proxies(shared_broker.port)
    station = station_to(tmp_path, proxy.port, site=site)
    sent = 0
    for way in ("stall", "cut", "stall", "cut", "cut"):
        for _ in range(40):
            sent += 1
            station.put(an_event(sent))
            time.sleep(0.001)
        if way == "stall":
            failed = station.state().failed
            proxy.stalled = True
            sent += 1
            station.put(an_event(sent))
            until(lambda before=failed: station.state().failed > before and not station.state().connected)
            proxy.stalled = False
        else:
            proxy.cut()
    until(lambda: station.state().delivered == sent, 20)
    until(lambda: firsts(listener.messages("/event"))[-1]["body"]["sequence"] == sent)
    station.close()
    messages = listener.messages("/event")
    assert [message["body"]["sequence"] for message in firsts(messages)] == list(range(1, sent + 1))
    assert len({message["seq"]: message for message in messages}) == sent, "a resend is the same message"


def test_broker_that_takes_one_message_at_a_time(tmp_path: Path, an_event: Make, a_score: Make) -> None:
    broker = Broker(tmp_path / "one", "allow_anonymous true", "max_inflight_messages 1")
    broker.start()
    seen = Listener(broker.port)
    try:
        with station_to(tmp_path, broker.port, protocol="5", discovery=True) as station:
            for number in range(1, 41):
                station.put(an_event(number))
                station.put(a_score(0.1))
            until(lambda: station.state().delivered == 80)
            assert station.state().failed == 0
            until(lambda: len(seen.messages("/event")) == 40)
        assert [message["body"]["sequence"] for message in seen.messages("/event")] == list(range(1, 41))
    finally:
        seen.close()
        broker.stop()


def test_broker_that_does_not_answer_delays_no_end(tmp_path: Path, proxies: Any, shared_broker: Broker) -> None:
    proxy = proxies(shared_broker.port)
    proxy.stalled = True
    station = station_to(tmp_path, proxy.port, timeout_seconds=30.0)
    until(lambda: proxy.connections == 1)
    begun = time.monotonic()
    station.close(1.0)
    assert time.monotonic() - begun < 1.7


def test_second_client_with_our_id_is_suspected(
    tmp_path: Path, shared_broker: Broker, site: str, caplog: pytest.LogCaptureFixture
) -> None:
    """mosquitto 2.0 gives no reason."""
    id = site.replace(" ", "-")
    with station_to(tmp_path / "a", shared_broker.port, site=site, client_id=id) as first:
        until(lambda: first.state().connected)
        with station_to(tmp_path / "b", shared_broker.port, site=site, client_id=id):
            until(lambda: any(f"does another client have the id {id}?" in line for line in caplog.messages), 20)


def test_second_client_that_the_broker_names_is_logged(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            connection.recv(1000)
            connection.sendall(b"\x20\x03\x00\x00\x00")  # connected
            connection.sendall(b"\xe0\x02\x8e\x00")  # session taken over
            connection.close()

        threading.Thread(target=serve, daemon=True).start()
        with station_to(tmp_path, server.getsockname()[1], client_id="box", retry_first_seconds=60.0) as station:
            until(lambda: station.state().failed)
            assert "another client connected with our id box; give one" in str(station.state().last_error)


def test_default_client_ids_differ_by_installation_and_output(tmp_path: Path, broker: Broker) -> None:
    url = f"mqtt://127.0.0.1:{broker.port}"
    tables = {name: {"type": "mqtt", "url": url, "prefix": name} for name in ("one", "two")}
    with Station(tmp_path / "a", tables) as first, Station(tmp_path / "b", tables) as second:
        stations = (first, second)
        until(lambda: all(station.state(name).connected for station in stations for name in tables))
        ids = {f"edgeasd-{station.outbox.store_id[:12]}-{name}" for station in stations for name in tables}
        log = (broker.folder / "log").read_text("utf-8")
        assert len(ids) == 4
        assert all(f" as {each} " in log for each in ids)
    with Station(tmp_path / "a", tables) as again:
        assert again.outbox.store_id == first.outbox.store_id, "it stays"


def test_password_is_read_again_and_never_shown(tmp_path: Path, an_event: Make) -> None:
    (tmp_path / "passwords").write_text("")
    subprocess.run(["mosquitto_passwd", "-b", str(tmp_path / "passwords"), "anna", "hush hush"], check=True)
    broker = Broker(tmp_path / "closed", "allow_anonymous false", f"password_file {tmp_path / 'passwords'}")
    broker.start()
    secret = tmp_path / "secret"
    secret.write_text("wrong\n")
    secret.chmod(0o600)
    try:
        station = station_to(tmp_path, broker.port, username="anna", password_file=str(secret))
        station.put(an_event(1))
        until(lambda: station.state().failed)
        assert "Not authorized" in str(station.state().last_error)
        assert "wrong" not in str(station.state())
        secret.write_text("hush hush\n")  # the right one, while it runs
        until(lambda: station.state().delivered == 1)
        station.close()
    finally:
        broker.stop()


def _listed(tmp_path: Path, repository: Path) -> Broker:
    """A broker with the access list of the documentation, and a reader who may read everything."""
    text = (repository / "docs" / "how-to" / "outputs.md").read_text("utf-8")
    rules = text[text.index("user edgeasd\n") :].split("```")[0]
    (tmp_path / "acl").write_text(rules.replace("/plant/", "/plant 1/") + "user reader\ntopic read #\n")
    (tmp_path / "passwords").write_text("")
    for user in ("edgeasd", "reader"):
        subprocess.run(["mosquitto_passwd", "-b", str(tmp_path / "passwords"), user, "hush"], check=True)
    files = f"password_file {tmp_path / 'passwords'}", f"acl_file {tmp_path / 'acl'}"
    return Broker(tmp_path / "listed", "allow_anonymous false", *files)


def test_access_list_of_the_docs_is_enough_and_needed(
    tmp_path: Path, repository: Path, an_event: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUSH", "hush")
    broker = _listed(tmp_path, repository)
    broker.start()
    account = {"username": "edgeasd", "password_env": "HUSH"}
    try:
        given = {"discovery": True, "commands": True, **account}
        with station_to(tmp_path, broker.port, on_command=lambda *_: None, **given) as station:
            station.put(an_event(1))
            until(lambda: station.state().delivered == 1)
            assert station.state().last_error is None
        with station_to(tmp_path / "other", broker.port, prefix="elsewhere", **account) as station:
            station.put(an_event(1))
            until(lambda: station.state().failed)
            assert "rejects a message to elsewhere/plant 1/" in str(station.state().last_error)
            assert station.state().delivered == 0
    finally:
        broker.stop()


def test_tls_with_a_certificate_of_the_client(tmp_path: Path, an_event: Make) -> None:
    made = make_certificates(tmp_path)
    lines = (
        "allow_anonymous true",
        f"cafile {made.authority}",
        f"certfile {made.server}",
        f"keyfile {made.server_key}",
    )
    broker = Broker(tmp_path / "tls", *lines, "require_certificate true")
    broker.start()
    url = f"mqtts://127.0.0.1:{broker.port}"
    try:
        stranger = station_to(tmp_path / "a", broker.port, url=url)
        until(lambda: stranger.state().failed)
        assert "not trusted" in str(stranger.state().last_error)
        stranger.close()
        own = {"certificate_file": str(made.client), "key_file": str(made.client_key)}
        station = station_to(tmp_path / "b", broker.port, url=url, ca_file=str(made.authority), **own)
        station.put(an_event(1))
        until(lambda: station.state().delivered == 1)
        assert station.close()
        nobody = station_to(tmp_path / "c", broker.port, url=url, ca_file=str(made.authority))
        until(lambda: nobody.state().failed)
        nobody.close()
    finally:
        broker.stop()
    with pytest.raises(InputError, match="give PEM files"):
        station_to(tmp_path / "d", broker.port, url=url, ca_file=str(tmp_path / "absent"))


def test_home_assistant_gets_each_entity_once(tmp_path: Path, broker: Broker, an_event: Make, a_score: Make) -> None:
    listener = Listener(broker.port)
    with station_to(tmp_path, broker.port, discovery=True, commands=True, on_command=lambda *_: None) as station:
        station.put(a_score(0.1))
        station.put(an_event(1))
        until(lambda: station.state().delivered == 2)
        until(lambda: listener.messages("/event"))
    listener.close()
    configs = {topic: json.loads(payload) for topic, payload, _ in listener.got if topic.startswith("homeassistant/")}
    assert len(configs) == len([topic for topic, _, _ in listener.got if topic.startswith("homeassistant/")]) == 7
    published = {topic for topic, _, _ in listener.got}
    assert len({config["unique_id"] for config in configs.values()}) == 7
    for topic, config in configs.items():
        prefix, component, node, entity, last = topic.split("/")
        assert (prefix, last) == ("homeassistant", "config")
        assert config["unique_id"] == f"{node}_{entity}"
        assert config["availability_topic"] in published
        if component != "button" and entity in ("alarm", "state", "clip_score"):
            assert config["state_topic"] in published


def test_announcement_that_was_cut_is_completed(
    tmp_path: Path, broker: Broker, proxies: Callable[..., Any], a_score: Make
) -> None:
    proxy = proxies(broker.port)
    proxy.tear(lambda: 1500)
    with station_to(tmp_path, proxy.port, discovery=True) as station:
        station.put(a_score(0.1))
        until(lambda: station.state().failed >= 2)
        assert proxy.torn
        proxy.tear(None)
        until(lambda: station.state().delivered == 1)
        listener = Listener(broker.port, "homeassistant/#")
        until(lambda: len({topic for topic, _, _ in listener.got}) == 6)
        listener.close()
