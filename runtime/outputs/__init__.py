"""What the service says to the world: files, brokers, web servers, Prometheus. docs/how-to/outputs.md describes it."""

from __future__ import annotations

from edgeasd.runtime.outputs.hub import CommandHandler, Outputs, Ticket, check_output
from edgeasd.runtime.outputs.messages import KINDS, iso_time, make_message
from edgeasd.runtime.outputs.settings import (
    JsonlSettings,
    MqttSettings,
    OutputSettings,
    PrometheusSettings,
    WebhookSettings,
    parse_outputs,
)
from edgeasd.runtime.outputs.state import OutputState
from edgeasd.runtime.outputs.summary import ScoreSummary

__all__ = [
    "KINDS",
    "CommandHandler",
    "JsonlSettings",
    "MqttSettings",
    "OutputSettings",
    "OutputState",
    "Outputs",
    "PrometheusSettings",
    "ScoreSummary",
    "Ticket",
    "WebhookSettings",
    "check_output",
    "iso_time",
    "make_message",
    "parse_outputs",
]
