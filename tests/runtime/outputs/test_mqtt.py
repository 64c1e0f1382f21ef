"""MQTT against a real mosquitto: topics, what is kept, the last will, cuts, commands from anyone."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from certificates import make_certificates
from made import firsts, free_port, until
from receivers import Broker

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.outputs import Outputs

pytest.importorskip("paho.mqtt.client", reason="NO paho-mqtt: pip install 'edgeasd[serve]'")

from subscriber import Listener, hub_to, state

from edgeasd.runtime.outputs.mqtt_link import IN_FLIGHT, Link, Publication

pytestmark = [pytest.mark.timeout(60)]

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def listener(broker: Broker) -> Iterator[Listener]:
    made = Listener(broker.port)
    yield made
    made.close()


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_messages_arrive_by_machine_and_kind_and_state_is_kept(
    tmp_path: Path, broker: Broker, listener: Listener, an_event: Make, a_score: Make, protocol: str
) -> None:
    with hub_to(tmp_path, broker.port, protocol=protocol) as hub:
        hub.put(a_score(0.1))
        hub.put(an_event(1))
        hub.put(an_event(1, machine="a/b+#%", id="_x"))
        until(lambda: state(hub).delivered == 3 and len(listener.got) == 6)
        assert state(hub).connected is True
        late = Listener(broker.port, "edgeasd/#", name="late")
        until(lambda: len(late.got) >= 4)
        late.close()
    topics = [topic for topic, _, _ in listener.got]
    base = "edgeasd/plant 1/valve/00"
    odd = "edgeasd/plant 1/a%2Fb%2B%23%25/%5Fx"
    assert topics[0] == "edgeasd/plant 1/_box/box/online"
    assert topics[1:6] == [f"{base}/score", f"{base}/event", f"{base}/state", f"{odd}/event", f"{odd}/state"]
    kept = {topic for topic, _, retained in late.got if retained}
    assert kept == {topics[0], f"{base}/score", f"{base}/state", f"{odd}/state"}
    assert json.loads(listener.of(f"{base}/state")[0])["state"] == "alarm"
    assert listener.messages("/event")[0]["sequence"] == 2
    until(lambda: listener.of(topics[0]) == [b"online", b"offline"])


def test_a_box_that_dies_is_said_to_be_offline(tmp_path: Path, broker: Broker, listener: Listener) -> None:
    program = (
        "import sys, time; from pathlib import Path; from edgeasd.runtime.outputs import Outputs, parse_outputs\n"
        f"table = {{'type': 'mqtt', 'url': 'mqtt://127.0.0.1:{broker.port}'}}\n"
        f"Outputs(parse_outputs({{'m': table}}, 'o'), Path({str(tmp_path)!r}), site='plant 1', box='box')\n"
        "time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program])
    online = "edgeasd/plant 1/_box/box/online"
    until(lambda: listener.of(online) == [b"online"], 20)
    process.kill()
    process.wait()
    until(lambda: listener.of(online) == [b"online", b"offline"])


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_a_broker_that_is_killed_and_restarted_costs_nothing(
    tmp_path: Path, broker: Broker, an_event: Make, protocol: str
) -> None:
    broker.lines += ["persistence true", f"persistence_location {broker.folder}/", "autosave_interval 1"]
    hub = hub_to(tmp_path, broker.port, protocol=protocol)
    for number in range(1, 31):
        hub.put(an_event(number))
    until(lambda: state(hub).delivered == 30)
    broker.stop(signal.SIGKILL)
    for number in range(31, 61):
        hub.put(an_event(number))
    until(lambda: state(hub).failed >= 2)
    until(lambda: state(hub).queued == 30)
    broker.start()
    # Before the box is back: its back-off is short here, so the subscriber hurries.
    seen = Listener(broker.port, "edgeasd/#")
    try:
        for number in range(61, 71):
            hub.put(an_event(number))
        until(lambda: state(hub).delivered == 70)
        until(lambda: seen.messages("/event") and seen.messages("/event")[-1]["body"]["sequence"] == 70)
        numbers = [message["body"]["sequence"] for message in firsts(seen.messages("/event"))]
        assert numbers == list(range(numbers[0], 71))
        # The new broker knows nothing; state and presence are told again.
        assert seen.of("edgeasd/plant 1/_box/box/online")[-1] == b"online"
    finally:
        seen.close()
        hub.close()


def test_what_a_broker_has_forgotten_is_told_in_parts_that_fit_into_a_timeout(
    tmp_path: Path, broker: Broker, an_event: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line on which all of it takes longer than the time-out of one publication would never come to an end."""
    sizes: list[int] = []
    publish = Link.publish

    def counted(link: Link, groups: Sequence[Sequence[Publication]], *more: Any) -> None:
        sizes.append(sum(map(len, groups)))
        publish(link, groups, *more)

    with hub_to(tmp_path, broker.port, discovery=True) as hub:
        for machine in range(20):
            hub.put(an_event(1, machine=f"m{machine}"))
        until(lambda: state(hub).delivered == 20)
        broker.stop(signal.SIGKILL)
        monkeypatch.setattr(Link, "publish", counted)
        broker.start()
        seen = Listener(broker.port, "edgeasd/+/+/+/state")
        until(lambda: len({topic for topic, _, _ in seen.got}) == 20)
        seen.close()
    assert sum(sizes) > 100
    assert max(sizes) <= IN_FLIGHT


