"""ALSA capture through an `arecord` child process: formats, limits, overruns, and the words for what goes wrong.

A child process, because a driver that hangs or a plugin that crashes must not take the service with it.
"""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
import sys
import termios
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

from edgeasd.runtime.errors import DeviceError
from edgeasd.runtime.sources.pipe import DescriptorReader
from edgeasd.runtime.system.children import child_environment

PERIOD = 512  # frames: 32 ms at 16 kHz
PERIODS = 16  # half a second in the driver before sound is lost
OPEN_SECONDS = 10.0
FIRST_SECONDS = 5.0
"""How long a device may take to deliver its first sound; some USB microphones wake up slowly."""
STALL_SECONDS = 1.5
"""How long the driver may deliver nothing before the device counts as gone."""

CARDS = Path("/proc/asound")
"""Where the kernel lists its sound cards."""

FORMATS = {"S16_LE": "s16le", "S24_3LE": "s24le", "S24_LE": "s24in32le", "S32_LE": "s32le", "FLOAT_LE": "f32le"}
"""ALSA's formats in the order in which they are tried, with their names in `PcmDecoder`."""
BITS = {"S16_LE": 16, "S24_3LE": 24, "S24_LE": 24, "S32_LE": 24, "FLOAT_LE": 24}
"""Bits of a sample that float32 keeps: no microphone has more than 24."""


class Setup(NamedTuple):
    """The settings that a device is opened with."""

    format: str
    rate: int
    channels: int


class ChannelsRefused(Exception):
    """The device does not capture that many channels; `offered` is a number that it does, if known."""

    def __init__(self, offered: int | None) -> None:
        self.offered = offered


class RateRefused(Exception):
    """The device does not capture at that rate; `offered` is the nearest that it does, in Hz."""

    def __init__(self, offered: int) -> None:
        self.offered = offered


class FormatRefused(Exception):
    """The device does not capture that sample format; `offered` are those that it does, by ALSA's names."""

    def __init__(self, offered: Sequence[str]) -> None:
        self.offered = tuple(offered)


def require_arecord() -> None:
    """Raise DeviceError if arecord is not installed."""
    if shutil.which("arecord") is None:
        raise DeviceError("arecord: not installed, and needed to capture from ALSA; `apt install alsa-utils`")


def plug_hint(device: str, otherwise: str) -> str:
    """The remedy that a raw hw: device always has: the same device through ALSA's converter."""
    return f"use plug{device}, which converts" if device.startswith("hw:") else otherwise


def _missing_card(device: str) -> str | None:
    """The card number in a device name, if the kernel has no such card."""
    # ALSA reports a number beyond its 32 cards as an invalid argument, as it does much else.
    match = re.match(r"(?:plug)?hw:(?:CARD=)?(\d+)(?:,|$)", device)
    return match[1] if match and not (CARDS / f"card{int(match[1])}").exists() else None


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


class _ArecordLog:
    """Parses arecord's standard error: device limits, the setup in force, overruns, complaints."""

    def __init__(self, position: Callable[[], int]) -> None:
        """`position` returns how many bytes arecord has written: an overrun lost sound just there."""
        self.fields: dict[str, str] = {}
        self.complaint = "no reason given"
        self.losses: deque[int] = deque()
        """Byte positions of the overruns that `ArecordCapture.read` has not reached."""
        self._position = position
        self.settled = threading.Event()

    def follow(self, stream: IO[bytes]) -> None:
        """Parse `stream` until it ends."""
        with stream:
            for raw in stream:
                self._parse(raw.decode(errors="replace").rstrip())
        self.settled.set()

    def _parse(self, line: str) -> None:
        if "overrun!!!" in line:
            self.losses.append(self._position())
        elif match := re.match(r"arecord: (?:\w+:\d+: )?(.+)", line):
            self.complaint = match[1]
        elif match := re.match(r"\s*(\w+)\s*: +(.+)", line):
            self.fields.setdefault(match[1], match[2].strip())  # a plug's slaves follow the setup in force
            if match[1] == "buffer_size":
                self.settled.set()


