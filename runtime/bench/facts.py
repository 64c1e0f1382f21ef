"""What a measurement was made on: processor, board, load, versions; no names of hosts or places."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgeasd.runtime.board import board_model, l4t_release, read_text


def machine(root: Path = Path("/")) -> dict[str, Any]:
    """Facts of this machine as JSON can hold them; `board` and `l4t` are None where it is not a Jetson."""
    return {
        "cpu": _processor(root),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": _memory(root),
        "board": board_model(root),
        "l4t": l4t_release(root),
        "load_at_start": load(root),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "onnxruntime": _onnxruntime(),
    }


def load(root: Path = Path("/")) -> float:
    """Load average of the last minute: work of others shows here and in every figure."""
    text = read_text(root, "proc/loadavg")
    return float(text.split()[0]) if text else round(os.getloadavg()[0], 2)


def busy(facts: dict[str, Any]) -> bool:
    """Whether others were at work before the measurement began: then its times are not this machine's own."""
    return float(facts["load_at_start"]) > 0.25 * int(facts["cores"])


def machine_line(facts: dict[str, Any]) -> str:
    """`machine()` as one line."""
    board = f"{facts['board']}, L4T {facts['l4t']}; " if facts["board"] else ""
    return (
        f"{board}{facts['cpu']}, {facts['cores']} cores, load {facts['load_at_start']} at start; "
        f"Python {facts['python']}, numpy {facts['numpy']}, onnxruntime {facts['onnxruntime']}"
    )


def _processor(root: Path) -> str:
    text = read_text(root, "proc/cpuinfo") or ""
    for line in text.splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory(root: Path) -> int | None:
    for line in (read_text(root, "proc/meminfo") or "").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) // 1024
    return None


def _onnxruntime() -> str:
    # Not the metadata: the package is called otherwise where it was built for a GPU.
    import onnxruntime

    return str(onnxruntime.__version__)
