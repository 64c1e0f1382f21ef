"""What `doctor` says about the database and the outbox of a service."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeasd.runtime.doctor.service import check_service
from edgeasd.runtime.storage import Database, Outbox

pytestmark = pytest.mark.core


def states(data: Path) -> list[tuple[str, str]]:
    return [(one.name, one.state) for one in check_service(data)]


def test_service_without_data_is_absent(tmp_path: Path) -> None:
    assert states(tmp_path / "nowhere") == states(tmp_path) == [("store", "absent"), ("outbox", "absent")]


def test_what_waits_for_each_output_is_counted(tmp_path: Path) -> None:
    with Database(tmp_path / "events.db") as database:
        outbox = Outbox(database)
        outbox.register({"hook": ("event",), "log": ("event",)})
        outbox.append("event", "valve", "00", "{}")
        outbox.advance("log", 1)
        outbox.close()
    store, box = check_service(tmp_path)
    assert (store.state, box.state) == ("ok", "ok")
    assert box.found.startswith("hook: 1 wait, the first for 0.0 h; log: 0 wait")


def test_corrupt_database_is_a_problem_quarantined_one_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    path.write_text("nonsense" * 1000)
    assert states(tmp_path) == [("store", "problem"), ("outbox", "absent")]
    Database(path).close()
    (store, _) = check_service(tmp_path)
    assert store.state == "warning"
    assert "events.db.corrupt-" in store.found


def test_disk_that_refuses_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Database(tmp_path / "events.db").close()
    real = os.statvfs(tmp_path)
    fields = list(real)
    fields[4] = 0  # f_bavail
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(fields))
    (store, _) = check_service(tmp_path)
    assert (store.state, store.found) == ("problem", f"{tmp_path}: its disk is full")
    fields[4], fields[8] = real.f_bavail, os.ST_RDONLY
    (store, _) = check_service(tmp_path)
    assert (store.state, store.found) == ("problem", f"{tmp_path}: its disk is read-only")
