"""Area `memory`: total, available, and swap."""

from __future__ import annotations

import re
from pathlib import Path

from edgeasd.runtime.doctor.result import CheckResult, not_asked
from edgeasd.runtime.system.board import is_jetson, is_live, read_number, read_text

AREA = "memory"
_GIB = 2**30
_TOO_LITTLE, _LITTLE = 0.12 * _GIB, 0.6 * _GIB
"""A listener with the small backbone takes 87 MiB, ResNet38 in fp32 peaks at 489 MiB (docs/results/runtime.md)."""

_PLENTY = 16 * _GIB
_MAKE_SWAP = (
    "sudo fallocate -l 8G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile && sudo swapon /swapfile"
)


def check(root: Path) -> list[CheckResult]:
    """Results `memory` and `swap`."""
    return [_memory(root), _swap(root)]


def parse_meminfo(text: str) -> dict[str, int]:
    """/proc/meminfo as bytes by name. Source: proc_meminfo(5)."""
    pairs = re.findall(r"^([\w()]{1,40}):\s+(\d{1,15}) kB\s*$", text, re.MULTILINE | re.ASCII)
    return {name: int(value) * 1024 for name, value in pairs}


def parse_swaps(text: str) -> dict[str, int]:
    """/proc/swaps as bytes by file or device. Source: proc_swaps(5)."""
    pairs = re.findall(r"^(/\S{1,200})\s+\w+\s+(\d{1,15})\s", text, re.MULTILINE | re.ASCII)
    return {name: int(value) * 1024 for name, value in pairs}


def _memory(root: Path) -> CheckResult:
    why = "Listening takes 0.1 GiB with the small backbone and 0.5 with ResNet38 in fp32, and building an engine more."
    sizes = parse_meminfo(read_text(root, "proc/meminfo", 65536) or "")
    if "MemTotal" not in sizes:
        if is_live(root):
            return CheckResult(AREA, "memory", "warning", "/proc/meminfo cannot be read", why)
        return not_asked(AREA, "memory", why)
    total, free = sizes["MemTotal"], sizes.get("MemAvailable", sizes.get("MemFree", 0))
    # A container may have less than its host shows: the limit of its control group, if any.
    limit = read_number(root, "sys/fs/cgroup/memory.max")
    limited = limit is not None and 0 < limit < total
    if limit is not None and limited:
        free = min(free, max(0, limit - (read_number(root, "sys/fs/cgroup/memory.current") or 0)))
        total = limit
    found = f"{total / _GIB:.1f} GiB{' by the limit of this container' if limited else ''}, {free / _GIB:.1f} available"
    state = "problem" if free < _TOO_LITTLE else "warning" if free < _LITTLE else "ok"
    command = "sudo systemctl isolate multi-user.target" if state != "ok" and is_jetson(root) else None
    if command:
        why += " GPU and CPU share it here. The command stops the desktop until the next start."
    return CheckResult(AREA, "memory", state, found, why, command)


def _swap(root: Path) -> CheckResult:
    why = "Building an engine for a large network takes more memory than running it. Swap on a disk helps it through."
    text = read_text(root, "proc/swaps", 65536)
    if text is None and not is_live(root):
        return not_asked(AREA, "swap", why)
    swaps = parse_swaps(text or "")
    disks = {name: size for name, size in swaps.items() if not re.match(r"/dev/zram", name)}
    zram = sum(swaps.values()) - sum(disks.values())
    listed = [f"{size / _GIB:.1f} GiB on {name}" for name, size in disks.items()]
    found = ", ".join([*listed, *([f"{zram / _GIB:.1f} GiB compressed in memory (zram)"] if zram else [])]) or "none"
    if any("mmcblk" in name for name in disks):
        why += " It wears an SD card or eMMC out: keep it for the build, and off in service."
        return CheckResult(AREA, "swap", "hint", found, why)
    total = parse_meminfo(read_text(root, "proc/meminfo", 65536) or "").get("MemTotal", 0)
    if not disks and is_jetson(root) and total < _PLENTY:
        why += " It wears an SD card or eMMC out, so switch it off after the build: sudo swapoff /swapfile."
        return CheckResult(AREA, "swap", "hint", found, why, _MAKE_SWAP)
    return CheckResult(AREA, "swap", "ok" if swaps else "absent", found, why)
