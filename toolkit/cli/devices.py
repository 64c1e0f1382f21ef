"""edgeasd devices."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from edgeasd.toolkit.cli._options import AsJson

if TYPE_CHECKING:
    from edgeasd.runtime.sources.devices import FoundDevice

_MANY_CHANNELS = 1024


def devices(as_json: AsJson = False) -> None:
    """List what `run` and `record` can listen to.

    The capture devices of every sound card and the other names that ALSA knows, each opened for a moment to
    ask which formats, rates and channels it offers. What is busy or forbidden is listed with the reason.
    No device at all is no error: files, pipes and commands need none.

    Example: edgeasd devices
    """
    from edgeasd.runtime.sources.devices import find_devices
    from edgeasd.toolkit.progress import progress

    with progress("devices") as report:
        found, note = find_devices(report=report)
    if as_json:
        listed = [
            {
                **{field: getattr(one, field) for field in ("name", "kind", "description", "state", "reason")},
                "formats": list(one.formats),
                "rates": list(one.rates),
                "channels": list(one.channels) if one.channels else None,
            }
            for one in found
        ]
        print(json.dumps({"type": "devices", "version": 1, "note": note, "devices": listed}, indent=2))
        return
    for one in found:
        print(f"{one.name}  {one.description}".rstrip())
        print(f"    {_offer(one)}")
    if not any(one.kind == "card" for one in found):
        print("no sound card that captures" + (f": {note}" if note else "; plug in a microphone, or use --input"))


def _offer(one: FoundDevice) -> str:
    if one.state != "ok":
        remedies = {
            "busy": "stop the program that has it, or share it by a dsnoop device",
            "forbidden": "add this user to the group audio and log in again",
        }
        remedy = remedies.get(one.state)
        return f"{one.state}: {one.reason}" + (f"; {remedy}" if remedy else "")
    assert one.channels is not None
    low, high = one.channels
    if low == high:
        channels = f"{low} channel{'s' if low > 1 else ''}"
    else:
        channels = f"{low} to {high} channels" if high <= _MANY_CHANNELS else f"{low} or more channels"
    rates = ", ".join(map(str, one.rates)) or "no usual rate"
    return f"{' '.join(one.formats)}; {rates} Hz; {channels}"
