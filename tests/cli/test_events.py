"""`edgeasd events` as a process: what is shown, copied and refused, beside a service that writes."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from edgeasd.runtime.alarms import AlarmInput, AlarmMachine, AlarmSettings, Command
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.evidence import ClipSettings, EvidenceRecorder, EvidenceWriter, KeepSettings
from edgeasd.runtime.scoring.threshold import Threshold
from edgeasd.runtime.storage import EventStore
from edgeasd.toolkit.cli import app
from edgeasd.toolkit.cli._options import parse_time

pytestmark = pytest.mark.core

RATE = 16_000
WALL = 1_800_000_000.0
HOSTILE = "../../\x1b[31mvalve\n"
DRAWN = ["picture.png"] if importlib.util.find_spec("PIL") else []
"""Pictures are drawn where Pillow is installed; the core has none."""
NO_PILLOW = "pictures: Pillow is not installed; pip install 'edgeasd[serve]'"
FILES = ["clip.flac", "event.json", *DRAWN, "scores.jsonl", "transitions.json"]


def edgeasd(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgeasd", *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=60
    )


def fast(*arguments: object) -> Any:
    """As `edgeasd`, in this process."""
    return CliRunner().invoke(app, ["events", *map(str, arguments)])


def one_line(result: Any, code: int = 2) -> str:
    said = result.stderr
    assert (result.exit_code, result.stdout) == (code, ""), said
    assert said.startswith("edgeasd: ")
    assert said.count("\n") == 1
    assert said.rstrip("\n").isprintable()
    return str(said)


def listen(data: Path, store: EventStore, machine: str, id: str, wall: float, *, clear: bool) -> str:
    """An event that is acknowledged and perhaps cleared, with its evidence."""
    threshold = Threshold(clip=1.0, consecutive=1, found_by="t", clips=1)
    alarms = AlarmMachine(machine, id, AlarmSettings(), threshold)
    writer = EvidenceWriter(data, KeepSettings(min_free_megabytes=0.1))
    recorder = EvidenceRecorder(
        writer, machine, id, RATE, ClipSettings(pre_seconds=1, post_seconds=1, longest_seconds=4)
    )
    sound = np.random.default_rng(0).uniform(-0.1, 0.1, RATE).astype(np.float32)
    event = ""
    for second in range(6):
        recorder.sound(second * RATE, sound)
        score = 2.0 if second == 1 or (second > 1 and not clear) else 0.0
        recorder.score((second + 1) * RATE, wall + second, score, score)
        said = alarms.step(AlarmInput(float(second), wall + second, score))
        if second == 1:
            said += alarms.command(Command(command="acknowledge", by="anna", note="on my way"), 1.0, wall + 1)
            event = str(said[0].event)
        store.append(said, alarms.snapshot())
        recorder.transitions(said)
    recorder.close()
    assert writer.close(10.0)
    return event


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A data folder with a cleared, a hostile and an open event, a day apart."""
    data = tmp_path_factory.mktemp("site") / "data"
    data.mkdir()
    with EventStore.open(data / "events.db") as store:
        events = [
            listen(data, store, "valve", "00", WALL, clear=True),
            listen(data, store, HOSTILE, "01", WALL + 86_400, clear=True),
            listen(data, store, "pump", "02", WALL + 2 * 86_400, clear=False),
        ]
    return data, events


@pytest.fixture
def data(made: tuple[Path, list[str]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[0], tmp_path / "data"))


@pytest.fixture(scope="module")
def events(made: tuple[Path, list[str]]) -> list[str]:
    return made[1]


def test_the_list_is_newest_first_and_obeys_its_filters(data: Path, events: list[str]) -> None:
    def listed(*options: object) -> list[int]:
        result = fast("list", "--data", data, "--json", *options)
        assert result.exit_code == 0, result.stderr
        return [events.index(json.loads(line)["event"]) for line in result.stdout.splitlines()]

    assert listed() == [2, 1, 0]
    assert listed("--machine", "valve") == [0]
    assert listed("--id", "02") == [2]
    assert listed("--since", "2027-01-16") == [2, 1]
    assert listed("--since", "2027-01-16T08:00:02Z", "--until", "2027-01-17T00:00") == []
    assert listed("--until", "2027-01-16") == [0]
    assert listed("--state", "open") == listed("--state", "acknowledged") == [2]
    assert listed("--state", "cleared", "--limit", 1) == [1]
    assert listed("--state", "alarm") == []
    assert "more than these 1" in fast("list", "--data", data, "--limit", 1).stderr


