"""The service in this process: streams that fail alone, reloads, events, and what a restart cures."""

from __future__ import annotations

import errno
import json
import logging
import shutil
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeasd.runtime.alarms import AlarmMachine, AlarmSettings, Command
from edgeasd.runtime.alarms.machine import AlarmInput
from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.config import check_config, read_config
from edgeasd.runtime.errors import DeviceError, InputError
from edgeasd.runtime.evidence import EvidenceRecorder, EvidenceWriter, KeepSettings, evidence_files
from edgeasd.runtime.scoring.scorer import Scorer
from edgeasd.runtime.scoring.threshold import Threshold
from edgeasd.runtime.service.service import Service
from edgeasd.runtime.storage import Database, DatabaseUnavailable, EventStore

pytestmark = [pytest.mark.core, pytest.mark.timeout(120)]

ALWAYS = "[streams.{}.alarm]\non = -1.0\nhysteresis = 0.0\nk = 1\nn = 1\n"
LOG = '[outputs.log]\ntype = "jsonl"\npath = "log.jsonl"\n'
Serve = Callable[..., tuple[Service, Any]]


def state(service: Service, name: str) -> Any:
    return next(one for one in service.status().streams if one.name == name)


def log_lines(site: Any, kind: str, id: str | None = None) -> list[dict[str, Any]]:
    """Messages of a kind that the output `log` has of a stream (None: of the service)."""
    path = site.data / "log.jsonl"
    lines = path.read_text("utf-8").split("\n")[:-1] if path.exists() else []
    return [one["body"] for one in map(json.loads, lines) if (one["kind"], one["id"]) == (kind, id)]


