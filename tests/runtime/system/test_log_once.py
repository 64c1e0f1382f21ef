"""Log lines about what fails again and again: few, and none twice."""

from __future__ import annotations

import itertools
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeasd.runtime.system.log_once import PAUSE_SECONDS, LogOnce

pytestmark = pytest.mark.core


class Recorder(logging.Handler):
    """Keeps the lines with the time of a clock that the test turns."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.lines: list[tuple[float, str]] = []
        self.logger = logging.Logger("of this test")
        self.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((self.now, record.getMessage()))

    def log_once(self) -> LogOnce:
        return LogOnce(self.logger, "output plant", lambda: self.now)

    @property
    def texts(self) -> list[str]:
        return [text for _, text in self.lines]


def test_error_and_recovery_are_logged_once() -> None:
    recorder = Recorder()
    log = recorder.log_once()
    log.recovered("delivers again")
    assert recorder.texts == []
    for _ in range(3):
        log.error("broker: refused", "its messages wait")
    for _ in range(3):
        log.recovered("delivers again")
    assert recorder.texts == ["output plant: broker: refused; its messages wait", "output plant: delivers again"]


def test_another_error_is_logged_when_it_lasts() -> None:
    recorder = Recorder()
    log = recorder.log_once()
    log.error("refused")
    log.error("no answer")
    assert recorder.texts == ["output plant: refused"]
    recorder.now = PAUSE_SECONDS
    log.error("refused")
    log.error("no answer")
    assert recorder.texts == ["output plant: refused", "output plant: no answer"]


@given(st.lists(st.tuples(st.floats(0.0, 30.0), st.sampled_from(["refused", "no answer", "denied", ""])), max_size=60))
def test_errors_that_take_turns_fill_no_log(steps: list[tuple[float, str]]) -> None:
    recorder = Recorder()
    log = recorder.log_once()
    for pause, text in steps:
        recorder.now += pause
        if text:
            log.error(text)
        else:
            log.recovered("well")
    errors = [at for at, text in recorder.lines if text != "output plant: well"]
    assert all(later - earlier >= PAUSE_SECONDS for earlier, later in itertools.pairwise(errors))
    assert len(recorder.lines) - len(errors) <= len(errors)
