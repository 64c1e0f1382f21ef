"""The clips of a calibration: found, checked, and compared with the machine that the bundle knows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeasd.calibration.fit.clips import is_other_machine, normal_bounds, outside_normal_bounds
from edgeasd.calibration.fit.deploy import SegmentOutputs, clip_scores
from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.errors import BundleError, InputError
from edgeasd.runtime.features.logmel import Amplitude, FeatureSettings, Float32Array
from edgeasd.runtime.features.segments import SegmentSettings
from edgeasd.runtime.health.clip import describe_states, is_usable
from edgeasd.toolkit.calibrate.request import Request
from edgeasd.toolkit.data.cache import FeatureCache
from edgeasd.toolkit.data.clips import BadFile, content_hashes, refuse_bad
from edgeasd.toolkit.data.tree import audio_files
from edgeasd.toolkit.progress import ProgressCallback

_STILL = 1e-6
"""A log-mel that moves less than this in every band is of digital silence or of a dead input."""
_NAMED = 5
JOINED_SECONDS = 60.0
LONGEST_SESSION = 360
"""Clips, about an hour of those that `edgeasd record` makes: their features are in memory together."""


@dataclass(frozen=True)
class CalibrationClip:
    """One recording, identified by its content."""

    path: Path
    name: str
    """Relative to the folder that was given, as records and reports show it."""
    sha256: str
    frames: int
    """Log-mel frames."""


@dataclass(frozen=True)
class ClipSet:
    """Clips in order of content, so that names and folders do not matter, with the cache of their features."""

    clips: tuple[CalibrationClip, ...]
    cache: FeatureCache
    amplitude: Amplitude

    def features(self, clip: CalibrationClip) -> Float32Array:
        """Log-mel frames (T, n_mels) float32, memory-mapped: let go of them before the next clip."""
        return self.cache.features(clip.path, clip.sha256, self.amplitude)

    def seconds(self, clip: CalibrationClip) -> float:
        """Sound behind the frames of a clip."""
        return self.cache.settings.sample_count(clip.frames) / self.cache.settings.sample_rate


@dataclass(frozen=True)
class ClipFiles:
    """Audio files of one source, copies of a recording only once."""

    paths: dict[str, Path]
    """By sha256, in order of sha256."""
    root: Path
    copies: int
    """Files that were left out because another has the same content."""


def normal_files(folder: Path, report: ProgressCallback, files: Sequence[Path] | None = None) -> ClipFiles:
    """WAV and FLAC files at any depth of the folder --clips, or those `files` of it.

    Raises InputError if it is no folder, and if there is none in it.
    """
    if not folder.is_dir():
        raise InputError(f"--clips {folder}: not a folder; name one with normal clips of this machine")
    paths = sorted(audio_files(folder, folder) if files is None else files)
    if not paths:
        raise InputError(
            f"--clips {folder}: 0 clips; calibration needs normal sound of this machine, put WAV or FLAC files there"
        )
    return distinct(paths, folder, report)


def distinct(paths: Sequence[Path], root: Path, report: ProgressCallback) -> ClipFiles:
    """One file for each content; of copies the first by name. InputError names files that cannot be read."""
    hashes, _ = content_hashes(paths, progress=report)
    first: dict[str, Path] = {}
    for path in paths:
        first.setdefault(hashes[path], path)
    return ClipFiles({content: first[content] for content in sorted(first)}, root, len(paths) - len(first))


def prepare_clip_set(
    files: ClipFiles,
    cache: FeatureCache,
    amplitude: Amplitude,
    segments: SegmentSettings,
    report: ProgressCallback,
    *,
    skip_bad: bool = False,
) -> tuple[ClipSet, list[str]]:
    """Fill the cache for `files` and check them; with `skip_bad` also the lines of those left out.

    Raises one InputError that names clips that cannot be used: not readable, of another rate, shorter
    than a segment, or silent; with `skip_bad` only where none is left.
    """
    clips: list[CalibrationClip] = []
    bad: list[BadFile] = []
    for done, (content, path) in enumerate(files.paths.items(), start=1):
        try:
            features = cache.features(path, content, amplitude)
            _refuse_short(path, len(features), segments, cache.settings)
            _refuse_silent(path, features)
            if not is_usable(states := cache.clip_states(path, content)):
                raise InputError(f"{path}: {describe_states(states)}; record the machine running again")
            clips.append(CalibrationClip(path, _name(path, files.root), content, len(features)))
        except InputError as error:
            bad.append((path, str(error)))
        report(done, len(files.paths))
    if not skip_bad or not clips:
        refuse_bad(bad, len(files.paths))
    return ClipSet(tuple(clips), cache, amplitude), [line for _, line in bad]


def named(clips: Iterable[CalibrationClip]) -> str:
    """The first few clips by name, and how many more there are."""
    names = sorted(clip.name for clip in clips)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


def sessions(clip_set: ClipSet) -> list[tuple[CalibrationClip, ...]]:
    """Clips that were recorded one after another, as `edgeasd record` makes them, together; the others one by one.

    Clips of less than JOINED_SECONDS in one folder are a session, in order of name, cut after LONGEST_SESSION clips.
    The live rule runs on from one clip to the next: what it makes of the seams is counted.
    """
    found: list[tuple[CalibrationClip, ...]] = []
    folders: dict[str, list[CalibrationClip]] = {}
    for clip in clip_set.clips:
        if clip_set.seconds(clip) < JOINED_SECONDS:
            folders.setdefault(clip.name.rpartition("/")[0], []).append(clip)
        else:
            found.append((clip,))
    for _, clips in sorted(folders.items()):
        ordered = sorted(clips, key=lambda clip: clip.name)
        found += [tuple(ordered[at : at + LONGEST_SESSION]) for at in range(0, len(ordered), LONGEST_SESSION)]
    return found


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


def compare_with_machine(
    bundle: Bundle, request: Request, normals: ClipSet, fp32_outputs: Sequence[SegmentOutputs]
) -> list[str]:
    """Warnings about clips that score where no normal clip of the bundle did; none where all are as expected.

    `fp32_outputs` is what fp32 says of each clip. Scores are compared on the scale of the export: a re-fit moved the scores
    of the bundle and not those of the reference. Raises InputError if the clips are evidently of another
    machine, unless the request says `force`.
    """
    reference = normal_reference(bundle)
    if reference is None:
        return ["the bundle has no normal scores to compare the clips with; nothing says that they are of this machine"]
    scale = bundle.manifest.score.model_copy(
        update={"d_min": reference.d_min, "d_max": reference.d_max, "alpha": reference.alpha}
    )
    scores = clip_scores(scale, fp32_outputs)
    if (bundle.manifest.score.model_extra or {}).get("banks"):
        # Nearer to a stored normal than the few that were held out is no sign of another machine.
        scores = [max(one, min(reference.scores)) for one in scores]
    odd = outside_normal_bounds(scores, reference.scores, reference.threshold)
    if not odd:
        return []
    low, high = normal_bounds(reference.scores, reference.threshold)
    # A bundle without a first threshold had nothing held out to take one from.
    of = "normals" if reference.threshold is not None else "training clips"
    summary = (
        f"{len(odd)} of {len(scores)} clips score outside {low:.3g} to {high:.3g}, where {of} of this machine lie: "
        f"{named(normals.clips[i] for i in odd)} ({min(scores[i] for i in odd):.3g} to {max(scores[i] for i in odd):.3g})"
    )
    if is_other_machine(scores, reference.scores, reference.threshold) and not request.force:
        raise InputError(
            f"--clips {request.clips}: evidently of another machine, or recorded in another way: {summary}; "
            "give normal clips of this one, or pass --force"
        )
    return [summary]


@dataclass(frozen=True)
class NormalReference:
    """Clip scores of held-out normals that export wrote into calibration.json, and their scale."""

    d_min: float
    d_max: float
    alpha: float
    scores: tuple[float, ...]
    threshold: float | None


def normal_reference(bundle: Bundle) -> NormalReference | None:
    """The bundle's own normal clip scores; None if it has none, as with a model without hold-out."""
    place = f"{bundle.path.name}/calibration.json"
    if "calibration.json" not in bundle.manifest.files:
        return None
    try:
        raw = json.loads(bundle.file("calibration.json").read_bytes())
        score = raw["score"]
        scores = tuple(float(one) for one in raw["normal_clip_scores"])
        threshold = None if raw.get("threshold") is None else float(raw["threshold"]["clip"])
        d_min, d_max, alpha = (float(score[name]) for name in ("d_min", "d_max", "alpha"))
        return NormalReference(d_min, d_max, alpha, scores, threshold) if scores else None
    except (ValueError, TypeError, KeyError) as error:
        raise BundleError(f"{place}: holds no normal clip scores ({error!r}); export the bundle again") from None
