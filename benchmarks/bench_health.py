"""The health monitor beside streaming log-mel: what a second of sound costs, in blocks as a device delivers them.

Health runs all the time beside the features, so its cost is to be small beside theirs.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import numpy as np
from common import machine, machine_line, parser, ratio_rows, report, side_by_side, table, times_json

from edgeasd.runtime.features.logmel import FeatureSettings, LogMelStream
from edgeasd.runtime.health import HealthMonitor, HealthSettings, LevelRange

SECONDS = 5
RATE = 16_000
BLOCKS = {"32-ms blocks": 512, "192-ms blocks": 3072, "1-s blocks": RATE}
LOGMEL = "LogMelStream.push, 192-ms blocks"


def calls(sound: np.ndarray, rate: int) -> dict[str, Callable[[], object]]:
    """The monitor on `sound` (SECONDS * rate,), cut in each of the ways."""
    made: dict[str, Callable[[], object]] = {}
    for name, size in BLOCKS.items():
        monitor = HealthMonitor(HealthSettings(), rate, LevelRange(low_dbfs=-50, high_dbfs=-10))
        blocks = [sound[start : start + size * rate // RATE] for start in range(0, sound.size, size * rate // RATE)]
        made[f"HealthMonitor.push, {rate // 1000} kHz, {name}"] = lambda m=monitor, b=blocks: [m.push(x) for x in b]  # type: ignore[misc]
    return made


def main() -> None:
    """Command line of the script."""
    given = parser(__doc__)
    given.add_argument("--rounds", type=int, default=40)
    options = given.parse_args()
    rng = np.random.default_rng(0)
    sounds = {rate: (0.05 * rng.standard_normal(SECONDS * rate)).astype(np.float32) for rate in (RATE, 48_000)}
    stream = LogMelStream(FeatureSettings())
    chunks = [sounds[RATE][start : start + 3072] for start in range(0, SECONDS * RATE, 3072)]
    functions: dict[str, Callable[[], object]] = {LOGMEL: lambda: [stream.push(chunk) for chunk in chunks]}
    for rate, sound in sounds.items():
        functions |= calls(sound, rate)
    times = side_by_side(functions, rounds=options.rounds)
    facts = machine()
    rows = ratio_rows(times, LOGMEL, per=SECONDS)
    text = f"{machine_line(facts)}\n\n" + table(["", "µs per second of sound", "× log-mel", "80 % of rounds"], rows)
    worst = max(statistics.median(values) for name, values in times.items() if name != LOGMEL) / SECONDS
    text += f"\n\nAt most {100 * worst:.3f} % of a core."
    report({"machine": facts, **times_json(times, LOGMEL)}, text, as_json=options.json)


if __name__ == "__main__":
    main()
