"""Events with all that belongs to them, as a folder or a zip."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.evidence.clip import CLIP, METADATA, PICTURE
from edgeasd.runtime.evidence.lookup import EventReader, Evidence, as_json
from edgeasd.runtime.evidence.spectrogram import draw_clip
from edgeasd.runtime.system.files import atomic_directory, atomic_file
from edgeasd.toolkit.progress import ProgressCallback

_Put = Callable[[str, str, bytes, float], None]
"""Takes folder, file name, content and the time it is of."""


def record_of(event: dict[str, Any], evidence: Evidence) -> dict[str, Any]:
    """An event and the metadata of its evidence (null without), for programs."""
    metadata = None if evidence.metadata is None else evidence.metadata.model_dump(mode="json", by_alias=True)
    return {**as_json(event), "evidence": metadata, "problem": evidence.problem}


def export_events(
    reader: EventReader, events: Sequence[dict[str, Any]], output: Path, report: ProgressCallback
) -> list[dict[str, Any]]:
    """Write `output` whole or not at all; returns ID, file names and problem (why it has no picture) of each event.

    Raises InputError if `output` exists.
    """
    if os.path.lexists(output):
        raise InputError(f"{output}: is there already; name a new folder or zip")
    if output.suffix.lower() == ".zip":
        with atomic_file(output) as handle, zipfile.ZipFile(handle, "w", zipfile.ZIP_DEFLATED) as archive:
            return _write_all(reader, events, _into_zip(archive), report)
    with atomic_directory(output) as folder:
        return _write_all(reader, events, _into_folder(folder), report)


def _write_all(
    reader: EventReader, events: Sequence[dict[str, Any]], put: _Put, report: ProgressCallback
) -> list[dict[str, Any]]:
    written = []
    for number, event in enumerate(events):
        report(number, len(events))
        files, problem = _write(reader, event, put)
        written.append({"event": event["event"], "files": files, "problem": problem})
    report(len(events), len(events))
    return written


def _write(reader: EventReader, event: dict[str, Any], put: _Put) -> tuple[list[str], str | None]:
    name, at, evidence = event["event"], event["raised_at"], reader.evidence(event["event"])
    content = {
        "event.json": _dumped(record_of(event, evidence)),
        "transitions.json": _dumped(reader.transitions(name)),
    }
    for file, path in evidence.files.items():
        # A service may delete a file meanwhile; the metadata is in event.json.
        if file != METADATA and (data := _content(path)) is not None:
            content[file] = data
    problem = None
    if CLIP in content and PICTURE not in content:
        try:
            content[PICTURE] = draw_clip(evidence.files[CLIP].parent)
        except InputError as error:
            problem = str(error)
    for file, data in content.items():
        put(name, file, data, at)
    return sorted(content), problem


def _dumped(value: Any) -> bytes:
    return f"{json.dumps(value, indent=2)}\n".encode()


def _content(path: Path) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    with open(descriptor, "rb") as handle:
        return handle.read()


def _into_folder(folder: Path) -> _Put:
    def put(event: str, name: str, data: bytes, at: float) -> None:
        (folder / event).mkdir(exist_ok=True)
        (folder / event / name).write_bytes(data)
        os.utime(folder / event / name, (at, at))

    return put


def _into_zip(archive: zipfile.ZipFile) -> _Put:
    def put(event: str, name: str, data: bytes, at: float) -> None:
        # What a zip can say begins in 1980 and ends in 2107.
        when = datetime.fromtimestamp(min(max(at, 315_532_800.0), 4_323_000_000.0), timezone.utc)
        info = zipfile.ZipInfo(f"{event}/{name}", when.timetuple()[:6])
        info.compress_type = zipfile.ZIP_DEFLATED if name.endswith(("json", "jsonl")) else zipfile.ZIP_STORED
        info.external_attr = 0o100644 << 16
        archive.writestr(info, data)

    return put
