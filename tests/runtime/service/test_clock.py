"""The wall clock of the box is set while the service runs: reports follow it, and nothing else does."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from edgeasd.runtime.service.control import ask

pytestmark = pytest.mark.core

# The command, in a world whose clock is wrong by so many seconds once a file is there.
STEPPED = """
import os, sys, time
real, (_, file, step) = time.time, sys.argv[:3]
time.time = lambda: real() + (float(step) if os.path.exists(file) else 0.0)
sys.argv = ["edgeasd", *sys.argv[3:]]
from edgeasd.toolkit.cli import main
main()
"""
ALWAYS = "[streams.a.alarm]\non = -1.0\nhysteresis = 0.0\nk = 1\nn = 1\n"


def seconds(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


@pytest.mark.parametrize("step", [-86_400.0, 3_600.0])
def test_wall_clock_step_moves_only_reported_times(step: float, site: Any, sound: Path, tmp_path: Path) -> None:
    (tmp_path / "stepped.py").write_text(STEPPED, "utf-8")
    site.write(f'input = "{sound}"\nloop = true\nrealtime = true\n{ALWAYS}', top="status_seconds = 1.0")
    command = [sys.executable, "stepped.py", str(tmp_path / "step"), str(step)]
    command += ["run", "--config", str(site.file), "--jsonl", str(site.records_file)]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    site.processes.append(process)
    site.until(lambda: site.records("event") and len(site.records("segment")) > 10)
    (tmp_path / "step").touch()
    before = len(site.records("segment"))
    site.until(lambda: len(site.records("segment")) > before + 10)
    acknowledge = {"ask": "command", "stream": "a", "command": {"command": "acknowledge"}}
    (said,) = ask(site.data, acknowledge)
    state = ask(site.data, {"ask": "status"})
    took, errors = site.end(process)
    assert process.returncode == 0, errors
    assert took < 2.0
    assert seconds(said["at"]) == pytest.approx(time.time() + step, abs=20.0)
    assert (said["event"], said["sequence"]) == (site.records("event")[0]["event"], 2)
    assert seconds(said["raised_at"]) == pytest.approx(time.time(), abs=60.0)
    assert 0.0 < state["uptime_seconds"] < 60.0
    (stream,) = state["streams"]
    assert (stream["state"], stream["dropped_seconds"], stream["decimation"]) == ("running", 0.0, 1)
    assert 0.0 <= stream["latency_seconds"]["p99"] < 60.0
    indexes = [one["index"] for one in site.records("segment")]
    assert indexes == list(range(len(indexes)))
    assert site.records("gap") == []
