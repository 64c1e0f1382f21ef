"""Sound files as sources: one file, several in order, or a loop; as fast as they are read, or in real time."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from pathlib import Path

from edgeasd.runtime.audio.reader import AudioReader, Samples
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.sources.base import AudioChunk, BaseSource, SourceEvent, SourceEventKind

FAST_BLOCK = 16384
REALTIME_BLOCK = 512  # 32 ms at 16 kHz, the period of our capture devices
SUFFIXES = (".wav", ".flac")


class Pacer:
    """Delays sound until its last sample would have been captured.

    Times count from `begin` on the monotonic clock: pacing does not drift, and a late reader catches up.
    """

    def __init__(self, sample_rate: int) -> None:
        self._rate, self._sent = sample_rate, 0
        self._start: float | None = None

    def begin(self) -> None:
        """Sample 0 is captured at the first call."""
        if self._start is None:
            self._start = time.monotonic()

    def wait(self, count: int, closed: threading.Event) -> bool:
        """Wait until `count` more samples would have been captured. Returns False if `closed` was set first."""
        assert self._start is not None, "begin comes first"
        self._sent += count
        due = self._start + self._sent / self._rate
        return not closed.wait(max(0.0, due - time.monotonic()))


class _PacedSource(BaseSource):
    """Reads blocks under a lock, so that `close` may come from another thread, and paces them."""

    def __init__(self, name: str, sample_rate: int, realtime: bool) -> None:
        super().__init__(name + (", in real time" if realtime else ""), sample_rate, live=False)
        self._pacer = Pacer(sample_rate) if realtime else None
        self._lock = threading.Lock()

    def read(self) -> AudioChunk | None:
        """The next samples; None at the end and after `close`."""
        if self._pacer is not None:
            self._pacer.begin()
        with self._lock:
            samples = None if self._closed.is_set() else self._next_samples()
        if samples is None or (self._pacer is not None and not self._pacer.wait(len(samples), self._closed)):
            return None
        return self._make_chunk(samples)

    def close(self) -> None:
        """Close the file and end a `read` that waits for its time."""
        self._mark_closed()
        with self._lock:
            self._close_file()

    def _next_samples(self) -> Samples | None:
        raise NotImplementedError

    def _close_file(self) -> None:
        raise NotImplementedError


class FileSource(_PacedSource):
    """A file of any length, read block by block in constant memory. `realtime` paces it; see `Pacer`.

    `block` is in frames of the file. Raises InputError as `edgeasd.runtime.audio.reader.read_audio` does, but
    without its limit of an hour. A truncated FLAC file raises it when the end is reached.
    """

    def __init__(
        self,
        path: str | Path,
        sample_rate: int = 16000,
        channel: int | None = None,
        mix: bool = False,
        resample: bool = False,
        realtime: bool = False,
        block: int | None = None,
        recorded_rate: int | None = None,
    ) -> None:
        self._reader = AudioReader(
            path, sample_rate=sample_rate, channel=channel, mix=mix, resample=resample, recorded_rate=recorded_rate
        )
        self._block = block or (REALTIME_BLOCK if realtime else FAST_BLOCK)
        super().__init__(self._reader.name, sample_rate, realtime)

    def _next_samples(self) -> Samples | None:
        return self._reader.read(self._block)

    def _close_file(self) -> None:
        self._reader.close()


def list_folder(folder: Path) -> list[Path]:
    """The WAV and FLAC files directly in `folder`, sorted by name, without hidden ones.

    Raises InputError for a folder that cannot be listed or has none.
    """
    try:
        paths = sorted(p for p in folder.iterdir() if p.name.lower().endswith(SUFFIXES) and p.name[0] != ".")
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from None
    if not paths:
        raise InputError(f"{folder}: holds no WAV or FLAC file; name a folder that does")
    return paths


class PlaylistSource(_PacedSource):
    """Files in order as one sound without gaps. `loop` begins again after the last; `realtime` paces the whole.

    Each file is resampled by itself. A file that cannot be used raises InputError, at the start if its header
    tells. With `skip_bad` it is skipped, as is the rest of a damaged one. Events: "playing" for each file,
    "skipped" for each bad one.
    """

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
        recorded_rate: int | None = None,
    ) -> None:
        self._paths, self._loop, self._skip_bad = paths, loop, skip_bad
        self._options = (sample_rate, channel, mix, resample, recorded_rate)
        first_name = self._check_all()
        count = f", {len(paths)} files" if label else ""
        super().__init__(f"{label or first_name}{count}{', looped' if loop else ''}", sample_rate, realtime)
        self._block = REALTIME_BLOCK if realtime else FAST_BLOCK
        self._file: AudioReader | None = None
        self._next, self._has_samples = 0, False

    def _open(self, path: Path) -> AudioReader:
        sample_rate, channel, mix, resample, recorded_rate = self._options
        return AudioReader(
            path, sample_rate=sample_rate, channel=channel, mix=mix, resample=resample, recorded_rate=recorded_rate
        )

    def _check_all(self) -> str:
        """Open every file once; returns the description of the first good one."""
        names: list[str] = []
        problem: InputError | None = None
        for path in self._paths:
            try:
                with closing(self._open(path)) as reader:
                    names.append(reader.name)
            except InputError as error:
                if not self._skip_bad:
                    raise
                problem = error
        if not names:
            raise InputError(f"no file of {len(self._paths)} can be used, the last because of {problem}")
        return names[0]

    def _next_samples(self) -> Samples | None:
        while not self._closed.is_set():
            if self._file is None and self._next == len(self._paths) and not self._begin_again():
                return None
            try:
                if self._file is None:
                    self._file = self._open_next()
                if (samples := self._file.read(self._block)) is not None:
                    self._has_samples = True
                    return samples
            except InputError as error:
                if not self._skip_bad:
                    raise
                self._events.append(SourceEvent(SourceEventKind.SKIPPED, str(error), at_sample=self._position))
            self._close_file()
        return None

    def _begin_again(self) -> bool:
        if self._loop and not self._has_samples:
            raise InputError(f"{self.name}: not one sample in any file; look at the files")
        if self._loop:
            self._next, self._has_samples = 0, False
        return self._loop

    def _open_next(self) -> AudioReader:
        path = self._paths[self._next]
        self._next += 1
        file = self._open(path)
        self._events.append(SourceEvent(SourceEventKind.PLAYING, str(path), at_sample=self._position))
        return file

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
