"""Parts of the service by themselves: overload, patience, the command socket, systemd, the view."""

from __future__ import annotations

import io
import json
import socket
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeasd.runtime.alarms import AlarmInput, AlarmMachine, AlarmSettings, Command
from edgeasd.runtime.config import read_site
from edgeasd.runtime.errors import DeviceError, InputError
from edgeasd.runtime.evidence import EvidenceWriter, KeepSettings, Recorder, evidence_files
from edgeasd.runtime.scoring.scorer import Scorer
from edgeasd.runtime.scoring.threshold import Threshold
from edgeasd.runtime.service import Service, SiteState, StreamState, ask
from edgeasd.runtime.service import patient as patient_module
from edgeasd.runtime.service.boot import booted_anew
from edgeasd.runtime.service.control import ControlSocket
from edgeasd.runtime.service.jsonl_records import RecordWriter
from edgeasd.runtime.service.latency import Latencies
from edgeasd.runtime.service.load_shedding import MOST, Overload
from edgeasd.runtime.service.patient import PatientSource
from edgeasd.runtime.service.systemd import Notifier
from edgeasd.runtime.service.view import SiteView
from edgeasd.runtime.sources import ChannelSplit
from edgeasd.runtime.storage import EventStore
from edgeasd.toolkit.cli.json_lines import json_sink

pytestmark = pytest.mark.core


# What is left out


def drive(load: list[float]) -> tuple[list[float], list[int]]:
    """Sound that waits and the share that is scored, every tenth of a second, under `load` (1: just kept up with)."""
    overload, behind, waited, shares = Overload(0.0), 0.0, [], []
    for step, demand in enumerate(load):
        work = behind + 0.1
        cost = demand / overload.keep_every  # seconds of work for a second of sound
        done = work if work * cost <= 0.1 else 0.1 / cost
        behind = work - done
        overload.update(behind, done * cost, 0.1 * (step + 1))
        waited.append(behind)
        shares.append(overload.keep_every)
    return waited, shares


