"""The thread that keeps: findings to alarm machines, their transitions to the event store, then to the outputs.

It alone owns the alarm machines and the store. What is in the store has happened; only then is it said, and
what was not said before a crash is said after it.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from edgeasd.runtime.alarms import AlarmSettings, Command, Transition
from edgeasd.runtime.bundle.manifest import Manifest
from edgeasd.runtime.errors import EdgeasdError, InputError
from edgeasd.runtime.outputs import Outputs
from edgeasd.runtime.outputs.notices import Notices
from edgeasd.runtime.service.boot import booted_anew
from edgeasd.runtime.service.finding import Finding, Record
from edgeasd.runtime.service.kept import Kept
from edgeasd.runtime.service.ledger import Ledger
from edgeasd.runtime.service.restoring import restore
from edgeasd.runtime.service.teller import Teller
from edgeasd.runtime.storage import EventStore
from edgeasd.runtime.storage.event_store import Retention
from edgeasd.runtime.system.clocks import SettledClock

_Result = TypeVar("_Result")
_Job = tuple[Callable[[], Any], "Future[Any]"]
_MOST_FINDINGS = 1000
_TICK_SECONDS, _HISTORY_SECONDS, _PRUNE_SECONDS = 1.0, 5.0, 3600.0
_STATES_SECONDS = 60.0
"""So much of what changes without a transition may be lost by a kill: how long a snooze has run, say."""
_PRUNE_AGAIN_SECONDS = 60.0
_SLOW_SECONDS, _HOLD_SECONDS = 1.0, 5.0
"""A write that fails only after the first is not tried again before the second is over: nobody waits for a locked
store once for each stream."""


class Keeper:
    """Alarm machines, event store and outputs of a site."""

    def __init__(
        self,
        data: Path,
        tell: Callable[[Record, bool], None],
        sick: Callable[[str], bool],
        say_status: Callable[[str], None],
        record: Callable[[str | None, list[Transition], int | None], None],
        log: Callable[[str], None],
        *,
        lasting: bool = True,
    ) -> None:
        """`data` is the data folder; `sick` says whether a stream's input cannot be trusted now; `say_status` is
        called now and then for each stream, and for "" (the service), to put a status message; `record` takes
        what a stream's alarm machine said (None: one that has left), and the position of the score that decided, for
        the evidence; `log` one line for people. Not `lasting`: for one command.
        """
        self._data, self._tell, self._sick, self._say_status, self._record = data, tell, sick, say_status, record
        self._lasting, self._log = lasting, log
        self._ledger = Ledger(data / "events.db", log, self._begin_store)
        self.teller = Teller(self._ledger)
        self._waiting: queue.Queue[Finding | _Job | None] = queue.Queue(_MOST_FINDINGS)
        self.kept: dict[str, Kept] = {}
        self._leaving: list[Kept] = []
        """What is kept no longer, and is not in the store or not told yet."""
        self._restored: set[tuple[str, str]] = set()
        """Machines that went on from the store in this process: what it has of them is of this boot."""
        self.shown: dict[tuple[str, str], str] = {}
        """Machine type and ID of whatever outputs may show, and as which stream; for the keeper's thread."""
        self.score_seconds, self.status_seconds = 10.0, 30.0
        self.retention, self._settled = Retention(), SettledClock()
        self._notices = Notices("events", log)
        self.beat = time.monotonic()
        self._ticked = self._flushed = self._stated = self._pruned = time.monotonic()
        self._status_at = time.monotonic()
        self._prunes, self._held_until = False, 0.0
        self.defect: BaseException | None = None
        """What ended its thread, which nothing should."""
        self._opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="edgeasd-keeper", daemon=True)

    # From other threads

    def start(self) -> None:
        """Open the store and begin. Raises InputError where it cannot be opened."""
        self._thread.start()
        self._opened.result()

    def put(self, finding: Finding) -> None:
        """Take a finding; waits where the disk is so slow that a thousand wait already."""
        while self.defect is None:
            try:
                self._waiting.put(finding, timeout=1.0)
                return
            except queue.Full:
                pass

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    @property
    def trouble(self) -> str | None:
        """What is wrong with the store or a message until it works again, and else what was lost since the start."""
        return self._ledger.trouble or self.teller.trouble or self._ledger.replaced

    @property
    def waiting(self) -> int:
        """Findings that wait."""
        return self._waiting.qsize()

    def call(self, job: Callable[[], _Result], seconds: float = 5.0) -> _Result:
        """Run `job` in the keeper's thread, after what waits; raises what it raises, InputError where it is late.

        What had not begun in `seconds` is never done; what had is waited for once more as long.
        """
        done: Future[_Result] = Future()
        try:
            self._waiting.put((job, done), timeout=seconds)
            return done.result(seconds)
        except (queue.Full, Late):
            if done.cancel():
                raise InputError("the service is busy: nothing was done; try again") from None
        try:
            return done.result(seconds)
        except Late:
            raise InputError("the service is slow: it has begun and is not done; look before you try again") from None

    def post(self, job: Callable[[], Any]) -> bool:
        """As `call`, but do not wait; False where too much waits already."""
        try:
            self._waiting.put_nowait((job, Future()))
        except queue.Full:
            return False
        return True

    def close(self, seconds: float) -> bool:
        """Work off what waits, write everything down, close the store; False where that took longer."""
        try:
            self._waiting.put(None, timeout=seconds)
        except queue.Full:
            return False
        self._thread.join(seconds)
        return not self._thread.is_alive()

    # In the keeper's thread, by `call`

    def admit(self, name: str, manifest: Manifest, settings: AlarmSettings) -> None:
        """Keep a stream from now on; one of the same machine goes on where the store stands."""
        self._save_all()
        kept, before = Kept(name, manifest, settings, self.score_seconds), self.kept.get(name)
        for other in self.kept.values():
            if other.name != name and other.who == kept.who:
                same = f"is machine {kept.machine_type} {kept.id}, as {other.name} is"
                raise InputError(f"{name}: {same}; give one of them another id")
        if before is not None and before.who != kept.who:
            self.dismiss(name)
            before = None
        left = next((one for one in self._leaving if one.who == kept.who), None)
        if before is not None:
            kept.take_over(before)
        elif left is not None:
            kept.take_over(left)
            kept.machine.reset_history()
            self._leaving.remove(left)
        else:
            self._restore(kept)
        self.kept[name] = kept
        self.shown[kept.who] = name
        if before is None and left is None:
            self.teller.catch_up(kept)

    def _restore(self, kept: Kept) -> None:
        """From the store. The time between two boots is left out once, and not when a machine comes back later."""
        anew = self._anew and kept.who not in self._restored
        restore(kept, self._ledger, self.teller.outputs, booted_anew=anew, log=self._log)
        kept.told = kept.machine.sequence - len(kept.unsaved)
        self._restored.add(kept.who)
        if anew:  # or the next start of this boot would take its instants for those of this clock
            self._save_states([kept])

    def open_events(self) -> list[str]:
        """Events that the store calls open. Raises InputError where it cannot be read."""
        return [one["event"] for one in self._ledger.read(lambda store: store.events(open_only=True))]

    def _begin_store(self, store: EventStore) -> None:
        """What the streams remember goes into a store that was begun anew."""
        for kept in (*self._leaving, *self.kept.values()):
            store.append(kept.unsaved, kept.machine.snapshot())

    def dismiss(self, name: str, *, stays: bool = False) -> None:
        """Keep a stream no longer. What cannot be written now is written later.

        Its event is cleared, for nobody will ever do that; not so where its machine `stays`, as another stream.
        """
        kept = self.kept.get(name)
        if kept is None:
            return
        if not stays:
            self._clear(kept)
        kept.state_saved = False
        self._leaving.append(kept)
        self._save_all()
        del self.kept[name]
        self._forget_saved()

    def _clear(self, kept: Kept) -> None:
        try:
            kept.command(Command(command="clear", by="site.toml"), time.monotonic())
        except EdgeasdError as error:  # a wall clock before 1970, say
            self._log(f"{kept.name}: its event stays open: {error}")

    def clear_others(self, machines: set[tuple[str, str]]) -> None:
        """Clear the events of all but these machines and those that are kept, as those of streams that leave.

        Raises InputError where the store cannot be read.
        """
        known = machines | {one.who for one in (*self._leaving, *self.kept.values())}
        for event in self._ledger.read(lambda store: store.events(open_only=True)):
            who = event["machine"], event["id"]
            if who in known:
                continue
            known.add(who)
            kept = Kept(" ".join(who), who, AlarmSettings(on=event["threshold"]), self.score_seconds)
            self._restore(kept)
            if kept.machine.event is None or kept.machine.event.id != event["event"]:
                self._log(f"{kept.name}: its event {event['event']} stays open: the state of the machine was lost")
                continue
            self.shown[who] = kept.name
            self.teller.catch_up(kept)
            self._clear(kept)
            self._leaving.append(kept)
        self._save_all()
        self._forget_saved()

    def _forget_saved(self) -> None:
        self._leaving = [
            one
            for one in self._leaving
            if one.unsaved or one.scores or not one.state_saved or one.told < one.machine.sequence
        ]

    def use_outputs(self, outputs: Outputs | None) -> None:
        """Say everything to these from now on; what those before them have not been told follows."""
        self.teller.outputs = outputs
        for kept in (*self._leaving, *self.kept.values()):
            self.teller.catch_up(kept)

    def command(self, name: str, command: Command) -> list[dict[str, Any]]:
        """Obey a command; what changed, in the store already. Raises InputError."""
        if name not in self.kept:
            raise InputError(f"{name}: no such stream; the streams are {', '.join(self.kept) or 'none'}")
        kept = self.kept[name]
        said = [one.to_json() for one in kept.command(command, time.monotonic())]
        self._held_until = 0.0
        self._save(kept)
        if kept.unsaved:
            raise InputError(self._ledger.trouble or "the event store cannot be written; look at the disk")
        return said

    # How it does that

    def _run(self) -> None:
        try:
            self._ledger.open()
            self._anew = booted_anew(self._data, remember=self._lasting)
        except BaseException as error:
            self._opened.set_exception(error)
            return
        self._opened.set_result(None)
        try:
            while self._step():
                pass
            self._save_all()
            self._save_states((*self._leaving, *self.kept.values()), durable=True)
        except BaseException as error:
            self.defect = error
        finally:
            self._ledger.close()

    def _step(self) -> bool:
        """Take one thing; False at the end."""
        try:
            item = self._waiting.get(timeout=0.25)
        except queue.Empty:
            self._pass_time()
            return True
        if item is None:
            return False
        if isinstance(item, Finding):
            self._find(item)
        else:
            self._do(*item)
        self._pass_time()
        return True

    def _do(self, job: Callable[[], Any], done: Future[Any]) -> None:
        """A job, unless whoever asked was told already that it is not done."""
        if not done.set_running_or_notify_cancel():
            return
        try:
            done.set_result(job())
        except Exception as error:  # for whoever asked
            done.set_exception(error)

    def _find(self, finding: Finding) -> None:
        kept = self.kept.get(finding.stream)
        if kept is None:
            return
        try:
            body = kept.find(finding)
        except EdgeasdError as error:  # a wall clock before 1970, say
            self.teller.trouble = str(error)
            return
        if kept.unsaved:
            self._save(kept, finding.position)
        if body is not None:
            self.teller.say("score", body, kept)
        if finding.health is not None:
            self.teller.say("health", {**finding.health.to_json(), "sick": finding.sick}, kept)

    def _pass_time(self) -> None:
        now = self.beat = time.monotonic()
        if now - self._ticked >= _TICK_SECONDS:
            self._ticked = now
            for name, kept in self.kept.items():
                try:
                    kept.tick(now, self._sick(name))
                except EdgeasdError as error:
                    self.teller.trouble = str(error)
                if kept.unsaved:
                    self._save(kept)
            for kept in self._leaving:
                self._save(kept)
            self._say_trouble()
        if now - self._flushed >= _HISTORY_SECONDS:
            self._flushed = now
            self._save_scores()
            self._save_left_states()
            self._forget_saved()
        if now - self._stated >= _STATES_SECONDS:
            self._stated = now
            self._save_states(self.kept.values())
        if now - self._status_at >= self.status_seconds:
            self._status_at = now
            for name in ["", *self.kept]:
                self._say_status(name)
        if now - self._pruned >= _PRUNE_SECONDS:
            self._pruned, self._prunes = now, True
        if self._prunes:
            self._prune_some()

    def _prune_some(self) -> None:
        """A part of it with each step: what waits here is never held up by all that has become too old."""
        more: list[bool] = []
        self._write(lambda store: more.append(store.prune_some(self._settled(), self.retention)))
        self._prunes = more == [True]
        if not more:
            self._pruned = time.monotonic() - _PRUNE_SECONDS + _PRUNE_AGAIN_SECONDS

    def _say_trouble(self) -> None:
        """Once, and that it is over; what was put aside is said where that is done."""
        if trouble := self._ledger.trouble or self.teller.trouble:
            self._notices.failed(trouble)
        else:
            self._notices.well("all is well again")

    def _write(self, act: Callable[[EventStore], Any]) -> bool:
        """See `Ledger.write`; False at once for some seconds after one that failed slowly."""
        began = time.monotonic()
        if began < self._held_until:
            return False
        taken = self._ledger.write(act)
        if taken:
            self.teller.trouble = None
        else:
            self._say_trouble()  # at once: a trouble may be over before the next tick
            if (now := time.monotonic()) - began > _SLOW_SECONDS:
                self._held_until = now + _HOLD_SECONDS
        return taken

    def _save(self, kept: Kept, position: int | None = None) -> None:
        """Transitions to the store, and then, and only then, to the outputs."""
        said, snapshot = list(kept.unsaved), kept.machine.snapshot()
        if not said or not self._write(lambda store: store.append(said, snapshot)):
            return
        del kept.unsaved[: len(said)]
        kept.state_saved = True
        # The name may be that of another machine by now.
        self._record(kept.name if self.kept.get(kept.name) is kept else None, said, position)
        for one in said:
            self.teller.say_transition(one.to_json(), kept)
            self._tell(one.to_json(), True)

    def _save_states(self, some: Iterable[Kept], *, durable: bool = False) -> None:
        """What machines remember, which changes without a transition too; never ahead of one that is not saved."""
        saved = [one for one in some if not one.unsaved]
        snapshots = [one.machine.snapshot() for one in saved]
        if snapshots and self._write(lambda store: store.keep_states(snapshots, durable=durable)):
            for one in saved:
                one.state_saved = True

    def _save_left_states(self) -> None:
        self._save_states([one for one in self._leaving if not one.state_saved])

    def _save_scores(self) -> None:
        for kept in (*self._leaving, *self.kept.values()):
            scores = list(kept.scores)
            add = partial(EventStore.add_scores, machine=kept.machine_type, id=kept.id, scores=scores)
            if scores and self._write(add):
                kept.scores.clear()

    def _save_all(self) -> None:
        self._held_until = 0.0
        for kept in (*self._leaving, *self.kept.values()):
            self._save(kept)
        self._save_scores()
        self._save_left_states()
