"""What people are told of an output: little, and nothing twice."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeasd.runtime.outputs.notices import PAUSE_SECONDS, Notices

pytestmark = pytest.mark.core


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_trouble_is_told_once_and_its_end_once() -> None:
    told: list[str] = []
    notices = Notices("output plant", told.append, Clock())
    notices.well("delivers again")
    assert told == []
    for _ in range(3):
        notices.failed("broker: refused", "its messages wait")
    for _ in range(3):
        notices.well("delivers again")
    assert told == ["output plant: broker: refused; its messages wait", "output plant: delivers again"]


def test_another_trouble_is_told_when_it_lasts() -> None:
    told: list[str] = []
    clock = Clock()
    notices = Notices("output plant", told.append, clock)
    notices.failed("refused")
    notices.failed("no answer")
    assert told == ["output plant: refused"]
    clock.now = PAUSE_SECONDS
    notices.failed("refused")
    notices.failed("no answer")
    assert told == ["output plant: refused", "output plant: no answer"]


@given(st.lists(st.tuples(st.floats(0.0, 30.0), st.sampled_from(["refused", "no answer", "denied", ""])), max_size=60))
def test_troubles_that_take_turns_fill_no_log(steps: list[tuple[float, str]]) -> None:
    told: list[tuple[float, str]] = []
    clock = Clock()
    notices = Notices("x", lambda line: told.append((clock.now, line)), clock)
    for pause, text in steps:
        clock.now += pause
        if text:
            notices.failed(text)
        else:
            notices.well("well")
    troubles = [at for at, line in told if line != "x: well"]
    assert all(later - earlier >= PAUSE_SECONDS for earlier, later in itertools.pairwise(troubles))
    assert len(told) - len(troubles) <= len(troubles)


def test_a_log_that_cannot_be_written_holds_nothing_up() -> None:
    def broken(line: str) -> None:
        raise OSError(line)

    Notices("x", broken).failed("refused")
