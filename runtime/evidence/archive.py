"""What has to go: by age, by size, and for room on the disk; the oldest first, open events never."""

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
    FACTS,
    FAILURES,
    FILES,
    ClipMetadata,
    PartClip,
    is_plain_file,
    read_metadata,
    salvage,
)
from edgeasd.runtime.evidence.settings import DAY, KeepSettings
from edgeasd.runtime.system.files import write_bytes
from edgeasd.runtime.system.lock import open_locked

REASONS = ("age", "size", "room")


@dataclass(frozen=True, slots=True)
class StoredClip:
    """Evidence that is on the disk."""

    event: str
    at: float
    """When the event was raised, wall clock in seconds."""
    size: int
    """Bytes."""
    open: bool = False
    """Not to be deleted: the event goes on, or its clip is being written."""


def select_for_deletion(kept: Iterable[StoredClip], now: float, free: int, keep: KeepSettings) -> list[tuple[str, str]]:
    """(event, reason) of all that has to go, oldest first; reasons are those of `REASONS`.

    `now` is the wall clock in seconds, `free` the bytes that are left on the disk.
    """
    ordered = sorted(kept, key=lambda one: (one.at, one.event))
    young = {one.event for one in ordered[len(ordered) - min(keep.fewest, len(ordered)) :]}
    oldest = now - DAY * keep.max_age_days
    gone = {one.event: "age" for one in ordered if not one.open and one.at < oldest and one.event not in young}
    total = sum(one.size for one in ordered if one.event not in gone)
    free += sum(one.size for one in ordered if one.event in gone)
    for one in ordered:
        if total <= keep.max_bytes and free >= keep.min_free_bytes:
            break
        if one.open or one.event in gone:
            continue
        gone[one.event] = "size" if total > keep.max_bytes else "room"
        total -= one.size
        free += one.size
    return [(one.event, gone[one.event]) for one in ordered if one.event in gone]


SCHEMA = 1
STATES = ("ok", "no_room", "failing", "stopped")


@dataclass(frozen=True, slots=True)
class EvidenceStatus:
    """The state of the evidence writer at one moment, and what was lost since it began."""

    state: str
    """`ok`; `no_room`: the disk is down to its floor; `failing`: writing fails; `stopped`: nobody writes."""
    since: float
    """Wall clock in seconds."""
    detail: str | None
    """What is wrong, one line."""
    clips: int
    """Clips that were finished."""
    lost_clips: int
    """Events without a clip, or with one that was broken off."""
    lost_samples: int
    """Sound that did not come to the disk in time; silence stands in its place."""
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
_MOST_TOMBSTONES = 10_000
"""ClipMetadata that say what was deleted; beyond so many the oldest go."""


