"""The keeper beside a store that is slow, locked or full, and with streams that come, go and change places."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edgeasd.runtime.alarms import AlarmSettings, Command
from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.bundle.manifest import Machine, Manifest
from edgeasd.runtime.config import ServiceConfig, read_config
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.outputs import Outputs
from edgeasd.runtime.service import Service, exchange
from edgeasd.runtime.service import keeper as keeper_module
from edgeasd.runtime.service.finding import Finding, tell_nobody
from edgeasd.runtime.service.keeper import Keeper
from edgeasd.runtime.storage import EventStore
from edgeasd.runtime.storage import event_store as pruning

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
    with EventStore.open(path / "events.db", read_only=True) as store:
        return [one["reason"] for one in store.transitions("valve", id)]


# Old scores and locked stores


def test_findings_are_taken_between_two_parts_of_a_pruning(
    keeper: Keeper, named: Callable[[str], Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    admit(keeper, "a", named("a"))
    with EventStore.open(tmp_path / "events.db") as store:
        store.add_scores("valve", "old", [(float(second), 1.0) for second in range(40)])
    monkeypatch.setattr(pruning, "_BATCH", 1)
    seen: list[int] = []
    prune_some = EventStore.prune_some

    def watched(self: EventStore, *given: Any) -> bool:
        seen.append(keeper.waiting)
        return prune_some(self, *given)

    monkeypatch.setattr(EventStore, "prune_some", watched)
    keeper.call(lambda: setattr(keeper, "_pruned", float("-inf")))
    answered, end = 0, time.monotonic() + 10.0
    while len(seen) < 40:
        assert time.monotonic() < end, "it is not done in parts"
        keeper.call(lambda: None)
        answered += 1
    assert answered >= 30
    with EventStore.open(tmp_path / "events.db", read_only=True) as store:
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


# Streams that come and go while the store cannot be written


def test_what_could_not_be_written_survives_a_reload_of_its_stream(
    keeper: Keeper, named: Callable[[str], Manifest], locked: sqlite3.Connection, tmp_path: Path
) -> None:
    keeper.call(lambda: keeper._ledger.read(lambda store: store._connection.execute("PRAGMA busy_timeout = 50")))
    admit(keeper, "a", named("a"), AlarmSettings(on=1e9))
    locked.execute("BEGIN IMMEDIATE")
    with pytest.raises(InputError, match="locked"):
        keeper.call(lambda: keeper.command("a", Command(command="maintenance_on")))
    keeper.put(score("a"))
    admit(keeper, "a", named("a"), AlarmSettings(on=1e9, cooldown_seconds=5.0))
    locked.execute("ROLLBACK")
    keeper.call(lambda: keeper.command("a", Command(command="maintenance_off")))
    keeper.call(keeper._save_all)
    assert reasons(tmp_path, "a") == ["maintenance_on", "maintenance_off"]
    with EventStore.open(tmp_path / "events.db", read_only=True) as store:
        assert len(store.history("valve", "a", "score")) == 1


@pytest.mark.parametrize("back", ["a", "b", None])
def test_what_could_not_be_written_of_a_stream_that_leaves_is_written_later(
    keeper: Keeper, named: Callable[[str], Manifest], locked: sqlite3.Connection, tmp_path: Path, back: str | None
) -> None:
    """Also where the machine comes back meanwhile, under the same name or another."""
    keeper.call(lambda: keeper._ledger.read(lambda store: store._connection.execute("PRAGMA busy_timeout = 50")))
    admit(keeper, "a", named("a"))
    locked.execute("BEGIN IMMEDIATE")
    keeper.put(score("a"))
    keeper.call(lambda: keeper.dismiss("a"), 30.0)
    if back is not None:
        admit(keeper, back, named("a"), AlarmSettings(on=1e9))
    locked.execute("ROLLBACK")
    end = time.monotonic() + 10.0
    while reasons(tmp_path, "a")[:2] != ["score", "cleared_by_hand"]:
        assert time.monotonic() < end, reasons(tmp_path, "a")
        time.sleep(0.05)
    keeper.call(keeper._save_all)
    with EventStore.open(tmp_path / "events.db", read_only=True) as store:
        assert len(store.history("valve", "a", "score")) == 1
        assert [one["cleared_by"] for one in store.events()] == ["cleared_by_hand"]
        assert store.transitions("valve", "a")[1]["by"] == "site.toml"


def test_an_event_stays_open_where_its_machine_goes_on_as_another_stream(
    keeper: Keeper, named: Callable[[str], Manifest], tmp_path: Path
) -> None:
    admit(keeper, "a", named("a"))
    keeper.put(score("a"))
    keeper.call(lambda: keeper.dismiss("a", stays=True))
    admit(keeper, "b", named("a"))
    assert keeper.kept["b"].machine.state == "alarm"
    assert reasons(tmp_path, "a") == ["score"]


# Jobs that come too late


def test_a_job_that_was_reported_as_not_done_is_never_done(keeper: Keeper) -> None:
    go_on, done = threading.Event(), []
    keeper.post(lambda: go_on.wait(10.0))
    with pytest.raises(InputError, match="busy: nothing was done"):
        keeper.call(lambda: done.append("late"), 0.1)
    go_on.set()
    keeper.call(lambda: done.append("asked again"))
    assert done == ["asked again"]


def test_a_job_that_has_begun_is_waited_for(keeper: Keeper) -> None:
    begun = threading.Event()

    def slow() -> str:
        begun.set()
        time.sleep(1.2)
        return "done"

    assert keeper.call(slow, 1.0) == "done"
    assert begun.is_set()
    go_on = threading.Event()
    with pytest.raises(InputError, match="has begun"):
        keeper.call(lambda: go_on.wait(10.0), 1.0)
    go_on.set()


# Outputs that are exchanged

LOG = '[outputs.log]\ntype = "jsonl"\npath = "log.jsonl"\n'


@pytest.fixture
def exchanging(site: Any, sound: Path) -> Iterator[tuple[Service, ServiceConfig, ServiceConfig]]:
    """A service that only keeps, its site, and that site with its output changed."""
    site.write(f'input = "{sound}"\n{LOG}')
    old = read_config(site.file)
    site.write(f'input = "{sound}"\n{LOG}rotate_megabytes = 5.0\n')
    service = Service(old)
    old.data.mkdir(parents=True, exist_ok=True)
    service.keeper.start()
    service._configure_keeper(old)
    yield service, old, read_config(site.file)
    outputs = service.keeper.teller.outputs
    assert service.keeper.close(20.0)
    if outputs is not None:
        outputs.close()


def test_an_exchange_of_outputs_that_was_too_late_leaves_those_that_there_were(
    exchanging: tuple[Service, ServiceConfig, ServiceConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, old, new = exchanging
    monkeypatch.setattr(exchange, "_KEEPER_SECONDS", 0.1)
    before, go_on = service.keeper.teller.outputs, threading.Event()
    service.keeper.post(lambda: go_on.wait(10.0))
    with pytest.raises(InputError, match="busy"):
        service._exchange.change(old, new)
    go_on.set()
    service.keeper.call(lambda: None)
    assert before is not None
    assert service.keeper.teller.outputs is before
    monkeypatch.undo()
    service._exchange.change(old, new)
    assert service.keeper.teller.outputs not in (None, before)


def test_outputs_given_up_too_late_are_given_back(
    exchanging: tuple[Service, ServiceConfig, ServiceConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, old, new = exchanging
    monkeypatch.setattr(exchange, "_KEEPER_SECONDS", 1.0)
    before, really, go_on = service.keeper.teller.outputs, service.keeper.use_outputs, threading.Event()

    def slow(outputs: Outputs | None) -> None:
        go_on.wait(10.0)
        really(outputs)

    monkeypatch.setattr(service.keeper, "use_outputs", slow)
    with pytest.raises(InputError, match="has begun"):
        service._exchange.change(old, new)
    go_on.set()
    service.keeper.call(lambda: None)
    assert before is not None
    assert service.keeper.teller.outputs is before


def test_what_left_while_no_output_was_open_is_told_when_there_is_one(
    exchanging: tuple[Service, ServiceConfig, ServiceConfig], named: Callable[[str], Manifest]
) -> None:
    service, old, _ = exchanging
    keeper, outputs = service.keeper, service.keeper.teller.outputs
    admit(keeper, "a", named("a"))
    keeper.call(lambda: keeper.use_outputs(None))
    keeper.put(score("a"))
    keeper.call(lambda: keeper.dismiss("a"))
    assert reasons(old.data, "a") == ["score", "cleared_by_hand"]
    keeper.call(lambda: keeper.use_outputs(outputs))
    end = time.monotonic() + 10.0
    while not (old.data / "log.jsonl").exists() or "cleared_by_hand" not in (old.data / "log.jsonl").read_text("utf-8"):
        assert time.monotonic() < end, "never told"
        time.sleep(0.05)


def test_outputs_come_back_after_any_error_and_while_they_cannot_it_is_said(
    exchanging: tuple[Service, ServiceConfig, ServiceConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, old, new = exchanging
    log: list[str] = []
    monkeypatch.setattr(service._exchange, "_log", log.append)
    really, bad = service._exchange._open, [new]

    def failing(site: ServiceConfig) -> Any:
        if site in bad:
            raise UnicodeError("label empty or too long")
        return really(site)

    monkeypatch.setattr(service._exchange, "_open", failing)
    with pytest.raises(UnicodeError):
        service._exchange.change(old, new)
    service.keeper.call(lambda: None)
    assert service.keeper.teller.outputs is not None
    assert service.state().trouble is None
    bad.append(old)
    with pytest.raises(UnicodeError):
        service._exchange.change(old, new)
    assert "no output is open" in str(service.state().trouble)
    bad.remove(old)
    service._exchange.mend(old, time.monotonic())
    service.keeper.call(lambda: None)
    assert service.keeper.teller.outputs is not None
    assert service.state().trouble is None
    assert [line.partition(",")[0] for line in log] == ["no output is open", "the outputs are open again"]


# Sites that are read again


@pytest.fixture
def running(site: Any, sound: Path) -> Iterator[Callable[..., tuple[Service, list[str]]]]:
    """Starts a service on a site of streams."""
    services: list[Service] = []

    def start(*streams: str, top: str = "") -> tuple[Service, list[str]]:
        site.write(*(f'input = "{sound}"\nloop = true\n{more}' for more in streams), top=top)
        log: list[str] = []
        if services:
            services[-1].reload()
            site.until(lambda: not services[-1].reloading)
            return services[-1], log
        services.append(Service(read_config(site.file), log=log.append))
        services[-1].start()
        site.until(services[-1].loaded.is_set)
        site.until(lambda: all(one.complete for one in services[-1].state().streams))
        return services[-1], log

    yield start
    for service in services:
        assert service.stop("test")


def test_two_streams_exchange_their_machines_by_a_reload_and_keep_their_events(running: Any, site: Any) -> None:
    alarm = "[streams.{}.alarm]\non = -1.0\nhysteresis = 0.0\nk = 1\nn = 1\n"
    service, _ = running('id = "1"\n' + alarm.format("a"), 'id = "2"\n' + alarm.format("b"))
    site.until(lambda: all(one.event for one in service.state().streams))
    events = {one.id: one.event for one in service.state().streams}
    running('id = "2"\n' + alarm.format("a"), 'id = "1"\n' + alarm.format("b"))
    states = service.state().streams
    assert [(one.name, one.id, one.state) for one in states] == [("a", "2", "running"), ("b", "1", "running")]
    assert {one.id: one.event for one in states} == events
    assert {name: kept.id for name, kept in service.keeper.kept.items()} == {"a": "2", "b": "1"}


def test_a_stream_taken_out_of_the_site_has_its_alarm_cleared(running: Any, site: Any) -> None:
    alarm = 'id = "2"\n[streams.b.alarm]\non = -1.0\nhysteresis = 0.0\nk = 1\nn = 1\n'
    service, _ = running('id = "1"\n', alarm + LOG)
    site.until(lambda: service.state().streams[1].event)
    running('id = "1"\n' + LOG)
    assert reasons(site.data, "2") == ["score", "cleared_by_hand"]
    site.until(lambda: "cleared_by_hand" in (site.data / "log.jsonl").read_text("utf-8"))


def test_a_stream_that_becomes_another_machine_clears_the_one_it_was(running: Any, site: Any) -> None:
    alarm = "[streams.a.alarm]\non = -1.0\nhysteresis = 0.0\nk = 1\nn = 1\n"
    service, _ = running('id = "1"\n' + alarm)
    site.until(lambda: service.state().streams[0].event)
    running('id = "3"\n' + alarm)
    assert reasons(site.data, "1") == ["score", "cleared_by_hand"]
    assert service.state().streams[0].id == "3"
    site.until(lambda: service.state().streams[0].event)


def test_other_score_seconds_are_taken_by_a_reload(running: Any) -> None:
    service, _ = running('id = "1"\n', top="score_seconds = 7.0")
    assert service.keeper.kept["a"]._summary._every == 7.0
    running('id = "1"\n', top="score_seconds = 3.0")
    assert service.keeper.kept["a"]._summary._every == 3.0


def test_nothing_that_the_old_model_found_is_judged_by_the_new_threshold(
    running: Any, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, _ = running('id = "1"\n')
    scored_while_admitting: list[bool] = []
    really = service.keeper.admit

    def watched(name: str, *given: Any) -> None:
        berth = service.fleet.berths[name]
        streams = [one for engine in service.fleet._engines.values() for one in engine.streams]
        scored_while_admitting.append(berth.served in streams)
        really(name, *given)

    monkeypatch.setattr(service.keeper, "admit", watched)
    running(f'id = "1"\nbundle = "{bundle_copy}"\n[streams.a.alarm]\non = 1e9\n')
    running('id = "2"\n')
    assert scored_while_admitting == [False, False]
    assert service.state().streams[0].state == "running"


def test_a_stream_whose_new_settings_are_refused_goes_on_with_its_old_model(
    running: Any, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, _ = running('id = "1"\n')
    really = service.keeper.admit

    def refused(name: str, *given: Any) -> None:
        raise InputError("the thresholds are not in order")

    monkeypatch.setattr(service.keeper, "admit", refused)
    running(f'id = "1"\nbundle = "{bundle_copy}"\n[streams.a.alarm]\non = 1e9\n')
    segments = service.state().streams[0].segments
    end = time.monotonic() + 10.0
    while service.state().streams[0].segments < segments + 20:
        assert time.monotonic() < end, "it is scored no more"
        time.sleep(0.05)
    assert service.state().streams[0].state == "degraded"
    monkeypatch.setattr(service.keeper, "admit", really)
