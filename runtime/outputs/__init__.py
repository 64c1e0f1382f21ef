"""Outputs of the service: files, MQTT brokers, webhooks, Prometheus. docs/how-to/outputs.md describes them."""

from __future__ import annotations

from edgeasd.runtime.outputs.base import OutputState
from edgeasd.runtime.outputs.manager import CommandHandler, OutputManager, check_output
from edgeasd.runtime.outputs.messages import KINDS, RECORD_KINDS, ScoreSummary, encode, make_message
from edgeasd.runtime.outputs.settings import (
    JsonlSettings,
    MqttSettings,
    OutputSettings,
    PrometheusSettings,
    WebhookSettings,
    outbox_limits,
    parse_outputs,
)

__all__ = [
    "KINDS",
    "RECORD_KINDS",
    "CommandHandler",
    "JsonlSettings",
    "MqttSettings",
    "OutputManager",
    "OutputSettings",
    "OutputState",
    "PrometheusSettings",
    "ScoreSummary",
    "WebhookSettings",
    "check_output",
    "encode",
    "make_message",
    "outbox_limits",
    "parse_outputs",
]
