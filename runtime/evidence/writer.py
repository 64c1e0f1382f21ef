"""Writes evidence to the disk in a thread of its own, so that scoring never waits for a disk.

All work goes through one queue. If the disk is slower than the sound, sound is left out and counted. If the disk
fails, the clip is lost, the state says so, and the next clip is tried again.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from edgeasd.runtime.errors import EdgeasdError, printable
from edgeasd.runtime.evidence.archive import ClipArchive, EvidenceStatus
from edgeasd.runtime.evidence.clip import DTYPES, FAILURES, ClipMetadata, Gap, PartClip, Pcm
from edgeasd.runtime.evidence.settings import KeepSettings
from edgeasd.runtime.system.clocks import SettledClock

_log = logging.getLogger(__name__)

_MOST_WAITING_BYTES = 32_000_000
_SWEEP_SECONDS = 30.0
_CHECK_ROOM_EVERY_BYTES = 250_000
_MOST_GAPS = 1000


class Recording:
    """A clip on its way through the queue. Its fields belong to the writer's thread, but for `metadata` at the start."""

    def __init__(self, metadata: ClipMetadata) -> None:
        self.metadata = metadata
        self.part: PartClip | None = None
        self.gaps = list(metadata.gaps)
        self.written_samples = 0
        self.lost_samples = metadata.lost_samples
        self.unchecked_bytes = 0
        """Written since the room on the disk was checked."""


