"""Whether the given clips are of the machine that the bundle knows, told by their fp32 scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.features.logmel import Amplitude, FeatureSettings, Float32Array
from edgeasd.runtime.features.segments import SegmentSettings
from edgeasd.toolkit.data.cache import FeatureCache
from edgeasd.toolkit.data.clips import BadFile, content_hashes, refuse_bad
from edgeasd.toolkit.data.tree import audio_files
from edgeasd.toolkit.progress import ProgressCallback

_STILL = 1e-6
"""A log-mel that moves less than this in every band is of digital silence or of a dead input."""
_NAMED = 5


@dataclass(frozen=True)
class GivenClip:
    """One recording of known content."""

    path: Path
    name: str
    """As in records and reports: relative to the folder that was given."""
    sha256: str
    frames: int
    """Log-mel frames."""


@dataclass(frozen=True)
class Material:
    """Clips in order of content, so that names and folders change nothing, and where their features are."""

    clips: tuple[GivenClip, ...]
    cache: FeatureCache
    amplitude: Amplitude

    def features(self, clip: GivenClip) -> Float32Array:
        """Log-mel frames (T, n_mels) float32, memory-mapped: let go of them before the next clip."""
        return self.cache.features(clip.path, clip.sha256, self.amplitude)

    def seconds(self, clip: GivenClip) -> float:
        """Sound behind the frames of a clip."""
        return self.cache.settings.sample_count(clip.frames) / self.cache.settings.sample_rate


@dataclass(frozen=True)
class FoundFiles:
    """Audio files of one source, copies of a recording only once."""

    paths: dict[str, Path]
    """By sha256, in order of sha256."""
    root: Path
    copies: int
    """Files that were left out because another has the same content."""


def normal_files(folder: Path, report: ProgressCallback, files: Sequence[Path] | None = None) -> FoundFiles:
    """WAV and FLAC files at any depth of the folder --clips, or those `files` of it.

    Raises InputError where it is no folder, and where there is none in it.
    """
    if not folder.is_dir():
        raise InputError(f"--clips {folder}: not a folder; name one with normal clips of this machine")
    paths = sorted(audio_files(folder, folder) if files is None else files)
    if not paths:
        raise InputError(
            f"--clips {folder}: 0 clips; calibration needs normal sound of this machine, put WAV or FLAC files there"
        )
    return distinct(paths, folder, report)


def distinct(paths: Sequence[Path], root: Path, report: ProgressCallback) -> FoundFiles:
    """One file for each content; of copies the first by name. InputError names files that cannot be read."""
    hashes, _ = content_hashes(paths, progress=report)
    first: dict[str, Path] = {}
    for path in paths:
        first.setdefault(hashes[path], path)
    return FoundFiles({content: first[content] for content in sorted(first)}, root, len(paths) - len(first))


def prepare_material(
    files: FoundFiles,
    cache: FeatureCache,
    amplitude: Amplitude,
    segments: SegmentSettings,
    report: ProgressCallback,
    *,
    skip_bad: bool = False,
) -> tuple[Material, list[str]]:
    """Fill the cache for `files` and check them; with `skip_bad` also the lines of those left out.

    Raises one InputError that names clips that cannot be used: not readable, of another rate, shorter
    than a segment, or silent; with `skip_bad` only where none is left.
    """
    clips: list[GivenClip] = []
    bad: list[BadFile] = []
    for done, (content, path) in enumerate(files.paths.items(), start=1):
        try:
            features = cache.features(path, content, amplitude)
            _refuse_short(path, len(features), segments, cache.settings)
            _refuse_silent(path, features)
            clips.append(GivenClip(path, _name(path, files.root), content, len(features)))
        except InputError as error:
            bad.append((path, str(error)))
        report(done, len(files.paths))
    if not skip_bad or not clips:
        refuse_bad(bad, len(files.paths))
    return Material(tuple(clips), cache, amplitude), [line for _, line in bad]


def named(clips: Iterable[GivenClip]) -> str:
    """The first few clips by name, and how many more there are."""
    names = sorted(clip.name for clip in clips)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _refuse_short(path: Path, frames: int, segments: SegmentSettings, settings: FeatureSettings) -> None:
    if frames < segments.frames:
        rate, need = settings.sample_rate, settings.sample_count(segments.frames)
        raise InputError(
            f"{path}: {settings.sample_count(frames) / rate:.2f} s, one segment takes {need / rate:.3f} s; "
            "record longer clips"
        )


def _refuse_silent(path: Path, features: Float32Array) -> None:
    low, high = np.full(features.shape[1], np.inf), np.full(features.shape[1], -np.inf)
    for start in range(0, len(features), 4096):
        part = features[start : start + 4096]
        low, high = np.minimum(low, part.min(axis=0)), np.maximum(high, part.max(axis=0))
    if float((high - low).max()) <= _STILL:
        raise InputError(
            f"{path}: silence, every frame is the same; check microphone and level, and record the machine running"
        )