@settings(max_examples=25, deadline=None)
@given(st.floats(1.05, 20.0), st.integers(100, 400))
def test_more_is_left_out_until_scoring_keeps_up_and_all_is_scored_again_when_it_can(load: float, steps: int) -> None:
    waited, shares = drive([load] * steps + [0.3] * 3000)
    assert max(waited) < 30.0
    assert shares[-1] == 1
    assert max(shares) <= 2 * 2 ** np.ceil(np.log2(load))
    assert all(two in (one, 2 * one, one // 2) for one, two in pairwise([1, *shares]))


def test_nothing_is_left_out_where_scoring_keeps_up_and_never_all() -> None:
    assert set(drive([0.95] * 1000)[1]) == {1}
    assert max(drive([1000.0] * 1000)[1]) == MOST


def test_a_steady_overload_does_not_make_it_swing() -> None:
    _, shares = drive([1.5] * 3000)
    changes = sum(one != two for one, two in pairwise(shares))
    assert changes <= 1


def test_percentiles_are_those_of_the_latest() -> None:
    latencies = Latencies()
    assert latencies.percentiles() is None
    for value in [99.0] * 50 + [i / 1000 for i in range(2000)]:
        latencies.add(value)
    assert latencies.percentiles() == {"p50": 1.0, "p95": 1.9, "p99": 1.98}


# Sources that are not there


class Silence:
    name, sample_rate, live, overruns = "silence", 16_000, True, 3

    def __init__(self) -> None:
        self.closed = False

    def read(self) -> Any:
        return None if self.closed else np.zeros(512, np.float32)

    def close(self) -> None:
        self.closed = True


def test_a_source_that_is_not_there_is_opened_when_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patient_module, "FIRST_PAUSE", 0.01)
    tries = []

    def open_it() -> Silence:
        tries.append(1)
        if len(tries) < 4:
            raise DeviceError("hw:7: not there")
        return Silence()

    source = PatientSource(open_it, name="hw:7", sample_rate=16_000, live=True, retry=True)
    assert (source.state, source.name) == ("opening", "hw:7")
    assert source.read().size == 512  # type: ignore[union-attr]
    assert (len(tries), source.state, source.name, source.overruns, source.reason) == (4, "open", "silence", 3, "")
    source.close()
    assert source.read() is None
    once = PatientSource(
        lambda: open_it() if len(tries) < 4 else (_ for _ in ()).throw(InputError("x: no file")),
        name="x",
        sample_rate=16_000,
        live=False,
        retry=False,
    )
    with pytest.raises(InputError, match="no file"):
        once.read()


def test_a_shortage_of_processes_or_threads_is_waited_for_where_a_source_is_live(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patient_module, "FIRST_PAUSE", 0.01)
    errors: list[Exception] = [RuntimeError("can't start new thread"), BlockingIOError(11, "try again")]

    def open_it() -> Silence:
        if errors:
            raise errors.pop()
        return Silence()

    source = PatientSource(open_it, name="hw:7", sample_rate=16_000, live=True, retry=True)
    assert source.read() is not None
    errors.append(RuntimeError("can't start new thread"))
    file = PatientSource(open_it, name="x.wav", sample_rate=16_000, live=False, retry=False)
    with pytest.raises(RuntimeError):
        file.read()


def no_threads(monkeypatch: pytest.MonkeyPatch, name: str, count: int) -> list[str]:
    """Have the system refuse the next `count` threads of this name; the refused ones."""
    refused: list[str] = []
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == name and len(refused) < count:
            refused.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    return refused


def test_a_split_waits_for_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    class Two(Silence):
        channels = 2

        def read(self) -> Any:
            time.sleep(0.01)
            return None if self.closed else np.zeros((512, 2), np.float32)

    refused = no_threads(monkeypatch, "edgeasd-split", 2)
    source = ChannelSplit(Two()).open(1)
    assert source.read() is not None
    assert len(refused) == 2
    source.close()


def test_closing_ends_the_wait_for_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_it() -> Silence:
        raise DeviceError("hw:7: not there")

    monkeypatch.setattr(patient_module, "FIRST_PAUSE", 60.0)
    source = PatientSource(open_it, name="hw:7", sample_rate=16_000, live=True, retry=True)
    thread = threading.Thread(target=source.read, daemon=True)
    thread.start()
    end = time.monotonic() + 10.0
    while source.reason != "hw:7: not there":
        assert time.monotonic() < end, "it has not tried"
        time.sleep(0.01)
    source.close()
    thread.join(10.0)
    assert not thread.is_alive()


# Streams together, in this process


def run_service(path: Path, until: Any, seconds: float = 30.0) -> tuple[Service, list[dict[str, Any]]]:
    """A service run until `until(service, records)` or its end."""
    records: list[dict[str, Any]] = []
    service = Service(read_site(path), lambda record, may_drop: records.append(record))
    service.start()
    try:
        end = time.monotonic() + seconds
        while service.poll() and not until(service, records):
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.02)
    finally:
        assert service.stop("test")
    return service, records


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of all batches that are scored; `delay[0]` seconds are slept for each segment."""
    sizes: list[int] = []
    score = Scorer.score_segments

    def counted(self: Scorer, segments: Any) -> Any:
        sizes.append(len(segments))
        return score(self, segments)

    monkeypatch.setattr(Scorer, "score_segments", counted)
    return sizes


def test_streams_of_one_bundle_are_scored_in_common_batches_and_others_apart(
    site: Any, sound: Path, batches: list[int]
) -> None:
    stream = f'input = "{sound}"\n'
    site.write(stream, stream, stream, f'{stream}engine = "one"', top="[engines.one]\nthreads = 1")
    service, records = run_service(site.file, lambda *_: False)
    by_id = {id: [r for r in records if r["type"] == "score" and r["id"] == id] for id in "abcd"}
    assert len({len(found) for found in by_id.values()}) == 1
    for one, two in zip(by_id["a"], by_id["d"], strict=True):
        assert one["clip_score"] == pytest.approx(two["clip_score"], rel=1e-6)
    assert max(batches) > 3  # more than a stream alone may have of a batch of ten
    assert [one.state for one in service.state().streams] == ["stopped"] * 4


def test_a_bundle_that_cannot_be_loaded_stops_no_other_stream(site: Any, sound: Path) -> None:
    site.write(f'input = "{sound}"\nloop = true', f'input = "{sound}"\nbundle = "broken"')
    broken = site.folder / "broken"
    broken.mkdir()
    for path in site.bundle.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    (broken / "head.onnx").write_bytes(b"x")
    service, _ = run_service(site.file, lambda s, r: s.loaded.is_set() and sum(x["type"] == "score" for x in r) > 20)
    states = {one.name: one for one in service.state().streams}
    assert states["b"].state == "failed"
    assert "head.onnx" in str(states["b"].reason)
    assert states["a"].segments > 20


def test_a_stream_whose_settings_fit_nothing_stops_no_other_stream_and_no_log_line_ends_the_service(
    site: Any, sound: Path
) -> None:
    stream = f'input = "{sound}"\nrealtime = true\nloop = true\n'
    site.write(stream, f"{stream}[streams.b.health.level]\nlow_dbfs = -10.0\n")

    def full(line: str) -> None:
        said.append(line)
        raise OSError(28, "No space left on device")

    said: list[str] = []
    service = Service(read_site(site.file), log=full)
    service.start()
    try:
        site.until(lambda: service.poll() and service.loaded.is_set())
        states = {one.name: one for one in service.state().streams}
        assert states["b"].state == "failed"
        assert "low_dbfs" in str(states["b"].reason)
        site.until(lambda: service.poll() and service.state().streams[0].level_dbfs > -100)
        site.write(stream, stream)
        service.reload()
        site.until(lambda: service.poll() and service.state().streams[1].state != "failed")
        site.write(stream, f"{stream}[streams.b.health.level]\nlow_dbfs = -10.0\n")
        service.reload()
        site.until(lambda: service.poll() and sum("low_dbfs" in line for line in said) > 1)
        assert service.state().streams[1].state != "stopped"
    finally:
        assert service.stop("test")


def test_a_stream_without_a_thread_for_its_sound_is_tried_again(
    site: Any, sound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeasd.runtime.service.fleet.FIRST_PAUSE", 0.1)
    refused = no_threads(monkeypatch, "edgeasd-capture", 1)
    stream = f'input = "{sound}"\nloop = true'
    site.write(stream, stream)
    run_service(site.file, lambda s, records: {r["id"] for r in records if r["type"] == "score"} == {"a", "b"})
    assert len(refused) == 1


def test_a_reload_changes_how_long_evidence_and_history_stay_without_a_restart(site: Any, sound: Path) -> None:
    site.write(f'input = "{sound}"\nrealtime = true\nloop = true')
    text = site.file.read_text("utf-8")
    changed = text + "[evidence]\nmax_age_days = 3.0\n[retention]\nscores_days = 0.5\n"
    log: list[str] = []
    service = Service(read_site(site.file), log=log.append)
    service.start()
    try:
        site.until(lambda: service.poll() and service.loaded.is_set())
        site.file.write_text(changed, "utf-8")
        service.reload()
        site.until(lambda: any("reloaded" in line for line in log))
        evidence = service.fleet.evidence
        assert evidence is not None
        site.until(lambda: evidence.settings.max_age_days == 3.0)
        assert service.keeper.retention.scores == 0.5 * 86_400
    finally:
        assert service.stop("test")


def test_evidence_of_an_event_that_is_open_stays_at_the_start_however_old(site: Any, sound: Path) -> None:
    limit = Threshold(clip=0.5, consecutive=1, found_by="t", clips=1)
    wall = time.time() - 30 * 86_400
    machine = AlarmMachine("valve", "elsewhere", AlarmSettings(), limit)
    said = machine.step(AlarmInput(1.0, wall, 2.0))
    over = AlarmMachine("valve", "over", AlarmSettings(), limit)
    ended = over.step(AlarmInput(1.0, wall, 2.0)) + over.command(Command(command="clear"), 2.0, wall + 1.0)
    site.data.mkdir()
    with EventStore(site.data / "events.db") as store:
        store.append(said)
        store.append(ended)
    kept, gone = (next(one.event for one in some if one.event) for some in (said, ended))
    keep = KeepSettings(max_age_days=60.0, min_free_megabytes=1.0)
    writer = EvidenceWriter(site.data, keep)
    recorder = Recorder(writer, "valve", "a", 16_000)
    for event in (kept, gone):
        recorder.sound(0, np.zeros(16_000, np.float32))
        recorder.open_event(event, wall, None)
        recorder.close()
    assert writer.close(10.0)
    site.write(f'input = "{sound}"\nloop = true')
    site.file.write_text(site.file.read_text("utf-8") + "[evidence]\nmax_age_days = 1.0\nfewest = 0\n", "utf-8")
    run_service(site.file, lambda s, _: s.loaded.is_set() and s.fleet.evidence.status().deleted)
    assert set(evidence_files(site.data, gone)) == {"facts.json"}
    assert "clip.flac" in evidence_files(site.data, kept)


FAST = """
import sys, time
data = open(sys.argv[1], "rb").read()[44:]
begun = time.monotonic()
for i in range(200):
    sys.stdout.buffer.write(data[3200 * (i % 280):][:3200 * 5]); sys.stdout.buffer.flush()
    time.sleep(max(0, begun + 0.05 * (i + 1) - time.monotonic()))
