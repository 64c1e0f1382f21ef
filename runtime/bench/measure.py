"""Measures one variant in this process: load time, speed by batch, streams, memory and energy."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from edgeasd.runtime.bench.energy import meter
from edgeasd.runtime.bench.timing import Span, Times, measure_streams, quantile, ratio, side_by_side
from edgeasd.runtime.bench.variants import Variant
from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.bundle.front_end_check import self_test_sound
from edgeasd.runtime.scoring.scorer import GraphFrontEndScorer, Scorer
from edgeasd.runtime.system.board import board_model, l4t_release, read_text

_FIELDS = (("resident", "VmRSS"), ("peak", "VmHWM"))


def memory(pid: int | str = "self", root: Path = Path("/")) -> dict[str, float]:
    """Resident and peak resident memory of a process in MiB. Source: proc(5), /proc/PID/status.

    The peak is of the whole life of the process. Memory of a discrete GPU is not included.
    """
    text = (root / f"proc/{pid}/status").read_text(encoding="utf-8")
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {name: int(fields[key].split()[0]) / 1024 for name, key in _FIELDS}


def device_info(root: Path = Path("/")) -> dict[str, Any]:
    """This device for JSON; `board` and `l4t` are None unless it is a Jetson."""
    return {
        "cpu": _processor(root),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": _memory(root),
        "board": board_model(root),
        "l4t": l4t_release(root),
        "load_at_start": load(root),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "onnxruntime": _onnxruntime(),
    }


def load(root: Path = Path("/")) -> float:
    """Load average of the last minute: other work shows here and in every figure."""
    text = read_text(root, "proc/loadavg")
    return float(text.split()[0]) if text else round(os.getloadavg()[0], 2)


def is_busy(info: dict[str, Any]) -> bool:
    """Whether other work ran before the measurement: its times are then longer than this device's own."""
    return float(info["load_at_start"]) > 0.25 * int(info["cores"])


def device_line(info: dict[str, Any]) -> str:
    """`device_info()` as one line."""
    board = f"{info['board']}, L4T {info['l4t']}; " if info["board"] else ""
    return (
        f"{board}{info['cpu']}, {info['cores']} cores, load {info['load_at_start']} at start; "
        f"Python {info['python']}, numpy {info['numpy']}, onnxruntime {info['onnxruntime']}"
    )


def _processor(root: Path) -> str:
    text = read_text(root, "proc/cpuinfo") or ""
    for line in text.splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory(root: Path) -> int | None:
    for line in (read_text(root, "proc/meminfo") or "").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) // 1024
    return None


def _onnxruntime() -> str:
    # Not the package metadata: the package for GPUs has another name.
    import onnxruntime

    return str(onnxruntime.__version__)


TOOLKIT, BARE = "toolkit", "bare"
LATENCY_CALLS = 100
"""The fewest calls at batch 1: a 99th percentile of fewer would be their maximum."""
_FEWEST_CALLS = 5
_LONGEST_SECONDS = 60.0
"""The limit of a measurement, unless the user asks for longer."""
_IDLE_SECONDS = 1.0

ProgressCallback = Callable[[int, int, str], None]
"""Called with (steps done, steps, next step)."""


@dataclass(frozen=True)
class BenchSettings:
    """Batches and duration of a measurement."""

    batches: tuple[int, ...] = (1, 4, 16)
    """Ascending, 1 among them."""
    seconds: float = 5.0
    """For each batch, for the streams and for the energy."""
    repeats: int | None = None
    """Calls of each kind, instead of `seconds`."""
    threads: int | None = None
    front_end: str = "cpu"
    """The front end: see `edgeasd.runtime.bundle.front_end_check`."""

    def span(self, batch: int) -> Span:
        """How long to measure at this batch."""
        if self.repeats is not None:
            return Span(rounds=self.repeats)
        if batch == 1:
            return Span(seconds=self.seconds, least=LATENCY_CALLS, longest=max(self.seconds, _LONGEST_SECONDS))
        return Span(seconds=self.seconds, least=_FEWEST_CALLS, longest=max(self.seconds, _LONGEST_SECONDS))


