"""The TensorRT module itself, which JetPack brings to the system Python."""

from __future__ import annotations

import gc
import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

from edgeasd.runtime.errors import DeviceError

if TYPE_CHECKING:
    import tensorrt

OLDEST = (10, 3)
"""JetPack 6.1 and 6.2."""

_REMEDY = (
    "on a Jetson JetPack's Debian package gives it to the system Python: make the virtual environment with "
    "`python3 -m venv --system-site-packages`; `edgeasd doctor` looks at all of it"
)


def load() -> ModuleType:
    """The module `tensorrt`, 10.3 or later. Raises DeviceError where it is not there, broken or too old."""
    try:
        module = importlib.import_module("tensorrt")
    except ImportError as error:
        raise DeviceError(f"TensorRT: not installed ({' '.join(str(error).split())[:200]}); {_REMEDY}") from None
    # A folder of type stubs, without the library, also imports: as a namespace with nothing in it.
    if not hasattr(module, "Builder"):
        raise DeviceError(f"TensorRT: a module `tensorrt` without the library in it; {_REMEDY}")
    if numbers(version(module))[:2] < OLDEST:
        raise DeviceError(f"TensorRT {version(module)}: too old, edgeasd needs 10.3 or later; {_REMEDY}")
    return module


def installed() -> bool:
    """Whether `load` would give a module."""
    try:
        load()
    except DeviceError:
        return False
    return True


@contextmanager
def without_collection() -> Iterator[None]:
    """Keep Python's garbage collector away while TensorRT makes a builder or a runtime.

    It holds a lock meanwhile and logs through Python. A collection that begins in the logger and frees an older
    builder waits for that lock for ever.
    """
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def version(module: ModuleType) -> str:
    """As the module states it: "10.3.0"."""
    return str(module.__version__)


def numbers(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: "10.16.1.11" to (10, 16, 1, 11)."""
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


_LONGEST = 300


def make_logger(trt: ModuleType, errors: list[str]) -> tensorrt.ILogger:
    """A logger that keeps TensorRT's errors in `errors` for a message of ours; the rest is of no use to a user."""
    severity = trt.ILogger.Severity
    grave = (severity.INTERNAL_ERROR, severity.ERROR)

    class Logger(trt.ILogger):  # type: ignore[name-defined]
        def __init__(self) -> None:
            # TensorRT's Python classes want their own constructor called by name.
            trt.ILogger.__init__(self)

        def log(self, severity: tensorrt.ILogger.Severity, msg: str) -> None:
            if severity in grave:
                errors.append(one_line(msg))

    made: tensorrt.ILogger = Logger()
    return made


def one_line(text: object) -> str:
    """What TensorRT said, printable and cut."""
    return "".join(c if c.isprintable() else " " for c in " ".join(str(text).split())[:_LONGEST])
