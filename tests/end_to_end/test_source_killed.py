"""The program that brings the sound is killed under the running service: the stream says so, the others go on."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from ledger import check_received, committed, has_all
from made import until
from pulse import Pulse
from sounds import played

SPEED = 2.0


def by_ffmpeg(sound: Path) -> str:
    """ffmpeg, which plays a file for ever in real time, as it would a camera."""
    program = shutil.which("ffmpeg")
    if program is None:
        pytest.skip("NO FFMPEG: the program is not installed, so none can be killed")
    words = f"-loglevel error -re -stream_loop -1 -i {shlex.quote(str(sound))} -f s16le -ac 1 -ar 16000 -"
    return f"{program} {words}"


def children(process: subprocess.Popen[bytes], name: str) -> list[int]:
    """Processes of a name that a process has started."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            words = (entry / "stat").read_text().rpartition(")")[2].split()
            program = (entry / "cmdline").read_text().partition("\0")[0]
            if int(words[1]) == process.pid and Path(program).name == name:
                found.append(int(entry.name))
    return found


@pytest.mark.timeout(90)
def test_killed_ffmpeg_is_reported_and_restarted(plant: Any, small_bundle: Path) -> None:
    station = plant.station
    commands = [played(plant.turning, SPEED), played(plant.clicking, SPEED), by_ffmpeg(plant.clicking)]
    station.write(plant.ports, small_bundle, commands, levels=(0.4, 0.2), kinds=("event", "status"))
    process = station.start("--jsonl", "-", out=subprocess.PIPE)
    assert process.stdout is not None
    pulse = Pulse(process.stdout, SPEED, 2)

    def stream_c() -> dict[str, Any]:
        state = station.state()
        found: dict[str, Any] = state["streams"][2] if state and len(state["streams"]) == 3 else {}
        return found

    until(lambda: len(pulse.of("segment", "b")) > 20 and stream_c().get("level_dbfs", -120.0) > -60.0, 30)
    for kills in (1, 2):
        (source,) = until(lambda: children(process, "ffmpeg"))
        os.kill(source, signal.SIGKILL)
        killed = time.monotonic()
        # By the records: the stream is `failed` for a fifth of a second, which may pass between two looks.
        lost = until(
            lambda kills=kills: [one for one in pulse.of("source", "c") if one["body"]["state"] == "lost"][kills - 1 :]
        )
        assert time.monotonic() - killed < 2.0
        assert "ffmpeg" in lost[0]["body"]["detail"]
        assert "signal 9" in lost[0]["body"]["detail"]
        until(lambda kills=kills: len(pulse.of("source", "c")) >= 2 * kills)
        assert [one["body"]["state"] for one in pulse.of("source", "c")] == ["lost", "reopened"] * kills
        until(lambda: stream_c().get("state") == "running")
        assert children(process, "ffmpeg") != [source]
    until(lambda: len(pulse.of("gap", "c")) == 2)
    assert all(one["body"]["lost_samples"] > 0 for one in pulse.of("gap", "c"))
    assert stream_c()["dropped_seconds"] > 0.0
    assert station.end() < 3.0
    assert children(process, "ffmpeg") == []
    pulse.check_unbroken("a", "b")
    found = committed(station.data)
    for texts in (plant.hook.taken, lambda: plant.subscription.taken("five")):
        until(lambda texts=texts: has_all(texts(), found))
        check_received(texts(), found)
