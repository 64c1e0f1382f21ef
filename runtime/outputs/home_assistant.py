"""Home Assistant's MQTT discovery: one retained configuration for each entity of a machine.

Source: https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from edgeasd.runtime.outputs.topics import Topics

_OPEN = "['alarm', 'acknowledged']"


def discovery(prefix: str, topics: Topics, machine: str, id: str, commands: bool) -> list[tuple[str, bytes]]:
    """(topic, payload) of every configuration of one machine."""
    node = _node(topics.site, machine, id)
    shared = {
        "availability_topic": topics.availability,
        "device": {
            "identifiers": [node],
            "name": f"{machine} {id}",
            "model": machine,
            "manufacturer": "edgeasd",
            "suggested_area": topics.site,
        },
        "origin": {"name": "edgeasd"},
    }
    configurations = []
    for component, entity, config in _entities(topics, machine, id, commands):
        config = {"unique_id": f"{node}_{entity}", "qos": 1, **config, **shared}
        topic = f"{prefix}/{component}/{node}/{entity}/config"
        configurations.append((topic, json.dumps(config, ensure_ascii=False).encode()))
    return configurations


def _entities(topics: Topics, machine: str, id: str, commands: bool) -> list[tuple[str, str, dict[str, Any]]]:
    state, score, health = (topics.of(machine, id, leaf) for leaf in ("state", "score", "health"))
    entities: list[tuple[str, str, dict[str, Any]]] = [
        (
            "binary_sensor",
            "alarm",
            {
                "name": "Alarm",
                "device_class": "problem",
                "state_topic": state,
                "value_template": f"{{{{ 'ON' if value_json.state in {_OPEN} else 'OFF' }}}}",
                "json_attributes_topic": state,
            },
        ),
        (
            "sensor",
            "state",
            {"name": "Alarm state", "state_topic": state, "value_template": "{{ value_json.state }}"},
        ),
        (
            "sensor",
            "clip_score",
            {
                "name": "Clip score",
                "state_class": "measurement",
                "state_topic": score,
                "value_template": "{{ value_json.body.last }}",
            },
        ),
        (
            "binary_sensor",
            "input",
            {
                "name": "Microphone",
                "device_class": "problem",
                "entity_category": "diagnostic",
                "state_topic": health,
                "value_template": "{{ 'ON' if value_json.body.unhealthy else 'OFF' }}",
            },
        ),
        (
            "sensor",
            "level",
            {
                "name": "Level",
                "unit_of_measurement": "dBFS",
                "state_class": "measurement",
                "entity_category": "diagnostic",
                "state_topic": health,
                "value_template": "{{ value_json.body.level_dbfs }}",
            },
        ),
    ]
    if commands:
        acknowledge = {"name": "Acknowledge", "payload_press": '{"command": "acknowledge", "by": "Home Assistant"}'}
        entities.append(("button", "acknowledge", {**acknowledge, "command_topic": topics.of(machine, id, "command")}))
    return entities


def _node(*names: str) -> str:
    """A name of characters that Home Assistant allows; a hash keeps names apart whose other characters were replaced."""
    plain = "_".join(re.sub(r"[^A-Za-z0-9]", "_", name) for name in names)[:80]
    return f"edgeasd_{plain}_{hashlib.sha256(json.dumps(names).encode()).hexdigest()[:8]}"
