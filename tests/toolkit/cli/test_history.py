"""edgeasd history: as a table, CSV, JSON and picture, of a data folder in which a service wrote."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgeasd.runtime.storage import EventStore, StateSpan, StoredScore

NOW = time.time()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    begin = NOW - NOW % 3600 - 5 * 3600
    with EventStore.open(folder / "events.db") as store:
        scores = [StoredScore(begin + 60 * i, 0.1 + 0.001 * i, None, -31.0, "", 60.0) for i in range(240)]
        store.add_scores("valve", "id_00", scores)
        store.add_hours("valve", "id_00", [StateSpan(begin + 60 * i, "running", 60.0) for i in range(240)])
        change = {"quantity": "level", "shape": "step", "began": begin, "found": begin + 3600, "ended": None}
        store.put_change("valve", "id_00", "", {**change, "before": -37.0, "after": -31.0})
    return folder


def edgeasd(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgeasd", "history", *(str(one) for one in arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_table_shows_hours_states_and_changes(data: Path) -> None:
    done = edgeasd("--data", data)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("valve id_00, ")
    assert lines[1].split() == ["HOUR", "SCORE", "LOWEST", "HIGHEST", "dBFS", "STATE", "ALARMS"]
    assert len([line for line in lines if line.endswith("-") and "running" in line]) == 4
    assert "states: running 4.0 h" in lines
    assert lines[-1].startswith("change: the level rose from -37.0 to -31.0 dBFS, since ")


def test_csv_json_and_picture_hold_the_same_rows(data: Path, tmp_path: Path) -> None:
    done = edgeasd("--data", data, "--every", "minute", "--csv", "-")
    rows = done.stdout.splitlines()[1:]
    assert done.returncode == 0
    assert sum(",1," in row for row in rows) == 240
    picture = tmp_path / "day.svg"
    done = edgeasd("--data", data, "--every", "minute", "--json", "--plot", picture)
    found = json.loads(done.stdout)
    assert len(found["rows"]) == len(rows)
    assert found["rows"][0]["level"] == -31.0
    assert found["changes"][0]["quantity"] == "level"
    assert found["events"] == []
    assert picture.read_bytes().startswith(b"<svg ")


def test_wrong_input_is_one_line(data: Path, tmp_path: Path) -> None:
    for arguments, text in (
        (("--data", data, "--machine", "fan"), "nothing is stored of fan; stored are: valve id_00"),
        (("--data", data, "--since", "yesterday"), "--since yesterday: not a time"),
        (("--data", data, "--every", "week"), "week: not a width of rows; use score, minute, hour, day"),
        (("--data", data, "--plot", tmp_path / "x.jpg"), "jpg: not a kind of picture"),
        (("--data", tmp_path), "events.db: no such file"),
        (("--data", data, "--since", "1h", "--until", "2h"), "the span is empty"),
    ):
        done = edgeasd(*arguments)
        assert done.returncode == 2
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1
        assert text in done.stderr
    assert list(tmp_path.iterdir()) == []