def test_a_broker_that_has_forgotten_is_told_of_an_alarm_from_before_the_start(
    tmp_path: Path, broker: Broker, an_event: Make
) -> None:
    base = "edgeasd/plant 1/valve/00"
    with hub_to(tmp_path, broker.port) as hub:
        hub.remember(an_event(1, state="warning"))
        # What is in the queue is later than what is remembered.
        hub.put(an_event(2, state="alarm"))
        hub.remember(an_event(7, machine="fan", state="acknowledged"))
        seen = Listener(broker.port, "edgeasd/+/+/+/state")
        until(lambda: {topic for topic, _, _ in seen.got} == {f"{base}/state", "edgeasd/plant 1/fan/00/state"})
        until(lambda: json.loads(seen.of(f"{base}/state")[-1])["state"] == "alarm")
        time.sleep(0.3)
        # No event comes of it, only a state, and the later one stands.
        assert json.loads(seen.of(f"{base}/state")[-1])["state"] == "alarm"
        assert json.loads(seen.of("edgeasd/plant 1/fan/00/state")[0])["state"] == "acknowledged"
        broker.stop(signal.SIGKILL)
        seen.close()
        broker.start()
        later = Listener(broker.port, "edgeasd/+/+/+/+", name="later")
        until(lambda: len({topic for topic, _, _ in later.got if topic.endswith("/state")}) == 2)
        assert later.messages("/event") == []
        later.close()


def test_a_broker_knows_the_state_of_a_machine_that_never_had_an_event(
    tmp_path: Path, broker: Broker, listener: Listener, an_event: Make
) -> None:
    where = "edgeasd/plant 1/valve/00"
    with hub_to(tmp_path, broker.port) as hub:
        hub.present("valve", "00", {"state": "normal", "event": None, "at": "2027-01-15T08:00:00.000Z"})
        until(lambda: listener.of(f"{where}/state"))
        hub.put(an_event(1))
        until(lambda: len(listener.of(f"{where}/state")) == 2)
    assert [json.loads(payload)["state"] for payload in listener.of(f"{where}/state")] == ["normal", "alarm"]
    assert [message["sequence"] for message in listener.messages("/event")] == [1]


def test_a_connection_that_is_over_keeps_no_file_open(
    tmp_path: Path, broker: Broker, proxies: Callable[..., Any]
) -> None:
    """Whether or not Python's collector of garbage ever comes by."""
    proxy = proxies(broker.port)
    with hub_to(tmp_path, proxy.port) as hub:
        until(lambda: state(hub).connected)
        gc.collect()
        gc.disable()
        try:
            before = len(os.listdir("/proc/self/fd"))
            for count in range(1, 7):
                proxy.cut()
                until(lambda count=count: state(hub).failed >= count and state(hub).connected)
            assert len(os.listdir("/proc/self/fd")) < before + 6
        finally:
            gc.enable()


def stalled(hub: Outputs) -> bool:
    """Whether the last thing said is that nothing comes back."""
    said = str(state(hub).last_error)
    return "no acknowledgement within 1 s" in said or "answer" in said


def test_a_line_that_stalls_and_is_cut_loses_nothing_and_keeps_the_order(
    tmp_path: Path, broker: Broker, listener: Listener, an_event: Make, proxies: Callable[..., Any]
) -> None:
    proxy = proxies(broker.port)
    hub = hub_to(tmp_path, proxy.port)
    sent = 0
    for way in ("stall", "cut", "stall", "cut", "cut"):
        for _ in range(40):
            sent += 1
            hub.put(an_event(sent))
            time.sleep(0.001)
        if way == "stall":
            failed = state(hub).failed
            proxy.stalled = True
            sent += 1
            hub.put(an_event(sent))
            # A cut before may be counted as late as now, and is told by other words.
            until(lambda before=failed: state(hub).failed > before and stalled(hub))
            proxy.stalled = False
        else:
            proxy.cut()
    until(lambda: state(hub).delivered == sent, 20)
    until(lambda: firsts(listener.messages("/event"))[-1]["body"]["sequence"] == sent)
    hub.close()
    assert [message["body"]["sequence"] for message in firsts(listener.messages("/event"))] == list(range(1, sent + 1))
    resent = {message["sequence"]: message["event"] for message in listener.messages("/event")}
    assert set(resent.values()) == {an_event(1)["event"]}