@pytest.fixture
def play(sound: Path) -> str:
    """The sound again and again, as fast as it is scored."""
    return f'input = "{sound}"\nloop = true\n'


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Every line that was logged."""
    monkeypatch.setattr(logging.getLogger("edgeasd"), "propagate", True)
    caplog.set_level(logging.INFO, "edgeasd")
    return lambda: [record.getMessage() for record in caplog.records]


# Streams and engines


def test_streams_of_one_bundle_share_an_engine(site: Any, sound: Path, serve: Serve) -> None:
    file = f'input = "{sound}"\n'
    site.write(file, file, file + 'engine = "other"')
    with site.file.open("a") as handle:
        handle.write("[engines.other]\nthreads = 1\n")
    service, records = serve()
    site.until(lambda: not service.poll())
    assert len(service.supervisor.beats()) == 2
    service.stop("test")
    scores = [[one["clip_score"] for one in records.of("segment", id)] for id in "abc"]
    assert len(scores[0]) > 100
    assert scores[0] == pytest.approx(scores[1], rel=1e-6)
    assert scores[0] == pytest.approx(scores[2], rel=1e-6)
    assert [one["reason"] for one in records.of("stop")] == ["end of sound"] * 3


def test_a_stream_that_fails_stops_no_other_and_comes_back(
    site: Any, play: str, serve: Serve, log: Callable[[], list[str]], small_bundle: Path
) -> None:
    late = site.folder / "late"
    wrong = "[streams.c.alarm]\non = 0.1\noff = 0.5\n"
    site.write(play, play + f'bundle = "{late}"', play + wrong, 'input = "absent.wav"\n')
    service, records = serve(retry_seconds=0.2)
    site.until(lambda: service.poll() and service.is_loaded)
    site.until(lambda: len(records.of("segment", "a")) > 20)
    assert str(late) in state(service, "b").reason
    assert "off 0.5: is above on 0.1" in state(service, "c").reason
    site.until(lambda: "absent.wav: no such file" in (state(service, "d").reason or ""))
    assert [one.state for one in service.status().streams] == ["running", "failed", "failed", "failed"]
    with pytest.raises(InputError, match="b: not loaded: "):
        service.command("b", {"command": "test"})
    shutil.copytree(small_bundle, late)
    site.until(lambda: records.of("segment", "b"))
    assert state(service, "b").state == "running"
    assert sum(line.startswith("b: ") and "no such bundle" in line for line in log()) == 1, "said once"


def test_hanging_bundle_delays_no_other_stream_or_reload(
    site: Any, play: str, serve: Serve, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Path(shutil.copytree(small_bundle, site.folder / "slow"))
    released, open_scorer = threading.Event(), Bundle.open_scorer

    def hang(bundle: Bundle, **engine: Any) -> Any:
        if bundle.path == slow:
            released.wait(60.0)
        return open_scorer(bundle, **engine)

    monkeypatch.setattr(Bundle, "open_scorer", hang)
    site.write(play + f'bundle = "{slow}"', play)
    service, records = serve(load_seconds=0.5)
    site.until(lambda: records.of("segment", "b"))
    site.until(lambda: service.poll() and service.is_loaded)
    assert "has been loading for 0 s" in state(service, "a").reason
    site.write(play + f'bundle = "{slow}"', play, play)
    service.reload()
    site.until(lambda: records.of("segment", "c"))
    assert not service.is_reloading or site.until(lambda: not service.is_reloading)
    released.set()
    site.until(lambda: records.of("segment", "a"))
    assert state(service, "a").state == "running"


def test_all_streams_failing_at_the_start_end_the_service(site: Any, sound: Path, serve: Serve) -> None:
    site.write(f'input = "{sound}"\nbundle = "absent"')
    service, _ = serve()
    with pytest.raises(InputError, match="absent: no such bundle"):
        site.until(lambda: not service.poll())


def test_an_engine_that_fails_is_loaded_again(
    site: Any, play: str, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    score, failures, seen = Scorer.embed, [1], list[int]()

    def fail_once(self: Scorer, segments: Any) -> Any:
        if failures and len(seen) > 20:
            failures.pop()
            raise RuntimeError("the accelerator fell off the bus")
        seen.append(len(segments))
        return score(self, segments)

    monkeypatch.setattr(Scorer, "embed", fail_once)
    site.write(play)
    service, records = serve(retry_seconds=0.2)
    site.until(lambda: state(service, "a").state == "degraded" or len(records.of("start")) == 2)
    site.until(lambda: len(records.of("start")) == 2 and service.poll())
    after = len(records)
    site.until(lambda: len(records) > after + 50 and service.poll())
    assert state(service, "a").state == "running"
    assert service.is_healthy(time.monotonic())


FAST = """
import sys, time
data = open(sys.argv[1], "rb").read()[44:]
begun = time.monotonic()
for i in range(200):
    sys.stdout.buffer.write(data[3200 * (i % 280):][:3200 * 5]); sys.stdout.buffer.flush()
    time.sleep(max(0, begun + 0.05 * (i + 1) - time.monotonic()))
"""


def test_slow_engine_skips_evenly_and_loses_no_sound(
    site: Any, sound: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sound at ten times its speed beside an engine that takes 30 ms a segment: half as fast again as it can."""
    score = Scorer.embed

    def slow(self: Scorer, segments: Any) -> Any:
        end = time.monotonic() + 0.03 * len(segments)
        scored = score(self, segments)
        time.sleep(max(0.0, end - time.monotonic()))
        return scored

    (site.folder / "fast.py").write_text(FAST, "utf-8")
    site.write(f"input_command = '{sys.executable} {site.folder / 'fast.py'} {sound}'")
    monkeypatch.setattr(Scorer, "embed", slow)
    monkeypatch.setattr("edgeasd.runtime.sources.command.AHEAD_SECONDS", 1e9)
    # A second of sound is a tenth of one here: so long any thread may stand still on a busy machine.
    monkeypatch.setattr("edgeasd.runtime.service.load_shedding.LATE_SECONDS", 5.0)
    service, records = serve()
    site.until(lambda: len(records.of("segment")) > 150)
    stream = state(service, "a")
    assert stream.dropped_seconds == 0.0
    assert stream.skipped_segments > 30
    (first, *_) = records.of("status")
    assert (first["state"], first["decimation"]) == ("degraded", 2)
    starts = [one["start_sample"] for one in records.of("segment")]
    assert set(np.diff(starts)) <= {3072 * n for n in (1, 2, 4)}
    assert not records.of("gap")


