"""Outliers for a machine that has no other beside it: any other sound of the place, or its own normals made odd."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.features.logmel import FeatureSettings
from edgeasd.runtime.system.files import atomic_file
from edgeasd.toolkit.data.cache import read_clip
from edgeasd.toolkit.data.clips import Clip, content_hash
from edgeasd.toolkit.data.split import Split
from edgeasd.toolkit.data.tree import audio_files
from edgeasd.toolkit.demo import machines
from edgeasd.toolkit.progress import ProgressCallback

SELF = "self"
"""--outliers self: made of the machine's own normals."""
OUTLIERS = "--outliers"
"""Stands where a machine type would, for clips that come from the option."""
VERSION = 1
"""Raise it when `made_odd` gives other sound, so that earlier files are left alone."""

Samples = npt.NDArray[np.float32]


def given_outliers(folder: Path, own: Sequence[Clip], features: FeatureSettings, cache: Path) -> list[Clip]:
    """Every WAV and FLAC below `folder` as an outlier; one of another rate or of several channels as a converted copy.

    `own` are the clips of the machine. Raises InputError for a folder that is none or holds none, and for one that
    holds the machine itself, whatever its files are called: a model would learn to tell the machine from itself.
    """
    if not folder.is_dir():
        raise InputError(f"--outliers {folder}: not a folder; name one with other sound of the place, or self")
    files = list(audio_files(folder, folder))
    if not files:
        raise InputError(f"--outliers {folder}: holds no WAV or FLAC; `edgeasd data import` makes clips of other files")
    known = {content_hash(clip.path): clip.path for clip in own}
    for path in files:
        if (same := known.get(content_hash(path))) is not None:
            raise InputError(
                f"--outliers {folder}: {path} is a clip of the machine itself ({same}); take it out, or name another folder"
            )
    return [Clip(_as_heard(path, features, cache), OUTLIERS, "given", "normal") for path in files]


def _as_heard(path: Path, features: FeatureSettings, cache: Path) -> Path:
    """`path`, or a copy at the rate and with the one channel of the machine's recordings."""
    try:
        info = soundfile.info(str(path))
    except soundfile.SoundFileError as error:
        raise InputError(f"{path}: not a readable sound file ({error}); repair or remove it") from None
    if info.samplerate == features.input_rate and info.channels == 1:
        return path
    copy = cache / "outliers" / f"{content_hash(path)}-{features.input_rate}.flac"
    if not copy.is_file():
        samples, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
        _write(copy, soxr.resample(samples.mean(axis=1), rate, features.input_rate, "HQ"), features.input_rate)
    return copy


def own_outliers(
    splits: Mapping[str, Split],
    hashes: dict[Path, str],
    features: FeatureSettings,
    channel: int | None,
    cache: Path,
    seed: int,
    report: ProgressCallback,
) -> dict[str, Split]:
    """One pseudo-outlier of every training and held-out normal of `splits`, in the role of its normal.

    They are written into `cache` once for each content and seed; their hashes are added to `hashes`.
    """
    total = sum(len(split.train) + len(split.holdout) for split in splits.values())
    done = 0

    def made(clips: Sequence[Clip]) -> list[Clip]:
        nonlocal done
        found = []
        for clip in clips:
            key = f"{VERSION}|{seed}|{channel}|{features.input_rate}|{hashes[clip.path]}"
            name = hashlib.sha256(key.encode()).hexdigest()
            path = cache / "outliers" / name[:2] / f"{name}.flac"
            if not path.is_file():
                rng = np.random.default_rng(list(bytes.fromhex(name)))
                as_recorded = features.model_copy(update={"sample_rate": features.input_rate, "recorded_rate": None})
                sound = read_clip(clip.path, as_recorded, channel)
                _write(path, made_odd(sound, features.input_rate, rng), features.input_rate)
            hashes[path] = content_hash(path)
            found.append(Clip(path, OUTLIERS, clip.id, "normal"))
            done += 1
            report(done, total)
        return found

    return {id: Split(made(split.train), made(split.holdout), []) for id, split in splits.items()}


