"""What both ALSA backends share: buffer sizes, what a capture offers, and the words for what goes wrong."""

from __future__ import annotations

from typing import Protocol

from edgeasd.runtime.errors import DeviceError

PERIOD = 512  # frames: 32 ms at 16 kHz
PERIODS = 16  # half a second in the driver before sound is lost
STALL_SECONDS = 10.0
FORMAT = "S16_LE"


class Capture(Protocol):
    """An open device that yields raw S16_LE frames; b"" after close()."""

    @property
    def overruns(self) -> int: ...
    def read(self) -> bytes: ...
    def close(self) -> None: ...


class ChannelsRefused(Exception):
    """The device does not capture that many channels; `offered` is a number it does, where known."""

    def __init__(self, offered: int | None) -> None:
        self.offered = offered


def plug_hint(device: str, otherwise: str) -> str:
    """The remedy that a raw hw: device always has: the same device through ALSA's converter."""
    return f"use plug{device}, which converts" if device.startswith("hw:") else otherwise


def open_error(device: str, reason: str) -> DeviceError:
    """The one line for a device that does not open, from ALSA's own words."""
    lower = reason.lower()
    if "no such" in lower or "unknown pcm" in lower:
        return DeviceError(f"{device}: no such ALSA capture device ({reason}); list the devices with `arecord -L`")
    if "busy" in lower:
        return DeviceError(f"{device}: in use by another program ({reason}); stop it or share by a dsnoop device")
    if "permission" in lower:
        return DeviceError(f"{device}: {reason}; add this user to the group audio and log in again")
    return DeviceError(
        f"{device}: cannot be opened ({reason}); {plug_hint(device, 'list the devices with `arecord -L`')}"
    )


def check_setup(device: str, asked: tuple[str, int, int], got: tuple[str, int, int]) -> None:
    """Compare (format, rate, channels): both backends may open a raw device with something near."""
    if got[0] != asked[0]:
        hint = plug_hint(device, "use a plughw: device")
        raise DeviceError(f"{device}: does not capture {asked[0]}, it offers {got[0]}; {hint}")
    if got[2] != asked[2]:
        raise ChannelsRefused(got[2])
    if got[1] != asked[1]:
        hint = plug_hint(device, "choose a device that has this rate")
        raise DeviceError(f"{device}: does not capture at {asked[1]} Hz, the nearest is {got[1]} Hz; {hint}")