def test_file_waits_for_slow_record_reader_live_does_not(site: Any, play: str, serve: Serve) -> None:
    (site.folder / "live.py").write_text(
        "import os, time\nwhile True:\n    os.write(1, os.urandom(3200)); time.sleep(0.1)\n", "utf-8"
    )
    site.write(play, f"input_command = '{sys.executable} {site.folder / 'live.py'}'")
    service, records = serve()
    site.until(lambda: records.of("segment", "a") and records.of("start", "b"))
    records.is_full = True
    time.sleep(0.5)
    before, level = state(service, "a").segments, state(service, "b").seconds
    site.until(lambda: state(service, "b").seconds > level + 1.0)
    assert state(service, "a").segments == before
    records.is_full = False
    site.until(lambda: state(service, "a").segments > before)


# Reload


def test_reload_keeps_equal_streams_and_swaps_bundles_gapless(
    site: Any, play: str, serve: Serve, small_bundle: Path, log: Callable[[], list[str]]
) -> None:
    other = Path(shutil.copytree(small_bundle, site.folder / "other"))
    manifest = json.loads((other / "manifest.json").read_text("utf-8"))
    manifest["threshold"]["clip"] = 0.5
    (other / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    site.write(play, play, play.replace("loop", "realtime"))
    service, records = serve()
    site.until(lambda: len(records.of("segment", "a")) > 8 and len(records.of("segment", "b")) > 8)
    site.write(play + f'bundle = "{other}"', play, play)
    service.reload()
    site.until(lambda: any(one["threshold"] == 0.5 for one in records.of("segment", "a")))
    site.until(lambda: len(records.of("start", "c")) == 2)
    assert len(records.of("start", "a")) == 2
    assert len(records.of("start", "b")) == 1
    site.until(lambda: not service.is_reloading)
    # A bundle that changes where it is is taken by a reload, too.
    manifest["threshold"]["clip"] = 0.6
    (other / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    service.reload()
    site.until(lambda: any(one["threshold"] == 0.6 for one in records.of("segment", "a")))
    site.file.write_text("site = 3", "utf-8")
    service.reload()
    site.until(lambda: any("not reloaded, everything goes on as before" in line for line in log()))
    service.stop("test")
    assert not records.of("gap")
    for name in "ab":
        starts = [one["start_sample"] for one in records.of("segment", name)]
        assert starts == [3072 * i for i in range(len(starts))], name
    assert [one["dropped_samples"] for one in records.of("stop")] == [0] * 4


def test_unloadable_bundle_leaves_the_stream_on_the_old_one(
    site: Any, play: str, serve: Serve, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path(shutil.copytree(small_bundle, site.folder / "other"))
    missing, open_scorer = [True], Bundle.open_scorer

    def opened(bundle: Bundle, **engine: Any) -> Any:
        if missing and bundle.path == other:
            raise DeviceError("its engine is not built yet")
        return open_scorer(bundle, **engine)

    monkeypatch.setattr(Bundle, "open_scorer", opened)
    site.write(play)
    service, records = serve(retry_seconds=0.2)
    site.until(lambda: records.of("segment"))
    site.write(play + f'bundle = "{other}"')
    service.reload()
    site.until(lambda: state(service, "a").state == "degraded")
    assert state(service, "a").reason == "goes on with the bundle it had: its engine is not built yet"
    before = len(records.of("segment"))
    site.until(lambda: len(records.of("segment")) > before + 20)
    missing.clear()
    site.until(lambda: state(service, "a").state == "running")
    site.until(lambda: len(service.supervisor.beats()) == 1)


def test_settings_of_the_recorder_and_the_evidence_are_reloaded(site: Any, play: str, serve: Serve) -> None:
    site.write(play)
    service, _ = serve()
    site.until(lambda: service.poll() and service.is_loaded)
    text = site.file.read_text("utf-8")
    site.file.write_text(text + "[evidence]\nmax_age_days = 3.0\n[retention]\nscores_days = 0.5\n", "utf-8")
    service.reload()
    site.until(lambda: service.config.settings.evidence.max_age_days == 3.0 and not service.is_reloading)
    evidence = service.supervisor.evidence
    assert evidence is not None
    site.until(lambda: evidence.settings.max_age_days == 3.0)


def test_removed_stream_clears_its_event_and_is_stopped(site: Any, play: str, serve: Serve) -> None:
    site.write(play, play + ALWAYS.format("b") + LOG)
    service, records = serve()
    site.until(lambda: records.of("event", "b"))
    site.write(play)
    site.file.write_text(site.file.read_text("utf-8") + LOG, "utf-8")
    service.reload()
    site.until(lambda: log_lines(site, "stop", "b"))
    assert log_lines(site, "stop", "b") == [{"state": "stopped", "reason": "is no longer in the site file"}]
    assert [one["state"] for one in log_lines(site, "event", "b")][:2] == ["alarm", "cleared"]
    assert [one.name for one in service.status().streams] == ["a"]


def test_event_continues_with_its_machine_on_another_stream(site: Any, play: str, serve: Serve) -> None:
    site.write(play + 'id = "x"\n' + ALWAYS.format("a"), play + 'id = "y"\n' + ALWAYS.format("b"))
    service, records = serve(retry_seconds=0.2)
    site.until(lambda: records.of("event", "x") and records.of("event", "y"))
    events = {id: records.of("event", id)[0]["event"] for id in "xy"}
    site.write(play + 'id = "y"\n' + ALWAYS.format("a"), play + 'id = "x"\n' + ALWAYS.format("b"))
    service.reload()
    site.until(lambda: (state(service, "a").id, state(service, "b").id) == ("y", "x") and not service.is_reloading)
    site.until(lambda: state(service, "a").state == state(service, "b").state == "running")
    assert (state(service, "a").event, state(service, "b").event) == (events["y"], events["x"])
    assert not any(one["state"] == "cleared" for one in records.of("event"))


def test_outputs_that_cannot_be_opened_are_tried_again(
    site: Any, play: str, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeasd.runtime.service.service._RETRY_SECONDS", 0.2)
    site.write(play + LOG)
    service, _ = serve()
    site.until(lambda: service.poll() and service.is_loaded)
    blocked = site.data / "other"
    blocked.mkdir()
    site.write(play + LOG.replace("log.jsonl", "other/log.jsonl"))
    shutil.rmtree(blocked)
    blocked.write_text("in the way")
    service.reload()
    site.until(lambda: service.config.outputs["log"].path.endswith("other/log.jsonl") or not service.is_reloading)
    blocked.unlink()
    blocked.mkdir()
    service.command("a", {"command": "test"})
    if service.status().problem is not None:
        site.until(lambda: service.status().problem is None)


# Events


def test_open_event_survives_a_restart_with_id_and_clip(site: Any, play: str, serve: Serve) -> None:
    site.write(play + ALWAYS.format("a"))
    events, states = [], []
    for _ in (1, 2):
        service, records = serve()
        site.until(lambda s=service, r=records: len(r) > 100 and state(s, "a").event)
        events.append(state(service, "a").event)
        assert service.stop("test")
        states.append([one["state"] for one in records.of("event")])
    assert events[0] == events[1]
    assert states == [["alarm"], []]
    assert [path.name for path in (site.data / "evidence").iterdir() if not path.name.startswith(".")] == [events[0]]


def test_events_of_removed_machines_are_cleared(site: Any, play: str, serve: Serve, small_bundle: Path) -> None:
    site.write(play, play + ALWAYS.format("b"))
    service, records = serve()
    site.until(lambda: records.of("event", "b"))
    assert service.stop("test")
    absent = site.folder / "absent"
    site.write(play, f'bundle = "{absent}"\ninput = "absent.wav"\n')
    text = site.file.read_text("utf-8").replace('id = "b"', "")
    site.file.write_text(text + LOG, "utf-8")
    service, records = serve(retry_seconds=0.2)
    site.until(lambda: len(records.of("segment", "a")) > 50)
    with EventStore.open(site.data / "events.db") as store:
        assert "b" in [one["id"] for one in store.events(open_only=True)], "not before it is known who b is now"
    shutil.copytree(small_bundle, absent)
    site.until(lambda: log_lines(site, "stop", "b"))
    assert [one["state"] for one in log_lines(site, "event", "b")] == ["cleared"]


def test_command_from_an_output_reaches_only_its_machine(site: Any, play: str, serve: Serve) -> None:
    site.write(play + ALWAYS.format("a"), play + ALWAYS.format("b"))
    service, records = serve()
    site.until(lambda: {one["id"] for one in records.of("event")} == {"a", "b"})
    for id in ("a", "z"):
        service.recorder.post_command("valve", id, Command(command="acknowledge", by="anna"))
    site.until(lambda: state(service, "a").alarm == "acknowledged")
    assert state(service, "b").alarm == "alarm"
    site.until(lambda: any(one["by"] == "anna" for one in records.of("event", "a")))


def test_streams_without_device_or_bundle_say_so_to_the_outputs(site: Any, play: str, serve: Serve) -> None:
    broken = site.folder / "broken"
    broken.mkdir()
    absent = 'device = "hw:CARD=edgeasd_not_there"\n'
    site.write(play, absent, play + f'bundle = "{broken}"\n' + LOG, top="status_seconds = 1.0")
    site.file.write_text(site.file.read_text("utf-8").replace('id = "c"', 'id = "c"\nmachine = "fan"'), "utf-8")
    service, _ = serve()
    site.until(lambda: any(one["unhealthy"] for one in log_lines(site, "health", "b")))
    site.until(lambda: log_lines(site, "health", "a") and log_lines(site, "status", "c"))
    site.until(lambda: log_lines(site, "status", "b")[-1]["state"] == "failed")
    assert not log_lines(site, "health", "a")[-1]["unhealthy"]
    assert "edgeasd_not_there" in log_lines(site, "status", "b")[-1]["reason"]
    assert str(broken) in log_lines(site, "status", "c")[-1]["reason"]
    site.until(lambda: log_lines(site, "status"))
    assert log_lines(site, "status")[-1]["state"] == "degraded"
    service.stop("test")
    assert log_lines(site, "stop", "c")[-1]["state"] == "stopped"
    assert [one["state"] for one in log_lines(site, "start")] == ["starting"]


def test_a_fresh_site_shows_the_alarm_state_of_its_machines(site: Any, play: str, serve: Serve) -> None:
    pytest.importorskip("prometheus_client", reason="NO prometheus-client: install 'edgeasd[serve]'")
    page = '[outputs.page]\ntype = "prometheus"\naddress = "127.0.0.1:0"'
    site.write(f"{play}[streams.a.alarm]\non = 1e6\noff = 1e5\n{page}")
    service, _ = serve()
    site.until(lambda: service.is_loaded)
    assert service.outputs is not None
    host, port = service.outputs.metrics_addresses[0]
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    assert 'edgeasd_alarm_state{id="a",machine="valve",state="normal"} 1.0' in text


def test_evidence_of_an_open_event_stays_however_old(site: Any, play: str, serve: Serve) -> None:
    limit = Threshold(clip=0.5, consecutive=1, found_by="t", clips=1)
    wall = time.time() - 30 * 86_400
    machine = AlarmMachine("valve", "a", AlarmSettings(), limit)
    opened = machine.step(AlarmInput(1.0, wall, 2.0))
    over = AlarmMachine("valve", "over", AlarmSettings(), limit)
    ended = over.step(AlarmInput(1.0, wall, 2.0)) + over.command(Command(command="clear"), 2.0, wall + 1.0)
    site.data.mkdir()
    with EventStore.open(site.data / "events.db") as store:
        store.append(opened, machine.snapshot())
        store.append(ended, over.snapshot())
    kept, gone = (next(one.event for one in some if one.event) for some in (opened, ended))
    writer = EvidenceWriter(site.data, KeepSettings(max_age_days=60.0, min_free_megabytes=1.0))
    recorder = EvidenceRecorder(writer, "valve", "a", 16_000)
    for event in (kept, gone):
        recorder.sound(0, np.zeros(16_000, np.float32))
        recorder.open_event(event, wall, None)
        recorder.close()
    assert writer.close(10.0)
    site.write(f"{play}[streams.a.alarm]\noff = -9.0\n")
    site.file.write_text(site.file.read_text("utf-8") + "[evidence]\nmax_age_days = 1.0\nfewest = 0\n", "utf-8")
    service, _ = serve()
    evidence = service.supervisor.evidence
    assert evidence is not None
    site.until(lambda: evidence.status().deleted)
    assert set(evidence_files(site.data, gone)) == {"facts.json"}
    assert "clip.flac" in evidence_files(site.data, kept)


def test_a_camera_password_leaves_the_service_nowhere(
    site: Any, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    password = "hun/ter2@x"
    camera = site.folder / "camera.sh"
    camera.write_text('echo "401 for $1" >&2; exit 1')
    site.write(f"input_command = 'sh {camera} rtsp://admin:{password}@camera/live'\n{LOG}")
    report = check_config(read_config(site.file))
    assert password not in json.dumps(report.to_json())
    assert "rtsp://***@camera/live" in report.streams[0].source
    with caplog.at_level(logging.DEBUG, "edgeasd"):
        service, records = serve()
        site.until(lambda: "401 for rtsp" in json.dumps(service.status().to_json()))
        said = json.dumps(service.status().to_json())
        service._publish_status()
        service.stop("test")
    assert "rtsp://***@camera/live" in said
    told = (site.data / "log.jsonl").read_text()
    assert "rtsp://***@camera/live" in told
    for text in (said, told, json.dumps(list(records)), caplog.text, *kept(site.data)):
        assert password not in text


def test_what_is_done_beside_the_alarms_does_not_end_the_service(
    site: Any, play: str, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No descriptor is left: a status, the metadata of the package, a page and a line of the log all fail."""

    def refuse(*_: object, **__: object) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    site.write(play + "[streams.a.alarm]\non = 1e6\noff = 1e5\n" + LOG, top="status_seconds = 1.0")
    service, _ = serve()
    site.until(lambda: service.is_loaded)
    assert service.outputs is not None
    monkeypatch.setattr("importlib.metadata.version", refuse)
    monkeypatch.setattr("edgeasd.runtime.service.status.ServiceStatus.message_body", refuse)
    monkeypatch.setattr(service.outputs, "observe", refuse)
    monkeypatch.setattr("edgeasd.runtime.service.service.to_records", refuse)
    service._status_at = 0.0
    before = service.status().streams[0].segments
    site.until(lambda: service.status().streams[0].segments > before + 5 and service._status_at > 0.0)
    time.sleep(0.5)
    assert service.poll()
    assert service.is_healthy(time.monotonic())
    assert service.command("a", {"command": "test"})


def kept(data: Path) -> list[str]:
    """The content of all files of a data folder."""
    return [path.read_bytes().decode("latin-1") for path in data.rglob("*") if path.is_file()]


def test_a_start_with_a_clock_far_ahead_deletes_nothing(
    site: Any, play: str, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock has a wrong year until the time server is reached."""
    site.write(play)
    site.file.write_text(site.file.read_text("utf-8") + "[evidence]\nmax_age_days = 60.0\nfewest = 0\n", "utf-8")
    service, _ = serve()
    site.until(lambda: service.is_loaded)
    service.stop("test")
    event = AlarmMachine("valve", "b", AlarmSettings(), None).command(Command(command="test"), 1.0, time.time())[0]
    writer = EvidenceWriter(site.data, KeepSettings(max_age_days=60.0, min_free_megabytes=1.0))
    recorder = EvidenceRecorder(writer, "valve", "b", 16_000)
    recorder.sound(0, np.zeros(16_000, np.float32))
    assert event.event is not None
    recorder.open_event(event.event, event.wall, None)
    recorder.close()
    assert writer.close(10.0)
    ahead = time.time() + 10 * 365 * 86_400
    monkeypatch.setattr("edgeasd.runtime.service.service.EvidenceWriter", partial(EvidenceWriter, wall=lambda: ahead))
    service, _ = serve()
    site.until(lambda: service.is_loaded)
    assert service.supervisor.evidence is not None
    service.supervisor.evidence.keep(KeepSettings(max_age_days=30.0, fewest=0, min_free_megabytes=1.0))
    service.stop("test")
    assert service.supervisor.evidence.status().deleted == 0
    assert "clip.flac" in evidence_files(site.data, event.event)


# What a full disk costs, and what a restart cures


def test_a_full_disk_costs_no_event_and_holds_up_no_score(
    site: Any, play: str, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, transaction = threading.Event(), Database.transaction

    def guarded(self: Database, *, durable: bool = True) -> Any:
        if full.is_set():
            self.problem = f"{self.name}: database or disk is full; make room"
            raise DatabaseUnavailable(self.problem)
        return transaction(self, durable=durable)

    alarm = "[streams.a.alarm]\non = 0.2\nhysteresis = 0.0\ncooldown_seconds = 0.0\nk = 1\nn = 1\n"
    site.write(play + alarm + LOG)
    service, records = serve()
    site.until(lambda: records.of("event"))
    monkeypatch.setattr(Database, "transaction", guarded)
    full.set()
    site.until(lambda: "disk is full" in str(service.status().problem))
    events, segments = len(records.of("event")), len(records.of("segment"))
    site.until(lambda: len(records.of("segment")) > segments + 200 and len(records.of("event")) > events + 2)
    full.clear()
    site.until(lambda: service.status().problem is None)
    service.stop("test")
    numbers = [one["sequence"] for one in records.of("event")]
    assert numbers == sorted(set(numbers))
    assert [one["sequence"] for one in log_lines(site, "event", "a")] == numbers
    with EventStore.open(site.data / "events.db") as store:
        assert [one["sequence"] for one in store.transitions("valve", "a", limit=10_000)] == numbers


def test_hanging_or_dead_recorder_ends_the_service_with_3(site: Any, play: str, serve: Serve) -> None:
    site.write(play)
    service, _ = serve(hang_seconds=1.0)
    site.until(lambda: service.poll() and service.is_loaded)
    released = threading.Event()
    holder = threading.Thread(target=lambda: service.recorder.call(lambda: released.wait(20.0), 30.0), daemon=True)
    holder.start()
    with pytest.raises(DeviceError, match="the event recorder has hung for 1 s") as hung:
        site.until(lambda: not service.poll())
    assert hung.value.exit_code == 3
    assert not service.is_healthy(time.monotonic())
    released.set()


def test_without_threads_the_service_ends_with_code_3(site: Any, play: str, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        if self.name == "edgeasd-supervisor":
            raise RuntimeError("can't start new thread")
        start(self)

    site.write(play)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    service = Service(read_config(site.file))
    with pytest.raises(DeviceError, match="can't start new thread"):
        service.start()


def test_a_second_service_on_the_folder_is_refused(site: Any, play: str, serve: Serve) -> None:
    site.write(play)
    service, _ = serve()
    site.until(lambda: service.is_loaded)
    with pytest.raises(InputError, match="another edgeasd uses this folder"):
        Service(read_config(site.file)).start()
    assert service.poll()
