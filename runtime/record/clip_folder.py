"""A folder of recorded clips."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import soundfile

from edgeasd.runtime.audio.reader import Samples
from edgeasd.runtime.errors import CheckFailed, InputError
from edgeasd.runtime.system.files import atomic_file, one_name
from edgeasd.runtime.system.lock import try_lock

LABELS = ("normal", "anomaly")
RESERVE_BYTES = 256 << 20
"""Disk space left free for everything else on the device."""
SUBTYPES = {16: "PCM_16", 24: "PCM_24"}
_MODE = re.compile(r"[a-z][a-z0-9-]{0,31}")


def check_folder_name(option: str, name: str) -> None:
    """Raise InputError for a machine or an ID that is not a plain folder name."""
    if not re.fullmatch(r"[^\W_][\w.+-]{0,63}", name):
        raise InputError(f"{option} {name!r}: letters, digits and . + - _ only, at most 64; it names a folder")


def _named_alike(parent: Path, name: str) -> Path:
    """The folder that is there with this name, however its Unicode is composed; else the name itself."""
    if not name.isascii() and parent.is_dir():
        for there in sorted(os.listdir(parent)):
            if one_name(there) == name:
                return parent / there
    return parent / name


def label_folder(root: Path, machine: str, machine_id: str, label: str) -> Path:
    """`<root>/<machine>/<id>/<label>/` with the names that are there already: `id_00` for 00, `abnormal` for anomaly.

    Raises InputError for names that are not folder names, an unknown label, and a machine in another layout.
    """
    machine, machine_id = one_name(machine), one_name(machine_id).removeprefix("id_")
    check_folder_name("--machine", machine)
    check_folder_name("--id", machine_id)
    if label not in LABELS:
        raise InputError(f"--label {label}: unknown; use {' or '.join(LABELS)}")
    folder = _named_alike(root, machine)
    for other in ("train", "test"):
        if (folder / other).is_dir():
            raise InputError(f"{folder}: holds {other}/ of another layout; name another --output")
    named = _named_alike(folder, f"id_{machine_id}")
    of_label = "abnormal" if label == "anomaly" and (named / "abnormal").is_dir() else label
    return (named if named.is_dir() else _named_alike(folder, machine_id)) / of_label


def check_disk(folder: Path, more_bytes: int) -> None:
    """Raise CheckFailed if `more_bytes` do not fit on the disk of `folder` beside the reserve."""
    free = shutil.disk_usage(folder).free
    if free < more_bytes + RESERVE_BYTES:
        raise CheckFailed(
            f"{folder}: {free / 1e6:.0f} MB free, {more_bytes / 1e6:.0f} MB are needed beside a reserve of "
            f"{RESERVE_BYTES / 1e6:.0f} MB; make room, record fewer minutes or name another --output"
        )


class ClipFolder:
    """`<root>/<machine>/<id>/<label>/`; a context manager that locks it for one recording at a time.

    Clips are `clip_000001.flac` and so on; other files are left alone and not counted. Entering creates the folder
    and removes partial files of a killed recording. Clips of a mode are `clip_<mode>_000001.flac` in the same folder, and
    only they are counted then. Raises InputError for names that are not folder names, a machine
    in another layout, clips already there without `resume`, a clip of another sample rate, and a second recording.
    """

    def __init__(
        self,
        root: Path,
        machine: str,
        machine_id: str,
        label: str,
        *,
        sample_rate: int,
        resume: bool = False,
        mode: str | None = None,
    ) -> None:
        if mode is not None and (not _MODE.fullmatch(mode) or mode in ("off", "running")):
            raise InputError(
                f"--mode {mode}: small letters, digits and - only, and not off or running; it names a way of running"
            )
        self.path = label_folder(root, machine, machine_id, label)
        self.machine, self.machine_id, self.label = one_name(machine), one_name(machine_id).removeprefix("id_"), label
        self.mode, self._stem = mode, "clip_" if mode is None else f"clip_{mode}_"
        self._rate, self._resume = sample_rate, resume
        self.clips, self.samples = 0, 0
        """Clips and samples in the folder, those of earlier recordings included."""
        self._next = 1

    def __enter__(self) -> ClipFolder:
        self.path.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._lock()
            self._scan()
        except BaseException:
            os.close(self._descriptor)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def _lock(self) -> None:
        # Without locks in the file system, the names are checked again at each clip.
        if not try_lock(self._descriptor):
            raise InputError(f"{self.path}: another recording goes on here; wait for its end")

    def _scan(self) -> None:
        whole = re.compile(rf"{re.escape(self._stem)}(\d{{6,9}})\.flac")
        partial = re.compile(rf"\.{re.escape(self._stem)}\d{{6,9}}\.flac\..+\.tmp")
        for name in sorted(os.listdir(self.path)):
            if partial.fullmatch(name):
                (self.path / name).unlink(missing_ok=True)
            elif match := whole.fullmatch(name):
                self._next = max(self._next, int(match[1]) + 1)
                self.clips += 1
                self.samples += self._samples_of(self.path / name)
        if self.clips and not self._resume:
            raise InputError(
                f"{self.path}: holds {self.clips} clips; go on with --resume, or name another --output or --id"
            )

    def _samples_of(self, path: Path) -> int:
        try:
            info = soundfile.info(str(path))
        except (soundfile.SoundFileError, OSError):
            raise InputError(f"{path}: cannot be read; remove it, then go on with --resume") from None
        if info.samplerate != self._rate:
            raise InputError(f"{path}: {info.samplerate} Hz, this recording has {self._rate} Hz; use another --output")
        return int(info.frames)

    def check_disk(self, more_bytes: int) -> None:
        """Raise CheckFailed if `more_bytes` do not fit beside the reserve."""
        check_disk(self.path, more_bytes)

    def write(self, samples: Samples, bits: int) -> Path:
        """Store samples (n,) float32 as the next clip, FLAC of 16 or 24 bits, atomically; returns its path.

        Samples beyond full scale are stored at full scale. Raises OSError if the disk refuses.
        """
        path = self.path / f"{self._stem}{self._next:06d}.flac"
        while path.exists():
            self._next += 1
            path = self.path / f"{self._stem}{self._next:06d}.flac"
        with atomic_file(path) as handle:
            soundfile.write(handle, to_integers(samples, bits), self._rate, format="FLAC", subtype=SUBTYPES[bits])
        self._next += 1
        self.clips += 1
        self.samples += samples.size
        return path


def to_integers(samples: Samples, bits: int) -> np.ndarray:
    """Samples (n,) float32 as (n,) int16, or as int32 with the 24 bits in the upper bytes.

    Exact for sound that was captured with as many bits.
    """
    scale = float(1 << (bits - 1))
    whole = np.clip(np.rint(samples.astype(np.float64) * scale), -scale, scale - 1)
    return whole.astype(np.int16) if bits == 16 else whole.astype(np.int32) << 8
