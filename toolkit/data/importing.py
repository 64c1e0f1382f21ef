"""Makes clips of whatever recordings there are: phones, cameras, flat folders, hours in one file.

A source is decoded by libsndfile, or by an installed ffmpeg, to one signal at the wanted rate, cut, judged by the
rule of `edgeasd.runtime.health.clip`, and written as FLAC under its own name. Nothing is overwritten: a clip that is
there with the same sound is left, so an import that was interrupted goes on when it is started again.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import stat
import subprocess
import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile

from edgeasd.runtime.audio.container import sniff
from edgeasd.runtime.audio.reader import DECODE_SAMPLES, AudioReader, OutOfScale, Samples
from edgeasd.runtime.errors import InputError, printable
from edgeasd.runtime.health.clip import clip_states, is_usable, measure
from edgeasd.runtime.record.clip_folder import SUBTYPES, check_disk, label_folder, to_integers
from edgeasd.runtime.system.files import atomic_file
from edgeasd.runtime.system.lock import try_lock
from edgeasd.toolkit.data.clips import content_hash
from edgeasd.toolkit.progress import ProgressCallback, no_progress

WHOLE = 1.5
"""A recording of up to so many clip lengths stays one clip: nothing of it is lost."""
SHORTEST_SECONDS = 1.0
MOST_HOURS = 1000.0
"""A file that goes on for longer has no end."""
SILENT_SECONDS = 120.0
"""How long ffmpeg may work without a sample."""
_SCALES = (1 << 15, 1 << 23, 1 << 31)
"""Full scale of integers, for files that hold such values as floats."""
_NO_SOUND = (
    *(".txt", ".md", ".csv", ".json", ".xml", ".pdf", ".html", ".py", ".sh", ".toml", ".yaml", ".yml", ".log", ".npy"),
    *(".npz", ".jpg", ".jpeg", ".png", ".gif", ".zip", ".gz", ".tar", ".7z", ".doc", ".docx", ".xls", ".xlsx", ".db"),
)
_PACKAGE = "install ffmpeg (Debian, Ubuntu, Raspberry Pi OS, Jetson: sudo apt install ffmpeg) and run this again"


@dataclass(frozen=True)
class ImportSettings:
    """Where clips go, and how they are made."""

    root: Path
    machine: str
    id: str
    label: str = "normal"
    sample_rate: int = 16_000
    clip_seconds: float = 10.0
    """0: recordings are not cut."""
    channel: int | None = None
    """Counted from 0; the mean of all channels without it."""
    keep_unhealthy: bool = False

    @property
    def folder(self) -> Path:
        """The folder that the clips go to. Raises InputError for names that are no folder names."""
        return label_folder(self.root, self.machine, self.id, self.label)


@dataclass
class ImportTotals:
    """What an import did so far."""

    sources: int = 0
    """Recordings of which at least one clip was taken, now or before."""
    taken: list[tuple[str, str]] = field(default_factory=list)
    """(clip, recording) of every clip that was written."""
    seconds: float = 0.0
    already: int = 0
    """Clips that were there with the same sound."""
    left: list[tuple[str, str]] = field(default_factory=list)
    """(recording or a part of it, why it was left)."""
    ignored: list[tuple[str, str]] = field(default_factory=list)
    """(file, why) of what is in the way and no loss: no sound by its name, or a copy of another recording."""
    doubtful: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    """(clip, health states) of clips that were taken and should be listened to."""
    notes: list[str] = field(default_factory=list)
    """What was done to recordings beside that: a scale, a length that was never written, remainders."""
    lowest_dbfs: float | None = None
    highest_dbfs: float | None = None


def find_recordings(sources: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """(file, name of its clips) of every file that is given, or lies in a folder that is given, at any depth.

    Hidden files and folders are left out, and links to folders are not followed. Raises InputError for a source that
    is not there.
    """
    for source in sources:
        if not source.exists():
            raise InputError(f"{source}: no such file or folder; check the name")
        if not source.is_dir():
            yield source, clip_name(source.stem)
            continue
        for folder, folders, names in os.walk(source, onerror=_refuse_folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                if not name.startswith("."):
                    path = Path(folder) / name
                    yield path, clip_name("_".join(path.relative_to(source).with_suffix("").parts))


def _refuse_folder(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be listed ({error.strerror}); check its permissions") from None


def clip_name(stem: str) -> str:
    """A file name, without suffix, that keeps what can be kept of the name of a recording.

    Composed Unicode, as one name is one name on every system; no control characters, no leading point.
    """
    text = unicodedata.normalize("NFC", os.fsencode(stem).decode("utf-8", "replace"))
    kept = "".join(c if c.isprintable() and c not in '/\\:*?"<>|\ufffd' else "_" for c in text).strip(" .")
    while len(kept.encode()) > 180:
        kept = kept[:-1]
    return kept or "recording"


def import_recordings(
    sources: Sequence[Path], settings: ImportSettings, report: ProgressCallback = no_progress
) -> ImportTotals:
    """Import every recording in `sources`. One that cannot be used is named and left; the others go on.

    Raises InputError for a source that is not there, wrong names, a second import into the folder, and a single file
    that cannot be used; CheckFailed for a full disk.
    """
    folder = settings.folder
    recordings = [(path, name) for path, name in find_recordings(sources) if not _lies_in(path, folder)]
    if not recordings:
        raise InputError(f"{', '.join(map(str, sources))}: 0 files; name recordings, or a folder of them")
    importer = _Importer(settings, folder)
    if len(recordings) > 1:
        silent = [path for path, _ in recordings if path.suffix.lower() in _NO_SOUND]
        importer.totals.ignored = [(str(path), "is no sound by its name") for path in silent]
        recordings = [(path, name) for path, name in recordings if path not in silent]
    if len(recordings) == 1:
        _require_regular(recordings[0][0])
    with _locked(folder):
        for done, (path, name) in enumerate(recordings):
            report(done, len(recordings))
            try:
                importer.take(path, name)
            except InputError as error:
                if len(recordings) == 1:
                    raise
                importer.totals.left.append((str(path), str(error)))
        report(len(recordings), len(recordings))
    return importer.totals


def _lies_in(path: Path, folder: Path) -> bool:
    """Whether a recording is one of the clips that are there already."""
    return os.path.realpath(path.parent) == os.path.realpath(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Create the folder and lock it; folders that are made here and stay empty are removed again."""
    new = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if not try_lock(descriptor):
            raise InputError(f"{folder}: another import or recording goes on here; wait for its end")
        for name in os.listdir(folder):
            if re.fullmatch(r"\..+\.flac\.\d+-[0-9a-f]{8}\.tmp", name):  # of an import that was killed
                (folder / name).unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)
        with suppress(OSError):
            for parent in new:
                parent.rmdir()


