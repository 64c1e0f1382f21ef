"""`edgeasd run --config`: the service in the foreground, for systemd or a terminal."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TextIO

import typer

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.cli._errors import BAD_INPUT, INTERRUPTED, print_error
from edgeasd.toolkit.cli.record_summary import END_OF_SOUND

if TYPE_CHECKING:
    from edgeasd.runtime.config import ConfigReport, ServiceConfig
    from edgeasd.runtime.service.jsonl_records import RecordWriter
    from edgeasd.runtime.service.service import Service
    from edgeasd.runtime.service.systemd import Notifier

_POLL_SECONDS = 0.2


def check(config: Path, as_json: bool) -> None:
    """Look a site over and say what is there; one line for each problem, and exit code 2 where there is one."""
    from edgeasd.runtime.config import check_config, error_of_file, read_config

    try:
        report = check_config(read_config(config))
    except InputError as error:
        if as_json:
            found = [error_of_file(str(config), str(error)).to_json()]
            print(json.dumps({"site": None, "data": None, "streams": [], "outputs": {}, "problems": found}, indent=2))
        raise
    print(json.dumps(report.to_json(), indent=2) if as_json else _summary(report))
    for problem in report.problems:
        print_error(f"{config}: {problem}")
    if report.problems:
        raise typer.Exit(BAD_INPUT)


def _open_site(config: Path) -> ServiceConfig:
    """The site, looked over. A stream that cannot run is said and stops no other; anything else is an InputError."""
    from edgeasd.runtime.config import check_config, read_config

    site = read_config(config)
    report = check_config(site)
    if report.fatal is not None:
        count = len(report.problems)
        more = f" (and {count - 1} more: pass --check to see them)" if count > 1 else ""
        raise InputError(f"{config}: {report.fatal}{more}")
    for problem in report.problems:
        print_error(f"{config}: {problem}")
    return site


def _summary(report: ConfigReport) -> str:
    lines = [f"site {report.site}, data in {report.data}"]
    for one in report.streams:
        limit = "no threshold, no alarms" if one.threshold is None else f"alarm above {one.threshold:.4f}"
        engine = f"{one.precision} on {one.engine}, {one.accelerator}"
        lines.append(f"  {one.name}: {one.machine} ID {one.id} from {one.source} ({one.paced}); {engine}; {limit}")
    for name, kind in report.outputs.items():
        lines.append(f"  output {name}: {kind}")
    return "\n".join(lines)


def serve(config: Path, sink: Callable[[], Any]) -> None:
    """Run the service until every stream has ended, or SIGTERM or Ctrl-C; `sink` opens where records go."""
    from edgeasd.runtime.service.finding import tell_nobody
    from edgeasd.runtime.service.jsonl_records import RecordWriter
    from edgeasd.runtime.service.service import Service
    from edgeasd.runtime.service.systemd import Notifier
    from edgeasd.runtime.sources import kill_commands

    site, notifier = _open_site(config), Notifier()
    with sink() as out:
        writer = None if out is None else RecordWriter(out)
        service = Service(site, writer.put if writer else tell_nobody, print_error)
        service.lost_lines = lambda: 0 if writer is None else writer.lost
        with _signals() as asked:
            reason = "error"
            try:
                service.start()
                reason = _watch(service, site, asked, notifier, None if out is sys.stdout else sys.stdout, writer)
            finally:
                whole = _end(service, writer, reason, asked)
        if not whole:
            print_error("a thread had to be left behind; what outputs could not deliver waits in the data folder")
            if out is not sys.stdout:  # whose reader may be what holds everything up
                sys.stdout.flush()
            # Nothing is left to run at the end on the spot that would give a command a second to end.
            kill_commands()
            # It may be deep in a library that does not bear the interpreter's end; all files are closed.
            os._exit(INTERRUPTED if asked.interrupted else 0)
        if writer is not None and writer.failure is not None:
            raise writer.failure
    if asked.interrupted:
        raise KeyboardInterrupt
    if reason == END_OF_SOUND and (failed := service.fleet.berths.failures()):
        raise InputError("; ".join(failed))


def _end(service: Service, writer: RecordWriter | None, reason: str, asked: _Asked) -> bool:
    """Stop the service and write down what is left; False where a thread had to be left behind."""
    from edgeasd.runtime.service.service import END_SECONDS

    until, hurried = time.monotonic() + END_SECONDS, reason != END_OF_SOUND
    if writer is None:
        return service.stop(reason)
    writer.closing = hurried
    whole = service.stop(reason)
    written = writer.close(max(0.3, until - time.monotonic()))
    # At the end of files nobody waits for the service: they are to have all of their records.
    while not (written or hurried or asked.to_end):
        written = writer.close(_POLL_SECONDS)
    return whole and written


class _Asked:
    """What signals have asked for.

    A handler runs in the middle of whatever the main thread does, so it may take no lock that the main thread may
    hold; an Event has one, the `put` of a SimpleQueue has none.
    """

    def __init__(self) -> None:
        self.interrupted, self.to_end, self.to_reload = False, False, False
        self.reloading = False
        self._wake: SimpleQueue[None] = SimpleQueue()

    def wake(self) -> None:
        """Something was asked for. To be called by handlers."""
        self._wake.put(None)

    def wait(self, seconds: float) -> None:
        """Until something is asked for, or for so long."""
        with suppress(Empty):
            self._wake.get(timeout=seconds)


@contextmanager
def _signals() -> Iterator[_Asked]:
    asked = _Asked()

    def end(number: int, _: object) -> None:
        asked.interrupted, asked.to_end = number == signal.SIGINT, True
        asked.wake()

    def reload(*_: object) -> None:
        asked.to_reload = True
        asked.wake()

    handlers: dict[signal.Signals, Any] = {signal.SIGTERM: end, signal.SIGINT: end, signal.SIGHUP: reload}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(
    service: Service,
    site: ServiceConfig,
    asked: _Asked,
    notifier: Notifier,
    out: TextIO | None,
    writer: RecordWriter | None,
) -> str:
    """Look after the running service; returns why it ends."""
    from edgeasd.runtime.service.view import SiteView

    view, said = (None if out is None else SiteView(out)), False
    try:
        while service.poll():
            asked.wait(_POLL_SECONDS)
            if asked.to_end:
                return "Ctrl-C" if asked.interrupted else "SIGTERM"
            if asked.to_reload:
                asked.to_reload = False
                notifier.reloading()
                service.reload()
                asked.reloading = True
            if writer is not None and writer.failure is not None:
                return "records cannot be written"
            now = time.monotonic()
            if service.loaded.is_set() and not said:
                said = True
                notifier.ready(f"{site.name}: {len(site.streams)} streams")
            if asked.reloading and not service.reloading:
                asked.reloading = False
                notifier.ready(f"{service.site.name}: {len(service.site.streams)} streams")
            if service.healthy(now):
                notifier.alive(now)
            if view is not None:
                view.draw(service.state(), now)
        return END_OF_SOUND
    finally:
        notifier.stopping()
        if view is not None:
            view.close(service.state())