"""


def test_an_engine_that_is_too_slow_skips_evenly_says_so_and_loses_no_sound(
    site: Any, sound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sound at ten times its speed beside an engine that takes 30 ms a segment: half as fast again as it can."""
    score = Scorer.score_segments

    def slow(self: Scorer, segments: Any) -> Any:
        end = time.monotonic() + 0.03 * len(segments)
        scored = score(self, segments)
        time.sleep(max(0.0, end - time.monotonic()))
        return scored

    (site.folder / "fast.py").write_text(FAST, "utf-8")
    site.write(f"input_command = '{sys.executable} {site.folder / 'fast.py'} {sound}'")
    site.file.write_text(site.file.read_text("utf-8"), "utf-8")
    monkeypatch.setattr(Scorer, "score_segments", slow)
    monkeypatch.setattr("edgeasd.runtime.sources.command.AHEAD_SECONDS", 1e9)
    # A second of sound is a tenth of one here: so long any thread may stand still on a busy machine.
    monkeypatch.setattr("edgeasd.runtime.service.load_shedding.LATE_SECONDS", 5.0)
    service, records = run_service(site.file, lambda s, r: sum(x["type"] == "score" for x in r) > 150)
    state = service.state().streams[0]
    assert (state.keep_every, state.dropped_seconds) == (2, 0.0)
    assert state.skipped_segments > 30
    assert state.state == "degraded" or "one of 2" in str(state.reason) or state.state == "stopped"
    (said,) = [one for one in records if one["type"] == "overload"]
    assert (said["keep_every"], said["streams"]) == (2, ["a"])
    starts = [one["start_sample"] for one in records if one["type"] == "score"]
    assert set(np.diff(starts)) == {3072, 2 * 3072}
    assert set(np.diff(starts[-30:])) == {2 * 3072}
    assert not any(one["type"] == "gap" for one in records)


