"""Small parts of the service: load shedding, latencies, systemd, the command socket, the records' writer."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.service.control import ControlSocket, RequestRejected, ask
from edgeasd.runtime.service.jsonl_records import RecordWriter
from edgeasd.runtime.service.load_shedding import LoadShedder
from edgeasd.runtime.service.status import Latencies
from edgeasd.runtime.service.systemd import SystemdNotifier
from edgeasd.toolkit.cli.run import open_records

pytestmark = pytest.mark.core


# Load shedding


def simulate(shedder: LoadShedder, cost: float, seconds: float, waiting: float = 0.0) -> list[int]:
    """Steps of a device that needs `cost` seconds for a second of sound, `waiting` of which are there at the start."""
    steps, behind = [], waiting
    for step in range(round(seconds / 0.1)):
        each = cost / shedder.decimation
        done = min(behind + 0.1, 0.1 / each)
        behind += 0.1 - done
        if shedder.update(behind, done * each, 0.1 * step):
            steps.append(shedder.decimation)
    return steps


@pytest.mark.parametrize(("cost", "steps"), [(1.5, [2]), (3.0, [2, 4]), (0.5, []), (1.0, [])])
def test_more_is_left_out_until_scoring_keeps_up(cost: float, steps: list[int]) -> None:
    assert simulate(LoadShedder(0.0), cost, 60.0) == steps


def test_all_is_scored_again_when_it_can_be() -> None:
    shedder = LoadShedder(0.0)
    simulate(shedder, 3.0, 30.0)
    assert shedder.decimation == 4
    for step in range(600):
        shedder.update(0.0, 0.01, 30.0 + 0.1 * step)
    assert shedder.decimation == 1


def test_one_segment_of_64_is_always_scored() -> None:
    shedder = LoadShedder(0.0)
    for step in range(3000):
        shedder.update(float(step), 0.1, 0.1 * step)
    assert shedder.decimation == 64


def test_sound_from_the_time_of_loading_is_worked_off() -> None:
    shedder = LoadShedder(0.0)
    shedder.excuse(20.0, 0.0)
    assert simulate(shedder, 0.5, 60.0, waiting=20.0) == []


def test_sound_from_the_time_of_loading_is_not_excused_for_ever() -> None:
    shedder = LoadShedder(0.0)
    shedder.excuse(8.0, 0.0)
    assert simulate(shedder, 1.0, 60.0, waiting=8.0) != []


def test_percentiles_are_those_of_the_latest() -> None:
    latencies = Latencies()
    assert latencies.percentiles() is None
    for number in range(3000):
        latencies.add(float(number))
    assert latencies.percentiles() == {"p50": 2000.0, "p95": 2900.0, "p99": 2980.0}


# systemd


def test_systemd_is_notified_over_paths_and_abstract_names(tmp_path: Path) -> None:
    for name in (str(tmp_path / "n"), f"@edgeasd-{tmp_path.name}-notify"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind("\0" + name[1:] if name.startswith("@") else name)
            notifier = SystemdNotifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "2000000"})
            notifier.ready("one\ntwo")
            assert manager.recv(100) == b"READY=1\nSTATUS=one two"
            assert notifier.watchdog_seconds == 1.0
            for now in (10.0, 10.2, 10.6):
                notifier.watchdog(now)
            manager.setblocking(False)
            assert [manager.recv(100), manager.recv(100)] == [b"WATCHDOG=1"] * 2
            with pytest.raises(BlockingIOError):
                manager.recv(100)


def test_nothing_happens_without_a_service_manager() -> None:
    SystemdNotifier({}).ready("nobody")
    SystemdNotifier({"NOTIFY_SOCKET": "/no/such/socket"}).stopping()
    assert SystemdNotifier({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}).watchdog_seconds is None


# The command socket


def test_the_command_socket_survives_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)

    def answer(request: dict[str, Any]) -> Any:
        if "bad" in request:
            raise InputError("that is bad")
        return request["number"] + 1

    assert ask(deep, {"number": 1}) is None
    server = ControlSocket(deep, answer)
    server.start()
    try:
        assert (deep / "edgeasd.sock").stat().st_mode & 0o777 == 0o600
        assert ask(deep, {"number": 1}) == 2
        with pytest.raises(RequestRejected, match="that is bad"):
            ask(deep, {"bad": 1})
        with pytest.raises(InputError, match="KeyError in the service"):
            ask(deep, {})
        monkeypatch.chdir(deep)

        @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
        @given(st.binary(max_size=200))
        def anything(data: bytes) -> None:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(5.0)
                client.connect("edgeasd.sock")
                client.sendall(data + b"\n")
                reply = json.loads(client.recv(65536))
                assert reply["ok"] is False

        anything()
        assert ask(deep, {"number": 2}) == 3
    finally:
        server.close()
    assert ask(deep, {"number": 1}) is None


def test_clients_that_say_nothing_hold_up_no_other(tmp_path: Path) -> None:
    server = ControlSocket(tmp_path, lambda _: "here")
    server.start()
    silent = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    try:
        for one in silent:
            one.connect(str(tmp_path / "edgeasd.sock"))
        began = time.monotonic()
        assert ask(tmp_path, {}) == "here"
        assert time.monotonic() - began < 2.0
    finally:
        for one in silent:
            one.close()
        server.close()


# The writer of records


class Stuck(io.StringIO):
    """A file whose reader takes nothing until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    def write(self, text: str) -> int:
        self.released.wait(60.0)
        return super().write(text)

    def close(self) -> None:
        """The test reads it afterwards."""