@pytest.mark.parametrize("step", [300 * 86_400.0, -2 * 86_400.0])
def test_length_and_age_of_an_event_outlast_a_set_clock(tmp_path: Path, step: float) -> None:
    """The wall clock is set while an event is open, and the service is started anew."""
    threshold = Threshold(clip=1.0, consecutive=1, found_by="t", clips=1)
    began, wrong = time.monotonic(), time.time() - step
    with EventStore.open(tmp_path / "events.db") as store:
        alarms = AlarmMachine("valve", "00", AlarmSettings(clear_after=1), threshold)
        store.append(alarms.step(AlarmInput(began, wrong, 2.0)), alarms.snapshot())
        again = AlarmMachine("valve", "00", AlarmSettings(clear_after=1), threshold)
        again.restore(store.snapshot("valve", "00"))
        said = again.step(AlarmInput(began + 45.2, wrong + step + 45.2, 0.0))
        assert [one.to_json()["lasted_seconds"] for one in said] == [45.2]
        store.append(said, again.snapshot())
    (row,) = fast("list", "--data", tmp_path, "--since", "1h", "--json").stdout.splitlines()
    assert json.loads(row)["lasted_seconds"] == 45.2
    assert " 45 s " in fast("list", "--data", tmp_path).stdout
    assert re.search(r"lasted +45 s", fast("show", json.loads(row)["event"], "--data", tmp_path).stdout)


def test_people_read_a_table_that_no_name_can_break(data: Path, events: list[str]) -> None:
    done = edgeasd("events", "list", "--data", "data", cwd=data.parent)
    assert (done.returncode, done.stderr) == (0, "")
    head, *rows = done.stdout.splitlines()
    assert head.split()[:3] == ["EVENT", "MACHINE", "STATE"]
    assert [row.split()[0] for row in rows] == events[::-1]
    assert "../../ [31mvalve 01" in rows[1]
    assert all(row.isprintable() for row in rows)
    assert "clip 3 s" in rows[2]


def test_show_says_everything_about_one_event(data: Path, events: list[str]) -> None:
    result = fast("show", events[1], "--data", data)
    assert result.exit_code == 0, result.stderr
    assert all(line.isprintable() for line in result.stdout.splitlines())
    for part in (
        "cleared",
        "3.0 s, 1.0 s of it before the alarm",
        "acknowledged, anna, on my way",
        "clip.flac",
        "alarm -> acknowledged",
    ):
        assert part in result.stdout
    told = json.loads(fast("show", events[0], "--data", data, "--json").stdout)
    assert (told["event"], told["state"], told["raised_at"]) == (events[0], "cleared", "2027-01-15T08:00:01.000Z")
    assert told["evidence"]["samples"] == 3 * RATE
    assert [one["state"] for one in told["transitions"]][:2] == ["alarm", "acknowledged"]
    assert Path(told["files"]["clip.flac"]).is_file()


def test_export_gives_a_folder_or_a_zip_with_everything(data: Path, events: list[str]) -> None:
    out = data.parent / "out"
    done = edgeasd("events", "export", "--data", "data", *events[:2], "--output", out, "--json", cwd=data.parent)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["events"] == [
        {"event": event, "files": FILES, "problem": None if DRAWN else NO_PILLOW} for event in events[:2]
    ]
    assert sorted(path.name for path in out.iterdir()) == sorted(events[:2])
    assert sorted(path.name for path in (out / events[0]).iterdir()) == FILES
    sound, rate = soundfile.read(out / events[0] / "clip.flac")
    assert (sound.size, rate) == (3 * RATE, RATE)
    assert json.loads((out / events[1] / "event.json").read_text())["machine"] == HOSTILE
    result = fast("export", "--data", data, "--since", "2027-01-01", "--output", data.parent / "all.zip")
    assert result.exit_code == 0, result.stderr
    assert "3 events, 3 with a clip" in result.stdout
    with zipfile.ZipFile(data.parent / "all.zip") as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == sorted(f"{event}/{file}" for event in events for file in FILES)
        assert archive.read(f"{events[0]}/clip.flac") == (out / events[0] / "clip.flac").read_bytes()


