"""Delivers the messages of the outbox to one output: in order, at least once, from one thread."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from edgeasd.runtime.outputs.base import DeliveryError, MessageRejected, Output, OutputMessage, OutputState
from edgeasd.runtime.outputs.messages import numbered
from edgeasd.runtime.system.backoff import Backoff
from edgeasd.runtime.system.clocks import utc_text
from edgeasd.runtime.system.log_once import LogOnce

REJECTIONS = 20
"""A message that was rejected so often is dropped, so that it does not delay all that follow."""
_IDLE_SECONDS = 1.0
_POLL_SECONDS = 0.25
_LONGEST_RETRY_AFTER = 3600.0

_log = logging.getLogger(__name__)


class StoredMessage(Protocol):
    """One message of the outbox."""

    seq: int
    kind: str
    machine: str | None
    id: str | None
    payload: str
    stored: bool


class Lag(Protocol):
    """What an output has not delivered."""

    count: int
    bytes: int
    oldest_seconds: float


class OutboxReader(Protocol):
    """What outputs need of the outbox."""

    store_id: str

    def register(self, outputs: dict[str, frozenset[str]]) -> None: ...
    def read(self, output: str, limit: int) -> Sequence[StoredMessage]: ...
    def advance(self, output: str, seq: int) -> None: ...
    def lag(self, output: str) -> Lag: ...
    def dropped(self, output: str) -> dict[str, int]: ...
    def wait(self, seq_seen: int, timeout: float) -> bool: ...


class OutputWorker:
    """One output, and the thread that delivers to it. A receiver that is away delays no other output."""

    def __init__(self, name: str, type: str, output: Output, outbox: OutboxReader, backoff: Backoff) -> None:
        """The outbox must know `name` and its kinds, see `OutboxReader.register`."""
        self.name, self._type = name, type
        self._output, self._outbox, self._backoff = output, outbox, backoff
        self._seq = 0
        """Number of the last message that was read."""
        self._closing = threading.Event()
        self._closing_until = float("inf")
        self._delivered = self._failed = 0
        self._dropped: Counter[str] = Counter()
        self._rejections = (0, 0)  # number of a message, and how often it was rejected
        self._error: tuple[str, float] | None = None
        self._delivery_log, self._warning_log, self._drop_log = (LogOnce(_log, f"output {name}") for _ in range(3))
        self._thread = threading.Thread(target=self._run, name=f"edgeasd-{name}", daemon=True)

    def start(self) -> None:
        """Begin to deliver, first what an earlier process has left."""
        self._thread.start()

    def state(self) -> OutputState:
        """How it is doing."""
        lag, error = self._outbox.lag(self.name), self._error
        return OutputState(
            name=self.name,
            type=self._type,
            connected=self._output.connected,
            queued=lag.count,
            queued_bytes=lag.bytes,
            oldest_seconds=round(lag.oldest_seconds, 3),
            delivered=self._delivered,
            failed=self._failed,
            dropped=dict(self._dropped + Counter(self._outbox.dropped(self.name))),
            last_error=error[0] if error else self._output.warning,
            last_error_at=utc_text(error[1]) if error else None,
        )

    def end(self, until: float) -> None:
        """Deliver what can be delivered until `until` (monotonic seconds), then stop. Does not wait."""
        self._closing_until = until
        self._closing.set()

    def join(self, until: float) -> bool:
        """Wait for the thread until `until`; whether it has ended. What it did not deliver stays in the outbox."""
        if self._thread.ident is None:
            return True
        self._thread.join(max(0.0, until - time.monotonic()))
        return not self._thread.is_alive()

    # In its thread

    def _run(self) -> None:
        while True:
            pause = self._attempt()
            if self._closing.is_set() and (pause != 0.0 or time.monotonic() >= self._closing_until):
                break
            if pause is None:
                self._wait_for_messages()
            elif pause:
                self._closing.wait(pause)
        try:
            self._output.close(max(0.2, self._closing_until - time.monotonic()))
        except Exception as error:
            self._note(f"{type(error).__name__}: {error}")

    def _wait_for_messages(self) -> None:
        until = time.monotonic() + _IDLE_SECONDS
        while not self._closing.is_set() and (left := until - time.monotonic()) > 0:
            if self._outbox.wait(self._seq, min(left, _POLL_SECONDS)):
                return

    def _attempt(self) -> float | None:
        """Deliver one batch. Returns seconds until the next attempt, or None if no message waits."""
        try:
            messages = self._outbox.read(self.name, self._output.batch)
            if not messages:
                self._output.maintain()
                self._succeeded()
                return None
            self._seq = messages[-1].seq
            self._deliver(messages)
            return 0.0
        except MessageRejected as error:
            return self._reject(error, messages)
        except DeliveryError as error:
            return self._fail(str(error), error.retry_after)
        except Exception as error:  # of a library; other outputs and later messages must go on
            return self._fail(f"{type(error).__name__}: {error}", None)

    def _deliver(self, messages: Sequence[StoredMessage]) -> None:
        store = self._outbox.store_id
        batch = [
            OutputMessage(
                each.seq, each.kind, each.machine, each.id, numbered(each.payload, store, each.seq, each.stored)
            )
            for each in messages
        ]
        confirmed = 0

        def confirm(count: int) -> None:
            nonlocal confirmed
            confirmed = count

        try:
            self._output.deliver(batch, confirm)
        finally:
            if confirmed:
                self._outbox.advance(self.name, batch[confirmed - 1].seq)
                self._delivered += confirmed
                self._succeeded()

    def _succeeded(self) -> None:
        self._backoff.succeeded()
        self._delivery_log.recovered("delivers again")
        if self._output.warning is None:
            self._warning_log.recovered()
        else:
            self._warning_log.error(self._output.warning)

    def _fail(self, message: str, retry_after: float | None) -> float:
        self._failed += 1
        self._delivery_log.error(self._note(message), "its messages wait in the outbox")
        return max(self._backoff.failed(), min(retry_after or 0.0, _LONGEST_RETRY_AFTER))

    def _reject(self, error: MessageRejected, messages: Sequence[StoredMessage]) -> float:
        pause = self._fail(str(error), error.retry_after)
        first = self._outbox.read(self.name, 1)[0]
        seq, times = self._rejections
        self._rejections = (first.seq, times + 1 if first.seq == seq else 1)
        if self._rejections[1] < REJECTIONS:
            return pause
        self._outbox.advance(self.name, first.seq)
        self._dropped[first.kind] += 1
        self._drop_log.error(self._note(f"{error}; message {first.seq} dropped after {REJECTIONS} attempts"))
        return 0.0

    def _note(self, message: str) -> str:
        text = "".join(c if c.isprintable() else " " for c in message)[:300]
        self._error = (text, time.time())
        return text
