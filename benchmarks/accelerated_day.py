"""A day of sound (450,000 segments) through the running service as fast as it goes: does its memory grow?

    python benchmarks/accelerated_day.py

One stream of the small bundle on a looped WAV with `pace = "block"`. Half of the sound is above the threshold, so that
alarms come and go, with a clip each; status and scores are told every second, to a JSON-lines file that is rotated and
to a web server that is not there; evidence is held to 20 MB. What goes by the clock of the day is not in it: the hourly
clean-up of the store, and retention by age. Resident memory is read every five seconds; the slope is a least-squares
line over the second half.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from common import SMALL_BUNDLE, machine, machine_line, parser, report, say, table
from served import RATE, Served, serve, write_site

from edgeasd.runtime.storage import EventStore

EVERY = 5.0
SITE = """status_seconds = 1.0
score_seconds = 1.0
[evidence]
max_megabytes = 20.0
[outputs.away]
type = "webhook"
url = "http://127.0.0.1:1/"
queue_megabytes = 2.0
kinds = ["event", "score", "status"]
"""
STREAM = """pace = "block"
alarm = { on = 0.4, off = 0.3, k = 2, n = 2, clear_after = 2, cooldown_seconds = 0.5, recovery_seconds = 0.0 }
"""
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


def write_turns(path: Path) -> Path:
    """12 s of noise, which the small bundle scores at 0.6, then 12 s of clicks, at 0.2."""
    rng = np.random.default_rng(0)
    noise, clicks = (600 * rng.standard_normal(12 * RATE) for _ in range(2))
    for at in range(0, clicks.size - 300, 7000):
        clicks[at : at + 300] += 6000 * rng.standard_normal(300)
    sound = np.concatenate([noise, clicks]).clip(-32768, 32767).astype("<i2")
    soundfile.write(path, sound, RATE, subtype="PCM_16")
    return path


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
        sound = write_turns(folder / "turns.wav")
        site = write_site(folder, chosen.bundle, [sound], "threads = 1", STREAM, SITE)
        with serve(site) as service:
            seen = follow(service, chosen.segments)
            peak = service.memory()["peak"]
            outputs = {one["name"]: one for one in service.state()["outputs"]}
        with EventStore(folder / "data" / "events.db", read_only=True) as store:
            events = len(store.events(limit=1_000_000))
        stored = sum(path.stat().st_size for path in (folder / "data").rglob("*") if path.is_file()) / 1e6
    result: dict[str, Any] = {"machine": facts, "seen": seen, "peak_mib": peak, "slope": slope(seen), "stored": stored}
    result |= {"events": events, "outputs": outputs}
    told = f"{events} events; messages: " + ", ".join(
        f"{name} {one['delivered']} delivered, {one['queued']} wait, {sum(one['dropped'].values())} given up"
        for name, one in outputs.items()
    )
    report(result, f"{machine_line(facts)}\n\n{text_of(seen, peak, stored)}\n{told}", as_json=chosen.json)


if __name__ == "__main__":
    main()
