"""What can be opened to listen to: ALSA cards and PCM names, each asked what it offers."""

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
    """Every capture device of every card as `hw:`, then the other PCM names; and a note where ALSA itself is missing.

    Cards come from /proc below `root`, so that a busy card is listed too. Each device is opened for a moment, in
    a child process with a limit of 3 s, and without a sample being read. Raises nothing.
    """
    cards = [
        (f"hw:CARD={one.card_id or one.card},DEV={one.device}", one.description, _is_forbidden(root, one))
        for one in capture_devices(root)
    ]
    listed = _ask("names")
    note = "" if listed["code"] == 0 else str(listed["reason"])
    others = [
        (str(one["name"]), str(one["description"]))
        for one in listed.get("names", [])
        if not str(one["name"]).startswith(_CARD_PREFIXES)
    ]
    asked = [(name, "card", words, forbidden) for name, words, forbidden in cards]
    asked += [(name, "name", words, False) for name, words in others]
    found = []
    for done, (name, kind, words, forbidden) in enumerate(asked):
        report(done, len(asked), name)
        if forbidden:
            found.append(Device(name, kind, words, "forbidden", "Permission denied"))
        else:
            found.append(probe(name, kind, words))
    report(len(asked), len(asked), "")
    return found, note


def _is_forbidden(root: Path, device: CaptureDevice) -> bool:
    """Asked of the device file: libasound calls a card that it may not open a card that is not there."""
    node = root / "dev" / "snd" / f"pcmC{device.card}D{device.device}c"
    return node.exists() and not os.access(node, os.R_OK | os.W_OK)


def probe(name: str, kind: str = "name", description: str = "") -> Device:
    """Ask one device by its ALSA name. Raises nothing."""
    answer = _ask("pcm", name)
    if answer["code"] != 0:
        state = _STATES.get(answer["code"], "refused")
        return Device(name, kind, description, state, str(answer["reason"]))
    formats, rates = tuple(answer["formats"]), tuple(answer["rates"])
    low, high = answer["channels"]
    state, reason = ("ok", "") if formats else ("refused", "offers no sample format that is known here")
    return Device(name, kind, description, state, reason, formats, rates, (low, high))


def _ask(*arguments: str) -> dict[str, Any]:
    # Nothing but the standard library is needed, and a start without site packages takes 20 ms.
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
