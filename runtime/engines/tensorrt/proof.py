"""The proof of a new engine, before it takes its name: the golden segments of its bundle, or noise for a front end."""

from __future__ import annotations

from pathlib import Path

from edgeasd.runtime.bundle import Bundle
from edgeasd.runtime.errors import CheckFailed
from edgeasd.runtime.front_end import FrontEndDeviation, beyond, compare_logmel, logmel_limit, proof_pair
from edgeasd.runtime.golden import Deviation, check_golden, deviation
from edgeasd.runtime.score import SegmentScores
from edgeasd.runtime.scorer import Head, Scorer


def prove_encoder(bundle: Bundle, precision: str, engine: Path, accelerator: str, max_batch: int) -> Deviation:
    """Run the golden segments on a built encoder. Raises CheckFailed where they are not reproduced, DeviceError."""
    from edgeasd.runtime.engines.tensorrt.engine import TensorRTEngine

    manifest = bundle.manifest
    loaded = TensorRTEngine(engine, precision=precision, accelerator=accelerator, max_batch=max_batch)
    try:
        head = Head(bundle.file("head.onnx"))
        scorer = Scorer(loaded, head, manifest.features, manifest.amplitude, manifest.segments, manifest.score)
        return check_golden(scorer, bundle.golden(), manifest.precisions[precision].tolerance, bundle.path.name)
    finally:
        loaded.close()


def prove_head(bundle: Bundle, engine: Path, accelerator: str, max_batch: int) -> Deviation:
    """Run the golden embeddings through a built head. Raises as `prove_encoder`."""
    from edgeasd.runtime.engines.tensorrt.engine import TensorRTHead

    manifest, golden = bundle.manifest, bundle.golden()
    loaded = TensorRTHead(engine, accelerator=accelerator, max_batch=max_batch)
    try:
        made = SegmentScores.from_head(loaded(golden.z), manifest.score)
    finally:
        loaded.close()
    stored = SegmentScores.from_head({"logit": golden.logit, "q": golden.q, "d": golden.d}, manifest.score)
    found = deviation(golden.z, stored, golden.z, made, manifest.score)
    # The head is float32 whatever the encoder is; the tightest tolerance is that of fp32 where there is one.
    offers = manifest.precisions
    problems = found.beyond(offers.get("fp32", next(iter(offers.values()))).tolerance)
    if problems:
        raise CheckFailed(
            f"{bundle.path.name}: golden embeddings are not reproduced by {engine.name}: {'; '.join(problems)}; "
            "leave the head on the CPU"
        )
    return found


def prove_front_end(bundle: Bundle, engine: Path, accelerator: str, max_batch: int) -> FrontEndDeviation:
    """Run the noise of `edgeasd.runtime.front_end` through a built front end. Raises as `prove_encoder`."""
    from edgeasd.runtime.engines.tensorrt.engine import TensorRTFrontEnd

    manifest = bundle.manifest
    assert manifest.front_end is not None
    frames, expected = proof_pair(manifest)
    loaded = TensorRTFrontEnd(engine, accelerator=accelerator, max_batch=max_batch)
    try:
        found = FrontEndDeviation(compare_logmel(loaded.logmel(frames), expected, bundle.path.name))
    finally:
        loaded.close()
    problems = beyond(found, logmel_limit(manifest.front_end))
    if problems:
        raise CheckFailed(
            f"{bundle.path.name}: the front end in {engine.name} is not that of the runtime: {'; '.join(problems)}; "
            "leave log-mel on the CPU"
        )
    return found