def measure(
    bundle: Path, variant: Variant, settings: BenchSettings, progress: ProgressCallback, root: Path = Path("/")
) -> dict[str, Any]:
    """Load a variant and measure it; returns a result for JSON. `root` is the folder of /sys.

    Raises as loading: BundleError, DeviceError, CheckFailed. Load time includes hashing the files and running the
    reference segments. Memory is of this process, after loading and at its peak with the largest batch.
    """
    before, started = memory(), time.perf_counter()
    steps = len(settings.batches) + 3
    progress(0, steps, "loading")
    with Bundle(bundle) as opened:
        scorer, deviation = opened.open_scorer(
            precision=variant.precision,
            engine=variant.engine,
            accelerator=variant.accelerator,
            threads=settings.threads if variant.engine == "onnxruntime" else None,
            max_batch=max(settings.batches),
            front_end=settings.front_end,
        )
        load_seconds = time.perf_counter() - started
        loaded = memory()
        segments = _segments(opened, scorer)
    taken = [batch for batch in settings.batches if batch <= scorer.engine.max_batch]
    rows = []
    for done, batch in enumerate(taken, start=1):
        progress(done, steps, f"batch {batch}")
        rows.append(_measure_batch(scorer, _of(segments, batch), settings.span(batch)))
    peak = memory()["peak"]
    progress(steps - 2, steps, "streams")
    rates = {row["batch"]: float(row["segments_per_second"]) for row in rows}
    streams = measure_streams(scorer, rates, settings.span(2))
    progress(steps - 1, steps, "energy")
    energy = _measure_energy(scorer, _of(segments, max(rates, key=lambda b: rates[b])), settings.span(2), root)
    scorer.close()
    progress(steps, steps, "")
    return {
        "engine_in_use": scorer.engine.name,
        "accelerator_in_use": scorer.engine.accelerator,
        "front_end": settings.front_end,
        "load_seconds": load_seconds,
        "golden_deviation": asdict(deviation),
        "batches": rows,
        "batches_beyond_engine": [batch for batch in settings.batches if batch not in taken],
        "streams": streams,
        "memory_mib": {"before_load": before["resident"], "loaded": loaded["resident"], "peak": peak},
        "energy": energy,
    }


def _segments(bundle: Bundle, scorer: Scorer) -> np.ndarray:
    """Input of the scorer: the reference segments, or a segment of noise in frames (1, frames, n_fft) for a graph."""
    if not isinstance(scorer, GraphFrontEndScorer):
        return bundle.reference_segments().logmel
    return scorer.extract_features(self_test_sound(scorer.features, scorer.amplitude, scorer.segments.frames))[None]


def _of(segments: np.ndarray, batch: int) -> np.ndarray:
    """The segments, repeated to `batch`: (batch, frames, n_mels), or n_fft."""
    return np.ascontiguousarray(np.resize(segments, (batch, *segments.shape[1:])))


def _measure_batch(scorer: Scorer, segments: np.ndarray, span: Span) -> dict[str, Any]:
    with_channel = segments[:, None]
    calls: dict[str, Callable[[], object]] = {
        TOOLKIT: lambda: scorer.score_segments(segments),
        BARE: lambda: scorer.engine.embed(with_channel),
    }
    times = side_by_side(calls, span=span)
    found = ratio(times, TOOLKIT, BARE)
    return {
        "batch": len(segments),
        "calls": len(times[TOOLKIT]),
        **_milliseconds(times),
        # From the mean, not the median: slow calls count in a sustained rate.
        "segments_per_second": len(segments) / statistics.fmean(times[TOOLKIT]),
        "over_bare": {"median": found.of_medians, "low": found.low, "high": found.high},
    }


def _milliseconds(times: Times) -> dict[str, Any]:
    own = [1e3 * value for value in times[TOOLKIT]]
    return {
        "median_ms": statistics.median(own),
        "p95_ms": quantile(own, 0.95) if len(own) >= 20 else None,
        "p99_ms": quantile(own, 0.99) if len(own) >= LATENCY_CALLS else None,
        "bare_median_ms": 1e3 * statistics.median(times[BARE]),
    }


def _measure_energy(scorer: Scorer, segments: np.ndarray, span: Span, root: Path) -> dict[str, Any] | None:
    """Energy of a segment at this batch, of the whole machine, and the power that it draws when idle."""
    measuring = meter(root)
    if measuring is None:
        return None
    with measuring() as idle:
        time.sleep(_IDLE_SECONDS)
    with measuring() as busy:
        times = side_by_side({TOOLKIT: lambda: scorer.score_segments(segments)}, span=span)
    # One more round than is timed: the first is not timed.
    count = len(segments) * (len(times[TOOLKIT]) + 1)
    return {
        "source": busy.source,
        "batch": len(segments),
        "idle_watts": idle.watts,
        "watts": busy.watts,
        "joules_per_segment": busy.total / count,
        "joules": busy.joules,
        "seconds": busy.seconds,
    }
