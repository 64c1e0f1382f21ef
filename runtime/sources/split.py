"""One device read once for several streams: each takes a channel or the mean, and is as late as its own reader."""

from __future__ import annotations

import threading
import time
from collections import deque
from functools import cached_property
from typing import TYPE_CHECKING

from edgeasd.runtime.audio.reader import Samples, describe_channel, select_channel
from edgeasd.runtime.sources.base import TICK_SECONDS, SourceEvent

if TYPE_CHECKING:
    from edgeasd.runtime.sources.base import MultiSource

HELD_SECONDS = 60.0
"""Sound kept for a stream whose reader is late; beyond it the oldest is lost, for that stream alone."""
AHEAD_SECONDS = 1.0
"""Where the device waits instead: sound kept for the latest stream before the device is read again."""

_Facts = tuple[int, int, int]
"""Overruns, samples lost and reopenings of the device so far."""


class ChannelSplit:
    """Reads a `MultiSource` in a thread of its own, from the first `read` on, and hands it to any number of streams.

    `sources[c]` is channel c; `open` makes a stream of a channel, or of the mean, at any time. Each may be read
    and closed in its own thread. What ends or fails the device does so for every stream, after the sound it still
    holds. The device is closed with the last stream. With `waits` nothing is ever lost here, and the device is as
    slow as its slowest reader: right for what is not live, and so the default there.
    """

    def __init__(self, device: MultiSource, *, waits: bool | None = None) -> None:
        self.device = device
        self._waits = not device.live if waits is None else waits
        self.changed = threading.Condition()
        self.ended = False
        self.error: BaseException | None = None
        """What ended the device, if not its end."""
        self._open: list[ChannelSource] = []
        self._closed = False
        self._thread = threading.Thread(target=self._read, name="edgeasd-split", daemon=True)

    @cached_property
    def sources(self) -> list[ChannelSource]:
        """A stream for each channel of the device."""
        return [self.open(channel) for channel in range(self.device.channels)]

    @property
    def over(self) -> bool:
        """Whether no further stream can be had: the device has ended, or was closed."""
        return self.ended or self._closed

    def open(self, channel: int | None = None, mix: bool = False) -> ChannelSource:
        """A further stream, which hears what is read from now on."""
        with self.changed:
            self.share_events()  # what was before is not for the new one
            source = ChannelSource(self, channel, mix)
            self._open.append(source)
        return source

    def start(self) -> bool:
        """Begin to read the device, where that has not begun; False where the system has no thread to give now."""
        with self.changed:
            if self._thread.ident is None and not self._closed:
                try:
                    self._thread.start()
                except RuntimeError:
                    if not self.device.live:
                        raise
                    return False
        return True

    def _read(self) -> None:
        error: BaseException | None = None
        try:
            while not self._closed:
                if self._waits and not self._has_room():
                    continue
                frames = self.device.read()
                if frames is None:
                    break
                self._hand_out(frames)
        except Exception as failed:  # handed to the readers
            error = failed
        with self.changed:
            self.ended, self.error = True, error
            self.changed.notify_all()

    def _has_room(self) -> bool:
        limit = AHEAD_SECONDS * self.device.sample_rate
        with self.changed:
            return self.changed.wait_for(
                lambda: not self._closed and all(source.waiting < limit for source in self._open), TICK_SECONDS
            )

    def _hand_out(self, frames: Samples) -> None:
        limit = None if self._waits else HELD_SECONDS * self.device.sample_rate
        overruns, lost, reopened = (
            int(getattr(self.device, fact, 0)) for fact in ("overruns", "lost_samples", "reopened")
        )
        with self.changed:
            for source in self._open:
                source.take(frames, (overruns, lost, reopened), limit)
            self.changed.notify_all()

    def share_events(self) -> None:
        """Give every stream what has happened to the device."""
        with self.changed:
            events = getattr(self.device, "events", None)
            while events:
                event = events.popleft()
                for source in self._open:
                    source.heard_of.append(event)

    def leave(self, source: ChannelSource) -> None:
        """Close one stream, and the device with the last one."""
        with self.changed:
            if source in self._open:
                self._open.remove(source)
            self._closed = self._closed or not self._open
            closed = self._closed
            self.ended = self.ended or (closed and self._thread.ident is None)
            self.changed.notify_all()
        if closed:
            self.device.close()

    def join(self, seconds: float) -> None:
        """Wait until the device is let go of, after the last stream was closed; `seconds` at most."""
        if self._thread.ident is not None:
            self._thread.join(seconds)


