"""ALSA capture through pyalsaaudio."""

from __future__ import annotations

import ctypes
import errno
import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from edgeasd.runtime.errors import DeviceError
from edgeasd.runtime.sources.alsa_common import (
    FIRST_SECONDS,
    PERIOD,
    PERIODS,
    STALL_SECONDS,
    Setup,
    check_setup,
    open_error,
    silent_error,
)
from edgeasd.runtime.sources.base import TICK_SECONDS

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


class PyalsaaudioCapture:
    """Non-blocking reads and poll: a blocking read could not be ended safely by another thread."""

    def __init__(self, device: str, setup: Setup) -> None:
        import alsaaudio

        self._device = device
        self._patience = FIRST_SECONDS
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
                    rate=setup.rate,
                    channels=setup.channels,
                    format=getattr(alsaaudio, f"PCM_FORMAT_{setup.format}"),
                    periodsize=PERIOD,
                    periods=PERIODS,
                )
        except self._error as error:
            raise open_error(device, str(error).replace(f" [{device}]", "")) from None
        try:
            info = self._pcm.info()
            got = Setup(info["format_name"], info["rate"], info["channels"])
            check_setup(setup, got, [] if got.format == setup.format else self._formats())
        except BaseException:
            self.close()
            raise
        self._poll = select.poll()
        for descriptor, events in self._pcm.polldescriptors():
            self._poll.register(descriptor, events)

    def _formats(self) -> list[str]:
        return [name.removeprefix("PCM_FORMAT_") for name in self._pcm.getformats()]

    def read(self) -> bytes:
        deadline = time.monotonic() + self._patience
        while time.monotonic() < deadline:
            with self._lock:
                if self._closed.is_set():
                    return b""
                if data := self._read_available():
                    self._patience = STALL_SECONDS
                    return data
        raise silent_error(self._device, self._patience)

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
