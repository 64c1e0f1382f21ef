"""The command socket: one line of JSON in, one line out, on a Unix socket in the data folder.

Its mode is 0600: who may open it is this user. Still everything that comes in is bounded and parsed strictly.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgeasd.runtime.errors import EdgeasdError, InputError

SOCKET = "edgeasd.sock"
LARGEST = 8192
"""Bytes of a request."""
_LARGEST_ANSWER = 16 * 1024 * 1024
_SECONDS = 5.0
_VISITORS = 8
Answer = Callable[[dict[str, Any]], Any]
"""Given a request, plain data to answer with. Raises EdgeasdError for a request that cannot be answered."""


class Refused(InputError):
    """What the service says to a request that it cannot answer."""


def _address(folder: int) -> str:
    """The socket through the open folder: a path of its own may be longer than the 107 bytes a socket takes."""
    return f"/proc/self/fd/{folder}/{SOCKET}"


class ControlSocket:
    """Listens in the data folder and answers each request in a thread of its own."""

    def __init__(self, data: Path, answer: Answer) -> None:
        """Raises InputError where it cannot listen. The caller holds the folder's lock: an old socket is dead."""
        self._answer, self._path = answer, data / SOCKET
        self._room = threading.Semaphore(_VISITORS)
        folder = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            with suppress(FileNotFoundError):
                os.unlink(self._path)
            before = os.umask(0o177)
            try:
                self._listening.bind(_address(folder))
            finally:
                os.umask(before)
            self._listening.listen(16)
        except OSError as error:
            self._listening.close()
            raise InputError(f"{self._path}: {error.strerror}; give this user the folder") from None
        finally:
            os.close(folder)
        self._thread = threading.Thread(target=self._serve, name="edgeasd-control", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop listening and take the socket away."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        with suppress(OSError):
            os.unlink(self._path)

    def _serve(self) -> None:
        while True:
            try:
                visitor, _ = self._listening.accept()
            except OSError:
                if self._listening.fileno() < 0:
                    return
                time.sleep(0.05)
                continue
            if not self._room.acquire(timeout=_SECONDS):
                visitor.close()
                continue
            try:
                threading.Thread(target=self._attend, args=(visitor,), name="edgeasd-visitor", daemon=True).start()
            except RuntimeError:  # no thread to be had now: this visitor goes unanswered, the next may not
                self._room.release()
                visitor.close()

    def _attend(self, visitor: socket.socket) -> None:
        try:
            with visitor, suppress(OSError):
                visitor.settimeout(_SECONDS)
                visitor.sendall(self._reply(_read_line(visitor, LARGEST)).encode() + b"\n")
        finally:
            self._room.release()

    def _reply(self, line: bytes) -> str:
        try:
            return json.dumps({"ok": True, "answer": self._answer(_parse(line))})
        except EdgeasdError as error:
            return json.dumps({"ok": False, "error": str(error), "code": error.exit_code})
        except Exception as error:  # a visitor must not end the service
            return json.dumps({"ok": False, "error": f"{type(error).__name__} in the service", "code": 2})


def _read_line(connection: socket.socket, largest: int) -> bytes:
    data, until = b"", time.monotonic() + _SECONDS
    while b"\n" not in data and len(data) <= largest and time.monotonic() < until:
        part = connection.recv(65536)
        if not part:
            break
        data += part
    return data


def _parse(line: bytes) -> dict[str, Any]:
    text, end, _ = line.partition(b"\n")
    try:
        value = json.loads(text) if end and len(text) <= LARGEST else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InputError(f"request: not one line with a JSON object of at most {LARGEST} bytes; send one")
    return value


def ask(data: Path, request: dict[str, Any]) -> Any:
    """What the service that uses the data folder answers; None where no service runs there.

    Raises Refused for what it refuses, and InputError where it does not answer.
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
            line = _read_line(connection, _LARGEST_ANSWER)
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
        said = str(reply["error"])
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: no answer; look at the log of the service") from None
    raise Refused(said)
