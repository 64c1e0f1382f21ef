"""All outputs of a device: opens them, starts a worker for each, and reports their states."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgeasd.runtime.alarms.command import Command
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.outputs.base import Output, OutputState
from edgeasd.runtime.outputs.jsonl import JsonlOutput
from edgeasd.runtime.outputs.settings import (
    JsonlSettings,
    MqttSettings,
    OutputSettings,
    PrometheusSettings,
    WebhookSettings,
)
from edgeasd.runtime.outputs.worker import OutputWorker
from edgeasd.runtime.storage.outbox import Outbox
from edgeasd.runtime.system.clocks import Backoff

if TYPE_CHECKING:
    from edgeasd.runtime.outputs.mqtt import MqttOutput
    from edgeasd.runtime.outputs.prometheus import MetricsPage

CommandHandler = Callable[[str, str, Command], None]
"""Takes machine, ID and a command. The machine may be one of another device of the site. Called from a thread of an
output; must return at once."""
TagHandler = Callable[[str, bytes], None]
"""Takes a topic and what was published there. Called from a thread of an output; must return at once."""


class OutputManager:
    """The outputs of a site. Messages come from the outbox; pages and brokers that show states get them here."""

    def __init__(
        self,
        settings: Mapping[str, OutputSettings],
        outbox: Outbox,
        *,
        site: str,
        device: str | None = None,
        on_command: CommandHandler | None = None,
        tag_topics: Sequence[str] = (),
        on_tag: TagHandler | None = None,
    ) -> None:
        """`device` is the name of this device, by default its host name. `tag_topics` are read through every broker.

        Raises InputError if settings, secrets or certificates are wrong or a package is missing, and DeviceError
        if the address of the metrics cannot be listened on. Then nothing is left open.
        """
        device = device or socket.gethostname()
        self._outbox = outbox
        self._workers: list[OutputWorker] = []
        self._brokers: list[MqttOutput] = []
        self._pages: list[MetricsPage] = []
        self._closed, self._tags = False, (tuple(tag_topics), on_tag)
        try:
            for name, chosen in settings.items():
                if isinstance(chosen, PrometheusSettings):
                    self._pages.append(_page_class()(name, chosen, site, self.state))
                    continue
                output = self._open(name, chosen, site, device, outbox.store_id, on_command)
                backoff = Backoff(chosen.retry_first_seconds, chosen.retry_longest_seconds)
                self._workers.append(OutputWorker(name, chosen.type, output, outbox, chosen.kinds, backoff))
        except BaseException:
            for page in self._pages:
                page.close()
            raise

    def _open(
        self,
        name: str,
        settings: OutputSettings,
        site: str,
        device: str,
        store_id: str,
        on_command: CommandHandler | None,
    ) -> Output:
        if isinstance(settings, MqttSettings):
            client_id = settings.client_id or f"edgeasd-{store_id[:12]}-{name}"
            broker = _broker_class()(settings, site, device, client_id, on_command, *self._tags)
            self._brokers.append(broker)
            return broker
        return _open_output(settings)

    def start(self) -> None:
        """Begin to deliver, first what an earlier process has left."""
        self._outbox.register({worker.name: worker.kinds for worker in self._workers})
        for worker in self._workers:
            worker.start()
        for page in self._pages:
            page.start()

    def observe(self, message: Mapping[str, Any], *, replay: bool = False) -> None:
        """Show a message on the pages of metrics. A `replay` is not counted as a new alarm."""
        for page in self._pages:
            page.observe(message, is_new=not replay)

    def set_retained_state(self, machine: str, id: str, body: Mapping[str, Any]) -> None:
        """Show the alarm state of a machine from before the start, or of one without an event.

        `body` is that of its last event, or the fields of one that are known. No message is sent. A later event
        replaces it.
        """
        for page in self._pages:
            page.observe({"kind": "event", "machine": machine, "id": id, "body": body}, is_new=False)
        for broker in self._brokers:
            broker.set_retained_state(machine, id, body)

    def remove_machine(self, machine: str, id: str) -> None:
        """Remove a machine from the pages of metrics. Its messages, and what brokers retain, stay."""
        for page in self._pages:
            page.remove_machine(machine, id)

    def state(self) -> list[OutputState]:
        """How each output is doing."""
        return [worker.state() for worker in self._workers] + [page.state() for page in self._pages]

    @property
    def metrics_addresses(self) -> list[tuple[str, int]]:
        """Host and port of each page of metrics."""
        return [page.address for page in self._pages]

    def close(self, seconds: float = 2.0) -> bool:
        """Deliver what can be delivered within `seconds`, and stop. The rest stays in the outbox.

        Returns False if a thread still waits for its receiver; it ends with its attempt.
        """
        if self._closed:
            return True
        self._closed = True
        # A tenth is left for disconnecting.
        until = time.monotonic() + 0.9 * seconds
        for worker in self._workers:
            worker.end(until)
        ended = [worker.join(until + 0.1 * seconds) for worker in self._workers]
        for page in self._pages:
            page.close()
        return all(ended)

    def __enter__(self) -> OutputManager:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_output(settings: OutputSettings, site: str) -> None:
    """Raise what opening an output would raise, without listening or connecting."""
    if isinstance(settings, PrometheusSettings):
        _page_class()
    elif isinstance(settings, MqttSettings):
        _broker_class()(settings, site, "device", "client", None)
    else:
        _open_output(settings)


def _open_output(settings: OutputSettings) -> Output:
    if isinstance(settings, JsonlSettings):
        return JsonlOutput(settings)
    assert isinstance(settings, WebhookSettings)
    try:
        from edgeasd.runtime.outputs.webhook import WebhookOutput
    except ModuleNotFoundError as error:
        raise _missing("webhook", error) from None
    return WebhookOutput(settings)


def _broker_class() -> type[MqttOutput]:
    try:
        from edgeasd.runtime.outputs.mqtt import MqttOutput
    except ModuleNotFoundError as error:
        raise _missing("mqtt", error) from None
    return MqttOutput


def _page_class() -> type[MetricsPage]:
    try:
        from edgeasd.runtime.outputs.prometheus import MetricsPage
    except ModuleNotFoundError as error:
        raise _missing("prometheus", error) from None
    return MetricsPage


def _missing(kind: str, error: ModuleNotFoundError) -> InputError:
    return InputError(
        f"output of type {kind}: needs {error.name}, which is not installed; pip install 'edgeasd[serve]'"
    )
