"""ALSA capture by device name, through pyalsaaudio or an `arecord` child; S16_LE at exactly the asked rate."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable
from contextlib import suppress

from edgeasd.runtime.audio import Samples, describe_channel, require_channel, select_channel
from edgeasd.runtime.errors import DeviceError, InputError
from edgeasd.runtime.sources.alsa_arecord import ArecordCapture
from edgeasd.runtime.sources.alsa_common import FORMAT, Capture, ChannelsRefused, plug_hint
from edgeasd.runtime.sources.alsa_pyalsaaudio import PyalsaaudioCapture
from edgeasd.runtime.sources.base import MAX_CHANNELS, PcmDecoder

BACKENDS = ("auto", "pyalsaaudio", "arecord")


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
    open_capture: Callable[[int], Capture], device: str, channels: int | None, channel: int | None, mix: bool
) -> tuple[Capture, int]:
    """Open with `channels`, else with the fewest that hold the choice; a device may know only more."""
    needed = 2 if mix else 1 + (channel or 0)
    count = channels or needed
    try:
        return open_capture(count), count
    except ChannelsRefused as refusal:
        offered = refusal.offered
    if channels is None and (mix or channel is not None) and offered and offered >= 1 + (channel or 0):
        with suppress(ChannelsRefused):
            return open_capture(offered), offered
    found = f", {offered} work" if offered else ""
    choice = f"pass --channel 0 to {offered - 1} (counted from 0)" if offered else "pass another --channel"
    raise DeviceError(
        f"{device}: does not capture {count} channel{'s' if count > 1 else ''}{found}; "
        + (f"{choice} or --mix, or " if channel is None and not mix else f"{choice}, or ")
        + plug_hint(device, "use a plughw: device")
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
        kind = PyalsaaudioCapture if backend == "pyalsaaudio" else ArecordCapture
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
