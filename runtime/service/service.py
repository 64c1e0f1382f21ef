"""The whole service: built from a site, started, reloaded, asked, stopped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

from edgeasd.runtime.alarms import Transition, parse_command
from edgeasd.runtime.config import Problem, Site, check_site, read_site
from edgeasd.runtime.errors import EdgeasdError, InputError
from edgeasd.runtime.evidence import EvidenceWriter
from edgeasd.runtime.outputs import Outputs
from edgeasd.runtime.outputs.notices import Notices
from edgeasd.runtime.service.bodies import running_version, service_body
from edgeasd.runtime.service.control import ControlSocket
from edgeasd.runtime.service.exchange import Exchange
from edgeasd.runtime.service.finding import Record, tell_nobody
from edgeasd.runtime.service.fleet import Fleet
from edgeasd.runtime.service.keeper import Keeper
from edgeasd.runtime.service.state import SiteState
from edgeasd.runtime.service.stream import Listeners
from edgeasd.runtime.storage.event_store import Retention
from edgeasd.runtime.system.lock import folder_lock

END_SECONDS = 1.7
"""In which `stop` flushes everything; a service manager waits two at most."""
_DAY = 86_400.0
_AGAIN_SECONDS, _KEEPER_SECONDS = 10.0, 30.0
STUCK_SECONDS = 30.0
"""A thread that has not moved for so long is taken for dead, and the watchdog is no longer fed."""


def _no_log(line: str) -> None:
    del line


def _forgiving(log: Callable[[str], None]) -> Callable[[str], None]:
    """A log on a full disk, or one that is closed, must not end what it is about."""

    def say(line: str) -> None:
        with suppress(OSError, ValueError):
            log(line)

    return say


class Service:
    """Use it so: `start`, then `poll` some times a second until it says that all is over, then `stop`.

    `reload`, `command` and `state` may be called from any thread meanwhile.
    """

    def __init__(
        self,
        site: Site,
        tell: Callable[[Record, bool], None] = tell_nobody,
        log: Callable[[str], None] = _no_log,
    ) -> None:
        """`tell` takes records (see `RecordWriter.put`), `log` one line for people."""
        self.site, self._tell, self._log = site, tell, (log := _forgiving(log))
        self._resources = ExitStack()
        self._began = time.monotonic()
        self.keeper = Keeper(site.data, tell, self._sick, self._say_status, self._record, log)
        self.fleet = Fleet(self.keeper, Listeners(self.keeper.put, tell), log)
        self._control: ControlSocket | None = None
        self._reload_asked, self._stopping = threading.Event(), threading.Event()
        self._exchange = Exchange(self.keeper, self._open_outputs, log, self._stopping)
        self._director = threading.Thread(target=self._direct, name="edgeasd-director", daemon=True)
        self.loaded = threading.Event()
        """Set once every stream was tried for the first time."""
        self.defect: BaseException | None = None
        """What ended the director, which nothing should."""
        self._hopeless: EdgeasdError | None = None
        self._reloading = False
        self._partly: str | None = None
        """Why the site is not yet what its file says."""
        self._others_due, self._again_at = False, 0.0
        self._others_notices = Notices("events of machines that have gone", log)
        self.lost_lines: Callable[[], int] = lambda: 0

    # Life

    def start(self) -> None:
        """Take the data folder, open the store and the outputs, begin to capture and to load.

        Raises InputError or DeviceError where that cannot be; nothing runs then.
        """
        try:
            self._resources.enter_context(folder_lock(self.site.data))
            self.keeper.start()
            self.fleet.evidence = EvidenceWriter(
                self.site.data,
                self.site.settings.evidence,
                open_events=self.keeper.call(self.keeper.open_events),
            )
            self._configure_keeper(self.site)
            self._control = ControlSocket(self.site.data, self._answer)
            self._director.start()
            self._control.start()
        except BaseException:
            self.stop("could not start")
            raise

    def poll(self) -> bool:
        """False once every stream has ended for good. Raises what ended the service against its will."""
        if (defect := self.defect or self.keeper.defect) is not None:
            raise defect
        if self._hopeless is not None:
            raise self._hopeless
        return not (self.loaded.is_set() and self.fleet.berths.over())

    def healthy(self, now: float) -> bool:
        """Whether every thread still moves; `now` is monotonic seconds."""
        beats = [self.keeper.beat, *self.fleet.beats()]
        return self._director.is_alive() and all(now - beat < STUCK_SECONDS for beat in beats)

    def stop(self, reason: str) -> bool:
        """End within two seconds: captures stopped, alarms and scores in the store, outputs flushed.

        False where a thread had to be left behind. What outputs could not deliver waits on disk.
        """
        until = time.monotonic() + END_SECONDS
        self._stopping.set()
        self._reload_asked.set()
        if self._control is not None:
            self._control.close()
        ended = self.fleet.stop(0.4 * END_SECONDS, reason)
        if self.keeper.alive:
            self.keeper.post(lambda: self._say_stop(reason))
            ended = self.keeper.close(max(0.2, until - 0.6 - time.monotonic())) and ended
        self.fleet.end_clips()
        if self.fleet.evidence is not None:
            ended = self.fleet.evidence.close(max(0.2, until - 0.5 - time.monotonic())) and ended
        if self.keeper.teller.outputs is not None:
            ended = self.keeper.teller.outputs.close(max(0.3, until - time.monotonic())) and ended
        self._resources.close()
        if self._director.ident is not None:
            self._director.join(max(0.0, until - time.monotonic()))
        return ended and not self._director.is_alive()

    def reload(self) -> None:
        """Ask for the site file to be read again; it is done in the background, and said in the log."""
        self._reload_asked.set()

    @property
    def reloading(self) -> bool:
        """Whether a reload was asked for and is not done."""
        return self._reload_asked.is_set() or self._reloading

    # Asking

    def state(self) -> SiteState:
        """How everything is doing. Waits for nothing."""
        outputs = self.keeper.teller.outputs
        return SiteState(
            site=self.site.name,
            uptime_seconds=round(time.monotonic() - self._began, 3),
            streams=self.fleet.berths.states(),
            outputs=[] if outputs is None else outputs.state(),
            waiting_results=self.keeper.waiting,
            lost_lines=self.lost_lines(),
            trouble=self._trouble(),
        )

    def _trouble(self) -> str | None:
        evidence = self.fleet.evidence
        status = None if evidence is None else evidence.status()
        lost = None if status is None or not status.is_degraded else f"evidence: {status.detail or status.state}"
        return self.keeper.trouble or self._exchange.trouble or self._partly or lost

    def command(self, stream: str, value: Any) -> list[dict[str, Any]]:
        """Give the alarm machine of a stream a command; what changed, as messages. Raises InputError."""
        command = parse_command(value, f"command for {stream}")
        berth = self.fleet.berths.get(stream)
        if berth is not None and stream not in self.keeper.kept:
            raise InputError(f"{stream}: not loaded: {berth.failure or 'it is being loaded; try again in a moment'}")
        return self.keeper.call(lambda: self.keeper.command(stream, command))

    def _answer(self, request: dict[str, Any]) -> Any:
        """A request of the command socket."""
        if request == {"ask": "state"}:
            return self.state().to_json()
        if request == {"ask": "reload"}:
            self.reload()
            return "asked"
        if set(request) == {"ask", "stream", "command"} and request["ask"] == "command":
            return self.command(str(request["stream"]), request["command"])
        raise InputError('request: unknown; ask for "state", "reload", or "command" with stream and command')

    def _command_from_outside(self, machine: str, id: str, value: dict[str, Any]) -> None:
        """A command that came through an output; nobody waits for its answer."""

        def obey() -> None:
            names = [n for n, k in self.keeper.kept.items() if (k.machine_type, k.id) == (machine, id)]
            try:
                for name in names:
                    self.keeper.command(name, parse_command(value, f"command for {name}"))
            except EdgeasdError as error:
                self._log(str(error))

        if not self.keeper.post(obey):
            self._log(f"{machine} {id}: a command was not carried out, the disk holds everything up; send it again")

    # The director's thread: everything that takes seconds

    def _direct(self) -> None:
        try:
            self.fleet.apply(self.site)
            # Now and not later: what fails from here on was loaded once, and is loaded again.
            self._hopeless = self.fleet.berths.hopeless()
            self._others_due = self._hopeless is None
            self.loaded.set()
            while not self._stopping.is_set():
                if self._reload_asked.wait(0.5):
                    self._reloading = True
                    self._reload_asked.clear()
                    if not self._stopping.is_set():
                        self._reload()
                    self._reloading = False
                self.fleet.mend(time.monotonic())
                self._exchange.mend(self.site, time.monotonic())
                self._mend_site(time.monotonic())
        except BaseException as error:
            self.defect = error
            self.loaded.set()

    def _mend_site(self, now: float) -> None:
        """What could not be done of the site file, because the keeper was busy or a bundle cannot be read."""
        if now < self._again_at or self._stopping.is_set():
            return
        if self._partly is not None:
            self._apply(asked=False)
        if self._others_due and self._partly is None:
            self._again_at = now + _AGAIN_SECONDS
            self._clear_others()

    def _apply(self, *, asked: bool) -> None:
        """Make the streams what the site says; what cannot be done now is tried again."""
        try:
            self.fleet.apply(self.site)
        except Exception as error:  # whatever it is, the service goes on
            before, self._partly = self._partly, f"{self.site.path}: taken in part only: {error}"
            if asked or self._partly != before:
                self._log(f"{self._partly}; the rest is tried again")
            self._again_at = time.monotonic() + _AGAIN_SECONDS
            return
        self._partly, self._others_due, self._again_at = None, True, 0.0
        self._log(f"reloaded {self.site.path}")
        self.keeper.post(self._say_gone)

    def _clear_others(self) -> None:
        """Clear the events of machines that are not in the site, once it is known of every stream which it is."""
        machines = self.fleet.machines_of(self.site)
        if machines is None or self._stopping.is_set():
            return
        try:
            self.keeper.call(lambda: self.keeper.clear_others(machines), _KEEPER_SECONDS)
        except Exception as error:  # whatever a store holds of machines that nobody listens to
            self._others_notices.failed(f"not cleared yet: {' '.join(str(error).split())[:300]}")
            return
        self._others_due = False
        self._others_notices.well("cleared")
        self.keeper.post(self._say_gone)

    def _reload(self) -> None:
        """All or nothing as far as the file goes; a bundle that does not load leaves its stream with the old one."""
        try:
            site = read_site(self.site.path)
            problems = check_site(site).problems
            if site.data != self.site.data:
                why = f"{site.data}: is another folder than {self.site.data}; restart for that"
                problems.append(Problem("data", why))
            if problems:
                raise InputError("; ".join(map(str, problems)))
            if (site.outputs, site.name) != (self.site.outputs, self.site.name):
                self._exchange.change(self.site, site)
        except Exception as error:  # whatever is wrong with a file, the service goes on
            self._log(f"not reloaded, all goes on as before: {error}")
            return
        self.site = site
        self._configure_times(site)
        if self.fleet.evidence is not None:
            self.fleet.evidence.keep(site.settings.evidence)
        self._apply(asked=True)

    def _open_outputs(self, site: Site) -> Outputs | None:
        if not site.outputs:
            return None
        folder = site.data / "queues"
        folder.mkdir(exist_ok=True, mode=0o750)
        return Outputs(site.outputs, folder, site=site.name, on_command=self._command_from_outside, log=self._log)

    def _configure_keeper(self, site: Site) -> None:
        self.keeper.teller.site = site.name
        self._configure_times(site)
        self.keeper.teller.outputs = self._open_outputs(site)
        if self.keeper.teller.outputs is not None:
            body = {"state": "starting", "version": running_version(), "uptime_seconds": 0.0}
            self.keeper.call(lambda: self.keeper.teller.say("start", body))

    def _configure_times(self, site: Site) -> None:
        settings, kept = site.settings, site.settings.retention
        self.keeper.status_seconds, self.keeper.score_seconds = settings.status_seconds, settings.score_seconds
        scores, minutes, hours = kept.scores_days * _DAY, kept.minutes_days * _DAY, kept.hours_days * _DAY
        self.keeper.retention = Retention(scores, minutes, hours, kept.events_days * _DAY)

    # For the keeper

    def _record(self, name: str | None, said: list[Transition], position: int | None) -> None:
        self.fleet.record(name, said, position)

    def _sick(self, name: str) -> bool:
        return self.fleet.berths.sick(name)

    def _say_status(self, name: str) -> None:
        """A status message of a stream, or of the service itself for ""."""
        if name:
            self._say_stream(name)
            return
        for other in [other for other in list(self.fleet.berths) if other not in self.keeper.kept]:
            self._say_stream(other)
        self._say_gone()
        self.keeper.teller.say("status", service_body(self.state()))

    def _say_stream(self, name: str) -> None:
        berths, kept, teller = self.fleet.berths, self.keeper.kept.get(name), self.keeper.teller
        body, health, who = berths.status(name), berths.health(name), berths.identity(name)
        # What is not kept yet will be in a moment, unless it failed.
        if body is None or who is None or (kept is None and body["state"] == "starting"):
            return
        self.keeper.shown[who] = name
        teller.say("status", body, kept, who=who)
        if health is not None:
            teller.say("health", {**health.to_json(), "sick": berths.sick(name)}, kept, who=who)

    def _say_gone(self) -> None:
        here = self.fleet.machines()
        for who, name in [(who, name) for who, name in self.keeper.shown.items() if who not in here]:
            now = self.fleet.berths.identity(name)
            self._say_not_there(who, "is no longer in the site file" if now is None else f"is {now[0]} {now[1]}")

    def _say_not_there(self, who: tuple[str, str], reason: str) -> None:
        """Under the machine and ID that a stream had, or a broker would keep its last status for ever."""
        del self.keeper.shown[who]
        self.keeper.teller.say("stop", {"state": "stopped", "reason": reason}, who=who)
        if self.keeper.teller.outputs is not None:
            self.keeper.teller.outputs.forget(*who)

    def _say_stop(self, reason: str) -> None:
        kept_now = {kept.who for kept in self.keeper.kept.values()}
        for who in [who for who in self.keeper.shown if who not in kept_now]:
            self._say_not_there(who, reason)
        for name, kept in self.keeper.kept.items():
            body = self.fleet.berths.status(name)
            if body is not None:
                self.keeper.teller.say("stop", {**body, "state": "stopped", "reason": reason}, kept)
        self.keeper.teller.say("stop", {"state": "stopped", "reason": reason, "version": running_version()})
