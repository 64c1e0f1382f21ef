"""The whole service: streams, recorder, outputs and evidence of one configuration."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import ExitStack
from typing import Any

from edgeasd.runtime.alarms import Command, Transition, parse_command
from edgeasd.runtime.config import ConfigError, ServiceConfig, check_config, read_config
from edgeasd.runtime.errors import DeviceError, EdgeasdError, InputError
from edgeasd.runtime.evidence import EvidenceWriter
from edgeasd.runtime.outputs import OutputManager, outbox_limits
from edgeasd.runtime.outputs.messages import health_body
from edgeasd.runtime.service.control import ControlSocket
from edgeasd.runtime.service.jsonl_records import RecordWriter, to_records
from edgeasd.runtime.service.monitored import MonitoredMachine
from edgeasd.runtime.service.recorder import EventRecorder
from edgeasd.runtime.service.status import ServiceStatus
from edgeasd.runtime.service.stream import StreamWorker
from edgeasd.runtime.service.supervisor import FIRST_PAUSE, LOAD_SECONDS, StreamSupervisor
from edgeasd.runtime.service.updates import StreamUpdate
from edgeasd.runtime.states.tag import parse_tag
from edgeasd.runtime.storage import Database, Outbox, Retention
from edgeasd.runtime.system.lock import folder_lock
from edgeasd.runtime.system.log_once import LogOnce
from edgeasd.runtime.system.version import package_version

log = logging.getLogger(__name__)
STOP_SECONDS = 1.7
"""`stop` flushes everything in this time; a service manager waits for two seconds at most."""
HANG_SECONDS = 30.0
"""A thread that has not moved for so long hangs. A restart cures that."""
_POLL_SECONDS, _RETRY_SECONDS = 0.2, 10.0
_DAY = 86_400.0
_OPEN_STATES = ("alarm", "acknowledged")
_GONE = "is no longer in the site file"


class Service:
    """Call `start`, then `poll` some times a second until it is False, then `stop`.

    `reload`, `command` and `status` may be called from any thread meanwhile.
    """

    def __init__(
        self,
        config: ServiceConfig,
        records: RecordWriter | None = None,
        *,
        retry_seconds: float = FIRST_PAUSE,
        load_seconds: float = LOAD_SECONDS,
        hang_seconds: float = HANG_SECONDS,
    ) -> None:
        """`records` takes the lines of --jsonl. For the times see `StreamSupervisor` and HANG_SECONDS."""
        self.config, self._records = config, records
        package_version()  # while there are descriptors for it: every later call has it from memory
        self._retry_seconds, self._load_seconds, self._hang_seconds = retry_seconds, load_seconds, hang_seconds
        self._resources = ExitStack()
        self._started_at = time.monotonic()
        self.recorder: EventRecorder
        self.supervisor: StreamSupervisor
        self.outputs: OutputManager | None = None
        self._database: Database | None = None
        self._outbox: Outbox | None = None
        self._evidence: EvidenceWriter | None = None
        self._control: ControlSocket | None = None
        self._reload_requested, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._supervise, name="edgeasd-supervisor", daemon=True)
        self._beat = time.monotonic()
        self._reloading = False
        self._error: EdgeasdError | None = None
        """What ends the service."""
        self._outputs_problem: str | None = None
        self._outputs_at, self._status_at = 0.0, 0.0
        self._has_cleared_others, self._clear_log = False, LogOnce(log, "events of machines that have left")
        self._tag_log, self._status_log = LogOnce(log, "tags"), LogOnce(log, "status")
        self._tags: dict[str, bytes] = {}
        """What was last published on each topic of a tag."""
        self._shown: set[tuple[str, str]] = set()
        """Machine type and ID of everything that outputs may show."""
        self.is_loaded = False
        """Whether every stream was tried once."""

    # Life

    def start(self) -> None:
        """Take the data folder, open the store and the outputs, begin to capture and to load.

        Raises InputError or DeviceError if that fails; nothing runs then.
        """
        config = self.config
        try:
            if config.has_data:
                self._resources.enter_context(folder_lock(config.data))
                self._database = Database(config.data / "events.db")
                self._outbox = Outbox(self._database, limits=outbox_limits(config.outputs))
            self.recorder = EventRecorder(self._database, self._outbox, site=config.name, on_update=self._on_update)
            self.recorder.start()
            self._configure_recorder()
            if config.has_data:
                self._evidence = EvidenceWriter(
                    config.data,
                    config.settings.evidence,
                    open_events=self.recorder.open_events(),
                    last_wall=self.recorder.last_wall,
                )
            self.supervisor = StreamSupervisor(
                self.recorder,
                self._records,
                self._evidence,
                retry_seconds=self._retry_seconds,
                load_seconds=self._load_seconds,
            )
            self._open_outputs()
            if config.has_data:
                self._control = ControlSocket(config.data, self._answer)
                self._control.start()
            self._thread.start()
        except RuntimeError as error:  # the system has no thread
            self.stop("could not start")
            raise DeviceError(
                f"the service cannot start: {error}; free memory, or raise the limit of threads"
            ) from None
        except BaseException:
            self.stop("could not start")
            raise

    def poll(self) -> bool:
        """False once every stream has ended. Raises what a restart cures, and what made all streams fail at once."""
        if self.recorder.defect is not None:
            raise _as_fatal("the event recorder", self.recorder.defect)
        if self._error is not None:
            raise self._error
        now = time.monotonic()
        if now - self.recorder.beat > self._hang_seconds:
            raise DeviceError(
                f"the event recorder has hung for {self._hang_seconds:.0f} s; check the disk of the data folder"
            )
        return not (self.is_loaded and self.supervisor.is_over)

    def is_healthy(self, now: float) -> bool:
        """Whether every thread moves; `now` is monotonic seconds."""
        beats = [self._beat, self.recorder.beat, *self.supervisor.beats()]
        return self._thread.is_alive() and all(now - beat < self._hang_seconds for beat in beats)

    def stop(self, reason: str) -> bool:
        """End within two seconds: captures stopped, alarms and scores in the store, outputs flushed.

        False if a thread had to be left behind. What outputs could not deliver waits in the outbox.
        """
        until = time.monotonic() + STOP_SECONDS
        if self._stopping.is_set():
            return True
        self._stopping.set()
        if self._control is not None:
            self._control.close()
        ended = True
        if hasattr(self, "supervisor"):
            self.supervisor.wake.set()
            if self._thread.ident is not None:
                self._thread.join(0.3)
            ended = self.supervisor.stop(0.4 * STOP_SECONDS, reason)
            self._publish_stop(reason)
        if hasattr(self, "recorder"):
            ended = self.recorder.close(max(0.2, until - 0.6 - time.monotonic())) and ended
        if self._evidence is not None:
            if hasattr(self, "supervisor"):
                self.supervisor.end_clips()
            ended = self._evidence.close(max(0.2, until - 0.5 - time.monotonic())) and ended
        if self.outputs is not None:
            ended = self.outputs.close(max(0.3, until - time.monotonic())) and ended
        if ended and self._database is not None:
            self._database.close()
        self._resources.close()
        return ended and not self._thread.is_alive()

    def reload(self) -> None:
        """Read the site file again; done in the background and reported in the log."""
        self._reload_requested.set()

    @property
    def is_reloading(self) -> bool:
        """Whether a reload was requested and is not done."""
        return self._reload_requested.is_set() or self._reloading

    # Status and commands

    def status(self) -> ServiceStatus:
        """How everything is doing. Waits for nothing."""
        return ServiceStatus(
            site=self.config.name,
            uptime_seconds=round(time.monotonic() - self._started_at, 3),
            streams=self.supervisor.statuses(),
            outputs=[] if self.outputs is None else self.outputs.state(),
            waiting_updates=self.recorder.waiting,
            lost_lines=0 if self._records is None else self._records.lost,
            problem=self._problem(),
        )

    def _problem(self) -> str | None:
        evidence = None if self._evidence is None else self._evidence.status()
        degraded = evidence is not None and evidence.is_degraded
        lost = f"evidence: {evidence.detail or evidence.state}" if degraded and evidence is not None else None
        return self.recorder.problem or self._outputs_problem or lost

    def command(self, stream: str, value: Any) -> list[dict[str, Any]]:
        """Give the alarm machine of a stream a command. Returns the messages of what changed. Raises InputError."""
        command = parse_command(value, f"command for {stream}")
        slot = self.supervisor.slots.get(stream)
        if command.command == "set_state" and slot is not None and slot.worker is not None:
            assert command.state is not None
            slot.worker.operation.set_tag(command.state, command.by or "command")
            return []
        if slot is not None and stream not in self.recorder.machines:
            reason = slot.error or "it is being loaded; try again in a moment"
            raise InputError(f"{stream}: not loaded: {reason}")
        return self.recorder.command(stream, command)

    def _answer(self, request: dict[str, Any]) -> Any:
        """A request of the command socket."""
        if request == {"ask": "status"}:
            return self.status().to_json()
        if request == {"ask": "reload"}:
            self.reload()
            return "requested"
        if set(request) == {"ask", "stream", "command"} and request["ask"] == "command":
            return self.command(str(request["stream"]), request["command"])
        if set(request) == {"ask", "stream", "decision", "by"} and request["ask"] == "threshold":
            by = None if request["by"] is None else str(request["by"])[:64]
            return self.recorder.decide_threshold(str(request["stream"]), str(request["decision"]), by)
        raise InputError('request: unknown; ask for "status", "reload", or "command" with stream and command')

    def _command_from_output(self, machine: str, id: str, command: Command) -> None:
        """A command that came through an output. It may be for another device of the site."""
        try:
            if command.command == "set_state":
                assert command.state is not None
                for slot in list(self.supervisor.slots.values()):
                    if slot.identity == (machine, id) and slot.worker is not None:
                        slot.worker.operation.set_tag(command.state, command.by or "command")
                return
            self.recorder.post_command(machine, id, command)
        except EdgeasdError as error:
            log.warning("%s", error)

    def _tag_from_output(self, topic: str, payload: bytes) -> None:
        """A tag of the plant: what a machine is doing. Called from a thread of an output."""
        self._tags[topic] = payload
        for slot in list(self.supervisor.slots.values()):
            if slot.settings.states.tag_topic == topic and slot.worker is not None:
                self._set_tag(slot.name, slot.worker, topic, payload)

    def _set_tag(self, name: str, worker: StreamWorker, topic: str, payload: bytes) -> None:
        try:
            state = parse_tag(payload, worker.settings.states, f"{name}: tag {topic}")
        except InputError as error:
            self._tag_log.error(str(error), "the state before it holds")
            self._tags.pop(topic, None)
            return
        self._tag_log.recovered("the tag can be read again")
        worker.operation.set_tag(state, topic)

    def _give_tags(self) -> None:
        """Tags that came before their stream was there: a broker sends what it retains at once."""
        for slot in list(self.supervisor.slots.values()):
            topic, worker = slot.settings.states.tag_topic, slot.worker
            if topic is None or worker is None or worker.operation.tag is not None:
                continue
            if (payload := self._tags.get(topic)) is not None:
                self._set_tag(slot.name, worker, topic, payload)

    def _tag_topics(self) -> tuple[str, ...]:
        return tuple(sorted({one.states.tag_topic for one in self.config.streams.values() if one.states.tag_topic}))

    # The supervisor's thread

    def _supervise(self) -> None:
        try:
            self.supervisor.reconcile(self.config)
            while not self._stopping.is_set():
                now = self._beat = time.monotonic()
                if self._reload_requested.is_set():
                    self._reloading = True
                    self._reload_requested.clear()
                    self._reload()
                self.supervisor.step(now)
                self._give_tags()
                if self.supervisor.is_loaded:
                    if not self.is_loaded:
                        self._error = self.supervisor.fatal_error
                    self.is_loaded, self._reloading = True, False
                self._clear_others()
                if self._outputs_problem is not None and now >= self._outputs_at:
                    self._retry_outputs()
                if now >= self._status_at:
                    self._status_at = now + self.config.settings.status_seconds
                    with self._status_log.beside("the status message"):
                        self._publish_status()
                self.supervisor.wake.wait(_POLL_SECONDS)
                self.supervisor.wake.clear()
        except BaseException as error:
            self._error = _as_fatal("the supervisor", error)

    def _clear_others(self) -> None:
        """Clear the events of machines that are not in the configuration, once it is known of every stream."""
        if self._has_cleared_others:
            return
        machines = self.supervisor.identities()
        if machines is None:
            return
        try:
            gone = set(self.recorder.clear_others(machines))
        except InputError as error:
            self._clear_log.error(str(error), "they are cleared later")
            return
        self._has_cleared_others = True
        for machine, id in (gone | self._shown) - machines:
            self._publish_gone(machine, id, _GONE)
        self._shown = set(machines)

    def _reload(self) -> None:
        """All or nothing as far as the file goes. A bundle that does not load leaves its stream with the old one."""
        assert self.config.path is not None
        try:
            config = read_config(self.config.path)
            problems = check_config(config).problems
            if config.data != self.config.data:
                reason = f"{config.data}: is another folder than {self.config.data}; restart for that"
                problems.append(ConfigError("data", reason))
            if problems:
                raise InputError("; ".join(map(str, problems)))
        except Exception as error:  # whatever is wrong with a file, the service goes on
            self._reloading = False
            log.error("not reloaded, everything goes on as before: %s", error)
            return
        before, topics, self.config = self.config, self._tag_topics(), config
        self._configure_recorder()
        if self._evidence is not None:
            self._evidence.keep(config.settings.evidence)
        if (config.outputs, config.name, self._tag_topics()) != (before.outputs, before.name, topics):
            # Messages wait in the outbox meanwhile.
            self.recorder.use_outputs(None)
            if self.outputs is not None:
                self.outputs.close()
                self.outputs = None
            self._retry_outputs()
        self.supervisor.reconcile(config)
        self._has_cleared_others = False
        log.info("reloaded %s", config.path)

    # Outputs

    def _open_outputs(self) -> None:
        """Open the outputs of the configuration. Raises InputError or DeviceError; then none is open."""
        config = self.config
        if self._outbox is None or not config.outputs:
            if self._outbox is not None:
                self._outbox.register({})
            self._outputs_problem = None
            return
        self._outbox.limits = outbox_limits(config.outputs)
        outputs = OutputManager(
            config.outputs,
            self._outbox,
            site=config.name,
            on_command=self._command_from_output,
            tag_topics=self._tag_topics(),
            on_tag=self._tag_from_output,
        )
        outputs.start()
        self.outputs, self._outputs_problem = outputs, None
        self.recorder.use_outputs(outputs)
        self.recorder.publish("start", {"state": "starting", "version": package_version(), "uptime_seconds": 0.0})

    def _retry_outputs(self) -> None:
        try:
            before = self._outputs_problem
            self._open_outputs()
            if before is not None:
                log.info("the outputs are open again")
        except EdgeasdError as error:
            problem = f"no output is open, messages wait: {error}"
            if problem != self._outputs_problem:
                log.error("%s", problem)
            self._outputs_problem, self._outputs_at = problem, time.monotonic() + _RETRY_SECONDS

    def _configure_recorder(self) -> None:
        settings, kept = self.config.settings, self.config.settings.retention
        scores, minutes, hours = kept.scores_days * _DAY, kept.minutes_days * _DAY, kept.hours_days * _DAY
        retention = Retention(scores, minutes, hours, kept.events_days * _DAY)
        self.recorder.configure(site=self.config.name, score_seconds=settings.score_seconds, retention=retention)

    # Messages about the service

    def _publish_status(self) -> None:
        if self.outputs is None:
            return
        for slot, status in zip(list(self.supervisor.slots.values()), self.supervisor.statuses(), strict=False):
            if status.machine == "?":
                continue
            where = {"machine": status.machine, "id": status.id}
            self._shown.add((status.machine, status.id))
            self.recorder.publish("status", status.message_body(), **where)
            if slot.worker is not None:
                self.recorder.publish("health", health_body(slot.worker.report, slot.worker.is_unhealthy), **where)
        self.recorder.publish("status", self.status().message_body())

    def _publish_gone(self, machine: str, id: str, reason: str) -> None:
        """A broker would otherwise keep the last status of the machine for ever."""
        self.recorder.publish("stop", {"state": "stopped", "reason": reason}, machine=machine, id=id)
        if self.outputs is not None:
            self.outputs.remove_machine(machine, id)

    def _publish_stop(self, reason: str) -> None:
        if self.outputs is None:
            return
        for status in self.supervisor.statuses():
            if status.machine != "?":
                body = {**status.message_body(), "state": "stopped", "reason": reason}
                self.recorder.publish("stop", body, machine=status.machine, id=status.id)
        self.recorder.publish("stop", {"state": "stopped", "reason": reason, "version": package_version()})

    def _on_update(self, update: StreamUpdate | None, machine: MonitoredMachine, transitions: list[Transition]) -> None:
        """In the recorder's thread, after every update and command: lines of --jsonl, evidence, the log."""
        slot = self.supervisor.slots.get(machine.name)
        worker = None if slot is None else slot.worker
        if worker is not None:
            worker.learnt = machine.learnt
        for transition in transitions:
            is_new = transition.state == "alarm" and transition.previous not in _OPEN_STATES and not transition.test
            if worker is not None and is_new:
                worker.alarms += 1
            if transition.state != transition.previous or transition.test:
                log.log(logging.WARNING if is_new else logging.INFO, "%s", _describe(machine, transition))
        if transitions and worker is not None and worker.evidence is not None:
            worker.evidence.transitions(transitions, None if update is None else update.position)
        elif transitions and self._evidence is not None:
            for transition in transitions:
                if transition.event is not None and transition.state not in _OPEN_STATES:
                    self._evidence.protect(transition.event, False)
        if self._records is not None:
            may_drop = update is None or update.may_drop
            site = None if self.config.path is None else self.config.name
            for record in to_records(update, transitions, machine, site=site):
                self._records.put(record, may_drop)


def _describe(machine: MonitoredMachine, transition: Transition) -> str:
    """A change of alarm state in one line for people."""
    score, limit, reason = transition.score, transition.threshold, transition.reason.replace("_", " ")
    state = "ALARM" if transition.state == "alarm" else transition.state
    text = f"{machine.name}: {reason if transition.test else f'{state}, {reason}'}"
    if score is not None and limit is not None:
        text += f": clip score {score:.3f}, threshold {limit:.3f}"
    return text + (f"; event {transition.event}" if transition.event else "")


def _as_fatal(what: str, error: BaseException) -> EdgeasdError:
    """A fault that a restart cures, with exit code 3."""
    log.debug("%s failed", what, exc_info=error)
    text = " ".join(str(error).split())[:300]
    if isinstance(error, EdgeasdError) and error.exit_code == DeviceError.exit_code:
        return error
    return DeviceError(f"{what} failed ({type(error).__name__}: {text}); the service must be started again")
