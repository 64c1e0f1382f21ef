"""Batches come in order whoever is faster, errors arrive where they belong, and nothing is left running."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from edgeasd.toolkit.training.data import Ahead, FeaturePool


def thread_names() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize("slow_maker", [False, True])
def test_results_come_in_order_whoever_is_faster(slow_maker: bool) -> None:
    def make(number: int) -> int:
        time.sleep(0.003 * slow_maker)
        return number * number

    with Ahead(make, 3, 20) as ahead:
        found = []
        for _ in range(17):
            time.sleep(0.003 * (not slow_maker))
            found.append(ahead.next())
        assert found == [number * number for number in range(3, 20)]
        with pytest.raises(IndexError, match="after 19"):
            ahead.next()


def test_it_works_at_most_two_ahead_and_one_in_hand() -> None:
    made: list[int] = []

    with Ahead(lambda number: made.append(number) or number, 0, 1000) as ahead:  # type: ignore[func-returns-value]
        assert ahead.next() == 0
        while len(made) < 4:
            time.sleep(0.01)
        time.sleep(0.3)
        assert made == [0, 1, 2, 3]


def test_an_error_is_raised_by_the_step_that_needed_the_batch() -> None:
    def make(number: int) -> int:
        if number == 2:
            raise OSError("no such clip")
        return number

    with Ahead(make, 0, 5) as ahead:
        assert [ahead.next(), ahead.next()] == [0, 1]
        with pytest.raises(OSError, match="no such clip"):
            ahead.next()


def test_leaving_early_leaves_no_thread() -> None:
    with Ahead(lambda number: number, 0, 10**9) as ahead:
        assert ahead.next() == 0
        assert "batches" in thread_names()
    assert "batches" not in thread_names()


def test_waiting_is_counted_and_only_that() -> None:
    with Ahead(lambda number: time.sleep(0.2) or number, 0, 4) as ahead:  # type: ignore[func-returns-value]
        for _ in range(4):
            ahead.next()
        slow = ahead.waited
    assert slow > 0.5
    with Ahead(lambda number: number, 0, 4) as ahead:
        time.sleep(1.0)
        ahead.next()
        assert ahead.waited < 0.5


def test_two_threads_may_read_one_pool() -> None:
    clips = [np.full((8 + i, 2), i, dtype=np.float32) for i in range(40)]
    pool = FeaturePool(40, clips.__getitem__, 8)
    wrong: list[int] = []

    def read(seed: int) -> None:
        rng = np.random.default_rng(seed)
        out = np.empty((8, 2), dtype=np.float32)
        for index in rng.integers(0, 40, 2000):
            pool.crop(int(index), rng.random(), out)
            if not np.all(out == index):
                wrong.append(int(index))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert pool._kept_bytes == sum(clip.nbytes for clip in clips)
