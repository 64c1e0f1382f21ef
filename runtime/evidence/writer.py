"""The thread that brings evidence to the disk, so that scoring never waits for one.

Everything comes through one queue. Where the disk is slower than the sound, sound is left out and counted;
where it fails, the clip is lost, the state says so, and the next clip is tried again.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from edgeasd.runtime.errors import EdgeasdError
from edgeasd.runtime.evidence.archive import ClipArchive, EvidenceStatus
from edgeasd.runtime.evidence.clip import DTYPES, FAILURES, ClipMetadata, Gap, Pcm, Recording
from edgeasd.runtime.evidence.settings import KeepSettings
from edgeasd.runtime.system.clocks import SettledClock

_LARGEST_WAITING = 32_000_000
_SWEEP_SECONDS = 30.0
_LOOK_EVERY_BYTES = 250_000
_MOST_GAPS = 1000


class EvidenceWriter:
    """Writes the clips of all streams of a service, and deletes what is too much. One for each data folder.

    `on_status` is called from the writer's thread at every change of state. `wall` is the wall clock.
    """

    def __init__(
        self,
        data: Path,
        keep: KeepSettings | None = None,
        *,
        open_events: Iterable[str] = (),
        on_status: Callable[[EvidenceStatus], None] | None = None,
        wall: Callable[[], float] = time.time,
        sweep_seconds: float = _SWEEP_SECONDS,
    ) -> None:
        """Take the folder `data`/evidence and start. Raises InputError where another process writes there.

        `open_events` are those that the store says are open: their evidence is not deleted.
        """
        self._archive = ClipArchive(data, keep or KeepSettings())
        self._archive.protected.update(open_events)
        self._wall, self._on_status, self._sweep_seconds = wall, on_status, sweep_seconds
        self._settled = SettledClock(wall)
        self._jobs: queue.SimpleQueue[tuple[Recording | None, Callable[[], None]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = 0
        self._state, self._since, self._detail = "ok", wall(), None  # type: tuple[str, float, str | None]
        self._clips = self._lost_clips = self._lost_samples = self._deleted = 0
        self._thread = threading.Thread(target=self._run, name="edgeasd-evidence", daemon=True)
        self._thread.start()

    # Called from any thread; none of these waits for the disk

    def begin(self, facts: ClipMetadata) -> Recording:
        """Start a clip. Nothing comes of it where the event has evidence already."""
        recording = Recording(facts)
        self._jobs.put((recording, partial(self._begin, recording)))
        return recording

    def sound(self, recording: Recording, pcm: Pcm) -> None:
        """Add samples (n,), which nobody changes any more; left out where too much waits already."""
        with self._lock:
            fits = not self._waiting or self._waiting + pcm.nbytes <= _LARGEST_WAITING
            self._waiting += pcm.nbytes if fits else 0
            self._lost_samples += 0 if fits else pcm.size
        if fits:
            self._jobs.put((recording, partial(self._sound, recording, pcm)))
        else:
            self.silence(recording, pcm.size)

    def silence(self, recording: Recording, count: int) -> None:
        """Add `count` samples of silence in the place of sound that was lost."""
        self._jobs.put((recording, partial(self._silence, recording, count)))

    def score(self, recording: Recording, line: bytes) -> None:
        """Add a line as `clip.score_line` makes it."""
        self._jobs.put((recording, partial(self._score, recording, line)))

    def finish(self, recording: Recording, ended: str) -> None:
        """End a clip; `ended` is one of those of `ClipMetadata`."""
        self._jobs.put((recording, partial(self._finish, recording, ended)))

    def protect(self, event: str, going_on: bool) -> None:
        """Keep the evidence of an event for as long as it goes on."""
        self._jobs.put((None, partial(self._protect, event, going_on)))

    def keep(self, keep: KeepSettings) -> None:
        """Keep evidence by other settings from now on; what is too much by them goes at once."""
        self._jobs.put((None, partial(self._keep, keep)))

    @property
    def settings(self) -> KeepSettings:
        """How long evidence stays now."""
        return self._archive.keep

    def status(self) -> EvidenceStatus:
        """How things stand."""
        with self._lock:
            counts = (self._clips, self._lost_clips, self._lost_samples, self._deleted)
            return EvidenceStatus(self._state, self._since, self._detail, *counts)

    def close(self, timeout: float = 2.0) -> bool:
        """Write what waits and end; False where that took longer. A clip that was not finished is made whole later."""
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
        """Whatever happens to one clip, the thread goes on."""
        try:
            work()
        except (*FAILURES, EdgeasdError) as error:
            self._failed(recording, str(error))
        except Exception as error:  # a defect here must not end the evidence of everything that comes after
            self._failed(recording, f"{type(error).__name__}: {error}")

    def _failed(self, recording: Recording | None, why: str) -> None:
        if recording is not None:
            if recording.part is not None:
                recording.part.abandon()
                recording.part = None
            self._lose()
        self._enter("failing", " ".join(why.split())[:300])

    def _lose(self) -> None:
        with self._lock:
            self._lost_clips += 1

    def _enter(self, state: str, detail: str | None) -> None:
        with self._lock:
            changed = state != self._state
            self._since = self._wall() if changed else self._since
            self._state, self._detail = state, detail
        if not changed or self._on_status is None:
            return
        try:
            self._on_status(self.status())
        except Exception as error:  # a defect of the listener must not end the evidence of everything
            with self._lock:
                self._detail = f"on_status: {type(error).__name__}: {error}"[:300]

    def _recover(self) -> None:
        problems = self._archive.recover()
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            self._enter("failing", problems[0][:280] + more)

    def _sweep(self) -> None:
        gone = self._archive.sweep(self._settled())
        with self._lock:
            self._deleted += len(gone)
        if not self._has_room():
            self._enter("no_room", self._too_little())
        elif self.status().is_degraded:
            self._archive.probe()
            self._enter("ok", None)

    def _has_room(self) -> bool:
        return self._archive.free() >= self._archive.keep.min_free_bytes

    def _too_little(self) -> str:
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

    def _protect(self, event: str, going_on: bool) -> None:
        if going_on:
            self._archive.protected.add(event)
        else:
            self._archive.protected.discard(event)

    def _begin(self, recording: Recording) -> None:
        if not self._make_room():
            self._lose()
            return
        recording.part = self._archive.begin(recording.facts)

    def _sound(self, recording: Recording, pcm: Pcm) -> None:
        with self._lock:
            self._waiting -= pcm.nbytes
        self._write(recording, pcm)

    def _silence(self, recording: Recording, count: int) -> None:
        if len(recording.gaps) < _MOST_GAPS:
            at = recording.written / recording.facts.sample_rate
            recording.gaps.append(Gap(at_seconds=round(at, 6), samples=count))
        recording.lost += count
        for start in range(0, count, 1 << 16):
            self._write(recording, np.zeros(min(count - start, 1 << 16), DTYPES[recording.facts.bits]))

    def _write(self, recording: Recording, pcm: Pcm) -> None:
        if recording.part is None:
            return
        recording.unlooked += pcm.nbytes
        if recording.unlooked >= _LOOK_EVERY_BYTES:
            recording.unlooked = 0
            if not self._make_room():
                self._finish(recording, "no_room")
                self._lose()
                return
        recording.part.write(pcm)
        recording.written += pcm.size

    def _score(self, recording: Recording, line: bytes) -> None:
        if recording.part is not None:
            recording.part.score(line)

    def _finish(self, recording: Recording, ended: str) -> None:
        if recording.part is None:
            return
        if not recording.written:
            # A clip without sound would stand in the way of the one that the event may still get.
            recording.part.abandon()
            recording.part = None
            return
        found = {"ended": ended, "gaps": tuple(recording.gaps), "lost_samples": recording.lost}
        self._archive.finish(recording.part, recording.facts.model_copy(update=found))
        recording.part = None
        with self._lock:
            self._clips += 1
        if self._has_room():
            self._enter("ok", None)
