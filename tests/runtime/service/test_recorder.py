"""The event recorder: what is stored, what leaves and in which order, through restarts, boots and refusing disks."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeasd.runtime.alarms import AlarmSettings, Command, Transition
from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.bundle.manifest import Machine, Manifest
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.health import HealthMonitor, HealthSettings
from edgeasd.runtime.service.monitored import MonitoredMachine
from edgeasd.runtime.service.recorder import EventRecorder
from edgeasd.runtime.service.updates import StreamUpdate
from edgeasd.runtime.storage import Database, DatabaseCorrupt, EventStore, Outbox, Retention
from edgeasd.runtime.storage import event_store as event_store_module
from edgeasd.runtime.storage.database import quarantined_files

pytestmark = pytest.mark.core

ONCE = AlarmSettings(on=1.0, hysteresis=0.0, k=1, n=1, recovery_seconds=0.0)
TWICE = AlarmSettings(on=1.0, hysteresis=0.0, k=2, n=3, recovery_seconds=0.0)
TEST, ACKNOWLEDGE = Command(command="test"), Command(command="acknowledge")
KINDS = ("event", "score", "health", "status", "start", "stop")
WALL = 1.8e9


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    with Bundle(Path(__file__).parents[2] / "data" / "valve-id_00") as bundle:
        return bundle.manifest


class Shown:
    """In place of the outputs: what pages and brokers are shown."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.states: list[tuple[str, str, dict[str, Any]]] = []

    def observe(self, message: dict[str, Any]) -> None:
        self.messages.append(message)

    def set_retained_state(self, machine: str, id: str, body: dict[str, Any]) -> None:
        self.states.append((machine, id, body))


class Device:
    """A device with one output, that is started, stopped, killed and booted; tests turn its clock."""

    def __init__(self, data: Path, manifest: Manifest, boot: Callable[[str], None]) -> None:
        self.path, self._manifest, self._boot = data / "events.db", manifest, boot
        self.clock, self.boots = 1000.0, 0
        self.updates: list[tuple[float | None, str, list[int]]] = []
        self.recorder: EventRecorder | None = None

    def boot(self, clock: float) -> None:
        """The monotonic clock begins again at some reading."""
        self.clock, self.boots = clock, self.boots + 1
        self._boot(f"boot {self.boots}")

    def start(self, *ids: str, settings: AlarmSettings = ONCE) -> EventRecorder:
        """With a stream of the same name for each machine ID."""
        self.database = Database(self.path, clock=self.read_clock)
        self.outbox = Outbox(self.database, reserved=1000)
        self.outbox.register({"log": KINDS})
        self.recorder = EventRecorder(
            self.database, self.outbox, site="plant", on_update=self._note, clock=self.read_clock
        )
        self.recorder.start()
        for id in ids:
            self.add(id, settings=settings)
        return self.recorder

    def read_clock(self) -> float:
        return self.clock

    def _note(self, update: StreamUpdate | None, machine: MonitoredMachine, transitions: list[Transition]) -> None:
        self.updates.append((update and update.clip_score, machine.id, [one.sequence for one in transitions]))

    def add(self, name: str, id: str | None = None, settings: AlarmSettings = ONCE) -> None:
        assert self.recorder is not None
        machine = Machine(type="valve", id=id or name)
        self.recorder.add_machine(name, self._manifest.model_copy(update={"machine": machine}), settings)

    def score(self, name: str, *scores: float, **more: Any) -> None:
        """Clip scores, one a second."""
        assert self.recorder is not None
        for score in scores:
            self.clock += 1.0
            wall = WALL + self.clock
            self.recorder.update(StreamUpdate(name, self.clock, wall, score, is_complete=True, **more))
        self.settle()

    def passes(self, seconds: float) -> None:
        """Time without updates."""
        self.clock += seconds
        self.settle()
        self.settle()

    def settle(self) -> None:
        """Until everything that was given is processed, and a tick that is due has passed."""
        assert self.recorder is not None
        self.recorder.call(lambda: None)
        self.recorder.call(lambda: None)

    def refuse(self, refuses: bool = True) -> None:
        """The disk becomes read-only, or works again."""
        self.database._writer.execute(f"PRAGMA query_only = {'ON' if refuses else 'OFF'}")
        if not refuses:
            self.passes(10.0)

    def stop(self) -> None:
        if self.recorder is not None:
            assert self.recorder.close(20.0)
            assert self.recorder.defect is None
            self.database.close()
            self.recorder = None

    def kill(self) -> None:
        """Nothing is written from now on."""
        assert self.recorder is not None
        self.recorder.call(self.database._writer.close)
        self.recorder.close(20.0)
        self.recorder = None
        self.database.close()

    def stored(self, id: str) -> list[dict[str, Any]]:
        with EventStore.open(self.path, read_only=True) as store:
            return store.transitions("valve", id)

    def reasons(self, id: str) -> list[str]:
        return [one["reason"] for one in self.stored(id)]

    def sent(self, kind: str = "event") -> list[dict[str, Any]]:
        """What waits for the output, with `stored` and `seq`."""
        messages = self.outbox.read("log", 1000)
        return [
            {**json.loads(one.payload), "seq": one.seq, "stored": one.stored} for one in messages if one.kind == kind
        ]


