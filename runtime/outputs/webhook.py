"""A webhook: one POST for each message, signed as Standard Webhooks say, in order, until the server has it.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.outputs.base import DeliveryError, MessageRejected, OutputMessage
from edgeasd.runtime.outputs.credentials import certificate_problem, read_secret, tls_context
from edgeasd.runtime.outputs.settings import WebhookSettings

REJECTED = frozenset({400, 413, 415, 422})
"""The server rejects this message for good. With any other code but 2xx it may accept it later."""
_LARGEST_ANSWER = 64 * 1024
_PREFIX = b"whsec_"


def sign(key: bytes, id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`: `v1,` and the base64 of the HMAC-SHA256 of `id.timestamp.body`."""
    content = f"{id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()


def signing_key(secret: bytes) -> bytes:
    """The key that a secret stands for: the base64 behind `whsec_`, else its bytes. Raises InputError."""
    if not secret.startswith(_PREFIX):
        return secret
    try:
        return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        raise InputError("webhook secret: is not base64 behind whsec_; correct it") from None


class WebhookOutput:
    """Posts to one URL. Redirects are not followed; proxies of the environment are not used."""

    batch = 50
    warning: str | None = None

    def __init__(self, settings: WebhookSettings) -> None:
        """Raises InputError if a secret or certificate that the settings name cannot be read or used."""
        self._settings = settings
        parts = urlsplit(settings.url)
        self._place = f"{parts.scheme}://{parts.netloc}"
        self._read_secrets()
        certificates = (settings.ca_file, settings.certificate_file, settings.key_file)
        self._tls = tls_context(*certificates) if parts.scheme == "https" else None
        self.connected: bool | None = None

    def _read_secrets(self) -> tuple[bytes | None, bytes | None]:
        """Key of the signature and token, each None without one."""
        settings = self._settings
        secret = read_secret(settings.secret_file, settings.secret_env, "webhook secret")
        token = read_secret(settings.token_file, settings.token_env, "webhook token")
        if token is not None and not re.fullmatch(rb"[\x21-\x7e]+", token):
            raise InputError("webhook token: holds a space or a character that no header may hold; correct it")
        return None if secret is None else signing_key(secret), token

    def maintain(self) -> None:
        """Does nothing: there is no connection between batches."""

    def deliver(self, messages: Sequence[OutputMessage], confirm: Callable[[int], None]) -> None:
        """Post each message over one connection. Raises DeliveryError."""
        # Read for every batch: a secret may be changed while the service runs.
        key, token = self._read_secrets()
        post = _Post(self._settings, self._tls)
        try:
            with post:
                for count, message in enumerate(messages, 1):
                    self._judge(post.send(message.text.encode(), self._headers(message, key, token)))
                    self.connected = True
                    confirm(count)
        except MessageRejected:
            self.connected = True
            raise
        except DeliveryError:
            self.connected = False
            raise
        except httpx.HTTPError as error:
            self.connected = False
            raise DeliveryError(f"{self._place}: {_reason(error, self._settings.ca_file)}") from None

    def close(self, seconds: float) -> None:
        """Does nothing: there is no connection between batches."""

    def _headers(self, message: OutputMessage, key: bytes | None, token: bytes | None) -> dict[str, str]:
        id, timestamp = f"{message.store}-{message.seq}", int(time.time())
        headers = {"Content-Type": "application/json", "User-Agent": "edgeasd"}
        headers |= {"webhook-id": id, "webhook-timestamp": str(timestamp)}
        if key is not None:
            headers["webhook-signature"] = sign(key, id, timestamp, message.text.encode())
        if token is not None:
            headers["Authorization"] = f"Bearer {token.decode()}"
        return headers

    def _judge(self, answer: httpx.Response) -> None:
        """Raise DeliveryError unless the answer confirms the message."""
        if 200 <= answer.status_code < 300:
            return
        reason = f"{self._place}: answered {answer.status_code}"
        if answer.status_code in REJECTED:
            raise MessageRejected(f"{reason}, it rejects this message")
        if 300 <= answer.status_code < 400:
            raise DeliveryError(f"{reason}, a redirect; set url to where it leads")
        raise DeliveryError(reason, retry_after=retry_seconds(answer.headers.get("Retry-After"), time.time()))


class _Post:
    """One connection for a batch of POSTs, each with a deadline for all of it.

    The timeouts of httpx begin anew with every byte of a slow answer.
    """

    def __init__(self, settings: WebhookSettings, tls: ssl.SSLContext | None) -> None:
        self._url, self._seconds = settings.url, settings.timeout_seconds
        self._client = httpx.Client(verify=tls or False, timeout=self._seconds, trust_env=False)
        self._streams: list[Any] = []

    def __enter__(self) -> _Post:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def send(self, body: bytes, headers: dict[str, str]) -> httpx.Response:
        """POST `body`. Raises httpx.HTTPError, DeliveryError if the deadline passes."""
        is_late = threading.Event()
        timer = threading.Timer(self._seconds, self._cut, [is_late])
        timer.daemon = True
        timer.start()
        extensions = {"trace": self._trace}
        size = 0
        try:
            with self._client.stream("POST", self._url, content=body, headers=headers, extensions=extensions) as answer:
                for part in answer.iter_raw():
                    size += len(part)
                    if size > _LARGEST_ANSWER:
                        break
        except httpx.HTTPError:
            if not is_late.is_set():
                raise
        finally:
            timer.cancel()
        if is_late.is_set():  # an answer that was cut off may look complete
            raise httpx.ReadTimeout("no answer in time")
        return answer

    def _trace(self, event: str, info: dict[str, Any]) -> None:
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            self._streams.append(info["return_value"])

    def _cut(self, is_late: threading.Event) -> None:
        is_late.set()
        for stream in self._streams[-1:]:
            connected = stream.get_extra_info("socket")
            # A copy: shutting down a TLS socket from another thread would break its reader.
            with suppress(OSError), socket.socket(fileno=os.dup(connected.fileno())) as copy:
                copy.shutdown(socket.SHUT_RDWR)


def retry_seconds(value: str | None, now: float) -> float | None:
    """Seconds that a Retry-After header asks for (RFC 9110, 10.2.3: a number or a date); None for anything else."""
    if value is None or len(value) > 64:
        return None
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        until = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    until = until if until.tzinfo else until.replace(tzinfo=timezone.utc)
    return max(0.0, (until - datetime.fromtimestamp(now, timezone.utc)).total_seconds())


def _reason(error: BaseException, ca_file: str | None) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return certificate_problem(cause, ca_file)
        if isinstance(cause, TimeoutError | httpx.TimeoutException):
            return "no answer in time"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__
