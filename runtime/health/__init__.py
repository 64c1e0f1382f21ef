"""Whether an input can be trusted: silence, clipping, offset, stuck sound, dropouts, a level out of range."""

from __future__ import annotations

from edgeasd.runtime.health.monitor import HealthMonitor
from edgeasd.runtime.health.report import HealthChange, HealthReport, StateReport
from edgeasd.runtime.health.settings import STATES, HealthSettings, LevelRange, level_range

__all__ = [
    "STATES",
    "HealthChange",
    "HealthMonitor",
    "HealthReport",
    "HealthSettings",
    "LevelRange",
    "StateReport",
    "level_range",
]
