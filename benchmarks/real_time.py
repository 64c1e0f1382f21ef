"""Many streams in real time through the running service: latency, skipped segments, lost sound, memory.

    python benchmarks/real_time.py                     # eight streams of the small bundle for ten minutes
    python benchmarks/real_time.py --full --streams 6  # ResNet38 int8-cpu, from six streams downwards

Every stream is a WAV in real time, one block every 32 ms, and all begin together, so that the segments of all of them
fall due at the same moment: the worst case. A number of streams is kept if `--trial` seconds skip no segment; if not,
one stream less is tried. Latency is what the service says of the last 2000 segments of each stream, read twice: the
worse figure is shown. It is counted from when the capture thread had the last block; that this thread was late is not in
it (tests/end_to_end/pulse.py measures that from outside).
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from common import SMALL_BUNDLE, machine, machine_line, parser, report, say, table
from full_bundle import WITH_VARIANTS, add_variants, full_bundle
from served import Served, serve, write_site, write_sound

RANKS = ("p50", "p95", "p99")
WINDOW = 2000
"""Segments that the percentiles of the service are over."""


def held(states: list[dict[str, Any]]) -> bool:
    """Whether nothing was skipped and nothing lost."""
    return not any(one["skipped_segments"] or one["dropped_seconds"] for one in states)


def watch(service: Served, seconds: float, *, give_up: bool) -> dict[str, Any]:
    """Let it run, and say how it went; with `give_up`, end at the first skipped segment."""
    service.wait_until_scoring()
    begun, cpu, first = time.monotonic(), service.cpu_seconds(), service.memory()["resident"]
    worst: dict[str, dict[str, float]] = {}
    halves = [seconds / 2, seconds]
    largest_wait = 0.0
    while halves:
        time.sleep(min(1.0, max(0.0, halves[0] - (time.monotonic() - begun))))
        states = service.state()["streams"]
        largest_wait = max(largest_wait, *(one["waiting_seconds"] for one in states))
        past = time.monotonic() - begun
        if past >= halves[0]:
            halves.pop(0)
            for one in states:
                latest, so_far = one["latency_seconds"], worst.setdefault(one["name"], dict.fromkeys(RANKS, 0.0))
                worst[one["name"]] = {rank: max(so_far[rank], latest[rank]) for rank in RANKS}
        if give_up and not held(states):
            break
    return {
        "seconds": past,
        "streams": len(states),
        "kept_up": held(states),
        "segments": sum(one["segments"] for one in states),
        "skipped_segments": sum(one["skipped_segments"] for one in states),
        "dropped_seconds": sum(one["dropped_seconds"] for one in states),
        "latency_seconds": {rank: max(one[rank] for one in worst.values()) for rank in RANKS} if worst else None,
        "largest_wait_seconds": largest_wait,
        "cpu_share_of_a_core": (service.cpu_seconds() - cpu) / past,
        "resident_mib": {"first": first, "last": service.memory()["resident"], "peak": service.memory()["peak"]},
    }


def one_run(bundle: Path, streams: int, engine: str, seconds: float, *, give_up: bool = False) -> dict[str, Any]:
    """A service of `streams` streams for so long."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sounds = write_sound(folder, streams)
        site = write_site(folder, bundle, sounds, engine, 'realtime = true\npace = "drop"')
        with serve(site) as service:
            return watch(service, seconds, give_up=give_up)


def as_many_as_fit(bundle: Path, most: int, engine: str, trial: float, seconds: float) -> list[dict[str, Any]]:
    """From `most` streams downwards; the last of the list is the long run of the number that held."""
    runs = []
    for streams in range(most, 0, -1):
        say(f"  {streams} streams, {trial:.0f} s")
        runs.append(one_run(bundle, streams, engine, trial, give_up=True))
        if runs[-1]["kept_up"]:
            say(f"  {streams} streams, {seconds:.0f} s")
            runs.append(one_run(bundle, streams, engine, seconds))
            if runs[-1]["kept_up"]:
                break
    return runs


def text_of(runs: list[dict[str, Any]]) -> str:
    """A row for each run."""
    header = ["streams", "seconds", "segments", "skipped", "lost s"]
    header += [f"{rank} ms" for rank in RANKS] + ["longest wait s", "cores used", "MiB first", "last", "peak"]
    rows: list[list[object]] = []
    for run in runs:
        late, mib = run["latency_seconds"], run["resident_mib"]
        ranks = [f"{late[rank] * 1e3:.1f}" if late else "" for rank in RANKS]
        counts = [run["streams"], f"{run['seconds']:.0f}", run["segments"], run["skipped_segments"]]
        ends = [f"{run['largest_wait_seconds']:.2f}", f"{run['cpu_share_of_a_core']:.2f}"]
        memories = [f"{mib[key]:.0f}" for key in ("first", "last", "peak")]
        rows.append([*counts, f"{run['dropped_seconds']:.1f}", *ranks, *ends, *memories])
    return table(header, rows)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--full", action="store_true", help="ResNet38 with random weights instead of the small bundle")
    options.add_argument("--bundle", type=Path, help="another bundle")
    options.add_argument("--precision", help="int8-cpu with --full, else fp32")
    options.add_argument("--streams", type=int, default=8, help="to begin with")
    options.add_argument("--minutes", type=float, default=10.0)
    options.add_argument("--trial", type=float, default=40.0, help="seconds that a number of streams must hold")
    options.add_argument("--threads", type=int, help="threads of the engine; all usable cores without this")
    chosen = options.parse_args()
    bundle = chosen.bundle or SMALL_BUNDLE
    if chosen.full and chosen.bundle is None:
        made = full_bundle()
        if made is None:
            raise SystemExit(2)
        if not WITH_VARIANTS.exists():
            say("adding fp16 and int8-cpu (once)")
            add_variants(made, WITH_VARIANTS)
        bundle = WITH_VARIANTS
    precision = chosen.precision or ("int8-cpu" if chosen.full else "fp32")
    engine = f'precision = "{precision}"\nengine = "onnxruntime"'
    engine += f"\nthreads = {chosen.threads}" if chosen.threads else ""
    facts = machine()
    runs = as_many_as_fit(bundle, chosen.streams, engine, chosen.trial, 60.0 * chosen.minutes)
    text = f"{machine_line(facts)}\n\n{bundle.name}, {precision}\n\n{text_of(runs)}"
    report({"machine": facts, "precision": precision, "runs": runs}, text, as_json=chosen.json)


if __name__ == "__main__":
    main()