def made_odd(sound: Samples, rate: int, rng: np.random.Generator) -> Samples:
    """A normal clip (n,) changed in one or two of six ways, (n,) float32 at the same RMS level.

    Detuned by 4 to 20 %; a band of an octave raised or cut by 6 to 18 dB; gated; modulated at 1 to 20 Hz; hit by a
    ringing blow now and then; mixed with a synthetic machine of `edgeasd demo`.
    """
    ways = (_detuned, _filtered, _gated, _modulated, _hit, _mixed)
    level = float(np.sqrt(np.mean(np.square(sound, dtype=np.float64))))
    odd = sound.astype(np.float64)
    for way in rng.choice(len(ways), size=int(rng.integers(1, 3)), replace=False):
        odd = ways[int(way)](odd, rate, rng)
    now = float(np.sqrt(np.mean(np.square(odd))))
    peak = float(np.abs(odd).max())
    gain = level / now if now > 0 else 1.0
    return np.asarray(odd * min(gain, 0.99 / peak if peak > 0 else 1.0), np.float32)


def _detuned(x: npt.NDArray[np.float64], rate: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    factor = 1.0 + rng.choice([-1.0, 1.0]) * rng.uniform(0.04, 0.2)
    stretched = np.asarray(soxr.resample(x, rate, rate * factor, "HQ"))
    return np.resize(stretched, len(x))


def _filtered(x: npt.NDArray[np.float64], rate: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    spectrum = np.fft.rfft(x)
    hz = np.fft.rfftfreq(len(x), 1.0 / rate)
    centre = float(np.exp(rng.uniform(np.log(150.0), np.log(0.35 * rate))))
    change_db = rng.choice([-1.0, 1.0]) * rng.uniform(6.0, 18.0)
    octaves = np.log2(np.maximum(hz, 1.0) / centre)
    return np.fft.irfft(spectrum * 10 ** (change_db / 20 * np.exp(-((octaves / 0.5) ** 2))), len(x))


def _gated(x: npt.NDArray[np.float64], rate: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    period, share = rng.uniform(0.15, 2.0), rng.uniform(0.3, 0.8)
    phase = (np.arange(len(x)) / rate / period + rng.random()) % 1.0
    return x * np.where(phase < share, 1.0, 10 ** (-rng.uniform(12, 30) / 20))


def _modulated(x: npt.NDArray[np.float64], rate: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    depth, hz = rng.uniform(0.4, 1.0), np.exp(rng.uniform(0.0, np.log(20.0)))
    return x * (1.0 + depth * np.sin(2 * np.pi * (hz * np.arange(len(x)) / rate + rng.random())))


def _hit(x: npt.NDArray[np.float64], rate: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    times = np.arange(int(0.15 * rate)) / rate
    ring = np.exp(-times / rng.uniform(0.003, 0.03)) * np.sin(2 * np.pi * rng.uniform(300.0, 0.3 * rate) * times)
    odd, strength = x.copy(), rng.uniform(2.0, 8.0) * float(x.std())
    for start in rng.integers(0, max(1, len(x) - len(ring)), size=1 + rng.poisson(len(x) / rate * rng.uniform(0.3, 4))):
        piece = odd[start : start + len(ring)]
        piece += strength * rng.lognormal(0.0, 0.3) * ring[: len(piece)]
    return odd


def _mixed(x: npt.NDArray[np.float64], rate: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    kind, id = str(rng.choice(machines.KINDS)), str(rng.choice(machines.IDS))
    seconds = float(np.clip(len(x) / rate, 2.0, 600.0))
    other = machines.render(kind, id, seconds=seconds, seed=int(rng.integers(1 << 30))).astype(np.float64)
    other = np.resize(soxr.resample(other, machines.SAMPLE_RATE, rate, "HQ"), len(x))
    return x + other / max(float(other.std()), 1e-12) * float(x.std()) * 10 ** (rng.uniform(-9.0, 3.0) / 20)


def _write(path: Path, samples: npt.NDArray[np.floating], rate: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as handle:
        soundfile.write(handle, samples, rate, format="FLAC", subtype="PCM_16")
