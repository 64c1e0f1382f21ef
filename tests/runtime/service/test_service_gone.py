"""Machines that are taken out of a site, while the service runs or does not, and a keeper that is busy meanwhile."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from edgeasd.runtime.config import read_config
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.service import Service, fleet
from edgeasd.runtime.service import service as service_module
from edgeasd.runtime.storage import EventStore

pytest.importorskip("prometheus_client", reason="NO prometheus_client: pip install 'edgeasd[serve]'")

pytestmark = pytest.mark.core

ALARM = "[streams.{}.alarm]\non = -1.0\nhysteresis = 0.0\nk = 1\nn = 1\n"
OUTPUTS = (
    '[outputs.log]\ntype = "jsonl"\npath = "log.jsonl"\n[outputs.page]\ntype = "prometheus"\naddress = "127.0.0.1:0"\n'
)
Served = Callable[..., AbstractContextManager[tuple[Service, list[str]]]]


def write(site: Any, sound: Path, *streams: str, top: str = "") -> None:
    site.write(*(f'input = "{sound}"\nloop = true\n{more}' for more in streams), top=top)
    site.file.write_text(site.file.read_text("utf-8") + OUTPUTS, "utf-8")


@pytest.fixture
def served(site: Any, sound: Path) -> Served:
    """A service on a site of streams, as often as is wanted, one after the other."""

    @contextmanager
    def serve(*streams: str, top: str = "") -> Iterator[tuple[Service, list[str]]]:
        write(site, sound, *streams, top=top)
        log: list[str] = []
        service = Service(read_config(site.file), log=log.append)
        service.start()
        try:
            site.until(service.loaded.is_set)
            yield service, log
        finally:
            assert service.stop("test")

    return serve


@pytest.fixture
def reload(site: Any, sound: Path) -> Callable[..., None]:
    def again(service: Service, *streams: str, top: str = "") -> None:
        write(site, sound, *streams, top=top)
        service.reload()
        site.until(lambda: not service.reloading)

    return again


def reasons(data: Path, id: str) -> list[tuple[str, str | None]]:
    with EventStore.open(data / "events.db", read_only=True) as store:
        return [(one["reason"], one["by"]) for one in store.transitions("valve", id)]


def told(data: Path, kind: str, id: str) -> list[str]:
    lines = map(json.loads, (data / "log.jsonl").read_text("utf-8").split("\n")[:-1])
    return [one["body"]["reason"] for one in lines if (one["kind"], one["id"]) == (kind, id)]


def on_page(service: Service, figure: str = "") -> set[str]:
    """IDs of the machines that are on the page of metrics, anywhere or with this figure."""
    host, port = service.keeper.teller.outputs.metrics_addresses[0]  # type: ignore[union-attr]
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=10) as answer:
        return set(re.findall(rf'{figure}{{id="(\w+)",machine="valve"', answer.read().decode()))


CLEARED = [("score", None), ("cleared_by_hand", "site.toml")]


def test_the_event_of_a_machine_taken_out_while_no_service_ran_is_cleared_at_the_start(
    served: Served, site: Any
) -> None:
    with served('id = "1"\n', 'id = "2"\n' + ALARM.format("b")) as (service, _):
        event = site.until(lambda: service.state().streams[1].event)
    with served('id = "1"\n') as (service, _):
        evidence = service.fleet.evidence
        assert evidence is not None
        site.until(lambda: len(reasons(site.data, "2")) == 2)
        site.until(lambda: told(site.data, "stop", "2")[1:])
        site.until(lambda: event not in evidence._archive.protected)
        assert told(site.data, "event", "2") == ["score", "cleared_by_hand"]
        assert on_page(service) <= {"1"}
    assert reasons(site.data, "2") == CLEARED
    with served('id = "1"\n'):
        time.sleep(0.7)
    assert reasons(site.data, "2") == CLEARED


def test_no_event_is_cleared_before_it_is_known_which_machine_every_stream_is(
    served: Served, reload: Callable[..., None], site: Any, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "_AGAIN_SECONDS", 0.1)
    away = bundle_copy.with_name("away")
    with served('id = "1"\n', 'id = "2"\n' + ALARM.format("b")) as (service, _):
        site.until(lambda: service.state().streams[1].event)
    shutil.move(bundle_copy, away)
    unread = f'bundle = "{bundle_copy}"\n'
    with served('id = "1"\n', f'{unread}id = "3"\n') as (service, _):
        time.sleep(1.2)
        assert reasons(site.data, "2") == CLEARED[:1]
        # A site file that names machine and ID needs no bundle for that.
        reload(service, 'id = "1"\n', f'{unread}id = "2"\nmachine = "valve"\n')
        time.sleep(0.7)
        assert reasons(site.data, "2") == CLEARED[:1]
        reload(service, 'id = "1"\n', f'{unread}id = "3"\n')
        shutil.move(away, bundle_copy)
        site.until(lambda: reasons(site.data, "2") == CLEARED)


def test_a_stream_that_never_loaded_has_its_old_event_cleared_when_it_is_taken_out(
    served: Served, reload: Callable[..., None], site: Any, bundle_copy: Path
) -> None:
    with served('id = "1"\n', f'bundle = "{bundle_copy}"\nid = "2"\n' + ALARM.format("b")) as (service, _):
        site.until(lambda: service.state().streams[1].event)
    shutil.rmtree(bundle_copy)
    with served('id = "1"\n', f'bundle = "{bundle_copy}"\nid = "2"\n' + ALARM.format("b")) as (service, _):
        assert reasons(site.data, "2") == CLEARED[:1]
        reload(service, 'id = "1"\n')
        site.until(lambda: reasons(site.data, "2") == CLEARED)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "_KEEPER_SECONDS", 0.2)
    monkeypatch.setattr(fleet, "FIRST_PAUSE", 0.2)
    monkeypatch.setattr(service_module, "_AGAIN_SECONDS", 0.2)


def runs(service: Service, *ids: str) -> bool:
    states = service.state().streams
    kept = {one.id for one in service.keeper.kept.values()}
    return [(one.id, one.state) for one in states] == [(id, "running") for id in ids] and kept == set(ids)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("how", ["busy", "slow"])
def test_a_stream_that_a_busy_keeper_did_not_let_go_goes_when_it_can(
    served: Served, reload: Callable[..., None], site: Any, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served('id = "1"\n', 'id = "2"\n') as (service, log):
        site.until(lambda: runs(service, "1", "2"))
        go_on = hold(service, how, monkeypatch)
        monkeypatch.setattr(service_module, "_AGAIN_SECONDS", 3600.0 if how == "slow" else 0.2)
        reload(service, 'id = "1"\n[streams.a.alarm]\nk = 7\n')
        assert "taken in part only" in str(service.state().trouble)
        assert ["taken in part only" in line for line in log if "tried again" in line] == [True]
        assert not any("as before" in line or "reloaded" in line for line in log)
        if how == "slow":  # what it has begun is done before it is asked again
            go_on.set()
            site.until(lambda: "no alarm is raised" in str(service.state().streams[1].reason))
            service._again_at = 0.0
        go_on.set()
        site.until(lambda: runs(service, "1"))
        site.until(lambda: service.state().trouble is None)
        assert service.keeper.kept["a"].machine.settings.k == 7
        assert sum("reloaded" in line for line in log) == 1


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("how", ["busy", "slow"])
def test_streams_that_a_busy_keeper_did_not_exchange_are_exchanged_when_it_can(
    served: Served, reload: Callable[..., None], site: Any, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served('id = "1"\n', 'id = "2"\n') as (service, _):
        site.until(lambda: runs(service, "1", "2"))
        go_on = hold(service, how, monkeypatch)
        reload(service, 'id = "3"\n', 'id = "1"\n')
        assert "starting" not in {one.state for one in service.state().streams}
        assert all("the service is" in str(one.reason) for one in service.state().streams)
        go_on.set()
        site.until(lambda: runs(service, "3", "1"))


def hold(service: Service, how: str, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Have the keeper be busy with something else, or slow with a stream that leaves, until the event is set."""
    go_on, really = threading.Event(), service.keeper.dismiss
    if how == "busy":
        service.keeper.post(lambda: go_on.wait(10.0))
        return go_on

    def slow(name: str, *, stays: bool = False) -> None:
        go_on.wait(10.0)
        really(name, stays=stays)

    monkeypatch.setattr(service.keeper, "dismiss", slow)
    # It must have begun by then, after what is found meanwhile.
    monkeypatch.setattr(fleet, "_KEEPER_SECONDS", 1.0)
    return go_on