class _Importer:
    """Takes one recording after the other."""

    def __init__(self, settings: ImportSettings, folder: Path) -> None:
        self._settings, self._folder = settings, folder
        self._contents: dict[str, Path] = {}
        self.totals = ImportTotals()

    def take(self, path: Path, name: str) -> None:
        """Write the clips of one recording. Raises InputError if it cannot be used."""
        _require_regular(path)
        content = content_hash(path)
        if (first := self._contents.setdefault(content, path)) != path:
            self.totals.ignored.append((str(path), f"has the same content as {first}"))
            return
        check_disk(self._folder, 0)
        scale = 1.0
        while True:
            try:
                with _opened(path, self._settings, scale) as sound:
                    return self._cut(path, name, sound, scale)
            except OutOfScale as error:
                larger = next((one for one in _SCALES if error.largest <= one > scale), None)
                if larger is None:
                    raise
                scale = float(larger)

    def _cut(self, path: Path, name: str, sound: _Sound, scale: float) -> None:
        rate, clip = self._settings.sample_rate, round(self._settings.clip_seconds * self._settings.sample_rate)
        before = len(self.totals.taken) + self.totals.already
        rest: Samples = np.empty(0, np.float32)
        part, position = 0, 0
        for block in sound.blocks():
            rest = np.concatenate([rest, block])
            position += block.size
            if position > MOST_HOURS * 3600 * rate:
                raise InputError(f"{path}: goes on for more than {MOST_HOURS:.0f} hours; cut it into files first")
            while clip and (rest.size > WHOLE * clip or (part and rest.size >= clip)):
                part += 1
                self._write(path, f"{name}_{part:04d}", rest[:clip], sound.bits)
                rest = rest[clip:]
        if not part:
            if rest.size < SHORTEST_SECONDS * rate:
                raise InputError(f"{path}: {rest.size / rate:.2f} s, a clip has at least {SHORTEST_SECONDS:g} s")
            self._write(path, name, rest, sound.bits)
        elif rest.size:
            self.totals.notes.append(f"{path}: the last {rest.size / rate:.1f} s do not fill a clip and are left")
        if scale != 1.0:
            self.totals.notes.append(f"{path}: floats in the range of integers, divided by {scale:.0f}")
        self.totals.notes.extend(f"{path}: {note}" for note in sound.notes)
        self.totals.sources += len(self.totals.taken) + self.totals.already > before

    def _write(self, path: Path, name: str, samples: Samples, bits: int) -> None:
        totals, rate = self.totals, self._settings.sample_rate
        states = clip_states(samples, rate)
        if not is_usable(states) and not self._settings.keep_unhealthy:
            where = str(path) if name == clip_name(path.stem) else f"{path}, as {name}"
            totals.left.append((where, ", ".join(states)))
            return
        encoded = io.BytesIO()
        soundfile.write(encoded, to_integers(samples, bits), rate, format="FLAC", subtype=SUBTYPES[bits])
        target, is_there = self._target(name, encoded.getvalue())
        if is_there:
            totals.already += 1
        else:
            check_disk(self._folder, len(encoded.getvalue()))
            with atomic_file(target) as handle:
                handle.write(encoded.getvalue())
            totals.taken.append((target.name, str(path)))
            totals.seconds += samples.size / rate
        level = measure(samples).level_dbfs
        totals.lowest_dbfs = level if totals.lowest_dbfs is None else min(totals.lowest_dbfs, level)
        totals.highest_dbfs = level if totals.highest_dbfs is None else max(totals.highest_dbfs, level)
        if states:
            totals.doubtful.append((target.name, states))

    def _target(self, name: str, content: bytes) -> tuple[Path, bool]:
        """A free name for the clip, or the one that it has already; and whether it has one."""
        for number in range(1, 100_000):
            target = self._folder / (f"{name}.flac" if number == 1 else f"{name}-{number}.flac")
            try:
                if target.stat().st_size == len(content) and target.read_bytes() == content:
                    return target, True
            except FileNotFoundError:
                return target, False
        raise InputError(f"{self._folder}: holds 100,000 clips called {name}; import into another --id")


