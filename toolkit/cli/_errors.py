"""Exit codes, signals and the one line on standard error that an expected failure becomes.

0 fine, 1 a check failed, 2 wrong use or bad input, 3 device or engine not available,
130 stopped by Ctrl-C, 141 the reader of standard output has gone, 143 stopped by SIGTERM.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import FrameType
from typing import Any, NoReturn, TypeVar

import typer

from edgeasd.runtime.errors import EdgeasdError, escaped, redact

INTERRUPTED, BROKEN_PIPE, TERMINATED, BAD_INPUT = 130, 141, 143, 2

_Command = TypeVar("_Command", bound=Callable[..., Any])
_EXTRAS = {
    **dict.fromkeys(
        ("torch", "lightning_fabric", "safetensors", "scipy", "sklearn", "tensorboard", "matplotlib", "jinja2"), "train"
    ),
    **dict.fromkeys(("onnx", "onnxscript"), "export"),
    **dict.fromkeys(("paho", "prometheus_client", "httpx", "PIL"), "serve"),
}
_PLAIN_OS_ERRORS = {
    *(errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.ENOENT, errno.EPERM, errno.ENOTDIR),
    *(errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EIO, errno.EMFILE, errno.EEXIST),
}


def print_error(message: str) -> None:
    """Print one line on standard error."""
    sys.stderr.write(f"edgeasd: {escaped(redact(' '.join(message.split())))}\n")
    sys.stderr.flush()


def handle_errors(command: _Command) -> _Command:
    """Turn the expected failures of a command into one line and the right exit code."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            try:
                return command(*args, **kwargs)
            finally:
                # A full disk or a closed pipe shows here, and not at interpreter exit.
                sys.stdout.flush()
        except EdgeasdError as error:
            _end(error.exit_code, str(error))
        except KeyboardInterrupt:
            _end(INTERRUPTED, "stopped by Ctrl-C; nothing half-written was left")
        except BrokenPipeError:
            _discard_standard_output()
            _end(BROKEN_PIPE, "standard output was closed by its reader; stopped")
        except ModuleNotFoundError as error:
            extra = _EXTRAS.get((error.name or "").partition(".")[0])
            if extra is None:
                raise
            _end(BAD_INPUT, f"this command needs {error.name}, which is not installed; pip install 'edgeasd[{extra}]'")
        except OSError as error:
            if error.errno not in _PLAIN_OS_ERRORS:
                raise
            place = f"{error.filename}: " if error.filename else ""
            if error.filename is None:
                _discard_standard_output()
            _end(BAD_INPUT, f"{place}{error.strerror}; make room or correct the path or its permissions")

    return run  # type: ignore[return-value]


def _end(exit_code: int, message: str) -> NoReturn:
    print_error(message)
    raise typer.Exit(exit_code) from None


def _discard_standard_output() -> None:
    """Let the interpreter's last flush go nowhere instead of failing a second time."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)


class _Interrupt(KeyboardInterrupt):
    """Ctrl-C. CPython ends `python -m` by SIGINT after a plain KeyboardInterrupt inside `exec`, even a handled one."""


def handle_signals() -> None:
    """Raise KeyboardInterrupt on Ctrl-C and SystemExit on SIGTERM and SIGHUP, so that temporary files are removed.

    Signals that are ignored, as under nohup, stay ignored.
    """
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        # A command with a SIGTERM handler of its own ends by that one.
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))


def _interrupt(*_: object) -> NoReturn:
    raise _Interrupt


def _terminate(*_: object) -> NoReturn:
    raise SystemExit(TERMINATED)


def prepare_streams() -> None:
    """Make standard output and error exist and take any text; what libraries print goes to standard error."""
    _set_output_apart()
    # None if the starting process closed them, as some init scripts do.
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  as long as the process
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    codecs.register_error("edgeasd", _encode_rest)
    for stream, errors in ((sys.stdout, "edgeasd"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def _set_output_apart() -> None:
    """Give this program's output a descriptor of its own: libsndfile and ONNX Runtime print to descriptor 1.

    A line of theirs between two lines of JSON would break whatever reads them.
    """
    output = sys.stdout
    try:
        if not isinstance(output, io.TextIOWrapper) or output.fileno() != 1:
            return
        output.flush()
        own = os.dup(1)
        os.dup2(2, 1)
    except OSError:  # standard error or output is closed
        return
    is_unbuffered = output.write_through
    raw = open(own, "wb", buffering=0 if is_unbuffered else -1, closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = io.TextIOWrapper(  # type: ignore[misc]
        raw,
        encoding=output.encoding,
        errors=output.errors,
        line_buffering=output.line_buffering,
        write_through=is_unbuffered,
    )


def _encode_rest(error: UnicodeError) -> tuple[bytes, int]:
    """Bytes of a file name that is not UTF-8 as they are on disk; "?" for letters that the encoding lacks."""
    assert isinstance(error, UnicodeEncodeError)
    codes = (ord(letter) for letter in error.object[error.start : error.end])
    return bytes(code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else ord("?") for code in codes), error.end


@contextmanager
def interruptible(stopped: str | None = None) -> Iterator[Callable[[], None]]:
    """Yield a check that raises again the Ctrl-C or SIGTERM of this block, if a library has swallowed it.

    An interrupt inside an import or a finaliser is printed or turned into another error, and the work would go on.
    If `stopped` is given, Ctrl-C becomes this line and exit code 130.
    """
    requests: list[BaseException] = []

    def request(number: int, _: object) -> None:
        requests.append(KeyboardInterrupt() if number == signal.SIGINT else SystemExit(TERMINATED))
        raise requests[-1]

    def check() -> None:
        if requests:
            raise requests[-1]

    previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
        check()
    except KeyboardInterrupt:
        if stopped is None:
            raise
        _end(INTERRUPTED, stopped)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def defer_signals() -> Iterator[None]:
    """Handle Ctrl-C and SIGTERM at the end of this block, so that it is done whole and leaves no lock behind."""
    arrived: list[tuple[int, FrameType | None]] = []
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in previous:
            signal.signal(number, lambda number, frame: arrived.append((number, frame)))
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    for caught, frame in arrived[:1]:
        handler = previous[signal.Signals(caught)]
        if callable(handler):
            handler(caught, frame)
        else:
            signal.raise_signal(caught)
