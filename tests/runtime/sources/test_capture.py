"""Capture: nothing is lost uncounted, the queue keeps its bounds, and samples get their true times."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.runtime.errors import DeviceError
from edgeasd.runtime.sources import AudioChunk
from edgeasd.runtime.sources.base import BaseSource
from edgeasd.runtime.sources.capture import CaptureClock, CaptureThread, SampleQueue
from edgeasd.runtime.system.clocks import wall_time

pytestmark = [pytest.mark.core, pytest.mark.timeout(30)]
RATE = 16_000


class ChunkSource(BaseSource):
    """Delivers given chunks, then ends, raises `error`, or blocks until it is closed."""

    def __init__(self, chunks: list[AudioChunk], error: Exception | None = None, hang: bool = False) -> None:
        super().__init__("chunks", RATE, live=False)
        self._chunks, self._error, self._hang = iter(chunks), error, hang
        self.reads = 0
        self.is_read = threading.Condition()

    def read(self) -> AudioChunk | None:
        if self._closed.is_set():
            return None
        with self.is_read:
            self.reads += 1
            self.is_read.notify_all()
        for chunk in self._chunks:
            return chunk
        if self._error is not None:
            raise self._error
        if self._hang:
            self._closed.wait()
        return None

    def wait_for_reads(self, count: int) -> None:
        with self.is_read:
            assert self.is_read.wait_for(lambda: self.reads >= count, 20)

    def close(self) -> None:
        self._mark_closed()


def counting(samples: int, start: int = 0, *, discontinuity: bool = False) -> AudioChunk:
    values = np.arange(start, start + samples, dtype=np.float32)
    return AudioChunk(values, start, discontinuity=discontinuity)


def cut(samples: int, sizes: list[int]) -> list[AudioChunk]:
    at, chunks = 0, []
    for size in [*sizes, samples]:
        if size := min(size, samples - at):
            chunks.append(counting(size, at))
        at += size
    return chunks


def drain(queue: SampleQueue) -> Iterator[AudioChunk]:
    while (chunk := queue.get()) is not None:
        yield chunk


def assert_counting(chunk: AudioChunk) -> None:
    np.testing.assert_array_equal(chunk.samples, counting(len(chunk.samples), chunk.start_sample).samples)


# SampleQueue, block


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 400), max_size=40), st.integers(1, 500))
def test_blocking_queue_never_loses(sizes: list[int], capacity: int) -> None:
    """Chunks larger than the queue included."""
    queue = SampleQueue(capacity, "block")
    capture = CaptureThread(ChunkSource(cut(5000, sizes)), queue)
    capture.start()
    expected = 0
    for chunk in drain(queue):
        assert (chunk.start_sample, chunk.discontinuity) == (expected, False)
        assert_counting(chunk)
        expected = chunk.end_sample
    assert expected == 5000
    assert (queue.dropped, queue.held) == (0, 0)
    capture.stop()


def test_full_queue_makes_the_writer_wait() -> None:
    queue, source = SampleQueue(100, "block"), ChunkSource([counting(60, 60 * i) for i in range(5)])
    capture = CaptureThread(source, queue)
    capture.start()
    source.wait_for_reads(2)
    time.sleep(0.05)
    assert (queue.held, source.reads) == (60, 2), "the second chunk waits, a third is not read"
    assert sum(len(chunk.samples) for chunk in drain(queue)) == 300
    capture.stop()


def test_waiting_chunks_are_joined_up_to_a_second() -> None:
    queue = SampleQueue(100_000, "block")
    for i in range(50):
        queue.put(counting(1000, 1000 * i))
    queue.end()
    assert [len(chunk.samples) for chunk in drain(queue)] == [16_000, 16_000, 16_000, 2000]
    assert queue.held == 0


def test_take_returns_single_chunks_without_waiting() -> None:
    changes: list[int] = []
    queue = SampleQueue(1000, "block", lambda: changes.append(1))
    assert queue.take() is None
    for i in range(2):
        queue.put(counting(10, 10 * i))
    queue.end(DeviceError("gone"))
    assert len(changes) == 3
    chunks = [queue.take(), queue.take()]
    assert [chunk.start_sample for chunk in chunks if chunk is not None] == [0, 10]
    assert (queue.take(), queue.ended, str(queue.error)) == (None, True, "gone")


def test_get_returns_none_after_its_timeout() -> None:
    queue = SampleQueue(1000, "block")
    assert queue.get(timeout=0.01) is None
    assert not queue.ended


# SampleQueue, drop


def test_drops_are_counted_and_leave_a_discontinuity() -> None:
    queue = SampleQueue(100, "drop")
    for i in range(5):
        assert queue.put(counting(40, 40 * i))
    assert (queue.held, queue.dropped) == (80, 120), "two fit, the third to fifth do not"
    first = queue.get()
    assert first is not None
    assert (first.start_sample, len(first.samples)) == (0, 80)
    queue.put(counting(40, 200))
    queue.end()
    second = queue.get()
    assert second is not None
    assert (second.start_sample, second.discontinuity) == (200, True)
    assert_counting(second)
    assert queue.get() is None


@pytest.mark.parametrize("discontinuity", [True, False])
def test_chunks_around_a_gap_are_not_joined(discontinuity: bool) -> None:
    queue = SampleQueue(1000, "drop")
    second = 60 if discontinuity else 110
    for chunk in (counting(60), counting(40, second, discontinuity=discontinuity)):
        queue.put(chunk)
    queue.end()
    assert [(chunk.start_sample, len(chunk.samples)) for chunk in drain(queue)] == [(0, 60), (second, 40)]


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(1, 60) | st.none(), max_size=60), st.integers(1, 100))
def test_every_sample_is_delivered_or_counted(steps: list[int | None], capacity: int) -> None:
    """None reads a chunk, a number writes that many samples."""
    queue, written = SampleQueue(capacity, "drop"), 0
    chunks: list[AudioChunk] = []
    for step in steps:
        if step is not None:
            queue.put(counting(step, written))
            written += step
        elif queue.held:
            chunk = queue.get()
            assert chunk is not None
            chunks.append(chunk)
        assert queue.held <= max(capacity, 60)
    queue.end()
    chunks += drain(queue)
    end = 0
    for chunk in chunks:
        assert chunk.start_sample >= end
        assert chunk.discontinuity == (chunk.start_sample > end)
        assert_counting(chunk)
        end = chunk.end_sample
    assert sum(len(chunk.samples) for chunk in chunks) + queue.dropped == written


def test_dropping_queue_never_makes_the_writer_wait() -> None:
    queue = SampleQueue(10, "drop")
    for i in range(1000):
        queue.put(counting(10, 10 * i))
    assert queue.dropped == 9990


# CaptureThread


def test_error_of_the_source_comes_after_its_sound() -> None:
    queue = SampleQueue(10_000, "block")
    capture = CaptureThread(ChunkSource([counting(50), counting(50, 50)], DeviceError("hw:1: unplugged")), queue)
    capture.start()
    assert sum(len(chunk.samples) for chunk in (queue.get(), queue.get() if queue.held else None) if chunk) == 100
    for _ in range(2):
        with pytest.raises(DeviceError, match="hw:1: unplugged"):
            queue.get()
    capture.stop()


def test_error_reaches_a_reader_that_already_waits() -> None:
    queue = SampleQueue(100, "block")
    capture = CaptureThread(ChunkSource([], DeviceError("gone")), queue)
    threading.Timer(0.05, capture.start).start()
    with pytest.raises(DeviceError):
        queue.get()
    capture.stop()


@pytest.mark.parametrize("limit", [0, 1, 99, 100, 101, 150, 250, 1000])
def test_limit_is_exact(limit: int) -> None:
    queue, source = SampleQueue(10_000, "block"), ChunkSource([counting(100, 100 * i) for i in range(3)])
    capture = CaptureThread(source, queue, limit)
    capture.start()
    assert [chunk.end_sample for chunk in drain(queue)][-1:] == ([min(limit, 300)] if limit else [])
    assert source.reads == (min(limit, 300) + 99) // 100 + (limit > 300), "no more is read than needed"
    capture.stop()


@pytest.mark.parametrize("pace", ["block", "drop"])
def test_stop_ends_a_source_that_blocks(pace: str) -> None:
    queue, source = SampleQueue(1000, pace), ChunkSource([counting(10)], hang=True)
    capture = CaptureThread(source, queue)
    capture.start()
    assert queue.get() is not None
    capture.stop()
    assert source.status.state == "closed"
    assert queue.get(timeout=0.0) is None
    assert queue.ended


def test_stop_ends_a_writer_that_waits_on_a_full_queue() -> None:
    queue, source = SampleQueue(100, "block"), ChunkSource(cut(800, [80] * 10))
    capture = CaptureThread(source, queue)
    capture.start()
    source.wait_for_reads(2)
    began = time.monotonic()
    capture.stop()
    assert time.monotonic() - began < 4.0
    assert queue.put(counting(1)) is False


def test_nothing_is_lost_before_the_first_read() -> None:
    """As in a service: capture begins, the model loads for seconds, then reading begins."""
    queue, source = SampleQueue(100_000, "drop"), ChunkSource(cut(50_000, [500] * 100))
    capture = CaptureThread(source, queue)
    capture.start()
    source.wait_for_reads(101)
    assert [chunk.end_sample for chunk in drain(queue)][-1] == 50_000
    assert queue.dropped == 0
    capture.stop()


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, 30), st.booleans()), min_size=1, max_size=20),
    st.integers(1, 60),
)
def test_positions_do_not_depend_on_how_sound_is_cut(runs: list[tuple[int, int, bool]], size: int) -> None:
    """Each run is (samples, samples lost before, an unknown amount lost before)."""

    def delivered(size: int) -> tuple[dict[int, float], set[int]]:
        chunks, at = [], 0
        for count, lost, is_overrun in runs:
            at += lost
            for start in range(at, at + count, size):
                is_gap = start == at and (lost > 0 or is_overrun)
                chunks.append(counting(min(size, at + count - start), start, discontinuity=is_gap))
            at += count
        queue = SampleQueue(100, "block")
        capture = CaptureThread(ChunkSource(chunks), queue)
        capture.start()
        samples: dict[int, float] = {}
        gaps = set()
        for chunk in drain(queue):
            samples |= {chunk.start_sample + i: float(value) for i, value in enumerate(chunk.samples)}
            gaps |= {chunk.start_sample} if chunk.discontinuity else set()
        capture.stop()
        return samples, gaps

    assert delivered(size) == delivered(1000)


# CaptureClock


class Arrivals:
    """Passes chunks that arrive at given times through a CaptureClock."""

    def __init__(self, live: bool = True) -> None:
        self._clock, self._position = CaptureClock(RATE, live), 0

    def date(self, count: int, arrival: float, lost: int = 0, discontinuity: bool = False) -> float:
        """The time of the first of `count` samples that arrived at `arrival`."""
        start = self._position + lost
        self._position = start + count
        chunk = AudioChunk(np.zeros(count, np.float32), start, arrival - count / RATE, discontinuity)
        return self._clock.date(chunk).captured_at


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(1, 4000), st.floats(0.0, 2.0)), min_size=1, max_size=100), st.floats(-1e-4, 1e-4))
def test_late_reads_do_not_shift_times(chunks: list[tuple[int, float]], drift: float) -> None:
    """Chunks arrive when their last sample was captured, or later by the second figure; the first is on time."""
    arrivals, position = Arrivals(), 0
    for number, (count, delay) in enumerate(chunks):
        true = 50.0 + position / RATE * (1 + drift)
        position += count
        at = arrivals.date(count, 50.0 + position / RATE * (1 + drift) + (delay if number else 0.0))
        seconds = position / RATE
        assert at == pytest.approx(true, abs=1e-6 + seconds * (CaptureClock.DRIFT + abs(drift)))


def test_clock_follows_a_slow_device() -> None:
    arrivals, rate = Arrivals(), RATE * (1 - 1e-4)
    for chunk in range(1, 20_000):
        at = arrivals.date(512, chunk * 512 / rate)
    assert at == pytest.approx((20_000 - 2) * 512 / rate, abs=1e-3)


@pytest.mark.parametrize("share", [0.002, 0.02])
def test_uncounted_losses_of_a_camera_do_not_date_sound_back(share: float) -> None:
    arrivals, count, worst = Arrivals(), 1024, 0.0
    for number in range(1, 10_000):
        now = number * count / RATE / (1 - share)
        worst = max(worst, abs(arrivals.date(count, now) - (now - count / RATE)))
    assert worst < CaptureClock.LATE_SECONDS + 2.1 * share * CaptureClock.WINDOW_SECONDS


def test_stall_is_forgotten_in_two_minutes() -> None:
    arrivals, count = Arrivals(), 1600
    for number in range(1, 3000):
        now = 0.1 * number + (6.0 if number > 600 else 0.0)
        at = arrivals.date(count, now)
        if not 600 < number < 1900:
            assert at == pytest.approx(now - 0.1, abs=0.1)


def test_file_keeps_the_times_of_its_reads() -> None:
    clock = CaptureClock(RATE, live=False)
    for start, now in ((0, 1.0), (16000, 1.1)):
        chunk = AudioChunk(np.zeros(16000, np.float32), start, now)
        assert clock.date(chunk).captured_at == now


@pytest.mark.parametrize(("lost", "discontinuity"), [(0, True), (400, False)])
def test_times_begin_anew_after_a_loss(lost: int, discontinuity: bool) -> None:
    arrivals = Arrivals()
    arrivals.date(RATE, 1.0)
    assert arrivals.date(RATE, 11.0, lost, discontinuity) == pytest.approx(10.0)


@pytest.mark.parametrize("step", [-86400.0, 3600.0])
def test_step_of_the_wall_clock_changes_reports_alone(step: float) -> None:
    monotonic, wall, arrivals = 100.0, 1_700_000_000.0, Arrivals()
    for second in range(10):
        monotonic += 1.0
        wall += 1.0 + (step if second == 4 else 0.0)
        at = arrivals.date(RATE, monotonic)
        assert at == pytest.approx(100.0 + second)
    assert wall_time(at, lambda: monotonic, lambda: wall) == pytest.approx(1_700_000_000.0 + 9.0 + step)
