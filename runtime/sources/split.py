"""One stream for each channel of a device: several machines on one sound card."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from edgeasd.runtime.audio import Samples, StreamResampler, select_channel
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.sources.base import TICK_SECONDS

if TYPE_CHECKING:
    from edgeasd.runtime.sources.base import MultiSource

HELD_SECONDS = 60.0
"""Sound kept for a stream whose reader is late; beyond it the oldest is lost, for that stream alone."""


_Facts = tuple[int, int, int]
"""Overruns, samples lost and reopenings of the device so far."""


class ChannelSplit:
    """Reads a `MultiSource` once and hands each channel to a `Source` of its own.

    `sources[c]` is channel c at `sample_rate`, resampled by soxr where the device has another rate. They may
    be read from different threads; whoever comes first reads for all. What ends or fails the device does so
    for every stream, after the sound it still holds. The device is closed with the last open stream.
    """

    def __init__(self, device: MultiSource, sample_rate: int, *, resample: bool = False) -> None:
        """Raises InputError where `device` has another rate and `resample` is not asked for."""
        if device.sample_rate != sample_rate and not resample:
            device.close()
            raise InputError(f"{device.name}: {device.sample_rate} Hz, {sample_rate} Hz are expected; pass --resample")
        self._device = device
        self._reading = threading.Lock()
        self._end: BaseException | None = None
        self._ended = False
        self.sources = [ChannelSource(self, device, channel, sample_rate) for channel in range(device.channels)]

    def read_for_all(self, asking: ChannelSource) -> None:
        """Read one block of the device into every stream, unless somebody else has done so meanwhile."""
        if not self._reading.acquire(timeout=TICK_SECONDS):
            return
        try:
            if asking.waiting or self._ended:
                return
            frames = self._device.read()
            if frames is None:
                self._ended = True
                return
            overruns, lost, reopened = (
                int(getattr(self._device, fact, 0)) for fact in ("overruns", "lost_samples", "reopened")
            )
            facts = (overruns, lost, reopened)
            for source in self.sources:
                source.take(frames, facts)
        except Exception as error:
            self._end, self._ended = error, True
        finally:
            self._reading.release()

    def ended(self) -> bool:
        """Whether nothing more will come; raises what ended the device, if not its end."""
        if self._ended and self._end is not None:
            raise self._end
        return self._ended

    def close_if_unused(self) -> None:
        """Close the device once no stream is open."""
        if all(source.closed for source in self.sources):
            self._device.close()


class ChannelSource:
    """One channel of a `ChannelSplit`; a `Source`."""

    def __init__(self, split: ChannelSplit, device: MultiSource, channel: int, sample_rate: int) -> None:
        self._split, self._device, self.channel = split, device, channel
        self.sample_rate, self.live = sample_rate, device.live
        self.bits = int(getattr(device, "bits", 16))
        self.converted = device.sample_rate != sample_rate
        changed = f" resampled to {sample_rate} Hz" if self.converted else ""
        self.name = f"{device.name}{changed}, channel {channel} of {device.channels}"
        self._blocks: deque[tuple[Samples, _Facts]] = deque()
        self._lock = threading.Lock()
        self._held, self._late, self._late_seen, self._facts = 0, 0, 0, (0, 0, 0)
        self._resampler = self._new_resampler()
        self.closed = False

    def _new_resampler(self) -> StreamResampler | None:
        return StreamResampler(self._device.sample_rate, self.sample_rate) if self.converted else None

    def __getattr__(self, name: str) -> Any:
        # State and its time are the device's; what happened to it is said once, by the first stream.
        if name in ("state", "since", "reason") or (name == "events" and self.channel == 0):
            return getattr(self._device, name)
        raise AttributeError(name)

    @property
    def waiting(self) -> int:
        """Frames that wait to be read."""
        return self._held

    @property
    def overruns(self) -> int:
        """Overruns of the device before the samples read last."""
        return self._facts[0]

    @property
    def reopened(self) -> int:
        """Reopenings of the device before the samples read last."""
        return self._facts[2]

    @property
    def lost_samples(self) -> int:
        """Samples known to be lost before the samples read last, at `sample_rate`."""
        return round((self._facts[1] + self._late) * self.sample_rate / self._device.sample_rate)

    def take(self, frames: Samples, facts: _Facts) -> None:
        """Keep this channel of frames (n, channels), with the losses of the device so far."""
        if self.closed:
            return
        with self._lock:
            self._blocks.append((select_channel(frames, self.channel, False), facts))
            self._held += len(frames)
            while self._held > HELD_SECONDS * self._device.sample_rate and len(self._blocks) > 1:
                lost = len(self._blocks.popleft()[0])
                self._held -= lost
                self._late += lost

    def read(self) -> Samples | None:
        """The next samples, shape (n,), n >= 1, float32; None at the end or after `close`."""
        while not self.closed:
            with self._lock:
                block = self._blocks.popleft() if self._blocks else None
                self._held -= len(block[0]) if block else 0
            if block is None:
                if self._split.ended():
                    return None
                self._split.read_for_all(self)
                continue
            samples, facts = block
            if self._resampler is not None:
                if (facts, self._late) != (self._facts, self._late_seen):
                    self._resampler, self._late_seen = self._new_resampler(), self._late
                    assert self._resampler is not None
                samples = self._resampler.push(samples)
            self._facts = facts
            if len(samples):
                return samples
        return None

    def close(self) -> None:
        """Stop this stream; the device is closed with the last one."""
        self.closed = True
        self._split.close_if_unused()
