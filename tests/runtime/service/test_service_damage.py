"""A service whose event store was damaged, lost or set back: it comes back by itself, says so, and gives no number twice."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from edgeasd.runtime.config import read_config
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.service import Service
from edgeasd.runtime.service.ledger import Ledger
from edgeasd.runtime.storage import DamagedStore, EventStore
from edgeasd.runtime.storage.database import were_put_aside

pytestmark = pytest.mark.core

LOG = '[outputs.log]\ntype = "jsonl"\npath = "log.jsonl"\nkinds = ["event", "status"]\n'


class Runs:
    """Services in this process, one after the other, on one data folder."""

    def __init__(self, site: Any, sound: Path) -> None:
        self.site = site
        site.write(f'input = "{sound}"\nrealtime = true\nloop = true\n', top="status_seconds = 1.0")
        site.file.write_text(site.file.read_text("utf-8") + LOG, "utf-8")
        self.logged: list[str] = []

    def test_alarm(self, *, before: Any = lambda: None) -> tuple[list[int], str | None]:
        """Start, have a test alarm, stop; its numbers, and what the service said was wrong."""
        before()
        service = Service(read_config(self.site.file), log=self.logged.append)
        service.start()
        try:
            self.site.until(lambda: service.poll() and service.loaded.is_set() and service.keeper.kept)
            said = service.command("a", {"command": "test"})
            trouble = service.state().trouble
        finally:
            assert service.stop("test")
        return [one["sequence"] for one in said], trouble

    def events(self) -> list[dict[str, Any]]:
        lines = (self.site.data / "log.jsonl").read_text("utf-8").splitlines()
        return [one["body"] for one in map(json.loads, lines) if one["kind"] == "event"]


@pytest.fixture
def runs(site: Any, sound: Path) -> Runs:
    return Runs(site, sound)


def scramble(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100:2000] = os.urandom(1900)
    path.write_bytes(content)


def test_a_damaged_store_is_put_aside_and_numbers_go_on_above_all_that_were_given(runs: Runs) -> None:
    store = runs.site.data / "events.db"
    assert runs.test_alarm() == ([1, 2], None)
    began = time.time()
    numbers, trouble = runs.test_alarm(before=lambda: scramble(store))
    (aside,) = were_put_aside(store)
    assert trouble is not None
    assert aside.name in trouble
    assert any(aside.name in line for line in runs.logged)
    assert began - 1 <= numbers[0] - 2 <= time.time()
    doctor = json.loads(runs.site.command("doctor", "--config", runs.site.file, "--json").stdout)
    found = {one["name"]: one for one in doctor["findings"] if one["area"] == "service"}
    assert found["store"]["state"] == "warning"
    assert aside.name in found["store"]["found"]
    assert found["queues"]["state"] == "ok"
    # From here on all is as ever.
    assert runs.test_alarm() == ([numbers[1] + 1, numbers[1] + 2], None)
    found = runs.events()
    assert [one["sequence"] for one in found] == [1, 2, numbers[0] - 1, *numbers, numbers[1] + 1, numbers[1] + 2]
    assert [one["reason"] for one in found].count("store_lost") == 1
    assert (found[2]["state"], found[2]["event"]) == ("normal", None)
    assert len({one["event"] for one in found if one["test"]}) == 3


def test_a_store_that_was_deleted_or_set_back_is_noticed_by_what_receivers_have_heard(runs: Runs) -> None:
    store = runs.site.data / "events.db"
    runs.test_alarm()
    old = shutil.copytree(runs.site.data, runs.site.folder / "old", ignore=shutil.ignore_patterns("edgeasd.sock"))
    runs.test_alarm()
    runs.test_alarm(before=lambda: shutil.copy(Path(old) / "events.db", store))
    numbers = [one["sequence"] for one in runs.events()]
    assert numbers == sorted(set(numbers))
    assert [one["reason"] for one in runs.events()].count("store_lost") == 1
    runs.test_alarm(before=store.unlink)
    found = runs.events()
    numbers = [one["sequence"] for one in found]
    assert numbers == sorted(set(numbers))
    assert [one["reason"] for one in found].count("store_lost") == 2
    assert sum(one["test"] for one in found) == 8


def test_a_state_that_cannot_be_read_costs_that_state_only(runs: Runs) -> None:
    runs.test_alarm()

    def damage() -> None:
        with EventStore(runs.site.data / "events.db") as store:
            found = store.snapshot("valve", "a")
            assert found is not None
            store.append([], {**found, "state": "alarm"})

    _, trouble = runs.test_alarm(before=damage)
    assert trouble is None
    assert any("its alarms begin as normal" in line for line in runs.logged)
    assert were_put_aside(runs.site.data / "events.db") == []
    assert [one["reason"] for one in runs.events()] == ["test", "test_over", "store_lost", "test", "test_over"]


def test_a_store_that_is_found_damaged_at_work_is_replaced_once_a_minute_at_most(tmp_path: Path) -> None:
    begun: list[EventStore] = []
    logged: list[str] = []
    ledger = Ledger(tmp_path / "events.db", logged.append, begun.append)
    ledger.open()
    broken = [True]

    def act(store: EventStore) -> None:
        if broken:
            broken.pop()
            raise DamagedStore(f"{store.path}: cannot be used (malformed); move it away")

    assert ledger.write(act)
    assert len(begun) == len(logged) == len(were_put_aside(ledger.path)) == 1
    assert ledger.began_anew
    assert ledger.trouble is None
    broken.append(True)
    assert not ledger.write(act)
    assert "malformed" in str(ledger.trouble)
    assert len(were_put_aside(ledger.path)) == 1
    assert ledger.write(act)
    ledger.close()


def test_a_foreign_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    import sqlite3

    with sqlite3.connect(tmp_path / "events.db") as foreign:
        foreign.execute("CREATE TABLE mail (body TEXT)")
    with pytest.raises(InputError, match="another program"):
        Ledger(tmp_path / "events.db", print, print).open()
    assert were_put_aside(tmp_path / "events.db") == []


def test_an_error_of_the_disk_that_passes_leaves_the_store_locked_against_other_programs(tmp_path: Path) -> None:
    """Without its lock, the next program that opens and closes the file takes the write-ahead log away from under it."""
    ledger = Ledger(tmp_path / "events.db", print, lambda store: None)
    ledger.open()
    count = (
        "import sqlite3, sys; found = sqlite3.connect(sys.argv[1]); "
        "print(found.execute('SELECT count(*) FROM scores').fetchone()[0]); found.close()"
    )

    def add(number: int) -> bool:
        return ledger.write(lambda store: store.add_scores("valve", "00", [(1.8e9 + number, 0.5)]))

    def seen() -> int:
        found = subprocess.run([sys.executable, "-c", count, ledger.path], capture_output=True, text=True, check=True)
        return int(found.stdout)

    def fail(store: EventStore) -> None:
        raise InputError(f"{store.path}: disk I/O error; check the disk")

    assert add(1)
    assert not ledger.write(fail)
    assert were_put_aside(ledger.path) == []
    assert add(2)
    assert seen() == 2
    assert add(3)
    assert seen() == 3
    ledger.close()
