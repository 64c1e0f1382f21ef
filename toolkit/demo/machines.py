"""Synthetic machines for `edgeasd demo`: a valve, a pump and a fan, four of each, healthy or faulty.

No recording is involved. Each machine ID has its own physical constants, drawn once from a generator
seeded with its name; each clip varies speed, phase, noise and gain around them. A clip is
`gain x (machine + background + fault)`, with the background `MACHINE_TO_BACKGROUND_DB` below the machine.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.demo import faults
from edgeasd.toolkit.demo.faults import FAULTS as FAULTS
from edgeasd.toolkit.demo.faults import SAMPLE_RATE, Actuations, Array, Fault, Modes, Sound

KINDS: tuple[str, ...] = ("valve", "pump", "fan")
IDS: tuple[str, ...] = ("00", "02", "04", "06")
MACHINE_TO_BACKGROUND_DB = 6.0
DEFAULT_FAULT_SNR_DB = -6.0
CLIP_GAIN_DB = 4.0
"""Each clip is this much louder or quieter at most, so that loudness says little about health."""

_RUN, _SOUND, _BACKGROUND, _FAULT = range(4)


class Valve:
    """A solenoid valve: a damped metallic blow at each opening and closing, air hissing in between."""

    def __init__(self, rng: np.random.Generator) -> None:
        between = rng.uniform
        self.period_s = between(0.55, 1.3)
        self.open_share = between(0.3, 0.55)
        self.jitter = between(0.02, 0.05)
        base = between(500, 1100)
        self.modes: Modes = [
            (base, between(0.008, 0.02), 1.0),
            (base * between(2.1, 2.9), between(0.005, 0.012), between(0.4, 1.0)),
            (base * between(4.2, 5.8), between(0.003, 0.008), between(0.2, 0.8)),
        ]
        self.closing = between(0.4, 0.9)
        self.hiss_hz = (between(700, 1800), between(2600, 5500))
        self.hiss = between(0.35, 0.7)

    def actuations(self, rng: np.random.Generator, seconds: float) -> Actuations:
        """Openings and closings that cover the clip and reach a little beyond both ends."""
        period = self.period_s * rng.uniform(0.97, 1.03)
        gaps = period * (1 + self.jitter * np.clip(rng.standard_normal(int(seconds / period) + 5), -3, 3))
        opens = np.cumsum(gaps) - gaps[0] - period * (1 + rng.random())
        closes = opens + self.open_share * period * rng.uniform(0.95, 1.05, len(opens))
        return Actuations(opens, closes, rng.lognormal(0.0, 0.15, len(opens)))

    def sound(self, rng: np.random.Generator, moves: Actuations, samples: int, stuck: float = 0.0) -> Sound:
        """Sound (samples,) of the given movements; `stuck` in [0, 1] dulls blows and slows the air."""
        drift = rng.uniform(0.98, 1.02) * (1 - 0.3 * stuck)
        modes = [
            (hz * drift, decay, level * (1 - 0.8 * stuck) ** order)
            for order, (hz, decay, level) in enumerate(self.modes)
        ]
        thud = [(0.8 * hz, 0.7 * decay, level * 0.8**order) for order, (hz, decay, level) in enumerate(modes)]
        attack, release = 0.008 + 0.05 * stuck, 0.03
        corners = np.stack([moves.opens, moves.opens + attack, moves.closes, moves.closes + release], axis=1)
        flow = np.tile([0.0, 1.0, 1.0, 0.0], len(moves.opens))
        gate = np.interp(np.arange(samples) / SAMPLE_RATE, corners.ravel(), flow).astype(np.float32)
        hiss = faults.coloured_noise(rng, samples, faults.band(*self.hiss_hz)) * gate
        blows = faults.strikes(moves.opens, moves.strengths, samples, modes)
        blows += faults.strikes(moves.closes, self.closing * moves.strengths, samples, thud)
        # One blow a period carries little power; 4 puts it well above the hiss it starts.
        return 4 * blows + self.hiss * hiss


class Pump:
    """A motor pump: mains and shaft hum, a tone of the passing vanes, the rush of the flow."""

    def __init__(self, rng: np.random.Generator) -> None:
        between = rng.uniform
        self.shaft_hz = between(23.5, 29.0)
        self.vanes = int(rng.integers(5, 10))
        self.mains_levels = (np.array([0.3, 1.0, 0.2, 0.5, 0.1, 0.25]) * rng.uniform(0.4, 1.4, 6)).tolist()
        self.shaft_levels = (rng.uniform(0.2, 1.0, 5) / np.arange(1, 6)).tolist()
        self.vane_levels = (rng.uniform(0.3, 1.0, 6) * 0.7 ** np.arange(6)).tolist()
        self.flow_hz = (between(200, 600), between(1200, 3200))
        self.flow = between(0.6, 1.1)
        self.surge_hz = between(0.5, 1.5)
        self.surge = between(0.15, 0.35)
        self.bearing_order = between(3.1, 5.4)
        self.bearing_hz = between(2600, 4200)

    def shaft(self, rng: np.random.Generator, samples: int) -> Array:
        """Revolutions turned at each sample."""
        return faults.rotation(rng, samples, self.shaft_hz * rng.uniform(0.985, 1.015), 0.003)

    def sound(self, rng: np.random.Generator, cycles: Array) -> Sound:
        """Sound (samples,) for the given revolutions."""
        samples = len(cycles)
        mains = rng.random() + 50.0 / SAMPLE_RATE * np.arange(samples)
        hum = faults.harmonics(mains, self.mains_levels, rng.random(6).tolist())
        hum += faults.harmonics(cycles, self.shaft_levels, rng.random(5).tolist())
        vane = faults.harmonics(self.vanes * cycles, self.vane_levels, rng.random(6).tolist())
        surge = 1 + self.surge * np.clip(faults.wander(rng, samples, self.surge_hz), -2.5, 2.5)
        flow = faults.coloured_noise(rng, samples, faults.band(*self.flow_hz, steepness=1.5)) * surge
        return 0.7 * hum * rng.uniform(0.85, 1.15) + vane * rng.uniform(0.8, 1.2) + self.flow * flow


class Fan:
    """A fan: blade-pass tones and harmonics over turbulence, at a speed that never quite settles."""

    def __init__(self, rng: np.random.Generator) -> None:
        between = rng.uniform
        self.shaft_hz = between(42, 56)
        self.blades = int(rng.integers(5, 10))
        self.wobble = between(0.004, 0.01)
        self.blade_levels = (rng.uniform(0.4, 1.0, 8) * between(0.6, 0.8) ** np.arange(8)).tolist()
        self.tilt = between(0.5, 0.9)
        self.duct_hz = between(900, 2600)
        self.duct = between(0.8, 2.5)
        self.turbulence = between(0.7, 1.2)

    def shaft(self, rng: np.random.Generator, samples: int) -> Array:
        """Revolutions turned at each sample."""
        return faults.rotation(rng, samples, self.shaft_hz * rng.uniform(0.975, 1.025), self.wobble)

    def sound(self, rng: np.random.Generator, cycles: Array, blocked: float = 0.0) -> Sound:
        """Sound (samples,) for the given revolutions; `blocked` in [0, 1] starves the blades.

        At 1 the blade-pass tones have lost 80 % of their amplitude, the speed is 6 % up and stalled
        air below about 400 Hz is as strong as the turbulence.
        """
        samples = len(cycles)

        def turbulence_gain(hz: Array) -> Array:
            duct = 1 + self.duct * np.exp(-np.square(np.log2(np.maximum(hz, 1) / self.duct_hz) / 0.35))
            return duct * np.maximum(hz, 60.0) ** -self.tilt

        blade_cycles = self.blades * (1 + 0.06 * blocked) * cycles
        tones = faults.harmonics(blade_cycles, self.blade_levels, rng.random(8).tolist())
        tones *= rng.uniform(0.8, 1.2) * (1 - 0.8 * blocked)
        air = faults.coloured_noise(rng, samples, turbulence_gain)
        stall = faults.coloured_noise(rng, samples, faults.band(60, 400, 2.0)) if blocked else 0.0
        return tones + self.turbulence * (air + blocked * stall)


def _generator(kind: str, machine_id: str, *numbers: int) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(f"{kind} {machine_id}".encode()), *numbers])


@dataclass(frozen=True)
class Clip:
    """A clip taken apart, float32 (n,) each, at the level they have in it: their sum is the clip."""

    machine: Sound
    background: Sound
    fault: Sound

    @property
    def fault_db(self) -> float:
        """RMS of the fault's part relative to machine and background together, in dB; -inf without one."""
        with np.errstate(divide="ignore"):
            return float(20 * np.log10(faults.rms(self.fault) / faults.rms(self.machine + self.background)))


