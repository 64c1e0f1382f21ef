"""How a sound is doing beside its score: health, latency, and what was lost or left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Standing:
    """What the line of `run` shows after its score."""

    health: tuple[str, ...] = ()
    """Health states that are active."""
    sick: bool = False
    settled: bool = True
    """Whether the clip score holds no sound that was sick; no alarm is raised before."""
    latency: dict[str, float] | None = None
    """See `Latencies.percentiles`."""
    lost_seconds: float = 0.0
    """Sound lost in the ring or known to be lost at the source."""
    overruns: int = 0
    skipped: int = 0
    """Segments left out because scoring could not keep up."""

    def texts(self) -> list[str]:
        """Health, latency and losses, each as a few words; latency only where there is one."""
        lost = losses_text(self.lost_seconds, self.overruns, self.skipped)
        late = [] if self.latency is None else [latency_text(self.latency)]
        return [self._health(), *late, lost]

    def _health(self) -> str:
        if self.health or self.sick:
            return ("SICK " if self.sick else "") + ", ".join(self.health)
        return "healthy" if self.settled else "settling"


def latency_text(latency: Mapping[str, float]) -> str:
    """p50 and p99 of `Latencies.percentiles`."""
    return f"{1000 * latency['p50']:.0f}/{1000 * latency['p99']:.0f} ms"


def losses_text(seconds: float, overruns: int, skipped: int, *, short: bool = False) -> str:
    """Sound lost, overruns and segments skipped in a few words; `short`: in fewer."""
    parts = [f"{seconds:.1f} s" + ("" if short else " lost")] if seconds else []
    # How much an overrun lost is known to nobody.
    parts += [f"{overruns} overruns"] if overruns else []
    parts = parts or ["none" if short else "none lost"]
    return ", ".join(parts + ([f"{skipped} skipped"] if skipped else []))
