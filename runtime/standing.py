"""How a sound is doing beside its score: health, latency, and what was lost or left out."""

from __future__ import annotations

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
        return [text for text in (self._health(), self._latency(), self._lost()) if text]

    def _health(self) -> str:
        if self.health or self.sick:
            return ("SICK " if self.sick else "") + ", ".join(self.health)
        return "healthy" if self.settled else "settling"

    def _latency(self) -> str:
        late = self.latency
        return "" if late is None else f"{1000 * late['p50']:.0f}/{1000 * late['p99']:.0f} ms"

    def _lost(self) -> str:
        lost = f"{self.lost_seconds:.1f} s lost" if self.lost_seconds else "none lost"
        overruns = f", {self.overruns} overruns" if self.overruns else ""
        return lost + overruns + (f", {self.skipped} skipped" if self.skipped else "")
