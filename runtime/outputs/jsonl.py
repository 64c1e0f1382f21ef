"""JSON lines: one file, appended to, with earlier ones beside it.

Every batch is flushed to the disk (fsync) before the queue forgets it. A line that a power cut has torn is
cut off when the file is opened: its message still waits in the queue, and comes whole.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.outputs.messages import LARGEST, numbered
from edgeasd.runtime.outputs.settings import JsonlSettings
from edgeasd.runtime.outputs.sink import DeliveryFailed, Entry
from edgeasd.runtime.system.files import partial_last_line

_OURS = b'{"queue": "'


class JsonlSink:
    """Appends messages to a file; makes it again where a log rotator has moved it away."""

    batch = 500
    warning: str | None = None

    def __init__(self, settings: JsonlSettings, clock: Callable[[], float] = time.time) -> None:
        """Raises InputError where the folder is not there or `path` is no plain file."""
        self._path, self._settings, self._clock = Path(settings.path), settings, clock
        self._file: int | None = None
        self.connected: bool | None = None
        if not self._path.parent.is_dir():
            raise InputError(f"{self._path}: no such folder {self._path.parent}; make it first")
        if self._path.exists() and not self._path.is_file():
            raise InputError(f"{self._path}: is no plain file; give the name of a file")

    def remember(self, entry: Entry) -> None:
        """Nothing to keep."""

    def maintain(self) -> None:
        """Nothing to keep."""

    def deliver(self, entries: Sequence[Entry], queue: str, confirm: Callable[[int], None]) -> None:
        """Append, flush, confirm. Raises DeliveryFailed."""
        try:
            self._follow()
            file = self._open() if self._file is None else self._file
            data = b"".join(numbered(entry.text, queue, entry.sequence).encode() + b"\n" for entry in entries)
            view = memoryview(data)
            while view:
                view = view[os.write(file, view) :]
            os.fsync(file)
        except OSError as error:
            # What was half written is cut off when the file is opened again.
            self._shut()
            self.connected = False
            raise DeliveryFailed(f"{self._path}: {error.strerror}") from None
        self.connected = True
        confirm(len(entries))

    def close(self, seconds: float) -> None:  # noqa: ARG002  of the protocol
        """Close the file."""
        self._shut()

    def _follow(self) -> None:
        """Let go of a file that was moved or deleted, and begin a new one where it is due."""
        if self._file is None:
            return
        held = os.fstat(self._file)
        try:
            there = os.stat(self._path)
            moved = (there.st_dev, there.st_ino) != (held.st_dev, held.st_ino)
        except FileNotFoundError:
            moved = True
        if moved:
            self._shut()
        elif self._settings.keep and self._due(held.st_size):
            self._shut()
            self._rotate()

    def _due(self, size: int) -> bool:
        hours = self._settings.rotate_hours
        old = hours is not None and size > 0 and abs(self._clock() - self._begun) > hours * 3600.0
        return old or size >= self._settings.rotate_megabytes * 1e6

    def _rotate(self) -> None:
        """PATH becomes PATH.1, PATH.1 becomes PATH.2, and so on; the last one goes."""
        for number in range(self._settings.keep, 0, -1):
            earlier = self._numbered(number - 1) if number > 1 else self._path
            with suppress(FileNotFoundError):
                os.replace(earlier, self._numbered(number))

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _open(self) -> int:
        # Without O_NONBLOCK a pipe in place of the file would hold the thread for ever.
        file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o640)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise OSError(0, "is no plain file")
            _mend(file)
        except BaseException:
            os.close(file)
            raise
        self._file, self._begun = file, _first_write(file, self._clock())
        return file

    def _shut(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                os.close(self._file)
            self._file = None


def _first_write(file: int, now: float) -> float:
    """About when the file was begun: its last change if it holds anything, since Linux keeps no better time."""
    seen = os.fstat(file)
    return seen.st_mtime if seen.st_size else now


def _mend(file: int) -> None:
    """Make the file end with a whole line: a torn one of ours is cut off, any other is ended."""
    torn = partial_last_line(file, LARGEST + 256)
    if not torn:
        return
    if torn.startswith(_OURS) or _OURS.startswith(torn):
        os.ftruncate(file, os.fstat(file).st_size - len(torn))
    else:
        os.write(file, b"\n")
