"""The page of metrics, by a real scrape and by visitors who misbehave."""

from __future__ import annotations

import http.client
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made import Station, free_port, until

from edgeasd.runtime.errors import DeviceError
from edgeasd.runtime.outputs import make_message

prometheus = pytest.importorskip("prometheus_client.parser", reason="NO prometheus-client: install 'edgeasd[serve]'")

pytestmark = [pytest.mark.timeout(60)]

Make = Callable[..., dict[str, Any]]


def get(address: tuple[str, int], path: str = "/metrics", method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection(*address, timeout=5)
    connection.request(method, path)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Station]:
    tables = {
        "page": {"type": "prometheus", "address": "127.0.0.1:0"},
        "file": {"type": "jsonl", "path": str(tmp_path / "o.jsonl")},
        "hook": {"type": "webhook", "url": f"http://127.0.0.1:{free_port()}/", "kinds": ["event", "score"]},
    }
    with Station(tmp_path / "data", tables, site='plant "1"') as made:
        yield made


def address_of(station: Station) -> tuple[str, int]:
    (address,) = station.manager.metrics_addresses
    return address


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in prometheus.text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_scrape_shows_machines_and_outputs(station: Station, an_event: Make, a_score: Make, repository: Path) -> None:
    station.put(a_score(0.25))
    for sequence, state, previous, test in ((1, "alarm", "normal", False), (2, "acknowledged", "alarm", False)):
        station.put(an_event(sequence, state=state, previous=previous, test=test))
    station.put(an_event(1, machine="fan", state="alarm", previous="alarm", reason="test", test=True))
    status = {"state": "running", "segments": 50, "dropped_seconds": 1.5, "latency_seconds": {"p50": 0.1, "p95": 0.2}}
    station.put(make_message("status", status, site="p", machine="valve", id="00", wall=1e9))
    states = {"silence": {"active": True}, "clipping": {"active": False}}
    health = {"at_seconds": 1.0, "unhealthy": True, "unhealthy_since_seconds": 0.5, "level_dbfs": -50.0}
    station.put(make_message("health", {**health, "states": states}, site="p", machine="valve", id="00", wall=1e9))
    until(lambda: station.state("file").delivered == 6)
    until(lambda: station.state("hook").failed)
    status_code, page = get(address_of(station))
    assert status_code == 200
    seen = samples(page)

    def of(name: str, **labels: str) -> float:
        return seen[name, frozenset(labels.items())]

    valve = {"machine": "valve", "id": "00"}
    assert of("edgeasd_clip_score", **valve) == 0.25
    assert of("edgeasd_stream_state", state="running", **valve) == 1.0
    assert of("edgeasd_stream_state", state="failed", **valve) == 0.0
    assert of("edgeasd_alarm_state", state="acknowledged", **valve) == 1.0
    assert of("edgeasd_alarm_state", state="alarm", **valve) == 0.0
    assert of("edgeasd_alarms_total", **valve) == 1.0
    assert of("edgeasd_alarms_total", machine="fan", id="00") == 0.0
    assert (of("edgeasd_test_alarms_total", **valve), of("edgeasd_test_alarms_total", machine="fan", id="00")) == (0, 1)
    assert of("edgeasd_segments_scored_total", **valve) == 50.0
    assert of("edgeasd_audio_dropped_seconds_total", **valve) == 1.5
    assert of("edgeasd_score_latency_seconds", quantile="0.95", **valve) == 0.2
    assert of("edgeasd_input_unhealthy", **valve) == 1.0
    assert of("edgeasd_input_state", state="silence", **valve) == 1.0
    assert of("edgeasd_output_queued_messages", output="hook") == 4.0
    assert of("edgeasd_output_delivered_messages_total", output="file") == 6.0
    assert of("edgeasd_output_connected", output="hook") == 0.0
    assert of("edgeasd_output_connected", output="file") == 1.0
    assert [labels for name, labels in seen if name == "edgeasd_build_info" and ("site", 'plant "1"') in labels]


def test_machine_without_an_event_shows_its_state(station: Station, an_event: Make) -> None:
    station.manager.set_retained_state("valve", "00", {"state": "normal", "maintenance": False, "snoozed_seconds": 0.0})
    labels = {"machine": "valve", "id": "00"}
    seen = samples(get(address_of(station))[1])
    assert seen["edgeasd_alarm_state", frozenset({**labels, "state": "normal"}.items())] == 1.0
    assert seen["edgeasd_alarms_total", frozenset(labels.items())] == 0.0
    station.put(an_event(1))
    seen = samples(get(address_of(station))[1])
    assert seen["edgeasd_alarm_state", frozenset({**labels, "state": "normal"}.items())] == 0.0
    until(lambda: station.state("file").delivered == 1)


def test_output_that_was_not_tried_is_not_disconnected(station: Station) -> None:
    seen = samples(get(address_of(station))[1])
    assert ("edgeasd_output_queued_messages", frozenset({("output", "hook")})) in seen
    assert ("edgeasd_output_connected", frozenset({("output", "hook")})) not in seen


