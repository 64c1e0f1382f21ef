"""What the benchmarks share: timing side by side, the machine line, memory of a process, output."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
SMALL_BUNDLE = REPOSITORY / "tests" / "data" / "valve-id_00"

Times = dict[str, list[float]]
"""Seconds per call, by name; entry i of every list comes from round i."""


def side_by_side(functions: Mapping[str, Callable[[], object]], *, rounds: int, calls: int = 1) -> Times:
    """Time every function in every round, `calls` calls each, after one unmeasured round.

    A shared machine changes its speed from second to second; neighbours in a round see the same
    machine, so only ratios within a round are worth quoting. The order turns by one each round.
    """
    names = list(functions)
    times: Times = {name: [] for name in names}
    for index in range(-1, rounds):
        turn = index % len(names)
        for name in names[turn:] + names[:turn]:
            call = functions[name]
            begun = time.perf_counter()
            for _ in range(calls):
                call()
            if index >= 0:
                times[name].append((time.perf_counter() - begun) / calls)
    return times


@dataclass(frozen=True)
class Ratio:
    """How much longer `name` takes than `base`, and how far single rounds lie apart."""

    name: str
    base: str
    of_medians: float
    low: float
    """10th percentile of the ratios within a round."""
    high: float
    """90th percentile of the ratios within a round."""


def ratio(times: Times, name: str, base: str) -> Ratio:
    """Ratio of the medians, with the spread of the ratios of each round."""
    each = [a / b for a, b in zip(times[name], times[base], strict=True)]
    medians = statistics.median(times[name]) / statistics.median(times[base])
    return Ratio(name, base, medians, quantile(each, 0.1), quantile(each, 0.9))


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the sorted values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


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


def memory(pid: int | str = "self") -> dict[str, float]:
    """Resident and peak resident memory of a process in MiB, from /proc/PID/status."""
    fields = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
        if ":" in line
    )
    return {name: int(fields[key].split()[0]) / 1024 for name, key in (("resident", "VmRSS"), ("peak", "VmHWM"))}


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
