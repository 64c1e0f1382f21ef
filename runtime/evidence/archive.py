"""The folder of all evidence: what is in it, what a restart recovers, and what is deleted.

Evidence is deleted by age, by size and for room on the disk: the oldest first, that of open events never.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeasd.runtime.alarms.event_id import is_event_id, milliseconds_of
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.evidence.clip import (
    FAILURES,
    FILES,
    METADATA,
    ClipMetadata,
    PartClip,
    is_plain_file,
    read_metadata,
    recover_clip,
)
from edgeasd.runtime.evidence.settings import DAY, KeepSettings
from edgeasd.runtime.system.files import write_bytes
from edgeasd.runtime.system.lock import open_locked

REASONS = ("age", "size", "room")


@dataclass(frozen=True, slots=True)
class StoredClip:
    """Evidence on the disk."""

    event: str
    at: float
    """When the event was raised, wall clock in seconds."""
    size: int
    """Bytes."""
    is_open: bool = False
    """Must not be deleted: the event is open, or its clip is being written."""


def select_for_deletion(
    clips: Iterable[StoredClip], now: float, free: int, keep: KeepSettings
) -> list[tuple[str, str]]:
    """(event, reason) of all evidence to delete, oldest first; reasons are those of `REASONS`.

    `now` is the wall clock in seconds, `free` the free bytes of the disk.
    """
    ordered = sorted(clips, key=lambda clip: (clip.at, clip.event))
    newest = {clip.event for clip in ordered[len(ordered) - min(keep.fewest, len(ordered)) :]}
    oldest = now - DAY * keep.max_age_days
    reasons = {c.event: "age" for c in ordered if not c.is_open and c.at < oldest and c.event not in newest}
    total = sum(clip.size for clip in ordered if clip.event not in reasons)
    free += sum(clip.size for clip in ordered if clip.event in reasons)
    for clip in ordered:
        if total <= keep.max_bytes and free >= keep.min_free_bytes:
            break
        if clip.is_open or clip.event in reasons:
            continue
        reasons[clip.event] = "size" if total > keep.max_bytes else "room"
        total -= clip.size
        free += clip.size
    return [(clip.event, reasons[clip.event]) for clip in ordered if clip.event in reasons]


SCHEMA = 1
STATES = ("ok", "no_room", "failing", "stopped")


@dataclass(frozen=True, slots=True)
class EvidenceStatus:
    """The state of the evidence writer, and what was lost since it started."""

    state: str
    """`ok`; `no_room`: the disk is down to its floor; `failing`: writing fails; `stopped`."""
    since: float
    """Wall clock in seconds."""
    detail: str | None
    """What is wrong, one line."""
    clips: int
    """Finished clips."""
    lost_clips: int
    """Events without a clip, or with one that was broken off."""
    lost_samples: int
    """Sound that the disk was too slow for; silence takes its place."""
    deleted: int
    """Events whose evidence was deleted, by age, size or for room."""

    @property
    def is_degraded(self) -> bool:
        """Whether evidence is being lost."""
        return self.state != "ok"

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the version of the schema."""
        return {"schema": SCHEMA, "type": "evidence_status", **asdict(self)}


FOLDER = "evidence"
_UNTRUSTED = "delete this folder, its evidence cannot be trusted"
_MOST_DELETION_RECORDS = 10_000
"""Of so many deleted events the metadata stays; beyond, that of the oldest goes too."""


