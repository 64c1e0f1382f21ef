"""JSON lines: one file that is appended to, with earlier ones beside it.

Every batch is flushed to the disk (fsync) before it is confirmed. A partial last line, left by a power cut, is
removed when the file is opened: its message is still in the outbox and comes whole.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.outputs.base import DeliveryError, OutputMessage
from edgeasd.runtime.outputs.messages import LARGEST
from edgeasd.runtime.outputs.settings import JsonlSettings
from edgeasd.runtime.system.files import partial_last_line

_OURS = (b'{"schema": 2, "store": "', b'{"queue": "')
"""How our lines begin, those of schema version 1 included."""


class JsonlOutput:
    """Appends messages to a file. Makes it again if a log rotator has moved it away."""

    batch = 500
    warning: str | None = None

    def __init__(self, settings: JsonlSettings, clock: Callable[[], float] = time.time) -> None:
        """Raises InputError if the folder does not exist or `path` is not a plain file."""
        self.path, self._settings, self._clock = Path(settings.path), settings, clock
        self._file: int | None = None
        self.connected: bool | None = None
        if not self.path.parent.is_dir():
            raise InputError(f"{self.path}: no such folder {self.path.parent}; make it first")
        if self.path.exists() and not self.path.is_file():
            raise InputError(f"{self.path}: is not a plain file; give the name of a file")

    def maintain(self) -> None:
        """Does nothing: there is no connection."""

    def deliver(self, messages: Sequence[OutputMessage], confirm: Callable[[int], None]) -> None:
        """Append, flush, confirm. Raises DeliveryError."""
        try:
            self._follow()
            file = self._open() if self._file is None else self._file
            data = b"".join(message.text.encode() + b"\n" for message in messages)
            view = memoryview(data)
            while view:
                view = view[os.write(file, view) :]
            os.fsync(file)
        except OSError as error:
            # A partial line is removed when the file is opened again.
            self._shut()
            self.connected = False
            raise DeliveryError(f"{self.path}: {error.strerror}") from None
        self.connected = True
        confirm(len(messages))

    def close(self, seconds: float) -> None:  # noqa: ARG002  of the protocol
        """Close the file."""
        self._shut()

    def _follow(self) -> None:
        """Close a file that was moved or deleted, and begin a new one when it is due."""
        if self._file is None:
            return
        opened = os.fstat(self._file)
        try:
            at_path = os.stat(self.path)
            moved = (at_path.st_dev, at_path.st_ino) != (opened.st_dev, opened.st_ino)
        except FileNotFoundError:
            moved = True
        if moved:
            self._shut()
        elif self._settings.keep and self._due(opened.st_size):
            self._shut()
            self._rotate()

    def _due(self, size: int) -> bool:
        hours = self._settings.rotate_hours
        old = hours is not None and size > 0 and abs(self._clock() - self._begun) > hours * 3600.0
        return old or size >= self._settings.rotate_megabytes * 1e6

    def _rotate(self) -> None:
        """PATH becomes PATH.1, PATH.1 becomes PATH.2, and so on; the last one goes."""
        for number in range(self._settings.keep, 0, -1):
            earlier = self._numbered(number - 1) if number > 1 else self.path
            with suppress(FileNotFoundError):
                os.replace(earlier, self._numbered(number))

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")

    def _open(self) -> int:
        # Without O_NONBLOCK a named pipe in its place would block the thread for ever.
        file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o640)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise OSError(0, "is not a plain file")
            _end_last_line(file)
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
    """About when the file was begun: its last change if it holds anything. Linux keeps no better time."""
    status = os.fstat(file)
    return status.st_mtime if status.st_size else now


def _end_last_line(file: int) -> None:
    """Make the file end with a whole line: remove a partial one of ours, end any other."""
    partial = partial_last_line(file, LARGEST + 256)
    if not partial:
        return
    if partial.startswith(_OURS) or any(begin.startswith(partial) for begin in _OURS):
        os.ftruncate(file, os.fstat(file).st_size - len(partial))
    else:
        os.write(file, b"\n")
