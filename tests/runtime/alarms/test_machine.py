"""The alarm machine, situation by situation."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from alarm_rule import AlarmRule
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.runtime.alarms import SERVICE, AlarmInput, AlarmMachine, AlarmSettings, Command, Transition, parse_command
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.scoring.threshold import Threshold

pytestmark = pytest.mark.core

THRESHOLD = Threshold(clip=1.0, consecutive=3, found_by="test", clips=10)
WALL = 1_800_000_000.0
HIGH, LOW = 2.0, 0.1


class Box:
    """A machine with a clock that goes on by a second for each thing that happens."""

    def __init__(self, threshold: Threshold | None = THRESHOLD, **changed: Any) -> None:
        self.machine = AlarmMachine("valve", "00", AlarmSettings(**changed), threshold, random_bits=lambda bits: 7)
        self.now = 0.0

    def see(self, *scores: float | None, seconds: float = 1.0, **more: Any) -> list[Transition]:
        said = []
        for score in scores:
            self.now += seconds
            said += self.machine.step(AlarmInput(self.now, WALL + self.now, score, **more))
        return said

    def do(self, command: str, **more: Any) -> list[Transition]:
        return self.machine.command(Command(command=command, **more), self.now, WALL + self.now)  # type: ignore[arg-type]


def states(said: Iterable[Transition]) -> list[tuple[str, str, str]]:
    return [(t.previous, t.state, t.reason) for t in said]


RAISED = ("normal", "alarm", "score")
CLEARED = ("alarm", "cleared", "score")
COOL = ("cleared", "normal", "cooldown_over")


# The rule of the manifest


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 4),
    st.floats(-2, 2),
    st.lists(
        st.tuples(
            st.one_of(st.floats(-3, 3), st.sampled_from([-1.0, 0.0, 1.0, float("inf")])), st.booleans(), st.booleans()
        ),
        max_size=60,
    ),
)
def test_by_default_it_is_the_rule_of_the_manifest(k: int, clip: float, seen: list[tuple[float, bool, bool]]) -> None:
    threshold = Threshold(clip=clip, consecutive=k, found_by="test", clips=1)
    rule, box = AlarmRule(threshold), Box(threshold)
    for score, complete, gap in seen:
        was = rule.active
        if gap:
            rule.reset()
        change = rule.update(score, complete)
        said = box.see(score, complete=complete, gap=gap)
        assert rule.active == (box.machine.state == "alarm")
        assert (change is True) == any(t.state == "alarm" for t in said)
        assert (change is False or (gap and was)) == any(t.state == "cleared" for t in said)


def test_an_uncalibrated_bundle_raises_nothing() -> None:
    box = Box(None)
    assert box.see(*[1e9] * 10) == []
    assert box.machine.levels is None


# One event, from beginning to end


def test_event_keeps_its_id_and_peak_score_until_cleared() -> None:
    box = Box()
    said = box.see(HIGH, HIGH, HIGH, 9.0, 3.0) + box.do("acknowledge", by="anna") + box.see(LOW, LOW)
    assert states(said) == [
        RAISED,
        ("alarm", "acknowledged", "acknowledged"),
        ("acknowledged", "cleared", "score"),
        COOL,
    ]
    raised, acknowledged, cleared, cool = said
    assert raised.event == acknowledged.event == cleared.event
    assert raised.event is not None
    assert cool.event is None
    assert (raised.score, raised.threshold, raised.peak) == (HIGH, 1.0, HIGH)
    assert (cleared.score, cleared.peak) == (LOW, 9.0)
    assert raised.raised_wall == cleared.raised_wall == WALL + 3
    assert acknowledged.by == "anna"
    assert [t.sequence for t in said] == [1, 2, 3, 4]


def test_transition_is_json() -> None:
    (raised,) = Box().see(HIGH, HIGH, float("inf"))
    value = json.loads(json.dumps(raised.to_json(), allow_nan=False))
    assert value["state"] == "alarm"
    assert value["at"] == value["raised_at"] == "2027-01-15T08:00:03.000Z"


def test_between_on_and_off_nothing_changes() -> None:
    box = Box(hysteresis=0.2)
    box.see(HIGH, HIGH, HIGH)
    assert box.see(0.9, 0.81, 1.0) == []
    assert states(box.see(0.8)) == [CLEARED]


def test_hysteresis_lies_below_a_threshold_of_any_sign() -> None:
    for clip in (1.0, -1.0, 0.0):
        threshold = Threshold(clip=clip, consecutive=1, found_by="test", clips=1)
        levels = AlarmSettings(hysteresis=0.1, warning_margin=0.3).levels(threshold)
        assert levels is not None
        assert levels.warning is not None
        assert levels.warning_off is not None
        assert levels.warning_off <= levels.warning <= levels.on
        assert levels.off == pytest.approx(clip - 0.1 * abs(clip))


def test_k_of_n_and_the_scores_that_end_it() -> None:
    box = Box(k=3, n=5)
    assert box.see(HIGH, LOW, HIGH, LOW) == []
    assert states(box.see(HIGH)) == [RAISED]
    assert box.see(LOW, LOW, HIGH, LOW, LOW) == []
    assert states(box.see(LOW)) == [CLEARED]


def test_the_condition_must_hold_for_the_minimum_duration() -> None:
    box = Box(min_seconds=5)
    assert box.see(*[HIGH] * 7) == []
    assert states(box.see(HIGH)) == [RAISED]
    box = Box(min_seconds=5)
    assert box.see(*[HIGH] * 7, LOW, *[HIGH] * 7) == []


def test_a_warning_comes_before_an_alarm_and_has_no_event() -> None:
    box = Box(warning_margin=0.5, hysteresis=0.1)
    said = box.see(0.6, 0.6, 0.6, HIGH, HIGH, HIGH)
    assert states(said) == [("normal", "warning", "score"), ("warning", "alarm", "score")]
    assert said[0].event is None
    box = Box(warning_margin=0.5, hysteresis=0.1)
    assert states(box.see(0.6, 0.6, 0.6, 0.47, 0.45)) == [
        ("normal", "warning", "score"),
        ("warning", "normal", "score"),
    ]


def test_lasting_fault_alarms_again_after_the_cooldown() -> None:
    box = Box(cooldown_seconds=10)
    box.see(HIGH, HIGH, HIGH, LOW)
    assert box.see(*[HIGH] * 9) == []
    assert states(box.see(HIGH)) == [COOL, RAISED]


def test_ids_rise_even_when_the_wall_clock_is_set_back() -> None:
    machine = AlarmMachine("valve", "00", AlarmSettings(k=1), THRESHOLD, random_bits=lambda bits: 0)
    ids = []
    for i, wall in enumerate([WALL, 0.0, WALL - 5, WALL + 1]):
        (raised, *_) = [t for t in machine.step(AlarmInput(2 * i, wall, HIGH)) if t.state == "alarm"]
        ids.append(raised.event)
        machine.step(AlarmInput(2 * i + 1, wall, LOW))
    assert ids == sorted(set(ids))  # type: ignore[type-var]


# Commands


def test_snooze_acknowledges_and_raises_nothing_until_over() -> None:
    box = Box()
    box.see(HIGH, HIGH, HIGH)
    (said,) = box.do("snooze", seconds=20)
    assert (said.previous, said.state, said.snoozed_seconds) == ("alarm", "acknowledged", 20.0)
    assert states(box.see(LOW, *[HIGH] * 18)) == [("acknowledged", "cleared", "score"), COOL]
    assert states(box.see(HIGH)) == [("normal", "normal", "snooze_over"), RAISED]


def test_snooze_until_a_wall_time_becomes_a_duration() -> None:
    box = Box()
    (said,) = box.do("snooze", until=WALL + 100)
    assert said.snoozed_seconds == 100
    with pytest.raises(InputError, match="-1 s from now"):
        box.do("snooze", until=WALL - 1)
    with pytest.raises(InputError, match="within the next 30 days"):
        box.do("snooze", until=WALL + 1e9)
    assert states(box.do("end_snooze")) == [("normal", "normal", "snooze_ended")]
    assert box.do("end_snooze") == []


def test_maintenance_closes_the_event_and_starts_afresh() -> None:
    box = Box()
    box.see(HIGH, HIGH, HIGH)
    assert states(box.do("maintenance_on")) == [("alarm", "cleared", "maintenance_on")]
    assert states(box.see(*[HIGH] * 50)) == [COOL]
    assert states(box.do("maintenance_off")) == [("normal", "normal", "maintenance_off")]
    assert box.see(HIGH, HIGH) == []
    assert states(box.see(HIGH)) == [RAISED]


def test_a_command_that_comes_twice_or_too_late_does_nothing() -> None:
    box = Box()
    assert box.do("acknowledge") == box.do("clear") == box.do("maintenance_off") == []
    first = box.see(HIGH, HIGH, HIGH)[0].event
    box.see(LOW, HIGH, HIGH, HIGH)
    assert box.do("acknowledge", event=first) == box.do("clear", event=first) == []
    assert box.machine.state == "alarm"
    assert len(box.do("acknowledge")) == 1
    assert box.do("acknowledge") == []
    assert states(box.do("clear", note="bearing changed")) == [("acknowledged", "cleared", "cleared_by_hand")]


def test_a_test_alarm_is_said_and_changes_nothing() -> None:
    box = Box()
    said = box.do("test", by="anna")
    assert states(said) == [("normal", "alarm", "test"), ("alarm", "normal", "test_over")]
    assert all(t.test and t.event == said[0].event for t in said)
    assert box.machine.event is None


def test_test_alarm_repeats_an_open_event_unchanged() -> None:
    box = Box()
    (raised,) = box.see(HIGH, HIGH, HIGH)
    for was in ("alarm", "acknowledged"):
        before = box.machine.event
        begun, ended, after = box.do("test")
        assert states([begun, ended]) == [(was, "alarm", "test"), ("alarm", was, "test_over")]
        assert begun.event == ended.event > raised.event
        assert (begun.test, ended.test, after.test) == (True, True, False)
        assert (after.event, after.state, after.reason, after.raised_wall) == (
            raised.event,
            was,
            "goes_on",
            raised.raised_wall,
        )
        assert [t.sequence for t in (begun, ended, after)] == list(range(begun.sequence, begun.sequence + 3))
        assert box.machine.event == before
        box.do("acknowledge")
    (cleared,) = box.do("clear")
    assert (cleared.event, cleared.state) == (raised.event, "cleared")


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"command": "reboot"}, "'reboot'"),
        ({"command": "snooze"}, "either seconds or until"),
        ({"command": "snooze", "seconds": 5, "until": 5}, "either seconds or until"),
        ({"command": "snooze", "seconds": float("inf")}, "seconds"),
        ({"command": "acknowledge", "seconds": 5}, "seconds is for snooze"),
        ({"command": "snooze", "seconds": 5, "event": "0" * 26}, "event is for acknowledge"),
        ({"command": "acknowledge", "event": "../../etc/passwd"}, "event"),
        ({"command": "acknowledge", "by": "a\nb"}, "by"),
        ({"command": "acknowledge", "note": "x" * 501}, "note"),
        ({"command": "acknowledge", "shell": "true"}, "shell"),
        ([], "[]"),
        (None, "None"),
    ],
)
def test_a_command_that_means_nothing_is_refused_in_one_line(given_: object, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_command(given_, "plant/valve/set")
    assert str(caught.value).startswith("plant/valve/set: ")
    assert said in str(caught.value)
    assert str(caught.value).isprintable()


# Sick input, gaps, time


def test_sick_input_freezes_an_open_event_and_opens_none() -> None:
    box = Box(recovery_seconds=5)
    box.see(HIGH, HIGH, HIGH)
    assert states(box.see(LOW, HIGH, LOW, input_unhealthy=True)) == [("alarm", "alarm", "input_unhealthy")]
    assert box.machine.suspended
    assert box.see(LOW, LOW, LOW, LOW) == []
    assert states(box.see(LOW)) == [("alarm", "alarm", "input_healthy"), CLEARED]
    assert box.see(*[HIGH] * 9, input_unhealthy=True)[0].reason == "cooldown_over"
    assert box.machine.event is None


def test_a_score_that_is_not_a_number_counts_as_sick_input() -> None:
    box = Box(recovery_seconds=0)
    box.see(HIGH, HIGH, HIGH)
    assert states(box.see(float("nan"))) == [("alarm", "alarm", "input_unhealthy")]
    assert states(box.see(HIGH)) == [("alarm", "alarm", "input_healthy")]


def test_sick_input_allows_acknowledge_and_clear() -> None:
    box = Box()
    box.see(HIGH, HIGH, HIGH)
    box.see(None, input_unhealthy=True)
    assert states(box.do("acknowledge") + box.do("clear")) == [
        ("alarm", "acknowledged", "acknowledged"),
        ("acknowledged", "cleared", "cleared_by_hand"),
    ]


def test_a_gap_ends_an_event_only_where_the_settings_say_so() -> None:
    box = Box()
    box.see(HIGH, HIGH, HIGH)
    assert states(box.see(HIGH, gap=True)) == [("alarm", "cleared", "gap"), COOL]
    box = Box(clear_on_gap=False)
    box.see(HIGH, HIGH, HIGH)
    assert box.see(HIGH, gap=True) == []
    box = Box(clear_on_gap=False)
    box.see(HIGH, HIGH)
    assert box.see(HIGH, gap=True) == []
    assert states(box.see(HIGH, HIGH)) == [RAISED]


def test_restarted_clock_stops_no_cooldown_and_no_snooze() -> None:
    box = Box(cooldown_seconds=10)
    box.now = 1e6
    box.see(HIGH, HIGH, HIGH, LOW)
    box.now = 0.0
    assert box.see(*[HIGH] * 10) == []
    assert states(box.see(HIGH)) == [COOL, RAISED]


@pytest.mark.parametrize(
    ("time", "wall"), [(float("nan"), WALL), (1e12, WALL), (0.0, -1.0), (0.0, float("nan")), (0.0, 1e12)]
)
def test_times_that_are_none_are_refused_and_change_nothing(time: float, wall: float) -> None:
    box = Box()
    box.see(HIGH, HIGH)
    before = box.machine.snapshot()
    with pytest.raises(InputError):
        box.machine.step(AlarmInput(time, wall, HIGH))
    with pytest.raises(InputError):
        box.machine.command(Command(command="test"), time, wall)
    assert box.machine.snapshot() == before


# Settings


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"k": 3, "n": 2}, "k 3 <= n 2"),
        ({"n": 2}, "without k"),
        ({"k": "3"}, "k '3'"),
        ({"hysteresis": 1.5}, "hysteresis"),
        ({"on": float("nan")}, "on"),
        ({"colldown_seconds": 5}, "colldown_seconds"),
        (7, "alarm '7'"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(given_: object, said: str) -> None:
    with pytest.raises(InputError) as caught:
        AlarmSettings.parse(given_, "site.toml: alarm")
    assert str(caught.value).startswith("site.toml: alarm: ")
    assert said in str(caught.value)


def test_thresholds_out_of_order_are_refused() -> None:
    with pytest.raises(InputError, match="off 2: is above on 1"):
        AlarmSettings(off=2.0).levels(THRESHOLD)
    with pytest.raises(InputError, match="warning 2: is above on 1"):
        AlarmSettings(warning=2.0).levels(THRESHOLD)


def test_service_settings_keep_an_event_over_gap_and_dip() -> None:
    box = Box(**SERVICE.model_dump())
    box.see(HIGH, HIGH, HIGH)
    assert box.see(0.95, gap=True) == []
    assert box.machine.state == "alarm"
