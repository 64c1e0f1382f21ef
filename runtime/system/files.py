"""Writes files and folders atomically: temporary name, fsync, rename."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any


def one_name(name: str) -> str:
    """A name in composed Unicode: macOS writes `ü` as two characters, other systems as one."""
    return unicodedata.normalize("NFC", name)


def fsync_directory(directory: Path) -> None:
    """Make a rename inside `directory` survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_sibling(path: Path) -> Path:
    """A hidden name beside `path`, on the same file system and unique to this call."""
    return path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")


def _name_place(error: BaseException, path: Path) -> None:
    """Name `path` in an OSError that names no file, or the temporary one."""
    if not isinstance(error, OSError) or error.errno is None:
        return
    if error.filename is None or str(error.filename).endswith(".tmp"):
        error.filename = str(path)


@contextmanager
def atomic_file(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file that becomes `path` when the block ends without an error.

    On any error, an interrupt included, the temporary file is removed and an existing file at `path` is untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_sibling(path)
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        _name_place(error, path)
        raise
    fsync_directory(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_file(path) as handle:
        handle.write(data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path` atomically; NaN and infinity are refused.

    A file name that is not UTF-8 keeps its bytes as `\\udcXX`, which JSON reads back as it was.
    """
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)
    write_bytes(path, f"{text}\n".encode("utf-8", "backslashreplace"))


@contextmanager
def atomic_directory(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary directory that becomes `path` when the block ends without an error.

    Every file in it is fsynced first. With `replace`, an existing directory at `path` is moved
    aside, the new one takes its name, and only then the old one is deleted; without it, an
    existing `path` raises FileExistsError before anything is written.
    """
    path = Path(path)
    if path.exists() and not replace:
        raise FileExistsError(path)
    new = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_sibling(path)
    try:
        temporary.mkdir()
        yield temporary
        for folder, _, names in os.walk(temporary):
            for name in names:
                with open(os.path.join(folder, name), "rb") as handle:
                    os.fsync(handle.fileno())
            fsync_directory(Path(folder))
        if path.exists():
            aside = temporary_sibling(path)
            os.replace(path, aside)
            try:
                os.replace(temporary, path)
            except BaseException:
                os.replace(aside, path)
                raise
            shutil.rmtree(aside, ignore_errors=True)
        else:
            os.replace(temporary, path)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        # Remove the folders made here, unless another process has put something into them.
        with suppress(OSError):
            for parent in new:
                parent.rmdir()
        _name_place(error, path)
        raise
    fsync_directory(path.parent)


def partial_last_line(file: int, most: int) -> bytes:
    """The last bytes, at most `most`, of an open file behind its last line end; empty if its last line is whole.

    Raises OSError.
    """
    size = os.fstat(file).st_size
    tail = os.pread(file, min(size, most), max(0, size - most))
    return tail[tail.rfind(b"\n") + 1 :]