# The command socket and systemd


def test_the_command_socket_answers_one_line_and_survives_anything(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)

    def answer(request: dict[str, Any]) -> Any:
        if "bad" in request:
            raise InputError("that is bad")
        return request["number"] + 1

    server = ControlSocket(deep, answer)
    server.start()
    try:
        assert ask(deep, {"number": 1}) == 2
        with pytest.raises(InputError, match="that is bad"):
            ask(deep, {"bad": 1})
        with pytest.raises(InputError, match="KeyError in the service"):
            ask(deep, {})

        @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
        @given(st.binary(max_size=200))
        def anything(data: bytes) -> None:
            with socket.socket(socket.AF_UNIX) as visitor:
                visitor.settimeout(5.0)
                visitor.connect(f"/proc/self/cwd/{server_path}")
                visitor.sendall(data + b"\n")
                reply = json.loads(visitor.recv(65536))
                assert reply["ok"] is False

        server_path = Path("edgeasd.sock")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(deep)
            anything()
        assert ask(deep, {"number": 2}) == 3
    finally:
        server.close()
    assert ask(deep, {"number": 1}) is None


def test_the_command_socket_survives_a_shortage_of_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ControlSocket(tmp_path, lambda request: "here")
    server.start()
    try:
        refused = no_threads(monkeypatch, "edgeasd-visitor", 20)  # more than may be attended to at once
        for _ in range(20):
            with pytest.raises(InputError, match="no answer"):
                ask(tmp_path, {})
        assert len(refused) == 20
        assert ask(tmp_path, {}) == "here"
    finally:
        server.close()


