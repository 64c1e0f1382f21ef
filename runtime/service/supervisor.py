"""Starts, replaces, retries and stops the streams and engines of a service. One thread; loads have threads of their own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from edgeasd.runtime.alarms import AlarmSettings
from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.bundle.manifest import Manifest, dump_manifest
from edgeasd.runtime.config.check import named_manifest
from edgeasd.runtime.config.settings import EngineSettings, ServiceConfig, StreamSettings
from edgeasd.runtime.engines import EnginePool
from edgeasd.runtime.errors import DeviceError, EdgeasdError, to_user_error
from edgeasd.runtime.evidence import EvidenceWriter
from edgeasd.runtime.scoring.scorer import Scorer
from edgeasd.runtime.service.jsonl_records import RecordWriter, to_records
from edgeasd.runtime.service.monitored import MonitoredMachine
from edgeasd.runtime.service.recorder import EventRecorder
from edgeasd.runtime.service.scoring import ScoringWorker
from edgeasd.runtime.service.status import StreamStatus
from edgeasd.runtime.service.stream import StreamWorker, too_slow
from edgeasd.runtime.sources import SharedSources, SourceState

log = logging.getLogger(__name__)
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0
"""Seconds between attempts to load a bundle that failed."""
LOAD_SECONDS = 60.0
"""A load that takes longer is reported as failed. It is used if it ends later."""
_MOST_LOADS, _PATIENCE_SECONDS = 2, 10.0
"""So many engines load at once; one that takes longer than the second does not hold up the next."""
_READ_SECONDS = 2.0
"""Streams begin to capture together, and wait so long for the manifests of the others."""
_TICK_SECONDS = 1.0
EngineKey = tuple[str, bytes, EngineSettings]
"""Path of a bundle, its manifest, and how it is loaded. Streams that agree in it share a scorer."""
_Result = TypeVar("_Result")


class Task(Generic[_Result]):
    """Something that may take long or hang, in a thread of its own."""

    def __init__(self, work: Callable[[], _Result], on_end: Callable[[], object]) -> None:
        self._work, self._on_end = work, on_end
        self.result: _Result | None = None
        self.error: EdgeasdError | None = None
        self.is_done = False
        self.started_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="edgeasd-load", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._work()
        except Exception as error:  # of one stream, not the end of the others
            self.error = to_user_error(error)
        self.is_done = True
        self._on_end()

    def seconds(self, now: float) -> float:
        """How long it has run."""
        return now - self.started_at

    def join(self, seconds: float) -> bool:
        """Wait for its end; False if that takes longer."""
        self._thread.join(seconds)
        return not self._thread.is_alive()


@dataclass
class StreamSlot:
    """One stream: what is configured, and what runs."""

    name: str
    settings: StreamSettings
    engine: EngineSettings
    worker: StreamWorker | None = None
    key: EngineKey | None = None
    """Of the engine that scores it."""
    reading: Task[tuple[EngineKey, Manifest]] | None = None
    wanted: tuple[EngineKey, Manifest] | None = None
    """The engine it should have, once its manifest was read."""
    is_settled: bool = False
    """Whether what is configured runs."""
    error: EdgeasdError | None = None
    """Why it does not."""
    retry_at: float = 0.0
    pause: float | None = None
    """Between the last two attempts."""
    source_reason: str = ""
    """Why its source could not be opened, as last logged."""

    def reset(self, settings: StreamSettings, engine: EngineSettings) -> None:
        """Other settings, or another attempt."""
        self.settings, self.engine = settings, engine
        self.reading, self.wanted, self.is_settled = None, None, False
        self.retry_at, self.pause = 0.0, None

    @property
    def identity(self) -> tuple[str, str] | None:
        """Machine type and ID that it has or will have, if that is known."""
        if self.settings.machine is not None and self.settings.id is not None:
            return self.settings.machine, self.settings.id
        if self.wanted is not None:
            return _identity(self.wanted[1])
        return None if self.worker is None else _identity(self.worker.manifest)


@dataclass
class StreamSupervisor:
    """`reconcile`, `step` and `stop` belong to one thread; the rest may be called from any."""

    recorder: EventRecorder
    records: RecordWriter | None = None
    evidence: EvidenceWriter | None = None
    retry_seconds: float = FIRST_PAUSE
    """Before the second attempt to load a bundle; the pause doubles."""
    load_seconds: float = LOAD_SECONDS
    slots: dict[str, StreamSlot] = field(default_factory=dict)
    wake: threading.Event = field(default_factory=threading.Event)
    """Set when a load has ended."""

    def __post_init__(self) -> None:
        self.encoders = EnginePool()
        """Loaded once each, for all bundles that have the same."""
        self._scorers: dict[EngineKey, Scorer] = {}
        self._engines: dict[EngineKey, ScoringWorker] = {}
        """What scores with each of the scorers: one for all bundles that have the same encoder."""
        self._loads: dict[EngineKey, Task[Scorer]] = {}
        self._sources = SharedSources()
        self._config: ServiceConfig | None = None
        self._ticked = 0.0

    # Making it so

    def reconcile(self, config: ServiceConfig) -> None:
        """Make the streams what `config` says: equal ones stay untouched, a changed source is stopped and started.

        Other settings and bundles are replaced without losing sound. `step` does the work.
        """
        if self._config is None:
            self._sources = SharedSources(wait_for_first_open=config.wait_for_source)
        self._config = config
        for slot in list(self.slots.values()):
            settings = config.streams.get(slot.name)
            worker = slot.worker
            if settings is None or (worker is not None and worker.settings.source() != settings.source()):
                self._remove(slot)
        for name, settings in config.streams.items():
            engine = config.engine(settings)
            if name in self.slots:
                self.slots[name].reset(settings, engine)
            else:
                self.slots[name] = StreamSlot(name, settings, engine)
        self.slots = {name: self.slots[name] for name in config.streams}
        self._sources.plan([config.source(settings) for settings in config.streams.values()])

    def step(self, now: float) -> None:
        """Do what is due: `now` is monotonic seconds. Waits for nothing but the event recorder and a closing source."""
        self._drop_failed_engines(now)
        for slot in list(self.slots.values()):
            self._read_manifest(slot, now)
        if not self._is_reading(now):
            self._begin_capture(now)
            for slot in list(self.slots.values()):
                if slot.worker is not None and slot.wanted is not None and not slot.is_settled:
                    self._load(slot, now)
        self._drop_unused()
        for slot in self.slots.values():
            self._log_source(slot)
        if now - self._ticked >= _TICK_SECONDS:
            self._ticked = now
            self._tick()

    def _read_manifest(self, slot: StreamSlot, now: float) -> None:
        if slot.wanted is not None or (slot.error is not None and now < slot.retry_at and slot.reading is None):
            return
        if slot.reading is None:
            settings, engine = slot.settings, slot.engine
            slot.reading = Task(lambda: _read(settings, engine), self.wake.set)
        elif slot.reading.is_done:
            slot.wanted, error, slot.reading = slot.reading.result, slot.reading.error, None
            if error is not None:
                self._fail(slot, error, now)
        elif slot.reading.seconds(now) > self.load_seconds:
            self._report_late(slot)

    def _is_reading(self, now: float) -> bool:
        readings = [slot.reading for slot in self.slots.values() if slot.reading is not None]
        return any(not one.is_done and one.seconds(now) < _READ_SECONDS for one in readings)

    def _begin_capture(self, now: float) -> None:
        """Begin to capture before large models load. Streams that share a source hear the same beginning."""
        begun = []
        for slot in self.slots.values():
            if slot.wanted is None or slot.is_settled:
                continue
            manifest = slot.wanted[1]
            features = manifest.features
            heard = (features.sample_rate, features.recorded_rate)
            if slot.worker is not None and (slot.worker.rate, slot.worker.recorded_rate) != heard:
                self._remove(slot, keep=True)
            if slot.worker is None:
                try:
                    slot.worker = self._make_worker(slot, manifest)
                    begun.append(slot.worker)
                except Exception as error:
                    self._fail(slot, to_user_error(error), now)
        for worker in begun:
            worker.start()

    def _make_worker(self, slot: StreamSlot, manifest: Manifest) -> StreamWorker:
        assert self._config is not None
        settings = replace(self._config.source(slot.settings), recorded_rate=manifest.features.recorded_rate)
        source = self._sources.open(settings, manifest.features.sample_rate)
        limit = self._config.limit_seconds
        samples = None if limit is None else max(1, round(limit * manifest.features.sample_rate))
        return StreamWorker(slot.name, slot.settings, manifest, source, wake=lambda: self._wake(slot), limit=samples)

    def _load(self, slot: StreamSlot, now: float) -> None:
        """Have the engine that the stream should have, then hand the stream to it."""
        assert slot.wanted is not None
        key, manifest = slot.wanted
        if key not in self._engines:
            load = self._loads.get(key)
            if load is None:
                busy = [one for one in self._loads.values() if one.seconds(now) < _PATIENCE_SECONDS]
                if len(busy) < _MOST_LOADS:
                    path, engine = Path(slot.settings.bundle), slot.engine
                    self._loads[key] = Task(lambda: _open_scorer(path, engine, self.encoders), self.wake.set)
                return
            if not load.is_done:
                if load.seconds(now) > self.load_seconds:
                    self._report_late(slot)
                return
            del self._loads[key]
            if load.error is not None:
                for other in self.slots.values():
                    if other.wanted is not None and other.wanted[0] == key and not other.is_settled:
                        self._fail(other, load.error, now)
                return
            assert load.result is not None
            self._add_scorer(key, load.result)
        try:
            self._hand_over(slot, key, manifest)
        except Exception as error:
            self._fail(slot, to_user_error(error), now)

    def _add_scorer(self, key: EngineKey, scorer: Scorer) -> None:
        """Have it scored with those of the same encoder, in one thread and in common batches."""
        self._scorers[key] = scorer
        engine = next((one for one in self._engines.values() if one.error is None and one.shares_encoder(scorer)), None)
        if engine is None:
            engine = ScoringWorker(scorer, self.recorder, self.records)
            engine.start()
        else:
            engine.scorers.append(scorer)
        self._engines[key] = engine

    def _drop_scorer(self, key: EngineKey, seconds: float) -> None:
        """Free what nothing uses any more: a head, and its encoder with the last of the heads."""
        engine, scorer = self._engines.pop(key), self._scorers.pop(key)
        if engine not in self._engines.values():
            engine.stop(seconds)
        else:
            with engine.paused():
                engine.scorers.remove(scorer)
                engine.failed.pop(scorer, None)
            scorer.close()

    def _hand_over(self, slot: StreamSlot, key: EngineKey, manifest: Manifest) -> None:
        """From the old engine to the new one, between two segments of each; the sound waits meanwhile."""
        worker = slot.worker
        assert worker is not None
        slot.is_settled, slot.error, slot.pause = True, None, None
        if slot.key == key and (worker.settings, worker.manifest) == (slot.settings, manifest):
            return
        # Nothing that the old model found is judged by the new threshold.
        old = self._detach(slot)
        try:
            if old is not None and _identity(worker.manifest) != _identity(manifest):
                self.recorder.remove_machine(slot.name)
            self.recorder.add_machine(slot.name, manifest, slot.settings.alarm)
        except BaseException:
            if old is not None:
                self._attach(slot, old)
            raise
        before = (worker.settings.evidence, worker.manifest.machine)
        worker.replace_bundle(slot.settings, manifest, self._scorers[key])
        if self.evidence is not None and (
            worker.evidence is None or before != (slot.settings.evidence, manifest.machine)
        ):
            worker.record_evidence(self.evidence)
            self._continue_evidence(worker)
        self._attach(slot, key)
        used, machine = worker.engine, manifest.machine
        levels = slot.settings.alarm.levels(manifest.threshold)
        log.info(
            "%s: %s ID %s from %s; %s on %s, accelerator %s; %s",
            *(slot.name, machine.type, machine.id, worker.source.name),
            *(used["precision"], used["engine"], used["accelerator"]),
            "uncalibrated, no alarms" if levels is None else f"threshold {levels.on:.4f}",
        )
        if (known := worker.operation.describe()) is not None:
            log.info("%s: %s", slot.name, known)

    def _continue_evidence(self, worker: StreamWorker) -> None:
        """An event that is open from before the start is recorded, unless it has its clip."""
        monitored = self.recorder.machines.get(worker.name)
        event = None if monitored is None else monitored.machine.event
        if monitored is None or event is None or worker.evidence is None:
            return
        levels = monitored.machine.levels
        worker.evidence.open_event(event.id, event.raised_wall, levels.on if levels else None)
        if monitored.machine.event is None:  # closed by a command just now
            worker.evidence.end_event(event.id)

    def _attach(self, slot: StreamSlot, key: EngineKey) -> None:
        assert slot.worker is not None
        with self._engines[key].paused():
            self._engines[key].add(slot.worker)
        slot.key = key

    def _detach(self, slot: StreamSlot) -> EngineKey | None:
        """Take a stream from its engine; returns that."""
        key, slot.key = slot.key, None
        engine = None if key is None else self._engines.get(key)
        if engine is None or slot.worker is None:
            return None
        with engine.paused():
            engine.streams = [one for one in engine.streams if one is not slot.worker]
        for update in slot.worker.take_updates():
            self.recorder.update(update)
        return key

    def _remove(self, slot: StreamSlot, *, keep: bool = False) -> None:
        """Stop a stream; `keep`: its slot stays, for another source."""
        self._detach(slot)
        worker, slot.worker, slot.is_settled = slot.worker, None, False
        if worker is not None:
            worker.stop()
            if not worker.is_over:
                worker.end("removed")
            for update in worker.take_updates():
                self.recorder.update(update)
            if worker.evidence is not None:
                worker.evidence.close()
        if not keep:
            del self.slots[slot.name]
        if slot.name in self.recorder.machines:
            self.recorder.remove_machine(slot.name)

    def _fail(self, slot: StreamSlot, error: EdgeasdError, now: float) -> None:
        """The stream goes on with what it had, if anything. It is tried again after a pause that grows."""
        # The error of a single run ends it, and is its last line.
        is_single = self._config is not None and not self._config.wait_for_source and slot.key is None
        if not is_single and (slot.error is None or str(slot.error) != str(error)):
            log.error("%s: %s", slot.name, error)
        slot.error, slot.wanted, slot.reading, slot.is_settled = error, None, None, False
        slot.pause = self.retry_seconds if slot.pause is None else min(2.0 * slot.pause, LONGEST_PAUSE)
        slot.retry_at = now + slot.pause

    def _report_late(self, slot: StreamSlot) -> None:
        if slot.error is None:
            bundle = slot.settings.bundle
            slot.error = DeviceError(
                f"{bundle}: has been loading for {self.load_seconds:.0f} s; check its disk and device"
            )
            log.error("%s: %s", slot.name, slot.error)

    def _drop_failed_engines(self, now: float) -> None:
        for key, engine in list(self._engines.items()):
            error = engine.error or engine.failed.get(self._scorers[key])
            if error is None:
                continue
            self._drop_scorer(key, 0.1)
            for slot in self.slots.values():
                if slot.key == key:
                    slot.key = None
                    self._fail(slot, error, now)

    def _drop_unused(self) -> None:
        used = {slot.key for slot in self.slots.values()}
        used |= {slot.wanted[0] for slot in self.slots.values() if slot.wanted is not None}
        for key in [key for key in self._engines if key not in used]:
            self._drop_scorer(key, 5.0)
        for key in [key for key, load in self._loads.items() if key not in used and load.is_done]:
            load = self._loads.pop(key)
            if load.result is not None:
                load.result.close()

    def _tick(self) -> None:
        """Time passes for a stream without sound, too."""
        for slot in self.slots.values():
            if slot.worker is not None and not slot.worker.is_over and slot.name in self.recorder.machines:
                self.recorder.update(slot.worker.current())

    def _log_source(self, slot: StreamSlot) -> None:
        """Losses are events of the source; why it cannot be opened is in its status."""
        if slot.worker is None or slot.worker.is_over:
            return
        status = slot.worker.source.status
        if status.state == SourceState.OPENING and status.reason != slot.source_reason:
            slot.source_reason = status.reason
            log.warning("%s: %s", slot.name, status.reason)
        elif status.state == SourceState.OPEN and slot.source_reason:
            slot.source_reason = ""
            log.info("%s: %s is there now", slot.name, slot.worker.source.name)
        if slot.key is None and slot.worker.stream is not None:
            slot.worker.take_source_events()

    def _wake(self, slot: StreamSlot) -> None:
        engine = None if slot.key is None else self._engines.get(slot.key)
        if engine is not None:
            engine.wake.set()

    def stop(self, seconds: float, reason: str) -> bool:
        """Stop all captures and engines within `seconds`. False if one had to be left behind."""
        until = time.monotonic() + seconds
        slots = list(self.slots.values())
        running = [slot.worker for slot in slots if slot.worker is not None]
        engines = list(dict.fromkeys(self._engines.values()))
        for engine in engines:
            engine.request_stop()
        closing = [threading.Thread(target=_abandon, args=(worker,), daemon=True) for worker in running]
        for thread in closing:
            thread.start()
        for thread in closing:
            # Closing a source may take a second; one that is not done by then goes on.
            thread.join(max(0.0, until - 0.2 - time.monotonic()))
        ended = [engine.stop(max(0.05, until - time.monotonic())) for engine in engines]
        for slot in slots:
            if slot.worker is not None:
                self._end(slot, slot.worker, reason)
        # A load deep in a library does not bear the end of the interpreter.
        loads: list[Task[Any]] = list(self._loads.values())
        loads += [slot.reading for slot in self.slots.values() if slot.reading is not None]
        return all(ended) and all(load.join(max(0.0, until - time.monotonic())) for load in loads)

    def _end(self, slot: StreamSlot, worker: StreamWorker, reason: str) -> None:
        """Report the end of a stream. One whose engine was refused has no machine, and a line of --jsonl all the same."""
        if not worker.is_over:
            worker.end(reason, slot.error if slot.key is None else None)
        has_machine = slot.name in self.recorder.machines
        for update in worker.take_updates():
            if has_machine:
                self.recorder.update(update)
            elif self.records is not None and self._config is not None:
                machine = MonitoredMachine(slot.name, _identity(worker.manifest), AlarmSettings())
                site = None if self._config.path is None else self._config.name
                for record in to_records(update, [], machine, site=site):
                    self.records.put(record, may_drop=False)

    def end_clips(self) -> None:
        """End all evidence clips as they are."""
        for slot in list(self.slots.values()):
            if slot.worker is not None and slot.worker.evidence is not None:
                slot.worker.evidence.close()

    # What it is

    @property
    def is_loaded(self) -> bool:
        """Whether every stream was tried."""
        return all(slot.is_settled or slot.error is not None for slot in list(self.slots.values()))

    @property
    def is_over(self) -> bool:
        """Whether every source has ended for good."""
        workers = [slot.worker for slot in list(self.slots.values())]
        return bool(workers) and all(worker is not None and worker.is_over for worker in workers)

    @property
    def fatal_error(self) -> EdgeasdError | None:
        """The first error, if not one stream could be loaded."""
        slots = list(self.slots.values())
        if any(slot.is_settled or slot.key is not None or slot.error is None for slot in slots):
            return None
        return next((slot.error for slot in slots), None)

    @property
    def is_failing(self) -> bool:
        """Whether a stream could not be loaded, or ended with an error."""
        slots = list(self.slots.values())
        return bool(self.failures()) or any(slot.error is not None and slot.key is None for slot in slots)

    def failures(self) -> list[tuple[str, EdgeasdError]]:
        """Streams that ended with an error."""
        workers = [slot.worker for slot in list(self.slots.values()) if slot.worker is not None]
        return [(one.name, one.error) for one in workers if one.is_over and one.error is not None]

    def identities(self) -> set[tuple[str, str]] | None:
        """Machine type and ID of every stream; None while one is not known."""
        known = [slot.identity for slot in list(self.slots.values())]
        return None if None in known else {one for one in known if one is not None}

    def beats(self) -> list[float]:
        """When each encoder last moved."""
        return [engine.beat for engine in dict.fromkeys(list(self._engines.values())) if engine.error is None]

    def statuses(self) -> list[StreamStatus]:
        """Every stream in the order of the configuration."""
        return [self._status(slot) for slot in list(self.slots.values())]

    def _status(self, slot: StreamSlot) -> StreamStatus:
        engine = None if slot.key is None else self._engines.get(slot.key)
        decimation = engine.decimation if engine is not None and slot.worker is not None and slot.worker.drops else 1
        return stream_status(slot, self.recorder.machines.get(slot.name), decimation)


def stream_status(slot: StreamSlot, monitored: MonitoredMachine | None, decimation: int) -> StreamStatus:
    """How a stream is doing."""
    worker, machine = slot.worker, None if monitored is None else monitored.machine
    event = None if machine is None else machine.event
    levels = None if machine is None else machine.levels
    burn_in = None if monitored is None else monitored.burn_in
    identity = slot.identity
    state, reason = _condition(slot, decimation)
    used = {} if worker is None else worker.engine
    return StreamStatus(
        name=slot.name,
        machine=identity[0] if identity else slot.settings.machine or "?",
        id=identity[1] if identity else slot.settings.id or slot.name,
        state=state,
        reason=reason,
        source=slot.settings.source().label if worker is None else worker.source.name,
        engine=used.get("engine"),
        accelerator=used.get("accelerator"),
        precision=used.get("precision"),
        level_dbfs=-120.0 if worker is None else round(worker.level, 2),
        clip_score=None if worker is None else worker.clip_score,
        complete=worker is not None and worker.is_complete,
        threshold=None if levels is None else levels.on,
        score_history=[] if worker is None else list(worker.history.copy()),
        unhealthy=worker is not None and worker.is_unhealthy,
        health=() if worker is None else worker.report.active,
        alarm="normal" if machine is None else machine.state,
        event=None if event is None else event.id,
        maintenance=machine is not None and machine.maintenance,
        snoozed=machine is not None and machine.snoozed,
        segments=0 if worker is None else worker.segments,
        skipped_segments=0 if worker is None else worker.skipped,
        decimation=decimation,
        seconds=0.0 if worker is None else round(worker.seconds, 3),
        waiting_seconds=0.0 if worker is None else round(worker.waiting_seconds, 3),
        dropped_seconds=0.0 if worker is None else round(worker.dropped_seconds, 3),
        overruns=0 if worker is None else worker.source.status.overruns,
        latency_seconds=None if worker is None else worker.latencies.percentiles(),
        events=0 if worker is None else worker.alarms,
        notices=(*(() if worker is None else worker.notices()), *(() if monitored is None else monitored.trends)),
        highest=None if worker is None else worker.highest,
        burn_in=None if burn_in is None else burn_in.describe(None if levels is None else levels.on),
        **({} if worker is None else worker.operation_status()),
    )


def _condition(slot: StreamSlot, decimation: int) -> tuple[str, str | None]:
    """State and reason of a stream."""
    worker, failure = slot.worker, None if slot.error is None else str(slot.error)
    if worker is None or (slot.key is None and not worker.is_over):
        return ("starting", None) if failure is None else ("failed", failure)
    if worker.is_over:
        reason = failure if worker.error is None else str(worker.error)
        return ("stopped", worker.end_reason) if reason is None else ("failed", reason)
    status = worker.source.status
    if status.state in (SourceState.OPENING, SourceState.REOPENING) and status.reason:
        return "failed", status.reason
    if status.rate_fault:
        return "degraded", f"{worker.source.name}: {status.rate_fault}"
    if failure is not None:
        return "degraded", f"goes on with the bundle it had: {failure}"
    if decimation > 1:
        return "degraded", too_slow(decimation)
    return "running", None


def _read(settings: StreamSettings, engine: EngineSettings) -> tuple[EngineKey, Manifest]:
    with Bundle(Path(settings.bundle)) as bundle:
        manifest = bundle.manifest
        return (str(bundle.path), dump_manifest(manifest), engine), named_manifest(manifest, settings)


def _open_scorer(path: Path, engine: EngineSettings, pool: EnginePool) -> Scorer:
    with Bundle(path) as bundle:
        return bundle.open_scorer(**engine.model_dump(), pool=pool)[0]


def _identity(manifest: Manifest) -> tuple[str, str]:
    return manifest.machine.type, manifest.machine.id


def _abandon(worker: StreamWorker) -> None:
    # Ignore errors while closing at shutdown.
    with suppress(Exception):
        worker.abandon()
