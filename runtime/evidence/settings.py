"""Settings of evidence: how long clips are, and how long they are kept. docs/how-to/events.md explains the defaults."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgeasd.runtime.errors import InputError, printable

MEGABYTE = 1_000_000
DAY = 86_400.0

_Seconds = Annotated[float, Field(ge=0.0, le=600.0, allow_inf_nan=False)]
_Megabytes = Annotated[float, Field(gt=0.0, le=1e9, allow_inf_nan=False)]
_Settings = TypeVar("_Settings", bound="_Strict")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    @classmethod
    def parse(cls: type[_Settings], value: Any, place: str) -> _Settings:
        """From plain data, as a configuration file holds it. Raises InputError with one line that names `place`."""
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "evidence"
            given = "" if isinstance(first["input"], dict) else f" {str(first['input'])[:80]!r}"
            what = printable(f"{where}{given}: {first['msg']}", 300)
            raise InputError(f"{place}: {what}; correct this evidence setting") from None


class ClipSettings(_Strict):
    """The clip of one event, for each stream."""

    enabled: bool = True
    """Whether events of this stream are recorded."""
    pre_seconds: _Seconds = 30.0
    """Sound before the alarm was raised."""
    post_seconds: _Seconds = 10.0
    """Sound after the event was cleared."""
    longest_seconds: Annotated[float, Field(ge=1.0, le=600.0, allow_inf_nan=False)] = 120.0
    """A clip ends here even if the event is still open."""
    bits: Literal[16, 24] = 16
    """Bits of a sample in the clip."""

    @model_validator(mode="after")
    def _fits(self) -> ClipSettings:
        if self.pre_seconds + self.post_seconds > self.longest_seconds:
            raise ValueError("pre_seconds + post_seconds <= longest_seconds does not hold")
        return self


class KeepSettings(_Strict):
    """How much evidence stays on the disk, for all streams together. Evidence of open events always stays."""

    max_age_days: Annotated[float, Field(gt=0.0, le=36_600.0, allow_inf_nan=False)] = 90.0
    """Evidence that is older is deleted."""
    max_megabytes: _Megabytes = 2000.0
    """Of all evidence; a megabyte is 1,000,000 bytes."""
    min_free_megabytes: _Megabytes = 500.0
    """Free room on the disk that evidence never uses."""
    fewest: Annotated[int, Field(ge=0, le=100_000)] = 20
    """The newest so many are never deleted by age, so that a wrong clock cannot delete all."""

    @property
    def max_bytes(self) -> int:
        """`max_megabytes` in bytes."""
        return round(MEGABYTE * self.max_megabytes)

    @property
    def min_free_bytes(self) -> int:
        """`min_free_megabytes` in bytes."""
        return round(MEGABYTE * self.min_free_megabytes)
