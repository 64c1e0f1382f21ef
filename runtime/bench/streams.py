"""How many sounds one process keeps up with: log-mel and scoring of real streams, one hop at a time.

A round is what a live run with S streams does every hop: each stream takes in a hop of samples, which completes
one segment, and all segments are scored in common batches. The batch is the one of those measured that costs a
segment least and that the streams can fill: S streams give S segments a hop, never more.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeasd.runtime.bench.timing import Span
from edgeasd.runtime.logmel import Float32Array
from edgeasd.runtime.scorer import Scorer
from edgeasd.runtime.stream import Stream, score_streams


def measure_streams(scorer: Scorer, rates: Mapping[int, float], span: Span) -> dict[str, Any]:
    """Cost of a stream at the bundle's hop; `rates` are segments a second by batch, as they were measured.

    `sustained` is how many streams fit into one hop, rounded down, from rounds of as many real streams as the
    batch has segments; 0 where not even one is heard in real time.
    """
    hop = scorer.segments.hop * scorer.features.hop_length / scorer.features.sample_rate
    single = _rounds(scorer, 1, span)
    batch = best_batch(hop, single["logmel"], rates)
    several = single if batch == 1 else _rounds(scorer, batch, span)
    alone, together = _wall(single), _wall(several) / batch
    counts = {1: math.floor(hop / alone), batch: math.floor(hop / together)}
    # The batch was chosen by its parts; where the whole is slower than they say, it may not be filled.
    batch = batch if counts[batch] >= max(batch, counts[1]) else 1
    used = several if batch > 1 else single
    return {
        "hop_seconds": hop,
        "real_time_factor": hop / alone,
        "sustained": counts[batch],
        "batch": batch,
        "logmel_ms": 1e3 * used["logmel"] / batch,
        "scoring_ms": 1e3 * used["scoring"] / batch,
        # Of all threads; other work on the machine makes the times above longer, and this hardly.
        "cpu_ms": 1e3 * used["cpu"] / batch,
    }


def best_batch(hop: float, logmel: float, rates: Mapping[int, float]) -> int:
    """The batch with most streams, where each costs `logmel` seconds and a segment 1 / rate, and they fill it."""
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
        heard = time.perf_counter()
        scored = score_streams(streams)
        ended, spent = time.perf_counter(), time.process_time() - worked
        assert all(len(scores) == 1 for scores in scored)
        if done >= 0:
            times["logmel"].append(heard - begun)
            times["scoring"].append(ended - heard)
            times["cpu"].append(spent)
        done += 1
    return {name: statistics.fmean(values) for name, values in times.items()}
