"""Metrics for Prometheus, from the messages that pass and the states of the outputs; served by a small web server."""

from __future__ import annotations

import errno
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from http.server import ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

from prometheus_client import CollectorRegistry, MetricsHandler
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from edgeasd.runtime.errors import DeviceError
from edgeasd.runtime.outputs.base import OutputState
from edgeasd.runtime.outputs.settings import PrometheusSettings, split_address
from edgeasd.runtime.system.version import package_version

PATH = "/metrics"
SECONDS = 5.0
"""A visitor must send its request and take the answer in pieces that each take less."""
MOST_VISITORS = 32
RETRY_SECONDS = 5.0

_log = logging.getLogger(__name__)

_MACHINE = ("machine", "id")
_STREAM_STATES = ("starting", "running", "degraded", "failed", "stopped")
_ALARM_STATES = ("normal", "warning", "alarm", "acknowledged", "cleared")

_GAUGES: dict[str, tuple[str, str, str]] = {
    "edgeasd_clip_score": ("score", "last", "Last clip score of the last summary."),
    "edgeasd_clip_score_highest": ("score", "highest", "Highest clip score of the last summary."),
    "edgeasd_clip_score_threshold": ("score", "threshold", "Clip scores above this are suspicious."),
    "edgeasd_input_unhealthy": ("health", "unhealthy", "1 while the input cannot be trusted or is not there."),
    "edgeasd_input_level_dbfs": ("health", "level_dbfs", "RMS level in decibels relative to full scale."),
    "edgeasd_maintenance": ("event", "maintenance", "1 in maintenance mode."),
    "edgeasd_snoozed_seconds": (
        "event",
        "snoozed_seconds",
        "How much longer alarms were snoozed, as the last event said.",
    ),
    "edgeasd_audio_waiting_seconds": ("status", "waiting_seconds", "Sound that waits to be scored."),
}
"""Gauges of a machine: kind of message, field of its body, help."""
_COUNTERS: dict[str, tuple[str, str]] = {
    "edgeasd_segments_scored": ("segments", "Segments scored since the start."),
    "edgeasd_segments_skipped": ("skipped_segments", "Segments left out because scoring could not keep up."),
    "edgeasd_audio_dropped_seconds": ("dropped_seconds", "Sound lost before scoring."),
    "edgeasd_audio_overruns": ("overruns", "Times at which the driver's own buffer ran over."),
}
"""Counters of a machine, from its status messages."""
_OUTPUTS: dict[str, tuple[Any, str, str]] = {
    "edgeasd_output_connected": (GaugeMetricFamily, "connected", "1 if the last attempt reached the receiver."),
    "edgeasd_output_queued_messages": (GaugeMetricFamily, "queued", "Messages that the receiver has not confirmed."),
    "edgeasd_output_queued_bytes": (GaugeMetricFamily, "queued_bytes", "Their size in the outbox."),
    "edgeasd_output_oldest_message_seconds": (GaugeMetricFamily, "oldest_seconds", "Age of the oldest of them."),
    "edgeasd_output_delivered_messages": (CounterMetricFamily, "delivered", "Messages that the receiver confirmed."),
    "edgeasd_output_failures": (CounterMetricFamily, "failed", "Attempts that failed."),
}
"""Figures of each output: family, field of `OutputState`, help."""


