"""The JSON records of `run` and `score --live`: one shape for a live score, wherever it comes from."""

from __future__ import annotations

from typing import Any

from edgeasd.runtime.manifest import Manifest
from edgeasd.runtime.score import Score
from edgeasd.runtime.scorer import Scorer

RECORD_VERSION = 1


def engine_facts(scorer: Scorer) -> dict[str, Any]:
    """What is really in use, for every start message and report."""
    return {
        "engine": scorer.engine.name,
        "accelerator": scorer.engine.accelerator,
        "precision": scorer.engine.precision,
    }


def machine_facts(manifest: Manifest) -> dict[str, Any]:
    """Which machine is listened to."""
    return {"machine": manifest.machine.type, "id": manifest.machine.id}


def record_of(kind: str, manifest: Manifest) -> dict[str, Any]:
    """The beginning of every record: its type, the version of its form, the machine."""
    return {"type": kind, "version": RECORD_VERSION, **machine_facts(manifest)}


def score_record(score: Score, manifest: Manifest, offset: int, alarm: bool) -> dict[str, Any]:
    """One live score. Positions are samples since the sound began; `offset` is where the stream was last reset."""
    rate = manifest.features.sample_rate
    start, end = offset + score.start_sample, offset + score.end_sample
    return {
        **record_of("score", manifest),
        "index": score.index,
        "start_sample": start,
        "end_sample": end,
        "end_seconds": round(end / rate, 6),
        "score": score.score,
        "clip_score": score.clip_score,
        "averaged": score.averaged,
        "complete": score.complete,
        "q": score.q,
        "d": score.d,
        "d_prime": score.d_prime,
        "logit": score.logit,
        "threshold": manifest.threshold.clip if manifest.threshold else None,
        "alarm": alarm,
    }
