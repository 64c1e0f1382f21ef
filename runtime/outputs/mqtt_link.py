"""One connection to a broker, from its beginning to its end. It is never taken up again: the next is a new one.

So no message waits in the library, which would send it beside the queue's own resend.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edgeasd.runtime.outputs.settings import MqttSettings
from edgeasd.runtime.outputs.sink import DeliveryFailed, MessageRefused

IN_FLIGHT = 16
"""Messages that may be under way without an acknowledgement."""
_OF_THE_MESSAGE = frozenset({0x90, 0x95, 0x99})
"""Reason codes that say that this message will never be taken: topic, size, payload."""


@dataclass(frozen=True, slots=True)
class Publication:
    """One thing to publish with QoS 1."""

    topic: str
    payload: bytes
    retain: bool


class _Client(Client):
    """paho's client, whose thread ends quietly whatever the broker sends, and says so."""

    def __init__(self, *arguments: Any, ended: Callable[[str | None], None], **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._said_ended = ended

    def loop_forever(self, timeout: float = 1.0, retry_first_connection: bool = False) -> MQTTErrorCode:
        """As paho's, for its own thread. What cannot be parsed ends the connection and not in a traceback."""
        problem = None
        try:
            return super().loop_forever(timeout, retry_first_connection)
        except Exception as error:
            problem = f"what it sent could not be read ({type(error).__name__}: {error})"
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        finally:
            self._said_ended(problem)
            self._let_go()

    def _let_go(self) -> None:
        """Nobody is called any more. Else link and client hold each other, and keep their files open, until Python's
        collector of garbage comes by; on a bad line that is hundreds of files."""
        for name in ("on_connect", "on_publish", "on_disconnect", "on_message", "on_subscribe"):
            setattr(self, name, None)
        del self._said_ended


class Link:
    """Publishes and waits for acknowledgements; hands what comes in to `received` (topic, payload, retained)."""

    def __init__(
        self,
        settings: MqttSettings,
        client_id: str,
        password: str | None,
        tls: ssl.SSLContext | None,
        will: Publication,
        subscription: str | None,
        received: Callable[[str, bytes, bool], None],
    ) -> None:
        """Connects. Raises DeliveryFailed where the broker is not there or will not have this client."""
        parts = urlsplit(settings.url)
        self._place, self._seconds = f"{parts.scheme}://{parts.netloc}", settings.timeout_seconds
        self._received, self._subscription = received, subscription
        self._changed = threading.Condition()
        self._acknowledged: dict[int, ReasonCode] = {}
        self._answer: ReasonCode | None = None
        self._ended, self._problem, self._limit = False, "", IN_FLIGHT
        self.warning: str | None = None
        five = settings.protocol == "5"
        self._client = client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=None if five else True,
            protocol=MQTTProtocolVersion.MQTTv5 if five else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
            ended=self._end,
        )
        client.max_inflight_messages_set(IN_FLIGHT)
        client.connect_timeout = settings.timeout_seconds
        client.will_set(will.topic, will.payload, qos=1, retain=will.retain)
        if settings.username is not None:
            client.username_pw_set(settings.username, password)
        if tls is not None:
            client.tls_set_context(tls)
        client.on_connect, client.on_publish = self._on_connect, self._on_publish
        client.on_disconnect, client.on_message = self._on_disconnect, self._on_message
        client.on_subscribe = self._on_subscribe
        port = parts.port or (8883 if parts.scheme == "mqtts" else 1883)
        self._connect(str(parts.hostname), port, settings.keepalive_seconds)

    def _connect(self, host: str, port: int, keepalive: int) -> None:
        try:
            self._client.connect(host, port, keepalive)
        except ssl.SSLCertVerificationError as error:
            raise DeliveryFailed(
                f"{self._place}: its certificate is not trusted ({error.verify_message}); set ca_file"
            ) from None
        except (OSError, ValueError) as error:
            raise DeliveryFailed(f"{self._place}: {getattr(error, 'strerror', None) or error}") from None
        self._client.loop_start()
        with self._changed:
            self._changed.wait_for(lambda: self._answer is not None or self._ended, self._seconds)
            answer = self._answer
        if answer is None or answer.is_failure:
            said = self._problem or "does not answer" if answer is None else f"refuses the connection: {answer}"
            self.cut()
            raise DeliveryFailed(f"{self._place}: {said}")

    # Use

    @property
    def ended(self) -> str | None:
        """Why the connection is no longer there; None while it is."""
        return f"{self._place}: {self._problem or 'connection lost'}" if self._ended else None

    def publish(
        self, groups: Sequence[Sequence[Publication]], confirm: Callable[[int], None], seconds: float | None = None
    ) -> None:
        """Publish in order; `confirm(n)` once all of the first n groups are acknowledged. Raises DeliveryFailed."""
        until = time.monotonic() + (self._seconds if seconds is None else seconds)
        under_way: deque[tuple[int, int, str]] = deque()
        left = [len(group) for group in groups]

        def settle(at_most: int) -> None:
            while len(under_way) > at_most:
                count, number, topic = under_way.popleft()
                self._await(number, topic, until)
                left[count - 1] -= 1
                if not left[count - 1]:
                    confirm(count)

        for count, group in enumerate(groups, 1):
            for publication in group:
                settle(self._limit - 1)
                under_way.append((count, self._send(publication), publication.topic))
        settle(0)

    def _send(self, publication: Publication) -> int:
        try:
            sent = self._client.publish(publication.topic, publication.payload, qos=1, retain=publication.retain)
        except ValueError as error:
            raise MessageRefused(f"{self._place}: {publication.topic}: {error}") from None
        return sent.mid

    def _await(self, number: int, topic: str, until: float) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: number in self._acknowledged or self._ended, max(0.0, until - time.monotonic())
            )
            answer = self._acknowledged.pop(number, None)
        if answer is None:
            raise DeliveryFailed(self.ended or f"{self._place}: no acknowledgement within {self._seconds:g} s")
        if answer.is_failure:
            refused = MessageRefused if answer.value in _OF_THE_MESSAGE else DeliveryFailed
            raise refused(f"{self._place}: refuses a message to {topic}: {answer}")

    def leave(self, seconds: float) -> None:
        """Disconnect in good order, so that the broker does not publish the last will."""
        with suppress(Exception):
            self._client.disconnect()
        with self._changed:
            self._changed.wait_for(lambda: self._ended, seconds)
        self.cut()

    def cut(self) -> None:
        """Give the connection up as it is."""
        connected = self._client.socket()
        if connected is not None:
            # A copy: shutting down a TLS socket from another thread would pull it away under its reader.
            with suppress(OSError), socket.socket(fileno=os.dup(connected.fileno())) as copy:
                copy.shutdown(socket.SHUT_RDWR)

    # In paho's thread; an exception there would end it

    def _end(self, problem: str | None) -> None:
        with self._changed:
            self._ended, self._problem = True, problem or self._problem
            self._changed.notify_all()

    def _on_connect(self, _c: Any, _u: Any, _f: ConnectFlags, code: ReasonCode, properties: Properties | None) -> None:
        self._limit = max(1, min(IN_FLIGHT, getattr(properties, "ReceiveMaximum", IN_FLIGHT)))
        if self._subscription is not None and not code.is_failure:
            self._client.subscribe(self._subscription, qos=1)
        with self._changed:
            self._answer = code
            self._changed.notify_all()

    def _on_publish(self, _c: Any, _u: Any, number: int, code: ReasonCode, _p: Any) -> None:
        with self._changed:
            self._acknowledged[number] = code
            self._changed.notify_all()

    def _on_subscribe(self, _c: Any, _u: Any, _m: int, codes: list[ReasonCode], _p: Any) -> None:
        if any(code.is_failure for code in codes):
            self.warning = f"{self._place}: no commands, it refuses {self._subscription}: {codes[0]}"

    def _on_disconnect(self, _c: Any, _u: Any, _f: DisconnectFlags, code: ReasonCode, _p: Any) -> None:
        with self._changed:
            self._problem = f"connection lost: {code}" if code.is_failure else "disconnected"

    def _on_message(self, _c: Any, _u: Any, message: MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return
        self._received(topic, bytes(message.payload), bool(message.retain))
