"""The JSON lines of `run --jsonl` and `score --live`: the messages of the outputs, and a line for every segment."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, TextIO

from edgeasd.runtime.alarms import Transition
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.outputs.messages import make_message, to_json
from edgeasd.runtime.scoring.scorer import Scorer
from edgeasd.runtime.service.monitored import MonitoredMachine
from edgeasd.runtime.service.updates import StreamUpdate

Record = dict[str, Any]
_MOST_LINES = 10_000


def engine_info(scorer: Scorer) -> dict[str, Any]:
    """What a scorer runs on, for start messages and reports."""
    engine = scorer.engine
    return {"engine": engine.name, "accelerator": engine.accelerator, "precision": engine.precision}


def to_records(
    update: StreamUpdate | None,
    transitions: Sequence[Transition],
    machine: MonitoredMachine,
    *,
    site: str | None,
    has_time: bool = True,
) -> Iterator[Record]:
    """The lines of an update and of the transitions that it caused; `machine` is its machine after it.

    `site` is that of a site file; without `has_time` they have no wall clock time, as those of `score --live`.
    """
    if update is not None and update.record is not None:
        kind, body = update.record
        event = machine.machine.event
        yield make_message(
            kind,
            body,
            site=site,
            machine=machine.machine_type,
            id=machine.id,
            wall=update.wall if has_time else None,
            event=None if event is None else event.id,
        )
    for transition in transitions:
        yield make_message("event", transition.to_json(), site=site, wall=transition.wall)


class RecordWriter:
    """Writes one JSON object per line to a file that is opened for the first of them. Whole lines, flushed."""

    def __init__(self, open_sink: Callable[[], TextIO]) -> None:
        self._open_sink = open_sink
        self._lines: queue.SimpleQueue[Record | None] = queue.SimpleQueue()
        self.lost = 0
        """Records that were left out because the reader was slow."""
        self.failure: OSError | InputError | None = None
        """Why nothing is written any more."""
        self._thread = threading.Thread(target=self._run, name="edgeasd-records", daemon=True)
        self._thread.start()

    @property
    def is_full(self) -> bool:
        """Whether a stream that can wait must wait for the reader."""
        return self._lines.qsize() >= _MOST_LINES and self.failure is None

    def put(self, record: Record, may_drop: bool = True) -> None:
        """Take a record; never waits. One that may be dropped is, and counted, if too many wait already."""
        if may_drop and self.is_full:
            self.lost += 1
        elif self.failure is None:
            self._lines.put(record)

    def close(self, seconds: float) -> bool:
        """Write what waits, for `seconds` at most; False if lines are left, and the file cannot be closed.

        May be called again.
        """
        self._lines.put(None)
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        sink: TextIO | None = None
        while (record := self._lines.get()) is not None:
            if self.failure is not None:
                continue
            try:
                sink = sink or self._open_sink()
                sink.write(to_json(record) + "\n")
                sink.flush()
            except OSError as error:
                if sink is not None and not isinstance(error, BrokenPipeError):
                    error.filename = error.filename or f"--jsonl {sink.name}"
                self.failure = error
            except Exception as error:  # a caller that waits for room must learn of any kind
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
                self.failure = InputError(f"records cannot be written ({reason}); check where --jsonl leads to")
        if sink is not None and sink is not sys.stdout:
            # Fails only if the flush of a record has failed and was reported.
            with suppress(OSError):
                sink.close()
