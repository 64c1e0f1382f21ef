"""The way of messages to one output: inbox, queue on disk, receiver; a thread for each of the two steps.

An output that is dead, or a disk that stalls, costs the others and whoever calls `put` nothing.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Sequence

from edgeasd.runtime.outputs.backoff import Backoff
from edgeasd.runtime.outputs.inbox import Inbox
from edgeasd.runtime.outputs.messages import iso_time
from edgeasd.runtime.outputs.notices import Notices, tell_no_one
from edgeasd.runtime.outputs.queue import Queue
from edgeasd.runtime.outputs.sink import DeliveryFailed, Entry, MessageRefused, Sink
from edgeasd.runtime.outputs.state import OutputState
from edgeasd.runtime.storage.database import is_damage

REFUSALS = 20
"""A message that was refused so often is dropped, or it would hold up all that follow it."""
_IDLE_SECONDS = 1.0
_MEND_SECONDS = 60.0
"""A disk that damages every file must not be filled with them."""
_LONGEST_RETRY_AFTER = 3600.0


class Lane:
    """One output with its queue."""

    def __init__(
        self,
        name: str,
        kind: str,
        sink: Sink,
        queue: Queue,
        kinds: Sequence[str],
        backoff: Backoff,
        log: Callable[[str], None] = tell_no_one,
    ) -> None:
        """`log` takes one line for people where the output begins to fail, and where it works again."""
        self.name, self.kinds = name, frozenset(kinds)
        self._kind, self._sink, self._queue, self._backoff = kind, sink, queue, backoff
        self._inbox = Inbox()
        self._stop = threading.Event()
        self._work = threading.Event()
        self._closing = threading.Event()
        self._closing_until: float | None = None
        self._delivered = self._failed = 0
        self._refusals = (0, 0)  # position of a message, and how often it was refused
        self._error: tuple[str, float] | None = None
        # Of the writer's thread, and of the courier's.
        self._disk, self._way, self._warned, self._lost = (Notices(f"output {name}", log) for _ in range(4))
        self._mending, self._damaged, self._mended = threading.Lock(), False, float("-inf")
        if queue.put_aside is not None:
            self._note_begun_anew()
        self._writer = threading.Thread(target=self._write, name=f"edgeasd-{name}-queue", daemon=True)
        self._courier = threading.Thread(target=self._carry, name=f"edgeasd-{name}", daemon=True)

    def start(self) -> None:
        """Begin to deliver, first of all what an earlier process has left."""
        self._writer.start()
        self._courier.start()

    def put(self, entry: Entry) -> int:
        """Take a message; see `Inbox.put`."""
        return self._inbox.put(entry)

    def remember(self, entry: Entry) -> None:
        """See `Sink.remember`."""
        if entry.kind in self.kinds:
            self._sink.remember(entry)

    def wait(self, ticket: int, seconds: float) -> bool:
        """See `Inbox.wait`."""
        return self._inbox.wait(ticket, seconds)

    def begin_events(self, machine: str, id: str, sequence: int) -> int:
        """See `Queue.begin_events`."""
        return self._asked(lambda: self._queue.begin_events(machine, id, sequence))

    def last_event(self, machine: str, id: str) -> int:
        """See `Queue.last_event`."""
        return self._asked(lambda: self._queue.last_event(machine, id))

    def _asked(self, ask: Callable[[], int]) -> int:
        try:
            return ask()
        except sqlite3.Error as error:
            if not self._mend(error):
                raise
            return ask()

    def state(self) -> OutputState:
        """How it is doing. Waits for nothing."""
        dropped, error = dict(self._queue.dropped), self._error
        for kind, count in list(self._inbox.dropped.items()):
            dropped[kind] = dropped.get(kind, 0) + count
        return OutputState(
            name=self.name,
            type=self._kind,
            connected=self._sink.connected,
            # In this order: what comes to disk meanwhile is counted twice rather than not at all.
            queued=self._inbox.count + self._queue.count,
            queued_bytes=self._queue.bytes,
            oldest_seconds=round(self._queue.oldest_seconds, 3),
            delivered=self._delivered,
            failed=self._failed,
            dropped=dropped,
            last_error=error[0] if error else self._sink.warning,
            last_error_at=iso_time(error[1]) if error else None,
        )

    def end(self, until: float) -> None:
        """Take no more; bring to disk and deliver what can be until `until` (monotonic)."""
        self._closing_until = until
        self._inbox.end()
        self._closing.set()
        self._work.set()

    def close(self, until: float) -> bool:
        """Wait for both threads until `until`, and close the queue; whether both have ended.

        A thread that still waits for its receiver finds the queue closed when it comes back. What it had not
        delivered is on disk; if it does arrive, the next attempt is a resend.
        """
        self._writer.join(max(0.0, until - time.monotonic()))
        self._work.set()
        self._courier.join(max(0.0, until - time.monotonic()))
        self._stop.set()
        self._work.set()
        closed = self._queue.close(max(0.05, until - time.monotonic()))
        return closed and not (self._writer.is_alive() or self._courier.is_alive())

    # To disk

    def _write(self) -> None:
        pause = Backoff(0.1, 5.0)
        while (taken := self._inbox.take()) is not None:
            ticket, entries = taken
            while not self._stop.is_set():
                try:
                    self._queue.append(entries)
                    break
                except Exception as error:  # a full disk as a rule; whatever it is, the messages stay
                    text = self._note(f"{self._queue.path}: {error}")
                    self._disk.failed(text, "its messages wait in memory")
                    if not self._mend(error):
                        self._stop.wait(pause.failed())
            else:
                return
            pause.succeeded()
            self._disk.well("its queue can be written again")
            self._inbox.written(ticket)
            self._work.set()

    # To the receiver

    def _carry(self) -> None:
        while not self._stop.is_set():
            self._work.clear()
            pause = self._attempt()
            if self._over(pause):
                break
            self._wait(pause)
        left = (self._closing_until or 0.0) - time.monotonic()
        try:
            self._sink.close(max(0.2, left))
        except Exception as error:  # as above; the queue is to be closed in any case
            self._note(f"{type(error).__name__}: {error}")

    def _attempt(self) -> float | None:
        """Deliver one batch; seconds to wait before the next attempt, or None where nothing waits."""
        try:
            return self._try_batch()
        except DeliveryFailed as error:
            return self._missed(str(error), error.retry_after)
        except Exception as error:  # whatever a library or the disk does, the other messages and outputs go on
            pause = self._missed(f"{type(error).__name__}: {error}", None)
            return 0.0 if self._mend(error) else pause

    def _try_batch(self) -> float | None:
        try:
            # The name first: with a queue begun anew in between, the messages stay and go out under its name.
            name = self._queue.name
            entries = self._queue.head(self._sink.batch)
            if entries:
                self._deliver(entries, name)
                return 0.0
            self._sink.maintain()
            self._works()
            return None
        except MessageRefused as error:
            # Looks at the queue, and may fail at that.
            return self._refused(error)

    def _mend(self, error: Exception) -> bool:
        """Put a queue aside that turned out to be damaged, and go on with a new one; whether that was done."""
        with self._mending:
            self._damaged = self._damaged or (isinstance(error, sqlite3.Error) and is_damage(error))
            if not self._damaged or time.monotonic() - self._mended < _MEND_SECONDS:
                return False
            try:
                self._queue.begin_anew()
            except Exception as failure:  # tried again with the next message
                self._note(f"{self._queue.path}: {failure}")
                return False
            self._damaged, self._mended = False, time.monotonic()
        self._note_begun_anew()
        return True

    def _deliver(self, entries: list[Entry], name: str) -> None:
        arrived = 0

        def confirm(count: int) -> None:
            nonlocal arrived
            arrived = count

        try:
            self._sink.deliver(entries, name, confirm)
        finally:
            if arrived:
                self._queue.remove(entries[:arrived], name)
                self._delivered += arrived
                self._works()

    def _works(self) -> None:
        """The receiver was reached."""
        self._backoff.succeeded()
        waiting = self._queue.count
        left = "" if not waiting else ", 1 message waits" if waiting == 1 else f", {waiting} messages wait"
        self._way.well(f"delivers again{left}")
        if self._sink.warning is None:
            self._warned.well("")
        else:
            self._warned.failed(self._sink.warning)

    def _missed(self, message: str, retry_after: float | None) -> float:
        self._failed += 1
        self._way.failed(self._note(message), "its messages wait in the queue")
        return max(self._backoff.failed(), min(retry_after or 0.0, _LONGEST_RETRY_AFTER))

    def _refused(self, error: MessageRefused) -> float:
        pause = self._missed(str(error), error.retry_after)
        for entry in self._queue.head(1):
            position, times = self._refusals
            self._refusals = (entry.position, times + 1 if entry.position == position else 1)
            if self._refusals[1] >= REFUSALS:
                self._queue.give_up(entry)
                dropped = f"{error}; message {entry.sequence} dropped after {REFUSALS} attempts"
                self._lost.failed(self._note(dropped))
                return 0.0
        return pause

    def _over(self, pause: float | None) -> bool:
        """While closing: whether all is delivered, the receiver fails, or the time is up."""
        if self._closing_until is None:
            return False
        delivered = not self._writer.is_alive() and not self._queue.count
        return delivered or bool(pause) or time.monotonic() >= self._closing_until

    def _wait(self, pause: float | None) -> None:
        """Wait for a message, or out of the way of a receiver that failed; the end of the service cuts it short."""
        if pause is None:
            self._work.wait(_IDLE_SECONDS if self._closing_until is None else 0.02)
        elif pause:
            self._closing.wait(pause)

    def _note_begun_anew(self) -> None:
        text = self._note(f"the queue was damaged and is kept as {self._queue.put_aside}; a new one was begun")
        self._lost.failed(text)

    def _note(self, message: str) -> str:
        text = "".join(c if c.isprintable() else " " for c in message)[:300]
        self._error = (text, time.time())
        return text
