"""Outputs on the outbox: in order, each on its own, nothing lost, and what is refused."""

from __future__ import annotations

import json
import logging
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made import FAST, Station, free_port, until
from receivers import WebServer

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.outputs import encode
from edgeasd.runtime.outputs.jsonl import JsonlOutput

pytestmark = [pytest.mark.core, pytest.mark.timeout(60)]

Make = Callable[..., dict[str, Any]]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def test_each_output_gets_its_kinds_in_order(
    tmp_path: Path, web_server: WebServer, an_event: Make, a_score: Make
) -> None:
    tables = {
        "file": {"type": "jsonl", "path": str(tmp_path / "o.jsonl")},
        "hook": {"type": "webhook", "url": web_server.url},
    }
    with Station(tmp_path / "data", tables) as station:
        seqs = [station.put(message) for message in (a_score(0.1), an_event(1), a_score(0.2), an_event(2))]
        # What was just put is delivered before it closes.
        assert station.manager.close(20.0)
        assert station.manager.close(20.0), "a second close does nothing"
        assert [station.state(name).queued for name in ("file", "hook")] == [0, 0]
        assert [station.state(name).delivered for name in ("file", "hook")] == [4, 2]
    assert [line["seq"] for line in lines(tmp_path / "o.jsonl")] == seqs == sorted(set(seqs))
    until(lambda: len(web_server.messages) == 2)
    assert [message["seq"] for message in web_server.messages] == [seqs[1], seqs[3]]
    assert {message["store"] for message in web_server.messages} == {station.outbox.store_id}
    assert [message["stored"] for message in web_server.messages] == [True, True]
    assert [message["body"]["sequence"] for message in web_server.messages] == [1, 2]


def test_blocked_receiver_delays_no_one_else(
    tmp_path: Path, web_server: WebServer, an_event: Make, proxies: Callable[..., Any]
) -> None:
    proxy = proxies(web_server.port)
    proxy.stalled = True
    tables = {
        "file": {"type": "jsonl", "path": str(tmp_path / "o.jsonl")},
        "hook": {"type": "webhook", "url": f"http://127.0.0.1:{proxy.port}/", "timeout_seconds": 30.0},
    }
    station = Station(tmp_path / "data", tables)
    costs = []
    with station.outbox.transaction():
        for number in range(1, 301):
            begun = time.perf_counter()
            station.put(an_event(number))
            costs.append(time.perf_counter() - begun)
    until(lambda: station.state("file").delivered == 300)
    assert statistics.median(costs) < 1e-3
    assert station.state("hook").queued == 300
    assert station.state("hook").oldest_seconds > 0.0
    begun = time.perf_counter()
    assert station.close(0.5) is False, "the thread that waits for the receiver was left behind"
    assert time.perf_counter() - begun < 10.0, "it waited for the receiver, 30 s"


def test_outage_loses_nothing_and_is_logged_once(
    tmp_path: Path, web_server: WebServer, an_event: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "edgeasd.runtime.outputs")
    station = Station(tmp_path / "data", {"away": {"type": "webhook", "url": web_server.url, **FAST}})
    station.put(an_event(1))
    until(lambda: station.state().delivered == 1)
    web_server.stop()
    for number in range(2, 60):
        station.put(an_event(number))
    until(lambda: station.state().failed >= 3)
    during = station.state()
    assert during.connected is False
    assert "Connection refused" in str(during.last_error)
    assert during.queued == 58
    web_server.start()
    until(lambda: station.state().delivered == 59 and len(web_server.messages) == 59)
    station.close()
    assert [message["body"]["sequence"] for message in web_server.messages] == list(range(1, 60))
    place = f"output away: http://127.0.0.1:{web_server.port}"
    assert [line for line in caplog.messages if "output away" in line] == [
        f"{place}: Connection refused; its messages wait in the outbox",
        "output away: delivers again",
    ]


def test_next_process_delivers_what_waits(tmp_path: Path, web_server: WebServer, an_event: Make) -> None:
    tables = {"hook": {"type": "webhook", "url": web_server.url, **FAST}}
    web_server.stop()
    with Station(tmp_path / "data", tables) as station:
        first = station.put(an_event(1))
        until(lambda: station.state().failed)
    web_server.start()
    with Station(tmp_path / "data", tables) as station:
        assert station.put(an_event(2)) > first
        until(lambda: len(web_server.messages) == 2)
    assert [message["body"]["sequence"] for message in web_server.messages] == [1, 2]
    with Station(tmp_path / "data", tables) as station:
        until(lambda: station.state().queued == 0)
    assert len(web_server.messages) == 2, "a clean end resends nothing"


def test_close_does_not_wait_out_a_backoff(tmp_path: Path, an_event: Make) -> None:
    pytest.importorskip("httpx", reason="NO httpx: pip install 'edgeasd[serve]'")
    slow = {"retry_first_seconds": 600.0, "retry_longest_seconds": 600.0}
    tables = {"hook": {"type": "webhook", "url": f"http://127.0.0.1:{free_port()}/", **slow}}
    station = Station(tmp_path / "data", tables)
    station.put(an_event(1))
    until(lambda: station.state().failed == 1)
    begun = time.perf_counter()
    assert station.close(300.0)
    assert time.perf_counter() - begun < 30.0


