"""What every source offers: chunks of sound, a status, and events."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Protocol

from edgeasd.runtime.audio.reader import Samples
from edgeasd.runtime.sources.rate import RateWatch

TICK_SECONDS = 0.1  # how long a blocked read() may take to notice close()
MAX_CHANNELS = 1024


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """Consecutive samples of one source, and what was lost before them."""

    samples: Samples
    """Shape (n,), n >= 1, float32; (n, channels) from a source opened with every channel."""
    start_sample: int
    """Index of the first sample since the source began. Samples known to be lost are counted."""
    captured_at: float = 0.0
    """When the first sample was captured, monotonic seconds. See `edgeasd.runtime.sources.capture.CaptureClock`."""
    discontinuity: bool = False
    """Sound was lost just before. `start_sample` includes the amount if it is known."""

    @property
    def end_sample(self) -> int:
        """Index after the last sample."""
        return self.start_sample + len(self.samples)


class SourceState(str, Enum):
    """What a source is doing."""

    OPENING = "opening"
    """Not a sample has arrived yet."""
    OPEN = "open"
    REOPENING = "reopening"
    """It stopped and is opened again until it delivers."""
    CLOSED = "closed"

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """The state of a source at one moment."""

    state: SourceState
    reason: str = ""
    """Why it is not open; empty while it is, and after `close`."""
    since: float = 0.0
    """When `state` began, monotonic seconds."""
    overruns: int = 0
    """How often the driver lost an unknown amount of sound."""
    lost_samples: int = 0
    """Samples known to be lost, at the rate of the source."""
    reconnects: int = 0
    bits: int | None = None
    """Bits that hold every sample exactly: 16 or 24; None if unknown."""
    channels: int = 1
    """Columns of the samples; 0 until a source with every channel is open."""
    rate_fault: str = ""
    """What is wrong with the rate at which a live source delivers; empty if nothing is. See `RateWatch`."""
    is_rate_doubtful: bool = False
    """The rate may be wrong, which a few more seconds will tell."""


class SourceEventKind(str, Enum):
    """What can happen to a source."""

    LOST = "lost"
    """It stopped and is opened again."""
    REOPENED = "reopened"
    PLAYING = "playing"
    """The next file begins."""
    SKIPPED = "skipped"
    """A file cannot be used."""
    WRONG_RATE = "wrong_rate"
    """A live source delivers more or fewer samples a second than it should."""
    RIGHT_RATE = "right_rate"
    """It no longer does."""

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True, slots=True)
class SourceEvent:
    """Something that happened to a source."""

    kind: SourceEventKind
    detail: str
    lost_seconds: float = 0.0
    at_sample: int | None = None
    """Position in the sound; files only."""
    at: float = field(default_factory=time.monotonic)
    """Monotonic seconds."""


class Source(Protocol):
    """A stream of sound."""

    @property
    def name(self) -> str:
        """What is in use, for display and status messages."""
        ...

    @property
    def sample_rate(self) -> int:
        """Hz."""
        ...

    @property
    def live(self) -> bool:
        """Whether sound that is not read in time is lost."""
        ...

    @property
    def status(self) -> SourceStatus:
        """May be read from any thread."""
        ...

    def read(self) -> AudioChunk | None:
        """Wait for the next samples. Returns None at the end and after `close`.

        Raises InputError for bad input and DeviceError for a device that stopped.
        """
        ...

    def take_events(self) -> list[SourceEvent]:
        """The events since the last call, oldest first. May be called from any thread."""
        ...

    def close(self) -> None:
        """Release everything and end a blocked `read`. May be called twice, and from any thread."""
        ...


class BaseSource:
    """The parts that sources share: numbered chunks, status, events."""

    def __init__(self, name: str, sample_rate: int, *, live: bool, bits: int | None = None, channels: int = 1) -> None:
        self.name, self.sample_rate, self.live = name, sample_rate, live
        self._closed = threading.Event()
        self._status_lock = threading.Lock()
        # One object until something changes: a service asks for it hundreds of times a second.
        self._status = SourceStatus(SourceState.OPEN, since=time.monotonic(), bits=bits, channels=channels)
        self._events: deque[SourceEvent] = deque(maxlen=1000)
        self._position = 0
        self.rate_watch = RateWatch(sample_rate)
        """Fed with live sound only."""
        self._delivered_at, self._away = 0.0, 0.0
        """When the last chunk was handed out, and how long its reader was then busy with it."""

    @property
    def status(self) -> SourceStatus:
        """Open or closed, with the overruns so far."""
        status, watch = self._status, self.rate_watch
        if status.rate_fault == watch.fault and status.is_rate_doubtful == watch.is_doubtful:
            return status
        return self._change_status(rate_fault=watch.fault, is_rate_doubtful=watch.is_doubtful)

    def take_events(self) -> list[SourceEvent]:
        """The events since the last call, oldest first."""
        return take_all(self._events)

    def _enter_read(self) -> None:
        """A reader is back for more."""
        self._away = time.monotonic() - self._delivered_at if self._delivered_at else 0.0

    def _make_chunk(self, samples: Samples, *, discontinuity: bool = False) -> AudioChunk:
        """Number and date samples that have just arrived."""
        now, start = time.monotonic(), self._position
        self._position += len(samples)
        self._delivered_at = now
        if self.live and self.rate_watch.add(len(samples), now, self._away):
            kind = SourceEventKind.WRONG_RATE if self.rate_watch.fault else SourceEventKind.RIGHT_RATE
            self._events.append(SourceEvent(kind, f"{self.name}: {self.rate_watch.fault or 'delivers as it should'}"))
        captured_at = now - len(samples) / self.sample_rate if self.live else now
        return AudioChunk(samples, start, captured_at, discontinuity)

    def _mark_closed(self) -> None:
        if not self._closed.is_set():
            self._closed.set()
            self._change_status(state=SourceState.CLOSED, since=time.monotonic())

    def _change_status(self, **changes: object) -> SourceStatus:
        with self._status_lock:
            self._status = replace(self._status, **changes)  # type: ignore[arg-type]
            return self._status


def take_all(events: deque[SourceEvent]) -> list[SourceEvent]:
    """Empty `events`; safe beside a thread that appends."""
    return [events.popleft() for _ in range(len(events))] if events else []
