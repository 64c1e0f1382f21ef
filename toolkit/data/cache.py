"""Log-mel features and amplitude statistics on disk, computed once per content and settings.

<folder>/features-<key>/<2 hex>/<sha256 of the clip>.npy       (T, n_mels) float32
<folder>/statistics-<key>/<2 hex>/<sha256 of the clip>.json    samples, mean, sum of squared deviations
<folder>/health-<key>/<2 hex>/<sha256 of the clip>.json        health states

The key holds everything the figures depend on beside the content, so nothing is ever out of date;
an entry is either whole or absent (atomic renames), two processes at worst do the same work, and
what does not have exactly the expected size, shape and type is computed again, never trusted.
Deleting the folder costs time and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from edgeasd.runtime.audio.reader import SeveralChannels, WrongRate, read_audio
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.features.logmel import Amplitude, FeatureSettings, check_samples, logmel
from edgeasd.runtime.health.clip import clip_states
from edgeasd.runtime.system.files import atomic_file, write_json
from edgeasd.toolkit.data.clips import BadFile, Progress, refuse_bad

CACHE_VERSION = 1
"""Raise it when the arithmetic of log-mel or of reading changes, so that old entries are left alone."""


class ClipStatistics(NamedTuple):
    """Amplitude of one clip, or of several merged: all in float64."""

    samples: int
    mean: float
    squares: float
    """Sum of (x - mean)^2, which, unlike the sum of x^2, loses nothing beside a large mean."""

    def merge(self, other: ClipStatistics) -> ClipStatistics:
        """Statistics of both together (Chan, Golub & LeVeque 1979)."""
        samples = self.samples + other.samples
        delta = other.mean - self.mean
        mean = self.mean + delta * other.samples / samples
        squares = self.squares + other.squares + delta * delta * self.samples * other.samples / samples
        return ClipStatistics(samples, mean, squares)


class FeatureCache:
    """Features of clips by content, for one set of feature settings; any number of processes may share it.

    `channel`, counted from 0, is the one taken of clips that have several; without it they are refused.
    """

    def __init__(self, folder: Path, settings: FeatureSettings, channel: int | None = None) -> None:
        self.folder = Path(folder)
        self.settings = settings
        self.channel = channel

    def clip_statistics(self, path: Path, content_hash: str) -> ClipStatistics:
        """Number, mean and sum of squared deviations of a clip's samples.

        Raises InputError for a clip that `read_audio` refuses or that is shorter than one window.
        """
        known = self._known_statistics(content_hash)
        return known if known is not None else self._measure(content_hash, self._samples(path))

    def clip_states(self, path: Path, content_hash: str) -> tuple[str, ...]:
        """Health states of a clip, as `edgeasd.runtime.health.clip` judges it. Raises InputError as `clip_statistics`."""
        try:
            raw = json.loads(self._states_path(content_hash).read_text(encoding="utf-8"))
            if raw["sha256"] == content_hash and all(isinstance(state, str) for state in raw["states"]):
                return tuple(raw["states"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return self._judge(content_hash, self._samples(path))

    def amplitude(
        self, clips: Iterable[tuple[Path, str]], progress: Progress | None = None, skip_bad: bool = False
    ) -> Amplitude:
        """Mean and standard deviation over all samples of the (path, content hash) pairs.

        The result does not depend on their order. Raises InputError for no clips, for silence,
        and one that names bad clips unless `skip_bad`.
        """
        wanted = sorted(clips, key=lambda clip: clip[1])
        found: list[ClipStatistics] = []
        bad = _each(wanted, lambda path, key: found.append(self.clip_statistics(path, key)), progress)
        if not skip_bad:
            refuse_bad(bad, len(wanted))
        if not found:
            raise InputError("amplitude: no clips to take it from; give at least one normal clip")
        pooled = found[0]
        for statistics in found[1:]:
            pooled = pooled.merge(statistics)
        std = math.sqrt(pooled.squares / pooled.samples)
        try:
            return Amplitude(mean=pooled.mean, std=std)
        except ValidationError as error:
            raise InputError(
                f"amplitude: mean {pooled.mean:g}, standard deviation {std:g} over {len(found)} clips from "
                f"{wanted[0][0]} on: silence only, or far outside [-1, 1); check the recordings' level"
            ) from error

    def features(self, path: Path, content_hash: str, amplitude: Amplitude) -> npt.NDArray[np.float32]:
        """Log-mel frames (T, n_mels) float32 of a clip, read-only, memory-mapped.

        Equal bit for bit to `logmel(read_audio(path, channel=channel), settings, amplitude)`. While the result or a
        view of it lives it holds one file descriptor: copy the part you need and let go of the rest.
        Raises InputError for a clip that `read_audio` refuses or that is shorter than one window.
        """
        entry = self._feature_path(content_hash, amplitude)
        known = self._known_statistics(content_hash)
        if known is not None:
            mapped = self._open(entry, known.samples)
            if mapped is not None:
                return mapped
        samples = self._samples(path)
        if known is None or known.samples != samples.size:
            self._measure(content_hash, samples)
        with atomic_file(entry) as handle:
            np.save(handle, logmel(samples, self.settings, amplitude), allow_pickle=False)
        mapped = self._open(entry, samples.size)
        if mapped is None:
            raise InputError(f"{entry}: changed by another program; give edgeasd a cache folder of its own")
        return mapped

    def prepare(
        self,
        clips: Iterable[tuple[Path, str]],
        amplitude: Amplitude,
        progress: Progress | None = None,
        skip_bad: bool = False,
    ) -> list[BadFile]:
        """Fill the cache for (path, content hash) pairs and return the clips that cannot be used.

        Raises one InputError that names them, unless `skip_bad`.
        """
        wanted = list(clips)
        bad = _each(wanted, lambda path, key: self.features(path, key, amplitude), progress)
        if not skip_bad:
            refuse_bad(bad, len(wanted))
        return bad

    def _samples(self, path: Path) -> npt.NDArray[np.float32]:
        samples = read_clip(path, self.settings, self.channel)
        if self.settings.frame_count(samples.size) == 0:
            raise InputError(
                f"{path}: {samples.size} samples, one frame takes {self.settings.n_fft}; record longer clips"
            )
        try:
            return check_samples(samples, sample_rate=self.settings.sample_rate)
        except InputError as error:  # it knows the sample, not the file
            raise InputError(f"{path}: {error}") from error

    def _measure(self, content_hash: str, samples: npt.NDArray[np.float32]) -> ClipStatistics:
        wide = samples.astype(np.float64)
        mean = float(wide.mean())
        wide -= mean
        statistics = ClipStatistics(samples.size, mean, float(np.dot(wide, wide)))
        write_json(self._statistics_path(content_hash), {"sha256": content_hash, **statistics._asdict()})
        self._judge(content_hash, samples)
        return statistics

    def _judge(self, content_hash: str, samples: npt.NDArray[np.float32]) -> tuple[str, ...]:
        states = clip_states(samples, self.settings.sample_rate)
        write_json(self._states_path(content_hash), {"sha256": content_hash, "states": list(states)})
        return states

    def _known_statistics(self, content_hash: str) -> ClipStatistics | None:
        try:
            raw = json.loads(self._statistics_path(content_hash).read_text(encoding="utf-8"))
            if raw["sha256"] != content_hash:
                return None
            statistics = ClipStatistics(int(raw["samples"]), float(raw["mean"]), float(raw["squares"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        sound = statistics.samples > 0 and math.isfinite(statistics.mean) and 0 <= statistics.squares < math.inf
        return statistics if sound else None

    def _open(self, entry: Path, samples: int) -> npt.NDArray[np.float32] | None:
        """The entry if it is exactly the array that `samples` samples give, else None."""
        shape = (self.settings.frame_count(samples), self.settings.n_mels)
        try:
            mapped = np.load(entry, mmap_mode="r")
            size = entry.stat().st_size
        except (OSError, ValueError, EOFError, SyntaxError):
            return None
        if not isinstance(mapped, np.memmap) or mapped.shape != shape or mapped.dtype != np.float32:
            return None
        whole = size == mapped.offset + mapped.nbytes and mapped.flags.c_contiguous
        return mapped if whole else None

    def _feature_path(self, content_hash: str, amplitude: Amplitude) -> Path:
        key = _key(
            "features", self.settings.fingerprint(), amplitude.mean.hex(), amplitude.std.hex(), *self._of_channel
        )
        return self.folder / f"features-{key}" / content_hash[:2] / f"{content_hash}.npy"

    def _statistics_path(self, content_hash: str) -> Path:
        key = _key("statistics", *self._of_rate, *self._of_channel)
        return self.folder / f"statistics-{key}" / content_hash[:2] / f"{content_hash}.json"

    def _states_path(self, content_hash: str) -> Path:
        key = _key("health", *self._of_rate, *self._of_channel)
        return self.folder / f"health-{key}" / content_hash[:2] / f"{content_hash}.json"

    @property
    def _of_rate(self) -> tuple[str, ...]:
        """The rates that samples pass; as ever without one of the recordings."""
        recorded = self.settings.recorded_rate
        return (str(self.settings.sample_rate), *(() if recorded is None else (f"through {recorded}",)))

    @property
    def _of_channel(self) -> tuple[str, ...]:
        """Empty without a channel: what was cached before there was a choice stays of use."""
        return () if self.channel is None else (f"channel {self.channel}",)


def read_clip(path: Path, features: FeatureSettings, channel: int | None) -> npt.NDArray[np.float32]:
    """`read_audio` for data sets, where a channel can be chosen, and no mean of all.

    Samples are at `features.sample_rate`. A clip of another rate is converted only through `features.recorded_rate`.
    """
    rate, recorded = features.sample_rate, features.recorded_rate
    try:
        return read_audio(path, sample_rate=rate, channel=channel, recorded_rate=recorded)
    except SeveralChannels as error:
        raise InputError(
            f"{path}: {error.count} channels, a model hears one; choose it with --channel 0 to {error.count - 1} "
            "(counted from 0)"
        ) from None
    except WrongRate as error:
        raise InputError(
            f"{path}: {error.rate} Hz, the model hears {features.input_rate} Hz; convert the file to that rate"
        ) from None


def _key(*parts: str) -> str:
    return hashlib.sha256("|".join((str(CACHE_VERSION), *parts)).encode()).hexdigest()[:16]


def _each(
    clips: list[tuple[Path, str]], work: Callable[[Path, str], object], progress: Progress | None
) -> list[BadFile]:
    """Do `work` for every clip, and collect those it refuses instead of stopping at the first."""
    bad: list[BadFile] = []
    for done, (path, content_hash) in enumerate(clips, start=1):
        try:
            work(path, content_hash)
        except InputError as error:
            bad.append((path, str(error)))
        if progress is not None:
            progress(done, len(clips))
    return bad
