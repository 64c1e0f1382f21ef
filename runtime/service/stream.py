"""One stream of the service: a source read into a bounded ring by a thread of its own, and what becomes of it.

The capture side lives as long as the source is the same; the scoring side may be exchanged meanwhile
(`adopt`), between two segments, and no sound is lost by it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgeasd.runtime.bundle.manifest import Manifest
from edgeasd.runtime.config.settings import StreamSettings
from edgeasd.runtime.errors import EdgeasdError, InputError
from edgeasd.runtime.evidence import EvidenceRecorder, EvidenceWriter
from edgeasd.runtime.features.logmel import check_samples
from edgeasd.runtime.health import HealthMonitor, HealthReport, level_range
from edgeasd.runtime.scoring.score import Score
from edgeasd.runtime.scoring.scorer import Scorer
from edgeasd.runtime.scoring.stream import Stream
from edgeasd.runtime.scoring.threshold import AlarmRule
from edgeasd.runtime.service.finding import Finding, Record
from edgeasd.runtime.service.inputs import ServedSource
from edgeasd.runtime.service.jsonl_records import engine_facts, record_of, score_record
from edgeasd.runtime.service.latency import Latencies
from edgeasd.runtime.service.listen import BUFFER_SECONDS, level_dbfs
from edgeasd.runtime.sources import SourceEvent
from edgeasd.runtime.sources.capture import Block, Capture, SampleQueue
from edgeasd.runtime.system.clocks import utc_text, wall_time

END_OF_SOUND = "end of sound"
TRACE = 48
"""Clip scores that are remembered for display."""


@dataclass(frozen=True, slots=True)
class Listeners:
    """Whom a stream tells: `find` those who keep alarms and events, `tell` those who write records down.

    Both may wait where they are not read; `tell` only for a stream that waits, scored with none that
    does not.
    """

    find: Callable[[Finding], None]
    tell: Callable[[Record, bool], None]
    """Given a record, and whether it may be dropped rather than waited for."""


class ServedStream:
    """One stream. `accept` and `finish` are called by the thread of its engine, the rest from others."""

    def __init__(
        self,
        name: str,
        settings: StreamSettings,
        manifest: Manifest,
        source: ServedSource,
        listeners: Listeners,
        wake: Callable[[], object],
    ) -> None:
        self.name, self.settings, self.manifest, self.source = name, settings, manifest, source
        self._listeners = listeners
        self.rate = manifest.features.sample_rate
        pace = "drop" if settings.drops else "block"
        self.queue = SampleQueue(BUFFER_SECONDS * self.rate, pace, wake)
        self._capture = Capture(source, self.queue)
        self._health = self._new_health(settings, manifest)
        self.report: HealthReport = self._health.report()
        self.stream: Stream | None = None
        self.recorder: EvidenceRecorder | None = None
        """Who keeps the evidence of its events."""
        self._rule = AlarmRule(manifest.threshold)
        self._expected, self._offset = 0, 0
        self._starts: deque[int] = deque(maxlen=manifest.segments.sections)
        """First sample of each of the last segments that were scored."""
        self._arrivals: deque[tuple[int, float]] = deque()
        """End of each block in samples, and when its last one was captured."""
        self.latencies = Latencies()
        self.level, self.trace = -120.0, deque[float](maxlen=TRACE)
        self.clip_score: float | None = None
        self.complete = False
        self.segments, self._skipped, self.bad_blocks = 0, 0, 0
        self.facts: dict[str, Any] = {}
        self.failure: str | None = None
        """Why it has ended, or cannot be scored for now."""
        self.beside_live = False
        """Whether it is scored together with streams that do not wait: then its records wait for nobody, too."""
        self.over = False
        """Whether its source has ended, and all was scored."""
        self.ended_by = ""
        self.breaks = deque[SourceEvent](maxlen=32)
        """Losses and returns of its source that nobody has read yet: some are over before anybody looks."""

    def _new_health(self, settings: StreamSettings, manifest: Manifest) -> HealthMonitor:
        expected = level_range(settings.health, manifest.amplitude, manifest.level)
        return HealthMonitor(settings.health, self.rate, expected)

    # Capture

    def start(self) -> None:
        """Begin to capture."""
        self._capture.start()

    def stop(self) -> None:
        """Stop capturing and close the source."""
        self._capture.stop()

    def let_go(self) -> None:
        """Have the capture end soon, without waiting for it."""
        self.queue.abandon()
        self.source.close()

    # Scoring

    def adopt(self, settings: StreamSettings, manifest: Manifest, scorer: Scorer) -> None:
        """Go on with these from the next segment on; call it where no segment is being scored.

        Frames are kept where the new model takes the same, and then not even a score is late.
        """
        if (settings.health, manifest.amplitude, manifest.level) != (
            self.settings.health,
            self.manifest.amplitude,
            self.manifest.level,
        ):
            self._health = self._new_health(settings, manifest)
        self.settings, self.manifest = settings, manifest
        self._rule = AlarmRule(manifest.threshold)
        self._starts = deque(maxlen=manifest.segments.sections)
        self.facts, self.failure = engine_facts(scorer), None
        if self.stream is None or not self.stream.continue_with(scorer):
            if self.stream is not None:
                self._skipped += self.stream.skipped
            self.stream = Stream(scorer)
            self._offset = self._expected
        self._tell({**record_of("start", manifest), "source": self.source.name, **self.facts, **self._policy()})

    def _policy(self) -> Record:
        manifest = self.manifest
        threshold = manifest.threshold.clip if manifest.threshold else None
        return {
            "status": manifest.status,
            "threshold": threshold,
            "alpha": manifest.score.alpha,
            "d_mode": manifest.score.mode,
        }

    def keep_evidence(self, writer: EvidenceWriter, settings: StreamSettings, manifest: Manifest) -> None:
        """Have the evidence of events kept from now on, as these say; call it where no segment is being scored."""
        if self.recorder is not None:
            same = (settings.evidence, manifest.machine) == (self.settings.evidence, self.manifest.machine)
            if same:
                return
            self.recorder.close()
        self.recorder = EvidenceRecorder(
            writer, manifest.machine.type, manifest.machine.id, self.rate, settings.evidence
        )

    def accept(self, block: Block) -> None:
        """Take in a block: its health, its frames. A gap before it resets the stream: no segment spans one."""
        assert self.stream is not None
        if block.position != self._expected or block.after_loss:
            self._gap(block)
        try:
            check_samples(block.samples, block.position, self.rate)
        except InputError:
            # Left out: the next block lies behind a gap, and everything begins afresh there.
            self.bad_blocks += 1
            return
        self._expected = block.position + block.samples.size
        if self.recorder is not None:
            self.recorder.sound(block.position, block.samples)
        self.level = level_dbfs(block.samples)
        changes = self._health.push(block.samples)
        self.report = self._health.report()
        length = block.samples.size / self.rate
        ended = block.captured_at + (length if self.source.live else 0.0)
        self._arrivals.append((self._expected, ended))
        if changes:
            self._listeners.find(Finding(self.name, ended, sick=self.sick, health=self.report))
            self._tell({**record_of("health", self.manifest), **self.report.to_json()})
        self.stream.accept(block.samples)

    def finish(self, scores: list[Score], now: float) -> None:
        """Pass on the scores of this stream, which came at `now` (monotonic seconds)."""
        for score in scores:
            captured = self._captured(self._offset + score.end_sample, now)
            self.latencies.add(now - captured)
            self.segments += 1
            self.clip_score, self.complete = score.clip_score, score.complete
            self.trace.append(score.clip_score)
            self._rule.update(score.clip_score, score.complete)
            self._tell(score_record(score, self.manifest, self._offset, self._rule.active))
            time = captured if self.source.live else now
            end = self._offset + score.end_sample
            if self.recorder is not None:
                wall = wall_time(time)
                self.recorder.score(end, wall, score.score, score.clip_score, score.complete)
            found = Finding(
                self.name,
                time,
                score.clip_score,
                score.complete,
                self.sick,
                position=end,
                suspect=self._health.is_suspect,
                looks_back=self._look_back(score),
            )
            self._listeners.find(found)

    def _look_back(self, score: Score) -> float:
        """Seconds of sound from the beginning of the first segment in the clip score to its end."""
        self._starts.append(self._offset + score.start_sample)
        return (self._offset + score.end_sample - self._starts[-score.averaged]) / self.rate

    def say_source_events(self) -> None:
        """A record for whatever happened to the source itself."""
        events = getattr(self.source, "events", None) if self.source.state != "opening" else None
        while events:
            event = events.popleft()
            if event.state in ("lost", "reopened"):
                self.breaks.append(event)
            if event.state == "lost" and self.recorder is not None:
                self.recorder.source_lost()
            what = {"state": event.state, "detail": event.detail, "at_sample": event.at_sample}
            lost = {"lost_seconds": round(event.lost_seconds, 3), "time": utc_text(wall_time(event.at))}
            self._tell({**record_of("source", self.manifest), **what, **lost})

    def end(self, reason: str = END_OF_SOUND) -> None:
        """The source has ended and everything was scored, or the service ends for `reason`."""
        error = self.queue.error
        if error is not None:
            self.failure = str(error) if isinstance(error, EdgeasdError) else f"{type(error).__name__}: {error}"
        elif reason == END_OF_SOUND and self.queue.ended and not self.segments and not self.skipped:
            need = self.manifest.features.sample_count(self.manifest.segments.frames)
            self.failure = f"ended after {self._expected} samples; the first score takes {need}; use a longer recording"
        self.over, self.ended_by = True, reason
        ended = {"reason": self.failure or reason, "samples": self._expected}
        seconds = {"seconds": round(self._expected / self.rate, 6)}
        lost = {"dropped_samples": self.queue.dropped, "overruns": self.overruns}
        more = {"lost_samples": self._at_source("lost_samples"), "reopened": self._at_source("reopened")}
        self._tell({**record_of("end", self.manifest), **ended, **seconds, **lost, **more})

    def _gap(self, block: Block) -> None:
        assert self.stream is not None
        lost, was = block.position - self._expected, self._rule.active
        self.stream.reset()
        self._rule.reset()
        self._arrivals.clear()
        self._offset = block.position
        self._health.gap(max(0, lost))
        record = {"at_sample": self._expected, "lost_samples": lost, "driver_overrun": block.after_loss}
        self._tell({**record_of("gap", self.manifest), **record, "alarm_cleared": was})
        self._listeners.find(Finding(self.name, block.captured_at, sick=self.sick, gap=True))

    def _captured(self, end: int, now: float) -> float:
        """When sample `end` of the sound was captured."""
        while self._arrivals and self._arrivals[0][0] < end:
            self._arrivals.popleft()
        if not self._arrivals:
            return now
        block_end, at = self._arrivals[0]
        return at - ((block_end - end) / self.rate if self.source.live else 0.0)

    def _tell(self, record: Record) -> None:
        self._listeners.tell(record, self.settings.drops or self.beside_live)

    # What it is

    @property
    def sick(self) -> bool:
        """Whether no alarm may come from this input: it is sick, or not there."""
        return self._health.is_unhealthy or (self.source.live and self._absent)

    @property
    def _absent(self) -> bool:
        state = self.source.state
        # Without a reason it is only about to be opened for the first time.
        return state == "reopening" or (state == "opening" and bool(self.source.reason))

    @property
    def skipped(self) -> int:
        """Segments left out because scoring could not keep up."""
        return self._skipped + (0 if self.stream is None else self.stream.skipped)

    @property
    def waiting_seconds(self) -> float:
        return self.queue.held / self.rate

    @property
    def overruns(self) -> int:
        return self._at_source("overruns")

    @property
    def dropped_seconds(self) -> float:
        """Sound lost in the ring or known to be lost at the source."""
        return (self.queue.dropped + self._at_source("lost_samples")) / self.rate

    def _at_source(self, name: str) -> int:
        return int(getattr(self.source, name, 0) or 0)
