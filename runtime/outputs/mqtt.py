"""MQTT 3.1.1 and 5: messages by machine and kind, QoS 1, retained states, last will, commands."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage, MQTTMessageInfo
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edgeasd.runtime.alarms.command import Command, parse_payload
from edgeasd.runtime.errors import InputError, printable
from edgeasd.runtime.outputs.base import DeliveryError, MessageRejected, OutputMessage
from edgeasd.runtime.outputs.credentials import certificate_problem, read_secret, tls_context
from edgeasd.runtime.outputs.home_assistant import discovery
from edgeasd.runtime.outputs.messages import SCHEMA
from edgeasd.runtime.outputs.settings import MqttSettings
from edgeasd.runtime.outputs.topics import OFFLINE, ONLINE, Topics

IN_FLIGHT = 16
"""Messages that may be sent without an acknowledgement."""
_REJECTED_FOR_GOOD = frozenset({0x90, 0x95, 0x99})
"""Reason codes about the message itself: topic, size, payload."""
_TAKEN_OVER = 0x8E
"""Reason code of a broker that disconnects a client because another one has its id."""
_SHORT_SECONDS, _MANY_SHORT = 60.0, 3
"""So many connections in a row that are lost within so many seconds suggest another client with our id."""
_LEAVES = {
    "event": "event",
    "score": "score",
    "health": "health",
    "trend": "trend",
    "status": "status",
    "start": "status",
}
_STATE_FIELDS = ("state", "event", "at", "raised_at", "score", "threshold", "maintenance", "snoozed_seconds", "test")


@dataclass(frozen=True, slots=True)
class MqttMessage:
    """One thing to publish with QoS 1."""

    topic: str
    payload: bytes
    retain: bool


@dataclass(frozen=True, slots=True)
class _Sent:
    """What a message of the outbox becomes, and what of it was handed to paho."""

    messages: list[MqttMessage]
    infos: list[MQTTMessageInfo] = field(default_factory=list)


class _Client(Client):
    """paho's client; its thread ends with a reason, and without a traceback, if the broker sends nonsense."""

    def __init__(self, *arguments: Any, ended: Callable[[str | None], None], **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._report_end = ended

    def loop_forever(self, timeout: float = 1.0, retry_first_connection: bool = False) -> MQTTErrorCode:
        problem = None
        try:
            return super().loop_forever(timeout, retry_first_connection)
        except Exception as error:
            problem = f"what it sent could not be read ({type(error).__name__}: {error})"
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        finally:
            self._report_end(problem)


class NoAcknowledgement(DeliveryError):
    """The broker did not acknowledge a message in time. It is still on its way."""


class MqttConnection:
    """A connection to a broker that can be opened again. Unacknowledged messages are sent again by paho then."""

    def __init__(
        self,
        settings: MqttSettings,
        client_id: str,
        tls: ssl.SSLContext | None,
        will: MqttMessage,
        subscriptions: Sequence[str],
        received: Callable[[str, bytes, bool], None],
    ) -> None:
        """`received` takes topic, payload and whether it was retained, in paho's thread."""
        self._settings, self._client_id, self._subscriptions = settings, client_id, tuple(subscriptions)
        self._received = received
        parts = urlsplit(settings.url)
        self.url = f"{parts.scheme}://{parts.netloc}"
        self._no_commands: str | None = None
        self._suspicion: str | None = None
        self._changed = threading.Condition()
        self._answer: ReasonCode | None = None
        self._is_running = False
        """Whether paho's thread runs."""
        self._lost: str | None = None
        """Why the last connection was lost."""
        self._rejected: dict[int, ReasonCode] = {}
        self._limit = IN_FLIGHT
        """Messages that the broker takes without an acknowledgement."""
        self._unacknowledged: deque[MQTTMessageInfo] = deque()
        self._connected_at, self._short_connections = 0.0, 0
        is_5 = settings.protocol == "5"
        # The worker opens the connection again itself: with its drawn waits, and the password of that moment.
        self._client = client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=None if is_5 else True,
            protocol=MQTTProtocolVersion.MQTTv5 if is_5 else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
            ended=self._on_end,
        )
        client.connect_timeout = settings.timeout_seconds
        client.will_set(will.topic, will.payload, qos=1, retain=will.retain)
        if tls is not None:
            client.tls_set_context(tls)
        client.on_connect, client.on_publish = self._on_connect, self._on_publish
        client.on_disconnect, client.on_message = self._on_disconnect, self._on_message
        client.on_subscribe = self._on_subscribe

    # From the worker's thread

    @property
    def is_connected(self) -> bool:
        """Whether the broker has accepted us and the connection stands."""
        return self._is_running and self._answer is not None and not self._answer.is_failure

    @property
    def warning(self) -> str | None:
        """Why no commands arrive, or why the connection may be lost again and again."""
        if time.monotonic() - self._connected_at > _SHORT_SECONDS:
            self._suspicion = None
        return self._no_commands or self._suspicion

    def take_loss(self) -> str | None:
        """Why the connection was lost, once; None if it was not, or if that was taken before."""
        lost, self._lost = self._lost, None
        return lost

    def connect(self, password: str | None) -> None:
        """Connect. Raises DeliveryError if the broker is not there, does not answer or rejects this client."""
        settings = self._settings
        with self._changed:
            # The thread of an earlier connection ends by itself, at the latest after the keep-alive.
            if not self._changed.wait_for(lambda: not self._is_running, settings.timeout_seconds):
                raise DeliveryError(f"{self.url}: does not let go of the earlier connection")
            self._answer = self._lost = None
        # What is sent again at the connection keeps to the limit of the last one. paho takes one only after this call.
        self._client.disconnect()
        self._client.max_inflight_messages_set(self._limit)
        if settings.username is not None:
            self._client.username_pw_set(settings.username, password)
        try:
            self._client.connect(*settings.address, settings.keepalive_seconds)
        except ssl.SSLCertVerificationError as error:
            raise DeliveryError(f"{self.url}: {certificate_problem(error, settings.ca_file)}") from None
        except (OSError, ValueError) as error:
            raise DeliveryError(f"{self.url}: {getattr(error, 'strerror', None) or error}") from None
        self._start_thread()
        with self._changed:
            self._changed.wait_for(lambda: self._answer is not None or not self._is_running, settings.timeout_seconds)
            answer = self._answer
        if answer is None:
            reason = self.take_loss() or f"{self.url}: does not answer"
            self._client.disconnect()
            raise DeliveryError(reason)
        if answer.is_failure:
            self.take_loss()
            self._client.disconnect()
            raise DeliveryError(f"{self.url}: rejects the connection: {answer}")

    def _start_thread(self) -> None:
        self._is_running = True
        until = time.monotonic() + 1.0
        while self._client.loop_start() != MQTTErrorCode.MQTT_ERR_SUCCESS:
            # The earlier thread has reported its end and is about to return.
            if time.monotonic() > until:
                self._is_running = False
                raise DeliveryError(f"{self.url}: no thread for the connection")
            time.sleep(0.001)

    def publish(self, message: MqttMessage, until: float) -> MQTTMessageInfo:
        """Send a message, when the broker takes one more. Raises DeliveryError."""
        while self._unacknowledged and self._unacknowledged[0].is_published():
            self._unacknowledged.popleft()
        while len(self._unacknowledged) >= self._limit:
            self._wait_for_acknowledgement(self._unacknowledged[0], until)
            self._unacknowledged.popleft()
        try:
            info = self._client.publish(message.topic, message.payload, qos=1, retain=message.retain)
        except ValueError as error:
            raise MessageRejected(f"{self.url}: {message.topic}: {error}") from None
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            with self._changed:  # until paho's thread knows why
                self._changed.wait_for(lambda: not self._is_running, 1.0)
            raise DeliveryError(self.take_loss() or f"{self.url}: connection lost")
        self._unacknowledged.append(info)
        return info

    def wait(self, info: MQTTMessageInfo, topic: str, until: float) -> None:
        """Wait until the broker has acknowledged a message. Raises DeliveryError."""
        self._wait_for_acknowledgement(info, until)
        if (code := self._rejected.pop(info.mid, None)) is not None:
            rejected = MessageRejected if code.value in _REJECTED_FOR_GOOD else DeliveryError
            raise rejected(f"{self.url}: rejects a message to {topic}: {code}")

    def _wait_for_acknowledgement(self, info: MQTTMessageInfo, until: float) -> None:
        while not info.is_published():
            left = until - time.monotonic()
            if left <= 0.0:
                raise NoAcknowledgement(f"{self.url}: no acknowledgement within {self._settings.timeout_seconds:g} s")
            info.wait_for_publish(min(left, 0.1))
            if not self._is_running and not info.is_published():
                raise DeliveryError(self.take_loss() or f"{self.url}: connection lost")

    def disconnect(self, seconds: float) -> None:
        """Disconnect, so that the broker does not publish the last will."""
        self._client.disconnect()
        with self._changed:
            self._changed.wait_for(lambda: not self._is_running, seconds)

    # In paho's thread; an exception there would end it

    def _on_end(self, problem: str | None) -> None:
        with self._changed:
            if problem is not None or self._lost is None:
                self._lost = f"{self.url}: {problem or 'connection lost'}"
            self._is_running = False
            self._changed.notify_all()

    def _on_connect(self, _c: Any, _u: Any, _f: ConnectFlags, code: ReasonCode, properties: Properties | None) -> None:
        self._limit = max(1, min(IN_FLIGHT, getattr(properties, "ReceiveMaximum", IN_FLIGHT)))
        self._no_commands, self._connected_at = None, time.monotonic()
        if self._subscriptions and not code.is_failure:
            self._client.subscribe([(topic, 1) for topic in self._subscriptions])
        with self._changed:
            self._answer = code
            self._changed.notify_all()

    def _on_publish(self, _c: Any, _u: Any, number: int, code: ReasonCode, _p: Any) -> None:
        if code.is_failure:
            self._rejected[number] = code

    def _on_subscribe(self, _c: Any, _u: Any, _m: int, codes: list[ReasonCode], _p: Any) -> None:
        for topic, code in zip(self._subscriptions, codes, strict=False):
            if code.is_failure:
                self._no_commands = f"{self.url}: nothing is received from {topic}, it rejects it: {code}"

    def _on_disconnect(self, _c: Any, _u: Any, flags: DisconnectFlags, code: ReasonCode, _p: Any) -> None:
        with self._changed:
            if self._lost is None:
                self._lost = f"{self.url}: {self._why_lost(flags, code)}"

    def _why_lost(self, flags: DisconnectFlags, code: ReasonCode) -> str:
        if flags.is_disconnect_packet_from_server and code.value == _TAKEN_OVER:
            return (
                f"disconnected, because another client connected with our id {self._client_id}; give one of them "
                "another client_id"
            )
        reason = f"connection lost: {code}" if code.is_failure else "disconnected"
        is_short = self._connected_at > 0.0 and time.monotonic() - self._connected_at < _SHORT_SECONDS
        self._short_connections = self._short_connections + 1 if is_short and code.is_failure else 0
        if self._short_connections < _MANY_SHORT:
            return reason
        # Not every broker gives this reason.
        self._suspicion = f"{self.url}: lost again and again; does another client have the id {self._client_id}?"
        return f"{reason}, again and again; does another client have the id {self._client_id}?"

    def _on_message(self, _c: Any, _u: Any, message: MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return
        self._received(topic, bytes(message.payload), bool(message.retain))


class MqttOutput:
    """A broker. Retained messages are published again at each connection: a broker may forget them."""

    batch = IN_FLIGHT // 2

    def __init__(
        self,
        settings: MqttSettings,
        site: str,
        device: str,
        client_id: str,
        on_command: Callable[[str, str, Command], None] | None = None,
        tag_topics: Sequence[str] = (),
        on_tag: Callable[[str, bytes], None] | None = None,
    ) -> None:
        """Commands and tags are taken in paho's thread. Raises InputError if a password or certificate that the settings name cannot be read."""
        self._settings, self._on_command, self._on_tag = settings, on_command, on_tag
        self._tag_topics = frozenset(tag_topics if on_tag is not None else ())
        self._topics = Topics(settings.prefix, site, device)
        self._read_password()
        is_encrypted = settings.url.startswith("mqtts:")
        certificates = (settings.ca_file, settings.certificate_file, settings.key_file)
        tls = tls_context(*certificates) if is_encrypted else None
        self._connection = MqttConnection(
            settings,
            client_id,
            tls,
            self._availability(OFFLINE),
            [
                *([self._topics.commands] if settings.commands and on_command is not None else []),
                *sorted(self._tag_topics),
            ],
            self._receive,
        )
        self._retained: dict[str, MqttMessage] = {}
        """The latest retained message of each topic that was published."""
        self._states: dict[str, MqttMessage] = {}
        """States from before the start that are not published yet. Set by another thread."""
        self._sent: dict[int, _Sent] = {}
        """By number, the messages of the outbox that are not confirmed."""
        self._announced: set[tuple[str, str]] = set()
        self._rejected_command: str | None = None
        self._is_silent = False

    @property
    def connected(self) -> bool:
        """Whether the connection stands and messages are acknowledged."""
        return self._connection.is_connected and not self._is_silent

    @property
    def warning(self) -> str | None:
        """A rejected subscription, or why the last command was rejected."""
        return self._connection.warning or self._rejected_command

    def _read_password(self) -> str | None:
        settings = self._settings
        secret = read_secret(settings.password_file, settings.password_env, "MQTT password")
        try:
            return None if secret is None else secret.decode()
        except UnicodeDecodeError:
            raise InputError("MQTT password: is not UTF-8; give it as text") from None

    # Sending

    def set_retained_state(self, machine: str, id: str, body: Mapping[str, Any]) -> None:
        """Publish a state when no message waits, unless a later event replaced it. May be called by any thread."""
        state = self._state(machine, id, body)
        self._states[state.topic] = state

    def maintain(self) -> None:
        """Connect if there is no connection, and publish the states from before the start. Raises DeliveryError."""
        self._ensure_connected()
        for topic, state in list(self._states.items()):
            # A later event was published if there is one.
            if topic not in self._retained:
                self._publish_all([state])
            del self._states[topic]

    def deliver(self, messages: Sequence[OutputMessage], confirm: Callable[[int], None]) -> None:
        """Publish, and confirm what the broker has acknowledged. Raises DeliveryError."""
        self._ensure_connected()
        until = time.monotonic() + self._settings.timeout_seconds
        # What was before them is dropped.
        self._sent = {seq: sent for seq, sent in self._sent.items() if seq >= messages[0].seq}
        try:
            for message in messages:
                if message.seq not in self._sent:
                    self._sent[message.seq] = _Sent(self._messages(message))
                sent = self._sent[message.seq]
                # What a failed attempt has published is not published again: paho still has it.
                for part in sent.messages[len(sent.infos) :]:
                    sent.infos.append(self._publish(part, until))
            for count, message in enumerate(messages, 1):
                sent = self._sent[message.seq]
                for part, info in zip(sent.messages, sent.infos, strict=True):
                    self._connection.wait(info, part.topic, until)
                del self._sent[message.seq]
                confirm(count)
        except NoAcknowledgement:
            self._is_silent = True
            raise
        except DeliveryError:
            if self._connection.is_connected:
                # It was rejected. It is published anew at the next attempt, and what follows it, too.
                for sent in self._sent.values():
                    sent.infos.clear()
            raise
        self._is_silent = False

    def close(self, seconds: float) -> None:
        """Publish `offline` and disconnect."""
        if not self._connection.is_connected:
            return
        until = time.monotonic() + min(seconds, 0.5)
        offline = self._availability(OFFLINE)
        try:
            self._connection.wait(self._connection.publish(offline, until), offline.topic, until)
        except DeliveryError:
            return  # without disconnecting, so that the broker publishes the last will
        self._connection.disconnect(min(seconds, 0.5))

    def _ensure_connected(self) -> None:
        if self._connection.is_connected:
            return
        if (lost := self._connection.take_loss()) is not None:
            raise DeliveryError(lost)
        self._connection.connect(self._read_password())
        self._publish_all([self._availability(ONLINE), *self._retained.values()])

    def _publish_all(self, messages: Sequence[MqttMessage]) -> None:
        # In parts, each with a timeout of its own: on a slow line all of them would not fit into one.
        for begin in range(0, len(messages), IN_FLIGHT):
            part = messages[begin : begin + IN_FLIGHT]
            until = time.monotonic() + self._settings.timeout_seconds
            infos = [self._publish(message, until) for message in part]
            for message, info in zip(part, infos, strict=True):
                self._connection.wait(info, message.topic, until)

    def _publish(self, message: MqttMessage, until: float) -> MQTTMessageInfo:
        """Publish; a retained message is remembered for later connections."""
        info = self._connection.publish(message, until)
        if message.retain and message.topic != self._topics.availability:
            self._retained[message.topic] = message
        return info

    # What is published

    def _availability(self, payload: bytes) -> MqttMessage:
        return MqttMessage(self._topics.availability, payload, True)

    def _messages(self, message: OutputMessage) -> list[MqttMessage]:
        topic = self._topics.of(message.machine, message.id, _LEAVES.get(message.kind, "status"))
        messages = self._announcement(message)
        # An event is not retained: a later subscriber would take it for a new one.
        is_event = message.kind == "event"
        messages.append(MqttMessage(topic, message.text.encode(), not is_event))
        if is_event and message.machine and message.id:
            messages.append(self._state(message.machine, message.id, message.body))
        return messages

    def _state(self, machine: str, id: str, body: Mapping[str, Any]) -> MqttMessage:
        """The alarm state after an event with `body`."""
        state = {"schema": SCHEMA, **{name: body.get(name) for name in _STATE_FIELDS}}
        state |= {name: body[name] for name in ("operating_state", "remark") if body.get(name) is not None}
        topic = self._topics.of(machine, id, "state")
        return MqttMessage(topic, json.dumps(state, ensure_ascii=False).encode(), True)

    def _announcement(self, message: OutputMessage) -> list[MqttMessage]:
        """Home Assistant's configurations, with the first message of a machine."""
        machine = (message.machine or "", message.id or "")
        if not self._settings.discovery or not message.machine or machine in self._announced:
            return []
        self._announced.add(machine)
        configurations = discovery(self._settings.discovery_prefix, self._topics, *machine, self._settings.commands)
        return [MqttMessage(topic, payload, True) for topic, payload in configurations]

    # Commands, in paho's thread

    def _receive(self, topic: str, payload: bytes, retained: bool) -> None:
        if topic in self._tag_topics and self._on_tag is not None:
            # A state that was published before we came still holds.
            try:
                self._on_tag(topic, payload)
            except Exception as error:  # whatever a stranger sends must not end the connection
                self._rejected_command = printable(str(error), 300)
            return
        machine = self._topics.machine_of(topic)
        # A retained command would be obeyed again at each connection.
        if machine is None or retained or self._on_command is None:
            return
        try:
            self._on_command(*machine, parse_payload(payload, f"command for {machine[0]} {machine[1]}"))
        except Exception as error:  # whatever a stranger sends must not end the connection
            self._rejected_command = printable(str(error), 300)