class ChannelSource:
    """One channel of a `ChannelSplit`, or the mean of all; a `Source`. `ChannelSplit.open` makes it."""

    def __init__(self, split: ChannelSplit, channel: int | None, mix: bool) -> None:
        self._split, self._device, self.channel, self._mix = split, split.device, channel, mix
        self.sample_rate, self.live = split.device.sample_rate, split.device.live
        self.heard_of: deque[SourceEvent] = deque(maxlen=1000)
        self._blocks: deque[tuple[Samples, _Facts]] = deque()
        self._before: _Facts | None = None
        """Losses of the device before the first samples, which are not of this stream."""
        self._facts: _Facts = (0, 0, 0)
        self.waiting = 0
        """Frames that wait to be read."""
        self._late = 0
        self._missing: int | None = None
        """Channels that there are, where this one is not among them."""
        self.closed = False

    @property
    def name(self) -> str:
        """What is in use; of a device that is not open yet, what was asked for."""
        count = getattr(self._device, "channels", None)
        if not count:
            return self._device.name + ("" if self.channel is None else f", channel {self.channel}")
        return f"{self._device.name}, {describe_channel(count, self.channel, self._mix)}"

    @property
    def bits(self) -> int:
        """Bits of a sample as captured."""
        return int(getattr(self._device, "bits", 16))

    @property
    def converted(self) -> bool:
        """Whether the sound was resampled."""
        return bool(getattr(self._device, "converted", False))

    @property
    def state(self) -> str:
        """That of the device; "opening" while it has not this channel, "closed" after `close`."""
        if self.closed:
            return "closed"
        return str(getattr(self._device, "state", "open")) if self._missing is None else "opening"

    @property
    def reason(self) -> str:
        """Why it is not open; empty where it is, or was closed."""
        if self.closed:
            return ""
        if self._missing is not None:
            return (
                f"{self._device.name}: has no channel {self.channel}, channels are counted from 0 and it has "
                f"{self._missing}; correct the channel"
            )
        return str(getattr(self._device, "reason", "")) if self.state != "open" else ""

    @property
    def since(self) -> float:
        """When the state of the device became what it is, monotonic seconds."""
        return float(getattr(self._device, "since", 0.0))

    @property
    def events(self) -> deque[SourceEvent]:
        """What happened to the device since this stream was opened."""
        self._split.share_events()
        return self.heard_of

    @property
    def overruns(self) -> int:
        """Overruns of the device between the first samples and those read last."""
        return self._facts[0]

    @property
    def lost_samples(self) -> int:
        """Samples known to be lost between the first samples and those read last."""
        return self._facts[1] + self._late

    @property
    def reopened(self) -> int:
        """Reopenings of the device between the first samples and those read last."""
        return self._facts[2]

    def take(self, frames: Samples, facts: _Facts, limit: float | None) -> None:
        """Keep this channel of frames (n, channels), with the losses of the device so far. The split has the lock."""
        if self.channel is not None and self.channel >= frames.shape[1]:
            self._missing = frames.shape[1]
            self._late += len(frames) if self._before is not None else 0
            return
        self._missing = None
        self._before = self._before or facts
        since = (facts[0] - self._before[0], facts[1] - self._before[1], facts[2] - self._before[2])
        self._blocks.append((select_channel(frames, self.channel, self._mix), since))
        self.waiting += len(frames)
        while limit is not None and self.waiting > limit and len(self._blocks) > 1:
            lost = len(self._blocks.popleft()[0])
            self.waiting -= lost
            self._late += lost

    def read(self) -> Samples | None:
        """The next samples, shape (n,), n >= 1, float32; None at the end or after `close`.

        Raises what ended the device, behind its sound.
        """
        while not self.closed and not self._split.start():
            time.sleep(TICK_SECONDS)
        with self._split.changed:
            self._split.changed.wait_for(lambda: self.closed or self._blocks or self._split.ended)
            if self.closed:
                return None
            if not self._blocks:
                if self._split.error is not None:
                    raise self._split.error
                return None
            samples, self._facts = self._blocks.popleft()
            self.waiting -= len(samples)
            self._split.changed.notify_all()
        return samples

    def close(self) -> None:
        """Stop this stream and end a `read` in another thread; the device is closed with the last one."""
        self.closed = True
        self._split.leave(self)
