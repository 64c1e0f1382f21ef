"""Encoders that are loaded once for all who ask for the same."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from edgeasd.runtime.engines import EnginePool, engine_group
from edgeasd.runtime.errors import DeviceError
from edgeasd.runtime.features.logmel import Float32Array

pytestmark = pytest.mark.core


class CountedEngine:
    """Counts what becomes of it, and fails if two threads run it at once."""

    name, accelerator, precision, max_batch = "counted", "cpu", "fp32", 4

    def __init__(self) -> None:
        self.closed, self._running = 0, threading.Lock()

    def embed(self, batch: Float32Array) -> Float32Array:
        assert self._running.acquire(blocking=False)
        try:
            return batch.reshape(len(batch), -1)
        finally:
            self._running.release()

    def close(self) -> None:
        self.closed += 1


def test_one_key_is_loaded_once_and_closed_with_the_last_share() -> None:
    pool, made = EnginePool(), list[CountedEngine]()

    def load() -> CountedEngine:
        made.append(CountedEngine())
        return made[-1]

    one, two, other = pool.open("a", load), pool.open("a", load), pool.open("b", load)
    assert (len(made), len(pool)) == (2, 2)
    assert engine_group(one) is engine_group(two)
    assert engine_group(one) is not engine_group(other)
    one.close()
    one.close()
    assert made[0].closed == 0
    assert two.embed(np.ones((3, 1, 2, 2), np.float32)).shape == (3, 4)
    with pytest.raises(ValueError, match="counted: is closed"):
        one.embed(np.ones((1, 1, 2, 2), np.float32))
    two.close()
    assert (made[0].closed, made[1].closed, len(pool)) == (1, 0, 1)
    again = pool.open("a", load)
    assert len(made) == 3
    assert again.embed(np.ones((1, 1, 2, 2), np.float32)).shape == (1, 4)


def test_a_load_that_fails_leaves_nothing_behind() -> None:
    pool = EnginePool()

    def fail() -> CountedEngine:
        raise DeviceError("no memory; free some")

    with pytest.raises(DeviceError, match="no memory"):
        pool.open("a", fail)
    assert len(pool) == 0
    assert pool.open("a", CountedEngine).name == "counted"


def test_threads_that_ask_at_once_get_one_engine() -> None:
    pool, made, may_load = EnginePool(), list[CountedEngine](), threading.Event()

    def load() -> CountedEngine:
        may_load.wait(30)
        made.append(CountedEngine())
        return made[-1]

    shares = []

    def work() -> None:
        share = pool.open("a", load)
        for _ in range(200):
            share.embed(np.ones((2, 1, 3, 3), np.float32))
        shares.append(share)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    may_load.set()
    for thread in threads:
        thread.join(30)
    assert (len(shares), len(made)) == (4, 1)
    for share in shares:
        share.close()
    assert (made[0].closed, len(pool)) == (1, 0)