def test_systemd_is_told_over_paths_and_abstract_names_and_nobody_where_it_is_not_there(tmp_path: Path) -> None:
    for name in (str(tmp_path / "n"), "@edgeasd-test-notify"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
            heard.bind("\0" + name[1:] if name.startswith("@") else name)
            notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "2000000"})
            notifier.ready("one\ntwo")
            assert heard.recv(100) == b"READY=1\nSTATUS=one two"
            assert notifier.interval == 1.0
            for now in (10.0, 10.2, 10.6):
                notifier.alive(now)
            heard.setblocking(False)
            assert [heard.recv(100), heard.recv(100)] == [b"WATCHDOG=1"] * 2
            with pytest.raises(BlockingIOError):
                heard.recv(100)
    Notifier({}).ready("nobody")
    Notifier({"NOTIFY_SOCKET": "/no/such/socket"}).stopping()
    assert Notifier({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}).interval is None


def test_a_boot_is_noticed_once(tmp_path: Path) -> None:
    source = tmp_path / "boot"
    source.write_text("one\n")
    assert [booted_anew(tmp_path, source), booted_anew(tmp_path, source)] == [True, False]
    source.write_text("two\n")
    assert [booted_anew(tmp_path, source), booted_anew(tmp_path, source)] == [True, False]


def test_a_reader_that_stops_reading_costs_lines_and_nothing_else() -> None:
    class Stuck(io.StringIO):
        def write(self, text: str) -> int:
            time.sleep(3600)
            return 0

    writer = RecordWriter(Stuck())
    began = time.monotonic()
    for number in range(12_000):
        writer.put({"n": number})
    assert 1900 < writer.lost <= 2000
    writer.close(0.1)
    assert time.monotonic() - began < 2.0


def test_nobody_waits_for_a_reader_that_stopped_once_the_service_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeasd.runtime.service.jsonl_records._MOST", 2)

    class Stuck(io.StringIO):
        def write(self, text: str) -> int:
            time.sleep(3600)
            return 0

    writer = RecordWriter(Stuck())
    waiting = threading.Thread(target=lambda: [writer.put({"n": n}, False) for n in range(10)], daemon=True)
    waiting.start()
    waiting.join(0.5)
    assert waiting.is_alive()
    writer.closing = True
    waiting.join(1.0)
    assert not waiting.is_alive()
    assert writer.lost == 7


def test_a_record_that_cannot_be_written_is_a_failure_that_is_seen_and_ends_no_thread() -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise ValueError("I/O operation on closed file")

    writer = RecordWriter(Closed())
    for number in range(30_000):
        writer.put({"n": number}, False)
    writer.close(1.0)
    assert isinstance(writer.failure, InputError)
    assert "ValueError: I/O operation on closed file" in str(writer.failure)


def test_a_file_name_that_is_not_utf8_is_written_as_json_has_it(tmp_path: Path) -> None:
    with json_sink(str(tmp_path / "records.jsonl")) as sink:
        assert sink is not None
        writer = RecordWriter(sink)
        writer.put({"detail": "L\udcfcfter.wav ü"})
        writer.close(5.0)
    assert writer.failure is None
    line = (tmp_path / "records.jsonl").read_text("utf-8")
    assert line == '{"detail": "L\\udcfcfter.wav ü"}\n'
    assert json.loads(line)["detail"] == "L\udcfcfter.wav ü"


NON_STOP = """
import os, time
while True:
    os.write(1, bytes(3200)); time.sleep(0.1)
"""


def test_a_file_beside_a_live_stream_waits_for_no_reader_of_records(site: Any, sound: Path) -> None:
    (site.folder / "live.py").write_text(NON_STOP, "utf-8")
    site.write(f'input = "{sound}"\nloop = true', f"input_command = '{sys.executable} {site.folder / 'live.py'}'")
    dropping: dict[str, set[bool]] = {"a": set(), "b": set()}
    service = Service(read_site(site.file), lambda record, drop: dropping.get(record.get("id", ""), set()).add(drop))
    service.start()
    try:
        site.until(lambda: service.poll() and service.loaded.is_set())
        dropping["a"].clear()
        site.until(lambda: service.poll() and dropping["a"] and dropping["b"])
    finally:
        assert service.stop("test")
    assert dropping == {"a": {True}, "b": {True}}


# What a person sees


