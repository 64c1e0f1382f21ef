"""The page of metrics, by a real scrape and by visitors who mean no good."""

from __future__ import annotations

import http.client
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made import free_port, until

from edgeasd.runtime.errors import DeviceError
from edgeasd.runtime.outputs import Outputs, make_message, parse_outputs
from edgeasd.runtime.outputs.scrape import MOST_CONNECTIONS, PageServer

prometheus = pytest.importorskip("prometheus_client.parser", reason="NO prometheus-client: install 'edgeasd[serve]'")

pytestmark = [pytest.mark.timeout(60)]

Make = Callable[..., dict[str, Any]]


def get(address: tuple[str, int], path: str = "/metrics", method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection(*address, timeout=5)
    connection.request(method, path)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Outputs]:
    tables = {
        "page": {"type": "prometheus", "address": "127.0.0.1:0"},
        "file": {"type": "jsonl", "path": str(tmp_path / "o.jsonl")},
        "hook": {"type": "webhook", "url": f"http://127.0.0.1:{free_port()}/"},
    }
    with Outputs(parse_outputs(tables, "o"), tmp_path / "q", site='plant "1"') as made:
        yield made


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in prometheus.text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_scrape_shows_machines_and_outputs(hub: Outputs, an_event: Make, a_score: Make, repository: Path) -> None:
    hub.put(a_score(0.25))
    for sequence, state, previous, test in ((1, "alarm", "normal", False), (2, "acknowledged", "alarm", False)):
        hub.put(an_event(sequence, state=state, previous=previous, test=test))
    hub.put(an_event(1, machine="fan", state="alarm", previous="alarm", reason="test", test=True))
    status = {"state": "running", "segments": 50, "dropped_seconds": 1.5, "latency_seconds": {"p50": 0.1, "p95": 0.2}}
    hub.put(make_message("status", status, site="p", machine="valve", id="00", wall=1e9))
    states = {"silence": {"active": True}, "clipping": {"active": False}}
    health = {"schema": 1, "at_seconds": 1.0, "sick": True, "sick_since_seconds": 0.5, "level_dbfs": -50.0}
    hub.put(make_message("health", {**health, "states": states}, site="p", machine="valve", id="00", wall=1e9))
    until(lambda: [state for state in hub.state() if state.name == "file" and state.delivered == 6])
    until(lambda: [state for state in hub.state() if state.name == "hook" and state.failed])
    status_code, page = get(hub.metrics_addresses[0])
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
    assert of("edgeasd_input_sick", **valve) == 1.0
    assert of("edgeasd_input_state", state="silence", **valve) == 1.0
    assert of("edgeasd_output_queued_messages", output="hook") == 3.0
    assert of("edgeasd_output_delivered_messages_total", output="file") == 6.0
    assert of("edgeasd_output_connected", output="hook") == 0.0
    assert of("edgeasd_output_connected", output="file") == 1.0
    assert [labels for name, labels in seen if name == "edgeasd_build_info" and ("site", 'plant "1"') in labels]


def test_a_machine_without_an_event_shows_its_state_and_sends_none(hub: Outputs, an_event: Make) -> None:
    hub.present("valve", "00", {"state": "normal", "maintenance": False, "snoozed_seconds": 0.0})
    labels = {"machine": "valve", "id": "00"}
    seen = samples(get(hub.metrics_addresses[0])[1])
    assert seen["edgeasd_alarm_state", frozenset({**labels, "state": "normal"}.items())] == 1.0
    assert seen["edgeasd_alarms_total", frozenset(labels.items())] == 0.0
    hub.put(an_event(1))
    seen = samples(get(hub.metrics_addresses[0])[1])
    assert seen["edgeasd_alarm_state", frozenset({**labels, "state": "normal"}.items())] == 0.0
    until(lambda: [state for state in hub.state() if state.name == "file" and state.delivered == 1])


def test_an_output_that_was_not_tried_yet_is_not_called_dead(hub: Outputs) -> None:
    seen = samples(get(hub.metrics_addresses[0])[1])
    assert ("edgeasd_output_queued_messages", frozenset({("output", "hook")})) in seen
    assert ("edgeasd_output_connected", frozenset({("output", "hook")})) not in seen


