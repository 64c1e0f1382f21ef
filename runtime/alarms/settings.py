"""Alarm policy: thresholds, how often, how long, and what follows. Never part of a score.

Thresholds are scores. A fraction is taken of |on|, the distance of the threshold from score 0: at 0 a
sound is as near as the nearest held-out normal segment and q is 0, so this distance is the scale on
which a score has moved when it reaches the threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgeasd.runtime.errors import InputError, accept_old_keys
from edgeasd.runtime.scoring.threshold import Threshold

_Score = Annotated[float, Field(allow_inf_nan=False)]
_Fraction = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=1, le=100_000)]
_Seconds = Annotated[float, Field(ge=0.0, le=7 * 86_400.0, allow_inf_nan=False)]

OLD_KEYS = {"settle_seconds": "recovery_seconds", "gap_clears": "clear_on_gap"}
"""Names of settings in earlier versions."""


@dataclass(frozen=True, slots=True)
class Levels:
    """The thresholds and counts in force, with every default filled in."""

    on: float
    off: float
    warning: float | None
    warning_off: float | None
    k: int
    n: int
    clear_after: int


class AlarmSettings(BaseModel):
    """The policy of one machine. The defaults are the rule of its manifest and nothing else."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    on: _Score | None = None
    """An alarm needs clip scores above this; the manifest's threshold by default."""
    off: _Score | None = None
    """It ends at clip scores at or below this; `hysteresis` below `on` by default."""
    hysteresis: _Fraction = 0.0
    """Fraction of |on| by which `off` lies below `on`, and of |warning| for the warning."""
    warning: _Score | None = None
    """A warning needs clip scores above this; `warning_margin` below `on` by default."""
    warning_margin: _Fraction | None = None
    """Fraction of |on| by which the warning lies below `on`; with neither there is no warning."""
    k: _Count | None = None
    """So many of the last `n` clip scores; the manifest's `consecutive` by default."""
    n: _Count | None = None
    """`k` by default: so many in a row."""
    clear_after: _Count | None = None
    """Clip scores in a row at or below `off` that end an alarm; n − k + 1 by default."""
    min_seconds: _Seconds = 0.0
    """The condition must have held for so long before the alarm is raised."""
    cooldown_seconds: _Seconds = 0.0
    """After an alarm none is raised for so long."""
    recovery_seconds: _Seconds = 10.2
    """Scores are ignored for so long after unhealthy input, or for as long as their window reaches back if longer."""
    clear_on_gap: bool = True
    """Whether lost sound ends an open event; else only the row of scores begins afresh."""
    burn_in_hours: Annotated[float, Field(ge=0.0, le=8760.0, allow_inf_nan=False)] = 0.0
    """A learning period: for so many hours of sound no alarm is raised; then a threshold is proposed from them."""
    burn_in_accept: bool = False
    """Accept what is proposed without asking, unless there is a doubt about it."""

    @model_validator(mode="before")
    @classmethod
    def _old_names(cls, value: Any) -> Any:
        return accept_old_keys(value, OLD_KEYS)

    @model_validator(mode="after")
    def _consistent(self) -> AlarmSettings:
        if self.k is not None and self.n is not None and self.k > self.n:
            raise ValueError(f"k {self.k} <= n {self.n} does not hold")
        if self.n is not None and self.k is None:
            raise ValueError(f"n {self.n} is given without k")
        return self

    def levels(self, threshold: Threshold | None) -> Levels | None:
        """Fill in what the manifest knows; None if nothing gives an `on` (an uncalibrated bundle).

        Raises InputError if the thresholds are not in order.
        """
        on = self.on if self.on is not None else (threshold.clip if threshold else None)
        if on is None:
            return None
        off = self.off if self.off is not None else on - self.hysteresis * abs(on)
        warning = self.warning
        if warning is None and self.warning_margin is not None:
            warning = on - self.warning_margin * abs(on)
        warning_off = None if warning is None else warning - self.hysteresis * abs(warning)
        if off > on:
            raise InputError(f"alarm off {off:g}: is above on {on:g}; give an off at or below it")
        if warning is not None and warning > on:
            raise InputError(f"alarm warning {warning:g}: is above on {on:g}; give a warning at or below it")
        k = self.k if self.k is not None else (threshold.consecutive if threshold else 3)
        n = self.n if self.n is not None else k
        clear_after = self.clear_after if self.clear_after is not None else n - k + 1
        return Levels(on, off, warning, warning_off, k, n, clear_after)

    @classmethod
    def parse(cls, value: Any, place: str) -> AlarmSettings:
        """From plain data, as a configuration file holds it. Raises InputError with one line that names `place`."""
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise InputError(f"{place}: {first_problem(error, 'alarm')}; correct this alarm setting") from None


def first_problem(error: ValidationError, whole: str) -> str:
    """The first thing that is wrong, in one short printable line; `whole` names the object itself."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or whole
    given = "" if isinstance(first["input"], dict) else f" {str(first['input'])[:80]!r}"
    text = f"{where}{given}: {first['msg']}"[:300]
    return "".join(c if c.isprintable() else " " for c in text)


SERVICE = AlarmSettings(hysteresis=0.1, warning_margin=0.1, cooldown_seconds=60.0, clear_on_gap=False)
"""What an unattended box should use: few messages, and a short loss of sound ends nothing."""
