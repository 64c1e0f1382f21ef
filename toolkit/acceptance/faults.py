"""Faults that are mixed into normal recordings: those of the demo's machines that add sound, and the user's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeasd.runtime.audio.reader import StreamResampler, read_audio
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.features.logmel import Float32Array
from edgeasd.toolkit.data.tree import audio_files
from edgeasd.toolkit.demo import faults as demo

FADE_SECONDS = 0.25
KINDS = ("leak", "bearing", "cavitation", "imbalance")
"""Kinds of the demo that add sound. A sticking valve and a blocked fan change the machine itself: no recording can be
made to do that."""


@dataclass(frozen=True)
class FaultKind:
    """One kind of fault. `make(rng, normal)` gives the sound of it, (n,) float32, for a normal excerpt (n,)."""

    name: str
    make: Callable[[np.random.Generator, Float32Array], Float32Array]
    is_given: bool = False
    """True for recordings of the user."""


def demo_faults(names: Sequence[str], sample_rate: int) -> list[FaultKind]:
    """Kinds of the demo by name, at `sample_rate`. Raises InputError for another name."""
    for name in names:
        if name in demo.NOT_ADDITIVE:
            raise InputError(
                f"--fault {name}: changes the machine's own sound and cannot be mixed into a recording; record one and "
                "pass --faults FOLDER"
            )
        if name not in KINDS:
            raise InputError(f"--fault {name}: unknown; use some of {', '.join(KINDS)}, or none")
    return [FaultKind(name, _demo_fault(name, sample_rate)) for name in names]


def given_faults(
    folder: Path, sample_rate: int, channel: int | None, recorded_rate: int | None = None
) -> list[FaultKind]:
    """Recordings of faults: one kind for each folder in `folder`, files beside them are a kind of its name.

    A recording is repeated where it is shorter than the excerpt. Raises InputError for a folder without sound, for
    files that cannot be read and for silence.
    """
    if not folder.is_dir():
        raise InputError(f"--faults {folder}: not a folder; name one with recordings of faults")
    groups: dict[str, list[Float32Array]] = {}
    for path in audio_files(folder, folder):
        inside = path.relative_to(folder).parts
        sound = read_audio(path, sample_rate=sample_rate, channel=channel, resample=True, recorded_rate=recorded_rate)
        if demo.rms(sound) < 1e-6:
            raise InputError(f"{path}: silence; leave it out of --faults")
        groups.setdefault(inside[0] if len(inside) > 1 else folder.name or "faults", []).append(sound)
    if not groups:
        raise InputError(f"--faults {folder}: 0 WAV or FLAC files; put recordings of faults there")
    return [FaultKind(name, _given_fault(sounds), is_given=True) for name, sounds in sorted(groups.items())]


def mix(normal: Float32Array, fault: Float32Array, level_db: float, start: int, sample_rate: int) -> Float32Array:
    """`normal` (n,) with `fault` (n,) from sample `start` on, faded in over a quarter of a second.

    The fault's RMS is `level_db` above that of the normal sound, both taken from `start` on.
    """
    wanted = demo.rms(normal[start:]) * 10 ** (level_db / 20)
    gain = np.zeros(len(normal))
    since = np.arange(len(normal) - start) / sample_rate
    gain[start:] = np.clip(since / FADE_SECONDS, 0.0, 1.0)
    return (normal + fault * gain * (wanted / max(demo.rms(fault[start:]), 1e-30))).astype(np.float32)


def _given_fault(sounds: Sequence[Float32Array]) -> Callable[[np.random.Generator, Float32Array], Float32Array]:
    def make(rng: np.random.Generator, normal: Float32Array) -> Float32Array:
        sound = sounds[int(rng.integers(len(sounds)))]
        return np.resize(np.roll(sound, -int(rng.integers(len(sound)))), len(normal)).astype(np.float32)

    return make


def _demo_fault(name: str, sample_rate: int) -> Callable[[np.random.Generator, Float32Array], Float32Array]:
    def make(rng: np.random.Generator, normal: Float32Array) -> Float32Array:
        samples = int(np.ceil(len(normal) * demo.SAMPLE_RATE / sample_rate)) + 1
        sound = _resampled(np.asarray(_render(name, rng, normal, samples, sample_rate), np.float32), sample_rate)
        return np.resize(sound, len(normal)).astype(np.float32)

    return make


def _render(name: str, rng: np.random.Generator, normal: Float32Array, samples: int, rate: int) -> demo.Sound:
    """At the demo's sample rate. Shafts turn at 20 to 50 revolutions a second."""
    if name == "leak":
        return demo.leak(rng, samples)
    if name == "cavitation":
        return demo.cavitation(rng, samples)
    cycles = demo.rotation(rng, samples, rng.uniform(20.0, 50.0), 0.003)
    if name == "bearing":
        return demo.bearing(rng, cycles, rng.uniform(3.1, 5.4), rng.uniform(2600, 4200))
    machine = normal if rate == demo.SAMPLE_RATE else StreamResampler(rate, demo.SAMPLE_RATE).push(normal, last=True)
    return demo.imbalance(rng, cycles, np.resize(machine, samples))


def _resampled(sound: Float32Array, rate: int) -> Float32Array:
    return sound if rate == demo.SAMPLE_RATE else StreamResampler(demo.SAMPLE_RATE, rate).push(sound, last=True)
