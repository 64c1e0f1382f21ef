"""Speed of int8-cpu beside fp32 in ONNX Runtime, one segment a call, for both backbones.

ResNet38 has random weights: speed does not depend on them. With OpenVINO installed, the same two files run in it by
turns with ONNX Runtime, as the yardstick. Ranges come from random segments, so no accuracy is measured here.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from common import (
    SMALL_BUNDLE,
    Times,
    machine,
    machine_line,
    parser,
    ratio,
    report,
    say,
    side_by_side,
    table,
    times_json,
)
from full_bundle import add_bundle_options, full_bundle

from edgeasd.calibration.quantization.qdq import int8_cpu_graph
from edgeasd.calibration.quantization.ranges import collect
from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.engines.onnxruntime import default_threads, make_session, optimisation_of
from edgeasd.runtime.features.logmel import Float32Array

FP32, INT8 = "onnxruntime fp32", "onnxruntime int8-cpu"
FP32_FULL = "onnxruntime fp32, optimised like int8-cpu"
OPENVINO = {"openvino fp32": FP32, "openvino int8": INT8}


def variants(path: Path) -> tuple[dict[str, bytes], Float32Array]:
    """The fp32 file of a bundle, its int8-cpu variant, and a segment (1, 1, frames, n_mels)."""
    with Bundle(path) as bundle:
        fp32 = bundle.file(bundle.manifest.precisions["fp32"].file).read_bytes()
        segments = bundle.reference_segments().logmel
    model = onnx.load_from_string(fp32)
    ranges = collect(model, segments).ranges("minmax")
    return {FP32: fp32, INT8: int8_cpu_graph(model, ranges).SerializeToString()}, segments[:1, None]


def runners(files: dict[str, bytes], segment: Float32Array) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    made: dict[str, Callable[[], object]] = {}
    for name, level in ((FP32, optimisation_of("fp32")), (FP32_FULL, "all"), (INT8, optimisation_of("int8-cpu"))):
        session = make_session(files[INT8 if name == INT8 else FP32], optimisation=level)
        made[name] = lambda session=session: session.run(["z"], {"logmel": segment})
    try:
        import openvino
    except ModuleNotFoundError:
        say("openvino: not measured, it is not installed")
        return made
    core = openvino.Core()
    for name, source in OPENVINO.items():
        model = core.read_model(files[source], b"")
        model.reshape([1, 1, *segment.shape[2:]])
        hints: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": default_threads()}
        request = core.compile_model(model, "CPU", hints).create_infer_request()
        made[name] = lambda request=request: request.infer([segment])
    return made


def describe(title: str, times: Times, sizes: dict[str, float]) -> str:
    """One table of a backbone: median, and how many times faster than fp32 of ONNX Runtime."""
    rows: list[list[object]] = []
    for name, values in times.items():
        found = ratio(times, FP32, name)
        size = sizes.get(OPENVINO.get(name, FP32 if name == FP32_FULL else name), 0.0)
        spread = "" if name == FP32 else f"{found.low:.2f} to {found.high:.2f}"
        row = [name, f"{size:.2f}", f"{statistics.median(values) * 1e3:.2f}", f"{found.of_medians:.2f}", spread]
        rows.append(list(row))
    return f"{title}\n\n" + table(["", "MB", "ms a segment", "times faster than fp32", "80 % of rounds"], rows)


def main() -> None:
    options = parser(__doc__)
    add_bundle_options(options, rounds=200)
    chosen = options.parse_args()
    facts = machine()
    paths = {"quick": (SMALL_BUNDLE, chosen.rounds)}
    if not chosen.skip_full and (full := full_bundle(chosen.full)) is not None:
        paths["resnet38"] = (full, max(3, chosen.rounds // 10))
    found: dict[str, Any] = {"machine": facts}
    text = [machine_line(facts)]
    for title, (path, rounds) in paths.items():
        say(title)
        files, segment = variants(path)
        sizes = {name: len(data) / 1e6 for name, data in files.items()}
        times = side_by_side(runners(files, segment), rounds=rounds)
        found[title] = {**times_json(times, FP32), "megabytes": sizes}
        text.append(describe(title, times, sizes))
    report(found, "\n\n".join(text), as_json=chosen.json)


if __name__ == "__main__":
    main()
