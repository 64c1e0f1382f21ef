"""Raw PCM from the standard output of any command, such as ffmpeg on an RTSP stream."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import threading
import time
import weakref
from collections import deque
from contextlib import suppress
from typing import IO

from edgeasd.runtime.errors import HIDDEN, DeviceError, InputError, redact
from edgeasd.runtime.sources.base import AudioChunk, SourceEvent, SourceStatus
from edgeasd.runtime.sources.pipe import PcmSource
from edgeasd.runtime.system.children import child_environment

START_SECONDS, STALL_SECONDS = 30.0, 10.0
"""How long a live command may take to its first sound, and deliver nothing later on."""
AHEAD_SECONDS = 30.0
"""How far a live command may run ahead of real time before it is read at the speed of real time."""
_FAST_CLOCK = 1e-3
GRACE_SECONDS = 1.0
_LAST_LINES, _LINE_BYTES = 3, 300
_STARTED: weakref.WeakSet[subprocess.Popen[bytes]] = weakref.WeakSet()


def split_command(command: str) -> list[str]:
    """Words of a command as a shell would split them, without a shell. Raises InputError for none or an open quote."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise InputError(f"--input-command {shown_command(command)!r}: {error}; close the quote") from None
    if not words or "\0" in command:
        raise InputError(f"--input-command {command!r}: is no command; give a program and its arguments")
    return words