def test_show_draws_the_spectrogram_where_it_is_asked_to(data: Path, events: list[str]) -> None:
    place = data.parent / "event.png"
    result = fast("show", events[0], "--data", data, "--picture", place)
    if DRAWN:
        assert result.exit_code == 0, result.stderr
        assert place.read_bytes().startswith(b"\x89PNG")
    else:
        assert NO_PILLOW in one_line(result)
    assert not (data / "evidence" / events[0] / "picture.png").exists()


def test_export_replaces_nothing_and_leaves_nothing_half(data: Path, events: list[str]) -> None:
    out = data.parent / "out"
    out.mkdir()
    (data.parent / "b.zip").write_text("mine")
    for place in (out, data.parent / "b.zip"):
        assert "is there already" in one_line(fast("export", events[0], "--data", data, "--output", place))
    with sqlite3.connect(data / "events.db") as connection:
        connection.execute("UPDATE transitions SET message = '{' WHERE event = ?", (events[1],))
    connection.close()
    for place in ("c", "c.zip"):
        one_line(fast("export", *events[:2], "--data", data, "--output", data.parent / place))
    assert sorted(path.name for path in data.parent.iterdir()) == ["b.zip", "data", "out"]
    assert "no filter given" in one_line(fast("export", "--data", data, "--output", data.parent / "d"))
    assert "one or the other" in one_line(
        fast("export", events[0], "--data", data, "--output", data.parent / "d", "--state", "open")
    )
    assert "no event fits" in one_line(
        fast("export", "--data", data, "--output", data.parent / "d", "--machine", "fan")
    )


def test_links_in_the_data_folder_are_not_followed(data: Path, events: list[str]) -> None:
    folder = data / "evidence" / events[0]
    (data.parent / "secret").write_text("secret")
    for name in ("clip.flac", "facts.json"):
        (folder / name).unlink()
        (folder / name).symlink_to(data.parent / "secret")
    shutil.move(data / "evidence" / events[1], data.parent / "elsewhere")
    (data / "evidence" / events[1]).symlink_to(data.parent / "elsewhere")
    result = fast("export", *events[:2], "--data", data, "--output", data.parent / "out")
    assert result.exit_code == 0, result.stderr
    assert sorted(path.name for path in (data.parent / "out" / events[0]).iterdir()) == [
        *("event.json", "scores.jsonl", "transitions.json")
    ]
    assert len(list((data.parent / "out" / events[1]).iterdir())) == 2


def test_damaged_facts_and_missing_files_are_said(data: Path, events: list[str]) -> None:
    (data / "evidence" / events[0] / "facts.json").write_text('{"schema": "\\u001b[31m"}')
    shutil.rmtree(data / "evidence" / events[1])
    result = fast("show", events[0], "--data", data)
    assert result.exit_code == 0
    assert "facts.json" in result.stdout
    assert "evidence: none" in fast("show", events[1], "--data", data).stdout
    assert "clip" in fast("list", "--data", data).stdout


def test_wrong_use_is_one_line(data: Path, events: list[str]) -> None:
    assert "no such file" in one_line(fast("list", "--data", data.parent))
    assert "not an event ID" in one_line(fast("show", "../../etc/\x1b", "--data", data))
    assert "no such event" in one_line(fast("show", "0" * 26, "--data", data))
    assert "--state shut: unknown" in one_line(fast("list", "--data", data, "--state", "shut"))
    assert "--since soon: not a time" in one_line(fast("list", "--data", data, "--since", "soon"))


VALUES = [
    ("raised_at", 10**18),
    ("raised_at", "x" * 9),
    ("raised_at", b"\xff"),
    ("cleared_at", -(10**17)),
    ("peak", "\x1b[31m"),
    ("threshold", b"1"),
    ("cleared_by", 7),
    ("event", b"\x00"),
    ("event", "../../../etc"),
    ("test", "x"),
]


@pytest.mark.parametrize(("column", "value"), VALUES)
@pytest.mark.parametrize("what", ["list", "export"])
def test_nonsense_in_the_database_is_one_line_or_shown(data: Path, column: str, value: object, what: str) -> None:
    with sqlite3.connect(data / "events.db") as connection:
        connection.execute(f"UPDATE OR IGNORE events SET {column} = ?", (value,))
    connection.close()
    more = ["--output", data.parent / "out", "--since", "1970-01-01"] if what == "export" else []
    result = fast(what, "--data", data, *more)
    if result.exit_code:
        one_line(result)
    else:
        assert all(line.isprintable() for line in result.stdout.splitlines())
    assert {path.name for path in data.parent.iterdir()} <= {"data", "out"}


