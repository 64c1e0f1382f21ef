"""One ALSA device, opened as it is: format, rate and channels are found by asking it."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from edgeasd.runtime.audio.reader import Samples
from edgeasd.runtime.errors import DeviceError, InputError
from edgeasd.runtime.sources.alsa_arecord import ArecordCapture
from edgeasd.runtime.sources.alsa_common import BITS, FORMATS, Capture, FormatRefused, RateRefused, Setup, plug_hint
from edgeasd.runtime.sources.alsa_pyalsaaudio import PyalsaaudioCapture
from edgeasd.runtime.sources.base import MAX_CHANNELS, PcmDecoder

BACKENDS = ("auto", "pyalsaaudio", "arecord")
OWN_RATES = (48000, 44100, 32000, 96000, 88200, 192000, 176400)
"""Rates that a device may have instead, in the order in which they are tried; only those above the asked one are."""


def choose_backend(backend: str) -> str:
    """arecord, else pyalsaaudio; InputError for an unknown one, DeviceError where it is not installed."""
    if backend not in BACKENDS:
        raise InputError(f"{backend}: not an ALSA backend; use one of {', '.join(BACKENDS)}")
    # A child first: a driver that hangs while pyalsaaudio opens it stops every thread of the process with it, since
    # it keeps the interpreter's lock meanwhile; and an ALSA plugin that crashes ends the child and no more.
    if backend != "pyalsaaudio" and shutil.which("arecord") is not None:
        return "arecord"
    if backend != "arecord":
        with suppress(ImportError):
            importlib.import_module("alsaaudio")
            return "pyalsaaudio"
    missing = {"auto": "neither pyalsaaudio nor arecord"}.get(backend, f"no {backend}")
    raise DeviceError(
        f"{missing} here to capture from ALSA; `pip install 'edgeasd[mic]'` (pyalsaaudio) "
        "or `apt install alsa-utils` (arecord)"
    )


def check_name(device: str) -> None:
    """Raise InputError for what can be no device."""
    if not device or "\0" in device:
        raise InputError(f"{device!r}: not an ALSA device name; list the devices with `edgeasd devices`")


class _Negotiation:
    """Asks for a setup until the device takes one; each refusal rules something out, so it ends."""

    def __init__(self, device: str, open_capture: Callable[[Setup], Capture], format: str, resample: bool) -> None:
        if format not in ("auto", *FORMATS):
            raise InputError(f"{format}: not a sample format known here; use auto or one of {', '.join(FORMATS)}")
        self._device, self._open, self._resample = device, open_capture, resample
        self._formats = list(FORMATS) if format == "auto" else [format]

    def open(self, rate: int, channels: int) -> tuple[Capture, Setup]:
        """An open capture and its setup. Raises ChannelsRefused, and DeviceError for all else."""
        try:
            return self._any_format(rate, channels)
        except RateRefused as refusal:
            nearest = refusal.offered
        if self._resample:
            own = [nearest] if nearest > rate else []
            for other in [*own, *(r for r in OWN_RATES if r > rate and r != nearest)]:
                with suppress(RateRefused):
                    return self._any_format(other, channels)
            raise DeviceError(
                f"{self._device}: captures at {nearest} Hz, which holds less than the {rate} Hz asked for; "
                "use another microphone"
            )
        hint = plug_hint(self._device, "choose a device that has this rate")
        raise DeviceError(
            f"{self._device}: does not capture at {rate} Hz, the nearest is {nearest} Hz; {hint}, or pass --resample"
        )

    def _any_format(self, rate: int, channels: int) -> tuple[Capture, Setup]:
        asked, wanted = self._formats[0], list(self._formats)
        offered: tuple[str, ...] = ()
        while wanted:
            setup = Setup(wanted.pop(0), rate, channels)
            try:
                opened = self._open(setup), setup
            except FormatRefused as refusal:
                offered = refusal.offered
                wanted = [format for format in wanted if format in offered]
                continue
            self._formats = [setup.format]
            return opened
        what = asked if len(self._formats) == 1 else "any of " + ", ".join(self._formats)
        hint = plug_hint(self._device, "use a plughw: device")
        raise DeviceError(f"{self._device}: does not capture {what}, it offers {', '.join(offered[:12])}; {hint}")


class AlsaDevice:
    """All channels of an ALSA capture device such as "hw:1": a `MultiSource` at the device's own rate.

    Formats are tried in the order of `FORMATS`, or `format` alone; integers are divided by full scale.
    With `resample` a device without `sample_rate` is opened at a higher rate of its own, and `sample_rate`
    says which. `overruns` counts the times at which sound was lost because nobody read. Raises InputError
    for wrong arguments; ChannelsRefused for a number of channels it does not have; DeviceError for a device
    that is missing, busy, refuses, or stops (unplugged, or no sound for 1.5 s), and without a backend.
    """

    live = True

    def __init__(
        self,
        device: str,
        sample_rate: int,
        channels: int,
        *,
        format: str = "auto",
        resample: bool = False,
        backend: str = "auto",
    ) -> None:
        check_name(device)
        if not 1 <= channels <= MAX_CHANNELS:
            raise InputError(f"{device}: {channels} channels; give a number from 1 to {MAX_CHANNELS}")
        backend = choose_backend(backend)
        kind = PyalsaaudioCapture if backend == "pyalsaaudio" else ArecordCapture
        negotiation = _Negotiation(device, lambda setup: kind(device, setup), format, resample)
        self._capture, self._setup = negotiation.open(sample_rate, channels)
        self._decoder = PcmDecoder(FORMATS[self._setup.format], channels)
        self.sample_rate, self.channels = self._setup.rate, channels
        self.bits = BITS[self._setup.format]
        self.name = f"{device} through {backend}, {self._setup.format}, {self.sample_rate} Hz"

    @property
    def overruns(self) -> int:
        """How often the device's buffer ran over since the start."""
        return self._capture.overruns

    def read(self) -> Samples | None:
        """The next frames, shape (n, channels), n >= 1, float32; None after `close`."""
        while data := self._capture.read():
            if len(frames := self._decoder.push(data)):
                if self._setup.format == "FLOAT_LE" and not np.isfinite(frames).all():
                    raise DeviceError(f"{self.name}: delivers samples that are no numbers; pass another --alsa-format")
                return frames
        return None

    def close(self) -> None:
        """Stop the capture; idempotent, and ends a `read` blocked in another thread."""
        self._capture.close()
