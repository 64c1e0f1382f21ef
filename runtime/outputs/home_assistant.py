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
_DBFS = {"unit_of_measurement": "dBFS"}
_OPERATING = "{{ value_json.operating_state | default('unknown') }}"


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
    """(component, entity, configuration) of each entity."""
    state, score, health = (topics.of(machine, id, leaf) for leaf in ("state", "score", "health"))
    problem = {"device_class": "problem"}
    diagnostic, measurement = {"entity_category": "diagnostic"}, {"state_class": "measurement"}
    entities = [
        ("binary_sensor", "alarm", "Alarm", state, _on(f"value_json.state in {_OPEN}"), problem),
        ("sensor", "state", "Alarm state", state, "{{ value_json.state }}", {}),
        ("sensor", "operating_state", "Operating state", state, _OPERATING, {}),
        ("sensor", "clip_score", "Clip score", score, "{{ value_json.body.last }}", measurement),
        ("binary_sensor", "input", "Microphone", health, _on("value_json.body.unhealthy"), problem | diagnostic),
        ("sensor", "level", "Level", health, "{{ value_json.body.level_dbfs }}", _DBFS | measurement | diagnostic),
    ]
    configurations = [
        (component, entity, {"name": name, "state_topic": topic, "value_template": template, **more})
        for component, entity, name, topic, template, more in entities
    ]
    configurations[0][2]["json_attributes_topic"] = state
    if commands:
        acknowledge = {"name": "Acknowledge", "payload_press": '{"command": "acknowledge", "by": "Home Assistant"}'}
        configurations.append(
            ("button", "acknowledge", {**acknowledge, "command_topic": topics.of(machine, id, "command")})
        )
    return configurations


def _on(condition: str) -> str:
    return f"{{{{ 'ON' if {condition} else 'OFF' }}}}"


def _node(*names: str) -> str:
    """A name of characters that Home Assistant allows; a hash keeps names apart whose other characters were replaced."""
    plain = "_".join(re.sub(r"[^A-Za-z0-9]", "_", name) for name in names)[:80]
    return f"edgeasd_{plain}_{hashlib.sha256(json.dumps(names).encode()).hexdigest()[:8]}"
