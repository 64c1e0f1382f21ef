"""The event recorder: runs the alarm machines, stores their transitions, and queues messages for the outputs.

One thread. A transition, the state of its machine and its message are committed together. If the disk refuses, the
message leaves from memory, marked as not stored, and all three are written once the disk works again.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from edgeasd.runtime.alarms import AlarmSettings, Command, Transition
from edgeasd.runtime.alarms.burn_in import BurnIn, parse_burn_in, propose
from edgeasd.runtime.bundle.manifest import Manifest
from edgeasd.runtime.errors import EdgeasdError, InputError, to_user_error
from edgeasd.runtime.outputs.messages import encode, health_body, make_message, trend_body
from edgeasd.runtime.service.monitored import MonitoredMachine
from edgeasd.runtime.service.trends import TrendMonitor
from edgeasd.runtime.service.updates import StreamUpdate
from edgeasd.runtime.storage import Database, DatabaseUnavailable, EventStore, Outbox, Retention
from edgeasd.runtime.system.clocks import Clock, SettledClock
from edgeasd.runtime.system.log_once import LogOnce
from edgeasd.runtime.trend.history import change_text

if TYPE_CHECKING:
    from edgeasd.runtime.outputs.manager import OutputManager

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")
UpdateListener = Callable[["StreamUpdate | None", "MonitoredMachine", list[Transition]], None]
_MOST_WAITING = 1000
_MOST_TRANSITIONS = 10_000
_TICK_SECONDS, _SCORES_SECONDS, _STATES_SECONDS = 1.0, 5.0, 60.0
"""A kill loses at most the last 60 s of what changes without a transition, such as how long a snooze has run."""
_OUTBOX_SECONDS, _PRUNE_SECONDS = 10.0, 3600.0
_CALL_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class _Message:
    kind: Any
    body: dict[str, Any]
    machine: str | None
    id: str | None


_Job = tuple[Callable[[], Any], "Future[Any]"]


class EventRecorder:
    """The alarm machines of all streams, their events in the database, and their messages in the outbox."""

    def __init__(
        self,
        database: Database | None = None,
        outbox: Outbox | None = None,
        *,
        site: str = "site",
        on_update: UpdateListener | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        """Without a database everything is kept in memory. The caller closes the database.

        `on_update` is called in the recorder's thread after every update, and with None after anything else that
        changed a machine. It must not block.
        """
        self.database = database or Database(None)
        self.outbox = outbox or Outbox(self.database)
        self.store = EventStore(self.database)
        self._trends = TrendMonitor(self.store)
        self.machines: dict[str, MonitoredMachine] = {}
        """By the name of their stream."""
        self.beat = clock()
        """When the thread last moved, in monotonic seconds."""
        self.defect: BaseException | None = None
        """What ended the thread, for instance DatabaseCorrupt."""
        self._site, self._score_seconds, self._retention = site, 10.0, Retention()
        self._on_update, self._clock = on_update, clock
        self._outputs: OutputManager | None = None
        self._departed: dict[tuple[str, str], MonitoredMachine] = {}
        self._unstored: deque[Transition] = deque(maxlen=_MOST_TRANSITIONS)
        """Transitions that left without having been stored."""
        self._queue: queue.Queue[StreamUpdate | _Message | _Job | None] = queue.Queue(_MOST_WAITING)
        self._problem: str | None = None
        self._disk_log, self._message_log = LogOnce(_log, "events"), LogOnce(_log, "messages")
        self._beside_log = LogOnce(_log, "beside the events")
        self.last_wall = self.store.last_wall()
        """What the wall clock said before the start, as far as that is stored."""
        self._settled = SettledClock(clock=clock, last=self.last_wall)
        now = clock()
        self._ticked = self._scores_at = self._states_at = self._outbox_at = self._pruned_at = now
        self._is_pruning = False
        self._thread = threading.Thread(target=self._run, name="edgeasd-recorder", daemon=True)

    # Called from any thread

    def start(self) -> None:
        """Begin to process what is given."""
        self._thread.start()

    def update(self, update: StreamUpdate) -> None:
        """Process an update of a stream. Waits while a thousand wait, for instance for a slow disk."""
        self._put(update)

    def publish(self, kind: str, body: dict[str, Any], *, machine: str | None = None, id: str | None = None) -> None:
        """Append a message that is not an event to the outbox. It is left out if a thousand things wait."""
        try:
            self._queue.put_nowait(_Message(kind, dict(body), machine, id))
        except queue.Full:
            self._message_log.error("a message was left out", "the disk is too slow")

    def configure(
        self, *, site: str | None = None, score_seconds: float | None = None, retention: Retention | None = None
    ) -> None:
        """Change settings; `score_seconds` holds for machines that are added from now on."""
        self._site, self._score_seconds = site or self._site, score_seconds or self._score_seconds
        self._retention = retention or self._retention

    def use_outputs(self, outputs: OutputManager | None) -> None:
        """Show messages, and the states of all machines, on these outputs from now on."""
        self.call(lambda: self._use_outputs(outputs), _CALL_SECONDS)

    def add_machine(self, name: str, manifest: Manifest, settings: AlarmSettings) -> None:
        """Monitor the machine of a stream from now on, with the state that is stored of it.

        Of a stream that is there already, this changes manifest and settings. Raises InputError if another stream has
        the same machine, or if the thresholds are not in order.
        """
        self.call(lambda: self._add_machine(name, manifest, settings), _CALL_SECONDS)

    def remove_machine(self, name: str) -> None:
        """Monitor the machine of a stream no longer. Its event stays open."""
        self.call(lambda: self._remove_machine(name), _CALL_SECONDS)

    def clear_others(self, machines: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Clear the open events of all machines but these, which have left the site; returns which had one."""
        known = set(machines)
        return self.call(lambda: self._clear_others(known), _CALL_SECONDS)

    def command(self, name: str, command: Command) -> list[dict[str, Any]]:
        """Give a command to the machine of a stream; returns the bodies of its event messages. Raises InputError."""
        return self.call(lambda: self._command(name, command))

    def decide_threshold(self, name: str, decision: str, by: str | None = None) -> dict[str, Any]:
        """Show, accept, decline or restart the learning period of a stream; returns where it stands.

        Raises InputError if there is no such stream, and nothing to accept or decline.
        """
        return self.call(lambda: self._decide_threshold(name, decision, by))

    def post_command(self, machine: str, id: str, command: Command) -> None:
        """Give a command to a machine without waiting for the answer; errors are logged."""
        try:
            self._queue.put_nowait((lambda: self._obey(machine, id, command), Future()))
        except queue.Full:
            _log.warning("%s %s: a command was left out, the disk is too slow; send it again", machine, id)

    def open_events(self) -> list[str]:
        """IDs of all events that are not cleared."""
        return [event["event"] for event in self.store.events(open_only=True)]

    def call(self, job: Callable[[], _Result], seconds: float = 5.0) -> _Result:
        """Run `job` in the recorder's thread; raises what it raises, and InputError if it takes too long.

        A job that has not begun within `seconds` is cancelled; one that has gets as long again.
        """
        done: Future[_Result] = Future()
        try:
            self._queue.put((job, done), timeout=seconds)
            return done.result(seconds)
        except (queue.Full, Late):
            if done.cancel():
                raise InputError("the service is busy: nothing was done; try again") from None
        try:
            return done.result(seconds)
        except Late:
            raise InputError("the service is slow: it has begun and is not done; look before you try again") from None

    @property
    def waiting(self) -> int:
        """Updates, messages and calls that wait."""
        return self._queue.qsize()

    @property
    def problem(self) -> str | None:
        """What is wrong: the database until it can be written again, then what was lost since the start."""
        refused = self.database.problem
        if refused is not None:
            return f"{refused}; alarms go on, and {self.outbox.unstored} messages are not stored"
        return self._problem or self.database.quarantined

    def close(self, seconds: float) -> bool:
        """Process what waits, write everything, and end the thread; False if that took longer."""
        until = time.monotonic() + seconds
        try:
            self._queue.put(None, timeout=seconds)
        except queue.Full:
            return False
        self._thread.join(max(0.0, until - time.monotonic()))
        return not self._thread.is_alive()

    def _put(self, item: StreamUpdate | None) -> None:
        while self.defect is None:
            try:
                self._queue.put(item, timeout=1.0)
                return
            except queue.Full:
                continue

    # The thread

    def _run(self) -> None:
        try:
            if self.database.quarantined is not None:
                _log.error("%s", self.database.quarantined)
            while (item := self._next()) is not None:
                if item != ():
                    self._process(item)
                self._pass_time()
                if self.database.corrupt is not None:
                    raise self.database.corrupt
            self._end()
        except BaseException as error:
            self.defect = error

    def _next(self) -> Any:
        try:
            return self._queue.get(timeout=0.25)
        except queue.Empty:
            return ()

    def _process(self, item: StreamUpdate | _Message | _Job) -> None:
        if isinstance(item, StreamUpdate):
            self._update(item)
        elif isinstance(item, _Message):
            self._publish(item.kind, item.body, item.machine, item.id)
        else:
            job, done = item
            if done.set_running_or_notify_cancel():
                try:
                    done.set_result(job())
                except Exception as error:
                    done.set_exception(error)

    def _end(self) -> None:
        with suppress(DatabaseUnavailable):
            self._store_scores()
            with self._transaction():
                self.store.store_states(one.machine.snapshot() for one in self._all_machines())
                self.store.store_wall(self._settled())
        if not self.outbox.close():
            lost = f"{self.outbox.unstored} messages are not stored, and lost if they are not delivered by now"
            _log.error("%s; %s", self.database.problem, lost)

    def _update(self, update: StreamUpdate) -> None:
        machine = self.machines.get(update.stream)
        if machine is None:
            return
        try:
            transitions = machine.update(update)
        except EdgeasdError as error:  # the wall clock is before 1970, for instance
            self._problem = str(error)
            return
        self._problem = None
        self._record(machine, transitions, update)
        if (body := machine.take_summary()) is not None:
            self._publish("score", body, *machine.key)
        if update.health is not None:
            self._publish("health", health_body(update.health, update.is_unhealthy), *machine.key)

    def _pass_time(self) -> None:
        now = self.beat = self._clock()
        if now - self._ticked < _TICK_SECONDS:
            return
        self._ticked = now
        for machine in list(self.machines.values()):
            try:
                transitions = machine.pass_time()
            except EdgeasdError as error:
                self._problem = str(error)
                continue
            if transitions:
                self._record(machine, transitions)
        try:
            self._write(now)
        except DatabaseUnavailable as error:
            self._disk_log.error(str(error), "alarms go on, from memory")
        else:
            self._disk_log.recovered("the database can be written again")

    def _write(self, now: float) -> None:
        """What is due. Raises DatabaseUnavailable."""
        if self._unstored or self.database.problem is not None:
            with self._transaction():
                pass
        self.outbox.flush()
        if now - self._scores_at >= _SCORES_SECONDS:
            self._store_scores()
            self._scores_at = now
        if now - self._states_at >= _STATES_SECONDS:
            for machine in self.machines.values():
                self._advance_burn_in(machine)
            with self._transaction(durable=False):
                self.store.store_states((one.machine.snapshot() for one in self.machines.values()), durable=False)
                self.store.store_wall(self._settled())
            self._states_at = now
        if now - self._outbox_at >= _OUTBOX_SECONDS:
            self.outbox.prune(self._settled())
            self._outbox_at = now
        if now - self._pruned_at >= _PRUNE_SECONDS:
            self._pruned_at, self._is_pruning = now, True
        self._look_at_trends()
        if self._is_pruning:
            self._is_pruning = self.store.prune_some(self._settled(), self._retention)

    def _look_at_trends(self) -> None:
        """Whether the normal of a machine changed; one machine at a time, once an hour. Raises DatabaseUnavailable."""
        if self.database.path is None or (looked := self._trends.look(self._settled())) is None:
            return
        key, news = looked
        for machine in self.machines.values():
            if machine.key == key:
                machine.trends = self._trends.texts(*key)
        for one in news:
            text = change_text(one.mode, one.change)
            level = logging.WARNING if one.is_new else logging.INFO
            _log.log(level, "%s %s: %s%s", *key, "" if one.is_new else "as before again: ", text)
            self._publish("trend", trend_body(*key, one.mode, one.change), *key)

    # Storing and publishing

    @contextmanager
    def _transaction(self, *, durable: bool = True) -> Iterator[None]:
        """A transaction, with the transitions first that could not be stored before."""
        unstored = list(self._unstored)
        with self.outbox.transaction(durable=durable or bool(unstored)):
            if unstored:
                self.store.append(unstored)
                self.store.store_states(one.machine.snapshot() for one in self._all_machines() if one.has_unstored)
            yield
        self._unstored.clear()
        for machine in self._all_machines():
            machine.has_unstored = False

    def _record(
        self, machine: MonitoredMachine, transitions: list[Transition], update: StreamUpdate | None = None
    ) -> list[Transition]:
        """Store and publish transitions; returns them, with other numbers if the disk refused."""
        if transitions:
            messages = [self._event_message(one) for one in transitions]
            try:
                with self._transaction():
                    self.store.append(transitions, machine.machine.snapshot())
                    for one, (_, text) in zip(transitions, messages, strict=True):
                        self.outbox.append("event", one.machine, one.id, text, created=one.wall)
            except DatabaseUnavailable as error:
                self._disk_log.error(str(error), "alarms go on, from memory")
                transitions, messages = self._record_in_memory(machine, transitions)
            for message, _ in messages:
                self._observe(message)
        if self._on_update is not None and (transitions or update is not None):
            with self._beside_log.beside("the log, records or evidence of an update"):
                self._on_update(update, machine, transitions)
        return transitions

    def _record_in_memory(
        self, machine: MonitoredMachine, transitions: list[Transition]
    ) -> tuple[list[Transition], list[tuple[dict[str, Any], str]]]:
        if not machine.has_unstored:
            # After a kill, the machine would give these numbers again. The reservation of the outbox grows with each
            # process, so numbers that are higher by that have not been given, and will not be.
            transitions = machine.leave_out(transitions, self.outbox.reserved_until)
            machine.has_unstored = True
        self._unstored.extend(transitions)
        messages = [self._event_message(one) for one in transitions]
        for one, (_, text) in zip(transitions, messages, strict=True):
            self.outbox.append_unstored("event", one.machine, one.id, text, created=one.wall)
        return transitions, messages

    def _event_message(self, one: Transition) -> tuple[dict[str, Any], str]:
        message = make_message("event", one.to_json(), site=self._site, wall=one.wall)
        return message, encode(message)

    def _publish(self, kind: Any, body: dict[str, Any], machine: str | None, id: str | None) -> None:
        """A message that is not an event."""
        if self._outputs is None and not self.outbox.has_readers:
            return
        monitored = next((one for one in self.machines.values() if one.key == (machine, id)), None)
        event = None if monitored is None or monitored.machine.event is None else monitored.machine.event.id
        wall = time.time()
        try:
            message = make_message(kind, body, site=self._site, machine=machine, id=id, wall=wall, event=event)
            text = encode(message)
        except Exception as error:  # an event is not lost for a message that is none
            self._message_log.error(str(to_user_error(error)))
            return
        if self._unstored:
            # The events before it are stored first.
            self.outbox.append_unstored(kind, machine, id, text, created=wall)
        else:
            self.outbox.append(kind, machine, id, text, created=wall)
        self._observe(message)

    def _observe(self, message: dict[str, Any]) -> None:
        if self._outputs is not None:
            with self._beside_log.beside("the page of metrics"):
                self._outputs.observe(message)

    def _store_scores(self) -> None:
        waiting = [machine for machine in self._all_machines() if machine.scores or machine.hours]
        if not waiting:
            return
        if self.database.path is not None:  # without a file nobody can look at them
            with self._transaction(durable=False):
                for machine in waiting:
                    self.store.add_scores(*machine.key, list(machine.scores))
                    self.store.add_hours(*machine.key, list(machine.hours))
        for machine in waiting:
            machine.scores.clear()
            machine.hours.clear()

    # Machines, in the recorder's thread

    def _all_machines(self) -> list[MonitoredMachine]:
        return [*self._departed.values(), *self.machines.values()]

    def _use_outputs(self, outputs: OutputManager | None) -> None:
        self._outputs = outputs
        for machine in self.machines.values():
            self._show_state(machine)

    def _show_state(self, machine: MonitoredMachine) -> None:
        if self._outputs is None:
            return
        try:
            last = self.store.transitions(*machine.key, after=machine.machine.sequence - 1)
        except DatabaseUnavailable:
            last = []
        self._outputs.set_retained_state(*machine.key, last[-1] if last else machine.state_body())

    def _add_machine(self, name: str, manifest: Manifest, settings: AlarmSettings) -> None:
        machine = MonitoredMachine(name, manifest, settings, self._score_seconds, clock=self._clock)
        for other in self.machines.values():
            if other.name != name and other.key == machine.key:
                same = f"is machine {' '.join(machine.key)}, as {other.name} is"
                raise InputError(f"{name}: {same}; give one of them another id")
        present = self.machines.get(name)
        if present is not None and present.key != machine.key:
            self._remove_machine(name)
            present = None
        if present is not None:
            machine.continue_from(present)
        elif (departed := self._departed.pop(machine.key, None)) is not None:
            machine.continue_from(departed)
            machine.machine.reset_history()
        else:
            self._restore(machine)
        self._continue_burn_in(machine)
        self.machines[name] = machine
        with suppress(DatabaseUnavailable):  # then it is not watched until the next start
            self._trends.add(*machine.key, manifest, machine.threshold, self._settled())
            machine.trends = self._trends.texts(*machine.key)
        if present is None:
            self._show_state(machine)

    # Learning periods, in the recorder's thread

    def _continue_burn_in(self, machine: MonitoredMachine) -> None:
        """Go on with the stored learning period, or begin one if the settings ask for it."""
        if not machine.scoring:
            return
        try:
            text = self.store.burn_in(*machine.key)
        except DatabaseUnavailable:
            text = None
        stored = None if text is None else parse_burn_in(text)
        hours = machine.settings.burn_in_hours
        if stored is not None and stored.scoring != machine.scoring:
            if stored.accepted is not None:
                _log.warning(
                    "%s: the learnt threshold %.4g was of another bundle and is not used", machine.name, stored.accepted
                )
            stored = None
        if stored is not None and stored.phase == "learning":
            # The setting decides how long it lasts; without one it is over.
            stored = stored.model_copy(update={"hours": hours}) if hours else None
        if stored is None and hours:
            stored = BurnIn(scoring=machine.scoring, begun=self._settled(), hours=hours)
            self._store_burn_in(machine, stored)
        machine.use_burn_in(stored)

    def _advance_burn_in(self, machine: MonitoredMachine) -> None:
        """Count what was heard, and propose a threshold once it is enough. Raises DatabaseUnavailable."""
        burn_in = machine.burn_in
        if burn_in is None or burn_in.phase != "learning":
            return
        minutes = self.store.history(*machine.key, "minute", since=burn_in.begun)
        burn_in = burn_in.model_copy(update={"heard_minutes": len(minutes)})
        if len(minutes) >= 60 * burn_in.hours:
            shipped = None if machine.shipped is None else machine.shipped.clip
            found = propose([one["at"] for one in minutes], [one["high"] for one in minutes], shipped)
            if found is not None:
                burn_in = burn_in.model_copy(update={"phase": "proposed", "proposal": found})
                if machine.settings.burn_in_accept and found.doubt is None:
                    update = {"phase": "accepted", "by": "burn_in_accept", "decided": self._settled()}
                    burn_in = burn_in.model_copy(update=update)
                _log.info("%s: %s", machine.name, burn_in.describe(machine.threshold))
        self._store_burn_in(machine, burn_in)
        machine.use_burn_in(burn_in)

    def _store_burn_in(self, machine: MonitoredMachine, burn_in: BurnIn) -> None:
        try:
            self.store.store_burn_in(*machine.key, burn_in.model_dump_json())
        except DatabaseUnavailable as error:
            self._disk_log.error(str(error), "the learning period goes on, from memory")

    def _decide_threshold(self, name: str, decision: str, by: str | None) -> dict[str, Any]:
        machine = self.machines.get(name)
        if machine is None:
            raise InputError(f"{name}: no such stream; the streams are {', '.join(self.machines) or 'none'}")
        burn_in = machine.burn_in
        if decision == "restart":
            hours = machine.settings.burn_in_hours
            if not hours:
                raise InputError(f"{name}: no learning period is set; give burn_in_hours in its table alarm")
            burn_in = BurnIn(scoring=machine.scoring, begun=self._settled(), hours=hours)
        elif decision in ("accept", "decline"):
            if burn_in is None or burn_in.proposal is None:
                raise InputError(f"{name}: no threshold is proposed; {self._burn_in_line(machine)}")
            phase = "accepted" if decision == "accept" else "declined"
            burn_in = burn_in.model_copy(update={"phase": phase, "by": by, "decided": self._settled()})
        elif decision != "show":
            raise InputError(f"{decision}: unknown; use show, accept, decline or restart")
        if decision != "show" and burn_in is not None:
            self._store_burn_in(machine, burn_in)
            machine.use_burn_in(burn_in)
        return {
            "stream": name,
            "threshold": machine.threshold,
            "shipped": None if machine.shipped is None else machine.shipped.clip,
            "line": self._burn_in_line(machine),
            "burn_in": None if machine.burn_in is None else machine.burn_in.model_dump(mode="json"),
        }

    def _burn_in_line(self, machine: MonitoredMachine) -> str:
        if machine.burn_in is None:
            return "there is no learning period; give burn_in_hours in the table alarm of the stream"
        return machine.burn_in.describe(machine.threshold)

    def _restore(self, machine: MonitoredMachine) -> None:
        """Continue with the stored state. The score history begins anew: the sound in between was not heard."""
        snapshot, last = self.store.snapshot(*machine.key), self.store.last_sequence(*machine.key)
        is_lost = snapshot is None and self.database.lost_history
        if snapshot is not None:
            # The time between two boots is left out, once: the new boot is stored with the state.
            now = self._clock() if self.store.rebooted_since(*machine.key) else None
            try:
                machine.machine.restore(snapshot, time=now, place=f"{self.database.name}: state of {machine.name}")
            except InputError as error:
                is_lost = True
                _log.error("%s; until then its alarms begin as normal", error)
            machine.machine.reset_history()
            if now is not None and not is_lost:
                self._store_state(machine)
        if is_lost or last > machine.machine.sequence:
            # Numbers that only receivers know are below the seconds since 1970: no machine has a transition a second.
            wall = time.time()
            self._record(machine, [machine.machine.skip_sequence_to(max(last, int(wall)), wall)])

    def _store_state(self, machine: MonitoredMachine) -> None:
        try:
            with self._transaction():
                self.store.store_states([machine.machine.snapshot()])
        except DatabaseUnavailable as error:
            self._disk_log.error(str(error))

    def _remove_machine(self, name: str) -> None:
        machine = self.machines.get(name)
        if machine is not None:
            self._store_state(machine)
            self._departed[machine.key] = self.machines.pop(name)
            self._trends.remove(*machine.key)

    def _clear_others(self, known: set[tuple[str, str]]) -> list[tuple[str, str]]:
        known |= {one.key for one in self.machines.values()}
        cleared = []
        for event in self.store.events(open_only=True):
            key = event["machine"], event["id"]
            if key in known:
                continue
            known.add(key)
            machine = self._departed.get(key)
            if machine is None:
                machine = MonitoredMachine(" ".join(key), key, AlarmSettings(on=event["threshold"]), clock=self._clock)
                self._restore(machine)
                self._departed[key] = machine
            if machine.machine.event is None or machine.machine.event.id != event["event"]:
                _log.warning("%s: event %s stays open: the state of its machine is lost", machine.name, event["event"])
                continue
            try:
                self._record(machine, machine.command(Command(command="clear", by="site.toml")))
            except EdgeasdError as error:
                _log.warning("%s: its event stays open: %s", machine.name, error)
                continue
            cleared.append(key)
        return cleared

    def _obey(self, machine: str, id: str, command: Command) -> None:
        for name in [name for name, one in self.machines.items() if one.key == (machine, id)]:
            try:
                self._command(name, command)
            except EdgeasdError as error:
                _log.warning("%s: %s", name, error)

    def _command(self, name: str, command: Command) -> list[dict[str, Any]]:
        machine = self.machines.get(name)
        if machine is None:
            raise InputError(f"{name}: no such stream; the streams are {', '.join(self.machines) or 'none'}")
        return [one.to_json() for one in self._record(machine, machine.command(command))]
