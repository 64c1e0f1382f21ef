"""Area `time`: whether the clock is synchronised and plausible."""

from __future__ import annotations

import ctypes
import time
from datetime import datetime, timezone
from pathlib import Path

from edgeasd.runtime.doctor.result import CheckResult, not_asked
from edgeasd.runtime.system.board import is_live, list_names, locate

AREA = "time"
_WHY = "Records and alarms carry the time. Two boxes agree on when something happened only if a time server sets both."
_SERVICES = ("systemd-timesyncd", "chrony", "chronyd", "ntp", "ntpd", "ntpsec")
_TIME_ERROR = 5
"""What adjtimex(2) returns for a clock that is not synchronised."""
_EARLIEST = 1735689600.0
"""2025-01-01, before edgeasd existed. A board without a battery starts in the past."""


def check(root: Path) -> list[CheckResult]:
    """Results `synchronised` and `clock`."""
    return [_synchronised(root), _clock(root)]


def services(root: Path) -> list[str]:
    """Time services that systemd starts, by the links in its .wants folders."""
    folders = [
        f"etc/systemd/system/{name}" for name in list_names(root, "etc/systemd/system") if name.endswith(".wants")
    ]
    units = {unit.removesuffix(".service") for folder in folders for unit in list_names(root, folder)}
    return [service for service in _SERVICES if service in units]


def is_kernel_clock_synchronised() -> bool | None:
    """Whether the kernel's clock is synchronised, by any service; None if that is unknown. Source: adjtimex(2)."""
    try:
        # A zeroed structure sets nothing. Only the return value is used, so its layout does not matter.
        answer = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(1024))
    except (OSError, AttributeError):
        return None
    return None if answer < 0 else answer != _TIME_ERROR


def _synchronised(root: Path) -> CheckResult:
    found = services(root)
    started = f"{' and '.join(found)} starts with the system" if found else "no time service starts with the system"
    command = (
        "sudo timedatectl set-ntp true"
        if found
        else "sudo apt install systemd-timesyncd && sudo timedatectl set-ntp true"
    )
    if not is_live(root):
        if not list_names(root, "etc/systemd"):
            return not_asked(AREA, "synchronised", _WHY)
        words = f"{started}; whether it reaches a server was not asked" if found else started
        return CheckResult(AREA, "synchronised", "ok" if found else "warning", words, _WHY, None if found else command)
    answer = is_kernel_clock_synchronised()
    if answer is None:
        answer = locate(root, "run/systemd/timesync/synchronized") is not None
    if answer:
        return CheckResult(AREA, "synchronised", "ok", f"the clock is synchronised; {started}", _WHY)
    return CheckResult(AREA, "synchronised", "warning", f"the clock is not synchronised; {started}", _WHY, command)


def _clock(root: Path) -> CheckResult:
    why = _WHY + " With a wrong date encrypted connections fail too."
    if not is_live(root):
        return not_asked(AREA, "clock", why)
    now = time.time()
    found = datetime.fromtimestamp(now, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    if now < _EARLIEST:
        return CheckResult(
            AREA, "clock", "warning", f"{found}, which is in the past", why, "sudo timedatectl set-ntp true"
        )
    return CheckResult(AREA, "clock", "ok", found, why)
