"""The place of one stream in the fleet: what is wanted there, what is there, and how that is doing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from edgeasd.runtime.config.check import describe_source
from edgeasd.runtime.config.settings import EngineSettings, StreamSettings
from edgeasd.runtime.errors import EdgeasdError
from edgeasd.runtime.service.kept import Kept
from edgeasd.runtime.service.scoring import ScoringThread
from edgeasd.runtime.service.state import StreamState
from edgeasd.runtime.service.stream import ServedStream

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0
"""Seconds between attempts to load a bundle that failed."""
EngineKey = tuple[str, bytes, EngineSettings]
"""Path of a bundle, its manifest as it was found, and how it is to be loaded: what agrees in it shares an engine."""


@dataclass
class Berth:
    """The place of one stream: what is wanted there, and what is there."""

    settings: StreamSettings
    engine: EngineSettings
    served: ServedStream | None = None
    key: EngineKey | None = None
    """Of the engine that scores it."""
    failure: str | None = None
    """Why what is wanted is not there."""
    retry_at: float = 0.0
    pause: float = FIRST_PAUSE
    error: EdgeasdError | None = None
    source_said: str = ""
    """What was last said of its source; nothing while all is well with it."""
    admitted: Any = field(default=None)
    """What of the settings the keeper has been told."""

    def news(self) -> Iterator[str]:
        """What has become of its source since the last call, a line for people each."""
        served = self.served
        if served is None or served.over:
            return
        while served.breaks:
            event = served.breaks.popleft()
            yield from self._now(event.detail if event.state == "lost" else "")
        # Why it cannot be opened is no event; that it is open again is one, but for the first time.
        reason = served.source.reason
        if served.source.state == "closed":  # by us: nobody wants to know that it is not there
            return
        if reason or not served.segments:
            yield from self._now(reason)

    def _now(self, reason: str) -> Iterator[str]:
        if reason != self.source_said:
            self.source_said = reason
            yield reason or f"{self.settings.device or 'its source'} is there again"


def stream_state(name: str, berth: Berth, kept: Kept | None, engine: ScoringThread | None) -> StreamState:
    """How a stream is doing; `kept` is what is kept of it, `engine` what scores it."""
    served = berth.served
    machine = None if kept is None else kept.machine
    event = None if machine is None else machine.event
    levels = None if machine is None else machine.levels
    facts = {} if served is None else served.facts
    keep_every = engine.keep_every if engine is not None and berth.settings.drops else 1
    state, reason = _condition(berth, keep_every, kept)
    identity = None if served is None else served.manifest.machine
    return StreamState(
        name=name,
        machine=identity.type if identity else berth.settings.machine or "?",
        id=identity.id if identity else berth.settings.id or "?",
        state=state,
        reason=reason,
        source=describe_source(berth.settings) if served is None else served.source.name,
        engine=facts.get("engine"),
        accelerator=facts.get("accelerator"),
        precision=facts.get("precision"),
        level_dbfs=-120.0 if served is None else round(served.level, 2),
        clip_score=None if served is None else served.clip_score,
        complete=served is not None and served.complete,
        threshold=None if levels is None else levels.on,
        trace=[] if served is None else list(served.trace.copy()),
        sick=served is not None and served.sick,
        health=() if served is None else served.report.active,
        alarm="normal" if machine is None else machine.state,
        event=None if event is None else event.id,
        maintenance=machine is not None and machine.maintenance,
        snoozed=machine is not None and machine.snoozed,
        segments=0 if served is None else served.segments,
        skipped_segments=0 if served is None else served.skipped,
        keep_every=keep_every,
        waiting_seconds=0.0 if served is None else round(served.waiting_seconds, 3),
        dropped_seconds=0.0 if served is None else round(served.dropped_seconds, 3),
        overruns=0 if served is None else served.overruns,
        latency_seconds=None if served is None else served.latencies.percentiles(),
    )


def _condition(berth: Berth, keep_every: int, kept: Kept | None) -> tuple[str, str | None]:
    """State and reason of a stream."""
    served = berth.served
    if served is None:
        return ("starting", None) if berth.failure is None else ("failed", berth.failure)
    if served.over:
        failure = served.failure or berth.failure
        return ("stopped", served.ended_by) if failure is None else ("failed", failure)
    if berth.key is None:
        return ("starting", None) if berth.failure is None else ("failed", berth.failure)
    if served.source.state in ("opening", "reopening") and served.source.reason:
        return "failed", served.source.reason
    if berth.failure is not None:
        return "degraded", f"goes on with the bundle it had: {berth.failure}"
    if kept is None:
        return "degraded", "it is scored, and no alarm is raised: it is to leave, and the event store was slow"
    if keep_every > 1:
        return "degraded", f"scoring cannot keep up: one of {keep_every} segments is scored"
    return "running", None
