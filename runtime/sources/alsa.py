"""ALSA capture by device name, through pyalsaaudio or an `arecord` child; S16_LE at exactly the asked rate."""

from __future__ import annotations

import ctypes
import errno
import importlib
import os
import re
import select
import shutil
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Protocol

from edgeasd.runtime.audio import Samples, describe_channel, require_channel, select_channel
from edgeasd.runtime.errors import DeviceError, InputError
from edgeasd.runtime.sources.base import MAX_CHANNELS, TICK_SECONDS, DescriptorReader, PcmDecoder

PERIOD = 512  # frames: 32 ms at 16 kHz
PERIODS = 16  # half a second in the driver before sound is lost
STALL_SECONDS = 10.0
FORMAT = "S16_LE"
BACKENDS = ("auto", "pyalsaaudio", "arecord")


class _Capture(Protocol):
    @property
    def overruns(self) -> int: ...
    def read(self) -> bytes: ...
    def close(self) -> None: ...


class _ChannelsRefused(Exception):
    def __init__(self, offered: int | None) -> None:
        self.offered = offered


def _plug_hint(device: str, otherwise: str) -> str:
    return f"use plug{device}, which converts" if device.startswith("hw:") else otherwise


def _open_error(device: str, reason: str) -> DeviceError:
    """The one line for a device that does not open, from ALSA's own words."""
    lower = reason.lower()
    if "no such" in lower or "unknown pcm" in lower:
        return DeviceError(f"{device}: no such ALSA capture device ({reason}); list the devices with `arecord -L`")
    if "busy" in lower:
        return DeviceError(f"{device}: in use by another program ({reason}); stop it or share by a dsnoop device")
    if "permission" in lower:
        return DeviceError(f"{device}: {reason}; add this user to the group audio and log in again")
    return DeviceError(
        f"{device}: cannot be opened ({reason}); {_plug_hint(device, 'list the devices with `arecord -L`')}"
    )


def _check_setup(device: str, asked: tuple[str, int, int], got: tuple[str, int, int]) -> None:
    """Compare (format, rate, channels): both backends may open a raw device with something near."""
    if got[0] != asked[0]:
        hint = _plug_hint(device, "use a plughw: device")
        raise DeviceError(f"{device}: does not capture {asked[0]}, it offers {got[0]}; {hint}")
    if got[2] != asked[2]:
        raise _ChannelsRefused(got[2])
    if got[1] != asked[1]:
        hint = _plug_hint(device, "choose a device that has this rate")
        raise DeviceError(f"{device}: does not capture at {asked[1]} Hz, the nearest is {got[1]} Hz; {hint}")


_IGNORE_LINE = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p)(
    lambda *_: None
)


@contextmanager
def _quiet_libasound() -> Iterator[None]:
    """Keep libasound from printing its own lines beside the one that we raise."""
    try:
        set_handler = ctypes.CDLL("libasound.so.2").snd_lib_error_set_handler
    except (OSError, AttributeError):
        yield
        return
    set_handler(_IGNORE_LINE)
    try:
        yield
    finally:
        set_handler(None)


class _PyalsaCapture:
    """Non-blocking reads and poll: a blocking read could not be ended safely by another thread."""

    def __init__(self, device: str, rate: int, channels: int) -> None:
        import alsaaudio

        self._device = device
        self._error = alsaaudio.ALSAAudioError
        self.overruns = 0
        self._lock = threading.Lock()
        self._closed = threading.Event()
        try:
            with _quiet_libasound():
                self._pcm = alsaaudio.PCM(
                    alsaaudio.PCM_CAPTURE,
                    alsaaudio.PCM_NONBLOCK,
                    device=device,
                    rate=rate,
                    channels=channels,
                    format=alsaaudio.PCM_FORMAT_S16_LE,
                    periodsize=PERIOD,
                    periods=PERIODS,
                )
        except self._error as error:
            raise _open_error(device, str(error).replace(f" [{device}]", "")) from None
        try:
            info = self._pcm.info()
            got = (info["format_name"], info["rate"], info["channels"])
            _check_setup(device, (FORMAT, rate, channels), got)
        except BaseException:
            self.close()
            raise
        self._poll = select.poll()
        for descriptor, events in self._pcm.polldescriptors():
            self._poll.register(descriptor, events)

    def read(self) -> bytes:
        deadline = time.monotonic() + STALL_SECONDS
        while time.monotonic() < deadline:
            with self._lock:
                if self._closed.is_set():
                    return b""
                if data := self._read_available():
                    return data
        raise DeviceError(f"{self._device}: no sound for {STALL_SECONDS:.0f} s; check its plug and its driver")

    def _read_available(self) -> bytes:
        # The first read starts the device, so it comes before the poll; so it is after an overrun.
        try:
            length, data = self._pcm.read()
            if length == -errno.EPIPE:
                self.overruns += 1
            elif not data and (ready := self._poll.poll(int(1000 * TICK_SECONDS))):
                self._pcm.polldescriptors_revents(ready)  # lets dsnoop and the like clear their timer
        except self._error as error:
            raise DeviceError(f"{self._device}: stopped ({error}); check its plug and start again") from None
        return data

    def close(self) -> None:
        self._closed.set()
        with self._lock:  # closing under a read in progress would free memory in use
            self._pcm.close()