def _sounds(kind: str, machine_id: str, samples: int, seed: int, fault: Fault | None) -> tuple[Sound, Sound]:
    """The healthy machine, and what the fault adds to or changes in it, both at the machine's own scale."""

    def generator(stream: int) -> np.random.Generator:
        return _generator(kind, machine_id, 1, seed, stream)

    constants, broken = _generator(kind, machine_id, 0), generator(_FAULT)
    name, severity = (fault.name, fault.severity) if fault else ("", 0.0)
    none = np.zeros(samples, dtype=np.float32)
    if kind == "valve":
        valve = Valve(constants)
        moves = valve.actuations(generator(_RUN), samples / SAMPLE_RATE)
        machine = valve.sound(generator(_SOUND), moves, samples)
        if name == "sticking":
            late = faults.stick(broken, moves, severity)
            return machine, valve.sound(generator(_SOUND), late, samples, stuck=severity) - machine
        return machine, faults.leak(broken, samples) if name == "leak" else none
    if kind == "pump":
        pump = Pump(constants)
        cycles = pump.shaft(generator(_RUN), samples)
        machine = pump.sound(generator(_SOUND), cycles)
        if name == "bearing":
            return machine, faults.bearing(broken, cycles, pump.bearing_order, pump.bearing_hz)
        return machine, faults.cavitation(broken, samples) if name == "cavitation" else none
    fan = Fan(constants)
    cycles = fan.shaft(generator(_RUN), samples)
    machine = fan.sound(generator(_SOUND), cycles)
    if name == "blockage":
        return machine, fan.sound(generator(_SOUND), cycles, blocked=severity) - machine
    return machine, faults.imbalance(broken, cycles, machine) if name == "imbalance" else none


