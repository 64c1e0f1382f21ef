"""Faults of the synthetic machines, and the blocks (noise, rotation, strikes) all their sound is built of.

Everything is a one-dimensional float64 array at 16 kHz, made with whole-array operations; a filter
is a gain over the frequencies of one FFT.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SAMPLE_RATE = 16000

Array = npt.NDArray[np.float64]
Modes = Sequence[tuple[float, float, float]]
"""Resonances of a body: (frequency in Hz, decay to 1/e in s, level) each."""


def rms(signal: Array) -> float:
    """Root mean square of a signal."""
    return float(np.sqrt(np.mean(np.square(signal))))


def unit(signal: Array) -> Array:
    """The signal scaled to an RMS of 1; silence stays silence."""
    return signal / max(rms(signal), 1e-30)


def _fft_length(samples: int) -> int:
    # A multiple of 4000 has small prime factors at any duration in use; an odd prime length is slow.
    return -(-samples // 4000) * 4000


def band(low_hz: float, high_hz: float, steepness: float = 3.0) -> Callable[[Array], Array]:
    """A smooth band-pass gain with -3 dB points near `low_hz` and `high_hz`."""

    def gain(hz: Array) -> Array:
        hz = np.maximum(hz, 1.0)
        slope = 2 * steepness
        return 1 / np.sqrt((1 + (low_hz / hz) ** slope) * (1 + (hz / high_hz) ** slope))

    return gain


def coloured_noise(rng: np.random.Generator, samples: int, gain: Callable[[Array], Array]) -> Array:
    """Gaussian noise (samples,) of RMS 1 whose spectrum follows `gain(frequencies in Hz)`."""
    length = _fft_length(samples)
    white = rng.standard_normal((2, length // 2 + 1))
    shaped = (white[0] + 1j * white[1]) * gain(np.fft.rfftfreq(length, 1 / SAMPLE_RATE))
    return unit(np.fft.irfft(shaped, length)[:samples])


def wander(rng: np.random.Generator, samples: int, knots_hz: float) -> Array:
    """A slow random curve (samples,), about unit variance, with `knots_hz` turning points a second."""
    knots = int(samples / SAMPLE_RATE * knots_hz) + 2
    return np.interp(
        np.arange(samples) * (knots_hz / SAMPLE_RATE), np.arange(knots), rng.standard_normal(knots)
    )


def rotation(rng: np.random.Generator, samples: int, hz: float, wobble: float) -> Array:
    """Revolutions turned (samples,) by a shaft near `hz` whose speed wanders by the share `wobble`."""
    speed = hz * (1 + wobble * np.clip(wander(rng, samples, 0.7), -3, 3))
    return rng.random() + np.cumsum(speed) / SAMPLE_RATE


def harmonics(cycles: Array, levels: Sequence[float], offsets: Sequence[float]) -> Array:
    """Sines at 1, 2, 3, ... times the given revolutions, with levels and phase offsets in cycles."""
    turn = np.exp(2j * np.pi * cycles)
    power = np.ones_like(turn)
    total = np.zeros(len(cycles))
    for level, offset in zip(levels, offsets, strict=True):
        power *= turn
        total += level * (np.cos(2 * np.pi * offset) * power.imag + np.sin(2 * np.pi * offset) * power.real)
    return total


def strikes(times_s: Array, strengths: Array, samples: int, modes: Modes) -> Array:
    """Blows (samples,) at `times_s` on a body that rings with `modes`; blows outside are dropped."""
    where = np.round(times_s * SAMPLE_RATE).astype(int)
    inside = (where >= 0) & (where < samples)
    longest = max(decay for _, decay, _ in modes)
    t = np.arange(int(8 * longest * SAMPLE_RATE)) / SAMPLE_RATE
    ring = np.zeros(len(t))
    for hz, decay, level in modes:
        ring += level * np.exp(-t / decay) * np.sin(2 * np.pi * hz * t)
    length = _fft_length(samples + len(ring))
    blows = np.zeros(length)
    np.add.at(blows, where[inside], strengths[inside])
    return np.fft.irfft(np.fft.rfft(blows) * np.fft.rfft(ring, length), length)[:samples]


def factory_hall(rng: np.random.Generator, samples: int) -> Array:
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
class Actuations:
    """When a valve opens and closes (seconds from the start of the clip) and how hard it hits."""

    opens: Array
    closes: Array
    strengths: Array


def leak(rng: np.random.Generator, samples: int) -> Array:
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


def bearing(rng: np.random.Generator, cycles: Array, order: float, resonance_hz: float) -> Array:
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


def cavitation(rng: np.random.Generator, samples: int) -> Array:
    """Pump, additive: collapsing bubbles, a crackle of very short blows that comes in bursts."""
    seconds = samples / SAMPLE_RATE
    times_s = rng.random(rng.poisson(450 * seconds)) * seconds
    # The cube of a wandering curve is quiet most of the time and crackles now and then.
    activity = np.clip(0.7 + wander(rng, samples, 6.0), 0.1, 3) ** 2
    strengths = rng.lognormal(0.0, 0.8, len(times_s)) * rng.choice([-1.0, 1.0], len(times_s))
    strengths *= activity[(times_s * SAMPLE_RATE).astype(int)]
    modes = [
        (rng.uniform(1500, 2300), 0.0008, 1.0),
        (rng.uniform(3000, 4500), 0.0006, 1.0),
        (6000.0, 0.0004, 0.8),
    ]
    return strikes(times_s, strengths, samples, modes)


def imbalance(rng: np.random.Generator, cycles: Array, machine: Array) -> Array:
    """Fan, additive: the machine's own sound pumped once a revolution, and a tone at that rate.

    Half the power is the modulation (`machine` times a cosine of the shaft angle), half the tone
    with weaker second and third harmonics.
    """
    angle = cycles + rng.random()
    tone = harmonics(angle, (1.0, 0.35, 0.15), rng.random(3).tolist())
    return unit(np.cos(2 * np.pi * angle) * machine) + unit(tone)
