"""One stream: its source, read into a bounded queue by a thread of its own, and the way from sound to updates.

The capture side lives as long as the source is the same. The bundle may be replaced meanwhile, between two segments,
without losing sound: see `StreamWorker.replace_bundle`.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgeasd.runtime.alarms import AlarmSettings
from edgeasd.runtime.bundle.manifest import Manifest
from edgeasd.runtime.config.settings import StreamSettings
from edgeasd.runtime.errors import EdgeasdError, InputError, to_user_error
from edgeasd.runtime.evidence import EvidenceRecorder, EvidenceWriter
from edgeasd.runtime.features.logmel import Float32Array, check_samples
from edgeasd.runtime.health import HealthMonitor, HealthReport, level_range
from edgeasd.runtime.health.monitor import WINDOW_SECONDS
from edgeasd.runtime.outputs.messages import health_body, segment_body
from edgeasd.runtime.scoring.score import Score
from edgeasd.runtime.scoring.scorer import Scorer
from edgeasd.runtime.scoring.stream import Stream, score_streams
from edgeasd.runtime.service.jsonl_records import Record, engine_info, to_records
from edgeasd.runtime.service.monitored import MonitoredMachine
from edgeasd.runtime.service.status import Latencies
from edgeasd.runtime.service.updates import StreamUpdate
from edgeasd.runtime.sources import AudioChunk, Source, SourceEvent, SourceEventKind, SourceState, SourceStatus
from edgeasd.runtime.sources.capture import CaptureThread, SampleQueue
from edgeasd.runtime.sources.command import shown_command
from edgeasd.runtime.states import OperatingState, OperationMonitor
from edgeasd.runtime.system.clocks import Clock, wall_time
from edgeasd.runtime.system.version import package_version

END_OF_SOUND = "end of sound"
QUEUE_SECONDS = 60
"""Sound that may wait to be scored, for instance while a large model loads."""
HISTORY = 48
"""Clip scores that are remembered for display."""
_MOST_SECONDS = 4.0
"""Sound that one stream may bring into a round. One that is far behind would hold up the others."""
_QUIET = 1e-6
log = logging.getLogger(__name__)


def too_slow(decimation: int) -> str:
    """Why segments are left out."""
    return f"scoring cannot keep up: one of {decimation} segments is scored"


def level_dbfs(samples: Float32Array) -> float:
    """RMS level of samples (n,) in dB relative to full scale, at least -120."""
    wide = samples.astype(np.float64)
    power = float(np.dot(wide, wide)) / wide.size if wide.size else 0.0
    return 20.0 * math.log10(max(math.sqrt(power), _QUIET))


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What a health window has shown."""

    position: int
    """Its end."""
    is_unhealthy: bool
    is_suspect: bool
    report: HealthReport | None
    """Given if a health state began or ended."""
    operation: OperatingState | None
    level_dbfs: float | None
    """Of 10 s."""
    remark: str | None


def _is_news(before: OperatingState | None, now: OperatingState) -> bool:
    """Whether the operating state has changed in a way that the alarm machine must know at once."""
    old = before or OperatingState()
    return (old.state, old.is_judged, old.mode) != (now.state, now.is_judged, now.mode)


def _describe(event: SourceEvent) -> str:
    lost = f"; {event.lost_seconds:.2f} s of sound lost" if event.lost_seconds else ""
    return f"{event.kind}: {event.detail}{lost}"


