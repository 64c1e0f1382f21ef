"""The hub: cheap for whoever puts, each output on its own, nothing lost that was said to be safe."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made import free_port, until
from receivers import WebServer

from edgeasd.runtime.outputs import Outputs, OutputState, parse_outputs
from edgeasd.runtime.outputs.lane import Lane

pytestmark = [pytest.mark.core, pytest.mark.timeout(60)]

Make = Callable[..., dict[str, Any]]
FAST = {"retry_first_seconds": 0.02, "retry_longest_seconds": 0.1}


def outputs(folder: Path, tables: dict[str, dict[str, Any]], **more: Any) -> Outputs:
    return Outputs(parse_outputs(tables, "outputs"), folder / "queues", site="plant", box="box", **more)


def state(hub: Outputs, name: str) -> OutputState:
    return next(each for each in hub.state() if each.name == name)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def test_each_output_gets_the_kinds_it_asked_for(
    tmp_path: Path, web_server: WebServer, an_event: Make, a_score: Make
) -> None:
    tables = {
        "file": {"type": "jsonl", "path": str(tmp_path / "o.jsonl")},
        "hook": {"type": "webhook", "url": web_server.url},
    }
    with outputs(tmp_path, tables) as hub:
        for message in (a_score(0.1), an_event(1), a_score(0.2), an_event(2)):
            hub.put(message)
        until(lambda: state(hub, "file").delivered == 4 and state(hub, "hook").delivered == 2)
    assert [line["sequence"] for line in lines(tmp_path / "o.jsonl")] == [1, 2, 3, 4]
    assert [message["sequence"] for message in web_server.messages] == [1, 2]
    assert [message["body"]["sequence"] for message in web_server.messages] == [1, 2]


def test_a_receiver_that_blocks_delays_neither_put_nor_the_other_outputs(
    tmp_path: Path, web_server: WebServer, an_event: Make, proxies: Callable[..., Any]
) -> None:
    proxy = proxies(web_server.port)
    proxy.stalled = True
    tables = {
        "file": {"type": "jsonl", "path": str(tmp_path / "o.jsonl")},
        "hook": {"type": "webhook", "url": f"http://127.0.0.1:{proxy.port}/", "timeout_seconds": 30.0},
    }
    hub = outputs(tmp_path, tables)
    costs = []
    for number in range(1, 501):
        begun = time.perf_counter()
        hub.put(an_event(number))
        costs.append(time.perf_counter() - begun)
    until(lambda: state(hub, "file").delivered == 500)
    assert statistics.median(costs) < 1e-3
    assert max(costs) < 5.0
    until(lambda: state(hub, "hook").queued == 500)
    until(lambda: state(hub, "hook").oldest_seconds > 0.0)
    begun = time.perf_counter()
    assert hub.close(2.0) is False, "the thread that waits for the receiver was left behind"
    assert time.perf_counter() - begun < 10.0, "it waited for the receiver, 30 s"


def test_a_disk_that_stalls_does_not_delay_put(tmp_path: Path, an_event: Make, a_score: Make) -> None:
    hub = outputs(tmp_path, {"file": {"type": "jsonl", "path": str(tmp_path / "o.jsonl")}})
    lane = hub._lanes[0]
    with lane._queue._lock:  # as held by a transaction whose fsync does not return
        begun = time.perf_counter()
        for _ in range(20_000):
            hub.put(a_score(0.1))
        ticket = hub.put(an_event(1))
        assert time.perf_counter() - begun < 20.0
        assert not ticket.wait(0.05)
        dropped = state(hub, "file").dropped["score"]
    assert dropped > 0, "memory is bounded"
    assert ticket.wait(10.0)
    until(lambda: state(hub, "file").queued == 0, 20)
    hub.close()
    written = lines(tmp_path / "o.jsonl")
    assert written[-1]["kind"] == "event"
    assert len(written) + dropped == 20_001


def test_an_hour_without_network_loses_nothing(tmp_path: Path, web_server: WebServer, an_event: Make) -> None:
    hub = outputs(tmp_path, {"hook": {"type": "webhook", "url": web_server.url, **FAST}})
    hub.put(an_event(1))
    until(lambda: state(hub, "hook").delivered == 1)
    web_server.stop()
    for number in range(2, 60):
        hub.put(an_event(number))
    until(lambda: state(hub, "hook").failed >= 3)
    cut = state(hub, "hook")
    assert cut.connected is False
    assert "Connection refused" in str(cut.last_error)
    until(lambda: state(hub, "hook").queued == 58)
    web_server.start()
    until(lambda: state(hub, "hook").delivered == 59 and len(web_server.messages) == 59)
    hub.close()
    assert [message["body"]["sequence"] for message in web_server.messages] == list(range(1, 60))


def test_what_waits_is_delivered_by_the_next_process(tmp_path: Path, web_server: WebServer, an_event: Make) -> None:
    tables = {"hook": {"type": "webhook", "url": web_server.url, **FAST}}
    web_server.stop()
    with outputs(tmp_path, tables) as hub:
        assert hub.put(an_event(1)).wait(5.0)
    web_server.start()
    with outputs(tmp_path, tables) as hub:
        hub.put(an_event(2))
        until(lambda: len(web_server.messages) == 2)
    assert [message["sequence"] for message in web_server.messages] == [1, 2]


def test_close_delivers_what_was_just_put(tmp_path: Path, web_server: WebServer, an_event: Make) -> None:
    tables = {
        "hook": {"type": "webhook", "url": web_server.url},
        "file": {"type": "jsonl", "path": str(tmp_path / "o.jsonl")},
    }
    hub = outputs(tmp_path, tables)
    for number in range(1, 41):
        hub.put(an_event(number))
    assert hub.close(20.0)
    assert len(lines(tmp_path / "o.jsonl")) == 40
    until(lambda: len(web_server.messages) == 40)


def test_close_does_not_wait_out_a_back_off(tmp_path: Path, an_event: Make) -> None:
    slow = {"retry_first_seconds": 600.0, "retry_longest_seconds": 600.0}
    tables = {"hook": {"type": "webhook", "url": f"http://127.0.0.1:{free_port()}/", **slow}}
    hub = outputs(tmp_path, tables)
    hub.put(an_event(1))
    until(lambda: state(hub, "hook").failed == 1)
    begun = time.perf_counter()
    assert hub.close(300.0)
    assert time.perf_counter() - begun < 30.0


def test_outputs_can_be_opened_anew_while_an_old_attempt_still_hangs(
    tmp_path: Path, web_server: WebServer, an_event: Make, proxies: Callable[..., Any]
) -> None:
    proxy = proxies(web_server.port)
    proxy.stalled = True
    tables = {"hook": {"type": "webhook", "url": f"http://127.0.0.1:{proxy.port}/", **FAST}}
    hub = outputs(tmp_path, tables)
    hub.put(an_event(1))
    until(lambda: proxy.connections == 1)  # the attempt is under way
    assert hub.close(0.3) is False
    tables["hook"]["url"] = web_server.url
    with outputs(tmp_path, tables) as hub:
        hub.put(an_event(2))
        until(lambda: state(hub, "hook").delivered == 2)
    proxy.stalled = False
    until(lambda: len(web_server.messages) == 3)
    assert [message["sequence"] for message in web_server.messages] == [1, 2, 1], "the late one is a resend"


def test_a_message_that_is_refused_for_good_does_not_hold_up_the_others(
    tmp_path: Path, web_server: WebServer, an_event: Make
) -> None:
    patient = {"retry_first_seconds": 0.001, "retry_longest_seconds": 0.002}
    web_server.answer(*[422] * 20)
    with outputs(tmp_path, {"hook": {"type": "webhook", "url": web_server.url, **patient}}) as hub:
        hub.put(an_event(1))
        hub.put(an_event(2))
        until(lambda: state(hub, "hook").delivered == 1)
        until(lambda: len(web_server.messages) == 1)
        assert state(hub, "hook").dropped == {"event": 1}
        assert "message 1 dropped after 20 attempts" in str(state(hub, "hook").last_error)
    assert [message["sequence"] for message in web_server.messages] == [2]


def test_a_full_disk_keeps_messages_in_memory_until_there_is_room(tmp_path: Path, an_event: Make) -> None:
    hub = outputs(tmp_path, {"hook": {"type": "webhook", "url": f"http://127.0.0.1:{free_port()}/"}})
    database = hub._lanes[0]._queue._database
    database.execute("PRAGMA max_page_count = 1")
    for number in range(1, 51):
        ticket = hub.put(an_event(number, note="x" * 400))
    until(lambda: "full" in str(state(hub, "hook").last_error))
    assert not ticket.wait(0.0)
    assert state(hub, "hook").queued == 50
    database.execute("PRAGMA max_page_count = 1000000")
    assert ticket.wait(10.0)
    until(lambda: state(hub, "hook").queued == 50)
    hub.close()
    hub.close()


def test_a_shortage_of_threads_leaves_nothing_half_begun(
    tmp_path: Path, an_event: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = {name: {"type": "jsonl", "path": str(tmp_path / f"{name}.jsonl")} for name in ("one", "two")}
    start = Lane.start

    def short(lane: Lane) -> None:
        if lane.name == "two":
            raise RuntimeError("can't start new thread")
        start(lane)

    monkeypatch.setattr(Lane, "start", short)
    with pytest.raises(RuntimeError):
        outputs(tmp_path, tables)
    monkeypatch.undo()
    with outputs(tmp_path, tables) as hub:
        hub.put(an_event(1))
    assert [len(lines(tmp_path / f"{name}.jsonl")) for name in ("one", "two")] == [1, 1]


def test_events_that_a_crash_kept_from_an_output_reach_it_once(tmp_path: Path, an_event: Make) -> None:
    tables = {"file": {"type": "jsonl", "path": str(tmp_path / "o.jsonl")}}
    with outputs(tmp_path, tables) as hub:
        assert hub.last_event("valve", "00", begin=3) == 3
        hub.put(an_event(4))
    with outputs(tmp_path, tables) as hub:
        # The store has 4, 5 and 6; a crash came before 5 and 6 were put.
        assert hub.last_event("valve", "00", begin=6) == 4
        for number in (4, 5, 6):
            hub.put(an_event(number))
    assert [line["body"]["sequence"] for line in lines(tmp_path / "o.jsonl")] == [4, 5, 6]


def test_a_receiver_that_is_away_is_told_once_and_so_is_its_return(
    tmp_path: Path, web_server: WebServer, an_event: Make
) -> None:
    web_server.answer(*[503] * 5)
    told: list[str] = []
    tables = {"hook": {"type": "webhook", "url": web_server.url, **FAST}}
    with outputs(tmp_path, tables, log=told.append) as hub:
        for number in range(1, 4):
            hub.put(an_event(number))
        until(lambda: state(hub, "hook").delivered == 3 and len(told) == 2)
    place = f"http://127.0.0.1:{web_server.port}"
    assert told[0] == f"output hook: {place}: answered 503; its messages wait in the queue"
    assert told[1].startswith("output hook: delivers again")
