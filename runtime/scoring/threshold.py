"""The threshold of a bundle and how it was found; stored in the manifest, never part of a score or a graph."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Interval = tuple[_Finite | None, _Finite | None]
"""Lower and upper end; None for an end that the recordings do not set."""


class Promise(BaseModel):
    """How often normal sound is said to lie above a threshold, and how well that is known."""

    model_config = ConfigDict(frozen=True, extra="allow", defer_build=True)

    kind: Annotated[str, Field(pattern="^(alarms_per_day|false_positive_rate)$")]
    target: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """What was allowed."""
    expected: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """What is expected at this threshold, in the unit of `target`."""
    interval95: _Interval
    """The 95 % interval of it."""
    extrapolation: bool = False
    """True if the rate is too small to be seen in the recordings, and a fitted tail gave the threshold."""

    def describe(self) -> str:
        """One phrase: what is expected of normal sound, and how well it is known."""
        unit = "alarms a day" if self.kind == "alarms_per_day" else "of single normal clips above it"
        low, high = ("?" if end is None else f"{end:.3g}" for end in self.interval95)
        beyond = ", an extrapolation" if self.extrapolation else ""
        return f"expected {self.expected:.3g} {unit} (95 % from {low} to {high}){beyond}"


class ThresholdSource(BaseModel):
    """A recording a threshold was taken from: base name and sha256 of its file."""

    model_config = ConfigDict(frozen=True, extra="allow", defer_build=True)

    name: str
    sha256: str


class Threshold(BaseModel):
    """A clip threshold, how it was found and from how many clips; stored in the manifest."""

    model_config = ConfigDict(frozen=True, extra="allow", defer_build=True)

    clip: Annotated[float, Field(allow_inf_nan=False)]
    """An alarm needs clip scores above this."""
    consecutive: Annotated[int, Field(ge=1, le=100_000)] = 3
    """That many clip scores in a row."""
    found_by: str
    clips: Annotated[int, Field(ge=0)]
    warning: str | None = None
    interval95: _Interval | None = None
    """95 % interval of `clip`, in units of the score; None for a threshold that came without one."""
    promise: Promise | None = None
    hours: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Hours of normal sound behind the threshold."""
    sources: tuple[ThresholdSource, ...] = ()
    """The recordings, as far as they are listed; `clips` counts all."""

    def describe_interval(self) -> str:
        """ " [low, high]"; empty if the threshold has no interval."""
        if self.interval95 is None:
            return ""
        low, high = ("…" if end is None else f"{end:.4f}" for end in self.interval95)
        return f" [{low}, {high}]"

    @model_serializer(mode="wrap")
    def _as_found(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the fields that nothing is known for: an older manifest is written back as it was."""
        absent = {name for name in ("interval95", "promise", "hours") if getattr(self, name) is None}
        absent |= set() if self.sources else {"sources"}
        return {name: value for name, value in dump(self).items() if name not in absent}
