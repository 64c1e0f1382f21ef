"""The score path beside a bare InferenceSession.run of the encoder on the same batches, and Stream.push.

The bare session is a second one of the same file with the same options. `score_segments` adds the
batching, the head and the blend; `Stream.push` adds the log-mel, the ring and the clip mean.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    SMALL_BUNDLE,
    Times,
    machine,
    machine_line,
    parser,
    ratio,
    ratio_rows,
    report,
    say,
    side_by_side,
    table,
    times_json,
)
from full_bundle import add_bundle_options, full_bundle

from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.engines.onnxruntime import make_session
from edgeasd.runtime.features.logmel import Float32Array
from edgeasd.runtime.scoring.score import SegmentScores
from edgeasd.runtime.scoring.scorer import Scorer
from edgeasd.runtime.scoring.stream import Stream

BARE, SCORE, PUSH = "InferenceSession.run", "Scorer.score_segments", "Stream.push"
BATCHES = (1, 10)


def bare(session: Any, segments: Float32Array) -> Callable[[], object]:
    """The least that can be called: the encoder on a batch that is already in shape."""
    batch, inputs, outputs = segments[:, None], session.get_inputs()[0].name, [session.get_outputs()[0].name]
    return lambda: session.run(outputs, {inputs: batch})


def batches(scorer: Scorer, session: Any, segments: Float32Array, rounds: int, calls: int) -> dict[int, Times]:
    """Score path and bare session for every batch size."""
    found = {}
    for size in BATCHES:
        batch = np.resize(segments, (size, *segments.shape[1:]))
        pair: dict[str, Callable[[], object]] = {BARE: bare(session, batch), SCORE: _scored(scorer, batch)}
        found[size] = side_by_side(pair, rounds=max(5, rounds // size), calls=calls)
    return found


def _scored(scorer: Scorer, batch: Float32Array) -> Callable[[], object]:
    return lambda: scorer.score_segments(batch)


def live(scorer: Scorer, session: Any, segments: Float32Array, rounds: int, calls: int) -> Times:
    """One hop of samples at a time: every push completes one segment."""
    stream, hop = Stream(scorer), scorer.segments.hop * scorer.features.hop_length
    rng = np.random.default_rng(0)
    chunk = (scorer.amplitude.mean + scorer.amplitude.std * rng.standard_normal(hop)).astype(np.float32)
    stream.push(np.resize(chunk, scorer.features.sample_count(scorer.segments.frames)))
    assert len(stream.push(chunk)) == 1
    return side_by_side(
        {BARE: bare(session, segments[:1]), PUSH: lambda: stream.push(chunk)}, rounds=rounds, calls=calls
    )


def around(scorer: Scorer, segments: Float32Array, rounds: int) -> Times:
    """What the score path adds around the encoder, one piece at a time, for a batch of 1."""
    z = scorer.embed(segments[:1])
    outputs, stream = scorer.head(z), Stream(scorer)
    scores = SegmentScores.from_head(outputs, scorer.score)
    pieces: dict[str, Callable[[], object]] = {
        "head": lambda: scorer.head(z),
        "d′ and blend": lambda: SegmentScores.from_head(outputs, scorer.score),
        "copy of the segment": segments[0].copy,
        "stack of a batch of 1": lambda: np.stack([segments[0]]),
        "Score and clip mean": lambda: stream.finish(0, scores, 0),
    }
    return side_by_side(pieces, rounds=rounds, calls=50)


def measure(path: Path, rounds: int, calls: int) -> dict[str, Times]:
    """Everything for one bundle, by title."""
    with Bundle(path) as bundle:
        scorer, _ = bundle.open_scorer(engine="onnxruntime")
        offer = bundle.manifest.precisions[scorer.engine.precision]
        session, segments = make_session(bundle.file(offer.file)), bundle.reference_segments().logmel
        found = {f"batch {size}": times for size, times in batches(scorer, session, segments, rounds, calls).items()}
        found["live, one segment a push"] = live(scorer, session, segments, rounds, calls)
        found["around the encoder"] = around(scorer, segments, rounds)
        scorer.close()
    return found


def describe(name: str, found: dict[str, Times]) -> str:
    """Tables of one bundle."""
    rows: list[list[object]] = []
    for title, times in found.items():
        if BARE in times:
            rows += [[title, *row] for row in ratio_rows(times, BARE, scale=1e3)]
    pieces = [[piece, f"{statistics.median(v) * 1e6:.1f}"] for piece, v in found["around the encoder"].items()]
    one = found["live, one segment a push"]
    extra = (statistics.median(one[PUSH]) - statistics.median(one[BARE])) * 1e6
    return (
        f"{name}\n\n"
        + table(["", "", "ms a call", f"ratio to {BARE}", "80 % of rounds"], rows)
        + f"\n\nStream.push adds {extra:.0f} µs to a segment (ratio {ratio(one, PUSH, BARE).of_medians:.3f}).\n\n"
        + table(["around the encoder", "µs"], pieces)
    )


def main() -> None:
    options = parser(__doc__)
    add_bundle_options(options, rounds=300)
    chosen = options.parse_args()
    facts = machine()
    say("small bundle")
    found = {"small": measure(SMALL_BUNDLE, chosen.rounds, 4)}
    if not chosen.skip_full and (full := full_bundle(chosen.full)) is not None:
        say("full ResNet38 bundle")
        found["full"] = measure(full, chosen.rounds // 10, 1)
    titles = {"small": "Small bundle (quick, 8.5 MMAC a segment)", "full": "Full ResNet38 (12.0 GMAC a segment)"}
    text = "\n\n".join([machine_line(facts), *(describe(titles[name], parts) for name, parts in found.items())])
    result = {
        "machine": facts,
        **{
            name: {title: times_json(times, next(iter(times))) for title, times in parts.items()}
            for name, parts in found.items()
        },
    }
    report(result, text, as_json=chosen.json)


if __name__ == "__main__":
    main()
