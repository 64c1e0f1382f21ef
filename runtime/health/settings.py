"""Thresholds and hold times of every health state. docs/reference/health.md explains the defaults.

Levels are dBFS: 20 log10 of an RMS or a sample value, full scale being 1.0. Shares are of samples, times
are seconds of sound. Every state begins at its `on` figure, held for `on_seconds`, and ends at its `off`
figure, held for `off_seconds`.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from edgeasd.runtime.errors import InputError, accept_old_keys, printable
from edgeasd.runtime.features.logmel import Amplitude

STATES = (
    "digital_silence",
    "silence",
    "clipping",
    "dc_offset",
    "stuck",
    "dropouts",
    "level_low",
    "level_high",
)
FLOOR_DBFS = -120.0
"""The level shown for silence; 16-bit sound ends at about -98."""

_Dbfs = Annotated[float, Field(ge=FLOOR_DBFS, le=0.0, allow_inf_nan=False)]
_Measured = Annotated[float, Field(ge=FLOOR_DBFS, le=20.0, allow_inf_nan=False)]
"""Clips may have been scaled beyond full scale."""
_Seconds = Annotated[float, Field(ge=0.0, le=3600.0, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


def _require(settings: Any, holds: bool, rule: str) -> Any:
    if not holds:
        raise ValueError(f"{rule} does not hold")
    return settings


_LEVEL_KEYS = {"heard_low_dbfs": "measured_low_dbfs", "heard_high_dbfs": "measured_high_dbfs"}
"""Key in the manifest to attribute."""


class LevelRange(BaseModel):
    """The expected levels of a machine in dBFS: RMS over 10 s without the offset.

    Stored in the manifest as `level` if measured where the machine runs.
    """

    model_config = ConfigDict(frozen=True, extra="allow", defer_build=True)

    low_dbfs: _Dbfs
    high_dbfs: _Dbfs
    found_by: Annotated[str, Field(max_length=500)] = "set by hand"
    measured_low_dbfs: _Measured | None = None
    measured_high_dbfs: _Measured | None = None
    """The measured levels without the margin; None if the range was not measured."""

    @model_validator(mode="before")
    @classmethod
    def _from_file(cls, value: Any) -> Any:
        return accept_old_keys(value, _LEVEL_KEYS)

    @model_validator(mode="after")
    def _ordered(self) -> LevelRange:
        if not self.low_dbfs < self.high_dbfs:
            raise ValueError(f"low_dbfs {self.low_dbfs} < high_dbfs {self.high_dbfs} does not hold")
        return self

    @model_serializer(mode="wrap")
    def _as_found(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """With the manifest's keys, and without those of a range that was not measured, as an older edgeasd reads it."""
        keys = {new: old for old, new in _LEVEL_KEYS.items()}
        values = dump(self)
        return {keys.get(name, name): value for name, value in values.items() if name not in keys or value is not None}

    @property
    def measured(self) -> bool:
        """Whether the range was measured on clips."""
        return self.measured_low_dbfs is not None and self.measured_high_dbfs is not None


class StateSettings(_Settings):
    """Settings that every state has."""

    enabled: bool = True
    on_seconds: _Seconds
    off_seconds: _Seconds


class DigitalSilence(StateSettings):
    """Every sample is exactly 0."""

    on_seconds: _Seconds = 1.0
    off_seconds: _Seconds = 1.0


class Silence(StateSettings):
    """Level of a window without its offset. A window of equal samples is not silence."""

    on_dbfs: _Dbfs = -80.0
    """Begins below this level."""
    off_dbfs: _Dbfs = -74.0
    """Ends above this level."""
    on_seconds: _Seconds = 10.0
    off_seconds: _Seconds = 2.0

    @model_validator(mode="after")
    def _ordered(self) -> Silence:
        return _require(self, self.on_dbfs <= self.off_dbfs, "on_dbfs <= off_dbfs")


class Clipping(StateSettings):
    """Share of the samples of 10 s that lie at `full_scale` or beyond."""

    full_scale: Annotated[float, Field(gt=0.0, le=1.0)] = 0.9999
    """A sample of this size or more counts as clipped."""
    on_share: _Share = 1e-3
    """Begins at this share of clipped samples."""
    off_share: _Share = 1e-4
    """Ends below this share."""
    on_seconds: _Seconds = 0.0
    off_seconds: _Seconds = 10.0

    @model_validator(mode="after")
    def _ordered(self) -> Clipping:
        return _require(self, self.on_share > 0 and self.off_share <= self.on_share, "0 < on_share >= off_share")


class DcOffset(StateSettings):
    """Size of the mean of 10 s."""

    on_dbfs: _Dbfs = -26.0
    """Begins above this size of the mean."""
    off_dbfs: _Dbfs = -32.0
    """Ends below this size."""
    on_seconds: _Seconds = 10.0
    off_seconds: _Seconds = 10.0

    @model_validator(mode="after")
    def _ordered(self) -> DcOffset:
        return _require(self, self.off_dbfs <= self.on_dbfs, "off_dbfs <= on_dbfs")


class Stuck(StateSettings):
    """One value other than 0 all the time, or one block of up to half a second again and again."""

    on_seconds: _Seconds = 2.0
    off_seconds: _Seconds = 2.0


