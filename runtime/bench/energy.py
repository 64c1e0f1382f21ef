"""Measures energy with the power monitor of a Jetson or the counters of an Intel or AMD processor.

Sources: kernel.org, hwmon/ina3221 (inN_label, inN_input in mV, currN_input in mA) and power/powercap
(energy_uj, max_energy_range_uj in µJ); NVIDIA's Jetson Linux guide for the names of the rails.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_INA3221 = "sys/bus/i2c/drivers/ina3221"
_POWERCAP = "sys/class/powercap"
_SAMPLE_SECONDS = 0.05
_WHOLE_BOARD = "VDD_IN"
"""The rail of Orin NX and Orin Nano that feeds all others; without it, the rails are independent."""

NOT_REPORTED = "not reported: no INA3221 power monitor and no readable powercap counter"


@dataclass(frozen=True)
class Rail:
    """One channel of a power monitor: millivolts and milliamperes in two files."""

    name: str
    millivolts: Path
    milliamperes: Path

    def watts(self) -> float:
        """Present power. Raises OSError or ValueError if the channel does not answer."""
        return int(self.millivolts.read_text()) * int(self.milliamperes.read_text()) / 1e6


@dataclass(frozen=True)
class Counter:
    """A counter of consumed energy in microjoules, which wraps to 0 at `wraps_at`."""

    name: str
    microjoules: Path
    wraps_at: int

    def read(self) -> int:
        """The present count."""
        return int(self.microjoules.read_text())

    def joules(self, begun: int, ended: int) -> float:
        """Energy between two readings, with at most one wrap between them."""
        return ((ended - begun) % self.wraps_at if self.wraps_at > 0 else ended - begun) / 1e6


@dataclass
class Energy:
    """Energy consumed during a measurement, in joules by rail."""

    source: str
    seconds: float = 0.0
    joules: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """Joules of the rail that feeds the others, else of all rails together."""
        return self.joules.get(_WHOLE_BOARD, sum(self.joules.values()))

    @property
    def watts(self) -> float:
        """Mean power."""
        return self.total / self.seconds if self.seconds > 0 else 0.0


def rails(root: Path = Path("/")) -> list[Rail]:
    """Channels of every INA3221 that have a name and answer; empty on a machine without one."""
    found = []
    for label in sorted((root / _INA3221).glob("*/hwmon/hwmon*/in[123]_label")):
        number = label.name[2]
        try:
            name = label.read_text().strip()
            rail = Rail(name, label.with_name(f"in{number}_input"), label.with_name(f"curr{number}_input"))
            rail.watts()
        except (OSError, ValueError):
            continue
        # Jetson Linux labels an unconnected channel NC, and the sum of other channels "sum of ...".
        if name and name != "NC" and not name.startswith("sum of"):
            found.append(rail)
    return found


def counters(root: Path = Path("/")) -> list[Counter]:
    """Energy counters of the processor packages that this user may read; empty on a machine without."""
    found = []
    # Only packages: their subzones (cores, DRAM controllers) are parts of them, and psys is all of them together.
    for zone in sorted((root / _POWERCAP).glob("*-rapl:*")):
        try:
            name = (zone / "name").read_text().strip()
            if zone.name.count(":") != 1 or not name.startswith("package"):
                continue
            wraps = int((zone / "max_energy_range_uj").read_text())
            counter = Counter(name, zone / "energy_uj", wraps + 1)
            counter.read()
        except (OSError, ValueError):
            # Since CVE-2020-8694 only root may read energy_uj.
            continue
        found.append(counter)
    return found


def meter(root: Path = Path("/")) -> Callable[[], AbstractContextManager[Energy]] | None:
    """A context manager that measures its block as an `Energy`; None if the machine reports no energy.

        with measure() as energy: ...

    A power monitor is read every 50 ms and integrated; a counter is read before and after.
    """
    if found := rails(root):
        return lambda: _sampled(found)
    if counted := counters(root):
        return lambda: _counted(counted)
    return None


@contextmanager
def _counted(found: list[Counter]) -> Iterator[Energy]:
    energy = Energy(f"powercap ({', '.join(counter.name for counter in found)})")
    begun, started = [counter.read() for counter in found], time.perf_counter()
    yield energy
    ended = [counter.read() for counter in found]
    energy.seconds = time.perf_counter() - started
    for counter, first, last in zip(found, begun, ended, strict=True):
        energy.joules[counter.name] = counter.joules(first, last)


@contextmanager
def _sampled(found: list[Rail]) -> Iterator[Energy]:
    energy = Energy(f"INA3221 ({', '.join(rail.name for rail in found)})")
    samples: dict[str, list[float]] = {rail.name: [] for rail in found}
    stop = threading.Event()

    def sample() -> None:
        while True:
            for rail in found:
                try:
                    samples[rail.name].append(rail.watts())
                except (OSError, ValueError):
                    continue
            if stop.wait(_SAMPLE_SECONDS):
                return

    thread, started = threading.Thread(target=sample, daemon=True), time.perf_counter()
    thread.start()
    try:
        yield energy
    finally:
        stop.set()
        thread.join()
    energy.seconds = time.perf_counter() - started
    for name, watts in samples.items():
        if watts:
            energy.joules[name] = sum(watts) / len(watts) * energy.seconds
