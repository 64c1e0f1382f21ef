"""What the benchmarks share: the timing and memory of `edgeasd bench`, the machine line, output."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgeasd.runtime.bench.measure import memory
from edgeasd.runtime.bench.timing import Ratio, Times, quantile, ratio, side_by_side

__all__ = [
    "REPOSITORY",
    "SMALL_BUNDLE",
    "Ratio",
    "Times",
    "machine",
    "machine_line",
    "memory",
    "parser",
    "quantile",
    "ratio",
    "ratio_rows",
    "report",
    "say",
    "side_by_side",
    "table",
    "times_json",
]

REPOSITORY = Path(__file__).resolve().parent.parent
SMALL_BUNDLE = REPOSITORY / "tests" / "data" / "valve-id_00"


def machine() -> dict[str, Any]:
    """Processor, usable cores and versions; no names of hosts or places."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith(("model name", "Model")):
            model = line.partition(":")[2].strip()
            break
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "load_at_start": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "onnxruntime": version("onnxruntime"),
    }


def machine_line(facts: Mapping[str, Any]) -> str:
    """`machine()` as one line."""
    return (
        f"{facts['cpu']}, {facts['cores']} cores, load {facts['load_at_start']} at start; "
        f"Python {facts['python']}, numpy {facts['numpy']}, onnxruntime {facts['onnxruntime']}"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table, ready for docs/results/."""
    body = [[f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(header), *body]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return "\n".join([line(header), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, body)])


def ratio_rows(times: Times, base: str, scale: float = 1e6, per: int = 1) -> list[list[object]]:
    """Rows of (what, median time, ratio to `base`, spread) for `table`; times are scaled and divided by `per`."""
    rows: list[list[object]] = []
    for name, values in times.items():
        found = ratio(times, name, base)
        spread = "" if name == base else f"{found.low:.2f} to {found.high:.2f}"
        rows.append([name, f"{statistics.median(values) * scale / per:.2f}", f"{found.of_medians:.2f}", spread])
    return rows


def times_json(times: Times, base: str) -> dict[str, Any]:
    """Medians in seconds and ratios to `base`, for --json."""
    return {
        "median_seconds": {name: statistics.median(values) for name, values in times.items()},
        "ratios": [asdict(ratio(times, name, base)) for name in times if name != base],
        "rounds": len(times[base]),
    }


def parser(description: str | None) -> argparse.ArgumentParser:
    """An argument parser with --json."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", action="store_true", help="one JSON object on standard output")
    return made


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def report(result: dict[str, Any], text: str, *, as_json: bool) -> None:
    """Print the result as JSON or as text."""
    print(json.dumps(result, indent=2) if as_json else text, flush=True)
