"""A day of sound (450,000 segments) through the running service as fast as it goes: does its memory grow?

    python benchmarks/accelerated_day.py

One stream of the small bundle on a looped WAV with `pace = "block"`, event store, evidence and a JSON-lines output
running. Resident memory is read every five seconds; the slope is a least-squares line over the second half.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import SMALL_BUNDLE, machine, machine_line, parser, report, say, table
from served import Served, serve, write_site, write_sound

EVERY = 5.0
FEWEST = 20
"""Readings that a slope needs."""


def follow(service: Served, wanted: int) -> list[tuple[float, int, float]]:
    """(seconds, segments, resident MiB) until `wanted` segments are scored."""
    service.wait_until_scoring()
    begun, seen, said = time.monotonic(), [], 0.0
    while True:
        segments = sum(one["segments"] for one in service.state()["streams"])
        seen.append((time.monotonic() - begun, segments, service.memory()["resident"]))
        if segments >= wanted:
            return seen
        if time.monotonic() - said > 60:
            say(f"  {segments} of {wanted} segments, {seen[-1][2]:.1f} MiB")
            said = time.monotonic()
        time.sleep(EVERY)


def slope(seen: list[tuple[float, int, float]]) -> tuple[float, float]:
    """MiB for 100,000 segments over the second half, and its standard error.

    The error is that of independent readings; neighbours are alike, so it is on the small side.
    """
    table_ = np.array(seen[len(seen) // 2 :])
    x, y = table_[:, 1] / 1e5, table_[:, 2]
    centred = x - x.mean()
    found = float(centred @ (y - y.mean()) / (centred @ centred))
    left = y - y.mean() - found * centred
    return found, float(np.sqrt(left @ left / max(1, len(x) - 2) / (centred @ centred)))


def text_of(seen: list[tuple[float, int, float]], peak: float, stored: float) -> str:
    """Memory at every tenth of the way, and the slope."""
    if len(seen) < FEWEST:
        raise SystemExit(f"{len(seen)} readings of memory say nothing of a slope; ask for more segments")
    rows: list[list[object]] = []
    for share in range(0, 11):
        at = min(len(seen) - 1, round(share * (len(seen) - 1) / 10))
        rows.append([seen[at][1], f"{seen[at][0]:.0f}", f"{seen[at][2]:.1f}"])
    found, error = slope(seen)
    last = f"peak {peak:.1f} MiB; second half: {found:+.2f} MiB for 100,000 segments (standard error {error:.2f})"
    return f"{table(['segments', 'seconds', 'resident MiB'], rows)}\n\n{last}; data folder at the end {stored:.1f} MB"


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--bundle", type=Path, default=SMALL_BUNDLE)
    options.add_argument("--segments", type=int, default=450_000)
    chosen = options.parse_args()
    facts = machine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        site = write_site(folder, chosen.bundle, write_sound(folder, 1), "threads = 1", 'pace = "block"')
        with serve(site) as service:
            seen = follow(service, chosen.segments)
            peak = service.memory()["peak"]
        stored = sum(path.stat().st_size for path in (folder / "data").rglob("*") if path.is_file()) / 1e6
    result: dict[str, Any] = {"machine": facts, "seen": seen, "peak_mib": peak, "slope": slope(seen), "stored": stored}
    report(result, f"{machine_line(facts)}\n\n{text_of(seen, peak, stored)}", as_json=chosen.json)


if __name__ == "__main__":
    main()
