"""`edgeasd run --mqtt` and `--metrics`: the options of one run as a site file, which the service then runs.

The file stays, so that the alarm commands have one to name, and so that whoever wants more has one to begin with.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeasd.runtime.errors import InputError

if TYPE_CHECKING:
    from edgeasd.runtime.bundle.manifest import Manifest

USERNAME, PASSWORD = "EDGEASD_MQTT_USERNAME", "EDGEASD_MQTT_PASSWORD"
"""Environment variables for the broker: on the command line everybody on the box could read them."""
_HEADER = """\
# Written by `edgeasd run`, and again by the next run with this bundle and --mqtt or --metrics.
# To change more than its options can say, copy it and use `edgeasd run --config`.
"""


def write_site(
    workspace: Path,
    bundle: Path,
    manifest: Manifest,
    stream: Mapping[str, Any],
    engine: Mapping[str, Any],
    mqtt: str | None,
    metrics: str | None,
) -> Path:
    """Write service/<bundle>/site.toml in the workspace; `stream` and `engine` hold what was given, by their keys.

    What is None or False is left out. Raises InputError for what no site file can say.
    """
    from edgeasd.runtime.config import parse_config
    from edgeasd.runtime.system.files import write_bytes

    if stream.get("input") == "-":
        raise InputError("--input -: a service has no standard input; give --input-command 'cat PIPE'")
    kind = manifest.machine.type
    named = kind if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", kind) else "machine"
    source = {key: str(Path(value).absolute()) if key == "input" and value else value for key, value in stream.items()}
    tables: list[tuple[str, Mapping[str, Any]]] = [
        ("", {"site": _host()}),
        ("engines.run", engine),
        (f"streams.{named}", {"bundle": str(bundle.absolute()), "engine": "run", **source}),
    ]
    if mqtt is not None:
        tables.append(("outputs.mqtt", {"type": "mqtt", "url": mqtt, **_credentials()}))
    if metrics is not None:
        tables.append(("outputs.metrics", {"type": "prometheus", "address": metrics}))
    path = workspace / "service" / bundle.stem / "site.toml"
    try:
        text = (_HEADER + "\n".join(_lines(tables)) + "\n").encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{error.object!r}: its name is not UTF-8; rename it") from None
    try:
        parse_config(text, path)
    except InputError as error:
        raise InputError(str(error).removeprefix(f"{path}: ")) from None
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, text)
    return path


def _lines(tables: list[tuple[str, Mapping[str, Any]]]) -> Iterator[str]:
    for name, table in tables:
        if name:
            yield f"\n[{name}]"
        for key, value in table.items():
            if value is not None and value is not False:
                yield f"{key} = {toml_value(value)}"


def toml_value(value: str | int | bool) -> str:
    """A value in TOML 1.0. JSON writes strings, numbers and true alike, but for DEL, which TOML wants escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _credentials() -> dict[str, Any]:
    user = os.environ.get(USERNAME)
    if user is None:
        if PASSWORD in os.environ:
            raise InputError(f"{PASSWORD}: is set without {USERNAME}; set both")
        return {}
    return {"username": user, "password_env": PASSWORD if PASSWORD in os.environ else None}


def _host() -> str:
    return "".join(c for c in socket.gethostname() if c.isalnum() or c in "._-")[:64] or "box"
