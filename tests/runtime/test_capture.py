"""Capture: a thread that reads, a queue that never loses in silence, and an end that is told as it was."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.runtime.errors import DeviceError
from edgeasd.runtime.sources.capture import Block, Capture, SampleQueue

pytestmark = [pytest.mark.core, pytest.mark.timeout(30)]


class Blocks:
    """A source of given blocks; then it ends, fails with `error`, or blocks until it is closed."""

    name, sample_rate, live = "blocks", 16_000, False

    def __init__(self, blocks: list[np.ndarray], error: Exception | None = None, hang: bool = False) -> None:
        self._blocks, self._error, self._hang = iter(blocks), error, hang
        self.closed = threading.Event()
        self.reads = 0

    def read(self) -> np.ndarray | None:
        if self.closed.is_set():
            return None
        self.reads += 1
        for block in self._blocks:
            return block
        if self._error is not None:
            raise self._error
        if self._hang:
            self.closed.wait()
        return None

    def close(self) -> None:
        self.closed.set()


def counting(samples: int, start: int = 0) -> np.ndarray:
    return np.arange(start, start + samples, dtype=np.float32)


def cut(samples: int, sizes: list[int]) -> list[np.ndarray]:
    whole, at, blocks = counting(samples), 0, []
    for size in [*sizes, samples]:
        if len(whole[at : at + size]):
            blocks.append(whole[at : at + size])
        at += size
    return blocks


def drain(queue: SampleQueue) -> Iterator[Block]:
    while (block := queue.get()) is not None:
        yield block


# Block


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 400), max_size=40), st.integers(1, 500), st.booleans())
def test_blocking_never_loses_whatever_the_blocks_and_the_capacity(sizes: list[int], capacity: int, slow: bool) -> None:
    """Blocks larger than the queue included."""
    queue = SampleQueue(capacity, "block")
    capture = Capture(Blocks(cut(5000, sizes)), queue)
    capture.start()
    expected = 0
    for block in drain(queue):
        assert block.position == expected
        np.testing.assert_array_equal(block.samples, counting(block.samples.size, expected))
        expected += block.samples.size
        if slow:
            time.sleep(0.0005)
    assert expected == 5000
    assert (queue.dropped, queue.held) == (0, 0)
    capture.stop()


def test_a_full_queue_makes_the_writer_wait() -> None:
    queue, source = SampleQueue(100, "block"), Blocks([counting(60, 60 * i) for i in range(5)])
    capture = Capture(source, queue)
    capture.start()
    while source.reads < 2:
        time.sleep(0.01)
    time.sleep(0.2)
    assert queue.held == 60
    assert source.reads == 2, "the second block waits, a third is not read"
    assert sum(block.samples.size for block in drain(queue)) == 300
    capture.stop()


def test_what_waits_is_joined_up_to_about_a_second() -> None:
    queue = SampleQueue(100_000, "block")
    for i in range(50):
        queue.put(counting(1000, 1000 * i))
    queue.end()
    sizes = [block.samples.size for block in drain(queue)]
    assert sizes == [16_000, 16_000, 16_000, 2000]
    assert queue.held == 0


# Drop


def test_dropping_counts_and_positions_show_the_gap() -> None:
    queue = SampleQueue(100, "drop")
    for i in range(5):
        assert queue.put(counting(40, 40 * i))
    # two fit; the third to fifth do not
    assert (queue.held, queue.dropped) == (80, 120)
    first = queue.get()
    assert first is not None
    assert (first.position, first.samples.size) == (0, 80)
    queue.put(counting(40, 200))
    queue.end()
    second = queue.get()
    assert second is not None
    assert second.position == 200, "positions go on counting over the loss"
    np.testing.assert_array_equal(second.samples, counting(40, 200))
    assert queue.get() is None


def test_blocks_on_either_side_of_a_gap_are_not_joined() -> None:
    queue = SampleQueue(100, "drop")
    for size in (60, 50, 40):
        queue.put(np.zeros(size, np.float32))
    queue.end()
    assert [(b.position, b.samples.size) for b in drain(queue)] == [(0, 60), (110, 40)]
    assert queue.dropped == 50


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(1, 60) | st.none(), max_size=60), st.integers(1, 100))
def test_every_sample_is_delivered_in_its_place_or_counted_as_dropped(steps: list[int | None], capacity: int) -> None:
    """None reads a block, a number writes that many samples."""
    queue, written = SampleQueue(capacity, "drop"), 0
    blocks: list[Block] = []
    for step in steps:
        if step is not None:
            queue.put(counting(step, written))
            written += step
        elif queue.held:
            block = queue.get()
            assert block is not None
            blocks.append(block)
        assert queue.held <= max(capacity, 60)
    queue.end()
    blocks += drain(queue)
    delivered, end = 0, 0
    for block in blocks:
        assert block.position >= end
        np.testing.assert_array_equal(block.samples, counting(block.samples.size, block.position))
        end = block.position + block.samples.size
        delivered += block.samples.size
    assert delivered + queue.dropped == written


def test_a_dropping_queue_never_makes_the_writer_wait() -> None:
    queue = SampleQueue(10, "drop")
    began = time.monotonic()
    for _ in range(1000):
        queue.put(np.zeros(10, np.float32))
    assert time.monotonic() - began < 1.0
    assert queue.dropped == 9990


# The end


def test_an_error_of_the_source_comes_after_what_it_had_delivered() -> None:
    queue = SampleQueue(10_000, "block")
    capture = Capture(Blocks([counting(50), counting(50, 50)], DeviceError("hw:1: unplugged; plug it in")), queue)
    capture.start()
    capture._thread.join(5)
    block = queue.get()
    assert block is not None
    assert block.samples.size == 100
    for _ in range(2):
        with pytest.raises(DeviceError, match="hw:1: unplugged"):
            queue.get()
    capture.stop()


def test_an_error_reaches_a_reader_that_already_waits() -> None:
    queue = SampleQueue(100, "block")
    capture = Capture(Blocks([], DeviceError("gone")), queue)
    threading.Timer(0.1, capture.start).start()
    with pytest.raises(DeviceError):
        queue.get()
    capture.stop()


@pytest.mark.parametrize("limit", [0, 1, 99, 100, 101, 150, 250, 1000])
def test_the_limit_is_exact(limit: int) -> None:
    queue, source = SampleQueue(10_000, "block"), Blocks([counting(100, 100 * i) for i in range(3)])
    capture = Capture(source, queue, limit)
    capture.start()
    got = [block.samples for block in drain(queue)]
    np.testing.assert_array_equal(np.concatenate([*got, counting(0)]), counting(min(limit, 300)))
    assert source.reads == (min(limit, 300) + 99) // 100 + (limit > 300), "no more is read than needed"
    capture.stop()


@pytest.mark.parametrize("pace", ["block", "drop"])
def test_stop_ends_a_source_that_blocks(pace: str) -> None:
    queue, source = SampleQueue(1000, pace), Blocks([counting(10)], hang=True)
    capture = Capture(source, queue)
    capture.start()
    assert queue.get() is not None
    began = time.monotonic()
    capture.stop()
    assert time.monotonic() - began < 2.0
    assert source.closed.is_set()
    assert not capture._thread.is_alive()


def test_stop_ends_a_writer_that_waits_on_a_full_queue() -> None:
    queue, source = SampleQueue(100, "block"), Blocks([counting(80)] * 10)
    capture = Capture(source, queue)
    capture.start()
    while source.reads < 2:
        time.sleep(0.01)
    began = time.monotonic()
    capture.stop()
    assert time.monotonic() - began < 2.0
    assert not capture._thread.is_alive()
    assert queue.put(counting(1)) is False


def test_nothing_is_lost_before_the_first_read() -> None:
    """As `run` does: capture begins, then the model loads for seconds, then reading begins."""
    queue = SampleQueue(100_000, "drop")
    capture = Capture(Blocks([counting(500, 500 * i) for i in range(100)]), queue)
    capture.start()
    time.sleep(0.3)
    got = np.concatenate([block.samples for block in drain(queue)])
    np.testing.assert_array_equal(got, counting(50_000))
    assert queue.dropped == 0
    capture.stop()


def test_an_overrun_of_the_source_marks_the_block_after_it() -> None:
    class Overrunning:
        name, sample_rate, live, overruns = "overrunning", 16_000, True, 0

        def __init__(self) -> None:
            self.blocks = iter(range(4))

        def read(self) -> np.ndarray | None:
            number = next(self.blocks, None)
            if number is None:
                return None
            self.overruns = int(number >= 2)
            return np.full(10, number, np.float32)

        def close(self) -> None:
            pass

    queue = SampleQueue(1000, "block")
    capture = Capture(Overrunning(), queue)
    capture.start()
    blocks = []
    while (block := queue.get()) is not None:
        blocks.append(block)
    capture.stop()
    samples = np.concatenate([block.samples for block in blocks])
    assert samples.tolist() == [0.0] * 10 + [1.0] * 10 + [2.0] * 10 + [3.0] * 10
    assert [block.position for block in blocks if block.after_loss] == [20]
