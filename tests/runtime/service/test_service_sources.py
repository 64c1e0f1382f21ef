"""The service beside what fails: devices, commands, disks."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import termios
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import soundfile

from edgeasd.runtime.config import read_config
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.scoring.scorer import Scorer
from edgeasd.runtime.service import Service, ask
from edgeasd.runtime.service import fleet as fleet_module
from edgeasd.runtime.service.service import END_SECONDS
from edgeasd.runtime.storage import EventStore

pytestmark = pytest.mark.core


def test_a_sound_device_gives_the_records_of_score_live(
    site: Any, sound: Path, backend: str, playing: Callable[[bytes], str]
) -> None:
    samples, _ = soundfile.read(sound, dtype="int16")
    site.write(f'device = "hw:1"\npace = "block"\nalsa_backend = "{backend}"')
    live = site.command("score", site.bundle, sound, "--live")
    theirs = [one for one in map(json.loads, live.stdout.splitlines()) if one["kind"] == "segment"]
    process = site.start(ALSA_CONFIG_PATH=playing(samples.tobytes()))
    site.until(lambda: len(site.records("segment")) >= len(theirs))
    took, said = site.end(process)
    assert process.returncode == 0, said
    assert took < 2.0
    ours = site.records("segment")[: len(theirs)]
    for one, two in zip(ours, theirs, strict=True):
        for name in ("start_sample", "end_sample", "averaged", "complete", "alarm"):
            assert one[name] == two[name]
        assert one["clip_score"] == pytest.approx(two["clip_score"], rel=1e-6)


PACED = """
import os, sys, time
open(sys.argv[2], "a").write(f"{os.getpid()}\\n")
data = open(sys.argv[1], "rb").read()[44:]
for i in range(10_000):
    sys.stdout.buffer.write(data[3200 * (i % 280):][:3200]); sys.stdout.buffer.flush()
    time.sleep(0.1)
