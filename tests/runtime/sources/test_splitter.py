"""ChannelSplitter: one source for several streams, each with its own channel, pace and losses."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.runtime.errors import DeviceError
from edgeasd.runtime.sources import AudioChunk, ChannelSplitter, ReconnectingSource, Source
from edgeasd.runtime.sources.base import BaseSource

pytestmark = [pytest.mark.core, pytest.mark.timeout(30)]


class ArraySource(BaseSource):
    """Delivers (n, channels) in chunks of 320, then ends or fails. Refuses two readers at once."""

    def __init__(self, frames: np.ndarray, error: Exception | None = None) -> None:
        super().__init__("device", 16000, live=True, bits=16, channels=frames.shape[1])
        self._frames, self._error, self.closed = frames, error, 0
        self._lock = threading.Lock()

    def read(self) -> AudioChunk | None:
        assert self._lock.acquire(blocking=False), "two readers at once"
        try:
            samples, self._frames = self._frames[:320], self._frames[320:]
            if len(samples):
                return self._make_chunk(samples)
            if self._error:
                raise self._error
            return None
        finally:
            self._lock.release()

    def close(self) -> None:
        self.closed += 1


def noise(frames: int, channels: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (frames, channels)).astype(np.float32)


def drain(source: Source) -> np.ndarray:
    parts = []
    while (chunk := source.read()) is not None:
        parts.append(chunk.samples)
    return np.concatenate(parts)


def next_chunk(source: Source) -> AudioChunk:
    chunk = source.read()
    assert chunk is not None
    return chunk


def reconnecting(*devices: Source, **options: object) -> ReconnectingSource:
    opened = iter(devices)
    return ReconnectingSource(lambda: next(opened), name="device", sample_rate=16000, live=True, **options)  # type: ignore[arg-type]


def twice_opened() -> ReconnectingSource:
    """Two channels: 320 frames, a loss of some seconds, 160,000 frames."""
    ticks = iter(range(1_000_000))
    return reconnecting(
        ArraySource(noise(320, 2), DeviceError("gone")),
        ArraySource(noise(160_000, 2)),
        clock=lambda: float(next(ticks)),
        wait=lambda _: False,
    )


def test_threads_get_every_sample_of_their_channel() -> None:
    frames = noise(50_001, 4)
    device = ArraySource(frames)
    streams = ChannelSplitter(device).channels
    samples: dict[int, np.ndarray] = {}
    threads = [
        threading.Thread(target=lambda channel=channel: samples.update({channel: drain(streams[channel])}))
        for channel in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    for channel in range(4):
        np.testing.assert_array_equal(samples[channel], frames[:, channel])
        assert not device.closed
        streams[channel].close()
    assert device.closed


def test_names_and_bits_tell_channel_and_mean() -> None:
    splitter = ChannelSplitter(ArraySource(noise(320, 2)))
    second, mean = splitter.open(1), splitter.open(mix=True)
    assert (second.name, second.status.bits) == ("device, channel 1 of 2", 16)
    assert (mean.name, mean.status.bits) == ("device, mean of 2 channels", 24)


def test_error_reaches_every_stream_after_its_sound() -> None:
    splitter = ChannelSplitter(ArraySource(noise(320, 2), error=DeviceError("unplugged")))
    for stream in splitter.channels:
        next_chunk(stream)
        for _ in range(2):
            with pytest.raises(DeviceError, match="unplugged"):
                stream.read()


def test_late_reader_loses_its_own_oldest_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeasd.runtime.sources.splitter.HELD_SECONDS", 0.1)
    frames = noise(16_000, 2)
    allowed = threading.Semaphore(0)

    class SteppedSource(ArraySource):
        def read(self) -> AudioChunk | None:
            allowed.acquire()
            return super().read()

    first, second = ChannelSplitter(SteppedSource(frames)).channels
    parts = []
    for _ in range(50):
        allowed.release()
        parts.append(next_chunk(first).samples)
    np.testing.assert_array_equal(np.concatenate(parts), frames[:, 0])
    allowed.release()
    assert first.read() is None
    chunk = next_chunk(second)
    assert (chunk.start_sample, chunk.discontinuity) == (14_400, True)
    np.testing.assert_array_equal(np.concatenate([chunk.samples, drain(second)]), frames[-1600:, 1])
    assert (first.status.lost_samples, second.status.lost_samples) == (0, 14_400)


def test_waiting_splitter_is_as_slow_as_its_slowest_reader() -> None:
    frames = noise(80_000, 2)
    first, second = ChannelSplitter(ArraySource(frames), waits=True).channels
    taken = 0
    while taken < 16_000:
        taken += len(next_chunk(first).samples)
    rest: list[np.ndarray] = []
    reader = threading.Thread(target=lambda: rest.append(drain(first)))
    reader.start()
    reader.join(0.2)
    assert reader.is_alive(), "it waits for the second stream"
    assert second.waiting <= 16_000 + 320
    np.testing.assert_array_equal(drain(second), frames[:, 1])
    reader.join(10)
    np.testing.assert_array_equal(rest[0], frames[taken:, 0])
    assert (first.status.lost_samples, second.status.lost_samples) == (0, 0)


def test_closed_stream_does_not_hold_up_the_others() -> None:
    frames = noise(80_000, 2)
    device = ArraySource(frames)
    first, second = ChannelSplitter(device, waits=True).channels
    next_chunk(second)
    threading.Timer(0.1, second.close).start()
    np.testing.assert_array_equal(drain(first), frames[:, 0])
    assert (second.status.state, second.read(), device.closed) == ("closed", None, 0)
    first.close()
    assert device.closed


def test_later_stream_begins_with_its_first_sound() -> None:
    splitter = ChannelSplitter(twice_opened(), waits=True)
    first = splitter.open(0)
    next_chunk(first)
    next_chunk(first)
    later = splitter.open(mix=True)
    chunk = next_chunk(later)
    assert (chunk.start_sample, chunk.discontinuity) == (0, False)
    assert (later.status.lost_samples, later.status.reconnects, later.take_events()) == (0, 0, [])
    assert first.status.lost_samples > 0
    assert [event.kind for event in first.take_events()] == ["lost", "reopened"]


def test_missing_channel_waits_for_a_device_that_has_it() -> None:
    narrow = ArraySource(noise(640, 1), error=DeviceError("gone"))
    wide, is_plugged_in = ArraySource(np.ones((160_000, 2), np.float32)), threading.Event()
    splitter = ChannelSplitter(reconnecting(narrow, wide, wait=lambda _: not is_plugged_in.wait(10)), waits=True)
    first, second = splitter.open(0), splitter.open(1)
    next_chunk(first)
    next_chunk(first)
    assert second.status.state == "opening"
    reason = "device: has no channel 1, channels are counted from 0 and it has 1; correct the channel"
    assert second.status.reason == reason
    is_plugged_in.set()
    np.testing.assert_array_equal(next_chunk(second).samples, np.ones(320))
    status = second.status
    assert (status.lost_samples, status.reconnects) == (0, 0), "it has only begun"
    assert (status.state, status.reason) == ("open", "")


def test_each_stream_counts_losses_when_it_reads_past_them() -> None:
    device = twice_opened()
    first, second = ChannelSplitter(device, waits=True).channels
    for _ in range(2):
        chunk = next_chunk(first)
    assert chunk.discontinuity
    assert first.status.lost_samples == device.status.lost_samples == chunk.start_sample - 320 > 0
    assert second.status.lost_samples == 0, "it has not read that far"
    next_chunk(second)
    next_chunk(second)
    assert second.status.lost_samples == device.status.lost_samples
    for stream in (first, second):
        assert [event.kind for event in stream.take_events()] == ["lost", "reopened"]


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 20), st.booleans()), min_size=1, max_size=20),
    st.integers(0, 10),
)
def test_stream_has_the_positions_and_gaps_of_its_source(runs: list[tuple[int, int, bool]], skipped: int) -> None:
    """Each run is (frames, frames lost before, overrun before); the stream opens after `skipped` chunks."""

    class GapSource(BaseSource):
        def __init__(self) -> None:
            super().__init__("gaps", 16000, live=True, channels=2)
            self._runs, self.chunks = list(runs), []

        def read(self) -> AudioChunk | None:
            if not self._runs:
                return None
            count, lost, overrun = self._runs.pop(0)
            self._position += lost
            self._change_status(overruns=self.status.overruns + overrun)
            chunk = self._make_chunk(np.full((count, 2), self._position, np.float32), discontinuity=overrun or lost > 0)
            self.chunks.append(chunk)
            return chunk

        def close(self) -> None: ...

    device = GapSource()
    skipped = min(skipped, len(runs) - 1)
    for _ in range(skipped):
        device.read()
    stream = ChannelSplitter(device, waits=True).open(1)
    chunks = []
    while (chunk := stream.read()) is not None:
        chunks.append(chunk)
    origin = device.chunks[skipped].start_sample
    expected = [(one.start_sample - origin, len(one.samples), one.discontinuity) for one in device.chunks[skipped:]]
    expected[0] = (0, expected[0][1], False)
    assert [(one.start_sample, len(one.samples), one.discontinuity) for one in chunks] == expected
    assert stream.status.lost_samples == sum(lost for _, lost, _ in runs[skipped + 1 :])
    assert stream.status.overruns == sum(overrun for *_, overrun in runs[skipped + 1 :])