_NAME = r"[\w.-]*(?:passwor[dt]|passwd|passphrase|pwd|token|secret|key|credentials?|authorization|auth)"
_OPTION = re.compile(rf"--?{_NAME}", re.IGNORECASE)
_USER = re.compile(r"-u|--?[\w-]*user", re.IGNORECASE)
_HEADER = re.compile(r"(?:proxy-)?authorization:\s*(?:\w+\s+)?(\S+)|\bbearer\s+(\S+)|cookie:\s*(\S.*)", re.IGNORECASE)
_ASSIGNED = re.compile(rf"{_NAME}\s*[=:]\s*([^\s&'\"]+)", re.IGNORECASE)
_WITH_USER = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([^\s'\"<>]*)@")
_SHORTEST_SECRET = 3
"""Shorter ones would be found in any text; what is left of them in standard error says little."""


def secrets_of(words: list[str]) -> list[str]:
    """What is secret in a command: passwords in URLs, values of options such as --password and TOKEN=, headers."""
    found: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        if _OPTION.fullmatch(before) and not word.startswith("-"):
            found.append(word)
        elif _USER.fullmatch(before) and ":" in word:
            found += [word, word.partition(":")[2]]
        if " " in word:  # a command in a command, as of sh -c; without its quotes if they do not match
            found += secrets_of(_split_loosely(word))
        for pattern in (_HEADER, _ASSIGNED):
            found += [group for match in pattern.finditer(word) for group in match.groups() if group]
        found += [part for match in _WITH_USER.finditer(word) for part in (match[1], match[1].partition(":")[2])]
    return [one for one in dict.fromkeys(found) if len(one) >= _SHORTEST_SECRET]


def _split_loosely(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.replace("'", " ").replace('"', " ").split()


def shown_command(command: str) -> str:
    """A command as it may be shown: as it is, or without its secrets and then without its quotes."""
    words = _split_loosely(command)
    hidden = redact(" ".join(words), secrets_of(words))
    return hidden if HIDDEN in hidden else command


class _StderrTail:
    """The last lines that a command wrote to standard error."""

    def __init__(self, stream: IO[bytes], secrets: list[str]) -> None:
        self._secrets = secrets
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._stream = stream
        self.thread = threading.Thread(target=self._follow, name="edgeasd-command", daemon=True)
        self.thread.start()

    def _follow(self) -> None:
        with suppress(OSError, ValueError), self._stream:
            while raw := self._stream.readline(_LINE_BYTES):
                # Progress lines of ffmpeg end in a carriage return; only the last one says anything.
                text = raw.decode(errors="replace").strip().rpartition("\r")[2]
                if printable := "".join(c if c.isprintable() else " " for c in text).strip():
                    self._lines.append(redact(printable, self._secrets))

    def __str__(self) -> str:
        return " / ".join(self._lines) or "nothing on standard error"


def _exited(process: subprocess.Popen[bytes]) -> int | None:
    """The exit code, -N for signal N. The process is not reaped, so the number of its group stays taken."""
    if process.returncode is not None:
        return process.returncode
    status = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if status is None:
        return None
    return status.si_status if status.si_code == os.CLD_EXITED else -status.si_status


def kill_commands() -> None:
    """Kill all running commands and their children, for a program that ends at once."""
    for process in list(_STARTED):
        # A process that is not reaped keeps its number.
        if process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)


class _Terminator:
    """Ends a command and its children: SIGTERM, and SIGKILL a second later; two seconds in all.

    A second call, such as at the exit of the program, continues the first.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._asked_at: float | None = None
        self._lock = threading.Lock()

    def __call__(self) -> None:
        if self._asked_at is None:
            self._asked_at = time.monotonic()
        with self._lock:
            if self._process.returncode is None:
                self._end(self._asked_at + GRACE_SECONDS)

    def _end(self, deadline: float) -> None:
        process = self._process
        assert process.stdout is not None
        # First: a command that writes notices at once, and one that cannot be ended holds nothing open.
        process.stdout.close()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGTERM)
            while _exited(process) is None and time.monotonic() < deadline:
                time.sleep(0.01)
            os.killpg(process.pid, signal.SIGKILL)
        # A process that waits for a dead disk, or belongs to another user, does not end.
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.1, deadline + GRACE_SECONDS - time.monotonic()))


class RealtimeLimit:
    """Holds back live commands that are faster than real time, such as ffmpeg on a file.

    One object serves all restarts of a command, or each would begin with a new allowance.
    """

    def __init__(self) -> None:
        self._ahead, self._updated_at = 0.0, time.monotonic()

    def add(self, seconds: float) -> float:
        """Count so much sound; returns the seconds to wait before more is read."""
        now = time.monotonic()
        # A camera whose clock is fast gains seconds in weeks, and must not be held back for that.
        passed, self._updated_at = (1.0 + _FAST_CLOCK) * (now - self._updated_at), now
        self._ahead = max(0.0, self._ahead - passed) + seconds
        return max(0.0, self._ahead - AHEAD_SECONDS)


class CommandSource:
    """Raw PCM that a command writes to its standard output; run without a shell.

    The command runs in a process group of its own, which is ended by `close`, or at exit at the latest. With
    `live` (a camera) it is given up after 30 s without a first sound and 10 s without a next one, and held back
    by `limit` if it is faster than real time; otherwise (a converter) it may take its time. With `every_channel`,
    chunks have shape (n, channels). Exit code 0 is the end of the sound.
    Raises InputError for a command that cannot be started, and as `PcmSource` does; DeviceError with the last
    lines of its standard error for any other exit code, death by a signal, and silence.
    """

    def __init__(
        self,
        command: str,
        sample_rate: int = 16000,
        format: str = "s16le",
        channels: int = 1,
        channel: int | None = None,
        mix: bool = False,
        *,
        live: bool = False,
        every_channel: bool = False,
        limit: RealtimeLimit | None = None,
        recorded_rate: int | None = None,
    ) -> None:
        words = split_command(command)
        self._label = f"command {os.path.basename(words[0])}"
        try:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                env=child_environment(),
            )
        except OSError as error:
            raise InputError(
                f"{words[0]}: cannot be started ({error.strerror}); check its name, or give its whole path"
            ) from None
        _STARTED.add(self._process)
        self._end = _Terminator(self._process)
        weakref.finalize(self, self._end)
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        try:
            self._stderr = _StderrTail(self._process.stderr, secrets_of(words))
            self._pcm = PcmSource(
                self._process.stdout,
                sample_rate,
                format,
                channels,
                channel,
                mix,
                live=live,
                label=self._label,
                timeout=START_SECONDS if live else None,
                every_channel=every_channel,
                recorded_rate=recorded_rate,
            )
        except BaseException:
            self._end()
            raise
        self.live, self.sample_rate, self.name = live, sample_rate, self._pcm.name
        self._closed = threading.Event()
        self._limit = limit or RealtimeLimit()

    @property
    def pid(self) -> int:
        """Number of the command's process, and of its group."""
        return self._process.pid

    @property
    def status(self) -> SourceStatus:
        """As of `Source`."""
        return self._pcm.status

    def take_events(self) -> list[SourceEvent]:
        """Changes of its rate."""
        return self._pcm.take_events()

    def read(self) -> AudioChunk | None:
        """The next samples; None if the command ended with exit code 0, and after `close`."""
        try:
            chunk = self._pcm.read()
        except TimeoutError:
            raise DeviceError(
                f"{self._label}: no sound for {self._pcm.timeout:g} s ({self._stderr}); check what it reads"
            ) from None
        except InputError:
            self._check_exit()  # a failed command mostly leaves no sound, or half a frame
            raise
        if chunk is None:
            self._check_exit()
        elif self.live:
            self._pcm.timeout = STALL_SECONDS
            if (pause := self._limit.add(len(chunk.samples) / self.sample_rate)) > 0:
                self._pcm.rate_watch.restart()
                self._closed.wait(pause)
        return chunk

    def _check_exit(self) -> None:
        if self._closed.is_set():
            return
        deadline = time.monotonic() + GRACE_SECONDS
        while (code := _exited(self._process)) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if code:
            self._stderr.thread.join(GRACE_SECONDS)
            how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
            raise DeviceError(f"{self._label}: {how} ({self._stderr}); try the command by itself")

    def close(self) -> None:
        """End the command, its children and a blocked `read`."""
        self._closed.set()
        self._pcm.close()
        self._end()
        self._stderr.thread.join(GRACE_SECONDS)
