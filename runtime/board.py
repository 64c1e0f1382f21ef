"""What board this is, as its own files say: L4T release and model, both absent on any box but a Jetson."""

from __future__ import annotations

import re
from pathlib import Path

_RELEASE = re.compile(r"#\s*R(?P<major>\d{1,3})\s*\(release\),\s*REVISION:\s*(?P<revision>\d{1,3}(\.\d{1,3})*)")
_LARGEST = 4096


def read_text(root: Path, path: str) -> str | None:
    """First 4 KiB of a system file under `root`, or None where it is not or cannot be read."""
    try:
        with open(root / path, "rb") as handle:
            return handle.read(_LARGEST).decode("utf-8", "replace")
    except OSError:
        return None


def l4t_release(root: Path = Path("/")) -> str | None:
    """Release of Jetson Linux, "36.4.3", or None. Source: the first line of /etc/nv_tegra_release."""
    found = _RELEASE.search(read_text(root, "etc/nv_tegra_release") or "")
    return f"{found['major']}.{found['revision']}" if found else None


def board_model(root: Path = Path("/")) -> str | None:
    """Model as the device tree names it ("NVIDIA Jetson Orin Nano Developer Kit"), or None."""
    text = read_text(root, "proc/device-tree/model")
    return text.rstrip("\0\n ") or None if text else None