def test_a_reader_that_stops_costs_lines_and_nothing_else() -> None:
    out = Stuck()
    writer = RecordWriter(lambda: out)
    began = time.monotonic()
    for number in range(12_000):
        writer.put({"n": number})
    assert writer.is_full
    assert 1900 < writer.lost <= 2000
    writer.put({"n": "kept"}, may_drop=False)
    assert not writer.close(0.1)
    assert time.monotonic() - began < 2.0
    out.released.set()
    assert writer.close(10.0)
    assert json.loads(out.getvalue().splitlines()[-1]) == {"n": "kept"}


def test_a_record_that_cannot_be_written_is_a_failure() -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise ValueError("I/O operation on closed file")

    writer = RecordWriter(Closed)
    for number in range(1000):
        writer.put({"n": number}, False)
    assert writer.close(5.0)
    assert isinstance(writer.failure, InputError)
    assert "ValueError: I/O operation on closed file" in str(writer.failure)
    assert not writer.is_full


def test_no_file_is_made_before_the_first_record(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    writer = RecordWriter(open_records(str(path)))
    assert writer.close(5.0)
    assert not path.exists()


def test_a_file_name_that_is_not_utf8_is_written_as_json_has_it(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    writer = RecordWriter(open_records(str(path)))
    writer.put({"detail": "L\udcfcfter.wav ü"})
    assert writer.close(5.0)
    assert path.read_text("utf-8") == '{"detail": "L\\udcfcfter.wav ü"}\n'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"schema": 2, "kind": "stop"}\n', b'{"schema": 2, "kind": "stop"}\n{"n": 1}\n'),
        (b'{"schema": 2, "ki', b'{"schema": 2, "ki\n{"n": 1}\n'),
        (b"", b'{"n": 1}\n'),
    ],
    ids=["records", "half a record", "empty"],
)
def test_records_are_appended_to_records(tmp_path: Path, before: bytes, after: bytes) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(before)
    writer = RecordWriter(open_records(str(path)))
    writer.put({"n": 1})
    assert writer.close(5.0)
    assert path.read_bytes() == after


@pytest.mark.parametrize("content", [b"RIFF....WAVE", b"site = 3\n", b"{\n  1\n}\n", b"[1, 2]\n"])
def test_records_spoil_no_other_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(InputError, match="holds something else than JSON lines"):
        open_records(str(path))
    assert path.read_bytes() == content
