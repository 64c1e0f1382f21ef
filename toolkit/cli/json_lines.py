"""--jsonl: where the records of `run` go, one JSON object a line."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.system.files import partial_last_line

if TYPE_CHECKING:
    from edgeasd.runtime.service.listen import Record

_RECORD = b'{"type": "'
"""How every record begins."""


@contextmanager
def json_sink(jsonl: str | None) -> Iterator[TextIO | None]:
    """The file of this name opened for appending, standard output for "-", None for None.

    Raises InputError where its folder is missing, and where the file holds something else.
    """
    if jsonl is None:
        yield None
    elif jsonl == "-":
        # A file name that is not UTF-8 becomes the escapes that JSON has for it; a line is text for every reader.
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        yield sys.stdout
    else:
        path = Path(jsonl)
        if not path.parent.is_dir():
            raise InputError(f"--jsonl {path}: no such folder {path.parent}; make it first")
        _refuse_other_content(path)
        handle = open(path, "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115  closed below, after every record was flushed
        try:
            _end_torn_line(path, handle)
            yield handle
        finally:
            # Fails only where the flush of a record has failed and been reported, with the file's name.
            with suppress(OSError):
                handle.close()


def write_record(sink: TextIO | None, record: Record) -> None:
    """A record as one line; nothing without a sink."""
    if sink is not None:
        # One write a line: a reader of the file or pipe never sees half a record of ours.
        try:
            sink.write(json.dumps(record, ensure_ascii=False) + "\n")
            sink.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            error.filename = error.filename or f"--jsonl {sink.name}"
            raise


def _refuse_other_content(path: Path) -> None:
    """Records are appended only to records: a wrong name must not spoil a recording, a bundle or a site file."""
    if not path.is_file():
        return
    with open(path, "rb") as handle:
        line = handle.readline(1 << 16)
    first = line.strip(b"\0\r\n")
    try:
        records = not first or isinstance(json.loads(first), dict)
    except ValueError:
        # Torn by a power cut, but ours: a box that does not listen for that would be worse than half a line.
        # A brace alone on its line begins any other JSON.
        torn = _RECORD.startswith(first) and (len(first) > 1 or not line.endswith(b"\n"))
        records = torn or first.startswith(_RECORD)
    if not records:
        raise InputError(f"--jsonl {path}: holds something else than JSON lines; name another file")


def _end_torn_line(path: Path, handle: TextIO) -> None:
    """The next record must not be glued to half a line; a pipe has none."""
    if path.is_file():
        with open(path, "rb") as there:
            if partial_last_line(there.fileno(), 1):
                handle.write("\n")
