"""The listening loop: blocks from a queue, through one stream, to records for whoever wants them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeasd.runtime.alarm_rule import AlarmRule
from edgeasd.runtime.bundle import Bundle
from edgeasd.runtime.capture import Block, Capture, SampleQueue
from edgeasd.runtime.clocks import utc_text, wall_time
from edgeasd.runtime.logmel import Float32Array
from edgeasd.runtime.manifest import Manifest
from edgeasd.runtime.records import engine_facts, record_of, score_record
from edgeasd.runtime.scorer import Scorer
from edgeasd.runtime.sources import Source
from edgeasd.runtime.stream import Stream

Record = dict[str, Any]
_QUIET = 1e-6
BUFFER_SECONDS = 60
"""Sound that may wait for the scorer, for instance while a large model loads."""
LATE_SECONDS = 5.0
"""Scoring that much behind a live sound is said, and again for every such step."""


def level_dbfs(samples: Float32Array) -> float:
    """RMS level of samples (n,) in dB relative to full scale, at least -120."""
    power = float(np.mean(np.square(samples, dtype=np.float64))) if samples.size else 0.0
    return 20.0 * float(np.log10(max(np.sqrt(power), _QUIET)))


@dataclass
class Listener:
    """Turns blocks of one sound into records; holds its stream, its alarm rule and its place in the sound."""

    scorer: Scorer
    manifest: Manifest

    def __post_init__(self) -> None:
        self._stream = Stream(self.scorer)
        self._alarm = AlarmRule(self.manifest.threshold)
        self._expected = 0
        self._offset = 0
        self.level = -120.0
        """RMS level of the last block in dBFS."""

    def accept(self, block: Block) -> Iterator[Record]:
        """Score a block; yields gap, score and alarm records in order.

        A gap (samples lost before this block, by the queue or by the driver) resets the stream: no
        segment ever spans one.
        """
        if block.position != self._expected or block.after_loss:
            yield self._gap(block)
        self._expected = block.position + block.samples.size
        self.level = level_dbfs(block.samples)
        for score in self._stream.push(block.samples):
            change = self._alarm.update(score.clip_score, score.complete)
            record = score_record(score, self.manifest, self._offset, self._alarm.active)
            yield record
            if change is not None:
                yield self._alarm_record(record, raised=change)

    @property
    def samples_seen(self) -> int:
        """Samples since the sound began, lost ones included."""
        return self._expected

    def _gap(self, block: Block) -> Record:
        lost, was = block.position - self._expected, self._alarm.active
        self._stream.reset()
        self._alarm.reset()
        self._offset = block.position
        return {
            **record_of("gap", self.manifest),
            "at_sample": self._expected,
            "lost_samples": lost,
            "driver_overrun": block.after_loss,
            "alarm_cleared": was,
        }

    def _alarm_record(self, record: Record, *, raised: bool) -> Record:
        threshold = self.manifest.threshold
        assert threshold is not None
        return {
            **record_of("alarm", self.manifest),
            "state": "raised" if raised else "cleared",
            **{key: record[key] for key in ("end_sample", "end_seconds", "clip_score", "threshold")},
            "consecutive": threshold.consecutive,
        }


def start_record(scorer: Scorer, manifest: Manifest, source: str) -> Record:
    """The first record: what is in use. By then the golden segments have been reproduced."""
    return {
        **record_of("start", manifest),
        "source": source,
        **engine_facts(scorer),
        "status": manifest.status,
        "threshold": manifest.threshold.clip if manifest.threshold else None,
        "alpha": manifest.score.alpha,
        "d_mode": manifest.score.mode,
    }


class Session:
    """One source through one bundle: capture, loading, scoring, and an orderly end.

    `start` begins to capture before `load` hashes and loads the bundle, so that the seconds a large
    model takes are not lost; they wait in the queue.
    """

    def __init__(self, bundle: Bundle, source: Source, *, pace: str | None = None, limit: int | None = None) -> None:
        """`pace` is "block" or "drop", by default what suits the source; `limit` ends after that many samples."""
        self._bundle, self._source = bundle, source
        rate = bundle.manifest.features.sample_rate
        self._queue = SampleQueue(BUFFER_SECONDS * rate, pace or ("drop" if source.live else "block"))
        self._capture = Capture(source, self._queue, limit)
        self.listener: Listener | None = None
        self._late_said = 0.0

    def start(self) -> None:
        """Begin to capture."""
        self._capture.start()

    def load(self, **engine: Any) -> Record:
        """Verify and load the bundle (see `Bundle.open_scorer`); returns the start record."""
        scorer, _ = self._bundle.open_scorer(**engine)
        self.listener = Listener(scorer, self._bundle.manifest)
        return start_record(scorer, self._bundle.manifest, self._source.name)

    def listen(self, emit: Callable[[Record], None]) -> None:
        """Score until the source ends; raises what ended it, if not its end."""
        assert self.listener is not None, "load comes first"
        while (block := self._queue.get(lambda: self._say_events(emit))) is not None:
            self._say_events(emit)
            for record in self.listener.accept(block):
                emit(record)
            if self._source.live:
                self._say_if_late(emit)
        self._say_events(emit)

    def _say_events(self, emit: Callable[[Record], None]) -> None:
        """A record for whatever happened to the source itself: it was lost, it is back, another file begins."""
        events = getattr(self._source, "events", None)
        while events:
            event = events.popleft()
            emit(
                {
                    **record_of("source", self._bundle.manifest),
                    "state": event.state,
                    "detail": event.detail,
                    "at_sample": event.at_sample,
                    "lost_seconds": round(event.lost_seconds, 3),
                    "time": utc_text(wall_time(event.at)),
                }
            )

    def _say_if_late(self, emit: Callable[[Record], None]) -> None:
        """A record each time the sound that waits has grown by some seconds: a slow device is not to be silent."""
        manifest = self._bundle.manifest
        behind = self._queue.held / manifest.features.sample_rate
        if behind < 1.0:
            self._late_said = 0.0
        elif behind >= self._late_said + LATE_SECONDS:
            self._late_said = behind
            emit({**record_of("late", manifest), "behind_seconds": round(behind, 3), "dropping_at": BUFFER_SECONDS})

    def stop(self, reason: str) -> Record:
        """Stop capturing, free the engine and return the end record."""
        self._capture.stop()
        samples = 0
        if self.listener is not None:
            samples = self.listener.samples_seen
            self.listener.scorer.close()
        return {
            **record_of("end", self._bundle.manifest),
            "reason": reason,
            "samples": samples,
            "seconds": round(samples / self._bundle.manifest.features.sample_rate, 6),
            "dropped_samples": self._queue.dropped,
            "overruns": int(getattr(self._source, "overruns", 0)),
            "lost_samples": int(getattr(self._source, "lost_samples", 0)),
            "reopened": int(getattr(self._source, "reopened", 0)),
        }