"""


def test_a_source_that_is_killed_comes_back_and_the_others_do_not_notice(site: Any, sound: Path) -> None:
    (site.folder / "paced.py").write_text(PACED, "utf-8")
    pids = site.folder / "pids"
    command = f"{sys.executable} {site.folder / 'paced.py'} {sound} {pids}"
    site.write(f"input_command = '{command}'", f'input = "{sound}"\nloop = true')
    process = site.start()
    level = site.until(
        lambda: (ask(site.data, {"ask": "status"}) or {"streams": [{}]})["streams"][0].get("level_dbfs", -120) > -60
    )
    assert level
    before = len(site.records("segment"))
    os.kill(int(pids.read_text("utf-8").split()[0]), signal.SIGKILL)
    site.until(lambda: [one["state"] for one in site.records("source") if one["id"] == "a"] == ["lost", "reopened"])
    site.until(lambda: any(one["id"] == "a" for one in site.records("gap")))
    assert len(pids.read_text("utf-8").split()) == 2
    assert len(site.records("segment")) > before
    state = ask(site.data, {"ask": "status"})
    assert [one["state"] for one in state["streams"]] == ["running", "running"]
    assert state["streams"][0]["dropped_seconds"] > 0
    _, said = site.end(process)
    assert process.returncode == 0, said


def start(site: Any, logged: list[str] | None = None) -> tuple[Service, list[dict[str, Any]]]:
    records: list[dict[str, Any]] = []
    log = [] if logged is None else logged
    service = Service(read_config(site.file), lambda record, may_drop: records.append(record), log.append)
    service.start()
    return service, records


def test_a_stream_without_its_device_or_bundle_says_so_to_the_outputs(site: Any, sound: Path) -> None:
    absent = 'device = "hw:CARD=edgeasd_not_there"'
    broken = site.folder / "broken"
    broken.mkdir()
    site.write(
        f'input = "{sound}"\nloop = true',
        absent,
        f'input = "{sound}"\nbundle = "{broken}"\n[outputs.log]\ntype = "jsonl"\npath = "log.jsonl"',
        top="status_seconds = 1.0",
    )
    service, _ = start(site)

    def said(id: str, kind: str) -> list[dict[str, Any]]:
        path = site.data / "log.jsonl"
        found = [json.loads(line) for line in path.read_text("utf-8").split("\n")[:-1]] if path.exists() else []
        return [one["body"] for one in found if (one["id"], one["kind"]) == (id, kind)]

    try:
        site.until(lambda: any(one["sick"] for one in said("b", "health")))
        site.until(lambda: said("a", "health") and said("b", "status") and said("c", "status"))
        assert not said("a", "health")[-1]["sick"]
        assert said("b", "status")[-1]["state"] == said("c", "status")[-1]["state"] == "failed"
        assert "edgeasd_not_there" in said("b", "status")[-1]["reason"]
        assert str(broken) in said("c", "status")[-1]["reason"]
    finally:
        service.stop("test")
    assert said("c", "stop")[-1]["state"] == "stopped"


def test_a_fresh_site_shows_the_alarm_state_of_its_machines(site: Any, sound: Path) -> None:
    pytest.importorskip("prometheus_client", reason="NO prometheus-client: install 'edgeasd[serve]'")
    page = '[outputs.page]\ntype = "prometheus"\naddress = "127.0.0.1:0"'
    site.write(f'input = "{sound}"\nloop = true\n[streams.a.alarm]\non = 1e6\noff = 1e5\n{page}')
    service, _ = start(site)
    try:
        site.until(service.loaded.is_set)
        outputs = service.keeper.teller.outputs
        assert outputs is not None
        host, port = outputs.metrics_addresses[0]
        with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        assert 'edgeasd_alarm_state{id="a",machine="valve",state="normal"} 1.0' in text
    finally:
        service.stop("test")


def test_a_full_disk_costs_no_event_and_holds_up_no_score(
    site: Any, sound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = threading.Event()
    append = EventStore.append

    def guarded(self: EventStore, transitions: Sequence[Any], snapshot: Any = None) -> int:
        if full.is_set():
            raise InputError(f"{self.path}: database or disk is full; make room")
        return append(self, transitions, snapshot)

    monkeypatch.setattr(EventStore, "append", guarded)
    alarm = "[streams.a.alarm]\non = 0.2\nhysteresis = 0.0\ncooldown_seconds = 0.0\nk = 1\nn = 1\n"
    site.write(f'input = "{sound}"\nloop = true\n{alarm}[outputs.log]\ntype = "jsonl"\npath = "log.jsonl"\n')
    logged: list[str] = []
    service, records = start(site, logged)
    try:
        site.until(lambda: any(one["kind"] == "alarm_state" for one in records))
        full.set()
        site.until(lambda: "disk is full" in str(service.state().trouble))
        said, scored = len([one for one in records if one["kind"] == "alarm_state"]), len(records)
        site.until(lambda: len(records) > scored + 300)
        assert len([one for one in records if one["kind"] == "alarm_state"]) == said
        with pytest.raises(InputError, match="disk is full"):
            service.command("a", {"command": "test"})
        full.clear()
        site.until(lambda: service.state().trouble is None)
        site.until(lambda: "events: all is well again" in logged)
    finally:
        service.stop("test")
    assert len([line for line in logged if "disk is full" in line]) == 1
    told = [one for one in records if one["kind"] == "alarm_state"]
    assert [one["sequence"] for one in told] == list(range(1, len(told) + 1))
    with sqlite3.connect(site.data / "events.db") as store:
        kept = [json.loads(row[0]) for row in store.execute("SELECT message FROM transitions ORDER BY sequence")]
    assert kept == told
    assert len(told) > said + 2


def test_an_engine_that_fails_is_loaded_again_and_its_streams_go_on(
    site: Any, sound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_module, "FIRST_PAUSE", 0.1)
    score, failures = Scorer.score_segments, [1]

    def failing(self: Scorer, segments: Any) -> Any:
        if failures and len(seen) > 20:
            failures.pop()
            raise RuntimeError("the accelerator fell off the bus")
        seen.append(len(segments))
        return score(self, segments)

    seen: list[int] = []
    monkeypatch.setattr(Scorer, "score_segments", failing)
    site.write(f'input = "{sound}"\nloop = true')
    service, records = start(site)
    try:
        # Nobody has polled so far: it was loaded once, so this is no start that failed.
        site.until(lambda: service.fleet.berths.hopeless() is not None)
        assert service.poll()
        after = len(records)
        site.until(lambda: len(records) > after + 100 and service.poll())
        assert service.state().streams[0].state == "running"
        assert service.healthy(time.monotonic())
    finally:
        service.stop("test")
    starts = [one for one in records if one["kind"] == "start"]
    assert len(starts) == 2


ALWAYS = "[streams.a.alarm]\non = -1.0\nhysteresis = 0.0\nk = 1\nn = 1\n"


def test_an_open_event_goes_on_after_a_restart_with_its_id_and_clip(site: Any, sound: Path) -> None:
    site.write(f'input = "{sound}"\nloop = true\n{ALWAYS}')
    events, states = [], []
    for _ in (1, 2):
        service, records = start(site)
        try:
            site.until(lambda s=service, r=records: len(r) > 100 and s.state().streams[0].event)
            events.append(service.state().streams[0].event)
            states.append([one["state"] for one in records if one["kind"] == "alarm_state"])
        finally:
            assert service.stop("test")
    assert events[0] == events[1]
    assert states == [["alarm"], []]
    assert [path.name for path in (site.data / "evidence").iterdir() if not path.name.startswith(".")] == [events[0]]


def test_a_command_from_an_output_reaches_its_machine_and_a_wrong_one_nobody(site: Any, sound: Path) -> None:
    site.write(f'input = "{sound}"\nloop = true\n{ALWAYS}', f'input = "{sound}"\nloop = true\n')
    service, records = start(site)
    try:
        site.until(lambda: service.state().streams and service.state().streams[0].alarm == "alarm")
        service._command_from_outside("valve", "a", {"command": "acknowledge", "by": "anna"})
        service._command_from_outside("valve", "a", {"command": "explode"})
        service._command_from_outside("valve", "z", {"command": "acknowledge"})
        site.until(lambda: service.state().streams[0].alarm == "acknowledged")
    finally:
        assert service.stop("test")
    said = [one for one in records if one["kind"] == "alarm_state" and one["reason"] == "acknowledged"]
    assert [(one["id"], one["by"]) for one in said] == [("a", "anna")]


def test_what_a_crash_kept_from_an_output_is_said_after_it(site: Any, sound: Path) -> None:
    """The store has a transition that no output was told."""
    log = '[outputs.log]\ntype = "jsonl"\npath = "log.jsonl"\nkinds = ["event"]\n'
    site.write(f'input = "{sound}"\nloop = true\n{log}')
    service, _ = start(site)
    site.until(service.loaded.is_set)
    service.command("a", {"command": "maintenance_on"})
    told, service.keeper.teller.outputs = service.keeper.teller.outputs, None
    service.command("a", {"command": "maintenance_off"})
    assert service.stop("crash")
    assert told is not None
    told.close()
    service, _ = start(site)
    site.until(service.loaded.is_set)
    assert service.stop("test")
    lines = [json.loads(line)["body"] for line in (site.data / "log.jsonl").read_text("utf-8").splitlines()]
    modes = [one["reason"] for one in lines if one["reason"].startswith("maintenance")]
    assert modes == ["maintenance_on", "maintenance_off"]
    assert [one["sequence"] for one in lines] == list(range(1, len(lines) + 1))


STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGPIPE, signal.SIG_IGN)
open(sys.argv[1], "a").write(f"{os.getpid()}\\n")
os.write(1, os.urandom(32000))
time.sleep(60)
"""