def check(kind: str, machine_id: str, seconds: float, seed: int, fault: Fault | None = None) -> None:
    """Raise InputError for a clip that cannot be rendered."""
    if kind not in KINDS:
        raise InputError(f"machine kind {kind!r}: not a synthetic machine; use one of {', '.join(KINDS)}")
    if machine_id not in IDS:
        raise InputError(f"machine ID {machine_id!r}: there is no such {kind}; use one of {', '.join(IDS)}")
    if not 2 <= seconds <= 600:
        raise InputError(f"{seconds} s of synthetic {kind}: outside 2 to 600 s; give a length within it")
    if seed < 0:
        raise InputError(f"seed {seed}: seeds are not negative; give 0 or more")
    if fault is not None:
        fault.check(kind, seconds)


def compose(kind: str, machine_id: str, *, seconds: float, seed: int, fault: Fault | None = None) -> Clip:
    """The parts of the clip that `render` returns; raises InputError as `render` does."""
    check(kind, machine_id, seconds, seed, fault)
    samples = round(seconds * SAMPLE_RATE)
    machine, change = _sounds(kind, machine_id, samples, seed, fault)
    scale = 1 / faults.rms(machine)
    rng = _generator(kind, machine_id, 1, seed, _BACKGROUND)
    background = faults.factory_hall(rng, samples) * 10 ** (-MACHINE_TO_BACKGROUND_DB / 20)
    normal = machine * scale + background
    if fault is not None:
        change = fault.levelled(change * scale, normal)
    level_db = _generator(kind, machine_id, 2).uniform(-36, -33) + rng.uniform(-CLIP_GAIN_DB, CLIP_GAIN_DB)
    gain = 10 ** (level_db / 20) / faults.rms(normal)
    return Clip(machine * (scale * gain), background * gain, change * gain)


def render(
    kind: str,
    machine_id: str,
    *,
    seconds: float,
    seed: int,
    fault: str | None = None,
    fault_snr_db: float = DEFAULT_FAULT_SNR_DB,
    fault_start: float | None = None,
) -> npt.NDArray[np.float32]:
    """One clip of a synthetic machine: float32 (round(seconds x 16000),), |x| < 0.95, 16 kHz mono.

    The same arguments give the same samples; a fault joins exactly the clip that is rendered without
    it. `fault_snr_db` (-40 to 0) is the RMS of an additive fault relative to that normal clip, machine
    and background together, over the whole clip. The faults in `faults.NOT_ADDITIVE` alter the
    machine's own sound with severity 10 ** (fault_snr_db / 20), in (0, 1], as `faults.stick` and
    `Fan.sound` define it; `compose(...).fault_db` measures what that changed. With `fault_start` (in
    seconds) the fault fades in from there over a quarter of a second, at the level it would have
    had in the whole clip.

    Raises InputError for an unknown kind, ID or fault and for a number outside its range.
    """
    if fault is None and fault_start is not None:
        raise InputError(f"fault start {fault_start} s: no fault is named; name one or leave the start out")
    broken = None if fault is None else Fault(fault, fault_snr_db, fault_start)
    clip = compose(kind, machine_id, seconds=seconds, seed=seed, fault=broken)
    return faults.shoulder(clip.machine + clip.background + clip.fault)
