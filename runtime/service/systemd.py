"""Messages to systemd by the protocol of sd_notify(3): one datagram of lines to the socket in NOTIFY_SOCKET."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress

from edgeasd.runtime.errors import printable


class SystemdNotifier:
    """Reports to the service manager; does nothing without one."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self.watchdog_seconds = _watchdog_seconds(environment)
        """`watchdog` must be called within this time, half of what systemd waits; None without a watchdog."""
        self._fed_at = 0.0

    def ready(self, status: str) -> None:
        """The service has started, or finished reloading."""
        self._send(f"READY=1\nSTATUS={printable(status)}")

    def status(self, status: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={printable(status)}")

    def reloading(self) -> None:
        """A reload has begun; `ready` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The service is about to end."""
        self._send("STOPPING=1")

    def watchdog(self, now: float) -> None:
        """Feed the watchdog if it is due; `now` is monotonic seconds."""
        if self.watchdog_seconds is not None and now - self._fed_at >= self.watchdog_seconds / 2:
            self._fed_at = now
            self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        if self._address[:1] not in ("/", "@"):
            return
        # A leading @ stands for the NUL byte of the abstract name space.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            sender.sendto(text.encode(), address)


def _watchdog_seconds(environment: Mapping[str, str]) -> float | None:
    pid, microseconds = environment.get("WATCHDOG_PID"), environment.get("WATCHDOG_USEC", "")
    if not (microseconds.isascii() and microseconds.isdigit()) or int(microseconds) == 0:
        return None
    if pid is not None and pid != str(os.getpid()):
        return None
    return int(microseconds) / 2e6
