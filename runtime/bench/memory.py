"""Memory of a process, as the kernel counts it."""

from __future__ import annotations

from pathlib import Path

_FIELDS = (("resident", "VmRSS"), ("peak", "VmHWM"))


def memory(pid: int | str = "self", root: Path = Path("/")) -> dict[str, float]:
    """Resident and peak resident memory of a process in MiB. Source: proc(5), /proc/PID/status.

    A peak is never taken back, so it belongs to one thing only where the process did one thing only. What a
    GPU of its own holds is not in it.
    """
    text = (root / f"proc/{pid}/status").read_text(encoding="utf-8")
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {name: int(fields[key].split()[0]) / 1024 for name, key in _FIELDS}
