"""The service: many streams of one site, scored together, with health, alarms, events and outputs. docs/how-to/service.md."""

from __future__ import annotations

from edgeasd.runtime.service.control import ask
from edgeasd.runtime.service.service import Service
from edgeasd.runtime.service.state import SiteState, StreamState

__all__ = ["Service", "SiteState", "StreamState", "ask"]
