"""Walk a data set's folders: every audio file once, no hidden files, nothing outside the root."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from edgeasd.runtime.errors import InputError

AUDIO_SUFFIXES = (".wav", ".flac")
OTHER_SOUND_SUFFIXES = (
    *(".mp3", ".m4a", ".aac", ".ogg", ".oga", ".opus", ".wma", ".amr", ".aif", ".aiff", ".au", ".caf", ".w64"),
    *(".mp4", ".mov", ".m4v", ".3gp", ".mkv", ".webm", ".avi", ".ac3", ".ape", ".wv", ".voc", ".bwf", ".rf64"),
)
"""Of files that may hold sound and are no clips: `edgeasd data import` takes them."""


def is_audio_name(name: str) -> bool:
    """Whether a file name ends in a suffix we read (any case) and is not hidden (`._x.wav` is)."""
    return not name.startswith(".") and name.lower().endswith(AUDIO_SUFFIXES)


def sound_beside_clips(root: Path) -> dict[str, Counter[str]]:
    """{folder: {suffix: files}} of what lies at `root` or below it, may hold sound, and is no WAV or FLAC.

    WAV and FLAC directly at `root`, where no clips lie, count too. Links to folders are not followed.
    """
    found: dict[str, Counter[str]] = {}
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        suffixes = Counter(
            os.path.splitext(name)[1].lower()
            for name in names
            if not name.startswith(".")
            and (name.lower().endswith(OTHER_SOUND_SUFFIXES) or (folder == str(root) and is_audio_name(name)))
        )
        if suffixes:
            found[folder] = suffixes
    return found


def visible_folders(folder: Path, root: Path) -> list[Path]:
    """Sub-folders in order of name, without hidden ones; links are checked against `root`.

    Raises InputError for a link that leaves `root` and for a folder that cannot be listed.
    """
    return [Path(entry.path) for entry in _entries(folder) if _is_folder(entry, root)]


def audio_files(folder: Path, root: Path) -> Iterator[Path]:
    """Every audio file below `folder`, in order of name, as paths that start with `folder`.

    A link that stays inside `root` is followed, a link to one of its own parents (a loop) is
    not, and one that leaves `root` raises InputError: what a data set holds must not depend on
    what lies beside it. Raises InputError for a folder that cannot be listed.
    """
    return _walk(folder, root, (os.path.realpath(root), os.path.realpath(folder)))


def _walk(folder: Path, root: Path, above: tuple[str, ...]) -> Iterator[Path]:
    for entry in _entries(folder):
        if _is_folder(entry, root):
            real = os.path.realpath(entry.path)
            if real not in above:
                yield from _walk(Path(entry.path), root, (*above, real))
        elif is_audio_name(entry.name) and _is_clip(entry, root):
            yield Path(entry.path)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be listed ({error.strerror}); check the path and its permissions"
        ) from error


def _is_folder(entry: os.DirEntry[str], root: Path) -> bool:
    if not entry.is_symlink():
        return entry.is_dir()
    try:
        folder = entry.is_dir()
    except OSError:  # a link that points at itself
        return False
    if folder:
        _refuse_outside(entry, root)
    return folder


def _is_clip(entry: os.DirEntry[str], root: Path) -> bool:
    """A dangling link counts: the clip is missing, and reading it will say so."""
    if not entry.is_symlink():
        return entry.is_file()
    try:
        os.stat(entry.path)
    except FileNotFoundError:
        pass
    except OSError:  # a link that points at itself
        return False
    _refuse_outside(entry, root)
    return True


def _refuse_outside(entry: os.DirEntry[str], root: Path) -> None:
    target, inside = os.path.realpath(entry.path), os.path.realpath(root)
    if os.path.commonpath([target, inside]) != inside:
        raise InputError(
            f"{entry.path}: a link to {target}, outside the data root {root}; "
            "copy the data here, or bind-mount it, or pass the folder it lies in as the root"
        )