def _end_child(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    process.stdout.close()  # arecord blocked on a full pipe ignores a signal, but not a broken pipe
    process.terminate()
    try:
        process.wait(2.0)
    except subprocess.TimeoutExpired:
        process.kill()
        # A child that waits for a dead driver does not end even now; the next attempt must not wait for it.
        with suppress(subprocess.TimeoutExpired):
            process.wait(2.0)


class ArecordCapture:
    """Raw interleaved frames of an ALSA device, from an arecord child in a session of its own.

    The child is ended by `close`, or at exit at the latest. Raises ChannelsRefused, RateRefused or FormatRefused
    if the device opens only with another setup, and DeviceError if it does not open.
    """

    def __init__(self, device: str, setup: Setup) -> None:
        self._device = device
        self._log = _ArecordLog(self._bytes_written)
        self.overruns, self._bytes_read = 0, 0
        """Overruns before the bytes that were read last."""
        self._timeout = FIRST_SECONDS
        command = ["arecord", "-D", device, "-t", "raw", "-f", setup.format]
        command += ["-r", str(setup.rate), "-c", str(setup.channels)]
        # -q hides the warning of a rate that is only near; the dumps say what is really set.
        command += ["-q", "-v", "--dump-hw-params"]
        command += [f"--period-size={PERIOD}", f"--buffer-size={PERIOD * PERIODS}"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for edgeasd alone
            env=child_environment(LC_ALL="C"),
        )
        self._end = weakref.finalize(self, _end_child, self._process)
        assert self._process.stdout is not None
        self._reader = DescriptorReader(self._process.stdout.fileno())
        self._follower = threading.Thread(
            target=self._log.follow, args=(self._process.stderr,), name="edgeasd-arecord", daemon=True
        )
        self._follower.start()
        try:
            self._check(setup)
        except BaseException:
            self.close()
            raise

    def _bytes_written(self) -> int:
        """Bytes read so far and those that wait in the pipe."""
        assert self._process.stdout is not None
        waiting = bytearray(4)
        with suppress(OSError, ValueError):  # closed meanwhile
            fcntl.ioctl(self._process.stdout.fileno(), termios.FIONREAD, waiting)
        return self._bytes_read + int.from_bytes(waiting, sys.byteorder)

    def _check(self, setup: Setup) -> None:
        """arecord may open a raw device with a setup that is only near."""
        if not self._log.settled.wait(OPEN_SECONDS):
            raise DeviceError(
                f"{self._device}: arecord did not open it in {OPEN_SECONDS:.0f} s; check its plug and its driver"
            )
        fields = self._log.fields
        formats = fields.get("FORMAT", "others").split()
        if "Channels count" in self._log.complaint:
            offered = re.search(r"\d+", fields.get("CHANNELS", ""))
            raise ChannelsRefused(int(offered[0]) if offered else None)
        if "Sample format" in self._log.complaint:
            raise FormatRefused(formats)
        if "buffer_size" not in fields:
            raise open_error(self._device, self._log.complaint.removeprefix("audio open error: "))
        if fields["format"] != setup.format:
            raise FormatRefused(formats)
        if int(fields["channels"]) != setup.channels:
            raise ChannelsRefused(int(fields["channels"]))
        if int(fields["rate"]) != setup.rate:
            raise RateRefused(int(fields["rate"]))

    def read(self) -> bytes:
        """The next bytes; b"" after `close`. Raises DeviceError for a device that stopped or delivers nothing."""
        losses = self._log.losses
        ahead = losses[0] - self._bytes_read if losses else 0
        try:
            data = self._reader.read(min(1 << 14, ahead) if ahead > 0 else 1 << 14, self._timeout)
        except TimeoutError:
            raise DeviceError(
                f"{self._device}: no sound for {self._timeout:g} s; check its plug and its driver"
            ) from None
        self._timeout = STALL_SECONDS
        if not data and not self._reader.closed:
            self._follower.join(1.0)
            self.overruns += len(losses)
            losses.clear()
            raise DeviceError(
                f"{self._device}: arecord ended by itself ({self._log.complaint}); "
                "check the plug of the device and start again"
            )
        # Includes a loss reported while this read waited: the new bytes come after it.
        while losses and losses[0] <= self._bytes_read:
            losses.popleft()
            self.overruns += 1
        self._bytes_read += len(data)
        return data

    def close(self) -> None:
        """End the child and a blocked `read`. May be called twice, and from any thread."""
        self._reader.close()  # first, or a reading thread would take the end of the child for a failure
        self._end()
        self._follower.join(1.0)
