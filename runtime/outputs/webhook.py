"""A webhook: one POST for each message, signed, in order, until the server says that it has it."""

from __future__ import annotations

import http.client
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.outputs.messages import numbered
from edgeasd.runtime.outputs.secret import read_secret
from edgeasd.runtime.outputs.settings import WebhookSettings
from edgeasd.runtime.outputs.signature import SIGNATURE_HEADER, TIMESTAMP_HEADER, sign
from edgeasd.runtime.outputs.sink import DeliveryFailed, Entry, MessageRefused
from edgeasd.runtime.outputs.tls import tls_context

REFUSED = frozenset({400, 413, 415, 422})
"""The server will not have this message; with any other code but 2xx it may have it later."""
_LARGEST_ANSWER = 64 * 1024


class WebhookSink:
    """Posts to one URL. Redirects are not followed, proxies of the environment not used."""

    batch = 50
    warning: str | None = None

    def __init__(self, settings: WebhookSettings) -> None:
        """Raises InputError where a secret or certificate that the settings name is not there or cannot be one."""
        self._settings = settings
        self._parts = urlsplit(settings.url)
        self._target = (self._parts.path or "/") + (f"?{self._parts.query}" if self._parts.query else "")
        self._place = f"{self._parts.scheme}://{self._parts.netloc}"
        self._secrets()
        self._tls = tls_context(settings) if self._parts.scheme == "https" else None
        self.connected: bool | None = None

    def _secrets(self) -> tuple[bytes | None, bytes | None]:
        settings = self._settings
        key = read_secret(settings.secret_file, settings.secret_env, "webhook secret")
        token = read_secret(settings.token_file, settings.token_env, "webhook token")
        if token is not None and not re.fullmatch(rb"[\x21-\x7e]+", token):
            # http.client would say so too, and quote it.
            raise InputError(
                "webhook token: a space, a line end or a character that no header holds is in it; correct it"
            )
        return key, token

    def remember(self, entry: Entry) -> None:
        """Nothing to keep."""

    def maintain(self) -> None:
        """Nothing to keep."""

    def deliver(self, entries: Sequence[Entry], queue: str, confirm: Callable[[int], None]) -> None:
        """Post each message over one connection. Raises DeliveryFailed."""
        # Read at every batch: a secret may be changed while the service runs.
        key, token = self._secrets()
        connection = self._connection()
        try:
            for count, entry in enumerate(entries, 1):
                body = numbered(entry.text, queue, entry.sequence).encode()
                if connection.sock is None:
                    connection.connect()
                with self._deadline(connection.sock):
                    self._post(connection, body, self._headers(entry, queue, body, key, token))
                self.connected = True
                confirm(count)
        except MessageRefused:
            self.connected = True
            raise
        except DeliveryFailed:
            self.connected = False
            raise
        except (OSError, http.client.HTTPException) as error:
            self.connected = False
            raise DeliveryFailed(f"{self._place}: {_reason(error)}") from None
        finally:
            connection.close()

    def close(self, seconds: float) -> None:
        """Nothing is open between batches."""

    def _connection(self) -> http.client.HTTPConnection:
        host, timeout = str(self._parts.hostname), self._settings.timeout_seconds
        if self._tls is None:
            return http.client.HTTPConnection(host, self._parts.port, timeout=timeout)
        return http.client.HTTPSConnection(host, self._parts.port, timeout=timeout, context=self._tls)

    @contextmanager
    def _deadline(self, connected: socket.socket) -> Iterator[None]:
        """End the attempt in time: a timeout of the socket begins anew with every byte of a slow answer."""

        late = threading.Event()

        def cut() -> None:
            late.set()
            # A copy: shutting down a TLS socket from another thread would pull it away under its reader.
            with suppress(OSError), socket.socket(fileno=os.dup(connected.fileno())) as copy:
                copy.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(self._settings.timeout_seconds, cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
        if late.is_set():  # an answer that was cut off may look like a whole one
            raise TimeoutError

    def _headers(
        self, entry: Entry, queue: str, body: bytes, key: bytes | None, token: bytes | None
    ) -> dict[str, str | bytes]:
        stamp = str(int(time.time()))
        headers: dict[str, str | bytes] = {
            "Content-Type": "application/json",
            "User-Agent": "edgeasd",
            "Idempotency-Key": f"{queue}-{entry.position}",
            TIMESTAMP_HEADER: stamp,
        }
        if key is not None:
            headers[SIGNATURE_HEADER] = sign(key, stamp, body)
        if token is not None:
            headers["Authorization"] = b"Bearer " + token
        return headers

    def _post(self, connection: http.client.HTTPConnection, body: bytes, headers: dict[str, str | bytes]) -> None:
        connection.request("POST", self._target, body, headers)
        answer = connection.getresponse()
        if len(answer.read(_LARGEST_ANSWER + 1)) > _LARGEST_ANSWER:
            connection.close()
        if 200 <= answer.status < 300:
            return
        said = f"{self._place}: answered {answer.status}"
        if answer.status in REFUSED:
            raise MessageRefused(f"{said}, it will not have this message")
        if 300 <= answer.status < 400:
            raise DeliveryFailed(f"{said}, a redirect; set url to where it leads")
        raise DeliveryFailed(said, retry_after=retry_seconds(answer.getheader("Retry-After"), time.time()))


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


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message}); set ca_file"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
