"""All outputs of a box behind one `put`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.outputs.backoff import Backoff
from edgeasd.runtime.outputs.jsonl import JsonlSink
from edgeasd.runtime.outputs.lane import Lane
from edgeasd.runtime.outputs.messages import encode
from edgeasd.runtime.outputs.notices import tell_no_one
from edgeasd.runtime.outputs.queue import Limits, Queue
from edgeasd.runtime.outputs.settings import (
    JsonlSettings,
    MqttSettings,
    OutputSettings,
    PrometheusSettings,
    WebhookSettings,
)
from edgeasd.runtime.outputs.sink import Entry, Sink
from edgeasd.runtime.outputs.state import OutputState
from edgeasd.runtime.outputs.webhook import WebhookSink

if TYPE_CHECKING:
    from edgeasd.runtime.outputs.metrics import MetricsPage

CommandHandler = Callable[[str, str, dict[str, Any]], None]
"""Given machine, ID and a command as `parse_payload` returns it: the machine may be one of another box of the site,
or none, and the command any word. It is called from a thread of an output, and must return at once."""


class Outputs:
    """Takes messages and brings each to every output that wants its kind."""

    def __init__(
        self,
        settings: Mapping[str, OutputSettings],
        folder: Path,
        *,
        site: str,
        box: str | None = None,
        on_command: CommandHandler | None = None,
        log: Callable[[str], None] = tell_no_one,
    ) -> None:
        """`folder` is where the queues are; `box` the name of this device, its host name by default; `log` takes one
        line for people where an output begins to fail and where it delivers again, from a thread of that output.

        Begins to deliver at once, first what an earlier process has left. Raises InputError for what is wrong
        with the settings, the folder, a secret or a certificate, or where a package is missing; DeviceError
        where the address of the metrics cannot be listened on. Then nothing has been started.
        """
        self._closed = False
        self._lanes: list[Lane] = []
        self._pages: list[MetricsPage] = []
        queues: list[Queue] = []
        started: list[Lane] = []
        try:
            for name, chosen in settings.items():
                if isinstance(chosen, PrometheusSettings):
                    self._pages.append(_open_page(name, chosen, site, self.state))
                    continue
                sink = _open_sink(chosen, site, box, on_command)
                limits = Limits(
                    int(chosen.queue_megabytes * 1e6), chosen.queue_hours * 3600.0, chosen.queue_event_hours * 3600.0
                )
                queues.append(Queue(Path(folder) / f"{name}.queue.db", limits))
                backoff = Backoff(chosen.retry_first_seconds, chosen.retry_longest_seconds)
                self._lanes.append(Lane(name, chosen.type, sink, queues[-1], chosen.kinds, backoff, log))
            for lane in self._lanes:
                lane.start()
                started.append(lane)
            for page in self._pages:
                page.start()
        except BaseException:
            for lane in started:
                lane.end(time.monotonic())
                lane.close(time.monotonic() + 1.0)
            for queue in queues:
                queue.close()
            for page in self._pages:
                page.close()
            raise

    def put(self, message: Mapping[str, Any], *, again: bool = False) -> Ticket:
        """Take a message; costs some tens of microseconds, whatever disk and network do.

        `again`: an earlier process may have put it, so the page of metrics does not count it as new. It is safe
        from a crash of this process once `Ticket.wait` says so. Raises InputError for what is no message (see
        `make_message`).
        """
        entry = _entry(message, encode(message))
        for page in self._pages:
            page.see(message, new=not again)
        return Ticket([(lane, lane.put(entry)) for lane in self._lanes if entry.kind in lane.kinds])

    def last_event(self, machine: str, id: str, begin: int) -> int:
        """Number of the last transition of a machine that every output has on disk.

        Ask at the start, with the number of the last one in the event store as `begin`, and put all that follow:
        those that a crash has kept from an output reach it then, and an output that had one before passes it
        over. An output that has just been set up begins after `begin`.
        """
        lanes = [lane for lane in self._lanes if "event" in lane.kinds]
        return min([lane.begin_events(machine, id, begin) for lane in lanes], default=begin)

    def highest_event(self, machine: str, id: str) -> int:
        """Number of the last transition of a machine that any output has ever had; 0 where none had one."""
        lanes = [lane for lane in self._lanes if "event" in lane.kinds]
        return max([lane.last_event(machine, id) for lane in lanes], default=0)

    def remember(self, message: Mapping[str, Any]) -> None:
        """Take in the last event of a machine, which every queue has had: what shows a state shows this one.

        Without it the page of metrics, and a broker that has forgotten, would not know of an alarm from before the
        start until it changes. Raises InputError for what is no message.
        """
        entry = _entry(message, encode(message))
        for page in self._pages:
            page.see(message, new=False)
        for lane in self._lanes:
            lane.remember(entry)

    def present(self, machine: str, id: str, body: Mapping[str, Any]) -> None:
        """Take in the state of a machine of which there is no event: what shows a state shows this one.

        `body` holds what is known of an event's. Nobody gets a message: there is no number for it.
        """
        for page in self._pages:
            page.see({"kind": "event", "machine": machine, "id": id, "body": body}, new=False)
        for lane in self._lanes:
            lane.remember(Entry("event", machine, id, json.dumps({"body": dict(body)})))

    def forget(self, machine: str, id: str) -> None:
        """A machine has gone for good: its figures leave the page of metrics. Messages and what brokers keep stay."""
        for page in self._pages:
            page.forget(machine, id)

    def state(self) -> list[OutputState]:
        """How each output is doing. Waits for nothing."""
        return [lane.state() for lane in self._lanes] + [page.state() for page in self._pages]

    @property
    def metrics_addresses(self) -> list[tuple[str, int]]:
        """Host and port of every page of metrics, as they are in use."""
        return [page.address for page in self._pages]

    def close(self, deadline: float = 2.0) -> bool:
        """Deliver what can be delivered within `deadline` seconds, and stop; what is left waits on disk.

        False where some thread had to be left behind, in an attempt that did not end in time.
        """
        if self._closed:
            return True
        self._closed = True
        # A tenth is left for good-byes and closing.
        until = time.monotonic() + 0.9 * deadline
        for lane in self._lanes:
            lane.end(until)
        ended = [lane.close(until + 0.1 * deadline) for lane in self._lanes]
        for page in self._pages:
            page.close()
        return all(ended)

    def __enter__(self) -> Outputs:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Ticket:
    """A message on its way to the queues."""

    def __init__(self, places: list[tuple[Lane, int]]) -> None:
        self._places = places

    def wait(self, seconds: float) -> bool:
        """Whether it came to disk in every queue within `seconds`, or had to be given up and was counted."""
        end = time.monotonic() + seconds
        return all(lane.wait(ticket, max(0.0, end - time.monotonic())) for lane, ticket in self._places)


def _entry(message: Mapping[str, Any], text: str) -> Entry:
    number = message["body"]["sequence"] if message["kind"] == "event" else None
    return Entry(message["kind"], message["machine"] or "", message["id"] or "", text, number)


def check_output(settings: OutputSettings, site: str) -> None:
    """Raise what opening an output would, as far as that can be known without listening or connecting."""
    if isinstance(settings, PrometheusSettings):
        _page_class()
        return
    _open_sink(settings, site, None, None)


def _open_sink(settings: OutputSettings, site: str, box: str | None, on_command: CommandHandler | None) -> Sink:
    if isinstance(settings, JsonlSettings):
        return JsonlSink(settings)
    if isinstance(settings, WebhookSettings):
        return WebhookSink(settings)
    assert isinstance(settings, MqttSettings)
    try:
        from edgeasd.runtime.outputs.mqtt import MqttSink
    except ModuleNotFoundError as error:
        raise _missing("mqtt", error) from None
    return MqttSink(settings, site, box, on_command)


def _open_page(
    name: str, settings: PrometheusSettings, site: str, outputs: Callable[[], list[OutputState]]
) -> MetricsPage:
    return _page_class()(name, settings, site, outputs)


def _page_class() -> type[MetricsPage]:
    try:
        from edgeasd.runtime.outputs.metrics import MetricsPage
    except ModuleNotFoundError as error:
        raise _missing("prometheus", error) from None
    return MetricsPage


def _missing(kind: str, error: ModuleNotFoundError) -> InputError:
    return InputError(
        f"output of type {kind}: needs {error.name}, which is not installed; pip install 'edgeasd[serve]'"
    )
