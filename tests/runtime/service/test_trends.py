"""A change of the normal is told once, over restarts too, and a bundle that scores otherwise begins afresh."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeasd.runtime.service.trends import TrendMonitor, TrendNews
from edgeasd.runtime.storage import EventStore

DAY, HOUR = 86_400.0, 3600.0
KEY = ("valve", "id_00")
BEGIN = 20_000 * DAY


class Manifest:
    """What a fingerprint is made of."""

    def __init__(self, head: str) -> None:
        self.head = head


@pytest.fixture(autouse=True)
def _fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeasd.runtime.service.trends.scoring_fingerprint", lambda manifest: manifest.head)


def fill(store: EventStore, first: int, last: int, level: float = -30.0) -> None:
    """Hours of normal sound of days `first` to before `last`, as the recorder would have stored them."""
    random = np.random.default_rng(first)
    with store.database.transaction() as connection:
        store._store_state(connection, {"machine": KEY[0], "id": KEY[1]})
        key = connection.execute("SELECT key FROM machines").fetchone()[0]
        for hour in range(24 * first, 24 * last):
            mean, heard = 0.3 + random.normal(0, 0.03), level + random.normal(0, 0.3)
            row = (key, round(1000 * (BEGIN + HOUR * hour)), "", 3600.0, 300, 300 * mean, 300 * (mean**2 + 0.01))
            connection.execute("INSERT INTO normal_hours VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, 300, 300 * heard))


def look(monitor: TrendMonitor, day: float) -> list[TrendNews]:
    """What is new at the beginning of an hour."""
    news: list[TrendNews] = []
    while (looked := monitor.look(BEGIN + DAY * day)) is not None:
        assert looked[0] == KEY
        news += looked[1]
    return news


def started(store: EventStore, day: float, head: str = "a") -> TrendMonitor:
    monitor = TrendMonitor(store)
    monitor.add(*KEY, Manifest(head), 0.6, BEGIN + DAY * day)  # type: ignore[arg-type]
    return monitor


def test_change_is_told_once_and_its_end_too(tmp_path: Path) -> None:
    with EventStore.open(tmp_path / "events.db") as store:
        monitor = started(store, 0)
        fill(store, 0, 20)
        assert look(monitor, 20) == []
        assert monitor.texts(*KEY) == ()
        fill(store, 20, 23, level=-24.0)
        (one,) = look(monitor, 23)
        assert one.is_new
        assert one.change.quantity == "level"
        assert abs(one.change.began - BEGIN - 20 * DAY) <= DAY
        assert monitor.look(BEGIN + 23 * DAY + 5) is None
        (text,) = monitor.texts(*KEY)
        assert "the level rose from -30" in text
        fill(store, 23, 30, level=-24.0)
        assert look(monitor, 30) == []
        fill(store, 30, 34)
        (end,) = look(monitor, 34)
        assert not end.is_new
        assert end.change.ended is not None
        assert monitor.texts(*KEY) == ()
        assert len(store.changes(*KEY)) == 1


def test_restart_tells_nothing_again_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with EventStore.open(path) as store:
        fill(store, 0, 20)
        monitor = started(store, 0)
        fill(store, 20, 23, level=-24.0)
        assert len(look(monitor, 23)) == 1
    for day in (23.5, 160.0):
        with EventStore.open(path) as store:
            if day > 100:
                fill(store, 23, 160, level=-24.0)
            monitor = started(store, day)
            assert len(monitor.texts(*KEY)) == 1
            assert look(monitor, day + 1) == []
            assert len(monitor.texts(*KEY)) == 1
            assert len(store.changes(*KEY)) == 1


def test_another_bundle_begins_afresh(tmp_path: Path) -> None:
    with EventStore.open(tmp_path / "events.db") as store:
        monitor = started(store, 0)
        fill(store, 0, 20)
        fill(store, 20, 23, level=-24.0)
        assert len(look(monitor, 23)) == 1
        fitted = started(store, 23, head="b")
        assert fitted.texts(*KEY) == ()
        fill(store, 23, 60, level=-24.0)
        assert look(fitted, 60) == []
        # The same bundle again is the same history.
        assert started(store, 60, head="b").texts(*KEY) == ()


def test_one_machine_a_call_and_none_twice_an_hour(tmp_path: Path) -> None:
    with EventStore.open(tmp_path / "events.db") as store:
        monitor = started(store, 0)
        monitor.add("fan", "id_02", Manifest("c"), None, BEGIN)  # type: ignore[arg-type]
        now = BEGIN + 5 * HOUR
        assert {(monitor.look(now) or [None])[0] for _ in range(2)} == {KEY, ("fan", "id_02")}
        assert monitor.look(now + 3500.0) is None
        assert monitor.look(now + 3600.0) is not None
        monitor.remove("fan", "id_02")
        assert monitor.texts("fan", "id_02") == ()
