"""edgeasd devices."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from edgeasd.toolkit.cli._options import AsJson
from edgeasd.toolkit.cli._output import print_table

if TYPE_CHECKING:
    from edgeasd.runtime.sources.devices import Device

_MANY_CHANNELS = 1024


def devices(as_json: AsJson = False) -> None:
    """List what `run` and `record` can listen to.

    The capture devices of every sound card and the other names that ALSA knows. Each is opened for a moment to
    ask which formats, rates and channels it offers. A busy or forbidden one is listed with the reason.
    Without any device the exit code is 0 too: files, pipes and commands need none.

    Example: edgeasd devices
    """
    from edgeasd.runtime.sources.devices import find_devices
    from edgeasd.toolkit.progress import progress

    with progress("devices") as report:
        available, note = find_devices(report=report)
    if as_json:
        listed = [asdict(device) for device in available]
        print(json.dumps({"type": "devices", "version": 1, "note": note, "devices": listed}, indent=2))
        return
    if available:
        print_table(
            ("name", "offers", "description"),
            [(device.name, _offer(device), device.description) for device in available],
            fold=("offers", "description"),
            indent=0,
        )
    if not any(device.kind == "card" for device in available):
        print("no sound card that captures" + (f": {note}" if note else "; plug in a microphone, or use --input"))


_REMEDIES = {
    "busy": "; stop the program that has it, or share it by a dsnoop device",
    "forbidden": "; add this user to the group audio and log in again",
}


def _offer(device: Device) -> str:
    """What a device captures, or why it cannot be used."""
    if device.channels is None or device.state != "ok":
        return f"{device.state}: {device.reason}{_REMEDIES.get(device.state, '')}"
    low, high = device.channels
    if low == high:
        channels = f"{low} channel{'s' if low > 1 else ''}"
    else:
        channels = f"{low} to {high} channels" if high <= _MANY_CHANNELS else f"{low} or more channels"
    rates = ", ".join(map(str, device.rates)) or "no usual rate"
    return f"{' '.join(device.formats)}; {rates} Hz; {channels}"