# Decoding


class _Sound:
    """One decoded signal at the wanted rate."""

    def __init__(self, reader: AudioReader, bits: int, notes: Sequence[str] = ()) -> None:
        self._reader, self.bits, self.notes = reader, bits, (*notes, *reader.notes)

    def blocks(self) -> Iterator[Samples]:
        """Samples (n,) float32, n >= 1, in order. Raises InputError for damage."""
        while (block := self._reader.read(DECODE_SAMPLES)) is not None:
            yield block


@contextmanager
def _opened(path: Path, settings: ImportSettings, scale: float) -> Iterator[_Sound]:
    """Open a recording with libsndfile, else with ffmpeg. Raises InputError that says why neither reads it."""
    try:
        reader = _reader(path, settings, scale)
    except InputError as error:
        if not _is_for_ffmpeg(str(error)):
            raise
        with _decoded_by_ffmpeg(path) as decoded, closing(_reader(decoded, settings, scale)) as reader:
            yield _Sound(reader, 24)
        return
    with closing(reader):
        is_exact = reader.subtype in ("PCM_16", "PCM_S8", "PCM_U8") and reader.sample_rate == settings.sample_rate
        yield _Sound(reader, 16 if is_exact and (reader.channels == 1 or settings.channel is not None) else 24)


def _is_for_ffmpeg(reason: str) -> bool:
    return any(
        words in reason
        for words in (
            "not a sound file that can be read",
            "which is not read here",
            "be checked here",
            "several Ogg streams",
        )
    )


def _reader(path: Path, settings: ImportSettings, scale: float) -> AudioReader:
    options = {"sample_rate": settings.sample_rate, "resample": True, "full_scale": scale}
    try:
        return AudioReader(path, channel=settings.channel, mix=settings.channel is None, **options)  # type: ignore[arg-type]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None


