"""Whether the box has booted since the last time: the monotonic clock then tells another time."""

from __future__ import annotations

from pathlib import Path

from edgeasd.runtime.system.files import write_bytes

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def booted_anew(data: Path, source: Path = _BOOT_ID, *, remember: bool = True) -> bool:
    """Whether `data` was last used under another boot of this box; with `remember` notes this one."""
    try:
        now = source.read_bytes().strip()[:64]
    except OSError:
        return True
    path = data / "boot_id"
    try:
        before = path.read_bytes()[:64]
    except OSError:
        before = b""
    if before == now:
        return False
    if remember:
        write_bytes(path, now)
    return True