def stream_state(name: str, **changes: Any) -> StreamState:
    base: dict[str, Any] = {
        "name": name,
        "machine": "valve",
        "id": "00",
        "state": "running",
        "reason": None,
        "source": "hw:1",
        "engine": "e",
        "accelerator": "cpu",
        "precision": "fp32",
        "level_dbfs": -30.0,
        "clip_score": 0.1,
        "complete": True,
        "threshold": 0.2,
        "trace": [0.1, 0.2],
        "sick": False,
        "health": (),
        "alarm": "normal",
        "event": None,
        "maintenance": False,
        "snoozed": False,
        "segments": 5,
        "skipped_segments": 0,
        "keep_every": 1,
        "waiting_seconds": 0.0,
        "dropped_seconds": 0.0,
        "overruns": 0,
        "latency_seconds": {"p50": 0.04, "p95": 0.05, "p99": 0.06},
    }
    return StreamState(**{**base, **changes})


def test_plain_lines_say_changes_at_once_and_figures_now_and_then() -> None:
    out = io.StringIO()
    view = SiteView(out)
    calm = SiteState("plant", 1.0, [stream_state("a"), stream_state("b")])
    for now in (100.0, 101.0, 102.0):
        view.draw(calm, now)
    assert out.getvalue().count("\n") == 2
    sick = stream_state("b", alarm="alarm", sick=True, health=("silence",), dropped_seconds=1.5, skipped_segments=7)
    view.draw(SiteState("plant", 1.0, [stream_state("a"), sick]), 103.0)
    last = out.getvalue().splitlines()[-1]
    assert out.getvalue().count("\n") == 3
    for part in ("b ", "ALARM", "SICK silence", "1.5 s lost", "7 skipped", "40/60 ms", "0.100 / 0.200"):
        assert part in last
    view.draw(calm, 111.0)
    assert out.getvalue().count("\n") == 5
    assert "\x1b" not in out.getvalue()


def test_a_terminal_is_redrawn_in_place_and_no_line_is_wider_or_beyond_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "6")
    monkeypatch.setenv("NO_COLOR", "1")
    out = io.StringIO()
    view = SiteView(out, live=True)
    failed = stream_state("c", state="failed", reason="hw:7: \x1b[31m not there", clip_score=None, threshold=None)
    many = SiteState("plant", 1.0, [stream_state("a"), failed, *(stream_state(f"s{i}") for i in range(9))])
    view.draw(many, 1.0)
    first = out.getvalue()
    assert first.count("\n") == 5
    assert "9 more streams" in first
    assert all(len(line.replace("\x1b[K", "").replace("\x1b[J", "").strip("\r")) < 60 for line in first.split("\n"))
    assert "\x1b[31m" not in first
    view.draw(many, 2.0)
    assert out.getvalue()[len(first) :].startswith("\x1b[5A")


def test_what_needs_somebody_is_shown_first_where_there_is_no_room_and_in_colour(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setenv("LINES", "7")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    calm = [stream_state(f"s{number}") for number in range(9)]
    failed = stream_state("lost", state="failed", reason="hw:7: not there", clip_score=None, trace=[])
    alarm = stream_state("pump", alarm="alarm")
    out = io.StringIO()
    SiteView(out, live=True).draw(SiteState("plant", 1.0, [*calm, failed, alarm]), 1.0)
    lines = out.getvalue().split("\n")
    assert [line.split()[0].lstrip("\r") for line in lines[2:4]] == ["pump", "lost"]
    assert "\x1b[31;1m  ALARM" in lines[2]
    assert "no sound" in lines[3]
    assert "healthy" not in lines[3]
    assert "8 more streams" in lines[5]
    monkeypatch.setenv("LINES", "40")
    monkeypatch.setenv("NO_COLOR", "1")
    out = io.StringIO()
    SiteView(out, live=True).draw(SiteState("plant", 1.0, [failed, alarm], trouble="disk is full"), 1.0)
    lines = [line.replace("\x1b[K", "").replace("\x1b[J", "") for line in out.getvalue().split("\n")]
    assert "\x1b" not in "".join(lines)
    assert lines[1] == "\rTROUBLE: disk is full"
    assert lines[4] == "\r    failed: hw:7: not there"
    assert lines[3].index("no sound") == lines[5].index("healthy") == lines[2].index("health")
