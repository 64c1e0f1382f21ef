"""What stands between a command and its user: every expected failure is one line and an exit code.

0 fine, 1 a check failed, 2 wrong use or bad input, 3 device or engine not available,
130 stopped by Ctrl-C, 141 the reader of standard output has gone, 143 stopped by SIGTERM.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import FrameType
from typing import Any, TypeVar

import typer

from edgeasd.runtime.errors import EdgeasdError

INTERRUPTED, BROKEN_PIPE, TERMINATED, BAD_INPUT = 130, 141, 143, 2

_Command = TypeVar("_Command", bound=Callable[..., Any])
_EXTRAS = {
    "torch": "train",
    "lightning_fabric": "train",
    "safetensors": "train",
    "scipy": "train",
    "sklearn": "train",
    "tensorboard": "train",
    "onnx": "export",
    "onnxscript": "export",
    "paho": "serve",
    "prometheus_client": "serve",
}
_PLAIN_OS_ERRORS = {
    *(errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.ENOENT, errno.EPERM, errno.ENOTDIR),
    *(errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EIO, errno.EMFILE, errno.EEXIST),
}


def print_error(message: str) -> None:
    """One line on standard error."""
    print(f"edgeasd: {' '.join(message.split())}", file=sys.stderr, flush=True)


def handle_errors(command: _Command) -> _Command:
    """Turn the expected failures of a command into one line and the right exit code."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        # Without this a SIGTERM ends the process on the spot, and no temporary file is removed.
        signal.signal(signal.SIGTERM, _terminated)
        _hang_up_like_termination()
        _print_any_name()
        try:
            result = command(*args, **kwargs)
            # What is still buffered fails here, where it is handled, and not at interpreter exit.
            sys.stdout.flush()
            return result
        except EdgeasdError as error:
            print_error(str(error))
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            print_error("stopped by Ctrl-C; nothing half-written was left")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            raise _reader_has_gone() from None
        except SystemExit as ended:
            # A help page whose reader has left: click makes exit code 1 of that.
            if isinstance(ended.__context__, BrokenPipeError):
                raise _reader_has_gone() from None
            raise
        except ModuleNotFoundError as error:
            extra = _EXTRAS.get((error.name or "").partition(".")[0])
            if extra is None:
                raise
            print_error(f"this command needs {error.name}, which is not installed; pip install 'edgeasd[{extra}]'")
            raise typer.Exit(BAD_INPUT) from None
        except OSError as error:
            if error.errno not in _PLAIN_OS_ERRORS:
                raise
            place = f"{error.filename}: " if error.filename else ""
            print_error(f"{place}{error.strerror}; make room or correct the path or its permissions")
            raise typer.Exit(BAD_INPUT) from None

    return run  # type: ignore[return-value]


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Yield a check that raises again the Ctrl-C or SIGTERM of this block, should a library have swallowed it.

    An interrupt that arrives inside an import or a finaliser is printed or turned into something else;
    work that goes on regardless would then end as if nobody had asked it to stop.
    """
    asked: list[BaseException] = []

    def ask(number: int, _: object) -> None:
        asked.append(KeyboardInterrupt() if number == signal.SIGINT else SystemExit(TERMINATED))
        raise asked[-1]

    def check() -> None:
        if asked:
            raise asked[-1]

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
        check()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def defer_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait for the end of this block: it is done whole, and leaves no lock behind."""
    asked: list[tuple[int, FrameType | None]] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in before:
            signal.signal(number, lambda number, frame: asked.append((number, frame)))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for arrived, frame in asked[:1]:
        handler = before[signal.Signals(arrived)]
        if callable(handler):
            handler(arrived, frame)
        else:
            signal.raise_signal(arrived)


def _print_any_name() -> None:
    """A file name that is not UTF-8 goes to standard output as the bytes it has on disk, and not into a traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")


def _hang_up_like_termination() -> None:
    """A line that drops (SIGHUP) ends a command in the same good order; under nohup it stays ignored."""
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))


def _terminated(*_: object) -> None:
    raise SystemExit(TERMINATED)


def _reader_has_gone() -> typer.Exit:
    """Say so, once, and with what code to end."""
    _silence_standard_output()
    print_error("standard output was closed by its reader; stopped")
    return typer.Exit(BROKEN_PIPE)


def _silence_standard_output() -> None:
    """Let the interpreter's last flush go nowhere instead of failing a second time."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)
