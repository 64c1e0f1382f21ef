"""A web server for one page, which nobody can hold up: one thread, a bounded number of connections, a time for each."""

from __future__ import annotations

import errno
import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from edgeasd.runtime.errors import DeviceError

MOST_CONNECTIONS = 32
SECONDS = 5.0
"""From the connection to the last byte of the answer."""
LARGEST_REQUEST = 8192
PATH = "/metrics"
_FREEBIND, _IPV6_FREEBIND = 15, 78
"""Options of ip(7) and ipv6(7) that Python has no names for."""


@dataclass
class _Visitor:
    connection: socket.socket
    until: float
    request: bytes = b""
    answer: memoryview | None = field(default=None)


class PageServer:
    """Answers GET and HEAD of /metrics; all else is refused. When full, the oldest connection goes."""

    def __init__(self, host: str, port: int, page: Callable[[], tuple[str, bytes]]) -> None:
        """`page` gives content type and content. Raises DeviceError where the address cannot be listened on."""
        self._page = page
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
                0
            ]
            self._listening, self.warning = _listen(family, (str(address[0]), int(address[1])))
        except (OSError, UnicodeError) as error:
            why = (getattr(error, "strerror", None) or str(error)).partition(" (")[0]
            raise DeviceError(f"metrics on {host}:{port}: {why}; choose another address or port") from None
        self._listening.setblocking(False)
        self.address: tuple[str, int] = self._listening.getsockname()[:2]
        self._visitors: dict[socket.socket, _Visitor] = {}
        self._waker, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="edgeasd-metrics", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop listening and let go of everyone."""
        self._waker.close()
        if self._thread.is_alive():
            self._thread.join(1.0)
        else:
            self._woken.close()
            self._listening.close()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector, self._woken, self._listening:
            selector.register(self._listening, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select(self._patience()):
                    if key.fileobj is self._woken:
                        for visitor in [*self._visitors.values()]:
                            self._let_go(selector, visitor)
                        return
                    if key.fileobj is self._listening:
                        self._welcome(selector)
                    elif (visitor := self._visitors.get(key.fileobj)) is not None:  # type: ignore[call-overload]
                        self._attend(selector, visitor)
                now = time.monotonic()
                for visitor in [visitor for visitor in self._visitors.values() if visitor.until <= now]:
                    self._let_go(selector, visitor)

    def _patience(self) -> float | None:
        first = min((visitor.until for visitor in self._visitors.values()), default=None)
        return None if first is None else max(0.0, first - time.monotonic())

    def _welcome(self, selector: selectors.BaseSelector) -> None:
        try:
            connection, _ = self._listening.accept()
        except OSError:  # gone again, or no file descriptors left
            time.sleep(0.01)
            return
        connection.setblocking(False)
        if len(self._visitors) >= MOST_CONNECTIONS:
            self._let_go(selector, next(iter(self._visitors.values())))
        self._visitors[connection] = _Visitor(connection, time.monotonic() + SECONDS)
        selector.register(connection, selectors.EVENT_READ)

    def _let_go(self, selector: selectors.BaseSelector, visitor: _Visitor) -> None:
        del self._visitors[visitor.connection]
        selector.unregister(visitor.connection)
        with suppress(OSError):
            visitor.connection.close()

    def _attend(self, selector: selectors.BaseSelector, visitor: _Visitor) -> None:
        try:
            if visitor.answer is None:
                over = self._read(visitor)
                if visitor.answer is not None:
                    selector.modify(visitor.connection, selectors.EVENT_WRITE)
            else:
                visitor.answer = visitor.answer[visitor.connection.send(visitor.answer) :]
                over = not visitor.answer
                if over:
                    # Else what it sent beyond its request would make the kernel reset the answer away.
                    visitor.connection.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            return
        except OSError:
            over = True
        if over:
            self._let_go(selector, visitor)

    def _read(self, visitor: _Visitor) -> bool:
        """Take in some of the request, and make the answer once it is whole; whether the visitor has gone."""
        data = visitor.connection.recv(LARGEST_REQUEST)
        visitor.request += data
        if b"\r\n\r\n" in visitor.request or b"\n\n" in visitor.request:
            visitor.answer = memoryview(self._answer(visitor.request))
        elif len(visitor.request) >= LARGEST_REQUEST:
            visitor.answer = memoryview(_response("431 Request Header Fields Too Large"))
        return not data

    def _answer(self, request: bytes) -> bytes:
        words = request.split(b"\r\n", 1)[0].split(b"\n", 1)[0].split(b" ")
        if len(words) != 3 or not words[2].strip().startswith(b"HTTP/1."):
            return _response("400 Bad Request")
        if words[1].partition(b"?")[0] != PATH.encode():
            return _response("404 Not Found", f"metrics are at {PATH}\n".encode())
        if words[0] not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", extra="Allow: GET, HEAD\r\n")
        try:
            kind, page = self._page()
        except Exception as error:  # the page is broken, the service is not
            return _response("500 Internal Server Error", f"{type(error).__name__}\n".encode())
        return _response("200 OK", page, kind, body=words[0] == b"GET")


def _listen(family: int, address: tuple[str, int]) -> tuple[socket.socket, str | None]:
    """A listening socket; with a warning where this machine does not have the address, or not yet.

    A box may be up before its network is, and nothing else of it should wait for that.
    """
    try:
        return socket.create_server(address, family=family, backlog=64), None
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        level, option = (
            (socket.IPPROTO_IPV6, _IPV6_FREEBIND) if family == socket.AF_INET6 else (socket.SOL_IP, _FREEBIND)
        )
        listening.setsockopt(level, option, 1)
        listening.bind(address)
        listening.listen(64)
    except BaseException:
        listening.close()
        raise
    return listening, f"{address[0]} is no address of this machine, or was not yet at the start"


def _response(
    status: str, content: bytes = b"", kind: str = "text/plain; charset=utf-8", extra: str = "", body: bool = True
) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n{extra}"
    head += "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
    return head.encode() + (content if body else b"")
