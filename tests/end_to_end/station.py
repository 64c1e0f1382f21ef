"""The box of a plant: a site file, the service as a process, and what it has committed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from made import until
from receivers_of_plant import KEY

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.service.control import ask

FORKER = Path(__file__).parents[1] / "runtime" / "service" / "service_forker.py"
OUTPUTS = """
[outputs.log]
type = "jsonl"
path = "log/log.jsonl"
kinds = {kinds}
retry_first_seconds = 0.1
retry_longest_seconds = 0.4

[outputs.three]
type = "mqtt"
url = "mqtt://127.0.0.1:{broker}"
protocol = "3.1.1"
client_id = "box-three"
prefix = "three"
{fast}

[outputs.five]
type = "mqtt"
url = "mqtt://127.0.0.1:{broker}"
protocol = "5"
client_id = "box-five"
prefix = "five"
{fast}

[outputs.hook]
type = "webhook"
url = "http://127.0.0.1:{hook}/alarms"
secret_env = "PLANT_KEY"
{fast}

[outputs.metrics]
type = "prometheus"
address = "127.0.0.1:{metrics}"
"""
FAST = "retry_first_seconds = 0.1\nretry_longest_seconds = 0.4\ntimeout_seconds = 1.0"


class Ports(NamedTuple):
    """Where the receivers listen, and the service for a scrape."""

    broker: int
    hook: int
    metrics: int


class Life(NamedTuple):
    """When a service was started and killed, Unix time."""

    began: float
    ended: float


class Station:
    """A folder with a site file, and services on it, one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file, self.data = folder, folder / "site.toml", folder / "data"
        (self.data / "log").mkdir(parents=True)
        self.log = self.data / "log" / "log.jsonl"
        self.process: subprocess.Popen[bytes] | None = None

    def write(
        self,
        ports: Ports,
        bundle: Path,
        commands: Sequence[str],
        *,
        levels: Sequence[float] = (0.4,),
        kinds: Sequence[str] = ("event",),
        once: bool = False,
        pace: str | None = None,
        top: str = "status_seconds = 1.0\nscore_seconds = 1.0",
    ) -> None:
        """A stream a, b, … for each command, which alarms above its level of `levels`; those repeat.

        With `once` the commands are no live sound: it waits to be scored, and its scores are dated when they come.
        """
        text = f'site = "plant"\n{top}\n[engines.one]\nthreads = 1\n'
        for number, command in enumerate(commands):
            name = "abcdefgh"[number]
            text += f'[streams.{name}]\nbundle = "{bundle}"\nid = "{name}"\nengine = "one"\n'
            text += f"input_command = '''{command}'''\nonce = {str(once).lower()}\n"
            text += "" if pace is None else f'pace = "{pace}"\n'
            text += f"[streams.{name}.alarm]\non = {levels[number % len(levels)]}\n"
            text += (
                "hysteresis = 0.0\nwarning_margin = 0.0\ncooldown_seconds = 0.0\nrecovery_seconds = 0.0\nk = 1\nn = 1\n"
            )
            # One stream keeps its clips: eight would measure FLAC at many times real time.
            text += f"[streams.{name}.evidence]\nenabled = {str(not number).lower()}\npre_seconds = 2.0\npost_seconds = 1.0\n"
        listed = "[" + ", ".join(f'"{kind}"' for kind in kinds) + "]"
        self.file.write_text(text + OUTPUTS.format(kinds=listed, fast=FAST, **ports._asdict()), "utf-8")

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("EDGEASD_")}
        return {**kept, "PLANT_KEY": KEY, "OMP_NUM_THREADS": "1"}

    def start(self, *options: str, out: Any = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        """The command line, `edgeasd run --config`."""
        command = [sys.executable, "-m", "edgeasd", "run", "--config", str(self.file), *options]
        with open(self.folder / "said", "ab") as said:
            self.process = subprocess.Popen(
                command, cwd=self.folder, stdout=out, stderr=said, env=self.environment, start_new_session=True
            )
        return self.process

    def state(self) -> dict[str, Any] | None:
        """What the service says of itself; None where it does not answer."""
        with suppress(InputError):
            found: dict[str, Any] | None = ask(self.data, {"ask": "status"})
            return found
        return None

    def until_running(self, seconds: float = 30.0) -> dict[str, Any]:
        """Wait until every stream has scores."""

        def running() -> dict[str, Any] | None:
            state = self.state()
            return state if state and state["streams"] and all(s["segments"] for s in state["streams"]) else None

        found: dict[str, Any] = until(running, seconds)
        return found

    def command(self, name: str, command: str) -> Any:
        """A command for the alarm machine of a stream; None where no service answers."""
        with suppress(InputError):
            return ask(self.data, {"ask": "command", "stream": name, "command": {"command": command}})
        return None

    def maintain(self, names: str) -> None:
        """Maintenance for the streams of these names, each a letter.

        A keeper that is behind on a slow disk says that it is busy; where it obeyed after all, nothing is left to do.
        """
        for name in names:
            until(lambda name=name: self.command(name, "maintenance_on") is not None, 30)

    def end(self, number: int = signal.SIGTERM) -> float:
        """Signal the service and wait for it; seconds that took."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(20)
        return time.monotonic() - began

    def edgeasd(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Another command of edgeasd."""
        command = [sys.executable, "-m", "edgeasd", *map(str, arguments)]
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )


class CommandLine:
    """Lives of the command line itself."""

    def __init__(self, station: Station) -> None:
        self._station = station

    def start(self) -> int:
        return self._station.start().pid

    def kill(self) -> None:
        self._station.end(signal.SIGKILL)

    def close(self) -> None:
        """Nothing is left."""


class Forked:
    """Lives forked from a process that has imported what a service needs; see service_forker.py."""

    def __init__(self, station: Station) -> None:
        self._station, self._child = station, 0
        with open(station.folder / "said", "ab") as said:
            self._process = subprocess.Popen(
                [sys.executable, str(FORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                cwd=station.folder,
                env=station.environment,
            )

    def start(self) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{self._station.file}\n")
        self._process.stdin.flush()
        self._child = int(self._process.stdout.readline())
        return self._child

    def kill(self, number: int = signal.SIGKILL) -> None:
        assert self._process.stdout is not None
        child, self._child = self._child, 0
        os.kill(child, number)
        assert self._process.stdout.readline() == "gone\n"

    def close(self) -> None:
        if self._child:
            self.kill()
        self._process.communicate(timeout=10)


def soon(act: Any, *arguments: Any) -> threading.Thread:
    """Do it in a thread, which dies with whatever happens there."""

    def quietly() -> None:
        with suppress(Exception):
            act(*arguments)

    thread = threading.Thread(target=quietly, daemon=True)
    thread.start()
    return thread