class Dropouts(StateSettings):
    """Holes in the sound within 60 s: runs of exact zeros with a sharp edge, and gaps that the source reports."""

    shortest_seconds: Annotated[float, Field(gt=0.0, le=1.0)] = 0.002
    """A shorter run of zeros is no hole."""
    longest_seconds: Annotated[float, Field(gt=0.0, le=60.0)] = 1.0
    """A longer run of zeros is digital silence."""
    edge_dbfs: _Dbfs = -66.0
    """A hole begins and ends beside a sample of this size or more."""
    on_count: Annotated[int, Field(ge=1, le=100_000)] = 3
    """Begins at so many holes."""
    off_count: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Ends at so many holes."""
    on_seconds: _Seconds = 0.0
    off_seconds: _Seconds = 0.0

    @model_validator(mode="after")
    def _ordered(self) -> Dropouts:
        _require(self, self.off_count < self.on_count, "off_count < on_count")
        return _require(self, self.shortest_seconds <= self.longest_seconds, "shortest_seconds <= longest_seconds")


class Level(StateSettings):
    """Level of 10 s (offset removed) beside the range at which the machine is expected.

    Without `low_dbfs` and `high_dbfs` the range is the manifest's `level`, or else the level of the
    training clips plus and minus `margin_db`.
    """

    low_dbfs: _Dbfs | None = None
    """level_low begins below this level."""
    high_dbfs: _Dbfs | None = None
    """level_high begins above this level."""
    margin_db: Annotated[float, Field(gt=0.0, le=FLOOR_DBFS * -1)] = 20.0
    """Room around a measured or training level."""
    hysteresis_db: Annotated[float, Field(ge=0.0, le=40.0)] = 3.0
    """The state ends this far inside the range."""
    on_seconds: _Seconds = 10.0
    off_seconds: _Seconds = 5.0

    @model_validator(mode="after")
    def _ordered(self) -> Level:
        if self.low_dbfs is not None and self.high_dbfs is not None:
            return _require(self, self.low_dbfs < self.high_dbfs, "low_dbfs < high_dbfs")
        return self


class HealthSettings(_Settings):
    """The health states, each a table of its own."""

    digital_silence: DigitalSilence = DigitalSilence()
    silence: Silence = Silence()
    clipping: Clipping = Clipping()
    dc_offset: DcOffset = DcOffset()
    stuck: Stuck = Stuck()
    dropouts: Dropouts = Dropouts()
    level: Level = Level()
    unhealthy: Annotated[tuple[str, ...], Field(strict=False)] = STATES
    """The states that make the input unhealthy, so that it raises no alarm; all of them by default."""

    @model_validator(mode="before")
    @classmethod
    def _old_names(cls, value: Any) -> Any:
        return accept_old_keys(value, {"sick": "unhealthy"})

    @model_validator(mode="after")
    def _known(self) -> HealthSettings:
        for name in self.unhealthy:
            if name not in STATES:
                raise ValueError(f"unhealthy: {name!r} is not a health state; use {', '.join(STATES)}")
        return self

    @classmethod
    def parse(cls, value: Any, place: str) -> HealthSettings:
        """From plain data, as a configuration file holds it. Raises InputError with one line that names `place`."""
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "health"
            given = "" if isinstance(first["input"], dict) else f" {str(first['input'])[:80]!r}"
            what = printable(f"{where}{given}: {first['msg']}", 300)
            raise InputError(f"{place}: {what}; correct this health setting") from None


def training_level_dbfs(amplitude: Amplitude) -> float | None:
    """Level of the training clips: the scale of the manifest's amplitude; None if it is 1.

    The scale is the standard deviation over all clips of the machine type, so their RMS without the offset.
    """
    return None if amplitude.std == 1.0 else max(FLOOR_DBFS, 20.0 * math.log10(amplitude.std))


def level_range(settings: HealthSettings, amplitude: Amplitude, measured: LevelRange | None) -> LevelRange | None:
    """The range in force: from the settings, else the measured one, else around the training level; None if unknown.

    An end missing in the settings comes from the other two. A margin in the settings replaces that of the measured
    range.
    """
    given, found = settings.level, measured
    if found is not None and found.measured and "margin_db" in given.model_fields_set:
        assert found.measured_low_dbfs is not None
        assert found.measured_high_dbfs is not None
        high, margin = min(0.0, found.measured_high_dbfs + given.margin_db), given.margin_db
        low = max(FLOOR_DBFS, min(found.measured_low_dbfs, high) - margin)
        found = LevelRange(low_dbfs=low, high_dbfs=high, found_by=f"the measured level ± {margin:g} dB")
    if found is None and (centre := training_level_dbfs(amplitude)) is not None:
        margin = given.margin_db
        # Training clips may have been scaled beyond full scale; a device cannot be.
        high = min(0.0, centre + margin)
        low = max(FLOOR_DBFS, min(centre - margin, high - margin))
        found = LevelRange(
            low_dbfs=low, high_dbfs=high, found_by=f"the training level {centre:.1f} dBFS ± {margin:g} dB"
        )
    if given.low_dbfs is None and given.high_dbfs is None:
        return found
    low = given.low_dbfs if given.low_dbfs is not None else (found.low_dbfs if found else FLOOR_DBFS)
    high = given.high_dbfs if given.high_dbfs is not None else (found.high_dbfs if found else 0.0)
    if low >= high:
        raise InputError(f"level: low_dbfs {low:g} is not below high_dbfs {high:g}; give both ends")
    return LevelRange(low_dbfs=low, high_dbfs=high, found_by="the settings")