class ClipArchive:
    """Everything under `data`/evidence, for the one process that writes there."""

    def __init__(self, data: Path, keep: KeepSettings) -> None:
        """Make the folder and take its lock. Raises InputError where another process has it."""
        self.folder, self.keep = Path(data) / FOLDER, keep
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = open_locked(
                self.folder / ".lock",
                f"{self.folder}: another process writes evidence here; stop it, or use another folder",
            )
        except OSError as error:
            raise InputError(f"{self.folder}: {error.strerror}; give this user the folder, or move it away") from None
        self._kept: dict[str, StoredClip] = {}
        self._tombstones: dict[str, float] = {}
        self.protected: set[str] = set()
        """Events that go on."""

    def close(self) -> None:
        """Let go of the lock."""
        os.close(self._lock)

    # Making

    def final(self, event: str) -> Path:
        """The folder of an event; `event` must have the form of an event ID."""
        if not is_event_id(event):
            raise InputError(f"{event[:80]!r}: not an event ID; evidence is named by nothing else")
        return self.folder / event

    def begin(self, facts: ClipMetadata) -> PartClip | None:
        """A new clip, or None where the event has evidence already or is being recorded."""
        if self.final(facts.event).exists() or self._part(facts.event).exists():
            return None
        return PartClip(self._part(facts.event), facts)

    def finish(self, clip: PartClip, facts: ClipMetadata) -> ClipMetadata:
        """End a clip under its name."""
        return self._add(clip.finish(self.final(facts.event), facts))

    def _part(self, event: str) -> Path:
        return self.folder / f".{event}.part"

    def _add(self, facts: ClipMetadata) -> ClipMetadata:
        self._kept[facts.event] = StoredClip(facts.event, facts.raised_at, facts.size)
        return facts

    # After a start

    def recover(self) -> list[str]:
        """Read what is there, and make whole what a kill left half; returns what could not be, one line each."""
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
            facts = read_metadata(path) or _unknown(path.name)
            if facts.event != path.name:
                raise InputError(f"{path / FACTS}: is of event {facts.event}; {_UNTRUSTED}")
        except InputError:
            # It takes room and has to go some day like any other.
            self._kept[path.name] = StoredClip(path.name, _unknown(path.name).raised_at, _size(path))
            raise
        if facts.deleted_at is not None:
            self._tombstones[facts.event] = facts.deleted_at
            _unlink_files(path)
        else:
            self._kept[path.name] = StoredClip(path.name, facts.raised_at, _size(path))

    def _recover_part(self, path: Path, event: str) -> None:
        _remove_temporary(path)
        final = self.final(event)
        try:
            facts = read_metadata(path)
            damaged = facts is not None and facts.event != event
        except InputError:
            facts, damaged = None, True
        if final.exists() or (facts is None and not damaged):
            shutil.rmtree(path)
        elif facts is None or damaged:
            # There may be sound in it: it stays as damaged evidence does, until its time comes.
            os.rename(path, final)
            self._look_at(final)
        elif (whole := salvage(path, final, facts)) is not None:
            self._add(whole)

    # Deleting

    def free(self) -> int:
        """Bytes left on the disk for a program without privileges."""
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def probe(self) -> None:
        """Find out whether the disk takes a file again; raises OSError where it does not."""
        probe = self.folder / ".probe"
        write_bytes(probe, b"edgeasd\n" * 512)
        probe.unlink()

    def kept(self) -> list[StoredClip]:
        """All that is on the disk, clips being written included."""
        written = [
            StoredClip(part.name[1:-5], float("inf"), _size(part), open=True) for part in self.folder.glob(".*.part")
        ]
        whole = [StoredClip(k.event, k.at, k.size, k.event in self.protected) for k in list(self._kept.values())]
        return whole + written

    def sweep(self, now: float) -> list[tuple[str, str]]:
        """Delete what has to go at wall clock `now`; returns (event, reason). Raises OSError where it cannot."""
        chosen = select_for_deletion(self.kept(), now, self.free(), self.keep)
        for event, why in chosen:
            self._delete(event, why, now)
        spare = sorted(self._tombstones, key=lambda event: self._tombstones[event])[:-_MOST_TOMBSTONES]
        for event in spare:
            shutil.rmtree(self.folder / event, ignore_errors=True)
            del self._tombstones[event]
        return chosen

    def _delete(self, event: str, why: str, now: float) -> None:
        path = self.folder / event
        try:
            facts = read_metadata(path) or _unknown(event)
        except InputError:
            facts = _unknown(event)
        record = facts.model_copy(
            update={"deleted_at": min(max(0.0, now), 1e11), "deleted_why": why, "size": 0}
        ).dumped()
        # Recorded first, so that a kill in between leaves no gap; on a disk that is quite full, afterwards.
        recorded = False
        with suppress(OSError):
            write_bytes(path / FACTS, record)
            recorded = True
        _unlink_files(path)
        self._kept.pop(event, None)
        if not recorded:
            write_bytes(path / FACTS, record)
        self._tombstones[event] = now


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
        if name != FACTS:
            (path / name).unlink(missing_ok=True)


def _unknown(event: str) -> ClipMetadata:
    """Of evidence whose facts were lost: what its ID tells."""
    raised = min(1e11, milliseconds_of(event) / 1000.0)
    return ClipMetadata(
        event=event, machine="", id="", raised_at=raised, sample_rate=1, bits=16, raised_seconds=0.0, ended="killed"
    )


def evidence_files(data: Path, event: str) -> dict[str, Path]:
    """Name to path of the files that are there for an event; links are not followed."""
    if not is_event_id(event):
        return {}
    folder = Path(data) / FOLDER / event
    return {name: folder / name for name in FILES if is_plain_file(folder / name)}
