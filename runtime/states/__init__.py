"""What a machine is doing: running, off, idle, or in a mode of its own; and how its sound lies beside the recordings."""

from __future__ import annotations

from edgeasd.runtime.states.machine import OperatingState, StateInput, StateMachine
from edgeasd.runtime.states.monitor import OperationMonitor
from edgeasd.runtime.states.schedule import Schedule
from edgeasd.runtime.states.settings import IDLE, OFF, RUNNING, OperationSettings
from edgeasd.runtime.states.sound import ModeProfile, SoundProfile

__all__ = [
    "IDLE",
    "OFF",
    "RUNNING",
    "ModeProfile",
    "OperatingState",
    "OperationMonitor",
    "OperationSettings",
    "Schedule",
    "SoundProfile",
    "StateInput",
    "StateMachine",
]