class ClipArchive:
    """Everything under `data`/evidence, for the one process that writes there."""

    def __init__(self, data: Path, keep: KeepSettings) -> None:
        """Create the folder and lock it. Raises InputError if another process holds it."""
        self.folder, self.keep = Path(data) / FOLDER, keep
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = open_locked(
                self.folder / ".lock",
                f"{self.folder}: another process writes evidence here; stop it, or use another folder",
            )
        except OSError as error:
            raise InputError(f"{self.folder}: {error.strerror}; give this user the folder, or move it away") from None
        self._clips: dict[str, StoredClip] = {}
        self._deletion_records: dict[str, float] = {}
        self.protected: set[str] = set()
        """Open events."""

    def close(self) -> None:
        """Release the lock."""
        os.close(self._lock)

    # Making

    def final(self, event: str) -> Path:
        """The folder of an event. Raises InputError for anything but an event ID."""
        if not is_event_id(event):
            raise InputError(f"{event[:80]!r}: not an event ID; evidence is named by nothing else")
        return self.folder / event

    def begin(self, metadata: ClipMetadata) -> PartClip | None:
        """A new clip, or None if the event has evidence already or is being recorded."""
        if self.final(metadata.event).exists() or self._part(metadata.event).exists():
            return None
        return PartClip(self._part(metadata.event), metadata)

    def finish(self, clip: PartClip, metadata: ClipMetadata) -> ClipMetadata:
        """End a clip and give it its name."""
        return self._add(clip.finish(self.final(metadata.event), metadata))

    def _part(self, event: str) -> Path:
        return self.folder / f".{event}.part"

    def _add(self, metadata: ClipMetadata) -> ClipMetadata:
        self._clips[metadata.event] = StoredClip(metadata.event, metadata.raised_at, metadata.size)
        return metadata

    # After a start

    def recover(self) -> list[str]:
        """Read what is there and recover what a kill left; returns one line for each folder that cannot be."""
        problems = []
        for entry in sorted(os.scandir(self.folder), key=lambda e: e.name):
            if not entry.is_dir(follow_symlinks=False):
                continue
            path = Path(entry.path)
            try:
                if is_event_id(entry.name):
                    self._look_at(path)
                elif entry.name.endswith(".part") and is_event_id(entry.name[1:-5]):
                    self._recover_part(path, entry.name[1:-5])
            except (*FAILURES, InputError) as error:
                problems.append(str(error))
        return problems

    def _look_at(self, path: Path) -> None:
        _remove_temporary(path)
        try:
            metadata = read_metadata(path) or _unknown(path.name)
            if metadata.event != path.name:
                raise InputError(f"{path / METADATA}: is of event {metadata.event}; {_UNTRUSTED}")
        except InputError:
            # Damaged evidence takes room, so it is deleted by age like any other.
            self._clips[path.name] = StoredClip(path.name, _unknown(path.name).raised_at, _size(path))
            raise
        if metadata.deleted_at is not None:
            self._deletion_records[metadata.event] = metadata.deleted_at
            _unlink_files(path)
        else:
            self._clips[path.name] = StoredClip(path.name, metadata.raised_at, _size(path))

    def _recover_part(self, path: Path, event: str) -> None:
        _remove_temporary(path)
        final = self.final(event)
        try:
            metadata = read_metadata(path)
            damaged = metadata is not None and metadata.event != event
        except InputError:
            metadata, damaged = None, True
        if final.exists() or (metadata is None and not damaged):
            shutil.rmtree(path)
        elif metadata is None or damaged:
            # There may be sound in it, so it stays until its age.
            os.rename(path, final)
            self._look_at(final)
        elif (whole := recover_clip(path, final, metadata)) is not None:
            self._add(whole)

    # Deleting

    def free(self) -> int:
        """Bytes of the disk that are free for a program without privileges."""
        disk = os.statvfs(self.folder)
        return disk.f_bavail * disk.f_frsize

    def probe(self) -> None:
        """Write and delete a small file. Raises OSError if the disk refuses it."""
        probe = self.folder / ".probe"
        write_bytes(probe, b"edgeasd\n" * 512)
        probe.unlink()

    def clips(self) -> list[StoredClip]:
        """All evidence on the disk, clips being written included."""
        written = [
            StoredClip(part.name[1:-5], float("inf"), _size(part), is_open=True) for part in self.folder.glob(".*.part")
        ]
        whole = [StoredClip(k.event, k.at, k.size, k.event in self.protected) for k in list(self._clips.values())]
        return whole + written

    def sweep(self, now: float) -> list[tuple[str, str]]:
        """Delete what is too old or too much at wall clock `now`; returns (event, reason). Raises OSError if it cannot."""
        chosen = select_for_deletion(self.clips(), now, self.free(), self.keep)
        for event, why in chosen:
            self._delete(event, why, now)
        spare = sorted(self._deletion_records, key=lambda event: self._deletion_records[event])[
            :-_MOST_DELETION_RECORDS
        ]
        for event in spare:
            shutil.rmtree(self.folder / event, ignore_errors=True)
            del self._deletion_records[event]
        return chosen

    def _delete(self, event: str, why: str, now: float) -> None:
        path = self.folder / event
        try:
            metadata = read_metadata(path) or _unknown(event)
        except InputError:
            metadata = _unknown(event)
        record = metadata.model_copy(
            update={"deleted_at": min(max(0.0, now), 1e11), "deleted_why": why, "size": 0}
        ).dumped()
        # Recorded first, so that a kill in between leaves no gap. A full disk takes the record only afterwards.
        recorded = False
        with suppress(OSError):
            write_bytes(path / METADATA, record)
            recorded = True
        _unlink_files(path)
        self._clips.pop(event, None)
        if not recorded:
            write_bytes(path / METADATA, record)
        self._deletion_records[event] = now


def _size(path: Path) -> int:
    total = 0
    for name in FILES:
        with suppress(OSError):
            total += (path / name).lstat().st_size
    return total


def _remove_temporary(path: Path) -> None:
    for leftover in path.glob(".*.tmp"):
        leftover.unlink()


def _unlink_files(path: Path) -> None:
    for name in FILES:
        if name != METADATA:
            (path / name).unlink(missing_ok=True)


def _unknown(event: str) -> ClipMetadata:
    """What an event ID says of evidence without metadata."""
    raised = min(1e11, milliseconds_of(event) / 1000.0)
    return ClipMetadata(
        event=event, machine="", id="", raised_at=raised, sample_rate=1, bits=16, raised_seconds=0.0, ended="killed"
    )


def evidence_files(data: Path, event: str) -> dict[str, Path]:
    """Name to path of the files of an event; links are not followed."""
    if not is_event_id(event):
        return {}
    folder = Path(data) / FOLDER / event
    return {name: folder / name for name in FILES if is_plain_file(folder / name)}
