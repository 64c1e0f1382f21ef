"""The receivers of a plant, all real and on loopback: web server, broker with a subscriber, Prometheus."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from made import free_port, until
from receivers import Broker

KEY = "the key of the plant"
MESSAGES = ("event", "score", "health", "status")
Sample = tuple[float, float]


class Hook:
    """A web server that verifies signatures and keeps what it takes in a file; see hook_server.py."""

    def __init__(self, folder: Path) -> None:
        self.port, self.file = free_port(), folder / "hook.jsonl"
        self.start()

    def start(self) -> None:
        program = Path(__file__).with_name("hook_server.py")
        command = [sys.executable, "-S", str(program), str(self.port), KEY, str(self.file)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def behave(self, word: str) -> None:
        """take, fail, hang or close."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "heard\n"

    def taken(self) -> list[str]:
        """Bodies in the order in which they came; every signature was right."""
        lines = self.file.read_text("utf-8").split("\n")[:-1] if self.file.exists() else []
        found = [json.loads(line) for line in lines]
        assert all(one["valid"] for one in found), "a signature was wrong"
        return [one["body"] for one in found]

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


class Subscription:
    """A subscriber with a persistent session; it may be cut off and come back."""

    def __init__(self, broker: Broker) -> None:
        from subscriber import Listener  # needs paho, which the core does not have

        self._make = lambda: Listener(broker.port, "#", "plant-control")
        self._before: list[tuple[str, bytes, bool]] = []
        self._listener = self._make()

    def come_back(self) -> None:
        """Leave, and take the session up again: the broker has kept what came meanwhile."""
        self._listener.close()
        self._before += self._listener.got
        self._listener = self._make()

    def taken(self, prefix: str) -> list[str]:
        """Numbered messages under a prefix, in the order in which they came; not those that the broker had kept."""
        got = self._before + list(self._listener.got)
        here = [(topic, payload) for topic, payload, kept in got if topic.startswith(f"{prefix}/") and not kept]
        return [payload.decode() for topic, payload in here if topic.rpartition("/")[2] in MESSAGES]

    def close(self) -> None:
        self._listener.close()


def kept_states(port: int, machines: int) -> dict[tuple[str, str], dict[str, Any]]:
    """Alarm states that a broker keeps, or is told within a moment, by prefix and machine ID."""
    from subscriber import Listener  # needs paho, which the core does not have

    late = Listener(port, "+/plant/valve/+/state", name="late")
    try:
        until(lambda: len({topic for topic, _, _ in late.got}) == 2 * machines)
        levels = [(topic.split("/"), payload) for topic, payload, _ in late.got]
        return {(topic[0], topic[3]): json.loads(payload) for topic, payload in levels}
    finally:
        late.close()


class Prometheus:
    """Debian's Prometheus, which scrapes one address four times a second."""

    def __init__(self, folder: Path, target: str) -> None:
        program = shutil.which("prometheus")
        if program is None:
            pytest.skip("NO PROMETHEUS: the program is not installed, so nothing scrapes the service")
        self.port, self._folder, self._program = free_port(), folder, program
        folder.mkdir()
        (folder / "prometheus.yml").write_text(
            "global:\n  scrape_interval: 250ms\n  scrape_timeout: 200ms\n"
            f"scrape_configs:\n- job_name: edgeasd\n  static_configs:\n  - targets: ['{target}']\n"
        )
        self.start()

    def start(self) -> None:
        options = {
            "config.file": self._folder / "prometheus.yml",
            "storage.tsdb.path": self._folder / "data",
            "web.listen-address": f"127.0.0.1:{self.port}",
        }
        command = [self._program, *(f"--{name}={value}" for name, value in options.items())]
        # One processor: it is a guest on the machine under test.
        environment = {**os.environ, "GOMAXPROCS": "1"}
        with open(self._folder / "log", "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        until(self._ready, 30)

    def _ready(self) -> bool:
        assert self.process.poll() is None, (self._folder / "log").read_text()
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=2) as answer:
            return bool(answer.status == 200)
        return False

    def samples(self, selector: str) -> dict[str, list[Sample]]:
        """(Unix time, value) pairs of the last half hour as they were scraped, by machine ID ("" without one)."""
        query = urllib.parse.urlencode({"query": f"{selector}[30m]", "time": time.time()})
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/query?{query}", timeout=10) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return {one["metric"].get("id", ""): [(at, float(value)) for at, value in one["values"]] for one in found}

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
