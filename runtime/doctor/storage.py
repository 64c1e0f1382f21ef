"""Area `storage`: room, and how long the disk will last that is written to for months."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from edgeasd.runtime.doctor.result import CheckResult, not_asked
from edgeasd.runtime.system.board import is_live, read_number, read_text

AREA = "storage"
_GB = 10**9
_TOO_LITTLE, _LITTLE = 0.2 * _GB, 2 * _GB
_DISK = re.compile(r"/dev/(?:(mmcblk\d{1,3}|nvme\d{1,3}n\d{1,3})(?:p\d{1,3})?|((?:sd|vd|xvd|hd)[a-z]{1,3})\d{0,3})")
_WEAR = "The records of one stream are 0.2 GB a day (`run --jsonl`), 70 GB a year."


def check(root: Path) -> list[CheckResult]:
    """Results `space`, `medium` and `wear`; of the current folder, below another root of that machine's /."""
    place = os.getcwd() if is_live(root) else "/"
    disk = disk_of(read_text(root, "proc/mounts", 2**18) or "", place)
    return [_space(root, place), _medium(root, disk), _wear(root, disk)]


def disk_of(mounts: str, place: str) -> str | None:
    """The disk (mmcblk0, nvme0n1, sda) that `place` is on, by /proc/mounts (proc_mounts(5)); None if it is on no disk."""
    device, longest = "", -1
    for line in mounts.splitlines():
        source, _, rest = line.partition(" ")
        point = re.sub(r"\\([0-3][0-7]{2})", lambda found: chr(int(found[1], 8)), rest.partition(" ")[0])
        # A later mount at the same point covers the earlier one.
        if (place == point or place.startswith(point.rstrip("/") + "/")) and len(point) >= longest:
            device, longest = source, len(point)
    found = _DISK.fullmatch(device)
    return (found[1] or found[2]) if found else None


def _space(root: Path, place: str) -> CheckResult:
    why = f"Bundles, engines and records are written there. {_WEAR}"
    if not is_live(root):
        return not_asked(AREA, "space", why)
    usage = shutil.disk_usage(place)
    state = "problem" if usage.free < _TOO_LITTLE else "warning" if usage.free < _LITTLE else "ok"
    found = f"{usage.free / _GB:.1f} GB free of {usage.total / _GB:.1f} where you are"
    return CheckResult(
        AREA,
        "space",
        state,
        found,
        why,
        None if state == "ok" else "sudo apt clean && sudo journalctl --vacuum-size=100M",
    )


def _kind(root: Path, disk: str) -> str:
    """ "SD card", "eMMC", "NVMe", "USB stick", "hard disk" or "disk", by what the kernel says of it."""
    block = f"sys/block/{disk}"
    if disk.startswith("mmcblk"):
        return "SD card" if (read_text(root, f"{block}/device/type", 16) or "").strip() == "SD" else "eMMC"
    if disk.startswith("nvme"):
        return "NVMe"
    if read_number(root, f"{block}/removable") == 1:
        return "USB stick"
    return "hard disk" if read_number(root, f"{block}/queue/rotational") == 1 and disk.startswith("sd") else "disk"


def _medium(root: Path, disk: str | None) -> CheckResult:
    why = f"{_WEAR} An SD card or a USB stick is not made for that and fails without warning."
    if disk is None:
        if not is_live(root) and read_text(root, "proc/mounts") is None:
            return not_asked(AREA, "medium", why)
        return CheckResult(AREA, "medium", "absent", "not on a disk of its own, or on one that is not known", why)
    kind = _kind(root, disk)
    found = f"{kind} ({disk})"
    if kind in ("SD card", "USB stick"):
        why += " Run from an NVMe or eMMC; or write records to another disk, and mount this one with noatime."
        return CheckResult(AREA, "medium", "warning", found, why)
    if kind == "hard disk":
        return CheckResult(
            AREA, "medium", "hint", found, f"{_WEAR} A hard disk suffers from vibration beside a machine."
        )
    return CheckResult(AREA, "medium", "ok", found, why)


def _wear(root: Path, disk: str | None) -> CheckResult:
    """Source: /sys/block/mmcblkN/device/life_time and pre_eol_info, JEDEC JESD84-B51 fields 267 to 269, steps of 10 %."""
    why = "eMMC counts its own wear. Replace the module or move what is written before it is used up."
    device = f"sys/block/{disk}/device"
    steps = re.findall(r"0x([0-9a-fA-F]{2})\b", (read_text(root, f"{device}/life_time", 64) or "") if disk else "")
    used = max((int(step, 16) for step in steps), default=0)
    if not 1 <= used <= 11:
        return CheckResult(AREA, "wear", "absent", "the disk does not say here how worn it is", why)
    found = "beyond its rated life" if used == 11 else f"{10 * (used - 1)} to {10 * used} % of its rated life is used"
    reserve = re.match(r"0x0([23])", read_text(root, f"{device}/pre_eol_info", 16) or "")
    if used == 11 or (reserve and reserve[1] == "3"):
        return CheckResult(AREA, "wear", "problem", found, why)
    return CheckResult(AREA, "wear", "warning" if used >= 8 or reserve else "ok", found, why)
