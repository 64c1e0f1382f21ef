"""frontend.onnx: framed samples -> log-mel, in float32, for an engine that has no Fourier transform.

Pre-emphasis, window and DFT are two matrix products, one for cosines and one for sines. float32
is what a GPU is fast in; how far that is from the float64 of `edgeasd.runtime.features.logmel` is measured at export.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeasd.export.head import IR_VERSION, OPSET
from edgeasd.export.parity import LOAD_LIMITS
from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.bundle.manifest import FrontEnd
from edgeasd.runtime.engines.onnxruntime import make_session
from edgeasd.runtime.errors import CheckFailed, InputError
from edgeasd.runtime.features.framing import frame_samples
from edgeasd.runtime.features.logmel import FeatureSettings, Float32Array, logmel, mel_filter_bank, window_of
from edgeasd.runtime.features.segments import clip_starts

FRONT_END = "frontend.onnx"


def build_front_end(features: FeatureSettings, frames: int) -> onnx.ModelProto:
    """The front end for segments of `frames` frames, as a checked ONNX model.

    Input "frames" (N, frames, n_fft) float32, normalised samples as `edgeasd.runtime.features.framing.frame_samples` cuts
    them; output "logmel" (N, 1, frames, n_mels) float32, as the encoder takes it.
    """
    size, bins = features.n_fft, 1 + features.n_fft // 2
    # k n modulo the length: the cosine of a large angle would lose digits.
    angle = 2.0 * np.pi * (np.outer(np.arange(size), np.arange(bins)) % size) / size
    window = window_of(features)[:, None]
    bank = mel_filter_bank(
        features.sample_rate,
        size,
        features.n_mels,
        features.f_min,
        features.f_max,
        features.mel_scale,
        features.mel_norm,
    )
    factor = features.scale if features.logarithm == "ln" else features.scale / np.log(10.0)
    constants = {
        "cosines": _emphasised(window * np.cos(angle), features.preemphasis),
        "sines": _emphasised(window * np.sin(angle), features.preemphasis),
        "mel_bank": bank.T,
        "log_floor": np.array(features.log_floor),
        "log10_of_e": np.array(factor),
    }
    if features.offset:
        constants["offset"] = np.array(features.offset * features.scale)
    initialisers = [numpy_helper.from_array(np.ascontiguousarray(v, np.float32), k) for k, v in constants.items()]
    channel = numpy_helper.from_array(np.array([1], np.int64), "channel")
    node = helper.make_node
    nodes = [
        node("MatMul", ["frames", "cosines"], ["real"]),
        node("MatMul", ["frames", "sines"], ["imaginary"]),
        node("Mul", ["real", "real"], ["real_squared"]),
        node("Mul", ["imaginary", "imaginary"], ["imaginary_squared"]),
        node("Add", ["real_squared", "imaginary_squared"], ["power"]),
    ]
    spectrum = "power"
    if features.spectrum == "magnitude":
        nodes.append(node("Sqrt", ["power"], ["magnitude"]))
        spectrum = "magnitude"
    nodes += [
        node("MatMul", [spectrum, "mel_bank"], ["mel"]),
        node("Add" if features.floor_rule == "add" else "Max", ["mel", "log_floor"], ["floored"]),
        node("Log", ["floored"], ["natural"]),
        node("Mul", ["natural", "log10_of_e"], ["log10"]),
    ]
    last = "log10"
    if features.offset:
        nodes.append(node("Add", ["log10", "offset"], ["shifted"]))
        last = "shifted"
    nodes.append(node("Unsqueeze", [last, "channel"], ["logmel"]))
    graph = helper.make_graph(
        nodes,
        "edgeasd_front_end",
        [helper.make_tensor_value_info("frames", TensorProto.FLOAT, ["N", frames, size])],
        [helper.make_tensor_value_info("logmel", TensorProto.FLOAT, ["N", 1, frames, features.n_mels])],
        [*initialisers, channel],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="edgeasd")
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return model


def _emphasised(basis: npt.NDArray[np.float64], preemphasis: float) -> npt.NDArray[np.float64]:
    """`basis` (n_fft, bins) for samples without pre-emphasis. Its first row is 0, so no earlier sample is needed."""
    if not preemphasis:
        return basis
    following = np.vstack([basis[1:], np.zeros_like(basis[:1])])
    return basis - preemphasis * following


def measure_front_end(bundle: Bundle, sounds: Sequence[Float32Array]) -> FrontEnd:
    """Compare log-mel and scores of clips (n,) float32, in ONNX Runtime on the CPU at fp32.

    The segments of the clip rule are scored from both. Raises InputError without a clip or for one shorter than a
    segment, CheckFailed if a score moves further than a loaded fp32 engine may move it.
    """
    if not sounds:
        raise InputError("--front-end: no clips; name a folder with clips of this machine")
    session = make_session(bundle.file(FRONT_END))
    scorer, _ = bundle.open_scorer(precision="fp32", engine="onnxruntime")
    furthest, moved = 0.0, 0.0
    for sound in sounds:
        expected = logmel(sound, scorer.features, scorer.amplitude)
        frames, length = frame_samples(sound, scorer.features, scorer.amplitude), scorer.segments.frames
        starts = clip_starts(len(expected), scorer.segments)
        # One segment at a time: ten of them, framed, are ten megabytes and their products five times that.
        found = [session.run(None, {"frames": frames[start : start + length][None]})[0][0, 0] for start in starts]
        wanted = np.stack([expected[start : start + length] for start in starts])
        made = np.stack(found)
        furthest = max(furthest, float(np.max(np.abs(made - wanted))) / scorer.features.decade)
        difference = scorer.score_segments(made).score - scorer.score_segments(wanted).score
        moved = max(moved, float(np.max(np.abs(difference))))
    scorer.close()
    if not moved <= LOAD_LIMITS.score:
        raise CheckFailed(
            f"{FRONT_END}: moves a score by {moved:.1e} on these clips (allowed {LOAD_LIMITS.score:.0e}), log-mel by "
            f"{furthest:.1e}: float32 is too coarse for bands as empty as theirs; export without --front-end"
        )
    return FrontEnd(file=FRONT_END, logmel=furthest, score=moved, clips=len(sounds))
