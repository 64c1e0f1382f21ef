"""Metrics for Prometheus, taken from the messages that pass and the state of the outputs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from edgeasd.runtime.outputs.addresses import split_address
from edgeasd.runtime.outputs.scrape import PageServer
from edgeasd.runtime.outputs.settings import PrometheusSettings
from edgeasd.runtime.outputs.state import OutputState

_MACHINE = ("machine", "id")
STREAM_STATES = ("starting", "running", "degraded", "failed", "stopped")
ALARM_STATES = ("normal", "warning", "alarm", "acknowledged", "cleared")

GAUGES: dict[str, tuple[str, str, str]] = {
    "edgeasd_clip_score": ("score", "last", "Last clip score of the last summary."),
    "edgeasd_clip_score_highest": ("score", "highest", "Highest clip score of the last summary."),
    "edgeasd_clip_score_threshold": ("score", "threshold", "Clip scores above this are suspicious."),
    "edgeasd_input_sick": ("health", "sick", "1 while the input is too sick to be judged."),
    "edgeasd_input_level_dbfs": ("health", "level_dbfs", "RMS level in decibels relative to full scale."),
    "edgeasd_maintenance": ("event", "maintenance", "1 in maintenance mode."),
    "edgeasd_snoozed_seconds": ("event", "snoozed_seconds", "How much longer alarms were snoozed, when last said."),
    "edgeasd_audio_waiting_seconds": ("status", "waiting_seconds", "Sound that waits to be scored."),
}
"""Gauges of a machine: kind of message, field of its body, help."""
COUNTERS: dict[str, tuple[str, str]] = {
    "edgeasd_segments_scored": ("segments", "Segments scored since the start."),
    "edgeasd_segments_skipped": ("skipped_segments", "Segments left out because scoring could not keep up."),
    "edgeasd_audio_dropped_seconds": ("dropped_seconds", "Sound lost before scoring."),
    "edgeasd_audio_overruns": ("overruns", "Times at which the driver's own buffer ran over."),
}
"""Counters of a machine, from its status messages."""
OUTPUTS: dict[str, tuple[Any, str, str]] = {
    "edgeasd_output_connected": (GaugeMetricFamily, "connected", "1 where the last attempt reached the receiver."),
    "edgeasd_output_queued_messages": (GaugeMetricFamily, "queued", "Messages that the receiver has not confirmed."),
    "edgeasd_output_queued_bytes": (GaugeMetricFamily, "queued_bytes", "Their size in the queue on disk."),
    "edgeasd_output_oldest_message_seconds": (GaugeMetricFamily, "oldest_seconds", "Age of the oldest of them."),
    "edgeasd_output_delivered_messages": (CounterMetricFamily, "delivered", "Messages that the receiver confirmed."),
    "edgeasd_output_failures": (CounterMetricFamily, "failed", "Attempts that failed."),
}
"""Figures of each output: family, field of `OutputState`, help."""


class MetricsPage:
    """Remembers the last of each kind of message, and writes the page when it is asked for."""

    def __init__(
        self, name: str, settings: PrometheusSettings, site: str, outputs: Callable[[], list[OutputState]]
    ) -> None:
        """Listens at once, answers after `start`. Raises DeviceError where the address cannot be listened on."""
        self._name, self._site, self._outputs = name, site, outputs
        self._lock = threading.Lock()
        self._last: dict[tuple[str, str, str], Mapping[str, Any]] = {}
        self._alarms: dict[tuple[str, str], tuple[int, int]] = {}
        """Alarms and tests raised."""
        self._pages = 0
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        self._server = PageServer(*split_address(settings.address), self._page)
        self.address = self._server.address
        """Host and port in use."""

    def start(self) -> None:
        """Begin to answer."""
        self._server.start()

    def close(self) -> None:
        """Stop answering."""
        self._server.close()

    def see(self, message: Mapping[str, Any], *, new: bool = True) -> None:
        """Take in a message; costs about a microsecond. One that is not `new` raises no count."""
        if message["machine"] is None:
            return
        machine, body = (message["machine"], message["id"]), message["body"]
        kind = "status" if message["kind"] in ("start", "stop") else message["kind"]
        with self._lock:
            # What a status leaves out is as it was.
            before = self._last.get((machine[0], machine[1], kind), {}) if kind == "status" else {}
            self._last[machine[0], machine[1], kind] = {**before, **body}
            alarms, tests = self._alarms.get(machine, (0, 0))
            if new and kind == "event":
                alarms += body["state"] == "alarm" != body["previous"] and not body["test"]
                tests += body["reason"] == "test"
            self._alarms[machine] = (alarms, tests)

    def forget(self, machine: str, id: str) -> None:
        """Leave a machine out until there is a message of it again: old figures would be taken for new ones."""
        with self._lock:
            self._last = {key: body for key, body in self._last.items() if key[:2] != (machine, id)}
            self._alarms.pop((machine, id), None)

    def state(self) -> OutputState:
        """As of every output; it has no queue."""
        warning = None if self._pages else self._server.warning
        return OutputState(
            name=self._name, type="prometheus", connected=None, delivered=self._pages, last_error=warning
        )

    def _page(self) -> tuple[str, bytes]:
        self._pages += 1
        return CONTENT_TYPE_LATEST, generate_latest(self._registry)

    # As prometheus_client asks for it

    def collect(self) -> Iterator[Metric]:
        """All families, in the order of the page."""
        with self._lock:
            last, alarms = dict(self._last), dict(self._alarms)
        yield _build_info(self._site)
        yield from _of_machines(last)
        yield from _raised(alarms)
        yield from _of_outputs(self._outputs())


def _build_info(site: str) -> Metric:
    try:
        running = version("edgeasd")
    except PackageNotFoundError:
        running = "unknown"
    family = GaugeMetricFamily("edgeasd_build_info", "Always 1; the version and the site.", labels=("version", "site"))
    family.add_metric((running, site), 1.0)
    return family


def _of_machines(last: Mapping[tuple[str, str, str], Mapping[str, Any]]) -> Iterator[Metric]:
    def bodies(kind: str) -> list[tuple[tuple[str, str], Mapping[str, Any]]]:
        return [((machine, id), body) for (machine, id, of), body in sorted(last.items()) if of == kind]

    def filled(family: Any, kind: str, field: str) -> Metric:
        for labels, body in bodies(kind):
            if isinstance(body.get(field), bool | int | float):
                family.add_metric(labels, float(body[field]))
        return family

    for name, (kind, field, text) in GAUGES.items():
        yield filled(GaugeMetricFamily(name, text, labels=_MACHINE), kind, field)
    for name, (field, text) in COUNTERS.items():
        yield filled(CounterMetricFamily(name, text, labels=_MACHINE), "status", field)
    stream = GaugeMetricFamily("edgeasd_stream_state", "1 for the state it is in.", labels=(*_MACHINE, "state"))
    for labels, body in bodies("status"):
        for state in STREAM_STATES:
            stream.add_metric((*labels, state), float(body.get("state") == state))
    yield stream
    alarm = GaugeMetricFamily("edgeasd_alarm_state", "1 for the state it is in.", labels=(*_MACHINE, "state"))
    for labels, body in bodies("event"):
        for state in ALARM_STATES:
            alarm.add_metric((*labels, state), float(body.get("state") == state))
    yield alarm
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
    for name, (make, field, text) in OUTPUTS.items():
        family = make(name, text, labels=("output",))
        for state in queued:
            if (value := getattr(state, field)) is not None:  # not tried yet
                family.add_metric((state.name,), float(value))
        yield family
    dropped = CounterMetricFamily(
        "edgeasd_output_dropped_messages", "Messages given up since the queue was made.", labels=("output", "kind")
    )
    for state in queued:
        for kind_of, count in sorted(state.dropped.items()):
            dropped.add_metric((state.name, kind_of), float(count))
    yield dropped