def test_the_end_comes_within_two_seconds_where_several_commands_ignore_sigterm(site: Any) -> None:
    (site.folder / "stubborn.py").write_text(STUBBORN, "utf-8")
    pids = site.folder / "pids"
    command = f"{sys.executable} {site.folder / 'stubborn.py'} {pids}"
    site.write(*(f"input_command = '{command} {number}'" for number in range(5)))
    process = site.start()
    site.until(lambda: pids.exists() and len(pids.read_text().split()) == 5)
    site.until(lambda: len(site.records("start")) == 5)
    took, said = site.end(process)
    assert process.returncode == 0, said
    # One second of the two is theirs; what a busy machine adds is not the service's. One by one they would take five.
    assert END_SECONDS < 2.0
    assert took < 4.0
    for pid in pids.read_text().split():
        assert not Path(f"/proc/{pid}").exists()


def test_sigterm_ends_a_service_whose_records_nobody_reads(site: Any, sound: Path) -> None:
    site.write(f'input = "{sound}"\nloop = true')
    # Fewer records may wait than usual, or it would take minutes until anybody waits for the reader.
    code = (
        "import runpy; from edgeasd.runtime.service import records; records._MOST = 20; "
        "runpy.run_module('edgeasd', run_name='__main__')"
    )
    command = [sys.executable, "-c", code, "run", "--config", str(site.file), "--jsonl", "-"]
    with subprocess.Popen(command, cwd=site.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        site.processes.append(process)
        assert process.stdout is not None
        full = fcntl.fcntl(process.stdout, fcntl.F_GETPIPE_SZ) - 4096
        site.until(lambda: struct.unpack("i", fcntl.ioctl(process.stdout, termios.FIONREAD, bytes(4)))[0] >= full)
        time.sleep(1.0)  # until the writer waits in the middle of a line
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(8.0) == 0
            assert time.monotonic() - began < 3.0
        finally:
            process.kill()