def test_reopened_while_an_old_attempt_hangs(
    tmp_path: Path, web_server: WebServer, an_event: Make, proxies: Callable[..., Any]
) -> None:
    from edgeasd.runtime.outputs import OutputManager, parse_outputs

    proxy = proxies(web_server.port)
    proxy.stalled = True
    table = {"type": "webhook", "url": f"http://127.0.0.1:{proxy.port}/", **FAST}
    station = Station(tmp_path / "data", {"hook": table})
    first = station.put(an_event(1))
    until(lambda: proxy.connections == 1)  # the attempt is under way
    assert station.manager.close(0.3) is False
    station.manager = OutputManager(
        parse_outputs({"hook": {**table, "url": web_server.url}}, "o"), station.outbox, site="plant"
    )
    station.manager.start()
    second = station.put(an_event(2))
    until(lambda: station.state().delivered == 2)
    proxy.stalled = False
    until(lambda: len(web_server.messages) == 3)
    station.close()
    assert [message["seq"] for message in web_server.messages] == [first, second, first], "the late one is a resend"


def test_message_rejected_for_good_is_dropped_and_counted(
    tmp_path: Path, web_server: WebServer, an_event: Make
) -> None:
    quick = {"retry_first_seconds": 0.001, "retry_longest_seconds": 0.002}
    web_server.answer(*[422] * 20)
    with Station(tmp_path / "data", {"hook": {"type": "webhook", "url": web_server.url, **quick}}) as station:
        first, second = station.put(an_event(1)), station.put(an_event(2))
        until(lambda: station.state().delivered == 1)
        until(lambda: len(web_server.messages) == 1)
        assert station.state().dropped == {"event": 1}
        assert f"message {first} dropped after 20 attempts" in str(station.state().last_error)
    assert [message["seq"] for message in web_server.messages] == [second]


def test_message_that_the_disk_refused_is_marked(tmp_path: Path, an_event: Make) -> None:
    table = {"type": "jsonl", "path": str(tmp_path / "o.jsonl")}
    with Station(tmp_path / "data", {"file": table}) as station:
        station.outbox.append_unstored("event", "valve", "00", encode(an_event(1)))
        until(lambda: station.state().delivered == 1)
    assert [line["stored"] for line in lines(tmp_path / "o.jsonl")] == [False]


def test_broken_output_ends_no_other(tmp_path: Path, an_event: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    deliver = JsonlOutput.deliver

    def fail(output: JsonlOutput, *all: Any) -> None:
        if output.path.name == "broken.jsonl":
            raise RuntimeError("a defect")
        deliver(output, *all)

    monkeypatch.setattr(JsonlOutput, "deliver", fail)
    tables = {name: {"type": "jsonl", "path": str(tmp_path / f"{name}.jsonl"), **FAST} for name in ("broken", "whole")}
    with Station(tmp_path / "data", tables) as station:
        station.put(an_event(1))
        until(lambda: station.state("broken").failed >= 2 and station.state("whole").delivered == 1)
        assert station.state("broken").last_error == "RuntimeError: a defect"
        assert station.state("broken").queued == 1


# What is refused


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({}, "message"),
        ({"kind": "gossip"}, "message"),
        ({"kind": "event", "schema": 2}, "message: event"),
        ({"kind": "score", "body": object()}, "give plain JSON values"),
    ],
)
def test_what_is_no_message_is_refused_in_one_line(message: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason) as refused:
        encode(message)
    assert "\n" not in str(refused.value)


def test_too_large_a_message_is_refused(an_event: Make) -> None:
    with pytest.raises(InputError, match="at most 65536 leave the device"):
        encode(an_event(1, note="x" * 70_000))


def test_numbers_that_json_does_not_have_become_null(a_score: Make) -> None:
    for value in (float("nan"), float("-inf")):
        assert json.loads(encode(a_score(value)))["body"]["last"] is None


def test_one_wrong_output_starts_none(tmp_path: Path) -> None:
    good = {"type": "jsonl", "path": str(tmp_path / "o.jsonl")}
    bad = {"type": "jsonl", "path": str(tmp_path / "absent" / "o.jsonl")}
    before = threading.active_count()
    with pytest.raises(InputError, match="no such folder"):
        Station(tmp_path / "data", {"good": good, "bad": bad})
    assert threading.active_count() == before


def test_missing_package_is_one_line_with_the_extra() -> None:
    """And importing the outputs imports none of them."""
    code = """
import sys
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.outputs import check_output, parse_outputs
print(sorted({"paho", "prometheus_client", "httpx", "torch", "scipy"} & set(sys.modules)))
tables = {
    "paho": {"type": "mqtt", "url": "mqtt://127.0.0.1"},
    "prometheus_client": {"type": "prometheus"},
    "httpx": {"type": "webhook", "url": "http://127.0.0.1/"},
}
for package, table in tables.items():
    sys.modules[package] = None
    try:
        check_output(parse_outputs({"x": table}, "o")["x"], "site")
    except InputError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, *rest = done.stdout.splitlines()
    assert first == "[]"
    assert len(rest) == 3
    assert all("pip install 'edgeasd[serve]'" in line for line in rest)
