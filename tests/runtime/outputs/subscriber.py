"""A subscriber and outputs to a broker. Needs paho-mqtt."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from made import Station

Got = list[tuple[str, bytes, bool]]
FAST = {"retry_first_seconds": 0.05, "retry_longest_seconds": 0.2, "timeout_seconds": 1.0}


class Listener:
    """A subscriber that keeps what it got, through any number of cuts."""

    def __init__(self, port: int, topic: str = "#", name: str = "listener") -> None:
        self.got: Got = []
        self._client = client = paho.Client(paho.CallbackAPIVersion.VERSION2, f"{name} {topic}", clean_session=False)
        client.reconnect_delay_set(1, 1)
        client._reconnect_min_delay = client._reconnect_max_delay = 0.05
        client.on_connect = lambda *_: client.subscribe(topic, qos=1)
        client.on_message = lambda _c, _u, m: self.got.append((m.topic, m.payload, m.retain))
        subscribed = threading.Event()
        client.on_subscribe = lambda *_: subscribed.set()
        client.connect("127.0.0.1", port)
        client.loop_start()
        assert subscribed.wait(5)

    def publish(self, topic: str, payload: bytes, retain: bool = False) -> None:
        self._client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(5)

    def of(self, topic: str) -> list[bytes]:
        return [payload for name, payload, _ in self.got if name == topic]

    def messages(self, leaf: str) -> list[dict[str, Any]]:
        return [json.loads(payload) for name, payload, _ in self.got if name.endswith(leaf)]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def station_to(folder: Path, port: int, *, site: str = "plant 1", on_command: Any = None, **more: Any) -> Station:
    """One MQTT output to `port`."""
    table = {"type": "mqtt", "url": f"mqtt://127.0.0.1:{port}", **FAST, **more}
    return Station(folder / "data", {"plant": table}, site=site, on_command=on_command)
