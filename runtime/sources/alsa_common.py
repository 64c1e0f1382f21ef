"""What both ALSA backends share: formats, buffer sizes, what a capture offers, and the words for what goes wrong."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from edgeasd.runtime.errors import DeviceError

PERIOD = 512  # frames: 32 ms at 16 kHz
PERIODS = 16  # half a second in the driver before sound is lost
OPEN_SECONDS = 10.0
FIRST_SECONDS = 5.0
"""How long a device may take to deliver its first sound; some USB microphones wake up slowly."""
STALL_SECONDS = 1.5
"""Silence of the driver, not of the room, after which a device counts as gone."""

CARDS = Path("/proc/asound")
"""Where the kernel lists its sound cards."""

FORMATS = {"S16_LE": "s16le", "S24_3LE": "s24le", "S24_LE": "s24in32le", "S32_LE": "s32le", "FLOAT_LE": "f32le"}
"""ALSA's formats in the order in which they are tried, with what they are called in `PcmDecoder`."""
BITS = {"S16_LE": 16, "S24_3LE": 24, "S24_LE": 24, "S32_LE": 24, "FLOAT_LE": 24}
"""Bits of a sample that float32 keeps: no microphone has more than 24."""


class Setup(NamedTuple):
    """What a device is opened with."""

    format: str
    rate: int
    channels: int


class Capture(Protocol):
    """An open device that yields raw interleaved frames; b"" after close()."""

    @property
    def overruns(self) -> int: ...
    def read(self) -> bytes: ...
    def close(self) -> None: ...


class ChannelsRefused(Exception):
    """The device does not capture that many channels; `offered` is a number it does, where known."""

    def __init__(self, offered: int | None) -> None:
        self.offered = offered


class RateRefused(Exception):
    """The device does not capture at that rate in Hz; `offered` is the nearest it has."""

    def __init__(self, offered: int) -> None:
        self.offered = offered


class FormatRefused(Exception):
    """The device does not capture that sample format; `offered` are those it has, by ALSA's names."""

    def __init__(self, offered: Sequence[str]) -> None:
        self.offered = tuple(offered)


def plug_hint(device: str, otherwise: str) -> str:
    """The remedy that a raw hw: device always has: the same device through ALSA's converter."""
    return f"use plug{device}, which converts" if device.startswith("hw:") else otherwise


def _missing_card(device: str) -> str | None:
    """The number of a card in the name of a device, where the kernel has no such card."""
    # ALSA calls a number beyond its 32 cards an invalid argument, as it does much else.
    named = re.match(r"(?:plug)?hw:(?:CARD=)?(\d+)(?:,|$)", device)
    return named[1] if named and not (CARDS / f"card{int(named[1])}").exists() else None


def open_error(device: str, reason: str) -> DeviceError:
    """The one line for a device that does not open, from ALSA's own words."""
    lower = reason.lower()
    if (card := _missing_card(device)) is not None and ("no such" in lower or "invalid argument" in lower):
        return DeviceError(f"{device}: card {card} does not exist ({reason}); list the devices with `edgeasd devices`")
    if "no such" in lower or "unknown pcm" in lower:
        return DeviceError(f"{device}: no such ALSA capture device ({reason}); list the devices with `edgeasd devices`")
    if "busy" in lower:
        return DeviceError(f"{device}: in use by another program ({reason}); stop it or share by a dsnoop device")
    if "permission" in lower:
        return DeviceError(f"{device}: {reason}; add this user to the group audio and log in again")
    return DeviceError(
        f"{device}: cannot be opened ({reason}); {plug_hint(device, 'list the devices with `edgeasd devices`')}"
    )


def silent_error(device: str, seconds: float) -> DeviceError:
    """The one line for a device that is open and delivers nothing."""
    return DeviceError(f"{device}: no sound for {seconds:g} s; check its plug and its driver")


def check_setup(asked: Setup, got: Setup, formats: Sequence[str]) -> None:
    """Compare: both backends may open a raw device with something near. `formats` is what the device offers."""
    if got.format != asked.format:
        raise FormatRefused(formats)
    if got.channels != asked.channels:
        raise ChannelsRefused(got.channels)
    if got.rate != asked.rate:
        raise RateRefused(got.rate)
