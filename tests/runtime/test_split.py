"""One stream for each channel: read from several threads, resampled, with losses told, and ended together."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import soxr

from edgeasd.runtime.errors import DeviceError, InputError
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
    split = ChannelSplit(device, 16000)
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


def test_channels_are_resampled_each_for_itself() -> None:
    frames = noise(96_000, 2)
    split = ChannelSplit(Device(frames, 48000), 16000, resample=True)
    for channel, source in enumerate(split.sources):
        assert source.converted
        assert source.name == f"device resampled to 16000 Hz, channel {channel} of 2"
        expected = soxr.resample(frames[:, channel].copy(), 48000, 16000, quality="HQ")
        got = drain(source)
        np.testing.assert_allclose(got, expected[: len(got)], rtol=0, atol=2e-6)
        assert len(expected) - len(got) < 200, "the filter's memory"


def test_another_rate_is_refused_where_nobody_asked() -> None:
    device = Device(noise(10, 2), 48000)
    with pytest.raises(InputError, match="device: 48000 Hz, 16000 Hz are expected; pass --resample"):
        ChannelSplit(device, 16000)
    assert device.closed


def test_a_failure_reaches_every_stream_behind_its_sound() -> None:
    split = ChannelSplit(Device(noise(320, 2), error=DeviceError("unplugged")), 16000)
    for source in split.sources:
        assert source.read() is not None
        for _ in range(2):
            with pytest.raises(DeviceError, match="unplugged"):
                source.read()


def test_a_late_reader_loses_its_oldest_sound_alone_and_counts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeasd.runtime.sources.split.HELD_SECONDS", 0.1)
    frames = noise(16_000, 2)
    split = ChannelSplit(Device(frames), 16000)
    first, second = split.sources
    np.testing.assert_array_equal(drain(first), frames[:, 0])
    late = drain(second)
    np.testing.assert_array_equal(late, frames[-1600:, 1])
    assert (first.lost_samples, second.lost_samples) == (0, 14_400)


def test_losses_of_the_device_are_told_with_the_samples_behind_them() -> None:
    opened = iter([Device(noise(320, 2), error=DeviceError("gone")), Device(noise(320, 2))])
    clock = iter(range(1000))
    device = Reopening(lambda: next(opened), clock=lambda: float(next(clock)), wait=lambda _: False)
    split = ChannelSplit(device, 16000)
    first, second = split.sources
    assert first.read() is not None
    assert first.read() is not None
    assert first.lost_samples == device.lost_samples > 0
    assert second.lost_samples == 0, "it has not read that far"
    assert second.read() is not None
    assert second.read() is not None
    assert second.lost_samples == device.lost_samples
    assert first.state == "open"
    assert [event.state for event in first.events] == ["lost", "reopened"]
    assert not hasattr(second, "events"), "one listener says it"
