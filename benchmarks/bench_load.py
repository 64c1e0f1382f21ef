"""Load time, memory and speed of the ResNet38 encoder at every graph optimisation level; threads and spinning.

Load time, memory and processor time come from processes of their own, since a peak is never taken
back; the variants take turns. The speed of the levels is measured side by side in one process. The
file is in the page cache. Memory is that of the whole process, with numpy and ONNX Runtime.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common import (
    SMALL_BUNDLE,
    Times,
    machine,
    machine_line,
    memory,
    parser,
    quantile,
    ratio_rows,
    report,
    say,
    side_by_side,
    table,
    times_json,
)

LEVELS = {"none": "DISABLE_ALL", "basic": "ENABLE_BASIC", "extended": "ENABLE_EXTENDED", "all": "ENABLE_ALL"}
PERIOD = 0.192
SMALL_ENCODER = SMALL_BUNDLE / "encoder.fp32.onnx"
Found = list[dict[str, float]]


def session_of(model: Path, level: str, threads: int, spinning: bool) -> Any:
    """As edgeasd.runtime.engines.onnxruntime.make_session, with what it decides left open."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_{LEVELS[level]}")
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def child(chosen: Namespace) -> dict[str, float]:
    """Load one session in this process, run single segments, and say what it took (seconds, MiB)."""
    import numpy as np
    import onnxruntime  # noqa: F401  imported before the clock starts

    before = memory()["resident"]
    begun = time.perf_counter()
    session = session_of(chosen.model, chosen.level, chosen.threads, chosen.spinning)
    found = {"load": time.perf_counter() - begun, "before": before}
    found |= {f"{name}_loaded": value for name, value in memory().items()}
    batch = {"logmel": np.random.default_rng(0).standard_normal((1, 1, 256, 128)).astype(np.float32)}
    for _ in range(3):
        session.run(["z"], batch)
    latencies, due, cpu, begun = [], time.monotonic(), time.process_time(), time.perf_counter()
    for _ in range(chosen.segments):
        if chosen.paced:
            due += PERIOD
            time.sleep(max(0.0, due - time.monotonic()))
        at = time.perf_counter()
        session.run(["z"], batch)
        latencies.append(time.perf_counter() - at)
    found["cpu"] = (time.process_time() - cpu) / chosen.segments
    found["wall"] = (time.perf_counter() - begun) / chosen.segments
    found |= {"segment": statistics.median(latencies), "segment_p95": quantile(latencies, 0.95)}
    return found | {f"{name}_after": value for name, value in memory().items()}


def fresh(model: Path, level: str, threads: int, *, segments: int, spinning: bool = False, paced: bool = False) -> Any:
    """`child` in a new process."""
    command = [sys.executable, __file__, "--model", model, "--level", level, "--threads", threads]
    command += ["--segments", segments, "--child", *(["--spinning"] if spinning else [])]
    command += ["--paced"] if paced else []
    done = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def median(found: Found, key: str) -> float:
    """Median over repeats."""
    return statistics.median(one[key] for one in found)


def levels(model: Path, threads: int, repeats: int, segments: int) -> dict[str, Found]:
    """Each optimisation level `repeats` times, by turns."""
    found: dict[str, Found] = {level: [] for level in LEVELS}
    for repeat in range(repeats):
        for level in LEVELS:
            say(f"  {level}, {repeat + 1} of {repeats}")
            found[level].append(fresh(model, level, threads, segments=segments))
    return found


def speeds(model: Path, threads: int, rounds: int) -> Times:
    """One segment at every level, side by side in this process."""
    import numpy as np

    batch = {"logmel": np.random.default_rng(0).standard_normal((1, 1, 256, 128)).astype(np.float32)}
    sessions = {level: session_of(model, level, threads, spinning=False) for level in LEVELS}

    def scored(session: Any) -> Callable[[], object]:
        return lambda: session.run(["z"], batch)

    return side_by_side({level: scored(session) for level, session in sessions.items()}, rounds=rounds)