def test_alarm_from_before_the_start_is_not_counted(station: Station, an_event: Make) -> None:
    station.manager.observe(an_event(1), replay=True)
    station.manager.set_retained_state("fan", "00", an_event(1, machine="fan")["body"])
    for machine in ("valve", "fan"):
        seen = samples(get(address_of(station))[1])
        labels = {"machine": machine, "id": "00"}
        assert seen["edgeasd_alarm_state", frozenset({**labels, "state": "alarm"}.items())] == 1.0
        assert seen["edgeasd_alarms_total", frozenset(labels.items())] == 0.0
        station.put(an_event(3, machine=machine))
        seen = samples(get(address_of(station))[1])
        assert seen["edgeasd_alarms_total", frozenset(labels.items())] == 1.0


def test_docs_list_every_metric(station: Station, repository: Path) -> None:
    page = get(address_of(station))[1]
    shown = set(re.findall(r"^# TYPE (\S+)", page, re.MULTILINE))
    text = (repository / "docs" / "how-to" / "outputs.md").read_text("utf-8")
    assert set(re.findall(r"^\| `(edgeasd_[a-z_]+)` \|", text, re.MULTILINE)) == shown
    for name in shown:
        assert re.fullmatch(r"edgeasd_[a-z_]+", name)


def test_removed_machine_leaves_the_page(station: Station, an_event: Make, a_score: Make) -> None:
    for message in (a_score(0.1), an_event(1), a_score(0.1, machine="fan")):
        station.put(message)
    station.manager.remove_machine("valve", "00")
    page = get(address_of(station))[1]
    assert 'machine="valve"' not in page
    assert 'machine="fan"' in page


def test_other_paths_and_methods_are_refused(station: Station) -> None:
    address = address_of(station)
    assert get(address, "/")[0] == 404
    assert get(address, "/metrics/../../etc/passwd")[0] == 404
    assert get(address, "/metrics?x=1")[0] == 200
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert get(address, method=method)[0] == 501
    assert get(address, method="HEAD") == (200, "")


def page_on(address: str, folder: Path) -> Station:
    return Station(folder, {"p": {"type": "prometheus", "address": address}}, site="p")


def test_address_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(DeviceError, match="Address already in use; choose another address or port"):
            page_on(address, tmp_path)


def test_name_that_is_no_address_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"metrics on a\.\.b:9464: .*; choose another address or port"):
        page_on("a..b:9464", tmp_path)


def test_address_that_comes_later_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network of a device may be there after the device. 192.0.2.1 is nobody's (RFC 5737)."""
    monkeypatch.setattr("edgeasd.runtime.outputs.prometheus.RETRY_SECONDS", 0.05)
    names = {"192.0.2.1": "192.0.2.1"}
    resolve = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *more, **named: resolve(names[host], *more, **named))
    with page_on("192.0.2.1:0", tmp_path) as station:
        assert station.state().last_error == "192.0.2.1 is not an address of this machine yet; trying again"
        names["192.0.2.1"] = "127.0.0.1"  # as if the network had come
        until(lambda: station.state().last_error is None)
        monkeypatch.undo()
        assert get(("127.0.0.1", address_of(station)[1]))[0] == 200


# Visitors


def _threads() -> int:
    """Threads without a name of their own, as those of a web server are."""
    return sum(thread.name.startswith("Thread-") for thread in threading.enumerate())


def test_slow_visitors_hold_nobody_up(station: Station) -> None:
    from edgeasd.runtime.outputs.prometheus import MOST_VISITORS

    address, before = address_of(station), _threads()
    idle = [socket.create_connection(address) for _ in range(2 * MOST_VISITORS)]
    for each in idle[:MOST_VISITORS]:
        each.send(b"GET /metrics HTTP")
    begun = time.monotonic()
    for _ in range(5):
        assert get(address)[0] == 200
    assert time.monotonic() - begun < 3.0
    until(lambda: _threads() - before < MOST_VISITORS + 10)
    for each in idle:
        each.close()


def test_visitor_that_sends_nothing_is_disconnected(station: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeasd.runtime.outputs.prometheus.PageHandler.timeout", 0.2)
    with socket.create_connection(address_of(station), timeout=5) as idle:
        assert idle.recv(1) == b""


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300) | st.text(max_size=40).map(lambda text: f"GET {text} HTTP/1.1\r\n\r\n".encode()))
def test_no_request_stops_the_server(station: Station, data: bytes) -> None:
    address = address_of(station)
    with socket.create_connection(address, timeout=5) as visitor:
        visitor.sendall(data + b"\r\n\r\n")
        visitor.shutdown(socket.SHUT_WR)
        visitor.recv(20)
    assert get(address, "/")[0] == 404


def test_request_without_end_is_refused(station: Station) -> None:
    with socket.create_connection(address_of(station), timeout=5) as visitor:
        visitor.sendall(b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 200)
        assert b" 431 " in visitor.recv(60)
