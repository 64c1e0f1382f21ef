"""What holds for the alarm machine whatever happens: scores, gaps, sick spans, commands, clock steps, restarts."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.runtime.alarms import AlarmInput, AlarmMachine, AlarmSettings, Command, Transition
from edgeasd.runtime.alarms.event_id import is_event_id, make_event_id, milliseconds_of
from edgeasd.runtime.alarms.transition import REASONS, STATES
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.scoring.threshold import Threshold

pytestmark = pytest.mark.core

THRESHOLD = Threshold(clip=1.0, consecutive=2, found_by="test", clips=10)
COMMANDS = ["acknowledge", "snooze", "end_snooze", "maintenance_on", "maintenance_off", "clear", "test"]


@dataclass(frozen=True)
class Happening:
    """One thing that happens `seconds` after the last: an observation, or a command with `value` seconds."""

    seconds: float
    kind: str
    value: float | None
    flags: int
    wall_step: float
    restart: bool


_SCORES = st.one_of(st.sampled_from([0.0, 0.7, 1.0, 1.5, 3.0]), st.none(), st.just(float("nan")))
_SEEN = st.builds(
    Happening,
    st.sampled_from([0.0, 0.25, 1.0, 4.0]),
    st.just("see"),
    _SCORES,
    # Mostly plain scores: an alarm needs several of them in a row.
    st.sampled_from([0] * 12 + [1, 2, 4, 4, 4, 4, 6, 8, 16, 18, 32, 32, 40]),
    st.sampled_from([0.0] * 8 + [-3600.0, 3600.0, 1e6]),
    st.booleans(),
)
_ASKED = st.builds(
    Happening,
    st.sampled_from([0.0, 1.0]),
    st.sampled_from(COMMANDS),
    st.sampled_from([0.5, 3.0, 20.0]),
    st.just(0),
    st.just(0.0),
    st.booleans(),
)
_STEADY = st.builds(
    lambda score, count, flags: [Happening(1.0, "see", score, flags, 0.0, False)] * count,
    st.sampled_from([0.0, 0.7, 3.0, 3.0]),
    st.integers(1, 8),
    st.sampled_from([0, 0, 0, 0, 0, 8, 8, 32]),
)
_LONG_CLIPS = 6.0
"""Seconds that a clip score looks back on where its flag says so."""
LIFE = st.lists(st.one_of(_STEADY, _STEADY, _SEEN.map(lambda h: [h]), _ASKED.map(lambda h: [h])), max_size=40).map(
    lambda parts: [happening for part in parts for happening in part]
)
SETTINGS = st.builds(
    lambda k, more, **rest: AlarmSettings(k=k, n=k + more, **rest),
    st.integers(1, 3),
    st.integers(0, 2),
    hysteresis=st.sampled_from([0.0, 0.25]),
    warning_margin=st.sampled_from([None, 0.4]),
    clear_after=st.sampled_from([None, 1, 2]),
    min_seconds=st.sampled_from([0.0, 2.0]),
    cooldown_seconds=st.sampled_from([0.0, 1.0, 7.0]),
    recovery_seconds=st.sampled_from([0.0, 3.0]),
    clear_on_gap=st.booleans(),
)


class Plant:
    """A machine and all that happens to it; looks over every transition as it comes."""

    def __init__(self, policy: AlarmSettings, *, restarts: bool = False, walls: bool = True, seed: int = 0) -> None:
        self.policy, self.restarts, self.walls = policy, restarts, walls
        self.random = random.Random(seed)
        self.machine = self.fresh()
        self.now, self.wall = 1000.0, 1.8e9
        self.said: list[Transition] = []

    def fresh(self) -> AlarmMachine:
        return AlarmMachine("fan", "02", self.policy, THRESHOLD, random_bits=self.random.getrandbits)

    def happens(self, it: Happening) -> list[Transition]:
        if self.restarts and it.restart:
            written = json.dumps(self.machine.snapshot(), allow_nan=False)
            self.machine = self.fresh()
            self.machine.restore(json.loads(written))
        self.now += it.seconds
        self.wall = max(0.0, self.wall + it.seconds + (it.wall_step if self.walls else 0.0))
        if it.kind == "see":
            complete, sick, gap = not it.flags & 1, bool(it.flags & 2), bool(it.flags & 4)
            more_sound = _LONG_CLIPS if it.flags & 16 else 0.0
            said = self.machine.step(
                AlarmInput(
                    *(self.now, self.wall, it.value, complete, sick, gap, bool(it.flags & 8), more_sound),
                    operating_state="off" if it.flags & 32 else "running",
                    is_judged=not it.flags & 32,
                )
            )
        else:
            more: dict[str, Any] = {"seconds": it.value} if it.kind == "snooze" else {}
            said = self.machine.command(Command(command=it.kind, **more), self.now, self.wall)  # type: ignore[arg-type]
        self.said += said
        return said


class Watcher:
    """The promises of docs/reference/alarms.md, kept by hand beside the machine."""

    def __init__(self, plant: Plant) -> None:
        self.plant = plant
        self.sequence, self.state, self.event = 0, "normal", None
        self.ids: list[str] = []
        self.cleared_at = self.sick_at = self.snoozed_until = float("-inf")
        self.maintenance = self.settling = False
        self.recent: list[float] = []

    def before(self, it: Happening) -> None:
        """What is known before the machine answers."""
        now = self.plant.now + it.seconds
        sick = it.kind == "see" and bool(it.flags & 2 or (it.value is not None and it.value != it.value))
        if sick:
            self.sick_at, self.settling = now, True
        if it.kind == "see" and it.value is not None and not it.flags & 1:
            self.recent.append(it.value)
        settle = max(self.plant.policy.recovery_seconds, _LONG_CLIPS if it.flags & 16 else 0.0)
        self.frozen = sick or (self.settling and now - self.sick_at < settle)
        self.settling = self.frozen if it.kind == "see" else self.settling

    def after(self, it: Happening, said: list[Transition]) -> None:
        for transition in said:
            self._look(it, transition)
        if it.kind == "snooze":
            self.snoozed_until = self.plant.now + (it.value or 0)
        elif it.kind == "end_snooze":
            self.snoozed_until = float("-inf")
        elif it.kind.startswith("maintenance"):
            self.maintenance = it.kind == "maintenance_on"
        machine = self.plant.machine
        assert machine.state == self.state
        assert (machine.event.id if machine.event else None) == self.event
        assert machine.maintenance == self.maintenance

    def _look(self, it: Happening, t: Transition) -> None:
        now, policy = self.plant.now, self.plant.policy
        assert t.sequence == self.sequence + 1
        assert t.previous == self.state
        assert t.state in STATES
        assert t.reason in REASONS
        json.dumps(t.to_json(), allow_nan=False)
        self.sequence, self.state = t.sequence, t.state
        if t.test:
            assert it.kind == "test"
            if t.reason == "test":
                self._new(t)
            assert t.event == self.ids[-1] != self.event
            return
        if t.state == "alarm" and t.previous != "alarm":
            assert it.kind == "see", "no command raises an alarm"
            assert self.event is None, "one open event"
            assert not self.frozen, "no alarm from sick input"
            assert not it.flags & 8, "none from suspect input"
            assert not it.flags & 32, "none from a machine that is off"
            assert not self.maintenance
            assert now >= self.snoozed_until
            assert now - self.cleared_at >= policy.cooldown_seconds, "no flapping inside the cooldown"
            assert policy.k is not None
            assert policy.n is not None
            assert sum(score > 1.0 for score in self.recent[-policy.n :]) >= policy.k
            self.event = t.event
            self._new(t)
        if it.kind == "see" and it.flags & 32 and not self.maintenance:
            assert t.state == t.previous or t.reason in ("cooldown_over", "gap", "operating_state"), "off ends no event"
        if t.state == "warning" and t.previous == "normal":
            assert not it.flags & 8, "no warning from suspect input"
        if t.previous in ("alarm", "acknowledged"):
            assert t.event == self.event
            if t.state == "cleared":
                assert not (self.frozen and it.kind == "see"), "a sick input clears nothing"
                self.event, self.cleared_at = None, now

    def _new(self, t: Transition) -> None:
        assert t.event is not None
        assert is_event_id(t.event)
        assert not self.ids or t.event > self.ids[-1], "IDs rise"
        self.ids.append(t.event)


def live(plant: Plant, life: list[Happening]) -> Watcher:
    watcher = Watcher(plant)
    for it in life:
        watcher.before(it)
        watcher.after(it, plant.happens(it))
    return watcher


@settings(max_examples=400, deadline=None)
@given(SETTINGS, LIFE)
def test_invariants_hold_and_it_always_returns_to_normal(policy: AlarmSettings, life: list[Happening]) -> None:
    plant = Plant(policy, restarts=True)
    watcher = live(plant, life)
    levels = plant.machine.levels
    assert levels is not None
    calm = [Happening(0.0, "maintenance_off", None, 0, 0.0, False)]
    calm += [Happening(20.0, "see", 0.0, 0, 0.0, False)] * (levels.clear_after + 2)
    for it in calm:
        watcher.before(it)
        watcher.after(it, plant.happens(it))
    assert plant.machine.state == "normal"
    assert plant.machine.event is None


@settings(max_examples=200, deadline=None)
@given(SETTINGS, LIFE)
def test_a_run_with_restarts_is_the_run_without(policy: AlarmSettings, life: list[Happening]) -> None:
    through, restarted = Plant(policy), Plant(policy, restarts=True)
    for it in life:
        through.happens(it)
        restarted.happens(it)
    assert restarted.said == through.said
    assert restarted.machine.snapshot() == through.machine.snapshot()


@settings(max_examples=200, deadline=None)
@given(SETTINGS, LIFE)
def test_wall_clock_step_changes_only_reported_times(policy: AlarmSettings, life: list[Happening]) -> None:
    stepped, true = Plant(policy), Plant(policy, walls=False)
    for it in life:
        stepped.happens(it)
        true.happens(it)

    def timeless(said: list[Transition]) -> list[Transition]:
        return [replace(t, wall=0.0, raised_wall=None, event="E" if t.event else None) for t in said]

    assert timeless(stepped.said) == timeless(true.said)


def test_the_lives_above_hold_what_they_are_to_test() -> None:
    """Alarms, and each reason, come up in them: promises about nothing are easily kept."""
    seen: set[str] = set()
    raised = 0

    @settings(max_examples=500, deadline=None, derandomize=True, database=None)
    @given(SETTINGS, LIFE)
    def gather(policy: AlarmSettings, life: list[Happening]) -> None:
        nonlocal raised
        plant = Plant(policy)
        live(plant, life)
        seen.update(t.reason for t in plant.said)
        raised += any(t.state == "alarm" and not t.test for t in plant.said)

    gather()
    assert set(REASONS) - seen <= {"no_threshold", "store_lost"}
    assert raised > 100


# Snapshots that were not written by us


def plain() -> dict[str, Any]:
    plant = Plant(AlarmSettings(warning_margin=0.4))
    for score in (3.0, 3.0, 3.0):
        plant.happens(Happening(1.0, "see", score, 0, 0.0, False))
    assert plant.machine.state == "alarm"
    return plant.machine.snapshot()


_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(plain())), _JUNK, max_size=4) | _JUNK, st.booleans(), LIFE)
def test_hostile_snapshot_is_refused_or_harmless(changes: Any, drop: bool, life: list[Happening]) -> None:
    snapshot = plain() | changes if isinstance(changes, dict) else changes
    if drop and isinstance(changes, dict):
        for name in changes:
            snapshot.pop(name, None)
    plant = Plant(AlarmSettings(k=1))
    before = plant.machine.snapshot()
    try:
        plant.machine.restore(snapshot, place="state.json")
    except InputError as error:
        refused = str(error)
    else:
        refused = None
    if refused is not None:
        assert refused.startswith("state.json: ")
        assert refused.isprintable()
        assert plant.machine.snapshot() == before
        return
    for it in life[:10]:
        plant.happens(it)
    plant.fresh().restore(plant.machine.snapshot())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 2}, "schema '2', this edgeasd reads 1"),
        ({"event": None}, "state alarm does not go with no open event"),
        ({"state": "normal"}, "state normal does not go with an open event"),
        ({"maintenance": True}, "an event is open during maintenance"),
        ({"snoozed_until": 1e9}, "snoozed for longer"),
        ({"held_since": 2000.0}, "an instant lies in the future"),
        ({"sequence": -1}, "sequence '-1'"),
        ({"machine": "pump"}, "is of machine 'pump 02', not of 'fan 02'"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_snapshot_that_cannot_be_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=r"^state\.json: ") as caught:
        Plant(AlarmSettings()).machine.restore(plain() | change, place="state.json")
    assert said in str(caught.value)


def test_after_a_reboot_the_time_between_does_not_count() -> None:
    plant = Plant(AlarmSettings(k=1, cooldown_seconds=10.0))
    for score in (3.0, 0.0, 0.0):
        plant.happens(Happening(1.0, "see", score, 0, 0.0, False))
    for clock in (5.0, 1e6):
        machine = plant.fresh()
        machine.restore(plant.machine.snapshot(), time=clock)
        assert machine.step(AlarmInput(clock + 8.5, 1.8e9, 3.0)) == []
        assert [t.state for t in machine.step(AlarmInput(clock + 9.0, 1.8e9, 3.0))] == ["normal", "alarm"]


def test_fewer_scores_may_count_after_the_settings_were_changed() -> None:
    plant = Plant(AlarmSettings(k=3, n=8))
    for score in (3.0, 3.0, *[0.0] * 6):
        plant.happens(Happening(1.0, "see", score, 0, 0.0, False))
    plant.policy = AlarmSettings(k=3, n=3)
    machine = plant.fresh()
    machine.restore(plant.machine.snapshot())
    assert machine.step(AlarmInput(2000.0, 1.8e9, 3.0)) == []


def test_open_event_is_cleared_when_the_threshold_is_removed() -> None:
    machine = AlarmMachine("fan", "02", AlarmSettings(), None)
    machine.restore(plain())
    assert [(t.state, t.reason) for t in machine.step(AlarmInput(2000.0, 1.8e9, 3.0))] == [("cleared", "no_threshold")]


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**48 - 1), st.integers(0, 2**80 - 1), st.integers(0, 2**80 - 1))
def test_event_ids_sort_by_time_and_give_it_back(first: int, second: int, one: int, other: int) -> None:
    a, b = make_event_id(first, lambda bits: one), make_event_id(second, lambda bits: other)
    assert is_event_id(a)
    assert len(a) == 26
    assert milliseconds_of(a) == first
    assert (a < b) == ((first, one) < (second, other))