def test_an_alarm_from_before_the_start_is_shown_and_not_counted(hub: Outputs, an_event: Make) -> None:
    hub.put(an_event(1), again=True)
    hub.remember(an_event(1, machine="fan"))
    for machine in ("valve", "fan"):
        seen = samples(get(hub.metrics_addresses[0])[1])
        labels = {"machine": machine, "id": "00"}
        assert seen["edgeasd_alarm_state", frozenset({**labels, "state": "alarm"}.items())] == 1.0
        assert seen["edgeasd_alarms_total", frozenset(labels.items())] == 0.0
        hub.put(an_event(3, machine=machine))
        seen = samples(get(hub.metrics_addresses[0])[1])
        assert seen["edgeasd_alarms_total", frozenset(labels.items())] == 1.0


def test_the_table_in_docs_lists_every_metric(hub: Outputs, repository: Path) -> None:
    page = get(hub.metrics_addresses[0])[1]
    shown = set(re.findall(r"^# TYPE (\S+)", page, re.MULTILINE))
    text = (repository / "docs" / "how-to" / "outputs.md").read_text("utf-8")
    assert set(re.findall(r"^\| `(edgeasd_[a-z_]+)` \|", text, re.MULTILINE)) == shown
    for name in shown:
        assert re.fullmatch(r"edgeasd_[a-z_]+", name)


def test_other_paths_and_methods_are_refused(hub: Outputs) -> None:
    address = hub.metrics_addresses[0]
    assert get(address, "/")[0] == 404
    assert get(address, "/metrics/../../etc/passwd")[0] == 404
    assert get(address, "/metrics?x=1")[0] == 200
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert get(address, method=method)[0] == 405
    assert get(address, method="HEAD") == (200, "")


def test_an_address_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(DeviceError, match="Address already in use; choose another address or port"):
            Outputs(parse_outputs({"p": {"type": "prometheus", "address": address}}, "o"), tmp_path, site="p")


def test_an_address_that_comes_later_is_listened_on_and_said(tmp_path: Path) -> None:
    """The network of a box may be there after the box. 192.0.2.1 is nobody's (RFC 5737)."""
    table = {"p": {"type": "prometheus", "address": "192.0.2.1:0"}}
    with Outputs(parse_outputs(table, "o"), tmp_path, site="p") as hub:
        (state,) = hub.state()
        assert state.last_error == "192.0.2.1 is no address of this machine, or was not yet at the start"


def test_a_name_that_is_none_is_one_line(tmp_path: Path) -> None:
    table = {"p": {"type": "prometheus", "address": "a..b:9464"}}
    with pytest.raises(DeviceError, match=r"metrics on a\.\.b:9464: .*; choose another address or port"):
        Outputs(parse_outputs(table, "o"), tmp_path, site="p")


@pytest.fixture
def server() -> Iterator[PageServer]:
    made = PageServer("127.0.0.1", 0, lambda: ("text/plain", b"x" * 3_000_000))
    made.start()
    yield made
    made.close()


def test_slow_visitors_hold_nobody_up(server: PageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    idle = [socket.create_connection(server.address) for _ in range(2 * MOST_CONNECTIONS)]
    for each in idle[:MOST_CONNECTIONS]:
        each.send(b"GET /metrics HTTP")
    readers = [socket.create_connection(server.address) for _ in range(3)]
    for each in readers:  # ask, and do not read
        each.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
    begun = time.monotonic()
    for _ in range(5):
        status, page = get(server.address)
        assert (status, len(page)) == (200, 3_000_000)
    assert time.monotonic() - begun < 3.0
    assert len(server._visitors) <= MOST_CONNECTIONS
    for each in idle + readers:
        each.close()


def test_a_visitor_who_stays_is_let_go(server: PageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeasd.runtime.outputs.scrape.SECONDS", 0.2)
    with socket.create_connection(server.address, timeout=5) as idle:
        begun = time.monotonic()
        assert idle.recv(1) == b""
        assert time.monotonic() - begun < 3.0


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300) | st.text(max_size=40).map(lambda text: f"GET {text} HTTP/1.1\r\n\r\n".encode()))
def test_no_request_stops_the_server(server: PageServer, data: bytes) -> None:
    with socket.create_connection(server.address, timeout=5) as visitor:
        visitor.sendall(data + b"\r\n\r\n")
        answer = visitor.recv(20)
    assert answer.startswith(b"HTTP/1.1 ")
    assert get(server.address, "/")[0] == 404


def test_a_request_without_end_is_refused(server: PageServer) -> None:
    with socket.create_connection(server.address, timeout=5) as visitor:
        visitor.sendall(b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 1300 + b"X" * 400)
        assert visitor.recv(30).startswith(b"HTTP/1.1 431")