@pytest.fixture
def device(tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    present = ["boot 0"]
    monkeypatch.setattr(event_store_module, "boot_id", lambda: present[0])
    made = Device(tmp_path, manifest, lambda id: present.__setitem__(0, id))
    yield made
    made.stop()


# Storing and sending


def test_transition_and_message_are_stored_together(device: Device) -> None:
    recorder = device.start("a")
    device.score("a", 0.0, 2.0, 3.0, 0.0)
    assert device.reasons("a") == ["score", "score"]
    sent = device.sent()
    assert [one["body"] for one in sent] == device.stored("a")
    assert [one["event"] for one in sent] == [one["event"] for one in device.stored("a")]
    assert all(one["stored"] for one in sent)
    assert device.updates == [(0.0, "a", []), (2.0, "a", [1]), (3.0, "a", []), (0.0, "a", [2])]
    assert recorder.problem is None
    device.stop()
    with EventStore.open(device.path, read_only=True) as store:
        assert len(store.history("valve", "a", "score")) == 4
        (event,) = store.events()
        assert (event["peak"], event["cleared_by"]) == (3.0, "score")


def test_messages_about_health_scores_and_status_are_sent(device: Device) -> None:
    recorder = device.start()
    recorder.configure(score_seconds=2.0, site="hall 3")
    device.add("a")
    report = HealthMonitor(HealthSettings(), 16_000, None).report()
    device.score("a", 0.5, 2.0, 0.75, health=report, is_unhealthy=False)
    recorder.publish("status", {"state": "running"}, machine="valve", id="a")
    recorder.publish("start", {"state": "starting"})
    recorder.publish("status", {"state": 7})
    device.settle()
    (summary,) = device.sent("score")
    assert summary["body"] | {"since": ""} == {
        **{"since": "", "count": 3, "last": 0.75, "mean": 3.25 / 3, "lowest": 0.5, "highest": 2.0},
        **{"threshold": 1.0, "complete": True},
    }
    assert [one["body"]["unhealthy"] for one in device.sent("health")] == [False] * 3
    (status,) = device.sent("status")
    assert (status["site"], status["machine"], status["id"]) == ("hall 3", "valve", "a")
    assert status["event"] is None
    (start,) = device.sent("start")
    assert (start["machine"], start["id"]) == (None, None)


def test_command_returns_what_changed(device: Device) -> None:
    recorder = device.start("a")
    assert recorder.command("a", ACKNOWLEDGE) == []
    device.score("a", 2.0)
    (body,) = recorder.command("a", Command(command="acknowledge", by="anna"))
    assert (body["state"], body["by"], body) == ("acknowledged", "anna", device.stored("a")[1])
    with pytest.raises(InputError, match="b: no such stream; the streams are a"):
        recorder.command("b", TEST)
    recorder.post_command("valve", "a", Command(command="clear"))
    recorder.post_command("valve", "nobody", TEST)
    device.settle()
    assert device.reasons("a")[-1] == "cleared_by_hand"


def test_outputs_are_shown_every_message_and_the_states(device: Device) -> None:
    recorder, shown = device.start("a", "b"), Shown()
    device.score("a", 2.0)
    recorder.use_outputs(shown)  # type: ignore[arg-type]
    assert [(one[1], one[2]["state"]) for one in shown.states] == [("a", "alarm"), ("b", "normal")]
    assert shown.states[0][2] == device.stored("a")[0]
    device.score("a", 0.0)
    assert [one["body"]["state"] for one in shown.messages] == ["cleared"]
    device.add("c")
    assert shown.states[-1][1] == "c"
    recorder.use_outputs(None)
    device.score("a", 2.0)
    assert len(shown.messages) == 1


def test_time_that_is_none_is_a_problem_and_no_end(device: Device) -> None:
    recorder = device.start("a")
    recorder.update(StreamUpdate("a", device.clock, -5.0, 2.0, is_complete=True))
    device.settle()
    assert "wall clock -5.0" in str(recorder.problem)
    device.score("a", 2.0)
    assert device.reasons("a") == ["score"]
    assert recorder.problem is None


def test_without_a_database_events_are_in_memory(manifest: Manifest) -> None:
    updates: list[Any] = []
    recorder = EventRecorder(on_update=lambda *change: updates.append(change))
    recorder.start()
    recorder.add_machine("a", manifest, ONCE)
    recorder.update(StreamUpdate("a", 1.0, WALL, 2.0, is_complete=True))
    assert [one["reason"] for one in recorder.command("a", ACKNOWLEDGE)] == ["acknowledged"]
    assert recorder.close(10.0)
    assert [(update is None, [one.reason for one in said]) for update, _, said in updates] == [
        (False, ["score"]),
        (True, ["acknowledged"]),
    ]
    assert recorder.problem is None


def test_machine_alone_needs_no_recorder(manifest: Manifest) -> None:
    machine = MonitoredMachine("a", manifest, ONCE, 10.0)
    changes = [machine.update(StreamUpdate("a", float(at), WALL + at, score, True)) for at, score in enumerate((0, 2))]
    assert [[one.state for one in some] for some in changes] == [[], ["alarm"]]


# A disk that refuses


def test_alarm_leaves_a_read_only_disk_and_is_stored_later(device: Device) -> None:
    recorder, shown = device.start("a"), Shown()
    recorder.use_outputs(shown)  # type: ignore[arg-type]
    device.score("a", 2.0, 0.0)
    device.refuse()
    device.score("a", 2.0, 2.0, 0.0)
    recorder.publish("status", {"state": "degraded"})
    (tested, over) = recorder.command("a", TEST)[-2:]
    sent = device.sent()
    assert [one["stored"] for one in sent] == [True, True] + [False] * (len(sent) - 2)
    assert [one["body"]["reason"] for one in sent[2:5]] == ["cooldown_over", "score", "score"]
    assert [one["body"] for one in sent[-2:]] == [tested, over]
    assert [one["stored"] for one in device.sent("status")] == [False]
    assert [one["body"] for one in sent] == [one["body"] for one in shown.messages if one["kind"] == "event"]
    problem = str(recorder.problem)
    assert "readonly" in problem
    assert f"{len(sent) - 2 + 1} messages are not stored" in problem
    assert device.reasons("a") == ["score", "score"]
    device.refuse(False)
    assert recorder.problem is None
    assert device.stored("a") == [one["body"] for one in device.sent()]
    assert all(one["stored"] for one in device.sent())
    numbers = [one["sequence"] for one in device.stored("a")]
    assert numbers == sorted(set(numbers))
    (last, *_) = device.recorder.command("a", TEST)  # type: ignore[union-attr]
    assert last["sequence"] == numbers[-1] + 1
    device.stop()
    with EventStore.open(device.path, read_only=True) as store:
        assert len(store.history("valve", "a", "score")) == 5


def test_no_number_is_given_twice_by_a_kill_on_a_read_only_disk(device: Device) -> None:
    device.start("a")
    device.score("a", 2.0)
    seen: list[dict[str, Any]] = []
    for _ in range(3):
        device.refuse()
        device.score("a", 0.0, 2.0)
        seen += device.sent()
        device.kill()
        device.start("a")
        assert device.recorder is not None
        device.recorder.command("a", TEST)
        seen += device.sent()
    for key in (lambda one: one["seq"], lambda one: one["body"]["sequence"]):
        bodies: dict[int, Any] = {}
        for one in seen:
            assert bodies.setdefault(key(one), one["body"]) == one["body"]


def test_disk_that_refuses_keeps_nobody_from_coming_and_going(device: Device) -> None:
    recorder = device.start("a")
    device.refuse()
    device.score("a", 2.0)
    recorder.remove_machine("a")
    device.add("b", id="a", settings=AlarmSettings(on=1e9))
    assert recorder.machines["b"].machine.state == "alarm"
    device.add("b", id="a")
    device.score("b", 0.0)
    device.refuse(False)
    assert device.reasons("a")[:2] == ["score", "score"]
    device.stop()
    with EventStore.open(device.path, read_only=True) as store:
        assert len(store.history("valve", "a", "score")) == 2
        assert [one["cleared_by"] for one in store.events()] == ["score"]


def test_corruption_at_work_ends_the_thread(device: Device) -> None:
    recorder = device.start("a")
    device.score("a", 2.0)
    recorder.call(lambda: device.database._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)"))
    recorder.call(lambda: device.database._writer.execute("PRAGMA cache_size = 0"))
    content = bytearray(device.path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    device.path.write_bytes(content)
    for _ in range(20):
        recorder.update(StreamUpdate("a", device.clock, WALL, 0.0, is_complete=True))
        recorder.post_command("valve", "a", TEST)
    end = time.monotonic() + 10.0
    while recorder.defect is None:
        assert time.monotonic() < end, "it goes on"
        time.sleep(0.01)
    assert isinstance(recorder.defect, DatabaseCorrupt)
    assert recorder.defect.exit_code == 3
    device.database.close()
    device.recorder = None
    # The next process begins a new file, with numbers above all that were given.
    recorder = device.start("a")
    assert quarantined_files(device.path)[0].name in str(recorder.problem)
    assert device.reasons("a") == ["store_lost"]
    assert device.stored("a")[0]["sequence"] > time.time() - 10


def test_state_that_cannot_be_read_costs_that_state_only(device: Device) -> None:
    device.start("a", "b")
    device.score("a", 2.0)
    device.score("b", 2.0)
    device.stop()
    with EventStore.open(device.path) as store:
        snapshot = store.snapshot("valve", "a")
        assert snapshot is not None
        store.store_states([{**snapshot, "state": "normal"}])
    recorder = device.start("a", "b")
    assert recorder.problem is None
    assert device.reasons("a") == ["score", "store_lost"]
    assert (recorder.machines["a"].machine.state, recorder.machines["b"].machine.state) == ("normal", "alarm")
    assert not quarantined_files(device.path)


# Machines that come, go and change places


def test_two_streams_of_one_machine_are_refused(device: Device) -> None:
    device.start("a")
    with pytest.raises(InputError, match="b: is machine valve a, as a is; give one of them another id"):
        device.add("b", id="a")


def test_event_stays_open_when_its_machine_changes_stream(device: Device) -> None:
    recorder = device.start("a", "b")
    device.score("a", 2.0)
    recorder.remove_machine("a")
    recorder.remove_machine("b")
    device.add("a", id="b")
    device.add("b", id="a")
    assert recorder.machines["b"].machine.state == "alarm"
    assert recorder.clear_others({("valve", "a")}) == []
    assert device.reasons("a") == ["score"]


def test_events_of_machines_that_left_are_cleared_once(device: Device) -> None:
    recorder = device.start("a", "b", "c")
    for name in "abc":
        device.score(name, 2.0)
    recorder.remove_machine("c")
    device.stop()
    recorder = device.start("a")
    assert len(recorder.open_events()) == 3
    assert sorted(recorder.clear_others({("valve", "c")})) == [("valve", "b")]
    assert recorder.clear_others({("valve", "c")}) == []
    assert [one["by"] for one in device.stored("b")] == [None, "site.toml"]
    assert [one["body"]["reason"] for one in device.sent() if one["id"] == "b"] == ["score", "cleared_by_hand"]
    assert device.updates[-1][:2] == (None, "b")
    assert len(recorder.open_events()) == 2
    device.add("b")
    device.score("b", 2.0)
    assert device.reasons("b") == ["score", "cleared_by_hand", "cooldown_over", "score"]


def test_new_settings_keep_the_state(device: Device) -> None:
    recorder = device.start("a")
    device.score("a", 2.0)
    device.add("a", settings=AlarmSettings(on=1.0, k=1, off=-9.0))
    device.score("a", 0.0)
    assert recorder.machines["a"].machine.state == "alarm"
    with pytest.raises(InputError, match="above on"):
        device.add("a", settings=AlarmSettings(on=1.0, off=2.0))
    device.score("a", -10.0)
    assert device.reasons("a") == ["score", "score"]


# What is remembered over stops, kills and boots


def snooze(recorder: EventRecorder, seconds: float) -> None:
    recorder.command("a", Command(command="snooze", seconds=seconds))


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_snooze_ends_on_a_device_that_is_switched_off_each_night(device: Device, end: str) -> None:
    snooze(device.start("a"), 86_400.0)
    for _ in range(2):
        device.passes(36_000.0)
        device.passes(100.0)
        getattr(device, end)()
        device.boot(50.0)
        device.start("a")
    assert device.reasons("a") == ["snoozed"]
    device.passes(14_500.0)
    assert device.reasons("a") == ["snoozed", "snooze_over"]


def test_time_between_two_boots_is_left_out_once(device: Device) -> None:
    snooze(device.start("a"), 3600.0)
    device.stop()
    device.boot(500_000.0)
    device.start("a")
    device.kill()
    device.clock += 1000.0
    device.start("a")
    device.passes(5.0)
    device.stop()
    device.boot(100.0)
    recorder = device.start("a")
    device.passes(1300.0)
    recorder.remove_machine("a")
    device.clock += 700.0
    device.add("other", id="a")
    assert device.reasons("a") == ["snoozed"]
    device.passes(700.0)
    assert device.reasons("a") == ["snoozed", "snooze_over"]


@pytest.mark.parametrize("away", ["stop", "kill", "rename"])
def test_score_history_begins_anew_after_an_absence(device: Device, away: str) -> None:
    recorder = device.start("a", settings=TWICE)
    device.score("a", 0.0, 2.0)
    if away == "rename":
        recorder.remove_machine("a")
        device.add("a", settings=TWICE)
    else:
        getattr(device, away)()
        device.start("a", settings=TWICE)
    device.score("a", 2.0)
    assert device.reasons("a") == []
    device.score("a", 2.0)
    assert device.reasons("a") == ["score"]


def test_peak_of_an_event_is_that_of_all_its_scores(device: Device) -> None:
    device.start("a")
    device.score("a", 2.0, 9.0, 3.0)
    device.stop()
    recorder = device.start("a")
    recorder.command("a", ACKNOWLEDGE)
    assert [one["peak"] for one in device.stored("a")] == [2.0, 9.0]


def test_scores_after_sick_input_are_ignored_for_a_window(device: Device) -> None:
    recorder = device.start("a")
    recorder.update(StreamUpdate("a", device.clock, WALL, is_unhealthy=True))
    window = recorder.machines["a"].window_seconds
    assert window == pytest.approx(9.95, abs=0.1)
    device.score("a", *[2.0] * 9)
    assert device.reasons("a") == ["input_unhealthy"]
    device.score("a", 2.0, 2.0)
    assert device.reasons("a") == ["input_unhealthy", "input_healthy", "score"]


# Calls and pruning


def test_call_that_was_reported_as_not_done_is_never_done(device: Device) -> None:
    recorder = device.start()
    begun, go_on, done = threading.Event(), threading.Event(), []

    def hold() -> None:
        begun.set()
        go_on.wait(10.0)

    thread = threading.Thread(target=lambda: recorder.call(hold, 20.0))
    thread.start()
    assert begun.wait(5.0)
    with pytest.raises(InputError, match="busy: nothing was done"):
        recorder.call(lambda: done.append("late"), 0.05)
    go_on.set()
    thread.join(5.0)
    recorder.call(lambda: done.append("asked again"))
    assert done == ["asked again"]
    go_on.clear()
    with pytest.raises(InputError, match="has begun"):
        recorder.call(hold, 0.1)
    go_on.set()


def test_old_scores_are_deleted_between_updates(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_store_module, "_BATCH", 1)
    recorder = device.start("a")
    recorder.configure(retention=Retention(scores=10.0))
    with EventStore.open(device.path) as store:
        store.add_scores("valve", "old", [(float(second), 1.0) for second in range(20)])
    device.passes(3601.0)
    for second in range(60):
        device.score("a", 0.1 * second / 60)
    with EventStore.open(device.path, read_only=True) as store:
        assert store.history("valve", "old", "score") == []


# Learning period


LEARNING = AlarmSettings(hysteresis=0.0, k=1, n=1, recovery_seconds=0.0, burn_in_hours=1.0)


def learn(device: Device, minutes: int, high: float | None = None) -> None:
    """Two scores a minute, near 0.03."""
    draw = np.random.default_rng(0)
    assert device.recorder is not None
    for _ in range(2 * minutes):
        device.clock += 30.0
        score = 0.03 + draw.gamma(4.0, 0.002) if high is None else high
        device.recorder.update(StreamUpdate("a", device.clock, WALL + device.clock, score, is_complete=True))
    device.settle()


def where(device: Device) -> dict[str, Any]:
    assert device.recorder is not None
    return device.recorder.decide_threshold("a", "show")


def test_nobody_is_paged_while_it_learns_and_a_person_accepts(device: Device) -> None:
    recorder = device.start("a", settings=LEARNING)
    learn(device, 30)
    learn(device, 2, high=0.9)  # a fault
    device.passes(61.0)
    assert "0.5 of 1 h heard, no alarm is raised" in where(device)["line"]
    device.stop()
    recorder = device.start("a", settings=LEARNING)
    learn(device, 40)
    device.passes(61.0)
    found = where(device)
    assert device.reasons("a") == []
    assert found["burn_in"]["phase"] == "proposed"
    assert found["burn_in"]["proposal"]["left_out"] >= 2
    assert found["threshold"] == found["shipped"] == pytest.approx(0.0402, abs=1e-4)
    learnt = found["burn_in"]["proposal"]["threshold"]
    assert found["shipped"] < learnt < 0.2
    assert recorder.decide_threshold("a", "accept", "anna")["threshold"] == learnt
    device.stop()
    device.start("a", settings=LEARNING)
    assert where(device)["threshold"] == learnt
    assert "was accepted by anna" in where(device)["line"]
    device.score("a", 0.06, 0.9)
    assert device.reasons("a") == ["score"]
    assert device.stored("a")[0]["threshold"] == learnt
    assert recorder is not device.recorder
    assert device.recorder is not None
    assert device.recorder.decide_threshold("a", "decline")["threshold"] == found["shipped"]


def test_a_setting_accepts_what_is_in_no_doubt(device: Device) -> None:
    device.start("a", settings=LEARNING.model_copy(update={"burn_in_accept": True}))
    learn(device, 62)
    device.passes(61.0)
    assert where(device)["burn_in"]["phase"] == "accepted"
    assert where(device)["threshold"] == where(device)["burn_in"]["proposal"]["threshold"]


def test_no_setting_accepts_what_is_in_doubt(device: Device) -> None:
    device.start("a", settings=LEARNING.model_copy(update={"burn_in_accept": True}))
    learn(device, 40)
    learn(device, 25, high=0.9)
    device.passes(61.0)
    found = where(device)
    assert found["burn_in"]["phase"] == "proposed"
    assert "unlike the rest" in found["burn_in"]["proposal"]["doubt"]


def test_a_learnt_threshold_is_of_its_bundle(device: Device, manifest: Manifest) -> None:
    recorder = device.start("a", settings=LEARNING.model_copy(update={"burn_in_accept": True}))
    learn(device, 62)
    device.passes(61.0)
    learnt = where(device)["threshold"]
    score = manifest.score.model_copy(update={"d_max": 9.0})
    other = manifest.model_copy(update={"score": score, "machine": Machine(type="valve", id="a")})
    recorder.add_machine("a", other, LEARNING)
    assert where(device)["threshold"] == manifest.threshold.clip != learnt  # type: ignore[union-attr]
    assert where(device)["burn_in"]["phase"] == "learning"


def test_decisions_without_a_proposal_are_refused(device: Device) -> None:
    recorder = device.start("a")
    with pytest.raises(InputError, match="no threshold is proposed; there is no learning period"):
        recorder.decide_threshold("a", "accept")
    with pytest.raises(InputError, match="no learning period is set; give burn_in_hours"):
        recorder.decide_threshold("a", "restart")
    with pytest.raises(InputError, match="use show, accept, decline or restart"):
        recorder.decide_threshold("a", "maybe")
