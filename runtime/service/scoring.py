"""One thread for each engine: what waits in the rings of its streams, framed, batched, scored."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edgeasd.runtime.scoring.scorer import Scorer
from edgeasd.runtime.scoring.stream import score_streams
from edgeasd.runtime.service.finding import Record
from edgeasd.runtime.service.load_shedding import Overload
from edgeasd.runtime.service.stream import ServedStream

_IDLE_SECONDS = 0.1
_STEP_ASIDE_SECONDS = 0.005
_MOST_SECONDS = 4.0
"""Sound that a stream may bring into a round. One that is far behind and skips segments would hold up the others."""


class ScoringThread:
    """Scores the streams of one engine together."""

    def __init__(self, scorer: Scorer, tell: Callable[[Record, bool], None]) -> None:
        self.scorer, self._tell = scorer, tell
        self.streams: list[ServedStream] = []
        self.wake = threading.Event()
        self._between = threading.Lock()
        """Held while segments are scored; who takes it stands between two of them."""
        self._visitors = 0
        self._stop = threading.Event()
        self._overload = Overload(time.monotonic())
        self.beat = time.monotonic()
        """When the last round was made, monotonic seconds."""
        self.failure: str | None = None
        self._thread = threading.Thread(target=self._run, name="edgeasd-scoring", daemon=True)

    def start(self) -> None:
        """Begin to score."""
        self._thread.start()

    def ask_to_stop(self) -> None:
        """Stop after the batch in work; does not wait for that."""
        self._stop.set()
        self.wake.set()

    def stop(self, seconds: float) -> bool:
        """Stop after the batch in work; False where that took longer than `seconds`."""
        self.ask_to_stop()
        if self._thread.ident is not None:
            self._thread.join(seconds)
        ended = not self._thread.is_alive()
        if ended:
            self.scorer.close()
        return ended

    @contextmanager
    def between_segments(self) -> Iterator[None]:
        """Nothing is scored for the time of the block."""
        # A lock alone is not fair: a busy engine would take it again before anybody else could.
        self._visitors += 1
        try:
            with self._between:
                yield
        finally:
            self._visitors -= 1
            self.wake.set()

    @property
    def keep_every(self) -> int:
        """See `Overload`."""
        return self._overload.keep_every

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self.wake.clear()
                if self._visitors:
                    self.wake.wait(_STEP_ASIDE_SECONDS)
                    continue
                with self._between:
                    worked = self._round()
                self.beat = time.monotonic()
                if not worked:
                    self.wake.wait(_IDLE_SECONDS)
        except Exception as error:  # its streams fail with it, the others go on, and it is loaded again
            self.failure = f"{type(error).__name__}: {error}" if not str(error) else str(error)
            for stream in self.streams:
                stream.failure = self.failure

    def _round(self) -> bool:
        """Take in what waits and score one batch; False where there was nothing to do."""
        began, worked = time.monotonic(), False
        share = max(1, self.scorer.engine.max_batch // max(1, len(self.streams)))
        beside_live = any(served.settings.drops for served in self.streams)
        for served in self.streams:
            served.beside_live = beside_live
            worked = self._take_in(served, share) or worked
        ready = [served for served in self.streams if served.stream is not None and served.stream.waiting]
        if ready:
            scored = score_streams([served.stream for served in ready if served.stream is not None])
            now = time.monotonic()
            for served, scores in zip(ready, scored, strict=True):
                served.finish(scores, now)
        for served in self.streams:
            if served.queue.ended and not served.over and not self._stop.is_set():
                served.end()
        self._weigh(time.monotonic() - began if worked else 0.0)
        return worked

    def _take_in(self, served: ServedStream, share: int) -> bool:
        """Blocks of one stream until its share of a batch is full."""
        assert served.stream is not None
        served.say_source_events()
        taken = 0
        while served.stream.waiting < share and taken < _MOST_SECONDS * served.rate:
            block = served.queue.take()
            if block is None:
                break
            taken += block.samples.size
            served.accept(block)
        return taken > 0

    def _weigh(self, busy: float) -> None:
        droppers = [served for served in self.streams if served.settings.drops and not served.over]
        behind = max((served.waiting_seconds for served in droppers), default=0.0)
        changed = self._overload.update(behind, busy, time.monotonic())
        for served in droppers:
            if served.stream is not None:
                served.stream.keep_every = self.keep_every
        if changed:
            names = [served.name for served in droppers]
            said = {"type": "overload", "version": 1, "streams": names, "keep_every": self.keep_every}
            self._tell({**said, "behind_seconds": round(behind, 3)}, True)
