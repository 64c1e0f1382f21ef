"""The keeper beside a store that is slow, locked or full, and with streams that come, go and change places."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edgeasd.runtime.alarms import AlarmSettings
from edgeasd.runtime.bundle import Bundle
from edgeasd.runtime.events import EventStore, pruning
from edgeasd.runtime.manifest import Machine, Manifest
from edgeasd.runtime.service import keeper as keeper_module
from edgeasd.runtime.service.finding import Finding, tell_nobody
from edgeasd.runtime.service.keeper import Keeper

pytestmark = pytest.mark.core

ALWAYS = AlarmSettings(on=-1.0, hysteresis=0.0, k=1, n=1)


@pytest.fixture
def named(small_bundle: Path) -> Callable[[str], Manifest]:
    """The manifest of the small bundle for valve ID."""
    with Bundle(small_bundle) as bundle:
        manifest = bundle.manifest
    return lambda id: manifest.model_copy(update={"machine": Machine(type="valve", id=id)})


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Keeper]:
    made = Keeper(tmp_path, tell_nobody, lambda name: False, lambda name: None, lambda *said: None, lambda line: None)
    made.start()
    yield made
    assert made.close(20.0)
    assert made.defect is None


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """The database of the keeper, in which BEGIN IMMEDIATE keeps everybody else from writing."""
    with closing(sqlite3.connect(tmp_path / "events.db", isolation_level=None)) as other:
        yield other
        if other.in_transaction:
            other.execute("ROLLBACK")


def admit(keeper: Keeper, name: str, manifest: Manifest, settings: AlarmSettings = ALWAYS) -> None:
    keeper.call(lambda: keeper.admit(name, manifest, settings), 30.0)


def score(name: str, value: float = 0.0) -> Finding:
    return Finding(name, time.monotonic(), value, complete=True)


def reasons(path: Path, id: str) -> list[str]:
    with EventStore(path / "events.db", read_only=True) as store:
        return [one["reason"] for one in store.transitions("valve", id)]


# Old scores and locked stores


def test_findings_are_taken_between_two_parts_of_a_pruning(
    keeper: Keeper, named: Callable[[str], Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    admit(keeper, "a", named("a"))
    with EventStore(tmp_path / "events.db") as store:
        store.add_scores("valve", "old", [(float(second), 1.0) for second in range(40)])
    monkeypatch.setattr(pruning, "_BATCH", 1)
    seen: list[int] = []
    prune_some = EventStore.prune_some

    def watched(self: EventStore, *given: Any) -> bool:
        seen.append(keeper.waiting)
        return prune_some(self, *given)

    monkeypatch.setattr(EventStore, "prune_some", watched)
    keeper.call(lambda: setattr(keeper, "_pruned", float("-inf")))
    answered = 0
    while len(seen) < 40:
        keeper.call(lambda: None)
        answered += 1
    assert answered >= 30
    with EventStore(tmp_path / "events.db", read_only=True) as store:
        assert len(store.history("valve", "old", "score")) <= 2


def test_a_locked_store_is_waited_for_once_and_not_by_every_stream(
    keeper: Keeper, named: Callable[[str], Manifest], locked: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "_SLOW_SECONDS", 0.2)
    keeper.call(lambda: keeper._ledger.read(lambda store: store._connection.execute("PRAGMA busy_timeout = 500")))
    for name in "abcdefgh":
        admit(keeper, name, named(name), AlarmSettings(on=1e9))
    locked.execute("BEGIN IMMEDIATE")
    for name in "abcdefgh":
        keeper.put(score(name))
    keeper.call(lambda: None)
    began = time.monotonic()
    keeper.call(keeper._save_scores, 30.0)
    assert time.monotonic() - began < 1.5
    assert "locked" in str(keeper.trouble)
    assert [len(kept.scores) for kept in keeper.kept.values()] == [1] * 8
    locked.execute("ROLLBACK")
    keeper.call(keeper._save_all, 30.0)
    assert [len(kept.scores) for kept in keeper.kept.values()] == [0] * 8
    assert keeper.trouble is None
