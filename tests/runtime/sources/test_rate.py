"""A live source that delivers another rate than it says, and what must not be taken for one."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterable, Iterator

import pytest

from edgeasd.runtime.sources.base import SourceEventKind
from edgeasd.runtime.sources.command import CommandSource
from edgeasd.runtime.sources.rate import RateWatch

pytestmark = pytest.mark.core
RATE = 16_000
Arrival = tuple[float, int]


def paced(rate: float, seconds: float, block: float = 0.032, start: float = 0.0) -> Iterator[Arrival]:
    """Blocks of `block` seconds of their own sound from a device that delivers `rate` samples a second."""
    for k in range(1, int(seconds / block) + 1):
        yield start + k * block, round(rate * block)


def told(arrivals: Iterable[Arrival], watch: RateWatch | None = None) -> tuple[RateWatch, float | None]:
    """The watch after all arrivals, and when it first spoke."""
    watch, at = watch or RateWatch(RATE), None
    for now, samples in arrivals:
        watch.add(samples, now)
        if watch.fault and at is None:
            at = now
    return watch, at


@pytest.mark.parametrize(
    ("rate", "block", "within"),
    [
        *((8000, 0.032, 9.0), (48_000, 0.1, 9.0), (15_000, 0.032, 18.0), (14_750, 0.032, 10.0)),
        *((8000, 1.5, 14.0), (22_050, 2.0, 20.0), (24_000, 6.0, 70.0)),
    ],
)
def test_wrong_rate_is_told_with_both_figures(rate: float, block: float, within: float) -> None:
    watch, at = told(paced(rate, 120, block))
    assert at is not None
    assert at <= within
    assert "16,000 are expected" in watch.fault
    assert f"{round(rate):,}" in watch.fault


def with_jitter(arrivals: Iterable[Arrival], most: float) -> Iterator[Arrival]:
    """Each block late by up to `most` seconds, in order."""
    generator, before = random.Random(3), 0.0
    for now, samples in arrivals:
        before = max(before, now + generator.uniform(0, most))
        yield before, samples


def start_up_burst(seconds: float) -> Iterator[Arrival]:
    yield 0.1, int(seconds * RATE)
    yield from paced(RATE, 60, start=0.1)


def pause(length: float, is_caught_up: bool) -> Iterator[Arrival]:
    yield from paced(RATE, 20)
    if is_caught_up:
        yield 20 + length, round(length * RATE)
    yield from paced(RATE, 60, start=20 + length)


def losses() -> Iterator[Arrival]:
    """Now and then half a second is lost."""
    return (one for k, one in enumerate(paced(RATE, 120)) if k % 300 > 15)


@pytest.mark.parametrize(
    "arrivals",
    [
        paced(RATE, 300),
        paced(RATE * 1.001, 300),
        paced(RATE * 0.999, 300, block=0.1),
        with_jitter(paced(RATE, 300), 2.0),
        paced(RATE, 600, block=6.0),
        paced(RATE, 600, block=1.3),
        with_jitter(paced(RATE, 600, block=4.0), 3.0),
        start_up_burst(30.0),
        pause(9.0, True),
        pause(9.0, False),
        pause(0.7, False),
        losses(),
    ],
    ids=lambda _: "",
)
def test_right_rate_with_all_that_happens(arrivals: Iterator[Arrival]) -> None:
    assert told(arrivals)[1] is None


def test_fault_ends_when_the_rate_is_right_again() -> None:
    watch, _ = told(paced(8000, 20))
    assert watch.fault
    assert not told(paced(RATE, 20, start=20), watch)[0].fault


def test_fault_stays_while_the_source_is_restart() -> None:
    watch, _ = told(paced(48_000, 10))
    for now, samples in paced(RATE, 60, start=10):
        watch.add(samples, now)
        watch.restart()
    assert watch.fault


def test_reader_that_is_busy_elsewhere_accuses_nobody() -> None:
    watch = RateWatch(RATE)
    for now, samples in paced(8000, 60):
        watch.add(samples, now, away=0.016)
    assert not watch.fault


def test_command_that_delivers_half() -> None:
    code = "import sys,time\nwhile True: sys.stdout.buffer.write(bytes(1600)); sys.stdout.flush(); time.sleep(0.1)"
    source = CommandSource(f"{sys.executable} -c '{code}'", RATE, live=True)
    try:
        begun = time.monotonic()
        while not source.status.rate_fault and time.monotonic() < begun + 30:
            assert source.read() is not None
        assert "where 16,000 are expected" in source.status.rate_fault
        assert [event.kind for event in source.take_events()] == [SourceEventKind.WRONG_RATE]
    finally:
        source.close()


def test_rate_is_doubtful_before_it_is_told() -> None:
    watch, first = RateWatch(RATE), None
    for now, samples in paced(48_000, 9, 0.1):
        watch.add(samples, now)
        if watch.is_doubtful and first is None:
            first = now
    assert first is not None
    assert first < 4.0
    for now, samples in start_up_burst(30.0):
        watch = watch if now > 0.1 else RateWatch(RATE)
        watch.add(samples, now)
        assert not watch.is_doubtful
