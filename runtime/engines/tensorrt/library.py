"""The TensorRT library: loaded, its version, and a logger. JetPack installs it for the system Python."""

from __future__ import annotations

import gc
import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

from edgeasd.runtime.errors import DeviceError, printable

if TYPE_CHECKING:
    import tensorrt

OLDEST = (10, 3)
"""JetPack 6.1 and 6.2."""

_REMEDY = (
    "on a Jetson, JetPack's Debian package installs it for the system Python: make the virtual environment with "
    "`python3 -m venv --system-site-packages`; `edgeasd doctor` looks at all of it"
)


def load() -> ModuleType:
    """The module `tensorrt`, 10.3 or later. Raises DeviceError if it is missing, broken or too old."""
    try:
        module = importlib.import_module("tensorrt")
    except ImportError as error:
        raise DeviceError(f"TensorRT: not installed ({printable(error, 200)}); {_REMEDY}") from None
    # A folder of type stubs imports too, as an empty namespace.
    if not hasattr(module, "Builder"):
        raise DeviceError(f"TensorRT: a module `tensorrt` without the library in it; {_REMEDY}")
    if numbers(version(module))[:2] < OLDEST:
        raise DeviceError(f"TensorRT {version(module)}: too old, edgeasd needs 10.3 or later; {_REMEDY}")
    return module


def installed() -> bool:
    """Whether `load` would succeed."""
    try:
        load()
    except DeviceError:
        return False
    return True


@contextmanager
def without_collection() -> Iterator[None]:
    """Disable Python's garbage collector while TensorRT makes a builder or a runtime.

    TensorRT holds a lock meanwhile and logs through Python. A collection inside the logger that frees an older
    builder would wait for that lock for ever.
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
    """The version of the module: "10.3.0"."""
    return str(module.__version__)


def numbers(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: "10.16.1.11" to (10, 16, 1, 11)."""
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def make_logger(trt: ModuleType, errors: list[str]) -> tensorrt.ILogger:
    """A logger that appends TensorRT's errors to `errors` and drops the rest, which is of no use to a user."""
    severity = trt.ILogger.Severity
    grave = (severity.INTERNAL_ERROR, severity.ERROR)

    class Logger(trt.ILogger):  # type: ignore[name-defined]
        def __init__(self) -> None:
            # TensorRT's Python classes need their own constructor called by name.
            trt.ILogger.__init__(self)

        def log(self, severity: tensorrt.ILogger.Severity, msg: str) -> None:
            if severity in grave:
                errors.append(printable(msg, 300))

    logger: tensorrt.ILogger = Logger()
    return logger
