"""One source read once for several streams: each takes a channel or the mean."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import replace
from functools import cached_property

from edgeasd.runtime.audio.reader import describe_channel, select_channel
from edgeasd.runtime.sources.base import (
    TICK_SECONDS,
    AudioChunk,
    Source,
    SourceEvent,
    SourceState,
    SourceStatus,
    take_all,
)

HELD_SECONDS = 60.0
"""Sound kept for a stream that reads late. Beyond it the oldest is lost, for that stream alone."""
AHEAD_SECONDS = 1.0
"""With `waits`: sound kept for the slowest stream before the source is read again."""


class ChannelSplitter:
    """Reads a source with every channel in one thread, from the first `read` on, and feeds any number of streams.

    `channels[c]` is channel c; `open` makes a stream of a channel, or of the mean, at any time. Each may be read
    and closed in a thread of its own. An end or an error of the source reaches every stream after the sound that
    it still holds. The source is closed with the last stream. With `waits` no sound is lost here and the source
    is read at the pace of the slowest stream; that is the default if the source is not live.
    """

    def __init__(self, source: Source, *, waits: bool | None = None) -> None:
        self.source = source
        self.waits = not source.live if waits is None else waits
        self.changed = threading.Condition()
        self.is_ended = False
        self.error: Exception | None = None
        """The error that ended the source, if any."""
        self._streams: list[SplitChannel] = []
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="edgeasd-splitter", daemon=True)

    @cached_property
    def channels(self) -> list[SplitChannel]:
        """A stream for each channel of the source, which must be open."""
        return [self.open(channel) for channel in range(self.source.status.channels)]

    @property
    def is_over(self) -> bool:
        """Whether no further stream can be opened: the source has ended or was closed."""
        return self.is_ended or self._closed

    def open(self, channel: int | None = None, mix: bool = False) -> SplitChannel:
        """A further stream. It gets the sound and the events from now on."""
        with self.changed:
            self.share_events()
            stream = SplitChannel(self, channel, mix)
            self._streams.append(stream)
        return stream

    def start(self) -> None:
        """Begin to read the source, unless that has begun. Raises RuntimeError if the system has no thread."""
        with self.changed:
            if self._thread.ident is None and not self._closed:
                self._thread.start()

    def _run(self) -> None:
        error: Exception | None = None
        try:
            while not self._closed:
                if self.waits and not self._has_room():
                    continue
                chunk = self.source.read()
                if chunk is None:
                    break
                self._distribute(chunk)
        except Exception as failure:  # raised again in the readers
            error = failure
        with self.changed:
            self.is_ended, self.error = True, error
            self.changed.notify_all()

    def _has_room(self) -> bool:
        limit = AHEAD_SECONDS * self.source.sample_rate
        with self.changed:
            return self.changed.wait_for(
                lambda: not self._closed and all(stream.waiting < limit for stream in self._streams), TICK_SECONDS
            )

    def _distribute(self, chunk: AudioChunk) -> None:
        limit = None if self.waits else HELD_SECONDS * self.source.sample_rate
        status = self.source.status
        with self.changed:
            for stream in self._streams:
                stream.push(chunk, status, limit)
            self.changed.notify_all()

    def share_events(self) -> None:
        """Copy the new events of the source to every stream."""
        with self.changed:
            events = self.source.take_events()
            for stream in self._streams:
                stream.events.extend(events)

    def leave(self, stream: SplitChannel) -> None:
        """Close one stream, and the source with the last one."""
        with self.changed:
            if stream in self._streams:
                self._streams.remove(stream)
            self._closed = self._closed or not self._streams
            is_closed = self._closed
            self.is_ended = self.is_ended or (is_closed and self._thread.ident is None)
            self.changed.notify_all()
        if is_closed:
            self.source.close()

    def join(self, seconds: float) -> None:
        """After the last stream was closed: wait until the source is released, at most `seconds`."""
        if self._thread.ident is not None:
            self._thread.join(seconds)


class SplitChannel:
    """One channel of a `ChannelSplitter`, or the mean of all; a `Source`. Made by `ChannelSplitter.open`."""

    def __init__(self, splitter: ChannelSplitter, channel: int | None, mix: bool) -> None:
        self._splitter, self._source, self.channel, self._mix = splitter, splitter.source, channel, mix
        self.sample_rate, self.live = splitter.source.sample_rate, splitter.source.live
        self.events: deque[SourceEvent] = deque(maxlen=1000)
        self._chunks: deque[tuple[AudioChunk, SourceStatus]] = deque()
        self.waiting = 0
        """Frames that wait to be read."""
        self._first: SourceStatus | None = None
        """Status of the source at the first samples: earlier losses are not of this stream."""
        self._offset, self._position = 0, 0
        self._overruns, self._lost_samples, self._reconnects = 0, 0, 0
        self._found_channels: int | None = None
        """Channels of the source, if this one is not among them."""
        self._closed = False
        self._made: tuple[SourceStatus, tuple[int | None, ...], SourceStatus] | None = None
        """What the last status was made from, and that status: a service asks hundreds of times a second."""

    @property
    def name(self) -> str:
        """What is in use; before the source is open, what was asked for."""
        count = self._source.status.channels
        if not count:
            return self._source.name + ("" if self.channel is None else f", channel {self.channel}")
        return f"{self._source.name}, {describe_channel(count, self.channel, self._mix)}"

    @property
    def status(self) -> SourceStatus:
        """That of the source, with the losses from the first samples to those read last.

        The state is "opening" while the source does not have this channel.
        """
        source = self._source.status
        counts = self._overruns, self._lost_samples, self._reconnects, self._found_channels, self._closed
        made = self._made
        if made is None or made[0] is not source or made[1] != counts:
            made = self._made = source, counts, self._make_status(source)
        return made[2]

    def _make_status(self, source: SourceStatus) -> SourceStatus:
        status = replace(
            source,
            overruns=self._overruns,
            lost_samples=self._lost_samples,
            reconnects=self._reconnects,
            channels=1,
        )
        if self._mix:
            status = replace(status, bits=24)
        if self._closed:
            return replace(status, state=SourceState.CLOSED, reason="")
        if self._found_channels is not None:
            reason = (
                f"{self._source.name}: has no channel {self.channel}, channels are counted from 0 and it has "
                f"{self._found_channels}; correct the channel"
            )
            return replace(status, state=SourceState.OPENING, reason=reason)
        return status

    def take_events(self) -> list[SourceEvent]:
        """What happened to the source since this stream was opened."""
        self._splitter.share_events()
        return take_all(self.events)

    def push(self, chunk: AudioChunk, status: SourceStatus, limit: float | None) -> None:
        """Keep this channel of a chunk (n, channels), at most `limit` frames in all. Called by the splitter."""
        count = chunk.samples.shape[1]
        self._found_channels = count if self.channel is not None and self.channel >= count else None
        if self._found_channels is not None:
            return
        is_new = self._first is None
        if is_new:
            self._first, self._offset = status, chunk.start_sample
        samples, start = select_channel(chunk.samples, self.channel, self._mix), chunk.start_sample - self._offset
        discontinuity = chunk.discontinuity and not is_new
        self._chunks.append((AudioChunk(samples, start, chunk.captured_at, discontinuity), status))
        self.waiting += len(samples)
        while limit is not None and self.waiting > limit and len(self._chunks) > 1:
            self.waiting -= len(self._chunks.popleft()[0].samples)

    def read(self) -> AudioChunk | None:
        """The next samples; None at the end and after `close`. An error of the source is raised after its sound."""
        self._splitter.start()
        with self._splitter.changed:
            self._splitter.changed.wait_for(lambda: self._closed or self._chunks or self._splitter.is_ended)
            if self._closed:
                return None
            if not self._chunks:
                if self._splitter.error is not None:
                    raise self._splitter.error
                return None
            chunk, status = self._chunks.popleft()
            self.waiting -= len(chunk.samples)
            if self._splitter.waits:
                self._splitter.changed.notify_all()
        lost = chunk.start_sample - self._position
        self._position = chunk.end_sample
        self._lost_samples += lost
        assert self._first is not None
        self._overruns = status.overruns - self._first.overruns
        self._reconnects = status.reconnects - self._first.reconnects
        return AudioChunk(chunk.samples, chunk.start_sample, chunk.captured_at, True) if lost else chunk

    def close(self) -> None:
        """Stop this stream and end a blocked `read`. The source is closed with the last stream."""
        self._closed = True
        self._splitter.leave(self)
