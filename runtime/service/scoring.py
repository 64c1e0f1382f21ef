"""One thread per loaded encoder: takes in the sound of its streams, and scores their segments in common batches."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from edgeasd.runtime.engines import engine_group
from edgeasd.runtime.errors import EdgeasdError, to_user_error
from edgeasd.runtime.scoring.scorer import Scorer
from edgeasd.runtime.scoring.stream import score_shared
from edgeasd.runtime.service.jsonl_records import RecordWriter
from edgeasd.runtime.service.load_shedding import LoadShedder
from edgeasd.runtime.service.stream import StreamWorker
from edgeasd.runtime.service.updates import StreamUpdate

_IDLE_SECONDS = 0.1
_STEP_ASIDE_SECONDS = 0.005
log = logging.getLogger(__name__)


class UpdateReceiver(Protocol):
    """The event recorder."""

    def update(self, update: StreamUpdate) -> None:
        """Take an update; may wait."""
        ...


class ScoringWorker:
    """Scores the streams of one encoder together, each by the head of its bundle."""

    def __init__(self, scorer: Scorer, recorder: UpdateReceiver, records: RecordWriter | None = None) -> None:
        """Streams that can wait do so while `records` is full."""
        self.scorers = [scorer]
        """Of all bundles with this encoder; freed with the thread. Add to it and remove from it at any time."""
        self.failed: dict[Scorer, EdgeasdError] = {}
        """Scorers whose head failed; their streams are not scored any more."""
        self._recorder, self._records = recorder, records
        self._max_batch = scorer.engine.max_batch
        self.streams: list[StreamWorker] = []
        """Change it only within `paused`."""
        self.wake = threading.Event()
        self._scoring = threading.Lock()
        self._visitors = 0
        self._stop = threading.Event()
        self._shedder = LoadShedder(time.monotonic())
        self.beat = time.monotonic()
        """When the last round was made, monotonic seconds."""
        self.error: EdgeasdError | None = None
        """What ended the thread, if it was not asked to."""
        self._thread = threading.Thread(target=self._run, name="edgeasd-scoring", daemon=True)

    def start(self) -> None:
        """Begin to score."""
        self._thread.start()

    def request_stop(self) -> None:
        """Stop after the present batch; does not wait for that."""
        self._stop.set()
        self.wake.set()

    def stop(self, seconds: float) -> bool:
        """Stop after the present batch and free the engine. False if that took longer than `seconds`."""
        self.request_stop()
        if self._thread.ident is not None:
            self._thread.join(seconds)
        ended = not self._thread.is_alive()
        if ended:
            for scorer in self.scorers:
                scorer.close()
        return ended

    def shares_encoder(self, scorer: Scorer) -> bool:
        """Whether the segments of `scorer` can be scored in one batch with those scored here."""
        return any(engine_group(one.engine) is engine_group(scorer.engine) for one in self.scorers[:1])

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is scored during the block."""
        # A lock alone is not fair: a busy engine would take it again before anyone else could.
        self._visitors += 1
        try:
            with self._scoring:
                yield
        finally:
            self._visitors -= 1
            self.wake.set()

    def add(self, stream: StreamWorker) -> None:
        """Score a stream from now on; call it within `paused`. Sound that waits already is worked off first."""
        self.streams.append(stream)
        self._shedder.excuse(max(one.waiting_seconds for one in self.streams), time.monotonic())

    @property
    def decimation(self) -> int:
        """Only every so many-th segment of live streams is scored."""
        return self._shedder.decimation

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self.wake.clear()
                if self._visitors:
                    self.wake.wait(_STEP_ASIDE_SECONDS)
                    continue
                with self._scoring:
                    worked = self.score_once()
                self.beat = time.monotonic()
                if not worked:
                    self.wake.wait(_IDLE_SECONDS)
        except Exception as error:  # its streams fail with it; the others go on, and it is loaded again
            log.debug("the engine failed", exc_info=True)
            self.error = to_user_error(error)

    def score_once(self) -> bool:
        """Take in what waits and score one batch. False if there was nothing to do."""
        began, worked = time.monotonic(), False
        streams = [stream for stream in self.streams if not stream.is_over]
        share = max(1, self._max_batch // max(1, len(streams)))
        for stream in streams:
            if self._records is not None and self._records.is_full and not stream.drops:
                continue
            try:
                worked = stream.take_in(share) or worked
            except EdgeasdError as error:
                stream.abandon()
                stream.end("bad sound", error)
        active = [(stream, stream.stream) for stream in streams if stream.stream is not None and not stream.is_over]
        results, failures = score_shared([one for _, one in active]) if active else ([], {})
        if failures:
            self.failed |= failures
            self.streams = [one for one in self.streams if one.stream is None or one.stream.scorer not in failures]
        for (stream, _), scores in zip(active, results, strict=True):
            stream.finish(scores)
            if stream.has_ended and not self._stop.is_set():
                stream.take_source_events()
                stream.end()
        for stream in streams:
            for update in stream.take_updates():
                self._recorder.update(update)
        self._shed(streams, time.monotonic() - began if worked else 0.0)
        return worked

    def _shed(self, streams: list[StreamWorker], busy: float) -> None:
        """Leave out segments of the streams that do not wait, if they fall behind."""
        droppers = [stream for stream in streams if stream.drops and not stream.is_over]
        behind = max((stream.waiting_seconds for stream in droppers), default=0.0)
        changed = self._shedder.update(behind, busy, time.monotonic())
        for stream in droppers:
            if stream.stream is not None:
                stream.stream.decimation = self.decimation
        if changed and droppers:
            scored = "every segment" if self.decimation == 1 else f"one of {self.decimation} segments"
            names = ", ".join(stream.name for stream in droppers)
            log.warning("%s: %s is scored from now on; %.1f s of sound wait", names, scored, behind)
            for stream in droppers:
                stream.report_decimation(self.decimation)