class _ArecordLog:
    """What arecord says on standard error: device limits, the setup in force, overruns, complaints."""

    def __init__(self) -> None:
        self.fields: dict[str, str] = {}
        self.complaint = "no reason given"
        self.overruns = 0
        self.settled = threading.Event()

    def follow(self, stream: IO[bytes]) -> None:
        with stream:
            for raw in stream:
                self._take(raw.decode(errors="replace").rstrip())
        self.settled.set()

    def _take(self, line: str) -> None:
        if "overrun!!!" in line:
            self.overruns += 1
        elif match := re.match(r"arecord: (?:\w+:\d+: )?(.+)", line):
            self.complaint = match[1]
        elif match := re.match(r"\s*(\w+)\s*: +(.+)", line):
            self.fields.setdefault(match[1], match[2].strip())  # a plug's slaves follow the setup in force
            if match[1] == "buffer_size":
                self.settled.set()


def _end_child(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    process.stdout.close()  # arecord in a full pipe takes no notice of a signal, but of a broken pipe
    process.terminate()
    try:
        process.wait(2.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class _ArecordCapture:
    """An arecord child in a session of its own, so that Ctrl-C is ours to handle; ended at exit at the latest."""

    def __init__(self, device: str, rate: int, channels: int) -> None:
        self._device = device
        self._log = _ArecordLog()
        command = ["arecord", "-D", device, "-t", "raw", "-f", FORMAT, "-r", str(rate), "-c", str(channels)]
        # -q hides the warning of a rate that is only near; the dumps say what is really set.
        command += ["-q", "-v", "--dump-hw-params"]
        command += [f"--period-size={PERIOD}", f"--buffer-size={PERIOD * PERIODS}"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "LC_ALL": "C"},
        )
        self._end = weakref.finalize(self, _end_child, self._process)
        assert self._process.stdout is not None
        self._reader = DescriptorReader(self._process.stdout.fileno())
        self._follower = threading.Thread(target=self._log.follow, args=(self._process.stderr,), daemon=True)
        self._follower.start()
        try:
            self._check(rate, channels)
        except BaseException:
            self.close()
            raise

    @property
    def overruns(self) -> int:
        return self._log.overruns

    def _check(self, rate: int, channels: int) -> None:
        if not self._log.settled.wait(STALL_SECONDS):
            raise DeviceError(
                f"{self._device}: arecord did not open it in {STALL_SECONDS:.0f} s; check its plug and its driver"
            )
        fields = self._log.fields
        if "Channels count" in self._log.complaint:
            offered = re.search(r"\d+", fields.get("CHANNELS", ""))
            raise _ChannelsRefused(int(offered[0]) if offered else None)
        if "Sample format" in self._log.complaint:
            _check_setup(self._device, (FORMAT, rate, channels), (fields.get("FORMAT", "others"), 0, 0))
        if "buffer_size" not in fields:
            raise _open_error(self._device, self._log.complaint.removeprefix("audio open error: "))
        got = (fields["format"], int(fields["rate"]), int(fields["channels"]))
        _check_setup(self._device, (FORMAT, rate, channels), got)

    def read(self) -> bytes:
        try:
            data = self._reader.read(1 << 14, STALL_SECONDS)
        except TimeoutError:
            raise DeviceError(
                f"{self._device}: no sound for {STALL_SECONDS:.0f} s; check its plug and its driver"
            ) from None
        if not data and not self._reader.closed:
            self._follower.join(1.0)
            raise DeviceError(
                f"{self._device}: arecord ended by itself ({self._log.complaint}); "
                "check the plug of the device and start again"
            )
        return data

    def close(self) -> None:
        self._reader.close()  # first, or a reading thread would take the end of the child for a failure
        self._end()
        self._follower.join(1.0)


def _choose_backend(backend: str) -> str:
    if backend not in BACKENDS:
        raise InputError(f"{backend}: not an ALSA backend; use one of {', '.join(BACKENDS)}")
    if backend != "arecord":
        with suppress(ImportError):
            importlib.import_module("alsaaudio")
            return "pyalsaaudio"
    if backend != "pyalsaaudio" and shutil.which("arecord") is not None:
        return "arecord"
    missing = {"auto": "neither pyalsaaudio nor arecord"}.get(backend, f"no {backend}")
    raise DeviceError(
        f"{missing} here to capture from ALSA; `pip install 'edgeasd[mic]'` (pyalsaaudio) "
        "or `apt install alsa-utils` (arecord)"
    )


def _open_with_channels(
    open_capture: Callable[[int], _Capture], device: str, channels: int | None, channel: int | None, mix: bool
) -> tuple[_Capture, int]:
    """Open with `channels`, else with the fewest that hold the choice; a device may know only more."""
    needed = 2 if mix else 1 + (channel or 0)
    count = channels or needed
    try:
        return open_capture(count), count
    except _ChannelsRefused as refusal:
        offered = refusal.offered
    if channels is None and (mix or channel is not None) and offered and offered >= 1 + (channel or 0):
        with suppress(_ChannelsRefused):
            return open_capture(offered), offered
    found = f", {offered} work" if offered else ""
    choice = f"pass --channel 0 to {offered - 1} (counted from 0)" if offered else "pass another --channel"
    raise DeviceError(
        f"{device}: does not capture {count} channel{'s' if count > 1 else ''}{found}; "
        + (f"{choice} or --mix, or " if channel is None and not mix else f"{choice}, or ")
        + _plug_hint(device, "use a plughw: device")
    )


class AlsaSource:
    """Live sound from an ALSA capture device such as "hw:1" or "plughw:1,0", S16_LE, scaled by 1/32768.

    Without `channels`, `channel` and `mix` it captures mono. `overruns` counts the times at which
    sound was lost because nobody read. Raises InputError for wrong arguments; DeviceError for a
    device that is missing, busy, refuses rate, format or channels, or stops, and where neither
    backend is installed. `backend` is auto (pyalsaaudio, else arecord), pyalsaaudio or arecord.
    """

    live = True

    def __init__(
        self,
        device: str = "hw:1",
        sample_rate: int = 16000,
        channels: int | None = None,
        channel: int | None = None,
        mix: bool = False,
        backend: str = "auto",
    ) -> None:
        if not device or "\0" in device:
            raise InputError(f"{device!r}: not an ALSA device name; list the devices with `arecord -L`")
        if channels is not None and not 1 <= channels <= MAX_CHANNELS:
            raise InputError(f"{device}: {channels} channels; give a number from 1 to {MAX_CHANNELS}")
        default = 0 if channels is None and not mix else None
        require_channel(device, channels or MAX_CHANNELS, default if channel is None else channel, mix)
        backend = _choose_backend(backend)
        kind = _PyalsaCapture if backend == "pyalsaaudio" else _ArecordCapture
        self._capture, count = _open_with_channels(
            lambda number: kind(device, sample_rate, number), device, channels, channel, mix
        )
        self._decoder = PcmDecoder("s16le", count)
        self._channel, self._mix = channel, mix
        self.sample_rate = sample_rate
        choice = describe_channel(count, channel, mix)
        self.name = f"{device} through {backend}, {FORMAT}, {sample_rate} Hz, {choice}"

    @property
    def overruns(self) -> int:
        """How often the device's buffer ran over since the start."""
        return self._capture.overruns

    def read(self) -> Samples | None:
        """The next samples, shape (n,), n >= 1, float32; None after `close`."""
        while data := self._capture.read():
            if len(frames := self._decoder.push(data)):
                return select_channel(frames, self._channel, self._mix)
        return None

    def close(self) -> None:
        """Stop the capture; idempotent, and ends a `read` blocked in another thread."""
        self._capture.close()
