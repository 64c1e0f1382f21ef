"""Reads system files below a root, and from them what board this is.

The root may be a copy or an image of a machine: links do not lead out of it, and no file there can block or flood the
reader.
"""

from __future__ import annotations

import os
import re
import stat
from collections import deque
from pathlib import Path
from typing import NamedTuple

_MOST_LINKS = 40
"""As many as Linux follows before it calls a path a loop (path_resolution(7))."""
_MOST_NAMES = 4096


def is_live(root: Path) -> bool:
    """Whether `root` is the running machine, not a copy or an image of one."""
    return os.path.realpath(root) == "/"


def locate(root: Path, path: str) -> Path | None:
    """The real place of `path` of the machine below `root`, or None if it does not exist.

    Links are followed as that machine would follow them: an absolute one starts again at `root`, and `..` does not lead
    above it. In an image, /etc/nvpmodel.conf must not lead to the file of the host.
    """
    top = Path(os.path.realpath(root))
    todo, at, links = deque(path.split("/")), list[str](), 0
    while todo:
        part = todo.popleft()
        if part in ("", "."):
            continue
        if part == "..":
            del at[-1:]
            continue
        try:
            target = os.readlink(top.joinpath(*at, part))
        except (OSError, ValueError):
            at.append(part)
            continue
        links += 1
        if links > _MOST_LINKS:
            return None
        if target.startswith("/"):
            at.clear()
        todo.extendleft(reversed(target.split("/")))
    found = top.joinpath(*at)
    try:
        os.lstat(found)
    except (OSError, ValueError):
        return None
    return found


def read_text(root: Path, path: str, largest: int = 4096) -> str | None:
    """The first `largest` bytes of a regular file under `root`, or None if there is none or it cannot be read.

    Bytes that are not UTF-8 become U+FFFD. Pipes and device nodes are never opened: they may block or have effects.
    """
    place = locate(root, path)
    try:
        if place is None or not stat.S_ISREG(os.lstat(place).st_mode):
            return None
        with open(place, "rb") as handle:
            return handle.read(largest).decode("utf-8", "replace")
    except OSError:
        return None


def read_number(root: Path, path: str) -> int | None:
    """The decimal number in a file under `root`, as in sysfs, or None."""
    found = re.fullmatch(r"\s*(-?[0-9]{1,18})\s*", read_text(root, path, 64) or "")
    return int(found[1]) if found else None


def list_names(root: Path, path: str) -> list[str]:
    """Names in a folder under `root`, sorted, at most 4096; empty if it is missing or cannot be read."""
    place = locate(root, path)
    if place is None:
        return []
    names = []
    try:
        with os.scandir(place) as entries:
            for entry in entries:
                names.append(entry.name)
                if len(names) == _MOST_NAMES:
                    break
    except OSError:
        return []
    return sorted(names)


_RELEASE = re.compile(r"#\s*R(?P<major>\d{1,3})\s*\(release\),\s*REVISION:\s*(?P<revision>\d{1,3}(\.\d{1,3})*)")


class JetPack(NamedTuple):
    """A JetPack version with its TensorRT, CUDA and system Python (major.minor)."""

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
"""L4T to JetPack, from https://developer.nvidia.com/embedded/jetpack-archive. A release that is not listed is unknown:
components have changed between two listed ones before."""


def l4t_release(root: Path = Path("/")) -> str | None:
    """Release of Jetson Linux, "36.4.3", or None. Source: the first line of /etc/nv_tegra_release."""
    found = _RELEASE.search(read_text(root, "etc/nv_tegra_release") or "")
    return f"{found['major']}.{found['revision']}" if found else None


def jetpack(release: str | None) -> JetPack | None:
    """The JetPack of an L4T release ("36.4.3" to 6.2), or None if unknown."""
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
    """Whether release file or device tree name a Jetson. In a container the release file is often missing."""
    compatible = read_text(root, "proc/device-tree/compatible") or ""
    return l4t_release(root) is not None or "nvidia,tegra" in compatible or "Jetson" in (board_model(root) or "")
