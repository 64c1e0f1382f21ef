"""kill -9 at any instant: every committed event reaches every receiver, in order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from made import EVENT_ID, firsts, until
from receivers import Broker, WebServer

pytest.importorskip("httpx", reason="NO httpx: pip install 'edgeasd[serve]'")
paho = pytest.importorskip("paho.mqtt.client", reason="NO paho-mqtt: pip install 'edgeasd[serve]'")


def subscriber(port: int) -> tuple[Any, list[dict[str, Any]]]:
    got: list[dict[str, Any]] = []
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, "subscriber")
    client.on_message = lambda _c, _u, message: got.append(json.loads(message.payload))
    client.on_connect = lambda *_: client.subscribe([("edgeasd/+/+/+/event", 1), ("edgeasd/+/+/+/score", 1)])
    ready: list[bool] = []
    client.on_subscribe = lambda *_: ready.append(True)
    client.connect("127.0.0.1", port)
    client.loop_start()
    until(lambda: ready)
    return client, got


def last_event(received: list[dict[str, Any]]) -> int:
    return max((message["body"]["sequence"] for message in list(received) if message["kind"] == "event"), default=0)


def check(received: list[dict[str, Any]], committed: int) -> None:
    kept = firsts(received)
    events = [message["body"]["sequence"] for message in kept if message["kind"] == "event"]
    assert events == list(range(1, len(events) + 1)), "each event once, in order"
    assert len(events) >= committed
    contents: dict[int, dict[str, Any]] = {}
    for message in received:
        assert contents.setdefault(message["seq"], message) == message, "a resend is the same message"
        assert message["event"] == (EVENT_ID if message["kind"] == "event" else None)


@pytest.mark.timeout(280)
@pytest.mark.parametrize("kills", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_no_instant_of_death_loses_an_event(tmp_path: Path, broker: Broker, web_server: WebServer, kills: int) -> None:
    client, from_broker = subscriber(broker.port)
    lines = tmp_path / "o.jsonl"
    everything = ["event", "score"]
    tables = {
        "file": {"type": "jsonl", "path": str(lines)},
        "hook": {"type": "webhook", "url": web_server.url, "kinds": everything},
        "mqtt": {"type": "mqtt", "url": f"mqtt://127.0.0.1:{broker.port}", "retry_first_seconds": 0.05},
    }
    seed = int.from_bytes(os.urandom(4), "big")
    program = Path(__file__).with_name("crash_producer.py")
    arguments = [json.dumps(tables), str(tmp_path / "data"), str(kills), str(seed)]
    done = subprocess.run([sys.executable, str(program), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["left"] == [0, 0, 0], seed
    assert result["committed"] > kills, "the lives were too short to show anything"
    in_file = [json.loads(line) for line in lines.read_text("utf-8").splitlines()]
    for received in (lambda: from_broker, lambda: web_server.messages):
        until(lambda received=received: last_event(received()) >= result["committed"])
    client.disconnect()
    client.loop_stop()
    for received in (in_file, from_broker, web_server.messages):
        check(received, result["committed"])
