"""The listening loop: blocks from a queue, through one stream, to records for whoever wants them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.bundle.manifest import Manifest
from edgeasd.runtime.features.logmel import Float32Array, check_samples
from edgeasd.runtime.health import HealthReport, HealthSettings
from edgeasd.runtime.scoring.score import Score
from edgeasd.runtime.scoring.scorer import Scorer
from edgeasd.runtime.scoring.stream import Stream
from edgeasd.runtime.scoring.threshold import AlarmRule
from edgeasd.runtime.service.backlog import Backlog
from edgeasd.runtime.service.input_watch import InputWatch
from edgeasd.runtime.service.jsonl_records import engine_facts, record_of, score_record
from edgeasd.runtime.service.latency import Latencies
from edgeasd.runtime.service.standing import Standing
from edgeasd.runtime.sources import Source
from edgeasd.runtime.sources.capture import Block, Capture, SampleQueue
from edgeasd.runtime.system.clocks import utc_text, wall_time

Record = dict[str, Any]
_QUIET = 1e-6
BUFFER_SECONDS = 60
"""Sound that may wait for the scorer, for instance while a large model loads."""


def level_dbfs(samples: Float32Array) -> float:
    """RMS level of samples (n,) in dB relative to full scale, at least -120."""
    power = float(np.mean(np.square(samples, dtype=np.float64))) if samples.size else 0.0
    return 20.0 * float(np.log10(max(np.sqrt(power), _QUIET)))


@dataclass
class Listener:
    """Turns blocks of one sound into records; holds its stream, its alarm rule and its place in the sound.

    With `health`, the input is judged by these settings too, and sick input raises no alarm.
    """

    scorer: Scorer
    manifest: Manifest
    health: HealthSettings | None = None

    def __post_init__(self) -> None:
        self.stream = Stream(self.scorer)
        self.watch = None if self.health is None else InputWatch(self.health, self.manifest)
        self._alarm = AlarmRule(self.manifest.threshold)
        self._expected = 0
        self._offset = 0
        self.level = -120.0
        """RMS level of the last block in dBFS."""

    def accept(self, block: Block) -> Iterator[Record]:
        """Score a block; yields gap, health, score and alarm records in order.

        A gap (samples lost before this block, by the queue or by the driver) resets the stream: no
        segment ever spans one. Raises InputError as `Stream.push`.
        """
        if block.position != self._expected or block.after_loss:
            yield self._gap(block)
        check_samples(block.samples, self.stream.samples_seen, self.manifest.features.sample_rate)
        self._expected = block.position + block.samples.size
        self.level = level_dbfs(block.samples)
        if self.watch is not None:
            self.watch.push(block.samples)
        for score in self.stream.push(block.samples):
            yield from self._health_records(self._offset + score.end_sample)
            change = self._update_alarm(score)
            record = score_record(score, self.manifest, self._offset, self._alarm.active)
            yield record
            if change is not None:
                yield self._alarm_record(record, raised=change)
        yield from self._health_records()

    @property
    def samples_seen(self) -> int:
        """Samples since the sound began, lost ones included."""
        return self._expected

    def _health_records(self, end: int | None = None) -> Iterator[Record]:
        """What began or ended up to sample `end`."""
        for report in [] if self.watch is None else self.watch.changes(end):
            yield {**record_of("health", self.manifest), **report.to_json()}

    def _update_alarm(self, score: Score) -> bool | None:
        if self.watch is None or self.watch.trusts(self._offset + score.start_sample):
            return self._alarm.update(score.clip_score, score.complete)
        # An alarm that stands is left as it is: a dead microphone does not say that the machine is well.
        if not self._alarm.active:
            self._alarm.reset()
        return None

    def _gap(self, block: Block) -> Record:
        lost, was = block.position - self._expected, self._alarm.active
        self.stream.reset()
        self._alarm.reset()
        self._offset = block.position
        if self.watch is not None:
            self.watch.gap(block.position)
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
    """The first record: what is in use. By then the reference segments have been reproduced."""
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
        pace = pace or ("drop" if source.live else "block")
        self._queue = SampleQueue(BUFFER_SECONDS * rate, pace)
        self._capture = Capture(source, self._queue, limit)
        self._backlog = Backlog(bundle.manifest, BUFFER_SECONDS, skips=pace == "drop")
        self._latencies = Latencies()
        self.listener: Listener | None = None

    def start(self) -> None:
        """Begin to capture."""
        self._capture.start()

    def load(self, **engine: Any) -> Record:
        """Verify and load the bundle (see `Bundle.open_scorer`); returns the start record."""
        scorer, _ = self._bundle.open_scorer(**engine)
        self.listener = Listener(scorer, self._bundle.manifest, HealthSettings())
        return start_record(scorer, self._bundle.manifest, self._source.name)

    def listen(
        self, emit: Callable[[Record], None], hold: Callable[[], AbstractContextManager[object]] = nullcontext
    ) -> None:
        """Score until the source ends; raises what ended it, if not its end. `hold`: see `SampleQueue.get`."""
        assert self.listener is not None, "load comes first"
        while (block := self._queue.get(lambda: self._say_events(emit), hold)) is not None:
            self._say_events(emit)
            began = time.monotonic()
            for record in self.listener.accept(block):
                if record["type"] == "score":
                    self._latencies.add(time.monotonic() - self._captured(block, record["end_sample"]))
                emit(record)
            if self._source.live:
                self._weigh(began, emit)
        self._say_events(emit)

    def standing(self) -> Standing:
        """How the sound is doing: health, latency, and what was lost or left out."""
        watch = None if self.listener is None else self.listener.watch
        report: HealthReport | None = None if watch is None else watch.report
        lost = self._queue.dropped + self._at_source("lost_samples")
        return Standing(
            health=() if report is None else report.active,
            sick=report is not None and report.is_unhealthy,
            settled=watch is None or watch.settled,
            latency=self._latencies.percentiles(),
            lost_seconds=lost / self._bundle.manifest.features.sample_rate,
            overruns=self._at_source("overruns"),
            skipped=0 if self.listener is None else self.listener.stream.skipped,
        )

    def _captured(self, block: Block, end: int) -> float:
        """When the sample before `end`, of this block, was captured; for a file, when the block was read."""
        into = (end - block.position) / self._bundle.manifest.features.sample_rate
        return block.captured_at + (into if self._source.live else 0.0)

    def _weigh(self, began: float, emit: Callable[[Record], None]) -> None:
        """Leave out segments where too much sound waits, and say so: a slow device is not to be silent."""
        assert self.listener is not None
        now = time.monotonic()
        for record in self._backlog.update(
            self._queue.held / self._bundle.manifest.features.sample_rate, now - began, now
        ):
            emit(record)
        self.listener.stream.keep_every = self._backlog.keep_every

    def _at_source(self, name: str) -> int:
        return int(getattr(self._source, name, 0))

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

    def stop(self, reason: str) -> Record:
        """Stop capturing, free the engine and return the end record."""
        self._capture.stop()
        samples, skipped = 0, 0
        if self.listener is not None:
            samples, skipped = self.listener.samples_seen, self.listener.stream.skipped
            self.listener.scorer.close()
        return {
            **record_of("end", self._bundle.manifest),
            "reason": reason,
            "samples": samples,
            "seconds": round(samples / self._bundle.manifest.features.sample_rate, 6),
            "dropped_samples": self._queue.dropped,
            "overruns": self._at_source("overruns"),
            "lost_samples": self._at_source("lost_samples"),
            "reopened": self._at_source("reopened"),
            "skipped_segments": skipped,
        }
