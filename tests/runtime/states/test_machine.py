"""The operating state: who knows it, what comes first, and what holds whatever happens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.states import OperatingState, OperationSettings, StateInput, StateMachine

pytestmark = pytest.mark.core

NOON, NIGHT = 1_796_122_800.0, 1_796_166_000.0
"""Tuesday, 1 December 2026, 11:00 and 23:00 UTC."""
SHIFT = {"schedule": ("Mon-Fri 06:00-22:00",), "timezone": "UTC"}
LOUD, QUIET = -30.0, -45.0
OFF_BELOW = -38.0


class Plant:
    """A state machine and a clock that goes in steps of 0.2 s."""

    def __init__(self, modes: tuple[str, ...] = (), off_below: float | None = OFF_BELOW, **more: Any) -> None:
        self.machine = StateMachine(OperationSettings(**more), off_below, modes)
        self.now, self.wall = 100.0, NOON

    def live(self, seconds: float, **known: Any) -> list[OperatingState]:
        """The states of so many seconds in which all that is known stays the same."""
        found = []
        for _ in range(max(1, round(seconds / 0.2))):
            self.now, self.wall = self.now + 0.2, self.wall + 0.2
            found.append(self.machine.step(StateInput(self.now, self.wall, **known)))
        return found

    def sound(self, seconds: float, level: float, fits: bool | None = None, **known: Any) -> OperatingState:
        return self.live(seconds, level_dbfs=level, recent_dbfs=level, fits=fits, **known)[-1]


# Sources and their order


def test_nothing_known_means_running_and_judged() -> None:
    state = Plant(off_below=None).sound(1.0, QUIET)
    assert (state.state, state.source, state.is_judged) == ("running", "default", True)


def test_the_level_tells_off_and_a_start_has_a_time_of_grace() -> None:
    plant = Plant()
    assert plant.sound(20.0, LOUD).state == "running"
    off = plant.sound(0.2, QUIET)
    assert (off.state, off.source, off.is_judged, off.is_inactive) == ("off", "level", False, True)
    assert plant.sound(3600.0, QUIET).state == "off"
    states = plant.live(40.0, level_dbfs=LOUD, recent_dbfs=LOUD)
    assert states[2].state == "off", "one knock starts nothing"
    assert states[10].state == "running"
    assert states[10].is_starting
    assert not states[10].is_judged
    assert not states[-1].is_starting
    assert states[-1].is_judged, "what has not come up to normal by now is judged"
    assert 29.0 < 0.2 * sum(state.is_starting for state in states) < 31.0


def test_before_there_are_ten_seconds_of_sound_nothing_is_known() -> None:
    assert Plant().live(5.0, recent_dbfs=QUIET)[-1].state is None
    assert Plant().live(5.0, recent_dbfs=QUIET)[-1].is_stopping, "and no alarm is raised from quiet sound"


def test_a_quiet_second_holds_alarms_back_before_it_is_off() -> None:
    plant = Plant()
    plant.sound(20.0, LOUD)
    state = plant.live(1.0, level_dbfs=LOUD - 1, recent_dbfs=QUIET)[-1]
    assert (state.state, state.is_stopping, state.is_judged) == ("running", True, True)
    assert not plant.sound(1.0, LOUD).is_stopping


def test_quiet_sound_with_the_shape_of_the_recordings_is_a_gain() -> None:
    plant = Plant()
    plant.sound(20.0, LOUD, fits=True)
    states = [plant.sound(0.2, -41.0, fits=True) for _ in range(100)]
    assert {state.state for state in states} == {"running"}
    assert states[10].is_stopping, "for some seconds it might be a stop"
    assert not states[-1].is_stopping
    # The gain is known then, and the machine is off that much lower.
    assert plant.sound(1.0, QUIET - 6, fits=False, gain_db=-15.0).state == "running"
    assert plant.sound(1.0, QUIET - 15, fits=False, gain_db=-15.0).state == "off"


def test_far_below_it_is_off_whatever_its_shape() -> None:
    plant = Plant()
    plant.sound(20.0, LOUD, fits=True)
    assert plant.sound(60.0, OFF_BELOW - 5.1, fits=True).state == "off"


def test_the_schedule_comes_before_the_level() -> None:
    plant = Plant(**SHIFT)
    assert plant.sound(1.0, LOUD).state == "running"
    plant.wall = NIGHT
    state = plant.sound(1.0, LOUD)
    assert (state.state, state.source) == ("off", "schedule")
    plant.wall = NOON
    assert plant.sound(1.0, QUIET).source == "level"


def test_a_tag_comes_before_the_schedule() -> None:
    plant = Plant(**SHIFT)
    plant.wall = NIGHT
    state = plant.sound(1.0, QUIET, tag="running")
    assert (state.state, state.source, state.is_judged, state.is_stopping) == ("running", "tag", True, False)
    assert plant.sound(1.0, LOUD, tag="off").state == "off"


def test_a_stale_tag_is_said_and_the_next_source_decides() -> None:
    plant = Plant(tag_seconds=60.0)
    assert plant.sound(1.0, LOUD, tag="off", tag_age=60.0).state == "off"
    state = plant.sound(1.0, LOUD, tag="off", tag_age=7300.0)
    assert (state.state, state.source) == ("running", "level")
    assert state.note == "the tag off is stale, 2 h old: the level decides"
    bare = Plant(off_below=None, tag_seconds=60.0).sound(1.0, LOUD, tag="off", tag_age=61.0)
    assert bare.note == "the tag off is stale, 61 s old: nothing else is known"


def test_idle_is_not_judged_unless_it_was_recorded() -> None:
    state = Plant(idle_below_dbfs=-33.0).sound(1.0, -35.0)
    assert (state.state, state.is_judged) == ("idle", False)
    state = Plant(("idle", "fast"), idle_below_dbfs=-33.0).sound(1.0, -35.0)
    assert (state.state, state.mode, state.is_judged) == ("idle", "idle", True)


# Modes


def test_the_sound_tells_the_mode_after_some_seconds() -> None:
    plant = Plant(("slow", "fast"))
    assert plant.sound(5.0, LOUD, mode="slow").state == "slow"
    states = plant.live(20.0, level_dbfs=LOUD, recent_dbfs=LOUD, mode="fast")
    assert states[5].state == "slow"
    assert (states[-1].state, states[-1].source, states[-1].mode) == ("fast", "sound", "fast")
    assert 11.0 < 0.2 * sum(state.is_starting for state in states) < 13.0, "no alarm while scores hold both"


def test_a_fault_between_the_modes_changes_none() -> None:
    plant = Plant(("slow", "fast"))
    plant.sound(30.0, LOUD, mode="slow", fits=True)
    for _ in range(20):
        for mode in ("fast", "slow"):
            state = plant.sound(5.0, LOUD, mode=mode, fits=False)
            assert (state.state, state.is_judged) == ("slow", True)
    assert plant.sound(5.0, LOUD, mode="fast", fits=True).state == "fast"


def test_a_tag_names_the_mode_or_leaves_it_to_the_sound() -> None:
    plant = Plant(("slow", "fast"))
    assert plant.sound(5.0, LOUD, mode="slow", tag="fast").mode == "fast"
    assert plant.sound(5.0, LOUD, mode="slow", tag="running").mode == "slow"


def test_a_mode_that_was_never_recorded_is_said_and_not_judged() -> None:
    state = Plant(("slow", "fast")).sound(5.0, LOUD, tag="turbo")
    assert (state.state, state.mode, state.is_judged) == ("turbo", None, False)
    assert state.note == "mode turbo was never recorded: its scores are not judged"
    assert Plant().sound(5.0, LOUD, tag="turbo").is_judged, "a bundle without modes has one threshold for all"


def test_hours_are_counted_by_state() -> None:
    plant = Plant()
    plant.sound(100.0, LOUD)
    plant.sound(300.0, QUIET)
    seconds = plant.machine.seconds
    assert seconds["running"] == pytest.approx(100.0, abs=0.5)
    assert seconds["off"] == pytest.approx(300.0, abs=0.5)


# Whatever happens


_KNOWN = st.builds(
    StateInput,
    time=st.sampled_from([0.0, 0.25, 1.0, 15.0, 40.0]),
    wall=st.sampled_from([NOON, NIGHT]),
    level_dbfs=st.sampled_from([None, LOUD, -36.0, QUIET, -120.0]),
    recent_dbfs=st.sampled_from([None, LOUD, -36.0, QUIET, -120.0]),
    fits=st.sampled_from([None, True, False]),
    mode=st.sampled_from([None, "slow", "fast"]),
    gain_db=st.sampled_from([0.0, -6.0, 6.0]),
    tag=st.sampled_from([None, None, "off", "idle", "running", "fast", "turbo"]),
    tag_age=st.sampled_from([0.0, 100.0]),
)
_POLICY = st.builds(
    OperationSettings,
    schedule=st.sampled_from([(), SHIFT["schedule"]]),
    timezone=st.just("UTC"),
    tag_seconds=st.sampled_from([None, 50.0]),
    grace_seconds=st.sampled_from([0.0, 30.0]),
    level=st.booleans(),
    sound=st.booleans(),
)


@settings(max_examples=300)
@given(_POLICY, st.sampled_from([(), ("slow", "fast")]), st.lists(_KNOWN, max_size=30))
def test_its_promises_hold_whatever_is_known(
    policy: OperationSettings, modes: tuple[str, ...], life: list[StateInput]
) -> None:
    machine, now, started_at = StateMachine(policy, OFF_BELOW, modes), 1000.0, float("-inf")
    counted = 0.0
    for step in life:
        before, now = machine.present, now + step.time
        counted += step.time if before.state is not None else 0.0
        state = machine.step(replace(step, time=now))
        fresh = step.tag is not None and (policy.tag_seconds is None or step.tag_age <= policy.tag_seconds)
        if fresh:
            assert state.source == "tag"
            assert state.state == step.tag or (step.tag == "running" and state.state in modes)
        elif policy.schedule and step.wall == NIGHT:
            assert (state.state, state.source) == ("off", "schedule")
        if state.is_inactive:
            assert not state.is_judged
            assert not state.is_stopping
        if before.is_inactive and not state.is_inactive and state.state is not None:
            started_at = now
        if now - started_at < policy.grace_seconds:
            assert not state.is_judged, "a start has its time of grace"
        assert state.mode is None or state.mode in modes
        assert not (policy.level is False and state.source == "level" and state.state == "off")
    assert sum(machine.seconds.values()) == pytest.approx(counted)


@settings(max_examples=100)
@given(_POLICY, st.lists(_KNOWN, max_size=20), st.sampled_from([-1000.0, -5.0, 0.0]))
def test_a_clock_that_begins_anew_changes_no_state(
    policy: OperationSettings, life: list[StateInput], shift: float
) -> None:
    steady, anew = (StateMachine(policy, OFF_BELOW, ("slow", "fast")) for _ in range(2))
    now = 5000.0
    for position, step in enumerate(life):
        # How long it took to begin anew is not known: for the machine it took no time.
        now += 0.0 if position == len(life) // 2 else step.time
        one = steady.step(replace(step, time=now))
        other = anew.step(replace(step, time=now + (shift if position >= len(life) // 2 else 0.0)))
        assert other.state == one.state


def test_a_time_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="not a reading of a clock"):
        StateMachine(OperationSettings()).step(StateInput(float("nan"), 0.0))
