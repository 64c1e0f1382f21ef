"""Every path of a site made absolute, and what will be written held inside the data folder.

Relative paths are taken from the folder of the site file; those of files that outputs write, from the data
folder. Links and `..` are resolved before a path is judged.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.outputs.settings import JsonlSettings, PrometheusSettings
from edgeasd.runtime.site.settings import Site, SiteSettings, StreamSettings

RESERVED = ("events.db", "edgeasd.sock", "service.lock", "boot_id", "queues", "evidence")
"""What the service itself keeps in the data folder."""
_READ_BY_OUTPUTS = ("ca_file", "certificate_file", "key_file", "password_file", "secret_file", "token_file")


def place_everything(settings: SiteSettings, path: Path) -> Site:
    """`settings` of the site file `path` with absolute paths. Raises InputError for one that leads out."""
    base = _resolve(path, path).parent
    data = _resolve(base / settings.data, f"{path}: data {settings.data!r}")
    if base.is_relative_to(data):
        raise InputError(f"{path}: data {settings.data!r}: holds the site file itself; name a folder of its own")
    streams = {name: _place_stream(stream, base) for name, stream in settings.streams.items()}
    outputs = {
        name: _place_output(output, base, data, f"{path}: outputs.{name}") for name, output in settings.outputs.items()
    }
    written = [output.path for output in outputs.values() if isinstance(output, JsonlSettings)]
    if len(set(written)) < len(written):
        raise InputError(f"{path}: outputs: two write to one file; give each a path of its own")
    return Site(path, settings.model_copy(update={"streams": streams, "outputs": outputs}), data)


def _place_stream(stream: StreamSettings, base: Path) -> StreamSettings:
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