def _require_regular(path: Path) -> None:
    """Raise InputError for what may block or never end: a FIFO, a device, a socket."""
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the name and its permissions") from None
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: is not a regular file and may have no end; record it to a file first")
    if status.st_size == 0:
        raise InputError(f"{path}: is empty (0 bytes); copy it again")


@contextmanager
def _decoded_by_ffmpeg(path: Path) -> Iterator[Path]:
    """The first sound in a file, decoded whole to a temporary WAV at its own rate, as 24 bits.

    Only local files are opened, also by play lists. Raises InputError if ffmpeg is missing, refuses the file, finds
    a fault in it, stands still, or decodes less than the container claims.
    """
    head = path.open("rb").read(8192)
    kind = sniff(head)
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        raise InputError(f"{path}: is {kind or 'in no format that libsndfile reads'}; {_PACKAGE}")
    with tempfile.TemporaryDirectory(prefix="edgeasd-import-") as folder:
        decoded = Path(folder) / "decoded.wav"
        free = shutil.disk_usage(folder).free // 2
        command = [ffmpeg, "-nostdin", "-hide_banner", "-xerror", "-protocol_whitelist", "file,crypto,data"]
        command += ["-i", f"file:{path}", "-map", "0:a:0", "-vn", "-c:a", "pcm_s24le", "-fs", str(free)]
        command += ["-rf64", "auto", "-y", f"file:{decoded}"]
        said = _run_ffmpeg(command, path, decoded, kind)
        if decoded.stat().st_size >= free - (1 << 20):
            raise InputError(f"{path}: its sound does not fit into {folder}, or has no end; cut it, or make room")
        _check_duration(path, said, decoded)
        try:
            yield decoded
        except InputError as error:
            shown = str(error).replace(str(decoded), str(path))
            if isinstance(error, OutOfScale):
                raise OutOfScale(shown, error.largest) from None
            raise InputError(shown) from None


def _run_ffmpeg(command: list[str], path: Path, decoded: Path, kind: str) -> str:
    """What ffmpeg said. It is ended if its output does not grow, and at an interrupt."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, start_new_session=True
        )
        size, waited = -1, 0.0
        try:
            while True:
                try:
                    process.wait(0.5)
                    break
                except subprocess.TimeoutExpired:
                    now = decoded.stat().st_size if decoded.exists() else 0
                    size, waited = (now, 0.0) if now != size else (size, waited + 0.5)
                    if waited >= SILENT_SECONDS:
                        raise InputError(
                            f"{path}: ffmpeg decoded nothing for {SILENT_SECONDS:.0f} s; convert it by hand"
                        ) from None
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        log.seek(0)
        said = log.read().decode(errors="replace")
    if process.returncode or not decoded.exists() or decoded.stat().st_size < 100:
        raise InputError(f"{path}: {_ffmpeg_reason(said, path, kind)}")
    return said


def _ffmpeg_reason(said: str, path: Path, kind: str) -> str:
    if "matches no streams" in said or "does not contain any stream" in said:
        return "holds no sound; leave it out"
    if not kind and "Input #0" not in said:
        return "is no sound that libsndfile or ffmpeg can read; leave it out"
    lines = [printable(line.replace(f"file:{path}", path.name), 160) for line in said.splitlines() if line.strip()]
    faults = [
        line for line in lines if re.search(r"error|invalid|partial|missing|corrupt|not found|denied", line, re.I)
    ]
    return f"{f'is {kind}, ' if kind else ''}cut off or damaged, ffmpeg says: {(faults or lines or ['nothing'])[0]}; copy or record it again"


def _check_duration(path: Path, said: str, decoded: Path) -> None:
    """A container that claims more than was decoded is cut off; half a second is the padding of codings."""
    found = re.search(r"Duration: (\d+):(\d\d):(\d\d\.\d+)", said)
    if found is None:
        return
    claimed = int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3])
    seconds = soundfile.info(str(decoded)).duration
    if "Estimating duration" not in said and seconds < claimed - 0.5 - 0.01 * claimed:
        raise InputError(
            f"{path}: cut off, it claims {claimed:.1f} s and {seconds:.1f} s are there; copy or record it again"
        )
