"""Every path of a site made absolute, and what will be written held inside the data folder.

Relative paths are taken from the folder of the site file; those of files that outputs write, from the data
folder. Links and `..` are resolved before a path is judged.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgeasd.runtime.config.settings import ServiceConfig, ServiceSettings, StreamSettings
from edgeasd.runtime.errors import InputError, describe_validation_error, printable
from edgeasd.runtime.outputs.settings import JsonlSettings, PrometheusSettings, parse_outputs
from edgeasd.runtime.system.children import hide_variables

RESERVED = ("events.db", "edgeasd.sock", "service.lock", "boot_id", "queues", "evidence")
"""What the service itself keeps in the data folder."""
_READ_BY_OUTPUTS = ("ca_file", "certificate_file", "key_file", "password_file", "secret_file", "token_file")


_TOML_POSITION = re.compile(r"\(at line (\d+), column (\d+)")


@dataclass(frozen=True, slots=True)
class ConfigError:
    """One thing that is wrong: where in the site file, and the rest of the line."""

    place: str
    """A table or key of the site file, such as streams.pump; the file itself where it cannot be read."""
    what: str
    """The line after the place: value, what is wrong with it, remedy."""
    stream: str | None = None
    """The stream that cannot run because of it, where the others can."""

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"

    def to_json(self) -> dict[str, Any]:
        """`place`, `value`, `problem`, `remedy` and the whole `line`; what a line does not have is null.

        `line_number` and `column` are those of a TOML error.
        """
        head, divided, remedy = self.what.rpartition("; ")
        value, named, problem = (head if divided else self.what).partition(": ")
        found = _TOML_POSITION.search(self.what)
        return {
            "place": self.place,
            "value": value if named else None,
            "problem": problem if named else value,
            "remedy": remedy if divided else None,
            "line": str(self),
            **({} if found is None else {"line_number": int(found[1]), "column": int(found[2])}),
        }


def error_of_file(path: str, line: str) -> ConfigError:
    """The problem that `line` tells, which `read_config` raised for `path`."""
    told = line.removeprefix(f"{path}: ")
    head, named, rest = told.partition(": ")
    key, _, value = head.partition(" ")
    if not named or not re.fullmatch(r"[\w-]+(\.[\w-]+)*", key):
        return ConfigError(path, told)
    return ConfigError(key, f"{value}: {rest}" if value else rest)


def resolve_paths(settings: ServiceSettings, path: Path) -> ServiceConfig:
    """`settings` of the site file `path` with absolute paths. Raises InputError for one that leads out."""
    base = _resolve(path, path).parent
    data = _resolve(base / settings.data, f"{path}: data {settings.data!r}")
    if base.is_relative_to(data):
        raise InputError(f"{path}: data {settings.data!r}: holds the site file itself; name a folder of its own")
    streams = {
        name: _place_stream(stream, base, f"{path}: streams.{name}") for name, stream in settings.streams.items()
    }
    outputs = {
        name: _place_output(output, base, data, f"{path}: outputs.{name}") for name, output in settings.outputs.items()
    }
    written = [output.path for output in outputs.values() if isinstance(output, JsonlSettings)]
    if len(set(written)) < len(written):
        raise InputError(f"{path}: outputs: two write to one file; give each a path of its own")
    return ServiceConfig(path, settings.model_copy(update={"streams": streams, "outputs": outputs}), data)


def _place_stream(stream: StreamSettings, base: Path, place: str) -> StreamSettings:
    if stream.input == "-":
        raise InputError(
            f"{place}.input '-': a service has no standard input; name a file, a folder or an input_command"
        )
    changed: dict[str, Any] = {"bundle": str(base / stream.bundle)}
    if stream.input is not None:
        changed["input"] = str(base / stream.input)
    return stream.model_copy(update=changed)


def _place_output(output: Any, base: Path, data: Path, place: str) -> Any:
    if isinstance(output, PrometheusSettings):
        return output
    changed: dict[str, Any] = {
        name: str(base / given) for name in _READ_BY_OUTPUTS if (given := getattr(output, name, None)) is not None
    }
    if isinstance(output, JsonlSettings):
        target = _resolve(data / output.path, f"{place}.path {output.path!r}")
        if not target.is_relative_to(data) or target == data:
            raise InputError(f"{place}.path {output.path!r}: leads out of the data folder {data}; name a file in it")
        first = target.relative_to(data).parts[0]
        # SQLite keeps files of its own beside the database, under its name and more.
        if first in RESERVED or first.startswith(RESERVED[0]):
            raise InputError(f"{place}.path {output.path!r}: is kept by the service itself; use another name")
        changed["path"] = str(target)
    return output.model_copy(update=changed)


def _resolve(path: Path, place: Any) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):
        raise InputError(f"{place}: cannot be followed to a file or folder; correct it") from None


if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LARGEST = 1 << 20
"""Bytes of a site file."""


USUAL_PATHS = (Path("site.toml"), Path("/etc/edgeasd/site.toml"))
"""Where a site file usually is: in the current folder, or where the installation puts it."""


def usual_config() -> Path:
    """The first of USUAL_PATHS that is there. Raises InputError if none is."""
    for path in USUAL_PATHS:
        if path.is_file():
            return path
    tried = " nor ".join(str(path) for path in USUAL_PATHS)
    raise InputError(f"no site file: neither {tried} is there; name one with --config, or in EDGEASD_SITE")


def read_config(path: Path | None) -> ServiceConfig:
    """Read and validate `path`; None for that of `usual_config`. Raises InputError with one line."""
    path = usual_config() if path is None else Path(path)
    try:
        # Without O_NONBLOCK a pipe in place of the file would hold the command for ever.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as handle:
            if not stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
                raise InputError(f"{path}: is no plain file; name a site file")
            data = handle.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{path}: {what}; name a site file, such as site.toml") from None
    return parse_config(data, path)


def parse_config(data: bytes, path: Path) -> ServiceConfig:
    """The site that the TOML in `data` describes; relative paths are taken from the folder of `path`.

    Variables of the environment that it names as secrets are kept from processes that are started from now on.
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
        settings = ServiceSettings.model_validate({**raw, "outputs": outputs})
    except ValidationError as error:
        raise InputError(f"{path}: {describe_validation_error(error, ServiceSettings)}") from None
    except RecursionError:
        raise InputError(f"{path}: nested too deeply; see docs/how-to/service.md for its tables") from None
    given = [(output, name) for output in settings.outputs.values() for name in type(output).model_fields]
    hide_variables(value for output, name in given if name.endswith("_env") and (value := getattr(output, name)))
    return resolve_paths(settings, path)


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


def config_schema() -> dict[str, Any]:
    """The schema of the whole file, in the dialect of 2020-12."""
    schema = ServiceSettings.model_json_schema()
    title = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "edgeasd site.toml"}
    return {**title, **{key: value for key, value in schema.items() if key != "title"}}
