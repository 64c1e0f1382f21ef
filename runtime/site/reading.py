"""From the bytes of site.toml to a `Site`, or one line that says what is wrong, where, and what is near to it."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from pydantic import ValidationError

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.outputs.settings import parse_outputs
from edgeasd.runtime.settings_problem import describe_problem, printable
from edgeasd.runtime.site.places import place_everything
from edgeasd.runtime.site.settings import Site, SiteSettings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LARGEST = 1 << 20
"""Bytes of a site file."""


def read_site(path: Path) -> Site:
    """Read and validate `path`. Raises InputError with one line."""
    path = Path(path)
    try:
        # Without O_NONBLOCK a pipe in place of the file would hold the command for ever.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as handle:
            if not stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
                raise InputError(f"{path}: is no plain file; name a site file")
            data = handle.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{path}: {what}; name a site file, such as site.toml") from None
    return parse_site(data, path)


def parse_site(data: bytes, path: Path) -> Site:
    """The site that the TOML in `data` describes; relative paths are taken from the folder of `path`.

    Raises InputError with one line.
    """
    if len(data) > LARGEST:
        raise InputError(f"{path}: more than {LARGEST} bytes; name a site file")
    try:
        raw = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not TOML ({printable(_toml_problem(error, data))}); correct it there") from None
    outputs = parse_outputs(raw.pop("outputs", {}), f"{path}: outputs")
    try:
        settings = SiteSettings.model_validate({**raw, "outputs": outputs})
    except ValidationError as error:
        raise InputError(f"{path}: {describe_problem(error, SiteSettings)}") from None
    except RecursionError:
        raise InputError(f"{path}: nested too deeply; see docs/service.md for its tables") from None
    return place_everything(settings, path)


def _toml_problem(error: Exception, data: bytes) -> str:
    """What is wrong with the TOML, with line and column wherever it can be told."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return f"byte 0x{data[error.start]:02x} is not UTF-8 {_position(data[: error.start])}"
    # The reader names no position where the text ends too early.
    return str(error).replace("(at end of document)", f"{_position(data.rstrip())}, the end of the text")


def _position(before: bytes) -> str:
    lines = before.decode("utf-8", "replace").split("\n")
    return f"(at line {len(lines)}, column {len(lines[-1]) + 1})"
