"""Several files, or one again and again, as one sound."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import closing
from pathlib import Path

from edgeasd.runtime.audio.reader import Samples
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.sources.base import SourceEvent
from edgeasd.runtime.sources.files import FAST_BLOCK, REALTIME_BLOCK, FileSource, Pacer

SUFFIXES = (".wav", ".flac")


def list_folder(folder: Path) -> list[Path]:
    """The WAV and FLAC files right in `folder`, in the order of their names; hidden ones are left out.

    Raises InputError for a folder that cannot be listed or holds none.
    """
    try:
        found = sorted(p for p in folder.iterdir() if p.name.lower().endswith(SUFFIXES) and p.name[0] != ".")
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from None
    if not found:
        raise InputError(f"{folder}: holds no WAV or FLAC file; name a folder that does")
    return found


class PlaylistSource:
    """Files in order as one sound without gaps: the first sample of one follows the last of the one before.

    `loop` begins again after the last. Each file is resampled by itself. A file that cannot be used ends the
    sound with InputError, before the start where its header tells; with `skip_bad` it is left out, and so is
    what follows the damage in a damaged one. `events` has "playing" at each joint and "skipped" for each bad
    file. `realtime` paces the whole; see `edgeasd.runtime.sources.files.Pacer`.
    """

    live = False

    def __init__(
        self,
        paths: list[Path],
        sample_rate: int = 16000,
        channel: int | None = None,
        mix: bool = False,
        resample: bool = False,
        *,
        realtime: bool = False,
        loop: bool = False,
        skip_bad: bool = False,
        label: str | None = None,
    ) -> None:
        self._paths, self._choice, self._loop, self._skip_bad = (
            paths,
            (sample_rate, channel, mix, resample),
            loop,
            skip_bad,
        )
        self.sample_rate = sample_rate
        self.events: deque[SourceEvent] = deque(maxlen=1000)
        self._closed, self._lock = threading.Event(), threading.Lock()
        self._file: FileSource | None = None
        self._next, self._heard, self._position = 0, False, 0
        self._block = REALTIME_BLOCK if realtime else FAST_BLOCK
        self._pacer = Pacer(sample_rate) if realtime else None
        said = self._check_all()
        count = f", {len(paths)} files" if label else ""
        self.name = f"{label or said}{count}{', looped' if loop else ''}{', in real time' if realtime else ''}"

    def _check_all(self) -> str:
        """Open every file once; returns the description of the first good one."""
        names: list[str] = []
        problem: InputError | None = None
        for path in self._paths:
            try:
                with closing(FileSource(path, *self._choice)) as source:
                    names.append(source.name)
            except InputError as error:
                if not self._skip_bad:
                    raise
                problem = error
        if not names:
            assert problem is not None
            raise InputError(f"no file of {len(self._paths)} can be used, the last because of {problem}")
        return names[0]

    def read(self) -> Samples | None:
        """The next samples, shape (n,), n >= 1, float32; None at the end of the last file or after `close`."""
        if self._pacer is not None:
            self._pacer.begin()
        with self._lock:
            samples = self._next_samples()
        if samples is None or (self._pacer is not None and not self._pacer.wait(len(samples), self._closed)):
            return None
        return samples

    def _next_samples(self) -> Samples | None:
        while not self._closed.is_set():
            if self._file is None and self._next == len(self._paths) and not self._begin_again():
                return None
            try:
                if self._file is None:
                    self._file = self._open_next()
                if (samples := self._file.read()) is not None:
                    self._heard = True
                    self._position += len(samples)
                    return samples
            except InputError as error:
                if not self._skip_bad:
                    raise
                self.events.append(SourceEvent("skipped", str(error), at_sample=self._position))
            self._close_file()
        return None

    def _begin_again(self) -> bool:
        if self._loop and not self._heard:
            raise InputError(f"{self.name}: not one sample in any file; look at the files")
        if self._loop:
            self._next, self._heard = 0, False
        return self._loop

    def _open_next(self) -> FileSource:
        path = self._paths[self._next]
        self._next += 1
        file = FileSource(path, *self._choice, block=self._block)
        self.events.append(SourceEvent("playing", str(path), at_sample=self._position))
        return file

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def close(self) -> None:
        """Close the file in use; a `read` that waits for its time in another thread returns None."""
        self._closed.set()
        with self._lock:
            self._close_file()