class EvidenceWriter:
    """Writes the clips of all streams of a service, and deletes by age and size. One for each data folder.

    Changes of state are logged.
    """

    def __init__(
        self,
        data: Path,
        keep: KeepSettings | None = None,
        *,
        open_events: Iterable[str] = (),
        wall: Callable[[], float] = time.time,
        last_wall: float | None = None,
        sweep_seconds: float = _SWEEP_SECONDS,
    ) -> None:
        """Lock the folder `data`/evidence and start. Raises InputError if another process writes there.

        The evidence of `open_events` is not deleted. `wall` is the wall clock, seconds since 1970, and `last_wall` what
        it said before the start: a clock that is far ahead at a start deletes nothing yet.
        """
        self._archive = ClipArchive(data, keep or KeepSettings())
        self._archive.protected.update(open_events)
        self._wall, self._sweep_seconds = wall, sweep_seconds
        self._settled = SettledClock(wall, last=last_wall)
        self._jobs: queue.SimpleQueue[tuple[Recording | None, Callable[[], None]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = 0
        self._state, self._since, self._detail = "ok", wall(), None  # type: tuple[str, float, str | None]
        self._clips = self._lost_clips = self._lost_samples = self._deleted = 0
        self._thread = threading.Thread(target=self._run, name="edgeasd-evidence", daemon=True)
        self._thread.start()

    # Called from any thread; none of these waits for the disk

    def begin(self, metadata: ClipMetadata) -> Recording:
        """Start a clip. Nothing is written if the event has evidence already."""
        recording = Recording(metadata)
        self._jobs.put((recording, partial(self._begin, recording)))
        return recording

    def sound(self, recording: Recording, pcm: Pcm) -> None:
        """Add samples (n,), which must not change any more; left out if too much waits already."""
        with self._lock:
            fits = not self._waiting or self._waiting + pcm.nbytes <= _MOST_WAITING_BYTES
            self._waiting += pcm.nbytes if fits else 0
            self._lost_samples += 0 if fits else pcm.size
        if fits:
            self._jobs.put((recording, partial(self._sound, recording, pcm)))
        else:
            self.silence(recording, pcm.size)

    def silence(self, recording: Recording, count: int) -> None:
        """Add `count` samples of silence in place of lost sound."""
        self._jobs.put((recording, partial(self._silence, recording, count)))

    def score(self, recording: Recording, line: bytes) -> None:
        """Add a line made by `clip.score_line`."""
        self._jobs.put((recording, partial(self._score, recording, line)))

    def finish(self, recording: Recording, ended: str) -> None:
        """End a clip; `ended` is a value of `ClipMetadata.ended`."""
        self._jobs.put((recording, partial(self._finish, recording, ended)))

    def protect(self, event: str, is_open: bool) -> None:
        """Exempt the evidence of an event from deletion while the event is open."""
        self._jobs.put((None, partial(self._protect, event, is_open)))

    def keep(self, keep: KeepSettings) -> None:
        """Change the settings; what is too much by the new ones is deleted at once."""
        self._jobs.put((None, partial(self._keep, keep)))

    @property
    def settings(self) -> KeepSettings:
        """The settings in force."""
        return self._archive.keep

    def status(self) -> EvidenceStatus:
        """The present state, and what was lost since the start."""
        with self._lock:
            counts = (self._clips, self._lost_clips, self._lost_samples, self._deleted)
            return EvidenceStatus(self._state, self._since, self._detail, *counts)

    def close(self, timeout: float = 2.0) -> bool:
        """Write what waits and end; False if that takes longer than `timeout`. The next start recovers an open clip."""
        self._jobs.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # The writer's thread

    def _run(self) -> None:
        self._guard(None, self._recover)
        self._guard(None, self._sweep)
        swept = time.monotonic()
        while True:
            with suppress(queue.Empty):
                job = self._jobs.get(timeout=self._sweep_seconds)
                if job is None:
                    break
                self._guard(*job)
            if time.monotonic() - swept >= self._sweep_seconds:
                self._guard(None, self._sweep)
                swept = time.monotonic()
        self._archive.close()
        self._enter("stopped", None)

    def _guard(self, recording: Recording | None, work: Callable[[], None]) -> None:
        """A failure of one clip does not end the thread."""
        try:
            work()
        except (*FAILURES, EdgeasdError) as error:
            self._failed(recording, str(error))
        except Exception as error:  # the thread's top: a defect must not end the evidence of later events
            self._failed(recording, f"{type(error).__name__}: {error}")

    def _failed(self, recording: Recording | None, why: str) -> None:
        if recording is not None:
            if recording.part is not None:
                recording.part.abandon()
                recording.part = None
            self._lose()
        self._enter("failing", printable(why, 300))

    def _lose(self) -> None:
        with self._lock:
            self._lost_clips += 1

    def _enter(self, state: str, detail: str | None) -> None:
        with self._lock:
            changed = state != self._state
            self._since = self._wall() if changed else self._since
            self._state, self._detail = state, detail
        if changed and state != "stopped":
            level = logging.INFO if state == "ok" else logging.WARNING
            _log.log(level, "evidence: %s%s", state, f": {detail}" if detail else "")

    def _recover(self) -> None:
        problems = self._archive.recover()
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            self._enter("failing", problems[0][:280] + more)

    def _sweep(self) -> None:
        deleted = self._archive.sweep(self._settled())
        with self._lock:
            self._deleted += len(deleted)
        if not self._has_room():
            self._enter("no_room", self._no_room_detail())
        elif self.status().is_degraded:
            self._archive.probe()
            self._enter("ok", None)

    def _has_room(self) -> bool:
        return self._archive.free() >= self._archive.keep.min_free_bytes

    def _no_room_detail(self) -> str:
        floor = self._archive.keep.min_free_megabytes
        return f"{self._archive.folder}: less than {floor:g} MB free and nothing left to delete; make room"

    def _make_room(self) -> bool:
        if not self._has_room():
            self._sweep()
        return self._has_room()

    def _keep(self, keep: KeepSettings) -> None:
        if keep != self._archive.keep:
            self._archive.keep = keep
            self._sweep()

    def _protect(self, event: str, is_open: bool) -> None:
        if is_open:
            self._archive.protected.add(event)
        else:
            self._archive.protected.discard(event)

    def _begin(self, recording: Recording) -> None:
        if not self._make_room():
            self._lose()
            return
        recording.part = self._archive.begin(recording.metadata)

    def _sound(self, recording: Recording, pcm: Pcm) -> None:
        with self._lock:
            self._waiting -= pcm.nbytes
        self._write(recording, pcm)

    def _silence(self, recording: Recording, count: int) -> None:
        if len(recording.gaps) < _MOST_GAPS:
            at = recording.written_samples / recording.metadata.sample_rate
            recording.gaps.append(Gap(at_seconds=round(at, 6), samples=count))
        recording.lost_samples += count
        for start in range(0, count, 1 << 16):
            self._write(recording, np.zeros(min(count - start, 1 << 16), DTYPES[recording.metadata.bits]))

    def _write(self, recording: Recording, pcm: Pcm) -> None:
        if recording.part is None:
            return
        recording.unchecked_bytes += pcm.nbytes
        if recording.unchecked_bytes >= _CHECK_ROOM_EVERY_BYTES:
            recording.unchecked_bytes = 0
            if not self._make_room():
                self._finish(recording, "no_room")
                self._lose()
                return
        recording.part.write(pcm)
        recording.written_samples += pcm.size

    def _score(self, recording: Recording, line: bytes) -> None:
        if recording.part is not None:
            recording.part.score(line)

    def _finish(self, recording: Recording, ended: str) -> None:
        if recording.part is None:
            return
        if not recording.written_samples:
            # An empty clip would keep the event from getting one later.
            recording.part.abandon()
            recording.part = None
            return
        result = {"ended": ended, "gaps": tuple(recording.gaps), "lost_samples": recording.lost_samples}
        self._archive.finish(recording.part, recording.metadata.model_copy(update=result))
        recording.part = None
        with self._lock:
            self._clips += 1
        if self._has_room():
            self._enter("ok", None)
