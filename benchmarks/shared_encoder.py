"""Ten machines with one encoder on one box: memory, processor time and batches, with the encoder shared and not.

    python benchmarks/shared_encoder.py                      # an mn04 with random weights, ten machines, 30 s each
    python benchmarks/shared_encoder.py --bundle tests/data/valve-id_00

Every machine has a bundle folder of its own with the same encoder file, and a WAV in real time. "one each" gives every
machine an engine table with another `max_batch`, so that nothing is shared. Memory is that of the process once every
machine has scores, and at the end; batches are those that ONNX Runtime was given while it was measured.
"""

from __future__ import annotations

import atexit
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from common import REPOSITORY, machine, machine_line, parser, report, say, table
from full_bundle import make_bundle
from served import serve, write_sound

MN04 = REPOSITORY / "build" / "benchmarks" / "mn04"
RUN_ITSELF = "--count-batches"


def run_and_count(arguments: list[str]) -> None:
    """`edgeasd` with these arguments in this process; the sizes of all batches are written to batches.json at the end."""
    from edgeasd.runtime.engines.onnxruntime import OnnxRuntimeEngine
    from edgeasd.toolkit.cli import main as edgeasd

    sizes: Counter[int] = Counter()
    embed = OnnxRuntimeEngine.embed

    def counted(engine: OnnxRuntimeEngine, batch: Any) -> Any:
        sizes[len(batch)] += 1
        return embed(engine, batch)

    OnnxRuntimeEngine.embed = counted  # type: ignore[method-assign]
    target = Path(arguments[-1]).with_name("batches.json")
    atexit.register(lambda: target.write_text(json.dumps(sizes)))
    sys.argv = ["edgeasd", *arguments]
    edgeasd()


def one_run(bundle: Path, machines: int, is_shared: bool, seconds: float) -> dict[str, Any]:
    """A service of so many machines for so long."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = ['site = "benchmark"']
        for number, sound in enumerate(write_sound(folder, machines)):
            own = folder / f"bundle_{number}"
            shutil.copytree(bundle, own)
            engine = 0 if is_shared else number
            lines += [f"[streams.s{number}]", f'bundle = "{own}"', f'id = "{number:02d}"', f'engine = "e{engine}"']
            lines += [f'input = "{sound}"', "loop = true", "realtime = true", 'pace = "drop"']
        for number in range(1 if is_shared else machines):
            lines += [f"[engines.e{number}]", 'engine = "onnxruntime"', "threads = 1", f"max_batch = {10 + number}"]
        site = folder / "site.toml"
        site.write_text("\n".join(lines) + "\n", encoding="utf-8")
        with serve(site, [__file__, RUN_ITSELF]) as service:
            service.wait_until_scoring()
            begun, cpu, first = time.monotonic(), service.cpu_seconds(), service.memory()["resident"]
            time.sleep(seconds)
            states = service.state()["streams"]
            past, used, memory = time.monotonic() - begun, service.cpu_seconds() - cpu, service.memory()
        sizes = {int(size): count for size, count in json.loads((folder / "batches.json").read_text()).items()}
    segments = sum(size * count for size, count in sizes.items())
    return {
        "machines": machines,
        "shared": is_shared,
        "resident_mib": {"first": first, "last": memory["resident"], "peak": memory["peak"]},
        "cpu_share_of_a_core": used / past,
        "p50_seconds": max(one["latency_seconds"]["p50"] for one in states),
        "p95_seconds": max(one["latency_seconds"]["p95"] for one in states),
        "skipped_segments": sum(one["skipped_segments"] for one in states),
        "batch_sizes": dict(sorted(sizes.items())),
        "mean_batch": segments / sum(sizes.values()),
    }


def text_of(runs: list[dict[str, Any]]) -> str:
    """A row for each run."""
    header = ["machines", "encoder", "MiB first", "last", "peak", "MiB for each more", "cores used"]
    header += ["p50 ms", "p95 ms", "skipped", "mean batch"]
    alone, rows = runs[0]["resident_mib"]["last"], list[list[object]]()
    for run in runs:
        mib, more = run["resident_mib"], run["machines"] - 1
        each = f"{(mib['last'] - alone) / more:.1f}" if more else ""
        sizes = [f"{mib[key]:.0f}" for key in ("first", "last", "peak")]
        times = [f"{run[key] * 1e3:.1f}" for key in ("p50_seconds", "p95_seconds")]
        kind = "shared" if run["shared"] else "one each"
        rows.append([run["machines"], kind, *sizes, each, f"{run['cpu_share_of_a_core']:.2f}", *times])
        rows[-1] += [run["skipped_segments"], f"{run['mean_batch']:.2f}"]
    return table(header, rows)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--bundle", type=Path, help="in place of an mn04 with random weights")
    options.add_argument("--machines", type=int, default=10)
    options.add_argument("--seconds", type=float, default=30.0)
    chosen = options.parse_args()
    bundle = chosen.bundle or MN04
    if chosen.bundle is None:
        make_bundle(MN04, "mn04")
    facts, runs = machine(), []
    for machines, is_shared in ((1, True), (chosen.machines, True), (chosen.machines, False)):
        say(f"  {machines} machines, {'shared' if is_shared else 'one each'}")
        runs.append(one_run(bundle, machines, is_shared, chosen.seconds))
    text = f"{machine_line(facts)}\n\n{bundle.name}\n\n{text_of(runs)}"
    report({"machine": facts, "bundle": bundle.name, "runs": runs}, text, as_json=chosen.json)


if __name__ == "__main__":
    if RUN_ITSELF in sys.argv[1:2]:
        run_and_count(sys.argv[2:])
    else:
        main()
