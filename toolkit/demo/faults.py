"""Faults of the synthetic machines, and the blocks (noise, rotation, strikes) all their sound is built of.

Sound is one-dimensional float32 at 16 kHz, made with whole-array operations; a filter is a gain over
the frequencies of one FFT. Times and shaft angles are float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeasd.runtime.errors import InputError

SAMPLE_RATE = 16000
FAULTS: dict[str, tuple[str, ...]] = {
    "valve": ("leak", "sticking"),
    "pump": ("bearing", "cavitation"),
    "fan": ("imbalance", "blockage"),
}
NOT_ADDITIVE: tuple[str, ...] = ("sticking", "blockage")
"""Faults that alter the machine's own sound; their level follows from a severity."""

# Two names for the reader: numpy's type stubs lose the precision in nearly every operation.
Sound = npt.NDArray[np.floating[Any]]
Array = npt.NDArray[np.floating[Any]]
Modes = Sequence[tuple[float, float, float]]
"""Resonances of a body: (frequency in Hz, decay to 1/e in s, level) each."""


def rms(signal: Sound) -> float:
    """Root mean square of a signal."""
    return float(np.sqrt(np.mean(np.square(signal), dtype=np.float64)))


def unit(signal: Sound) -> Sound:
    """The signal scaled to an RMS of 1; silence stays silence."""
    return signal / max(rms(signal), 1e-30)


def shoulder(signal: Sound) -> npt.NDArray[np.float32]:
    """The signal bent smoothly to stay below 0.95; samples up to 0.8 pass unchanged.

    Levels leave room for the crests of every machine: this is for the one blow in a million.
    """
    size = np.abs(signal)
    bent = 0.8 + 0.14 * np.tanh((size - 0.8) / 0.14)
    return np.where(size > 0.8, np.copysign(bent, signal), signal).astype(np.float32, copy=False)


