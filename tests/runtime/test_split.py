"""One device for several streams: read from several threads, with losses told, and ended together."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from edgeasd.runtime.errors import DeviceError
from edgeasd.runtime.sources import ChannelSplit, Reopening

pytestmark = [pytest.mark.core, pytest.mark.timeout(30)]


class Device:
    """Delivers (n, channels) in blocks of `block`, then ends or fails."""

    name, live, bits = "device", True, 24

    def __init__(self, frames: np.ndarray, rate: int = 16000, block: int = 320, error: Exception | None = None) -> None:
        self._frames, self._block, self._error, self.sample_rate = frames, block, error, rate
        self.channels = frames.shape[1]
        self.overruns, self.closed = 0, 0
        self._lock = threading.Lock()

    def read(self) -> np.ndarray | None:
        assert self._lock.acquire(blocking=False), "two readers at once"
        try:
            taken, self._frames = self._frames[: self._block], self._frames[self._block :]
            if len(taken):
                return taken
            if self._error:
                raise self._error
            return None
        finally:
            self._lock.release()

    def close(self) -> None:
        self.closed += 1


def noise(frames: int, channels: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (frames, channels)).astype(np.float32)


def drain(source: object) -> np.ndarray:
    blocks = []
    while (block := source.read()) is not None:  # type: ignore[attr-defined]
        blocks.append(block)
    return np.concatenate(blocks)


def test_threads_get_every_sample_of_their_channel() -> None:
    frames = noise(50_001, 4)
    device = Device(frames)
    split = ChannelSplit(device)
    got: dict[int, np.ndarray] = {}

    def listen(channel: int) -> None:
        got[channel] = drain(split.sources[channel])

    threads = [threading.Thread(target=listen, args=(channel,)) for channel in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    for channel in range(4):
        np.testing.assert_array_equal(got[channel], frames[:, channel])
        assert not device.closed
        split.sources[channel].close()
    assert device.closed


def test_a_failure_reaches_every_stream_behind_its_sound() -> None:
    split = ChannelSplit(Device(noise(320, 2), error=DeviceError("unplugged")))
    for source in split.sources:
        assert source.read() is not None
        for _ in range(2):
            with pytest.raises(DeviceError, match="unplugged"):
                source.read()


def test_a_late_reader_loses_its_oldest_sound_alone_and_counts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeasd.runtime.sources.split.HELD_SECONDS", 0.1)
    frames = noise(16_000, 2)
    allowed = threading.Semaphore(0)
    device = Device(frames)
    read = device.read
    monkeypatch.setattr(device, "read", lambda: allowed.acquire() and read())
    first, second = ChannelSplit(device).sources
    blocks = []
    for _ in range(50):
        allowed.release()
        blocks.append(first.read())
    np.testing.assert_array_equal(np.concatenate(blocks), frames[:, 0])
    allowed.release()
    assert first.read() is None
    np.testing.assert_array_equal(drain(second), frames[-1600:, 1])
    assert (first.lost_samples, second.lost_samples) == (0, 14_400)


def test_a_device_that_waits_is_as_slow_as_its_slowest_reader_and_loses_nothing() -> None:
    frames = noise(80_000, 2)
    split = ChannelSplit(Device(frames), waits=True)
    first, second = split.sources
    taken = 0
    while taken < 16_000:
        taken += len(first.read())  # type: ignore[arg-type]
    ahead = threading.Thread(target=lambda: ended.append(drain(first)))
    ended: list[np.ndarray] = []
    ahead.start()
    ahead.join(0.3)
    assert ahead.is_alive(), "the device waits for the second one"
    assert second.waiting <= 16_000 + 320
    np.testing.assert_array_equal(drain(second), frames[:, 1])
    ahead.join(10)
    np.testing.assert_array_equal(ended[0], frames[taken:, 0])
    assert (first.lost_samples, second.lost_samples) == (0, 0)


def test_one_that_never_reads_again_is_closed_and_the_others_go_on() -> None:
    frames = noise(80_000, 2)
    device = Device(frames)
    first, second = ChannelSplit(device, waits=True).sources
    assert second.read() is not None
    threading.Timer(0.2, second.close).start()
    np.testing.assert_array_equal(drain(first), frames[:, 0])
    assert (second.state, second.read(), device.closed) == ("closed", None, 0)
    first.close()
    assert device.closed


def test_one_that_comes_later_hears_from_then_on_and_counts_its_own_losses() -> None:
    opened = iter([Device(noise(320, 2), error=DeviceError("gone")), Device(noise(160_000, 2))])
    clock = iter(range(1_000_000))
    device = Reopening(lambda: next(opened), clock=lambda: float(next(clock)), wait=lambda _: False)
    split = ChannelSplit(device, waits=True)
    first = split.open(0)
    assert first.read() is not None
    assert first.read() is not None
    later = split.open(mix=True)
    assert later.read() is not None
    assert (later.lost_samples, later.reopened, list(later.events)) == (0, 0, [])
    assert first.lost_samples > 0
    assert [event.state for event in first.events] == ["lost", "reopened"]


def test_a_channel_that_the_device_has_not_waits_for_a_device_that_has_it() -> None:
    narrow, wide = Device(noise(640, 1), error=DeviceError("gone")), Device(np.ones((160_000, 2), np.float32))
    opened, plugged_in = iter([narrow, wide]), threading.Event()
    device = Reopening(lambda: next(opened), wait=lambda _: not plugged_in.wait(10))
    split = ChannelSplit(device, waits=True)
    first, second = split.open(0), split.open(1)
    assert first.state == second.state == "open"
    for _ in range(2):
        assert first.read() is not None
    assert second.state == "opening"
    assert second.reason == "device: has no channel 1, channels are counted from 0 and it has 1; correct the channel"
    plugged_in.set()
    np.testing.assert_array_equal(second.read(), np.ones(320))
    assert (second.lost_samples, second.reopened) == (0, 0), "it has only begun"
    assert (second.state, second.reason) == ("open", "")


def test_losses_of_the_device_are_told_with_the_samples_behind_them() -> None:
    opened = iter([Device(noise(320, 2), error=DeviceError("gone")), Device(noise(160_000, 2))])
    clock = iter(range(1_000_000))
    device = Reopening(lambda: next(opened), clock=lambda: float(next(clock)), wait=lambda _: False)
    split = ChannelSplit(device, waits=True)
    first, second = split.sources
    assert first.read() is not None
    assert first.read() is not None
    assert first.lost_samples == device.lost_samples > 0
    assert second.lost_samples == 0, "it has not read that far"
    assert second.read() is not None
    assert second.read() is not None
    assert second.lost_samples == device.lost_samples
    assert first.state == "open"
    for source in (first, second):
        assert [event.state for event in source.events] == ["lost", "reopened"]
