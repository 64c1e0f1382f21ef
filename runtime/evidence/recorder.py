"""Records the evidence of one stream: the last seconds are held in memory, and an event turns them into a clip."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeasd.runtime.alarms.transition import Transition
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.evidence.clip import DTYPES, MOST_RATE, ClipMetadata, Gap, PcmRing, score_line, to_pcm
from edgeasd.runtime.evidence.settings import ClipSettings
from edgeasd.runtime.evidence.writer import EvidenceWriter, Recording
from edgeasd.runtime.features.logmel import Float32Array

_OPEN = ("alarm", "acknowledged")
_MOST_CLIPS = 4
"""At once: one of an open event, and those whose post-roll still runs. Test alarms could ask for any number."""


@dataclass(slots=True)
class _Clip:
    """A clip that is being recorded; positions are samples of the source."""

    event: str
    recording: Recording
    start: int
    stop: int
    ended: str = "longest"


@dataclass(frozen=True, slots=True)
class _Score:
    end: int
    wall: float
    score: float
    clip_score: float
    complete: bool


class EvidenceRecorder:
    """Takes the sound and scores of a stream and the transitions of its alarm machine; writes through `writer`.

    Positions are samples of the source since its beginning, lost ones included. Pass sound before the scores made
    from it. No method waits for the disk; any thread may call.
    """

    def __init__(
        self, writer: EvidenceWriter, machine: str, id: str, sample_rate: int, settings: ClipSettings | None = None
    ) -> None:
        """`sample_rate` in Hz is that of the source. Raises InputError for a rate that FLAC does not have."""
        self.settings = settings or ClipSettings()
        if not 1 <= sample_rate <= MOST_RATE:
            raise InputError(f"{machine} {id}: {sample_rate} Hz, a FLAC clip has 1 to {MOST_RATE}; resample the source")
        self._writer, self._machine, self._id, self._rate = writer, machine, id, sample_rate
        self._ring = PcmRing(round(self.settings.pre_seconds * sample_rate), self.settings.bits)
        self._scores: deque[_Score] = deque(maxlen=20_000)
        self._gaps: deque[tuple[int, int]] = deque(maxlen=1000)
        self._position: int | None = None
        self._clips: list[_Clip] = []
        self._is_lost = False
        """The source is away, for an unknown time."""
        self._lock = threading.Lock()

    @property
    def memory_bytes(self) -> int:
        """Memory of the pre-roll: pre_seconds × sample rate × 2 bytes (4 with 24 bits)."""
        return self._ring.memory_bytes

    @property
    def recording(self) -> tuple[str, ...]:
        """Events whose clips are being recorded."""
        with self._lock:
            return tuple(clip.event for clip in self._clips)

    def sound(self, position: int, samples: Float32Array) -> None:
        """Samples (n,) float32, the first at `position`.

        A position beyond the last one means lost sound: silence takes its place. One before it means that the source
        began again: clips end there, and the pre-roll is dropped.
        """
        if not self.settings.enabled:
            return
        pcm = to_pcm(samples, self.settings.bits)
        with self._lock:
            if self._position is None:
                self._begin(position)
            elif position < self._position:
                self._restart(position)
            assert self._position is not None
            self._is_lost = False
            if position > self._position:
                self._lost(position - self._position)
            self._end_clips()
            for clip in self._clips:
                if (left := clip.stop - self._position) > 0:
                    self._writer.sound(clip.recording, pcm[:left])
            self._ring.push(pcm)
            self._position += pcm.size
            while self._gaps and sum(self._gaps[0]) <= self._position - self._ring.capacity:
                self._gaps.popleft()
            while self._scores and self._scores[0].end < self._position - self._ring.capacity:
                self._scores.popleft()

    def score(self, end: int, wall: float, score: float, clip_score: float, complete: bool = True) -> None:
        """A score whose last sample lies before position `end`; `wall` in seconds since 1970."""
        if not self.settings.enabled:
            return
        one = _Score(end, wall, score, clip_score, complete)
        with self._lock:
            self._scores.append(one)
            for clip in self._clips:
                self._write_score(clip, one)

    def transitions(self, transitions: Sequence[Transition], position: int | None = None) -> None:
        """Open and end events by the transitions of the alarm machine. Test alarms are recorded too.

        `position` is that of the deciding score; without it, the newest sound.
        """
        for one in transitions:
            if one.event is None:
                continue
            if one.reason == "test_over" or one.state not in _OPEN:
                self.end_event(one.event, position)
            elif one.test or one.previous not in _OPEN:
                self.open_event(one.event, one.raised_wall or one.wall, one.threshold, test=one.test, position=position)

    def open_event(
        self,
        event: str,
        raised_wall: float,
        threshold: float | None,
        *,
        test: bool = False,
        position: int | None = None,
    ) -> None:
        """Begin the clip of an event, unless it has one. After a restart, call it for the event that is still open."""
        if not self.settings.enabled:
            return
        self._writer.protect(event, True)
        with self._lock:
            if len(self._clips) >= _MOST_CLIPS or any(clip.event == event for clip in self._clips):
                return
            now = 0 if self._position is None else self._position
            raised = now if position is None else min(position, now)
            start = now - self._ring.filled
            gaps = [(max(at, start), at + count) for at, count in self._gaps if at + count > start]
            metadata = ClipMetadata(
                event=event,
                machine=_shown(self._machine),
                id=_shown(self._id),
                test=test,
                raised_at=min(max(raised_wall, 0.0), 1e11),
                threshold=threshold,
                sample_rate=self._rate,
                bits=self.settings.bits,
                raised_seconds=(raised - start) / self._rate,
                gaps=tuple(Gap(at_seconds=(at - start) / self._rate, samples=end - at) for at, end in gaps),
                lost_samples=sum(end - at for at, end in gaps),
            )
            stop = start + round(self.settings.longest_seconds * self._rate)
            clip = _Clip(event, self._writer.begin(metadata), start, stop)
            self._clips.append(clip)
            self._writer.sound(clip.recording, self._ring.last(now - start))
            for one in self._scores:
                self._write_score(clip, one)

    def end_event(self, event: str, position: int | None = None) -> None:
        """The event is cleared: its clip goes on for the post-roll."""
        if not self.settings.enabled:
            return
        self._writer.protect(event, False)
        with self._lock:
            now = 0 if self._position is None else self._position
            over = (now if position is None else min(position, now)) + round(self.settings.post_seconds * self._rate)
            for clip in self._clips:
                if clip.event == event and over < clip.stop:
                    clip.stop, clip.ended = max(over, now), "complete"
            if self._is_lost:
                self._finish_ended_events()

    def source_lost(self) -> None:
        """The source is away. Clips of ended events end here.

        Those of open events wait for the source; silence takes the place of the lost sound.
        """
        with self._lock:
            self._is_lost = True
            self._finish_ended_events()

    def close(self, ended: str = "stopped") -> None:
        """End all clips as they are. The recorder can go on."""
        with self._lock:
            for clip in self._clips:
                self._writer.finish(clip.recording, ended)
            self._clips.clear()

    def _begin(self, position: int) -> None:
        """The first sound. The clip of an event that was open before the start begins with it."""
        for clip in self._clips:
            clip.start += position
            clip.stop += position
        self._position = position

    def _restart(self, position: int) -> None:
        for clip in self._clips:
            self._writer.finish(clip.recording, "source")
        self._clips.clear()
        self._scores.clear()
        self._gaps.clear()
        self._ring.clear()
        self._position = position

    def _lost(self, count: int) -> None:
        assert self._position is not None
        for clip in self._clips:
            if (left := clip.stop - self._position) > 0:
                self._writer.silence(clip.recording, min(left, count))
        self._gaps.append((self._position, count))
        self._ring.push(np.zeros(min(count, self._ring.capacity), DTYPES[self.settings.bits]))
        self._position += count

    def _end_clips(self) -> None:
        """End the clips that have all their sound, one push later: their last scores come after it."""
        assert self._position is not None
        for clip in self._clips:
            if clip.stop <= self._position:
                self._writer.finish(clip.recording, clip.ended)
        self._clips = [clip for clip in self._clips if clip.stop > self._position]

    def _finish_ended_events(self) -> None:
        for clip in self._clips:
            if clip.ended == "complete":
                self._writer.finish(clip.recording, "source")
        self._clips = [clip for clip in self._clips if clip.ended != "complete"]

    def _write_score(self, clip: _Clip, one: _Score) -> None:
        if clip.start <= one.end <= clip.stop:
            seconds = (one.end - clip.start) / self._rate
            line = score_line(seconds, one.wall, one.score, one.clip_score, one.complete)
            self._writer.score(clip.recording, line)


def _shown(name: str) -> str:
    return name.encode("utf-8", "replace").decode()[:500]
