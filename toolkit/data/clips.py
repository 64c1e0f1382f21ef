"""A clip: one recording with what the data set says about it, and the identity of its bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.system.files import one_name

Label = Literal["normal", "anomaly", "unknown"]
SplitName = Literal["train", "test"]
Domain = Literal["source", "target"]

Progress = Callable[[int, int], None]
"""Called with (files done, files in all)."""

SKIP = "pass --skip-bad to go on without them"
REPAIR = "repair or remove them"
_NAMED = 10
"""Bad files in one line: it has to be read by somebody."""
"""What to do about files that cannot be used, in commands with --skip-bad and in those without."""

BadFile = tuple[Path, str]
"""A file that cannot be used, and the line that says why and what to do; the line names the file."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One audio file of a data set.

    `split` is None if the layout has none (the field layout), `domain` where it knows no
    domains. `attributes` are (key, value) pairs in the order of the file name.
    """

    path: Path
    machine: str
    id: str
    label: Label
    split: SplitName | None = None
    domain: Domain | None = None
    attributes: tuple[tuple[str, str], ...] = ()


def content_hash(path: Path) -> str:
    """SHA-256 of the file's bytes, 64 hexadecimal digits; read in pieces of 1 MiB.

    A file is read again only when its time, size or inode has changed since. Raises InputError when it cannot be read.
    """
    try:
        found = os.stat(path)
        return _digest(path, found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"{path}: cannot be read ({reason}); repair or remove it") from error


@lru_cache(maxsize=200_000)
def _digest(path: Path, *_version: int) -> str:
    """Jobs of one process differ in their seed and share their clips: more than all of DCASE 2020 is kept."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while piece := handle.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def content_hashes(
    paths: Iterable[Path], *, progress: Progress | None = None, skip_bad: bool = False
) -> tuple[dict[Path, str], list[BadFile]]:
    """Hash every file: ({path: hexadecimal SHA-256}, files that cannot be read).

    Raises one InputError that names unreadable files, unless `skip_bad`.
    """
    wanted = list(paths)
    hashes: dict[Path, str] = {}
    bad: list[BadFile] = []
    for done, path in enumerate(wanted, start=1):
        try:
            hashes[path] = content_hash(path)
        except InputError as error:
            bad.append((path, str(error)))
        if progress is not None:
            progress(done, len(wanted))
    if not skip_bad:
        refuse_bad(bad, len(wanted))
    return hashes, bad


def refuse_bad(bad: Sequence[BadFile], total: int, remedy: str = SKIP) -> None:
    """Raise one InputError with the first few of `bad`, their reasons and how many more there are; nothing if none.

    `remedy` is what to do about several: not every command can go on without them.
    """
    if not bad:
        return
    if len(bad) == 1:
        raise InputError(bad[0][1])
    listed = "; ".join(f"({i}) {reason}" for i, (_, reason) in enumerate(bad[:_NAMED], start=1))
    listed += f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    raise InputError(f"{len(bad)} of {total} files cannot be used; {remedy}: {listed}")


def plain_id(name: str) -> str:
    """An ID without the `id_` that folders and file names may carry: `id_00` and `00` are both `00`."""
    return one_name(name).removeprefix("id_")


def select_clips(clips: Sequence[Clip], *, machine: str, id: str | None = None) -> list[Clip]:
    """The clips of one machine type, or of one of its IDs (`00` or `id_00`), in their order.

    Raises InputError that lists what is present when there is no such machine or ID.
    """
    machine = one_name(machine)
    of_machine = [clip for clip in clips if clip.machine == machine]
    if not of_machine:
        present = sorted({clip.machine for clip in clips})
        raise InputError(f"machine {machine!r}: not in the data; pass one of: {', '.join(present) or 'none present'}")
    if id is None:
        return of_machine
    chosen = [clip for clip in of_machine if clip.id == plain_id(id)]
    if not chosen:
        present = sorted({clip.id for clip in of_machine})
        raise InputError(f"{machine}: no ID {id!r} in the data; pass one of: {', '.join(present)}")
    return chosen
