"""The file of a data folder: opened, migrated, quarantined when corrupt; disks that refuse for a while."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.runtime.alarms import AlarmMachine, AlarmSettings, Command, Transition
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.scoring.threshold import Threshold
from edgeasd.runtime.storage import Database, DatabaseCorrupt, DatabaseUnavailable, EventStore, Outbox
from edgeasd.runtime.storage.database import (
    APPLICATION_ID,
    MIGRATIONS,
    VERSION,
    is_corrupt,
    quarantine,
    quarantined_files,
)

pytestmark = pytest.mark.core

WALL = 1.8e9
THRESHOLD = Threshold(clip=1.0, consecutive=1, found_by="t", clips=1)


def fill(path: Path) -> None:
    """Transitions, scores and messages; continues where the file stands."""
    machine = AlarmMachine("valve", "00", AlarmSettings(), THRESHOLD)
    with Database(path) as database:
        store, outbox = EventStore(database), Outbox(database)
        outbox.register({"log": ("event",)})
        if (snapshot := store.snapshot("valve", "00")) is not None:
            machine.restore(snapshot)
        for number in range(15):
            with outbox.transaction():
                store.append(machine.command(Command(command="test"), float(number), WALL + number), machine.snapshot())
                outbox.append("event", "valve", "00", json.dumps({"number": number}))
            store.add_scores("valve", "00", [(WALL + number, 1.0)])
        outbox.close()


def execute(path: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    return path


def ours(path: Path, *statements: str) -> Path:
    Database(path).close()
    return execute(path, *statements)


REFUSED: dict[str, Callable[[Path], object]] = {
    "foreign": lambda p: execute(p, "CREATE TABLE mail (body TEXT)"),
    "empty, of another program": lambda p: execute(p, "PRAGMA application_id = 7"),
    "newer": lambda p: ours(p, f"PRAGMA user_version = {VERSION + 1}"),
    "folder": lambda p: p.mkdir(),
}
CORRUPT: dict[str, Callable[[Path], object]] = {
    "text": lambda p: p.write_text("not a database at all, but long enough to be looked at " * 40),
    "negative version": lambda p: ours(p, "PRAGMA user_version = -3"),
    "a table missing": lambda p: ours(p, "DROP TABLE states"),
    "a trigger": lambda p: ours(p, "CREATE TRIGGER t AFTER INSERT ON events BEGIN DELETE FROM outbox; END"),
    "a view": lambda p: ours(p, "DROP TABLE scores", "CREATE VIEW scores AS SELECT 1 AS machine, 2 AS at, 3 AS score"),
}


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_foreign_file_is_refused_and_left_alone(tmp_path: Path, kind: str, read_only: bool) -> None:
    path = tmp_path / "events.db"
    REFUSED[kind](path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(InputError, match=r"events\.db: ") as caught:
        Database(path, read_only=read_only)
    assert str(caught.value).isprintable()
    assert (path.read_bytes() if path.is_file() else b"") == before
    assert not quarantined_files(path)


@pytest.mark.parametrize("kind", sorted(CORRUPT))
def test_corrupt_file_is_quarantined_when_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "events.db"
    CORRUPT[kind](path)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"events\.db: ") as caught:
        Database(path, read_only=True)
    assert caught.value.exit_code == 2
    assert not quarantined_files(path)
    with Database(path) as database:
        assert database.lost_history
        line = str(database.quarantined)
    (kept,) = quarantined_files(path)
    assert kept.name.startswith("events.db.corrupt-")
    assert kept.name in line
    assert line.isprintable()
    assert kept.read_bytes() == before
    with Database(path) as database:
        assert database.quarantined is None


def test_quarantine_overwrites_nothing(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    for number in range(3):
        for suffix in ("", "-wal", "-shm"):
            Path(f"{path}{suffix}").write_text(f"{number}{suffix}")
        quarantine(path)
    kept = quarantined_files(path)
    assert sorted(one.read_text() for one in kept) == ["0", "1", "2"]
    for one in kept:
        assert Path(f"{one}-wal").read_text() == f"{one.read_text()}-wal"
    assert not path.exists()


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a kill leaves it, with a write-ahead log."""
    path = tmp_path_factory.mktemp("whole") / "events.db"
    fill(path)
    with closing(sqlite3.connect(path)) as reader:
        reader.execute("SELECT * FROM sqlite_master").fetchall()
        fill(path)
        copy = path.parent / "killed"
        copy.mkdir()
        for one in path.parent.glob("events.db*"):
            shutil.copy(one, copy / one.name)
    assert (copy / "events.db-wal").stat().st_size > 0
    return copy