class StreamWorker:
    """Turns the sound of one source into `StreamUpdate`s. Scoring methods belong to the thread of its engine."""

    def __init__(
        self,
        name: str,
        settings: StreamSettings,
        manifest: Manifest,
        source: Source,
        *,
        wake: Callable[[], object] = lambda: None,
        limit: int | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        """`wake` is called when sound arrives; `limit` ends the sound after so many samples.

        Raises InputError if the settings do not go with the bundle.
        """
        self.name, self.settings, self.manifest, self.source = name, settings, manifest, source
        self.rate, self.recorded_rate = manifest.features.sample_rate, manifest.features.recorded_rate
        self.drops = settings.drops
        """Whether sound and segments are left out when scoring is late; otherwise the source waits."""
        self.queue = SampleQueue(QUEUE_SECONDS * self.rate, "drop" if self.drops else "block", wake)
        self._capture = CaptureThread(source, self.queue, limit)
        self._clock = clock
        self._health = self._make_health(settings, manifest)
        self.operation = self._make_operation(settings, manifest)
        """What the machine is doing."""
        self._levels = settings.alarm.levels(manifest.threshold)
        self._mode: str | None = None
        """The recorded mode whose threshold is in `_levels`."""
        self.learnt: float | None = None
        """The threshold of the alarm machine where it was learnt on the device."""
        self.stream: Stream | None = None
        self.evidence: EvidenceRecorder | None = None
        self.report: HealthReport = self._health.report()
        self._pending: AudioChunk | None = None
        self._expected, self._offset = 0, 0
        """The next sample, and the one at which the stream was last reset."""
        self._reported = 0
        """Everything up to this sample is in the updates."""
        self._starts: deque[int] = deque(maxlen=manifest.segments.sections)
        """First sample of each of the last segments that were scored."""
        self._arrivals: deque[tuple[int, float]] = deque()
        """End of each chunk in samples, and when its last one was captured."""
        self._judged = 0
        """Samples in the health window that has begun."""
        self._verdicts: deque[_Verdict] = deque()
        self._unhealthy, self._suspect = False, False
        self._operation: tuple[OperatingState | None, float | None, str | None] = (None, None, None)
        """State, level and remark as of the last update."""
        self._updates: list[StreamUpdate] = []
        self._started_at = clock()
        self.latencies = Latencies()
        self._is_paced = settings.live or settings.realtime
        """A file that is read as fast as it is scored has no latency: its sound was never captured."""
        self.highest: tuple[float, float] | None = None
        """The highest complete clip score, and the second of the sound in which it ends."""
        self.level, self.history = -120.0, deque[float](maxlen=HISTORY)
        self.clip_score: float | None = None
        self.is_complete = False
        self.segments, self._skipped, self.bad_chunks, self.alarms = 0, 0, 0, 0
        self.engine: dict[str, Any] = {}
        self.error: EdgeasdError | None = None
        """What ended it, if not the end of the sound."""
        self.is_over = False
        """Whether the source has ended, and everything was scored."""
        self.end_reason = ""

    def _make_health(self, settings: StreamSettings, manifest: Manifest) -> HealthMonitor:
        expected = level_range(settings.health, manifest.amplitude, manifest.level)
        return HealthMonitor(settings.health, self.rate, expected)

    def _make_operation(self, settings: StreamSettings, manifest: Manifest) -> OperationMonitor:
        parts = (settings.states, manifest.features, manifest.amplitude, manifest.sound, manifest.modes)
        return OperationMonitor(*parts, clock=self._clock)

    # Capture

    def start(self) -> None:
        """Begin to capture."""
        self._capture.start()

    def stop(self) -> None:
        """Stop capturing and close the source."""
        self._capture.stop()

    def abandon(self) -> None:
        """Have the capture end soon, without waiting for it."""
        self.queue.abandon()
        self.source.close()

    # Scoring

    def replace_bundle(self, settings: StreamSettings, manifest: Manifest, scorer: Scorer) -> None:
        """Go on with another bundle or other settings from the next segment on. No sound is lost.

        The source must be the same. Frames are kept if the new model takes the same, and then not even a score is
        late. Call it while no segment is being scored, and for the first bundle too.
        """
        old = (self.settings.health, self.manifest.amplitude, self.manifest.level)
        if (settings.health, manifest.amplitude, manifest.level) != old:
            self._health, self._judged = self._make_health(settings, manifest), 0
            self._unhealthy, self._suspect = False, False
        known = (self.settings.states, self.manifest.features, self.manifest.amplitude)
        known_sounds = (self.manifest.sound, self.manifest.modes)
        if (settings.states, manifest.features, manifest.amplitude) != known or (
            (manifest.sound, manifest.modes) != known_sounds
        ):
            earlier, self.operation = self.operation, self._make_operation(settings, manifest)
            self.operation.continue_from(earlier)
        self.settings, self.manifest = settings, manifest
        self._levels, self._mode = settings.alarm.levels(manifest.threshold), None
        self._starts = deque(maxlen=manifest.segments.sections)
        self.engine = engine_info(scorer)
        if self.stream is None or not self.stream.continue_with(scorer):
            if self.stream is not None:
                self._skipped += self.stream.skipped
            self.stream = Stream(scorer)
            self._offset = self._expected
        body = {
            "state": "starting",
            "source": self.source.name,
            **self.engine,
            "bundle_status": manifest.status,
            "threshold": self.threshold,
            "alpha": manifest.score.alpha,
            "d_mode": manifest.score.mode,
            "version": package_version(),
        }
        self._add(self.current(), record=("start", body))

    def record_evidence(self, writer: EvidenceWriter) -> None:
        """Record the evidence of events by the present settings."""
        machine = self.manifest.machine
        if self.evidence is not None:
            self.evidence.close()
        self.evidence = EvidenceRecorder(writer, machine.type, machine.id, self.rate, self.settings.evidence)

    def take_in(self, segments: int) -> bool:
        """Accept waiting sound until `segments` wait to be scored. False if there was none.

        Raises InputError for sound that is not fit to be scored, from a source that is not live.
        """
        assert self.stream is not None
        # What happened to a source is known before the sound behind it, and while it is away.
        if self.queue.held or self.source.status.state != SourceState.OPEN:
            self.take_source_events()
        taken = 0
        while self.stream.waiting < segments and taken < _MOST_SECONDS * self.rate:
            chunk = self._pending or self.queue.take()
            self._pending = None
            if chunk is None:
                break
            if self._is_gap(chunk) and self.stream.waiting:
                # The segments before the gap are scored first.
                self._pending = chunk
                return True
            taken += chunk.samples.size
            self.accept(chunk)
        return taken > 0

    def accept(self, chunk: AudioChunk) -> None:
        """Take in a chunk: its health, its frames. A gap before it resets the stream: no segment spans one."""
        assert self.stream is not None
        if self._is_gap(chunk):
            self._gap(chunk)
        try:
            check_samples(chunk.samples, chunk.start_sample, self.rate)
        except InputError:
            if not self.source.live:
                raise
            # Left out: the next chunk lies behind a gap.
            self.bad_chunks += 1
            return
        self._expected = chunk.end_sample
        if self.evidence is not None:
            self.evidence.sound(chunk.start_sample, chunk.samples)
        self.level = level_dbfs(chunk.samples)
        length = chunk.samples.size / self.rate
        self._arrivals.append((self._expected, chunk.captured_at + (length if self.source.live else 0.0)))
        self._judge(chunk)
        factor = self.operation.factor
        # Health and level are those of the sound as it came.
        if factor == 1.0:
            self.stream.accept_checked(chunk.samples)
        else:
            self.stream.accept(chunk.samples * np.float32(factor))

    def _judge(self, chunk: AudioChunk) -> None:
        """Judge the health window by window, so that it does not depend on how the sound was cut."""
        size, done = round(WINDOW_SECONDS * self.rate), 0
        while done < chunk.samples.size:
            taken = min(chunk.samples.size - done, size - self._judged)
            changes = self._health.push_checked(chunk.samples[done : done + taken])
            done += taken
            self._judged = (self._judged + taken) % size
            if self._judged == 0:
                was_unhealthy, position = self._health.is_unhealthy, chunk.start_sample + done
                operation, remark = self._operate(position)
                is_unhealthy = self._health.is_unhealthy
                self.report = self._health.report()
                report = self.report if changes or is_unhealthy != was_unhealthy else None
                self._verdicts.append(
                    _Verdict(
                        *(position, is_unhealthy, self._health.is_suspect, report),
                        *(operation, self._health.level_dbfs, remark),
                    )
                )

    def _operate(self, position: int) -> tuple[OperatingState | None, str | None]:
        """What the machine does at the end of a health window, and what is to be said of its sound."""
        health, operation = self._health, self.operation
        if not operation.is_active and operation.sound is None:
            return None, None
        captured = self._arrivals[-1][1] - (self._arrivals[-1][0] - position) / self.rate
        moment, wall = self._moment(position, captured)
        is_silent = bool({"digital_silence", "silence"}.intersection(health.report().active))
        state = operation.window(health.window, moment, wall, health.level_dbfs, health.recent_dbfs, is_silent)
        health.excuse(operation.excused)
        return (state if operation.is_active else None), operation.gain

    def finish(self, scores: list[Score]) -> None:
        """Report the scores of this stream, and the health up to now."""
        now = self._clock()
        for score in scores:
            start, end = self._offset + score.start_sample, self._offset + score.end_sample
            self._take_verdicts(end, now)
            captured = self._captured(end, now)
            if self._is_paced:
                self.latencies.add(now - captured)
            if score.complete and (self.highest is None or score.clip_score > self.highest[0]):
                self.highest = (score.clip_score, end / self.rate)
            self.segments += 1
            self.clip_score, self.is_complete = score.clip_score, score.complete
            self.history.append(score.clip_score)
            update = self._update_at(end, captured)
            if self.evidence is not None:
                self.evidence.score(end, update.wall, score.score, score.clip_score, score.complete)
            body: dict[str, Any] = segment_body(
                score, offset=self._offset, sample_rate=self.rate, threshold=self.threshold
            )
            if update.operation is not None and update.operation.state is not None:
                body |= {"operating_state": update.operation.state, "judged": update.operation.is_judged}
            self._starts.append(start)
            self._add(
                update,
                clip_score=score.clip_score,
                is_complete=score.complete,
                position=end,
                window_seconds=(end - self._starts[-score.averaged]) / self.rate,
                record=("segment", body),
            )
        self._take_verdicts(self._expected, now)
        self._reported = self._expected

    def _take_verdicts(self, end: int, now: float) -> None:
        """Report the health up to sample `end`."""
        while self._verdicts and self._verdicts[0].position <= end:
            verdict = self._verdicts.popleft()
            self._unhealthy, self._suspect = verdict.is_unhealthy, verdict.is_suspect
            news = verdict.operation is not None and _is_news(self._operation[0], verdict.operation)
            self._operation = (verdict.operation, verdict.level_dbfs, verdict.remark)
            self._use_mode(None if verdict.operation is None else verdict.operation.mode)
            if verdict.report is not None or news:
                update = self._update_at(verdict.position, self._captured(verdict.position, now))
            if verdict.report is not None:
                record = ("health", health_body(verdict.report, update.is_unhealthy))
                self._add(update, health=verdict.report, record=record)
            elif news:
                self._add(update)

    @property
    def threshold(self) -> float | None:
        """The threshold in force, for records and evidence."""
        if self.learnt is not None and self._mode is None:
            return self.learnt
        return None if self._levels is None else self._levels.on

    def _use_mode(self, mode: str | None) -> None:
        """Thresholds and distances of the mode that the machine is in."""
        profile = None if mode is None else self.manifest.modes.get(mode)
        threshold = self.manifest.threshold if profile is None or profile.threshold is None else profile.threshold
        if mode != self._mode:
            self._mode, self._levels = mode, self.settings.alarm.levels(threshold)
        if self.stream is not None:
            self.stream.distances = None if profile is None else profile.distances

    def take_source_events(self) -> None:
        """Report whatever happened to the source itself."""
        if self.source.status.state == SourceState.OPENING:
            return
        for event in self.source.take_events():
            if event.kind == SourceEventKind.LOST and self.evidence is not None:
                self.evidence.source_lost()
            lost = round(event.lost_seconds, 3)
            body = {
                "state": str(event.kind),
                "detail": event.detail,
                "at_sample": event.at_sample,
                "lost_seconds": lost,
            }
            update = self.current()
            wall = wall_time(event.at) if self.source.live else update.wall
            self._add(replace(update, wall=wall), record=("source", body))
            is_bad = event.kind in (SourceEventKind.LOST, SourceEventKind.SKIPPED, SourceEventKind.WRONG_RATE)
            is_played = event.kind == SourceEventKind.PLAYING
            level = logging.WARNING if is_bad else logging.DEBUG if is_played else logging.INFO
            log.log(level, "%s: %s", self.name, _describe(event))

    def report_decimation(self, decimation: int) -> None:
        """Report that only every so many-th segment is scored from now on."""
        state, reason = "running", None
        if decimation > 1:
            state, reason = "degraded", too_slow(decimation)
        body = {"state": state, "reason": reason, "decimation": decimation, "skipped_segments": self.skipped}
        self._add(self.current(), record=("status", body))

    def end(self, reason: str = END_OF_SOUND, error: BaseException | None = None) -> None:
        """The source has ended and everything was scored, or the stream ends for another reason."""
        error = error or self.queue.error
        if isinstance(error, Exception):
            self.error = to_user_error(error)
        elif reason == END_OF_SOUND and not self.segments and not self.skipped:
            self.error = self._too_short()
        self.is_over, self.end_reason = True, reason
        status = self.source.status
        body = {
            "state": "stopped",
            "reason": str(self.error or reason),
            "segments": self.segments,
            "skipped_segments": self.skipped,
            "samples": self._expected,
            "seconds": round(self._expected / self.rate, 6),
            "dropped_samples": self.queue.dropped,
            "lost_samples": status.lost_samples,
            "overruns": status.overruns,
            "reconnects": status.reconnects,
        }
        self._add(self.current(), record=("stop", body))

    def take_updates(self) -> list[StreamUpdate]:
        """The updates since the last call, oldest first."""
        updates, self._updates = self._updates, []
        return updates

    def current(self) -> StreamUpdate:
        """The state at this moment, without a score."""
        now = self._clock()
        if self._is_source_unfit and self.operation.is_active:
            # A schedule and a tag go on while there is no sound.
            self._operation = (self.operation.pass_time(*self._moment(self._reported, now)), *self._operation[1:])
        return self._update_at(self._reported, now)

    # Parts

    def _add(self, update: StreamUpdate, **more: Any) -> None:
        self._updates.append(replace(update, **more))

    def _update_at(self, position: int, captured: float) -> StreamUpdate:
        """An update about sample `position`, which was captured at `captured` (monotonic seconds).

        Time is that of the capture for live sound. For files it is that of the sound itself, however fast it is
        read, so that the same file gives the same events.
        """
        moment, wall = self._moment(position, captured)
        unhealthy = self._unhealthy or (self.source.live and self._is_source_unfit)
        operation, level, remark = self._operation
        is_suspect = self._suspect or (self.source.live and self.source.status.is_rate_doubtful)
        is_suspect = is_suspect or (operation is not None and operation.is_stopping)
        return StreamUpdate(
            *(self.name, moment, wall),
            is_unhealthy=unhealthy,
            is_suspect=is_suspect,
            operation=operation,
            level_dbfs=level,
            remark=remark,
            may_drop=self.drops,
        )

    def _moment(self, position: int, captured: float) -> tuple[float, float]:
        """Seconds that never run back, and seconds since 1970, of sample `position`, captured at `captured`."""
        if self.source.live:
            return captured, wall_time(captured, self._clock)
        return self._started_at + position / self.rate, time.time()

    def _is_gap(self, chunk: AudioChunk) -> bool:
        return chunk.start_sample != self._expected or chunk.discontinuity

    def _gap(self, chunk: AudioChunk) -> None:
        assert self.stream is not None
        lost = chunk.start_sample - self._expected
        self._take_verdicts(self._expected, self._clock())
        body = {"at_sample": self._expected, "lost_samples": lost, "driver_overrun": chunk.discontinuity and not lost}
        self.stream.reset()
        self._starts.clear()
        self._arrivals.clear()
        self._judged = 0
        self._health.gap(max(0, lost))
        self.operation.gap()
        self._expected = self._offset = self._reported = chunk.start_sample
        self._add(self._update_at(self._expected, chunk.captured_at), has_gap=True, record=("gap", body))

    def _captured(self, end: int, now: float) -> float:
        """When sample `end` of the sound was captured."""
        while self._arrivals and self._arrivals[0][0] < end:
            self._arrivals.popleft()
        if not self._arrivals:
            return now
        chunk_end, at = self._arrivals[0]
        return at - ((chunk_end - end) / self.rate if self.source.live else 0.0)

    def _too_short(self) -> InputError:
        need = self.manifest.features.sample_count(self.manifest.segments.frames)
        missing = need - self._expected
        given = (
            self.settings.input
            or (self.settings.input_command and shown_command(self.settings.input_command))
            or "source"
        )
        name = "standard input" if given == "-" else given
        return InputError(
            f"{name}: ended after {self._expected} samples; the first score takes {need}, "
            f"{missing} ({missing / self.rate:.2f} s) more; use a longer recording"
        )

    # What it is

    @property
    def is_unhealthy(self) -> bool:
        """Whether the input cannot be trusted now, or is not there; no alarm is raised meanwhile."""
        return self._health.is_unhealthy or (self.source.live and self._is_source_unfit)

    def notices(self) -> tuple[str, ...]:
        """What a person should know about the operating state and the sound, a line each."""
        operation = self.operation
        found = (operation.doubt(self.report.active) or operation.state.note, operation.gain)
        return tuple(text for text in found if text is not None)

    def operation_status(self) -> dict[str, Any]:
        """The fields of a status about the operating state."""
        operation, present = self.operation, self.operation.state
        if not operation.is_active:
            return {}
        phase = "starting" if present.is_starting else None
        return {
            "operating_state": present.state,
            "operating_source": present.source,
            "operating_phase": phase,
            "operating_seconds": {name: round(seconds, 1) for name, seconds in operation.seconds.items()},
        }

    @property
    def _is_source_unfit(self) -> bool:
        """Whether the source is away, or delivers at another rate than it should."""
        status = self.source.status
        # Without a reason it is only about to be opened for the first time.
        is_absent = status.state == SourceState.REOPENING or (
            status.state == SourceState.OPENING and bool(status.reason)
        )
        return is_absent or bool(status.rate_fault)

    @property
    def has_ended(self) -> bool:
        """Whether the source gives no more sound, and none waits."""
        return self.queue.ended and self._pending is None

    @property
    def skipped(self) -> int:
        """Segments left out because scoring could not keep up."""
        return self._skipped + (0 if self.stream is None else self.stream.skipped)

    @property
    def seconds(self) -> float:
        """Sound so far, lost sound included."""
        return self._expected / self.rate

    @property
    def waiting_seconds(self) -> float:
        """Sound that waits to be scored."""
        return self.queue.held / self.rate

    @property
    def dropped_seconds(self) -> float:
        """Sound lost in the queue or known to be lost at the source."""
        return (self.queue.dropped + self.source.status.lost_samples) / self.rate


class _SoundInMemory:
    """A source for sound that is accepted directly."""

    name, live = "sound", False

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self.status = SourceStatus(SourceState.OPEN)

    def read(self) -> AudioChunk | None:
        return None

    def take_events(self) -> list[SourceEvent]:
        return []

    def close(self) -> None:
        pass


def live_records(scorer: Scorer, manifest: Manifest, sound: Float32Array) -> Iterator[Record]:
    """The records of `run --jsonl` for samples (n,) float32, without start and stop, times and site.

    Alarms go by the rule of the bundle. Raises InputError for samples that are NaN or infinite.
    """
    settings = StreamSettings(bundle="-", input="-", alarm=AlarmSettings())
    rate = manifest.features.sample_rate
    worker = StreamWorker("sound", settings, manifest, _SoundInMemory(rate))
    machine = MonitoredMachine("sound", manifest, settings.alarm)
    worker.stream = Stream(scorer)
    for start in range(0, sound.size, 2 * rate):
        worker.accept(AudioChunk(sound[start : start + 2 * rate], start))
        worker.finish(score_streams([worker.stream])[0])
        for update in worker.take_updates():
            yield from to_records(update, machine.update(update), machine, site=None, has_time=False)