class MetricsPage:
    """Remembers the last message of each kind for each machine, and writes the page when it is asked for."""

    def __init__(
        self, name: str, settings: PrometheusSettings, site: str, outputs: Callable[[], list[OutputState]]
    ) -> None:
        """`outputs` gives the states of all outputs. Raises DeviceError if the address cannot be listened on."""
        self._name, self._site, self._outputs = name, site, outputs
        self._lock = threading.Lock()
        self._last: dict[tuple[str, str, str], Mapping[str, Any]] = {}
        self._alarms: dict[tuple[str, str], tuple[int, int]] = {}
        """Alarms and tests raised."""
        self._pages = 0
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        self._server = _PageServer(*split_address(settings.address), PageHandler.factory(registry))

    @property
    def address(self) -> tuple[str, int]:
        """Host and port in use."""
        return self._server.address

    def start(self) -> None:
        """Begin to answer."""
        self._server.start()

    def close(self) -> None:
        """Stop answering."""
        self._server.close()

    def observe(self, message: Mapping[str, Any], *, is_new: bool = True) -> None:
        """Take in a message; costs about a microsecond. One that is not new raises no count."""
        if message["machine"] is None:
            return
        machine, body = (message["machine"], message["id"]), message["body"]
        kind = "status" if message["kind"] in ("start", "stop") else message["kind"]
        with self._lock:
            # What a status leaves out is unchanged.
            before = self._last.get((machine[0], machine[1], kind), {}) if kind == "status" else {}
            self._last[machine[0], machine[1], kind] = {**before, **body}
            alarms, tests = self._alarms.get(machine, (0, 0))
            if is_new and kind == "event":
                alarms += body["state"] == "alarm" != body["previous"] and not body["test"]
                tests += body["reason"] == "test"
            self._alarms[machine] = (alarms, tests)

    def remove_machine(self, machine: str, id: str) -> None:
        """Leave a machine out until it has a message again: old values would be taken for new ones."""
        with self._lock:
            self._last = {key: body for key, body in self._last.items() if key[:2] != (machine, id)}
            self._alarms.pop((machine, id), None)

    def state(self) -> OutputState:
        """As of every output; it has no messages."""
        return OutputState(
            name=self._name,
            type="prometheus",
            connected=None,
            delivered=self._pages,
            last_error=self._server.warning,
        )

    def collect(self) -> Iterator[Metric]:
        """All families, in the order of the page; called by prometheus_client for each page."""
        with self._lock:
            self._pages += 1
            last, alarms = dict(self._last), dict(self._alarms)
        yield _build_info(self._site)
        yield from _of_machines(last)
        yield from _raised(alarms)
        yield from _of_outputs(self._outputs())


class PageHandler(MetricsHandler):
    """Answers GET and HEAD of /metrics only."""

    timeout = SECONDS
    server_version, sys_version = "edgeasd", ""

    def do_GET(self) -> None:
        """Answer with the page."""
        if self._is_page():
            try:
                super().do_GET()
            except OSError:
                raise
            except Exception as error:  # the page must not end the service
                self.send_error(500, type(error).__name__)

    def do_HEAD(self) -> None:
        """Answer as for GET, without the page."""
        if self._is_page():
            self.send_response(200)
            self.end_headers()

    def end_headers(self) -> None:
        """Add what every answer has."""
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def _is_page(self) -> bool:
        is_page = self.path.partition("?")[0] == PATH
        if not is_page:
            self.send_error(404, f"metrics are at {PATH}")
        return is_page