@pytest.mark.parametrize("peak", [5e11, sys.float_info.max, -sys.float_info.max])
def test_a_score_of_any_size_is_a_score(data: Path, events: list[str], peak: float) -> None:
    """An encoder that runs over gives infinity, which is stored as the largest number there is."""
    with sqlite3.connect(data / "events.db") as connection:
        connection.execute("UPDATE events SET peak = ?", (peak,))
    connection.close()
    found = fast("list", "--data", data, "--json")
    assert found.exit_code == 0, found.stderr
    assert {one["peak"] for one in map(json.loads, found.stdout.splitlines())} == {peak}
    assert fast("list", "--data", data).exit_code == 0
    assert fast("show", events[0], "--data", data).exit_code == 0


DEEP = '{"by": ' + "[" * 900 + "]" * 900 + "}"


@pytest.mark.parametrize(
    "message", ["{}", '{"state": {"a": "\\u001b"}, "at": 5}', '{"sequence": "\\ud800"}', DEEP, "{"]
)
def test_messages_that_are_none_are_shown_or_one_line(data: Path, events: list[str], message: str) -> None:
    with sqlite3.connect(data / "events.db") as connection:
        connection.execute("UPDATE transitions SET message = ?", (message,))
    connection.close()
    for options in ([], ["--json"]):
        result = fast("show", events[0], "--data", data, *options)
        if result.exit_code:
            one_line(result)
        else:
            assert all(line.isprintable() for line in result.stdout.splitlines())


def test_a_file_that_is_no_database_is_one_line(data: Path) -> None:
    (data / "events.db").write_bytes(os.urandom(9000))
    assert "events.db" in one_line(fast("list", "--data", data))


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=200)), min_size=1, max_size=3))
def test_a_damaged_database_is_one_line_or_shown(
    made: tuple[Path, list[str]], tmp_path_factory: Any, damage: list[tuple[float, bytes]]
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    whole = bytearray((made[0] / "events.db").read_bytes())
    for at, content in damage:
        start = round(at * len(whole))
        whole[start : start + len(content)] = content
    (folder / "events.db").write_bytes(whole)
    for command in (["list"], ["show", made[1][0]], ["export", "--since", "1970-01-01", "--output", folder / "out"]):
        result = fast(*command, "--data", folder)
        if result.exit_code:
            one_line(result)
        else:
            assert all(line.isprintable() for line in result.stdout.splitlines())
    assert {path.name for path in folder.iterdir()} <= {"events.db", "events.db-wal", "events.db-shm", "out"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_told_whose_folder_it_is(made: tuple[Path, list[str]]) -> None:
    # Below /tmp itself: what pytest makes is closed to others further up already.
    with tempfile.TemporaryDirectory() as open_to_all:
        folder = Path(open_to_all)
        folder.chmod(0o755)
        data = Path(shutil.copytree(made[0], folder / "data"))
        data.chmod(0o700)
        before = os.geteuid()
        os.seteuid(54321)
        try:
            said = one_line(fast("list", "--data", data))
        finally:
            os.seteuid(before)
    assert said == f"edgeasd: {data}: Permission denied; run this as the user of the service\n"


def test_it_reads_beside_a_service_that_writes(data: Path) -> None:
    with EventStore.open(data / "events.db") as store:
        for count in (1, 2):
            event = listen(data, store, "slider", str(count), WALL + 9e5 + count, clear=False)
            result = fast("list", "--data", data, "--json", "--machine", "slider")
            assert event in result.stdout
            assert len(result.stdout.splitlines()) == count


@given(st.text(max_size=30) | st.from_regex(r"[0-9]{1,9}[smhdw]", fullmatch=True) | st.datetimes().map(str))
def test_a_time_is_seconds_or_one_line(text: str) -> None:
    try:
        assert 0.0 <= parse_time(text, "--since", WALL) < 1e12
    except InputError as error:
        line = str(error)
    else:
        line = "--since fine"
    assert line.isprintable()
    assert line.startswith("--since ")
