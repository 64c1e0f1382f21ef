"""The JSON records of `run` and `score --live`: one shape for a live score, wherever it comes from."""

from __future__ import annotations

import json
import queue
import threading
from typing import Any, TextIO

from edgeasd.runtime.bundle.manifest import Manifest
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.scoring.score import Score
from edgeasd.runtime.scoring.scorer import Scorer
from edgeasd.runtime.service.finding import Record

RECORD_VERSION = 1


def engine_facts(scorer: Scorer) -> dict[str, Any]:
    """What is really in use, for every start message and report."""
    return {
        "engine": scorer.engine.name,
        "accelerator": scorer.engine.accelerator,
        "precision": scorer.engine.precision,
    }


def machine_facts(manifest: Manifest) -> dict[str, Any]:
    """Which machine is listened to."""
    return {"machine": manifest.machine.type, "id": manifest.machine.id}


def record_of(kind: str, manifest: Manifest) -> dict[str, Any]:
    """The beginning of every record: its type, the version of its form, the machine."""
    return {"type": kind, "version": RECORD_VERSION, **machine_facts(manifest)}


def score_record(score: Score, manifest: Manifest, offset: int, alarm: bool) -> dict[str, Any]:
    """One live score. Positions are samples since the sound began; `offset` is where the stream was last reset."""
    rate = manifest.features.sample_rate
    start, end = offset + score.start_sample, offset + score.end_sample
    return {
        **record_of("score", manifest),
        "index": score.index,
        "start_sample": start,
        "end_sample": end,
        "end_seconds": round(end / rate, 6),
        "score": score.score,
        "clip_score": score.clip_score,
        "averaged": score.averaged,
        "complete": score.complete,
        "q": score.q,
        "d": score.d,
        "d_prime": score.d_prime,
        "logit": score.logit,
        "threshold": manifest.threshold.clip if manifest.threshold else None,
        "alarm": alarm,
    }


_MOST = 10_000
_LOOK_SECONDS = 0.1


class RecordWriter:
    """Writes one JSON object a line to `sink`, whole lines, flushed."""

    def __init__(self, sink: TextIO) -> None:
        self._sink = sink
        self._lines: queue.Queue[Record | None] = queue.Queue(_MOST)
        self.closing = False
        """Set it before the service is stopped: from then on nobody is waited for."""
        self.lost = 0
        """Records that nobody took in time."""
        self.failure: OSError | InputError | None = None
        """Why nothing is written any more."""
        self._thread = threading.Thread(target=self._run, name="edgeasd-records", daemon=True)
        self._thread.start()

    def put(self, record: Record, may_drop: bool = True) -> None:
        """Take a record; where the reader is slow it is dropped and counted, or else waited for until the end."""
        while self.failure is None:
            try:
                self._lines.put(record, block=not (may_drop or self.closing), timeout=_LOOK_SECONDS)
                return
            except queue.Full:
                if may_drop or self.closing:
                    self.lost += 1
                    return

    def close(self, seconds: float) -> bool:
        """Write what waits, for `seconds` at most; False where the reader takes nothing, and the file cannot be closed."""
        self.closing = True
        try:
            self._lines.put(None, timeout=seconds)
        except queue.Full:
            return False
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (record := self._lines.get()) is not None:
            if self.failure is not None:
                continue
            try:
                self._sink.write(json.dumps(record, ensure_ascii=False) + "\n")
                self._sink.flush()
            except OSError as error:
                self.failure = error
            except Exception as error:  # who waits for room here must learn of any kind
                why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
                self.failure = InputError(f"records cannot be written ({why}); check where --jsonl leads to")