class _HttpServer(ThreadingHTTPServer):
    """A thread for each visitor; when there are too many, the oldest visitor is disconnected."""

    request_queue_size = 64
    daemon_threads = True

    def __init__(self, family: int, address: tuple[str, int], handler: type) -> None:
        self.address_family = family
        self._visitors: dict[int, socket.socket] = {}
        super().__init__(address, handler)

    def server_bind(self) -> None:
        # Not that of HTTPServer, which asks the name server for the name of the address.
        TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        if len(self._visitors) >= MOST_VISITORS:
            # Forgotten at once: its thread may take a while to end, and the next visitor must put out another.
            with suppress(OSError, StopIteration, KeyError):
                self._visitors.pop(next(iter(self._visitors))).shutdown(socket.SHUT_RDWR)
        self._visitors[id(request)] = request
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._visitors.pop(id(request), None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A visitor that leaves early is no error of ours."""


class _PageServer:
    """Listens on an address; tries again later if this machine does not have the address yet."""

    def __init__(self, host: str, port: int, handler: type) -> None:
        self._handler, self.address = handler, (host, port)
        self.warning: str | None = None
        """Why there are no answers."""
        self._closed = threading.Event()
        self._http: _HttpServer | None = None
        self._thread = threading.Thread(target=self._run, name="edgeasd-metrics", daemon=True)
        try:
            self._listen()
        except (OSError, UnicodeError) as error:
            why = (getattr(error, "strerror", None) or str(error)).partition(" (")[0]
            if getattr(error, "errno", None) != errno.EADDRNOTAVAIL:
                raise DeviceError(f"metrics on {host}:{port}: {why}; choose another address or port") from None
            # A device may be up before its network is.
            self.warning = f"{host} is not an address of this machine yet; trying again"
            _log.warning("metrics on %s:%d: %s", host, port, self.warning)

    def _listen(self) -> None:
        host, port = self.address
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        self._http = _HttpServer(found[0], (str(found[4][0]), int(found[4][1])), self._handler)
        self.address = (host, self._http.server_address[1])
        self.warning = None

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        if self._http is not None and self._thread.is_alive():
            self._http.shutdown()
        if self._http is not None:
            self._http.server_close()

    def _run(self) -> None:
        while self._http is None:
            if self._closed.wait(RETRY_SECONDS):
                return
            with suppress(OSError):
                self._listen()
        if not self._closed.is_set():
            self._http.serve_forever(0.1)


def _build_info(site: str) -> Metric:
    family = GaugeMetricFamily("edgeasd_build_info", "Always 1; the version and the site.", labels=("version", "site"))
    family.add_metric((package_version(), site), 1.0)
    return family


def _of_machines(last: Mapping[tuple[str, str, str], Mapping[str, Any]]) -> Iterator[Metric]:
    def bodies(kind: str) -> list[tuple[tuple[str, str], Mapping[str, Any]]]:
        return [((machine, id), body) for (machine, id, of), body in sorted(last.items()) if of == kind]

    def filled(family: Any, kind: str, field: str) -> Metric:
        for labels, body in bodies(kind):
            if isinstance(body.get(field), bool | int | float):
                family.add_metric(labels, float(body[field]))
        return family

    for name, (kind, field, text) in _GAUGES.items():
        yield filled(GaugeMetricFamily(name, text, labels=_MACHINE), kind, field)
    for name, (field, text) in _COUNTERS.items():
        yield filled(CounterMetricFamily(name, text, labels=_MACHINE), "status", field)
    stream = GaugeMetricFamily("edgeasd_stream_state", "1 for the state it is in.", labels=(*_MACHINE, "state"))
    for labels, body in bodies("status"):
        for state in _STREAM_STATES:
            stream.add_metric((*labels, state), float(body.get("state") == state))
    yield stream
    alarm = GaugeMetricFamily("edgeasd_alarm_state", "1 for the state it is in.", labels=(*_MACHINE, "state"))
    for labels, body in bodies("event"):
        for state in _ALARM_STATES:
            alarm.add_metric((*labels, state), float(body.get("state") == state))
    yield alarm
    operating = GaugeMetricFamily(
        "edgeasd_operating_state", "1 for what the machine is doing.", labels=(*_MACHINE, "state")
    )
    hours = CounterMetricFamily(
        "edgeasd_operating_seconds",
        "How long the machine was in each state, since the start.",
        labels=(*_MACHINE, "state"),
    )
    for labels, body in bodies("status"):
        seconds = body.get("operating_seconds") or {}
        present = body.get("operating_state")
        for state in sorted({*seconds, *([present] if present else [])}):
            operating.add_metric((*labels, state), float(state == present))
            hours.add_metric((*labels, state), float(seconds.get(state, 0.0)))
    yield operating
    yield hours
    health = GaugeMetricFamily("edgeasd_input_state", "1 while it is active.", labels=(*_MACHINE, "state"))
    for labels, body in bodies("health"):
        for state, figures in body["states"].items():
            health.add_metric((*labels, state), float(bool(figures.get("active"))))
    yield health
    latency = GaugeMetricFamily(
        "edgeasd_score_latency_seconds", "From the last sample to the score.", labels=(*_MACHINE, "quantile")
    )
    for labels, body in bodies("status"):
        for point, value in (body.get("latency_seconds") or {}).items():
            if isinstance(value, int | float) and point in ("p50", "p95", "p99"):
                latency.add_metric((*labels, f"0.{point[1:]}"), float(value))
    yield latency


def _raised(counts: Mapping[tuple[str, str], tuple[int, int]]) -> Iterator[Metric]:
    real = CounterMetricFamily("edgeasd_alarms", "Alarms raised since the start, tests left out.", labels=_MACHINE)
    tests = CounterMetricFamily("edgeasd_test_alarms", "Alarms of tests since the start.", labels=_MACHINE)
    for labels, (alarms, tested) in sorted(counts.items()):
        real.add_metric(labels, float(alarms))
        tests.add_metric(labels, float(tested))
    yield real
    yield tests


def _of_outputs(states: list[OutputState]) -> Iterator[Metric]:
    queued = [state for state in states if state.type != "prometheus"]
    for name, (make, field, text) in _OUTPUTS.items():
        family = make(name, text, labels=("output",))
        for state in queued:
            if (value := getattr(state, field)) is not None:  # not tried yet
                family.add_metric((state.name,), float(value))
        yield family
    dropped = CounterMetricFamily(
        "edgeasd_output_dropped_messages",
        "Messages dropped: too many, too old, or rejected for good.",
        labels=("output", "kind"),
    )
    for state in queued:
        for kind_of, count in sorted(state.dropped.items()):
            dropped.add_metric((state.name, kind_of), float(count))
    yield dropped
