"""Area `permissions`: whether the user may open sound devices and the GPU."""

from __future__ import annotations

import os
import re
from pathlib import Path

from edgeasd.runtime.doctor.result import CheckResult
from edgeasd.runtime.system.board import is_jetson, is_live, list_names, locate, read_text

AREA = "permissions"
_DAEMONS = {"pulse", "gdm", "speech-dispatcher"}
"""Accounts of daemons, which a desktop puts into the groups; no person logs in as one."""


def check(root: Path) -> list[CheckResult]:
    """Results `sound` and `gpu`. Below another root than / only the members of the groups are known."""
    nodes = [f"dev/snd/{name}" for name in list_names(root, "dev/snd") if re.fullmatch(r"pcmC\d+D\d+c", name)]
    sound = _access(
        root, "sound", "audio", nodes, "Capture opens the nodes in /dev/snd, which belong to the group audio."
    )
    if not is_jetson(root):
        return [sound]
    gpu = [node for node in ("dev/nvmap", "dev/nvhost-gpu") if locate(root, node)]
    why = "CUDA opens the nodes of the GPU, which belong to the group video or render."
    return [sound, _access(root, "gpu", "video", gpu, why)]


def parse_group(text: str, name: str) -> list[str] | None:
    """Members of a group in /etc/group (group(5)), or None if there is no such group."""
    found = re.search(rf"^{re.escape(name)}:[^:\n]*:\d{{1,10}}:([^\n]*)$", text, re.MULTILINE | re.ASCII)
    return None if found is None else [member for member in found[1].split(",") if member]


def _access(root: Path, name: str, group: str, nodes: list[str], why: str) -> CheckResult:
    members = parse_group(read_text(root, "etc/group", 2**18) or "", group)
    command = f"sudo usermod -aG {group} $USER"
    if not is_live(root):
        if members is None:
            return CheckResult(AREA, name, "absent", f"no group {group} in /etc/group", why)
        members = [member for member in members if member not in _DAEMONS]
        if not members:
            return CheckResult(
                AREA, name, "hint", f"nobody is in the group {group}", why, f"sudo usermod -aG {group} USER"
            )
        found = f"in the group {group}: {', '.join(members)}; which user will run edgeasd was not asked"
        return CheckResult(AREA, name, "ok", found, why)
    if not nodes:
        return CheckResult(AREA, name, "absent", "no such device here", why)
    closed = [node for node in nodes if not os.access(f"/{node}", os.R_OK | os.W_OK)]
    if not closed:
        return CheckResult(AREA, name, "ok", f"this user may open {_count(nodes)}", why)
    found = f"this user may not open {_count(closed)}, first /{closed[0]}"
    why += " After the command, log out and in: groups are given at login."
    return CheckResult(AREA, name, "problem" if closed == nodes else "warning", found, why, command)


def _count(nodes: list[str]) -> str:
    return f"{len(nodes)} device{'s' if len(nodes) > 1 else ''}"
