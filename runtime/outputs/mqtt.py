"""MQTT 3.1.1 and 5: messages by machine and kind, QoS 1, retained state, last will, commands."""

from __future__ import annotations

import json
import re
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.outputs.commands import parse_payload
from edgeasd.runtime.outputs.discovery import discovery
from edgeasd.runtime.outputs.messages import SCHEMA, numbered
from edgeasd.runtime.outputs.mqtt_link import IN_FLIGHT, Link, Publication
from edgeasd.runtime.outputs.secret import read_secret
from edgeasd.runtime.outputs.settings import MqttSettings
from edgeasd.runtime.outputs.sink import DeliveryFailed, Entry
from edgeasd.runtime.outputs.tls import tls_context
from edgeasd.runtime.outputs.topics import OFFLINE, ONLINE, Topics

_LEAVES = {"event": "event", "score": "score", "health": "health", "status": "status", "start": "status"}
_STATE_FIELDS = ("state", "event", "at", "raised_at", "score", "threshold", "maintenance", "snoozed_seconds", "test")


class MqttSink:
    """A broker. What it keeps (retained) is published again at each connection: a broker may forget."""

    batch = IN_FLIGHT // 2

    def __init__(
        self,
        settings: MqttSettings,
        site: str,
        box: str | None = None,
        on_command: Callable[[str, str, dict[str, Any]], None] | None = None,
    ) -> None:
        """Raises InputError where a password or certificate that the settings name is not there."""
        box = box or socket.gethostname()
        self._settings, self._on_command = settings, on_command
        self._topics = Topics(settings.prefix, site, box)
        self._client_id = settings.client_id or "edgeasd-" + re.sub(r"[^A-Za-z0-9_-]", "-", box)[:48]
        self._tls = tls_context(settings) if settings.url.startswith("mqtts:") else None
        self._password()
        self._link: Link | None = None
        self._kept: dict[str, Publication] = {}
        self._announced: set[tuple[str, str]] = set()
        self._remembered: deque[Entry] = deque()
        self._refused: str | None = None

    @property
    def connected(self) -> bool:
        """Whether the broker has taken us and the connection stands."""
        link = self._link
        return link is not None and link.ended is None

    @property
    def warning(self) -> str | None:
        """A refused subscription, or the last command that was no command."""
        return (self._link.warning if self._link else None) or self._refused

    def _password(self) -> str | None:
        settings = self._settings
        secret = read_secret(settings.password_file, settings.password_env, "MQTT password")
        try:
            return None if secret is None else secret.decode()
        except UnicodeDecodeError:
            raise InputError("MQTT password: is not UTF-8; give it as text") from None

    # Sending

    def remember(self, entry: Entry) -> None:
        """Have its state kept by the broker, once the queue is empty."""
        self._remembered.append(entry)

    def maintain(self) -> None:
        """Connect where there is no connection, and publish states from before the start. Raises DeliveryFailed."""
        link = self._linked()
        while self._remembered:
            made = self._state(self._remembered[0])
            # A later event has been delivered where there is one.
            if made.topic not in self._kept:
                try:
                    link.publish([[made]], lambda _: None)
                except DeliveryFailed:
                    self._drop()
                    raise
                self._kept[made.topic] = made
            self._remembered.popleft()

    def deliver(self, entries: Sequence[Entry], queue: str, confirm: Callable[[int], None]) -> None:
        """Publish, and confirm what the broker has acknowledged. Raises DeliveryFailed."""
        link = self._linked()
        groups = [self._publications(entry, queue) for entry in entries]

        def keep(count: int) -> None:
            self._kept.update({made.topic: made for made in groups[count - 1] if made.retain})
            confirm(count)

        try:
            link.publish(groups, keep)
        except DeliveryFailed:
            # A new connection: this one may hold messages whose acknowledgement would come late.
            self._drop()
            raise

    def close(self, seconds: float) -> None:
        """Say offline and leave."""
        link = self._link
        if link is None:
            return
        if link.ended is None:
            try:
                link.publish([[self._availability(OFFLINE)]], lambda _: None, min(seconds, 0.5))
            except DeliveryFailed:
                # Cut off without a good-bye, so that the broker publishes the last will.
                link.cut()
        link.leave(min(seconds, 0.5))
        self._link = None

    def _linked(self) -> Link:
        if self._link is not None:
            if (lost := self._link.ended) is None:
                return self._link
            self._drop()
            raise DeliveryFailed(lost)
        commands = self._topics.commands if self._settings.commands and self._on_command else None
        link = Link(
            self._settings,
            self._client_id,
            self._password(),
            self._tls,
            self._availability(OFFLINE),
            commands,
            self._receive,
        )
        try:
            everything = [self._availability(ONLINE), *self._kept.values()]
            # In parts, each with a time-out of its own: on a thin line all of it never came within one.
            for begin in range(0, len(everything), IN_FLIGHT):
                link.publish([everything[begin : begin + IN_FLIGHT]], lambda _: None)
        except DeliveryFailed:
            link.cut()
            raise
        self._link = link
        return link

    def _drop(self) -> None:
        if self._link is not None:
            self._link.cut()
            self._link = None

    # What is published

    def _availability(self, payload: bytes) -> Publication:
        return Publication(self._topics.availability, payload, True)

    def _publications(self, entry: Entry, queue: str) -> list[Publication]:
        leaf = _LEAVES.get(entry.kind, "status")
        text = numbered(entry.text, queue, entry.sequence)
        topic = self._topics.of(entry.machine, entry.id, leaf)
        made = self._announcement(entry)
        if entry.kind == "event":
            # The event itself is not kept: a later subscriber would take it for a new one.
            made.append(Publication(topic, text.encode(), False))
            made.append(self._state(entry))
        else:
            made.append(Publication(topic, text.encode(), True))
        return made

    def _state(self, entry: Entry) -> Publication:
        """The alarm state that an event left."""
        body = json.loads(entry.text)["body"]
        state = {"schema": SCHEMA, **{name: body.get(name) for name in _STATE_FIELDS}}
        where = self._topics.of(entry.machine, entry.id, "state")
        return Publication(where, json.dumps(state, ensure_ascii=False).encode(), True)

    def _announcement(self, entry: Entry) -> list[Publication]:
        """Home Assistant's configurations, with the first message of a machine."""
        machine = (entry.machine, entry.id)
        if not self._settings.discovery or not entry.machine or machine in self._announced:
            return []
        self._announced.add(machine)
        told = discovery(self._settings.discovery_prefix, self._topics, *machine, self._settings.commands)
        found = [Publication(topic, payload, True) for topic, payload in told]
        # Kept at once: should this attempt fail, the next connection announces them.
        self._kept.update({made.topic: made for made in found})
        return found

    # What comes in, in paho's thread

    def _receive(self, topic: str, payload: bytes, retained: bool) -> None:
        machine = self._topics.machine_of(topic)
        # A retained command would be obeyed again at each connection.
        if machine is None or retained or self._on_command is None:
            return
        try:
            self._on_command(*machine, parse_payload(payload, f"command for {machine[0]} {machine[1]}"))
        except Exception as error:  # whatever a stranger sends, messages go on
            self._refused = "".join(c if c.isprintable() else " " for c in str(error))[:300]
