"""What alarm machines remember over a stop, a kill and a boot of the box: snoozes, rows of scores, peaks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeasd.runtime.alarms import AlarmSettings, Command
from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.bundle.manifest import Machine, Manifest
from edgeasd.runtime.service import boot
from edgeasd.runtime.service import keeper as keeper_module
from edgeasd.runtime.service.finding import Finding, tell_nobody
from edgeasd.runtime.service.keeper import Keeper
from edgeasd.runtime.storage import EventStore

pytestmark = pytest.mark.core

ONCE = AlarmSettings(on=1.0, hysteresis=0.0, k=1, n=1)
TWICE = AlarmSettings(on=1.0, hysteresis=0.0, k=2, n=3)


class Box:
    """A box that is switched off and on, and whose service is stopped and killed; its clock is set by hand."""

    def __init__(self, data: Path, manifest: Manifest) -> None:
        self.data, self.manifest = data, manifest
        self.clock, self.boots = 1000.0, 0
        self.keeper: Keeper | None = None

    def read_clock(self) -> float:
        return self.clock + time.perf_counter() % 1e-3

    def boot(self, clock: float) -> None:
        """The clock begins again at some reading."""
        self.clock, self.boots = clock, self.boots + 1
        (self.data / "source").write_text(f"boot {self.boots}", "utf-8")

    def start(self, id: str = "a", settings: AlarmSettings = ONCE) -> Keeper:
        self.keeper = Keeper(self.data, tell_nobody, never, nobody, nobody, nobody)
        self.keeper.start()
        self.admit("stream", id, settings)
        return self.keeper

    def admit(self, name: str, id: str = "a", settings: AlarmSettings = ONCE) -> None:
        keeper = self.keeper
        assert keeper is not None
        manifest = self.manifest.model_copy(update={"machine": Machine(type="valve", id=id)})
        keeper.call(lambda: keeper.admit(name, manifest, settings), 30.0)

    def passes(self, seconds: float) -> None:
        """Time of which the machines are told."""
        assert self.keeper is not None
        # More than the clock trembles: a tick is due after a whole second.
        self.clock += seconds + 0.01
        end = time.perf_counter() + 10.0
        while self.keeper._ticked < self.clock:
            assert time.perf_counter() < end, "no tick"
            time.sleep(0.01)
        self.keeper.call(lambda: None)

    def hears(self, *scores: float, name: str = "stream") -> None:
        keeper = self.keeper
        assert keeper is not None
        for score in scores:
            self.clock += 1.0
            keeper.put(Finding(name, self.read_clock(), score, complete=True))
        keeper.call(lambda: None)

    def stop(self) -> None:
        if self.keeper is not None:
            assert self.keeper.close(20.0)
            assert self.keeper.defect is None
            self.keeper = None

    def kill(self) -> None:
        """Nothing is written at the end."""
        assert self.keeper is not None
        self.keeper._save_all = self.keeper._save_states = lambda *given, **more: None  # type: ignore[method-assign]
        self.stop()

    def reasons(self) -> list[str]:
        with EventStore.open(self.data / "events.db", read_only=True) as store:
            return [one["reason"] for one in store.transitions("valve", "a")]


def never(name: str) -> bool:
    del name
    return False


def nobody(*given: Any) -> None:
    del given


@pytest.fixture
def box(tmp_path: Path, small_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    with Bundle(small_bundle) as bundle:
        made = Box(tmp_path, bundle.manifest)
    source, really = tmp_path / "source", boot.booted_anew
    monkeypatch.setattr(keeper_module, "booted_anew", lambda data, remember: really(data, source, remember=remember))
    monkeypatch.setattr(time, "monotonic", made.read_clock)
    made.boot(1000.0)
    yield made
    made.stop()


def snooze(keeper: Keeper, name: str = "stream", seconds: float = 86_400.0) -> None:
    keeper.call(lambda: keeper.command(name, Command(command="snooze", seconds=seconds)))


@pytest.mark.parametrize("ends", ["stop", "kill"])
def test_a_snooze_ends_on_a_box_that_is_switched_off_each_night(box: Box, ends: str) -> None:
    snooze(box.start())
    for _ in range(2):
        # Told twice: what is written is what was known before the clock went on, and then after it.
        box.passes(36_000.0)
        box.passes(100.0)
        getattr(box, ends)()
        box.boot(50.0)
        box.start()
    assert box.reasons() == ["snoozed"]
    box.passes(14_500.0)
    assert box.reasons() == ["snoozed", "snooze_over"]


def test_the_time_between_two_boots_is_left_out_once(box: Box) -> None:
    """Not again where a stream comes back under another name, and not where the service is killed before a minute."""
    snooze(box.start(), seconds=3600.0)
    box.stop()
    box.boot(500_000.0)
    box.start()
    box.kill()
    box.clock += 1000.0
    box.start()
    box.passes(1.0)
    box.stop()
    box.boot(100.0)
    keeper = box.start()
    box.passes(1300.0)
    keeper.call(lambda: keeper.dismiss("stream", stays=True))
    box.clock += 700.0
    box.admit("other")
    assert box.reasons() == ["snoozed"]
    box.passes(700.0)
    assert box.reasons() == ["snoozed", "snooze_over"]


def test_a_stream_that_takes_another_name_loses_none_of_the_time(box: Box) -> None:
    keeper = box.start()
    snooze(keeper, seconds=3600.0)
    box.passes(1800.0)
    keeper.call(lambda: keeper.dismiss("stream", stays=True))
    box.clock += 1000.0
    box.admit("other")
    snapshot = keeper.kept["other"].machine.snapshot()
    assert snapshot["snoozed_until"] - box.clock == pytest.approx(800.0, abs=5.0)


@pytest.mark.parametrize("away", ["stop", "kill", "rename"])
def test_the_row_of_scores_begins_afresh_where_it_was_not_heard(box: Box, away: str) -> None:
    keeper = box.start(settings=TWICE)
    box.hears(0.0, 2.0)
    if away == "rename":
        keeper.call(lambda: keeper.dismiss("stream", stays=True))
        box.admit("other", settings=TWICE)
    else:
        getattr(box, away)()
        box.start(settings=TWICE)
    name = "other" if away == "rename" else "stream"
    box.hears(2.0, name=name)
    assert box.reasons() == []
    box.hears(2.0, name=name)
    assert box.reasons() == ["score"]


def test_an_old_row_of_a_warning_raises_no_alarm_after_a_restart(box: Box) -> None:
    settings = AlarmSettings(on=1.0, warning=0.5, k=2, n=3)
    box.start(settings=settings)
    box.hears(0.7, 2.0)
    assert box.reasons() == ["score"]
    box.hears(*[0.6] * 20)
    box.kill()
    box.start(settings=settings)
    box.hears(2.0)
    assert box.reasons() == ["score"]


def test_the_peak_of_an_event_is_that_of_all_it_has_heard(box: Box) -> None:
    box.start()
    box.hears(2.0, 9.0, 3.0)
    box.stop()
    keeper = box.start()
    keeper.call(lambda: keeper.command("stream", Command(command="acknowledge")))
    with EventStore.open(box.data / "events.db", read_only=True) as store:
        assert [one["peak"] for one in store.events()] == [9.0]
