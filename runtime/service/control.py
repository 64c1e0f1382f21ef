"""The command socket: one line of JSON in, one line out, on a Unix socket in the data folder.

Its mode is 0600: only the user of the service may open it. Every request is bounded and parsed strictly.
"""

from __future__ import annotations

import json
import os
import socket
import socketserver
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgeasd.runtime.errors import EdgeasdError, InputError

SOCKET = "edgeasd.sock"
LARGEST_REQUEST = 8192
"""Bytes."""
_LARGEST_ANSWER = 16 * 1024 * 1024
_SECONDS = 5.0
_MOST_CONNECTIONS = 8
Answer = Callable[[dict[str, Any]], Any]
"""Takes a request, returns plain data. Raises EdgeasdError for a request that cannot be answered."""


class RequestRejected(InputError):
    """The service rejected a request."""


class _Handler(socketserver.StreamRequestHandler):
    timeout = _SECONDS
    server: ControlSocket

    def handle(self) -> None:
        # A client that goes away is no error of the service.
        with suppress(OSError):
            self.wfile.write(self.server.reply(self.rfile.readline(LARGEST_REQUEST + 1)).encode() + b"\n")


class ControlSocket(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Listens in the data folder and answers each request in a thread of its own."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 16

    def __init__(self, data: Path, answer: Answer) -> None:
        """Raises InputError if it cannot listen. The caller holds the folder's lock: an old socket is dead."""
        self._answer, self._path = answer, data / SOCKET
        self._free = threading.Semaphore(_MOST_CONNECTIONS)
        folder = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with suppress(FileNotFoundError):
                os.unlink(self._path)
            before = os.umask(0o177)
            try:
                super().__init__(_address(folder), _Handler)
            finally:
                os.umask(before)
        except OSError as error:
            raise InputError(f"{self._path}: {error.strerror}; give this user the folder") from None
        finally:
            os.close(folder)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.1,), name="edgeasd-control", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop listening and remove the socket."""
        if self._thread.ident is not None:
            self.shutdown()
        self.server_close()
        with suppress(OSError):
            os.unlink(self._path)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, if one of the few is free; else the connection waits a moment, then is closed."""
        if not self._free.acquire(timeout=1.0):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """As of the base class."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A broken connection ends itself and nothing else."""

    def reply(self, line: bytes) -> str:
        """The answer to a request line, as JSON."""
        try:
            return json.dumps({"ok": True, "answer": self._answer(_parse(line))})
        except EdgeasdError as error:
            return json.dumps({"ok": False, "error": str(error), "code": error.exit_code})
        except Exception as error:  # a request must not end the service
            return json.dumps({"ok": False, "error": f"{type(error).__name__} in the service", "code": 2})


def _address(folder: int) -> str:
    """The socket through the open folder: a path of its own may be longer than the 107 bytes a socket takes."""
    return f"/proc/self/fd/{folder}/{SOCKET}"


def _parse(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InputError(f"request: not one line with a JSON object of at most {LARGEST_REQUEST} bytes; send one")
    return value


def ask(data: Path, request: dict[str, Any]) -> Any:
    """The answer of the service that uses the data folder; None if no service runs there.

    Raises RequestRejected for a rejected request, and InputError if there is no answer.
    """
    path = data / SOCKET
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return None
        folder = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; run this as the user of the service") from None
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
            connection.settimeout(2 * _SECONDS)
            connection.connect(_address(folder))
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as answers:
                line = answers.readline(_LARGEST_ANSWER)
    except ConnectionRefusedError:
        return None
    except PermissionError:
        raise InputError(f"{path}: belongs to another user; run this as the user of the service") from None
    except OSError as error:
        raise InputError(f"{path}: no answer ({error}); look at the log of the service") from None
    finally:
        os.close(folder)
    return _unpack(line, path)


def _unpack(line: bytes, path: Path) -> Any:
    try:
        reply = json.loads(line)
        if reply["ok"]:
            return reply["answer"]
        reason = str(reply["error"])
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: no answer; look at the log of the service") from None
    raise RequestRejected(reason)
