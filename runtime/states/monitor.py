"""From sound to the operating state of its machine: level and spectrum of each window, the tag, and the state machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgeasd.runtime.features.logmel import Amplitude, FeatureSettings, Float32Array
from edgeasd.runtime.health.monitor import SPAN_WINDOWS, WINDOW_SECONDS
from edgeasd.runtime.states.machine import LEVEL, OperatingState, StateInput, StateMachine
from edgeasd.runtime.states.settings import OFF, OperationSettings
from edgeasd.runtime.states.sound import (
    Beside,
    GainWatch,
    ModeProfile,
    SoundProfile,
    SpectrumMeter,
    band_centres,
    beside,
)

QUIET_STATES = frozenset({"digital_silence", "silence", "level_low"})
"""Health states that a machine that is off explains."""
SILENT_STATES = frozenset({"digital_silence", "silence"})
FOLLOWED_DB = 12.0
"""A change of gain is undone up to this."""
_FOLLOW_SECONDS = 30.0
"""Time constant with which a gain is followed."""
_WINDOWS_A_SECOND = round(1.0 / WINDOW_SECONDS)


@dataclass(frozen=True, slots=True)
class Tag:
    """What the plant says of the state."""

    state: str
    origin: str
    """Where it came from, for people: a topic, or who gave the command."""
    at: float
    """When it came, monotonic seconds."""


class OperationMonitor:
    """The operating state of one stream. `set_tag` may be called by any thread, all else by that of the sound."""

    def __init__(
        self,
        settings: OperationSettings,
        features: FeatureSettings,
        amplitude: Amplitude,
        sound: SoundProfile | None = None,
        modes: Mapping[str, ModeProfile] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`sound` and `modes` are those of the manifest. A profile of another number of bands is left out."""
        self.settings = settings
        self.sound = sound if sound is not None and len(sound.mean_db) == features.n_mels else None
        recorded = modes or {}
        self.modes = {name: mode for name, mode in recorded.items() if len(mode.sound.mean_db) == features.n_mels}
        self._machine = StateMachine(settings, off_below(settings, self.sound, self.modes), self.modes)
        profiled = self.sound is not None or bool(self.modes)
        self._meter = SpectrumMeter(features, amplitude, SPAN_WINDOWS) if profiled else None
        self._gain = GainWatch(settings.gain_db, band_centres(features)) if profiled else None
        self._clock, self._windows = clock, 0
        self._tag: Tag | None = None
        self._beside: Beside | None = None
        self._level: float | None = None
        self._recent: float | None = None
        self._silent_since: float | None = None
        self._moment = 0.0
        self.factor = 1.0
        """What samples are multiplied by before features are computed: another gain is undone with `gain = follow`."""

    @property
    def is_active(self) -> bool:
        """Whether anything tells a state; otherwise nothing is said of one."""
        machine, settings = self._machine, self.settings
        tells = machine.off_below_dbfs is not None and settings.level
        idle = settings.idle_below_dbfs is not None
        return bool(tells or idle or self.modes or settings.schedule or settings.tag_topic or self._tag)

    @property
    def off_below_dbfs(self) -> float | None:
        """The level below which the machine is off; None if no level tells it."""
        return self._machine.off_below_dbfs if self.settings.level else None

    def describe(self) -> str | None:
        """How the state is known, in one line for people; None if nothing tells it."""
        if not self.is_active:
            return None
        settings, limit = self.settings, self.off_below_dbfs
        parts = [f"tag {settings.tag_topic}"] if settings.tag_topic is not None else []
        parts += [f"off outside of {', '.join(settings.schedule)}"] if settings.schedule else []
        parts += [f"off below {limit:g} dBFS"] if limit is not None else []
        parts += [f"idle below {settings.idle_below_dbfs:g} dBFS"] if settings.idle_below_dbfs is not None else []
        parts += [f"modes {', '.join(self.modes)}{'' if settings.sound else ' by tag'}"] if self.modes else []
        parts += ["another gain is followed"] if settings.gain == "follow" and self._gain is not None else []
        return "; ".join(parts) or None

    @property
    def state(self) -> OperatingState:
        """The present state."""
        return self._machine.present

    @property
    def seconds(self) -> dict[str, float]:
        """How long the machine was in each state since the start."""
        return dict(self._machine.seconds)

    @property
    def gain(self) -> str | None:
        """What has moved beside the recordings, in words: the gain, or the microphone; None if nothing has."""
        return None if self._gain is None or self.settings.gain == "ignore" else self._gain.text

    @property
    def tag(self) -> Tag | None:
        """The last tag."""
        return self._tag

    def set_tag(self, state: str, origin: str) -> None:
        """Take a state that the plant, or a person, gives. See `OperationSettings.tag_values`."""
        self._tag = Tag(state, origin, self._clock())

    def continue_from(self, earlier: OperationMonitor) -> None:
        """Take over the tag, and for how long the machine was in each state."""
        self._tag = earlier._tag
        self._machine.seconds.update(earlier._machine.seconds)

    @property
    def excused(self) -> frozenset[str]:
        """Health states that do not make the input unhealthy now, as the machine is off, stops or starts."""
        state = self.state
        if not (state.is_inactive or state.is_stopping or state.is_starting):
            return frozenset()
        if state.state == OFF and state.source == LEVEL and self._has_been_silent_too_long:
            return frozenset({"level_low"})
        return QUIET_STATES

    @property
    def _has_been_silent_too_long(self) -> bool:
        since = self._silent_since
        return since is not None and (self._moment - since) > 3600.0 * self.settings.silent_hours

    def doubt(self, health: tuple[str, ...]) -> str | None:
        """What speaks against a machine that is off: no sound at all, or that it was never heard since the start."""
        if self.state.state != OFF:
            return None
        if SILENT_STATES.intersection(health):
            return "off, and there is no sound at all: is the microphone alive?"
        if self.state.source == LEVEL and set(self._machine.seconds) <= {OFF}:
            return (
                f"off since the start, by a level below {self.off_below_dbfs:g} dBFS: if it runs, set off_below_dbfs "
                "or calibrate with clips of this microphone"
            )
        return None

    def window(
        self, samples: Float32Array, moment: float, wall: float, level: float | None, recent: float | None, silent: bool
    ) -> OperatingState:
        """Take in a health window (n,) float32 with the levels after it, in dBFS.

        `moment` is seconds of a clock that does not run backwards, `wall` seconds since 1970; `silent` says whether
        there is no sound at all.
        """
        self._level, self._recent, self._moment = level, recent, moment
        self._silent_since = (moment if self._silent_since is None else self._silent_since) if silent else None
        spectrum = None
        if self._meter is not None:
            self._meter.push(samples)
            self._windows += 1
            # Once a second is often enough for what takes 10 s to change.
            if self._windows % _WINDOWS_A_SECOND == 0 and (spectrum := self._meter.spectrum) is not None:
                self._beside = beside(spectrum, self.sound, self.modes)
        before = self.state
        present = self.pass_time(moment, wall)
        if self._gain is not None and spectrum is not None:
            runs = present.is_judged or present.is_starting
            if present.state != before.state or not runs or present.is_stopping:
                self._gain.reset()
            elif (reference := self._reference(present)) is not None and level is not None:
                self._gain.add(spectrum, level, reference)
                self._follow()
        return present

    def pass_time(self, moment: float, wall: float) -> OperatingState:
        """Let time pass without sound; see `window`."""
        tag, found = self._tag, self._beside
        gain = 0.0 if self._gain is None or self._gain.gain_db is None else self._gain.gain_db
        return self._machine.step(
            StateInput(
                moment,
                wall,
                level_dbfs=self._level,
                recent_dbfs=self._recent,
                fits=None if found is None else found.fits,
                mode=None if found is None else found.mode,
                gain_db=gain,
                tag=None if tag is None else tag.state,
                tag_age=0.0 if tag is None else max(0.0, self._clock() - tag.at),
            )
        )

    def gap(self) -> None:
        """Sound was lost: no spectrum spans it."""
        if self._meter is not None:
            self._meter.reset()
            self._windows, self._beside = 0, None
        if self._gain is not None:
            self._gain.reset()

    def _reference(self, present: OperatingState) -> SoundProfile | None:
        if present.mode is not None:
            return self.modes[present.mode].sound
        if self.modes and self._beside is not None and self._beside.mode is not None:
            return self.modes[self._beside.mode].sound
        return self.sound

    def _follow(self) -> None:
        assert self._gain is not None
        if self.settings.gain != "follow" or (self._gain.gain_db is None and self.factor == 1.0):
            return
        offset = self._gain.offset_db if self._gain.gain_db is not None else 0.0
        wanted = -max(-FOLLOWED_DB, min(FOLLOWED_DB, offset or 0.0))
        wanted_factor = 10.0 ** (wanted / 20.0)
        self.factor *= (wanted_factor / self.factor) ** (1.0 / _FOLLOW_SECONDS)


def off_below(
    settings: OperationSettings, sound: SoundProfile | None, modes: Mapping[str, ModeProfile]
) -> float | None:
    """The level below which the machine is off: as set, else below the quietest recordings; None if neither is known."""
    if settings.off_below_dbfs is not None:
        return settings.off_below_dbfs
    lows = [mode.sound.level_dbfs[0] for mode in modes.values()]
    lows += [] if sound is None else [sound.level_dbfs[0]]
    return max(-120.0, round(min(lows) - settings.off_margin_db, 1)) if lows else None
