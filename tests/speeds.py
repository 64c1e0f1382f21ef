"""A synthetic pump with three speeds, its hall, and a stream that listens to both: for tests of operating states."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from edgeasd.runtime.alarms import SERVICE, AlarmSettings, Transition
from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.bundle.manifest import Manifest
from edgeasd.runtime.config.settings import StreamSettings
from edgeasd.runtime.scoring.scorer import Scorer
from edgeasd.runtime.scoring.stream import score_streams
from edgeasd.runtime.service.monitored import MonitoredMachine
from edgeasd.runtime.service.stream import StreamWorker
from edgeasd.runtime.sources import AudioChunk, SourceEvent, SourceState, SourceStatus
from edgeasd.toolkit.demo import faults
from edgeasd.toolkit.demo.machines import Pump

RATE = 16_000
SPEEDS = {"slow": (0.75, -3.0), "middle": (1.0, 0.0), "fast": (1.3, 2.0)}
"""Share of the speed, and level in dB."""
LEVEL_DBFS = -34.0
HALL_DB = -12.0
"""The hall below the machine at its middle speed, while it runs and while it is off."""
CLIPS = 30
Sound = npt.NDArray[np.float32]


@functools.cache
def running(speed: str, seed: int, seconds: float = 60.0, fault: str | None = None) -> Sound:
    """The pump in its hall at one speed, float32 (seconds x 16000,); `fault` is bearing or cavitation."""
    share, level_db = SPEEDS[speed]
    samples = round(seconds * RATE)
    pump = Pump(np.random.default_rng(7))
    pump.shaft_hz *= share
    pump.flow_hz = (pump.flow_hz[0] * share, pump.flow_hz[1] * share)
    rng = np.random.default_rng([seed, *speed.encode()])
    cycles = pump.shaft(rng, samples)
    machine = faults.unit(pump.sound(rng, cycles)) * 10 ** (level_db / 20)
    if fault is not None:
        broken = (
            faults.bearing(rng, cycles, pump.bearing_order, pump.bearing_hz)
            if fault == "bearing"
            else faults.cavitation(rng, samples)
        )
        machine = machine + faults.unit(broken) * 10 ** ((level_db - 3.0) / 20)
    gain = 10 ** (rng.uniform(-0.5, 0.5) / 20)
    return np.asarray((machine * gain + _hall(rng, samples)) * 10 ** (LEVEL_DBFS / 20), np.float32)


@functools.cache
def hall(seed: int, seconds: float = 60.0, below_db: float = -HALL_DB) -> Sound:
    """The hall alone, so far below the machine."""
    rng = np.random.default_rng([seed, 9])
    scale = 10 ** ((LEVEL_DBFS - below_db - HALL_DB) / 20)
    return np.asarray(_hall(rng, round(seconds * RATE)) * scale, np.float32)


def _hall(rng: np.random.Generator, samples: int) -> Sound:
    return np.asarray(faults.unit(faults.factory_hall(rng, samples)) * 10 ** (HALL_DB / 20), np.float32)


def write_recordings(
    root: Path, *, clips: int = CLIPS, speeds: tuple[str, ...] = tuple(SPEEDS), first: int = 1000
) -> Path:
    """Normal clips of 10 s of each speed, as `edgeasd record --mode` names them; returns their folder."""
    folder = root / "pump" / "00" / "normal"
    folder.mkdir(parents=True)
    for speed in speeds:
        for index in range(clips):
            sound = running(speed, first + index, 10.0)
            soundfile.write(folder / f"clip_{speed}_{index:06d}.flac", sound, RATE, subtype="PCM_16")
    return folder


class LiveSound:
    """A source that is live: its sound is given to the worker by the test."""

    name, live, sample_rate = "line in", True, RATE

    def __init__(self) -> None:
        self.status = SourceStatus(SourceState.OPEN)

    def read(self) -> AudioChunk | None:
        return None

    def take_events(self) -> list[SourceEvent]:
        return []

    def close(self) -> None:
        pass


@dataclass
class Listener:
    """A stream and its alarm machine on a clock that goes with the sound."""

    scorer: Scorer
    manifest: Manifest
    states: dict[str, Any] = field(default_factory=dict)
    alarm: AlarmSettings = SERVICE

    def __post_init__(self) -> None:
        self.now = 1_000_000.0
        self.position = 0
        settings = StreamSettings(bundle="-", device="hw:1", alarm=self.alarm, states=self.states)
        self.worker = StreamWorker("a", settings, self.manifest, LiveSound(), clock=lambda: self.now)
        self.worker.replace_bundle(settings, self.manifest, self.scorer)
        self.machine = MonitoredMachine("a", self.manifest, settings.alarm, clock=lambda: self.now)
        self.transitions: list[tuple[float, Transition]] = []
        self.unhealthy: list[float] = []
        """When an update said that the input is unhealthy."""
        self.remarks: list[tuple[float, str]] = []
        """When a remark about the sound came up."""
        self.marks: list[str | None] = []

    @property
    def seconds(self) -> float:
        """Sound so far."""
        return self.position / RATE

    def hear(self, sound: Sound) -> list[Transition]:
        """Play samples in chunks of 2 s; returns the transitions that they cause."""
        before = len(self.transitions)
        for start in range(0, sound.size, 2 * RATE):
            part = sound[start : start + 2 * RATE]
            captured, self.now = self.now, self.now + part.size / RATE
            self.worker.accept(AudioChunk(part, self.position, captured_at=captured))
            self.position += part.size
            assert self.worker.stream is not None
            self.worker.finish(score_streams([self.worker.stream])[0])
            for update in self.worker.take_updates():
                self.transitions += [(self.seconds, one) for one in self.machine.update(update)]
                if update.is_unhealthy:
                    self.unhealthy.append(self.seconds)
                if update.clip_score is not None:
                    self.marks.append(self.machine.mark)
                if update.remark is not None and (not self.remarks or self.remarks[-1][1] != update.remark):
                    self.remarks.append((self.seconds, update.remark))
        return [one for _, one in self.transitions[before:]]

    @property
    def alarms(self) -> list[float]:
        """When alarms were raised, in seconds of sound."""
        return [at for at, one in self.transitions if one.state == "alarm" != one.previous]

    @property
    def state(self) -> str | None:
        """What the machine is doing."""
        return self.worker.operation.state.state


def open_bundle(path: Path) -> Iterator[tuple[Scorer, Manifest]]:
    """The scorer and manifest of a bundle folder."""
    with Bundle(path) as bundle:
        scorer, _ = bundle.open_scorer(threads=1)
        yield scorer, bundle.manifest
        scorer.close()
