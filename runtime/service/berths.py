"""How all the streams are doing, for whoever asks: views, status messages, the keeper, the end of the service."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgeasd.runtime.errors import EdgeasdError
from edgeasd.runtime.health import HealthReport
from edgeasd.runtime.service.berth import Berth, EngineKey, stream_state
from edgeasd.runtime.service.kept import Kept
from edgeasd.runtime.service.scoring import ScoringThread
from edgeasd.runtime.service.state import StreamState

_STATUS = (
    *("state", "reason", "source", "engine", "accelerator", "precision", "segments", "skipped_segments"),
    *("dropped_seconds", "overruns", "waiting_seconds", "latency_seconds", "level_dbfs"),
)
"""What of the state of a stream a status message holds."""


class Berths(dict[str, Berth]):
    """The berths by the names of their streams. Changed by one thread, and asked by any."""

    def __init__(self, engines: dict[EngineKey, ScoringThread], kept: Callable[[str], Kept | None]) -> None:
        """`kept` gives what is kept of a stream."""
        super().__init__()
        self._engines, self._kept = engines, kept

    def over(self) -> bool:
        """Whether every source has ended for good."""
        berths = list(self.values())
        return bool(berths) and all(berth.served is not None and berth.served.over for berth in berths)

    def hopeless(self) -> EdgeasdError | None:
        """The first error, where not one stream could be loaded."""
        berths = list(self.values())
        if any(berth.key is not None or berth.error is None for berth in berths):
            return None
        return next((berth.error for berth in berths), None)

    def failures(self) -> list[str]:
        """Of streams that ended with an error: name and reason."""
        found = [(name, berth.served) for name, berth in list(self.items())]
        return [f"{name}: {s.failure}" for name, s in found if s is not None and s.over and s.failure is not None]

    def sick(self, name: str) -> bool:
        """See `ServedStream.sick`."""
        berth = self.get(name)
        return berth is not None and berth.served is not None and berth.served.sick

    def health(self, name: str) -> HealthReport | None:
        """The latest report of a stream."""
        berth = self.get(name)
        return None if berth is None or berth.served is None else berth.served.report

    def identity(self, name: str) -> tuple[str, str] | None:
        """Machine and ID of a stream; "?" and its name where neither its bundle nor the site file has said them."""
        berth = self.get(name)
        if berth is None:
            return None
        if (kept := self._kept(name)) is not None:
            return kept.machine_type, kept.id
        if berth.served is not None:
            return berth.served.manifest.machine.type, berth.served.manifest.machine.id
        return berth.settings.machine or "?", berth.settings.id or name

    def status(self, name: str) -> dict[str, Any] | None:
        """The body of a status message."""
        berth = self.get(name)
        if berth is None:
            return None
        state = self._state(name, berth)
        return {field: getattr(state, field) for field in _STATUS}

    def states(self) -> list[StreamState]:
        """Every stream in the order of the site file."""
        return [self._state(name, berth) for name, berth in list(self.items())]

    def _state(self, name: str, berth: Berth) -> StreamState:
        engine = None if berth.key is None else self._engines.get(berth.key)
        return stream_state(name, berth, self._kept(name), engine)