def _fft_length(samples: int) -> int:
    """The smallest even length >= `samples` with prime factors 2, 3 and 5; others take times as long."""
    odd_parts = (3**i * 5**j for i in range(16) for j in range(11))
    return min(part * max(2, 1 << (-(-samples // part) - 1).bit_length()) for part in odd_parts)


def band(low_hz: float, high_hz: float, steepness: float = 3.0) -> Callable[[Array], Array]:
    """A smooth band-pass gain with -3 dB points near `low_hz` and `high_hz`."""

    def gain(hz: Array) -> Array:
        hz = np.maximum(hz, 1.0)
        slope = 2 * steepness
        return 1 / np.sqrt((1 + (low_hz / hz) ** slope) * (1 + (hz / high_hz) ** slope))

    return gain


def coloured_noise(rng: np.random.Generator, samples: int, gain: Callable[[Array], Array]) -> Sound:
    """Gaussian noise (samples,) of RMS 1 whose spectrum follows `gain(frequencies in Hz)`."""
    length = _fft_length(samples)
    bins = rng.standard_normal((length // 2 + 1, 2), dtype=np.float32).view(np.complex64)[:, 0]
    bins *= gain(np.fft.rfftfreq(length, 1 / SAMPLE_RATE)).astype(np.float32)
    return unit(np.fft.irfft(bins, length)[:samples])


def wander(rng: np.random.Generator, samples: int, knots_hz: float) -> Sound:
    """A slow random curve (samples,), about unit variance, with `knots_hz` turning points a second."""
    knots = int(samples / SAMPLE_RATE * knots_hz) + 2
    at = np.arange(samples) * (knots_hz / SAMPLE_RATE)
    return np.interp(at, np.arange(knots), rng.standard_normal(knots)).astype(np.float32)


def rotation(rng: np.random.Generator, samples: int, hz: float, wobble: float) -> Array:
    """Revolutions turned (samples,) by a shaft near `hz` whose speed wanders by the share `wobble`."""
    speed = hz * (1 + wobble * np.clip(wander(rng, samples, 0.7), -3, 3))
    return rng.random() + np.cumsum(speed, dtype=np.float64) / SAMPLE_RATE


def harmonics(cycles: Array, levels: Sequence[float], offsets: Sequence[float]) -> Sound:
    """Sines at 1, 2, 3, ... times the given revolutions, with levels and phase offsets in cycles."""
    angle = (2 * np.pi * (cycles % 1.0)).astype(np.float32)
    turn = np.empty(len(cycles), dtype=np.complex64)
    turn.real, turn.imag = np.cos(angle), np.sin(angle)
    # Horner's rule: one sine and cosine for all harmonics, which are powers of the same turn.
    total = np.zeros_like(turn)
    for level, offset in zip(reversed(levels), reversed(offsets), strict=True):
        total += np.complex64(level * np.exp(2j * np.pi * offset))
        total *= turn
    return total.imag


def strikes(times_s: Array, strengths: Array, samples: int, modes: Modes) -> Sound:
    """Blows (samples,) at `times_s` on a body that rings with `modes`; blows outside are dropped."""
    where = np.round(times_s * SAMPLE_RATE).astype(int)
    inside = (where >= 0) & (where < samples)
    longest = max(decay for _, decay, _ in modes)
    t = np.arange(int(7 * longest * SAMPLE_RATE)) / SAMPLE_RATE
    ring = np.zeros(len(t), dtype=np.float32)
    for hz, decay, level in modes:
        ring += level * np.exp(-t / decay) * np.sin(2 * np.pi * hz * t)
    starts, weights = where[inside], strengths[inside].astype(np.float32)
    sound = np.zeros(samples + len(ring), dtype=np.float32)
    # A few thousand blows at a time: memory stays small, and it is quicker than a convolution by FFT.
    for first in range(0, len(starts), 4096):
        part = slice(first, first + 4096)
        at = starts[part, None] + np.arange(len(ring))
        np.add.at(sound, at.ravel(), (weights[part, None] * ring).ravel())
    return sound[:samples]


def factory_hall(rng: np.random.Generator, samples: int) -> Sound:
    """Background (samples,), RMS 1: a distant rumble that swells, a hum, now and then a clang."""
    tilt = rng.uniform(0.4, 0.8)
    hall = coloured_noise(rng, samples, lambda hz: np.maximum(hz, 40.0) ** -tilt)
    hall *= 1 + 0.2 * np.clip(wander(rng, samples, 0.8), -2.5, 2.5)
    cycles = rng.uniform(80, 240) / SAMPLE_RATE * np.arange(samples)
    hall += 0.3 * harmonics(cycles, (1.0, 0.5, 0.3), rng.random(3).tolist())
    clangs = rng.poisson(0.3 * samples / SAMPLE_RATE)
    times_s = rng.random(clangs) * samples / SAMPLE_RATE
    modes = [(rng.uniform(300, 900), 0.08, 1.0), (rng.uniform(1000, 2500), 0.05, 0.6)]
    return unit(hall + strikes(times_s, rng.uniform(0.3, 1.2, clangs), samples, modes))


@dataclass(frozen=True)
class Fault:
    """A fault by name, its level in dB relative to the normal clip, and its start in s (None: always)."""

    name: str
    snr_db: float
    start_s: float | None = None

    def check(self, kind: str, seconds: float) -> None:
        """Raise InputError if this fault cannot occur in a clip of `seconds` of this kind."""
        if self.name not in FAULTS[kind]:
            known = " and ".join(FAULTS[kind])
            raise InputError(f"fault {self.name!r}: a synthetic {kind} has {known}; use one of them")
        if not -40 <= self.snr_db <= 0:
            raise InputError(f"fault level {self.snr_db} dB: outside -40 to 0 dB; give a level in that range")
        if self.start_s is not None and not 0 <= self.start_s < seconds:
            raise InputError(f"fault start {self.start_s} s: the clip has {seconds} s; start within it")

    @property
    def severity(self) -> float:
        """The level as an amplitude ratio, in (0, 1]."""
        return float(10 ** (self.snr_db / 20))

    def levelled(self, change: Sound, normal: Sound) -> Sound:
        """`change` (n,) as it joins `normal` (n,): at its level if additive, faded in from the start."""
        if self.name not in NOT_ADDITIVE:
            change = unit(change) * (self.severity * rms(normal))
        if self.start_s is None:
            return change
        since = np.arange(len(change)) / SAMPLE_RATE - self.start_s
        return change * np.clip(since / 0.25, 0.0, 1.0).astype(np.float32)


@dataclass(frozen=True)
class Actuations:
    """When a valve opens and closes (seconds from the start of the clip) and how hard it hits."""

    opens: Array
    closes: Array
    strengths: Array


def leak(rng: np.random.Generator, samples: int) -> Sound:
    """Valve, additive: air escaping without a pause, 2 to 7 kHz, its strength breathing a little."""
    hiss = coloured_noise(rng, samples, band(rng.uniform(2000, 2600), rng.uniform(5800, 7000)))
    return hiss * (1 + 0.15 * np.clip(wander(rng, samples, 2.0), -3, 3))


def stick(rng: np.random.Generator, healthy: Actuations, severity: float) -> Actuations:
    """Valve, not additive: a plunger that hesitates and hits with less force.

    `severity` in (0, 1]: each opening comes late by up to 60 % x severity of the open time, each
    closing by as much of the closed time, and a blow loses up to 70 % x severity of its strength.
    """
    late_open, late_close, lost = rng.random((3, len(healthy.opens)))
    open_time = healthy.closes - healthy.opens
    closed_time = np.append(healthy.opens[1:], healthy.closes[-1] + open_time[-1]) - healthy.closes
    return Actuations(
        opens=healthy.opens + 0.6 * severity * late_open * open_time,
        closes=healthy.closes + 0.6 * severity * late_close * closed_time,
        strengths=healthy.strengths * (1 - 0.7 * severity * lost),
    )


def bearing(rng: np.random.Generator, cycles: Array, order: float, resonance_hz: float) -> Sound:
    """Pump, additive: a pitted race struck `order` times a revolution.

    Each blow rings the housing near `resonance_hz`; rolling elements slip, so the blows jitter by
    about 1.5 % of their spacing, and the load turns with the shaft, so their strength does too.
    """
    samples = len(cycles)
    passes = cycles * order
    count = np.arange(np.ceil(passes[0]), passes[-1])
    slip = count + 0.015 * rng.standard_normal(len(count))
    times_s = np.interp(slip, passes, np.arange(samples)) / SAMPLE_RATE
    load = 1 + 0.6 * np.cos(2 * np.pi * slip / order)
    strengths = load * rng.lognormal(0.0, 0.2, len(count))
    modes = [(resonance_hz, 0.003, 1.0), (1.63 * resonance_hz, 0.002, 0.4)]
    return strikes(times_s, strengths, samples, modes)


def cavitation(rng: np.random.Generator, samples: int) -> Sound:
    """Pump, additive: collapsing bubbles, a crackle of very short blows that comes in bursts."""
    seconds = samples / SAMPLE_RATE
    times_s = rng.random(rng.poisson(700 * seconds)) * seconds
    # Clipped from below, the curve is quiet for a third of the time and crackles in between.
    activity = np.clip(0.5 + wander(rng, samples, 6.0), 0.1, 1.6)
    strengths = rng.lognormal(0.0, 0.4, len(times_s)) * rng.choice([-1.0, 1.0], len(times_s))
    strengths *= activity[(times_s * SAMPLE_RATE).astype(int)]
    modes = [
        (rng.uniform(1500, 2300), 0.0008, 1.0),
        (rng.uniform(3000, 4500), 0.0006, 1.0),
        (6000.0, 0.0004, 0.8),
    ]
    return strikes(times_s, strengths, samples, modes)


def imbalance(rng: np.random.Generator, cycles: Array, machine: Sound) -> Sound:
    """Fan, additive: the machine's own sound pumped once a revolution, and a tone at that rate.

    Half the power is the modulation (`machine` times a cosine of the shaft angle), half the tone
    with weaker second and third harmonics.
    """
    angle = cycles + rng.random()
    tone = harmonics(angle, (1.0, 0.35, 0.15), rng.random(3).tolist())
    return unit(harmonics(angle, (1.0,), (0.25,)) * machine) + unit(tone)