DAMAGE = st.lists(
    st.tuples(st.sampled_from(["", "-wal", "-shm"]), st.floats(0, 1), st.binary(min_size=1, max_size=60)), max_size=4
)
CUT = st.tuples(st.sampled_from(["", "-wal"]), st.one_of(st.none(), st.floats(0, 1)))


@settings(max_examples=80, deadline=None)
@given(DAMAGE, CUT)
def test_database_opens_whatever_became_of_its_file(
    killed: Path, tmp_path_factory: Any, damage: list[tuple[str, float, bytes]], cut: tuple[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    shutil.copytree(killed, folder, dirs_exist_ok=True)
    path = folder / "events.db"
    for suffix, place, what in damage:
        file = Path(f"{path}{suffix}")
        content = bytearray(file.read_bytes())
        start = int(place * max(0, len(content) - len(what)))
        content[start : start + len(what)] = what
        file.write_bytes(content)
    if cut[1] is not None:
        file = Path(f"{path}{cut[0]}")
        file.write_bytes(file.read_bytes()[: int(cut[1] * file.stat().st_size)])
    size = path.stat().st_size
    try:
        database = Database(path)
    except InputError as error:
        # By its own words of another program or of a newer version: that cannot be told from damage.
        if "of another program" in str(error) or "use a newer edgeasd" in str(error):
            return
        raise
    kept = quarantined_files(path)
    assert len(kept) == (database.quarantined is not None)
    if kept:
        assert kept[0].stat().st_size >= size > 0
    machine = AlarmMachine("fan", "01", AlarmSettings(), None)
    transitions = machine.command(Command(command="test"), 0.0, WALL)
    try:
        use(database, transitions, machine.snapshot())
    except DatabaseCorrupt as error:  # some damage shows only when the file is used
        database.close()
        end = (database.corrupt is error, error.exit_code, str(error).isprintable())
        database = Database(path)
        assert len(quarantined_files(path)) == 1 + len(kept)
        use(database, transitions, machine.snapshot())
    else:
        end = (True, 3, True)
    database.close()
    assert end == (True, 3, True)


def use(database: Database, transitions: list[Transition], snapshot: dict[str, Any]) -> None:
    store, outbox = EventStore(database), Outbox(database)
    outbox.register({"log": ("event",)})
    assert store.append(transitions, snapshot) == 2
    assert store.snapshot("fan", "01") == snapshot
    seq = outbox.append("event", "fan", "01", "{}")
    while (messages := outbox.read("log", 100))[-1].seq != seq:
        outbox.advance("log", messages[-1].seq)
    outbox.prune(WALL)


def test_file_that_the_disk_cannot_read_is_quarantined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "events.db"
    fill(path)
    refusals = [True] * 3  # the second attempt is without the ballast
    connect = sqlite3.connect

    def refused(*arguments: Any, **options: Any) -> Any:
        if refusals:
            refusals.pop()
            raise sqlite3.OperationalError("disk I/O error")
        return connect(*arguments, **options)

    monkeypatch.setattr(sqlite3, "connect", refused)
    with pytest.raises(DatabaseUnavailable, match="disk I/O error"):
        Database(path)
    read = os.read

    def failing(descriptor: int, count: int) -> bytes:
        if os.readlink(f"/proc/self/fd/{descriptor}") == str(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(descriptor, count)

    monkeypatch.setattr(os, "read", failing)
    with Database(path) as database:
        assert "disk I/O error" in str(database.quarantined)
    assert len(quarantined_files(path)) == 1


@pytest.mark.parametrize(
    ("error", "corrupt"),
    [
        (sqlite3.DatabaseError("database disk image is malformed"), True),
        (sqlite3.OperationalError("Could not decode to UTF-8 column 'text'"), True),
        (sqlite3.OperationalError("database or disk is full"), False),
        (sqlite3.OperationalError("disk I/O error"), False),
        (sqlite3.OperationalError("unable to open database file"), False),
        (sqlite3.OperationalError("attempt to write a readonly database"), False),
        (sqlite3.OperationalError("database is locked"), False),
        (sqlite3.OperationalError("locking protocol"), False),
        (sqlite3.ProgrammingError("Cannot operate on a closed database."), False),
    ],
)
def test_full_or_busy_disk_is_not_corruption(error: sqlite3.Error, corrupt: bool) -> None:
    assert is_corrupt(error) == corrupt


def test_place_that_cannot_hold_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a folder that exists"):
        Database(tmp_path / "nowhere" / "e.db")
    with pytest.raises(InputError, match="no such file"):
        Database(tmp_path / "e.db", read_only=True)
    (tmp_path / "e.db").write_bytes(b"")
    with pytest.raises(InputError, match="holds nothing yet"):
        Database(tmp_path / "e.db", read_only=True)
    odd = tmp_path / "50%? #1&mode=ro.db"
    Database(odd).close()
    assert odd.is_file()


EVENT = "01KEZZCJ5C00000000000000ZZ"


@pytest.fixture
def of_version_1(tmp_path: Path) -> Path:
    """A file as edgeasd 0.1 wrote it."""
    path = tmp_path / "events.db"
    snapshot = {**AlarmMachine("valve", "00", AlarmSettings(), THRESHOLD).snapshot(), "sequence": 1}
    message = {"schema": 1, "type": "alarm_state", "sequence": 1, "reason": "input_sick", "frozen": True}
    execute(
        path,
        *MIGRATIONS[0],
        "INSERT INTO machines VALUES (1, 'valve', '00')",
        f"INSERT INTO transitions VALUES (1, 1, NULL, 1800000000000, '{json.dumps(message)}')",
        f"INSERT INTO states VALUES (1, '{json.dumps(snapshot)}')",
        "INSERT INTO scores VALUES (1, 1800000000000, 0.5)",
        f"INSERT INTO events VALUES ('{EVENT}', 1, 1800000000000, NULL, 1800000060000, 'score', 2.0, 1.0, 0, 1, 1)",
        f"PRAGMA application_id = {APPLICATION_ID}",
        "PRAGMA user_version = 1",
    )
    return path


def test_file_of_version_1_is_migrated(of_version_1: Path) -> None:
    assert VERSION == len(MIGRATIONS) == 5, "a new migration needs a test that migrates an older file"
    expected = [{"sequence": 1, "reason": "input_unhealthy", "suspended": True}]
    with EventStore.open(of_version_1, read_only=True) as store:
        assert store.transitions("valve", "00") == expected
    for _ in range(2):
        with EventStore.open(of_version_1) as store:
            assert store.transitions("valve", "00") == expected
            assert store.history("valve", "00", "score") == [{"at": WALL, "score": 0.5}]
            assert store.state_hours("valve", "00") == {}
            assert store.levels("valve", "00", "hour") == []
            assert store.changes("valve", "00") == []
            assert [(one["event"], one["lasted_seconds"]) for one in store.events()] == [(EVENT, None)]
            snapshot = store.snapshot("valve", "00")
            assert snapshot is not None
            assert snapshot["sequence"] == 1
            assert store.rebooted_since("valve", "00")
            assert not quarantined_files(of_version_1)


def test_snapshot_knows_the_boot_it_was_taken_under(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = AlarmMachine("valve", "00", AlarmSettings(), THRESHOLD)
    with EventStore.open(tmp_path / "events.db") as store:
        assert not store.rebooted_since("valve", "00")
        store.store_states([machine.snapshot()])
        assert not store.rebooted_since("valve", "00")
        monkeypatch.setattr("edgeasd.runtime.storage.event_store.boot_id", lambda: "another")
        assert store.rebooted_since("valve", "00")
        store.store_states([machine.snapshot()])
        assert not store.rebooted_since("valve", "00")


def test_nonsense_in_a_row_is_quarantined_at_the_next_opening(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    fill(path)
    for text in ("{", "[]", json.dumps("x")):
        fill(path)
        execute(path, f"UPDATE states SET snapshot = '{text}'", f"UPDATE transitions SET message = '{text}'")
        with EventStore.open(path) as store:
            for ask in (store.snapshot, store.transitions):
                with pytest.raises(DatabaseCorrupt, match=r"events\.db: corrupt"):
                    ask("valve", "00")
        with Database(path) as database:
            assert "found corrupt while it was in use" in str(database.quarantined)
    assert len(quarantined_files(path)) == 3


# A disk that refuses


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    Database(tmp_path / "events.db").close()
    with closing(sqlite3.connect(tmp_path / "events.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield other


def test_slow_refusal_is_not_tried_again_at_once(
    tmp_path: Path, locked: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeasd.runtime.storage.database.BUSY_SECONDS", 0.05)
    now = [0.0]

    def clock() -> float:
        now[0] += 1.1  # every look takes long
        return now[0]

    with Database(tmp_path / "events.db", clock=clock) as database:
        store = EventStore(database)
        with pytest.raises(DatabaseUnavailable, match="locked"):
            store.add_scores("valve", "00", [(WALL, 1.0)])
        assert "locked" in str(database.problem)
        locked.execute("ROLLBACK")
        with pytest.raises(DatabaseUnavailable, match="locked"):
            store.add_scores("valve", "00", [(WALL, 1.0)])
        assert store.events() == [], "reading goes on"
        now[0] += 5.0
        assert store.add_scores("valve", "00", [(WALL, 1.0)]) == 1
        assert database.problem is None


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"NO RIGHT to mount a small disk ({done.stderr.strip()}); run as root to test full disks")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_database_opens_on_a_full_disk(full_disk: Path) -> None:
    path = full_disk / "events.db"
    fill(path)
    with open(full_disk / "others", "ab", buffering=0) as others:
        for size in (1 << 20, 1 << 12):
            with suppress(OSError):
                while others.write(b"x" * size) == size:
                    pass
    assert os.statvfs(full_disk).f_bavail == 0
    with Database(path) as database:
        outbox = Outbox(database)
        outbox.register({"log": ("event",)})
        given = [outbox.append("event", "valve", "00", json.dumps({"text": "x" * 1000})) for _ in range(2000)]
        assert outbox.unstored > 0
        assert "full" in str(database.problem)
        assert [one.seq for one in outbox.read("log", 10_000)][-2000:] == given
        (full_disk / "others").unlink()
        database._retry_at = 0.0
        outbox.flush()
        assert outbox.unstored == 0
        outbox.close()
    fill(path)
    with Database(path) as database:
        assert database.read("SELECT count(*) FROM outbox") == [(2030,)]


def test_nested_transactions_are_one(tmp_path: Path) -> None:
    machine = AlarmMachine("valve", "00", AlarmSettings(), THRESHOLD)
    transitions = machine.command(Command(command="test"), 0.0, WALL)
    with Database(tmp_path / "events.db") as database:
        store = EventStore(database)
        with pytest.raises(ValueError, match="end"), database.transaction():
            store.append(transitions)
            assert store.events() == [], "others see it when it is committed"
            raise ValueError("end")
        assert store.events() == []
        with database.transaction():
            store.append(transitions)
        assert len(store.events()) == 1


def test_without_a_path_everything_is_in_memory() -> None:
    machine = AlarmMachine("valve", "00", AlarmSettings(), THRESHOLD)
    with Database(None) as database:
        store = EventStore(database)
        store.append(machine.command(Command(command="test"), 0.0, WALL), machine.snapshot())
        assert len(store.events()) == 1
        assert store.snapshot("valve", "00") == machine.snapshot()
        assert not database.lost_history
