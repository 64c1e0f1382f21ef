"""ALSA capture through an `arecord` child process."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import termios
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import IO

from edgeasd.runtime.errors import DeviceError
from edgeasd.runtime.sources.alsa_common import (
    FIRST_SECONDS,
    OPEN_SECONDS,
    PERIOD,
    PERIODS,
    STALL_SECONDS,
    ChannelsRefused,
    FormatRefused,
    Setup,
    check_setup,
    open_error,
    silent_error,
)
from edgeasd.runtime.sources.base import DescriptorReader


class _ArecordLog:
    """What arecord says on standard error: device limits, the setup in force, overruns, complaints.

    `place` tells at which byte of its sound arecord is: where it has just lost some.
    """

    def __init__(self, place: Callable[[], int]) -> None:
        self.fields: dict[str, str] = {}
        self.complaint = "no reason given"
        self.losses: deque[int] = deque()
        """Place of each overrun that `ArecordCapture.read` has not come to."""
        self._place = place
        self.settled = threading.Event()

    def follow(self, stream: IO[bytes]) -> None:
        with stream:
            for raw in stream:
                self._take(raw.decode(errors="replace").rstrip())
        self.settled.set()

    def _take(self, line: str) -> None:
        if "overrun!!!" in line:
            self.losses.append(self._place())
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
        # One that waits for a dead driver does not even end by that; the next attempt must not wait with it.
        with suppress(subprocess.TimeoutExpired):
            process.wait(2.0)


class ArecordCapture:
    """An arecord child in a session of its own, so that Ctrl-C is ours to handle; ended at exit at the latest."""

    def __init__(self, device: str, setup: Setup) -> None:
        self._device = device
        self._log = _ArecordLog(self._place)
        self.overruns, self._read = 0, 0
        """Overruns before the bytes that were read last; bytes read so far."""
        self._patience = FIRST_SECONDS
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
            start_new_session=True,
            env={**os.environ, "LC_ALL": "C"},
        )
        self._end = weakref.finalize(self, _end_child, self._process)
        assert self._process.stdout is not None
        self._reader = DescriptorReader(self._process.stdout.fileno())
        self._follower = threading.Thread(target=self._log.follow, args=(self._process.stderr,), daemon=True)
        self._follower.start()
        try:
            self._check(setup)
        except BaseException:
            self.close()
            raise

    def _place(self) -> int:
        """Bytes up to now, with those that wait in the pipe: a slow reader has them still before it."""
        assert self._process.stdout is not None
        waiting = bytearray(4)
        with suppress(OSError, ValueError):  # closed meanwhile
            fcntl.ioctl(self._process.stdout.fileno(), termios.FIONREAD, waiting)
        return self._read + int.from_bytes(waiting, sys.byteorder)

    def _check(self, setup: Setup) -> None:
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
        check_setup(setup, Setup(fields["format"], int(fields["rate"]), int(fields["channels"])), formats)

    def read(self) -> bytes:
        losses = self._log.losses
        ahead = losses[0] - self._read if losses else 0
        try:
            data = self._reader.read(min(1 << 14, ahead) if ahead > 0 else 1 << 14, self._patience)
        except TimeoutError:
            raise silent_error(self._device, self._patience) from None
        self._patience = STALL_SECONDS
        if not data and not self._reader.closed:
            self._follower.join(1.0)
            self.overruns += len(losses)
            losses.clear()
            raise DeviceError(
                f"{self._device}: arecord ended by itself ({self._log.complaint}); "
                "check the plug of the device and start again"
            )
        # Also one that was said while this waited: what has come now comes after it.
        while losses and losses[0] <= self._read:
            losses.popleft()
            self.overruns += 1
        self._read += len(data)
        return data

    def close(self) -> None:
        self._reader.close()  # first, or a reading thread would take the end of the child for a failure
        self._end()
        self._follower.join(1.0)
