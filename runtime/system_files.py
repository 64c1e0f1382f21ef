"""System files under a root: links lead nowhere else, and nothing that is found there can block or flood the reader."""

from __future__ import annotations

import os
import re
import stat
from collections import deque
from pathlib import Path

_MOST_LINKS = 40
"""As many as Linux follows before it calls a path a loop (path_resolution(7))."""
_MOST_NAMES = 4096


def is_live(root: Path) -> bool:
    """Whether `root` is the running machine itself, and not a copy or an image of one."""
    return os.path.realpath(root) == "/"


def locate(root: Path, path: str) -> Path | None:
    """Where `path` of the machine below `root` really is, or None where it is not there.

    Links are followed as that machine would follow them: an absolute one starts again at `root`, and `..`
    does not climb above it. In an image, /etc/nvpmodel.conf must not lead to the file of the host.
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
    """The first `largest` bytes of a regular file under `root`, or None where there is none or it cannot be read.

    Bytes that are not UTF-8 become U+FFFD. Pipes and device nodes are never opened: they may block, or act.
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
    """The decimal number that a file under `root` holds, as those of sysfs do, or None."""
    found = re.fullmatch(r"\s*(-?[0-9]{1,18})\s*", read_text(root, path, 64) or "")
    return int(found[1]) if found else None


def list_names(root: Path, path: str) -> list[str]:
    """Names in a folder under `root`, sorted, at most 4096; none where it is absent or cannot be read."""
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