def spinning(model: Path, level: str, counts: Sequence[int], repeats: int, segments: int) -> dict[str, Found]:
    """One segment every 192 ms, with every number of threads, workers waiting asleep or spinning."""
    variants = {
        f"{n} threads, {how}": (n, how == "spinning") for n in counts for how in ("asleep", "spinning") if n > 1
    }
    variants = {"1 thread": (1, False), **variants}
    found: dict[str, Found] = {name: [] for name in variants}
    for repeat in range(repeats):
        for name, (count, spin) in variants.items():
            say(f"  {name}, {repeat + 1} of {repeats}")
            found[name].append(fresh(model, level, count, segments=segments, spinning=spin, paced=True))
    return found


def level_table(found: dict[str, Found], speed: Times) -> str:
    """Medians over the processes of each level, and the speed measured side by side."""
    header = ["level", "load s", "peak MiB", "loaded MiB", "after scoring MiB", "segment ms", "ratio", "80 % of rounds"]
    rows: list[list[object]] = []
    for (level, runs), timed in zip(found.items(), ratio_rows(speed, "all", scale=1e3), strict=True):
        memories = (f"{median(runs, key):.0f}" for key in ("peak_after", "resident_loaded", "resident_after"))
        rows.append([level, f"{median(runs, 'load'):.2f}", *memories, *timed[1:]])
    return table(header, rows)


def spinning_table(found: dict[str, Found]) -> str:
    """Latency, and the processor time that a segment costs with the waiting around it."""
    rows = [
        [
            name,
            f"{median(runs, 'segment') * 1e3:.2f}",
            f"{median(runs, 'segment_p95') * 1e3:.2f}",
            f"{median(runs, 'cpu') * 1e3:.2f}",
            f"{100 * median(runs, 'cpu') / median(runs, 'wall'):.1f} %",
        ]
        for name, runs in found.items()
    ]
    return table(["", "latency ms", "95 % within ms", "CPU ms a segment", "of one core"], rows)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--full", type=Path, help="a ResNet38 bundle; made from random weights without this")
    options.add_argument("--repeats", type=int, default=3, help="processes of each variant")
    options.add_argument("--segments", type=int, default=15, help="segments a process scores")
    options.add_argument("--threads", type=int, help="all usable cores without this")
    for internal in ("--child", "--paced", "--spinning"):
        options.add_argument(internal, action="store_true", help="used by the script itself")
    options.add_argument("--model", type=Path, default=SMALL_ENCODER, help="used by the script itself")
    options.add_argument("--level", choices=LEVELS, default="all", help="used by the script itself")
    chosen = options.parse_args()
    if chosen.child:
        print(json.dumps(child(chosen)))
        return
    from full_bundle import full_bundle

    from edgeasd.runtime.engines.onnxruntime import default_threads, optimisation_for

    facts, threads = machine(), chosen.threads or default_threads()
    models = {"small net": SMALL_ENCODER}
    if (bundle := full_bundle(chosen.full)) is not None:
        models["ResNet38"] = bundle / "encoder.fp32.onnx"
    result: dict[str, Any] = {"machine": facts, "threads": threads, "segments": chosen.segments}
    texts = [machine_line(facts)]
    for name, model in models.items():
        say(f"{name}: optimisation levels")
        found = levels(model, threads, chosen.repeats, chosen.segments)
        speed = speeds(model, threads, 2 * chosen.segments)
        default = optimisation_for(model.stat().st_size)
        say(f"{name}: threads and spinning at {default!r}")
        counts = sorted({1, threads})
        spun = spinning(model, default, counts, max(1, chosen.repeats - 1), chosen.segments)
        size = model.stat().st_size / 1e6
        result[name] = {
            "megabytes": size,
            "default": default,
            "levels": found,
            "speed": times_json(speed, "all"),
            "spinning": spun,
        }
        texts += [
            f"{name}, {size:.1f} MB, {threads} threads, {chosen.repeats} processes a level; "
            f"default level: {default}\n\n{level_table(found, speed)}",
            f"{name} at {default!r}, one segment every 192 ms\n\n{spinning_table(spun)}",
        ]
    report(result, "\n\n".join(texts), as_json=chosen.json)


if __name__ == "__main__":
    main()