def test_a_machine_taken_out_is_said_to_be_stopped_and_leaves_the_page_of_metrics(
    served: Served, reload: Callable[..., None], site: Any
) -> None:
    top = "status_seconds = 1.0"
    streams = 'id = "1"\n' + ALARM.format("a"), 'id = "2"\n' + ALARM.format("b"), 'id = "3"\n'
    with served(*streams, top=top) as (service, _):
        site.until(lambda: on_page(service, "edgeasd_segments_scored_total") == {"1", "2", "3"})
        site.until(lambda: on_page(service, "edgeasd_alarms_total") >= {"1", "2"})
        # 2 goes on as another stream, 1 does not.
        reload(service, 'id = "2"\n' + ALARM.format("a"), 'id = "3"\n', top=top)
        site.until(lambda: told(site.data, "stop", "1"))
        for name in ("segments_scored_total", "alarms_total", "alarm_state", "input_sick"):
            assert on_page(service, f"edgeasd_{name}") <= {"2", "3"}
        site.until(lambda: "2" in on_page(service, "edgeasd_segments_scored_total"))
        assert on_page(service, "edgeasd_alarm_state") >= {"2"}
        assert [told(site.data, "stop", id) for id in "123"] == [["is valve 2"], [], []]


def test_a_stream_that_came_and_went_between_two_status_messages_is_said_to_be_stopped(
    served: Served, reload: Callable[..., None], site: Any
) -> None:
    rare = "status_seconds = 3600.0"
    with served('id = "1"\n', top=rare) as (service, _):
        reload(service, 'id = "1"\n', 'id = "2"\n', top=rare)
        assert on_page(service) == {"1", "2"}
        reload(service, 'id = "1"\n', 'id = "3"\n', top=rare)
        site.until(lambda: on_page(service) == {"1", "3"})
        reload(service, 'id = "1"\n', top=rare)
        site.until(lambda: on_page(service) == {"1"})
        site.until(lambda: told(site.data, "stop", "3"))
        assert told(site.data, "stop", "2") == ["is valve 3"]
        assert told(site.data, "stop", "3") == ["is no longer in the site file"]


def test_a_store_that_cannot_be_read_keeps_events_of_machines_that_have_gone_until_it_can(
    served: Served, site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "_AGAIN_SECONDS", 0.1)
    with served('id = "2"\n' + ALARM.format("a")) as (service, _):
        site.until(lambda: service.state().streams[0].event)
    really, tries = Service._clear_others, []

    def failing(self: Service) -> None:
        tries.append(1)
        keeper, wanted = self.keeper, self.keeper.clear_others
        if len(tries) < 3:
            monkeypatch.setattr(keeper, "clear_others", refuse)
        really(self)
        monkeypatch.setattr(keeper, "clear_others", wanted)

    monkeypatch.setattr(Service, "_clear_others", failing)
    with served('id = "1"\n') as (_, log):
        site.until(lambda: reasons(site.data, "2") == CLEARED)
        site.until(lambda: len([line for line in log if line.startswith("events of machines that have gone")]) == 2)
    assert len(tries) == 3


def refuse(machines: set[tuple[str, str]]) -> None:
    raise InputError("events.db: locked")
