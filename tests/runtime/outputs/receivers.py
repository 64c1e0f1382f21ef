"""Receivers for tests: real processes that can be stopped, stalled and killed. Needs the standard library only."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from made import free_port, until

_SERVER = """
import http.server, json, sys, threading
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    answers = []
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if len(body) < int(self.headers["Content-Length"]):
            self.close_connection = True  # the sender died meanwhile
            return
        status, headers = self.answers.pop(0) if self.answers else (200, {})
        print(json.dumps({"path": self.path, "headers": dict(self.headers), "body": body.decode(), "status": status}),
              flush=True)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
server.daemon_threads = True
server.handle_error = lambda *_: None
if len(sys.argv) > 3:
    import ssl
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2], sys.argv[3])
    server.socket = context.wrap_socket(server.socket, server_side=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
print("ready", flush=True)
for line in sys.stdin:
    answers = json.loads(line)
    if answers is None:
        Handler.answers.clear()
    else:
        Handler.answers.extend(answers)
    print("taken", flush=True)
"""


class WebServer:
    """Takes POSTs, and answers 200 or what `answer` said."""

    def __init__(self, *certificate: Path) -> None:
        self.port = free_port()
        self.requests: list[dict[str, Any]] = []
        self._certificate = certificate
        self._taken = threading.Event()
        self.start()

    @property
    def url(self) -> str:
        return f"http{'s' if self._certificate else ''}://127.0.0.1:{self.port}/hook?plant=1"

    @property
    def messages(self) -> list[dict[str, Any]]:
        """What was taken, as JSON."""
        return [json.loads(request["body"]) for request in self.requests if request["status"] == 200]

    def start(self) -> None:
        command = [sys.executable, "-S", "-c", _SERVER, str(self.port), *map(str, self._certificate)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        self._reader = threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True)
        self._reader.start()

    def _read(self, lines: Any) -> None:
        for line in lines:
            if line == "taken\n":
                self._taken.set()
            elif line.endswith("\n"):
                self.requests.append(json.loads(line))

    def answer(self, *answers: int | tuple[int, dict[str, str]]) -> None:
        """What the next requests get, in order."""
        self._tell([answer if isinstance(answer, tuple) else (answer, {}) for answer in answers])

    def reset(self) -> None:
        """Forget what was taken, and what was to be answered."""
        self._tell(None)
        self.requests = []

    def _tell(self, answers: list[tuple[int, dict[str, str]]] | None) -> None:
        assert self.process.stdin is not None
        self._taken.clear()
        self.process.stdin.write(json.dumps(answers) + "\n")
        self.process.stdin.flush()
        assert self._taken.wait(5)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(5)


class Broker:
    """mosquitto, with whatever further lines of configuration."""

    def __init__(self, folder: Path, *lines: str) -> None:
        self.folder, self.port = folder, free_port()
        folder.mkdir()
        self.lines = [f"listener {self.port} 127.0.0.1", *(lines or ("allow_anonymous true",))]

    def start(self) -> None:
        configuration = self.folder / "mosquitto.conf"
        # As root it would become the user mosquitto, who may read nothing here.
        user = ["user root"] if os.getuid() == 0 else []
        configuration.write_text("\n".join([*self.lines, *user, "log_type all"]) + "\n")
        command = [shutil.which("mosquitto") or "/usr/sbin/mosquitto", "-c", str(configuration)]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

        def listens() -> bool:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return True
            assert self.process.poll() is None, (self.folder / "log").read_text()
            return False

        until(listens)

    def stop(self, with_signal: int = signal.SIGKILL) -> None:
        self.process.send_signal(with_signal)
        self.process.wait()


class Proxy:
    """Passes bytes on to a port, until it is told to hold them back or to cut the line."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self.stalled = False
        self.torn = 0
        self._tear: Callable[[], int] | None = None
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def connections(self) -> int:
        """Lines that there have been."""
        return len(self._pairs)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._server.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._target), 5)
                except OSError:
                    near.close()
                    continue
                for end in (near, far):
                    # Else a message in two pieces takes 40 ms: the second waits for the first to be acknowledged.
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._pairs.append((near, far))
                threading.Thread(target=self._pass, args=(near, far), daemon=True).start()

    def _pass(self, near: socket.socket, far: socket.socket) -> None:
        allowed: int | None = None
        with suppress(OSError, ValueError):
            while True:
                if self.stalled:
                    time.sleep(0.01)
                    continue
                for ready in select.select([near, far], [], [], 0.02)[0]:
                    if self.stalled:
                        break
                    data = ready.recv(65536)
                    if not data:
                        return self._cut(near, far)
                    if self._tear is not None and ready is near:
                        allowed = self._tear() if allowed is None else allowed
                        if len(data) > allowed:
                            return self._reset(data[:allowed], near, far)
                        allowed -= len(data)
                    (far if ready is near else near).sendall(data)
        return self._cut(near, far)

    def tear(self, after: Callable[[], int] | None) -> None:
        """Reset each connection once it has passed on so many bytes of its sender from now on: in mid-message."""
        self._tear = after

    def _reset(self, last: bytes, near: socket.socket, far: socket.socket) -> None:
        self.torn += 1
        with suppress(OSError):
            far.sendall(last)
        for end in (near, far):
            # Without lingering, closing sends a reset.
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._cut(near, far)

    def _cut(self, *pair: socket.socket) -> None:
        for end in pair:
            with suppress(OSError):
                end.close()

    def cut(self) -> None:
        """Drop every connection."""
        for pair in self._pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def close(self) -> None:
        self._server.close()
        self.cut()
