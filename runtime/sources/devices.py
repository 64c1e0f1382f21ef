"""The capture devices of this machine: ALSA cards and PCM names, each probed for what it offers."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeasd.runtime.doctor.sound import CaptureDevice, capture_devices

PROBE = Path(__file__).with_name("alsa_probe.py")
PROBE_SECONDS = 3.0
_CARD_PREFIXES = ("hw:", "plughw:")
_STATES = {-errno.EBUSY: "busy", -errno.EACCES: "forbidden", -errno.EPERM: "forbidden"}


@dataclass(frozen=True, slots=True)
class Device:
    """One name for `--device`, and what it offers.

    `state` is "ok", "busy" (another program has it), "forbidden" (for this user), or "refused" (it does not open
    for capture, does not answer, or crashes its caller); `reason` says why it is not ok. Formats and rates (Hz)
    are those that edgeasd can use; `channels` is a range.
    """

    name: str
    kind: str
    """"card" or "name"."""
    description: str
    state: str
    reason: str = ""
    formats: tuple[str, ...] = ()
    rates: tuple[int, ...] = ()
    channels: tuple[int, int] | None = None


def find_devices(
    root: Path = Path("/"), report: Callable[[int, int, str], None] = lambda *_: None
) -> tuple[list[Device], str]:
    """Every capture device of every card as `hw:`, then the other PCM names; and a note if ALSA itself is missing.

    Cards come from /proc below `root`, so that a busy card is listed too. Each device is opened for a moment, in
    a child process with a limit of 3 s, and without reading a sample. Raises nothing.
    """
    cards = [(f"hw:CARD={card.card_id or card.card},DEV={card.device}", card) for card in capture_devices(root)]
    listed = _run_probe("names")
    names = [name for name in listed.get("names", []) if not str(name["name"]).startswith(_CARD_PREFIXES)]
    total = len(cards) + len(names)
    devices: list[Device] = []
    for name, card in cards:
        report(len(devices), total, name)
        if _is_forbidden(root, card):
            devices.append(Device(name, "card", card.description, "forbidden", "Permission denied"))
        else:
            devices.append(probe(name, "card", card.description))
    for other in names:
        report(len(devices), total, str(other["name"]))
        devices.append(probe(str(other["name"]), "name", str(other["description"])))
    report(total, total, "")
    return devices, "" if listed["code"] == 0 else str(listed["reason"])


def _is_forbidden(root: Path, device: CaptureDevice) -> bool:
    """Checks the device file: libasound reports a card without permission as a missing card."""
    node = root / "dev" / "snd" / f"pcmC{device.card}D{device.device}c"
    return node.exists() and not os.access(node, os.R_OK | os.W_OK)


def probe(name: str, kind: str = "name", description: str = "") -> Device:
    """What one device offers, by its ALSA name. Raises nothing."""
    answer = _run_probe("pcm", name)
    if answer["code"] != 0:
        state = _STATES.get(answer["code"], "refused")
        return Device(name, kind, description, state, str(answer["reason"]))
    formats, rates = tuple(answer["formats"]), tuple(answer["rates"])
    low, high = answer["channels"]
    state, reason = ("ok", "") if formats else ("refused", "offers no sample format that is known here")
    return Device(name, kind, description, state, reason, formats, rates, (low, high))


def _run_probe(*arguments: str) -> dict[str, Any]:
    """The JSON object that the probe printed, or one with a reason."""
    # It needs the standard library alone; a start without site packages takes 20 ms.
    command = [sys.executable, "-S", "-E", str(PROBE), *arguments]
    if any("\0" in word for word in arguments):
        return {"code": None, "reason": "is no device name"}
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return {"code": None, "reason": f"did not answer in {PROBE_SECONDS:g} s"}
    except OSError as error:
        return {"code": None, "reason": f"could not be asked ({error.strerror})"}
    if done.returncode < 0:
        return {"code": None, "reason": f"its ALSA plugin crashed (signal {-done.returncode})"}
    lines = done.stdout.decode(errors="replace").splitlines()
    for line in reversed(lines):  # a plugin may print to standard output as well
        try:
            answer = json.loads(line)
        except ValueError:
            continue
        if isinstance(answer, dict) and "code" in answer:
            return answer
    return {"code": None, "reason": "did not answer"}
