"""From the bytes of site.toml to a `Site`, or one line that says what is wrong, where, and what is near to it."""

from __future__ import annotations

import difflib
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.outputs.settings import parse_outputs
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
        raise InputError(f"{path}: not TOML ({_printable(_toml_problem(error, data))}); correct it there") from None
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


def describe_problem(error: ValidationError, model: type[BaseModel]) -> str:
    """The first thing that is wrong, as `field.field value: what`; an unknown key with the nearest known name."""
    found = error.errors(include_url=False, include_context=False)
    # A misspelt key is both unknown and missing; only the one says what to do.
    first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
    location = [part for part in first["loc"] if part != "[key]"]
    where = ".".join(str(part) for part in location)
    if first["type"] == "extra_forbidden":
        known = _fields(model, location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, 1)
        hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(known)}"
        return _printable(f"{where}: unknown; {hint}")
    if first["type"] == "missing":
        return _printable(f"{where}: is missing; add it")
    what = first["msg"].removeprefix("Value error, ")
    given = "" if isinstance(first["input"], Mapping) else f" {str(first['input'])[:80]!r}"
    remedy = "" if ";" in what else "; correct it"
    return _printable(f"{where}{given}: {what}{remedy}".removeprefix(": "))


def _fields(model: Any, location: list[Any]) -> list[str]:
    """Names that are known at `location` below `model`."""
    named = False
    for part in location:
        if named:  # the name of a table in a table of tables, whose model is known already
            named = False
        elif part in model.model_fields:
            annotation = model.model_fields[part].annotation
            model = next((kind for kind in _leaves(annotation) if _is_model(kind)), model)
            named = getattr(annotation, "__origin__", None) is dict
    return list(model.model_fields)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _leaves(annotation: Any) -> list[Any]:
    inner = get_args(annotation)
    return [annotation] if not inner else [leaf for part in inner for leaf in _leaves(part)]


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)[:400]
