"""From clip scores to events: alarm machines, their settings, commands and transitions."""

from __future__ import annotations

from edgeasd.runtime.alarms.command import Command, parse_command
from edgeasd.runtime.alarms.machine import AlarmInput, AlarmMachine
from edgeasd.runtime.alarms.settings import SERVICE, AlarmSettings, Levels
from edgeasd.runtime.alarms.state import Event
from edgeasd.runtime.alarms.transition import Transition

__all__ = [
    "SERVICE",
    "AlarmInput",
    "AlarmMachine",
    "AlarmSettings",
    "Command",
    "Event",
    "Levels",
    "Transition",
    "parse_command",
]