def test_a_broker_that_takes_one_message_at_a_time_gets_one_at_a_time(
    tmp_path: Path, an_event: Make, a_score: Make
) -> None:
    broker = Broker(tmp_path / "one", "allow_anonymous true", "max_inflight_messages 1")
    broker.start()
    seen = Listener(broker.port)
    try:
        with hub_to(tmp_path, broker.port, protocol="5", discovery=True) as hub:
            for number in range(1, 41):
                hub.put(an_event(number))
                hub.put(a_score(0.1))
            until(lambda: state(hub).delivered == 80)
            assert state(hub).failed == 0
            until(lambda: len(seen.messages("/event")) == 40)
        assert [message["body"]["sequence"] for message in seen.messages("/event")] == list(range(1, 41))
    finally:
        seen.close()
        broker.stop()


def test_a_broker_that_does_not_answer_is_no_reason_to_wait_at_the_end(tmp_path: Path, proxies: Any) -> None:
    proxy = proxies(free_port())
    proxy.stalled = True
    hub = hub_to(tmp_path, proxy.port, timeout_seconds=30.0)
    time.sleep(0.2)
    begun = time.monotonic()
    hub.close(2.0)
    assert time.monotonic() - begun < 2.2


def test_password_and_refusal(tmp_path: Path, an_event: Make) -> None:
    (tmp_path / "passwords").write_text("")
    subprocess.run(["mosquitto_passwd", "-b", str(tmp_path / "passwords"), "anna", "hush hush"], check=True)
    broker = Broker(tmp_path / "closed", "allow_anonymous false", f"password_file {tmp_path / 'passwords'}")
    broker.start()
    secret = tmp_path / "secret"
    secret.write_text("wrong\n")
    secret.chmod(0o600)
    try:
        hub = hub_to(tmp_path, broker.port, username="anna", password_file=str(secret))
        hub.put(an_event(1))
        until(lambda: state(hub).failed)
        assert "Not authorized" in str(state(hub).last_error)
        assert "wrong" not in str(state(hub))
        secret.write_text("hush hush\n")  # the right one, while it runs
        until(lambda: state(hub).delivered == 1)
        hub.close()
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


def test_the_access_list_of_the_documentation_is_enough_and_what_it_forbids_is_not_called_delivered(
    tmp_path: Path, repository: Path, an_event: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUSH", "hush")
    broker = _listed(tmp_path, repository)
    broker.start()
    account = {"username": "edgeasd", "password_env": "HUSH"}
    try:
        given = {"discovery": True, "commands": True, **account}
        with hub_to(tmp_path, broker.port, on_command=lambda *_: None, **given) as hub:
            hub.put(an_event(1))
            until(lambda: state(hub).delivered == 1)
            assert state(hub).last_error is None
        with hub_to(tmp_path / "other", broker.port, prefix="elsewhere", **account) as hub:
            hub.put(an_event(1))
            until(lambda: state(hub).failed)
            assert "refuses a message to elsewhere/plant 1/" in str(state(hub).last_error)
            assert state(hub).delivered == 0
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
        stranger = hub_to(tmp_path / "a", broker.port, url=url)
        until(lambda: state(stranger).failed)
        assert "not trusted" in str(state(stranger).last_error)
        stranger.close()
        own = {"certificate_file": str(made.client), "key_file": str(made.client_key)}
        hub = hub_to(tmp_path / "b", broker.port, url=url, ca_file=str(made.authority), **own)
        hub.put(an_event(1))
        until(lambda: state(hub).delivered == 1)
        assert hub.close()
        nobody = hub_to(tmp_path / "c", broker.port, url=url, ca_file=str(made.authority))
        until(lambda: state(nobody).failed)
        nobody.close()
    finally:
        broker.stop()
    with pytest.raises(InputError, match="give PEM files"):
        hub_to(tmp_path / "d", broker.port, url=url, ca_file=str(tmp_path / "absent"))


def test_home_assistant_is_told_once_and_everything_it_needs(
    tmp_path: Path, broker: Broker, listener: Listener, an_event: Make, a_score: Make
) -> None:
    with hub_to(tmp_path, broker.port, discovery=True, commands=True, on_command=lambda *_: None) as hub:
        hub.put(a_score(0.1))
        hub.put(an_event(1))
        until(lambda: state(hub).delivered == 2)
        until(lambda: listener.messages("/event"))
    configs = {topic: json.loads(payload) for topic, payload, _ in listener.got if topic.startswith("homeassistant/")}
    assert len(configs) == len([topic for topic, _, _ in listener.got if topic.startswith("homeassistant/")]) == 6
    published = {topic for topic, _, _ in listener.got}
    assert len({config["unique_id"] for config in configs.values()}) == 6
    for topic, config in configs.items():
        prefix, component, node, what, last = topic.split("/")
        assert (prefix, last) == ("homeassistant", "config")
        assert config["unique_id"] == f"{node}_{what}"
        assert config["availability_topic"] in published
        if component != "button" and what in ("alarm", "state", "clip_score"):
            assert config["state_topic"] in published
