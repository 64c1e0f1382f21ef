"""What board this is, as its own files say: L4T release, JetPack, model; all absent on any box but a Jetson."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from edgeasd.runtime.system_files import read_text

_RELEASE = re.compile(r"#\s*R(?P<major>\d{1,3})\s*\(release\),\s*REVISION:\s*(?P<revision>\d{1,3}(\.\d{1,3})*)")


class JetPack(NamedTuple):
    """A JetPack by its version, and the TensorRT, CUDA and system Python that it brings (major.minor)."""

    version: str
    tensorrt: str
    cuda: str
    python: str


_COMPONENTS = {
    "6.0": ("8.6", "12.2", "3.10"),
    "6": ("10.3", "12.6", "3.10"),
    "7.0": ("10.13", "13.0", "3.12"),
    "7.1": ("10.13", "13.0", "3.12"),
    "7.2": ("10.16", "13.2", "3.12"),
}
_VERSIONS = {
    "36.3": "6.0",
    "36.4": "6.1",
    "36.4.2": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.4.7": "6.2.1",
    "36.5": "6.2.2",
    "38.2": "7.0",
    "38.2.1": "7.0",
    "38.2.2": "7.0",
    "38.4": "7.1",
    "39.2": "7.2",
    "39.2.1": "7.2.1",
}
"""L4T to JetPack, from https://developer.nvidia.com/embedded/jetpack-archive. A release that is not listed
stays unknown: between two listed ones the components have changed before, so the nearest is no answer."""


def l4t_release(root: Path = Path("/")) -> str | None:
    """Release of Jetson Linux, "36.4.3", or None. Source: the first line of /etc/nv_tegra_release."""
    found = _RELEASE.search(read_text(root, "etc/nv_tegra_release") or "")
    return f"{found['major']}.{found['revision']}" if found else None


def jetpack(release: str | None) -> JetPack | None:
    """The JetPack of an L4T release ("36.4.3" to 6.2), or None for one that is not known."""
    version = _VERSIONS.get(re.sub(r"^(\d+\.\d+)\.0$", r"\1", release or ""))
    if version is None:
        return None
    components = _COMPONENTS.get(version) or _COMPONENTS.get(version[:3]) or _COMPONENTS[version[0]]
    return JetPack(version, *components)


def board_model(root: Path = Path("/")) -> str | None:
    """Model as the device tree names it ("NVIDIA Jetson Orin Nano Developer Kit"), or None."""
    text = read_text(root, "proc/device-tree/model")
    return text.rstrip("\0\n ") or None if text else None


def is_jetson(root: Path = Path("/")) -> bool:
    """Whether release file or device tree speak of a Jetson. In a container the release file is often missing."""
    compatible = read_text(root, "proc/device-tree/compatible") or ""
    return l4t_release(root) is not None or "nvidia,tegra" in compatible or "Jetson" in (board_model(root) or "")
