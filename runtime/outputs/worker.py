"""Delivers the messages of the outbox to one output: in order, at least once, from one thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Sequence

from edgeasd.runtime.errors import EdgeasdError, printable
from edgeasd.runtime.outputs.base import DeliveryError, MessageRejected, Output, OutputMessage, OutputState
from edgeasd.runtime.outputs.messages import numbered
from edgeasd.runtime.storage.outbox import Outbox, OutboxMessage
from edgeasd.runtime.system.clocks import Backoff, utc_text
from edgeasd.runtime.system.log_once import LogOnce

REJECTIONS = 20
"""A message that was rejected so often is dropped, so that it does not delay all that follow."""
_IDLE_SECONDS = 1.0
_LOOK_SECONDS = 0.25
"""A worker that waits for messages notices the end within so long."""
_LONGEST_RETRY_AFTER = 3600.0

_log = logging.getLogger(__name__)


class OutputWorker:
    """One output, and the thread that delivers to it. A receiver that is away delays no other output."""

    def __init__(
        self, name: str, type: str, output: Output, outbox: Outbox, kinds: Collection[str], backoff: Backoff
    ) -> None:
        """The outbox must know `name`, see `Outbox.register`, before `start`."""
        self.name, self.kinds, self._type = name, frozenset(kinds), type
        self._output, self._outbox, self._backoff = output, outbox, backoff
        self._seen = 0
        """Number of the newest message of the outbox when it was last found empty."""
        self._closing = threading.Event()
        self._closing_until = float("inf")
        self._delivered = self._failed = 0
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
            dropped=dict(self._outbox.dropped(self.name)),
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
            if self._outbox.wait(self._seen, min(left, _LOOK_SECONDS)):
                return

    def _attempt(self) -> float | None:
        """Deliver one batch. Returns seconds until the next attempt, or None if no message waits."""
        try:
            newest = self._outbox.newest_seq
            messages = self._outbox.read(self.name, self._output.batch)
            if not messages:
                # The messages up to here are of other kinds.
                self._outbox.advance(self.name, newest)
                self._seen = newest
                self._output.maintain()
                self._succeeded()
                return None
            return self._deliver(messages)
        except DeliveryError as error:
            return self._fail(str(error), error.retry_after)
        except EdgeasdError as error:  # a disk that refuses, a secret that is gone
            return self._fail(str(error), None)
        except Exception as error:  # of a library; other outputs and later messages must go on
            return self._fail(f"{type(error).__name__}: {error}", None)

    def _deliver(self, messages: Sequence[OutboxMessage]) -> float:
        """Deliver a batch. Returns seconds until the next attempt."""
        store = self._outbox.store_id
        batch = [
            OutputMessage(m.seq, m.kind, m.machine, m.id, numbered(m.payload, store, m.seq, m.stored), store)
            for m in messages
        ]
        confirmed = 0

        def confirm(count: int) -> None:
            nonlocal confirmed
            confirmed = count

        rejection: MessageRejected | None = None
        try:
            self._output.deliver(batch, confirm)
        except MessageRejected as error:
            rejection = error
        finally:
            if confirmed:
                self._outbox.advance(self.name, batch[confirmed - 1].seq)
                self._delivered += confirmed
                self._succeeded()
        return 0.0 if rejection is None else self._reject(rejection, messages[confirmed])

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

    def _reject(self, error: MessageRejected, message: OutboxMessage) -> float:
        pause = self._fail(str(error), error.retry_after)
        seq, times = self._rejections
        self._rejections = (message.seq, times + 1 if message.seq == seq else 1)
        if self._rejections[1] < REJECTIONS:
            return pause
        self._outbox.give_up(self.name, message)
        self._drop_log.error(self._note(f"{error}; message {message.seq} dropped after {REJECTIONS} attempts"))
        return 0.0

    def _note(self, message: str) -> str:
        text = printable(message, 300)
        self._error = (text, time.time())
        return text
