"""Clips that an option names: a folder of recordings, or a text file with one path a line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.data.clips import content_hashes, refuse_bad
from edgeasd.toolkit.data.tree import audio_files


def offered_files(source: Path, option: str) -> list[Path]:
    """The audio files of a folder (with those below it), or those a text file names, one path a line.

    Paths in a list are relative to the list. Raises InputError, which begins with `option`, for a source that is
    missing or names nothing.
    """
    if source.is_dir():
        found = sorted(audio_files(source, source))
    elif source.is_file():
        found = [source.parent / line for line in path_lines(source, option)]
    else:
        raise InputError(f"{option} {source}: no such folder or list; name a folder of clips or a text file of paths")
    if not found:
        raise InputError(f"{option} {source}: 0 clips; put WAV or FLAC files there, or name another")
    return found


def path_lines(source: Path, option: str) -> list[str]:
    """The lines of a list of paths, without empty ones and those that begin with #.

    UTF-8, with or without a byte-order mark, as editors of some systems write it. Raises InputError, which begins
    with `option`, for what cannot be read as text.
    """
    try:
        lines = [line.strip() for line in source.read_text("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{option} {source}: not a folder or a list of paths ({reason}); name one of the two"
        ) from None
    return [line for line in lines if line and not line.startswith("#")]


def offered_hashes(paths: Iterable[Path], source: Path, option: str) -> dict[Path, str]:
    """SHA-256 of every clip that `option` names with `source`; InputError names those that cannot be read."""
    wanted = list(paths)
    hashes, bad = content_hashes(wanted, skip_bad=True)
    refuse_bad(bad, len(wanted), f"correct {option} {source}")
    return hashes
