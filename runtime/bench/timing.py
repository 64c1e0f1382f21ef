"""Times functions side by side: they take turns in one process, so that all see the same machine."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeasd.runtime.features.logmel import Float32Array
from edgeasd.runtime.scoring.scorer import Scorer
from edgeasd.runtime.scoring.stream import Stream, score_streams

Times = dict[str, list[float]]
"""Seconds per call, by name; entry i of every list comes from round i."""


@dataclass(frozen=True)
class Span:
    """Duration of a measurement: `seconds` and at least `least` rounds, but at most `longest` seconds and `rounds` rounds.

    At least one round is done.
    """

    rounds: float = math.inf
    seconds: float = math.inf
    least: int = 1
    longest: float = math.inf

    def over(self, done: int, elapsed: float) -> bool:
        """Whether to stop after `done` rounds in `elapsed` seconds."""
        if done < 1:
            return False
        return done >= self.rounds or elapsed >= self.longest or (elapsed >= self.seconds and done >= self.least)


def side_by_side(
    functions: Mapping[str, Callable[[], object]],
    *,
    rounds: float = math.inf,
    calls: int = 1,
    span: Span | None = None,
) -> Times:
    """Time every function in every round, `calls` calls each, after one unmeasured round.

    The speed of a shared machine changes from second to second; within a round all see the same machine, so only ratios
    within a round can be trusted. The order rotates by one each round.
    """
    until = span or Span(rounds=rounds)
    names = list(functions)
    times: Times = {name: [] for name in names}
    started, done = time.perf_counter(), -1
    while not until.over(done, time.perf_counter() - started):
        turn = done % len(names)
        for name in names[turn:] + names[:turn]:
            call = functions[name]
            begun = time.perf_counter()
            for _ in range(calls):
                call()
            if done >= 0:
                times[name].append((time.perf_counter() - begun) / calls)
        done += 1
        if done == 0:
            started = time.perf_counter()
    return times


@dataclass(frozen=True)
class Ratio:
    """How much longer `name` takes than `base`, and the spread of single rounds."""

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


def measure_streams(scorer: Scorer, rates: Mapping[int, float], span: Span) -> dict[str, Any]:
    """Cost of a stream at the bundle's hop; `rates` are segments a second by batch, as they were measured.

    `sustained` is how many streams fit into one hop, rounded down, measured with as many real streams as the batch has
    segments; 0 if not even one runs in real time.
    """
    hop = scorer.segments.hop * scorer.features.hop_length / scorer.features.sample_rate
    single = _rounds(scorer, 1, span)
    batch = best_batch(hop, single["logmel"], rates)
    several = single if batch == 1 else _rounds(scorer, batch, span)
    alone, together = _wall(single), _wall(several) / batch
    counts = {1: math.floor(hop / alone), batch: math.floor(hop / together)}
    # The batch was chosen from the cost of its parts; if the whole is slower, the streams may not fill it.
    batch = batch if counts[batch] >= max(batch, counts[1]) else 1
    used = several if batch > 1 else single
    return {
        "hop_seconds": hop,
        "real_time_factor": hop / alone,
        "sustained": counts[batch],
        "batch": batch,
        "logmel_ms": 1e3 * used["logmel"] / batch,
        "scoring_ms": 1e3 * used["scoring"] / batch,
        # Of all threads. Other work on the machine makes the times above longer, but hardly this one.
        "cpu_ms": 1e3 * used["cpu"] / batch,
    }


def best_batch(hop: float, logmel: float, rates: Mapping[int, float]) -> int:
    """The batch with most streams that fill it, if a stream costs `logmel` seconds and a segment 1 / rate."""
    fitting = {}
    for batch, rate in rates.items():
        count = math.floor(hop / (logmel + 1.0 / rate))
        if batch == 1 or count >= batch:
            fitting[batch] = count
    return max(fitting, key=lambda batch: (fitting[batch], -batch)) if fitting else 1


def _wall(times: Mapping[str, float]) -> float:
    return times["logmel"] + times["scoring"]


def _rounds(scorer: Scorer, count: int, span: Span) -> dict[str, float]:
    """Mean seconds of log-mel and of scoring in a round of `count` streams, and CPU seconds of both together."""
    features, segments = scorer.features, scorer.segments
    step = segments.hop * features.hop_length
    noise = np.random.default_rng(0).standard_normal(features.sample_count(segments.frames) + step)
    sound: Float32Array = (0.05 * noise).astype(np.float32)
    streams = [Stream(scorer) for _ in range(count)]
    for stream in streams:
        stream.accept(sound[:-step])
        stream.take_waiting()
    times: dict[str, list[float]] = {"logmel": [], "scoring": [], "cpu": []}
    started, done = time.perf_counter(), -1
    while not span.over(done, time.perf_counter() - started):
        worked, begun = time.process_time(), time.perf_counter()
        for stream in streams:
            stream.accept(sound[-step:])
        accepted = time.perf_counter()
        results = score_streams(streams)
        ended, spent = time.perf_counter(), time.process_time() - worked
        assert all(len(scores) == 1 for scores in results)
        if done >= 0:
            times["logmel"].append(accepted - begun)
            times["scoring"].append(ended - accepted)
            times["cpu"].append(spent)
        done += 1
    return {name: statistics.fmean(values) for name, values in times.items()}
