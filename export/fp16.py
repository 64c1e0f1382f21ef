"""encoder.fp16.onnx: the float32 encoder with float16 inside, float32 at both ends."""

from __future__ import annotations

import onnx

from edgeasd.calibration.quantization.encoder_parts import prepare
from edgeasd.calibration.quantization.fp16 import to_half
from edgeasd.runtime.bundle.manifest import Tolerance
from edgeasd.runtime.bundle.reference_segments import Deviation

FP16_LIMITS = Tolerance(z=3e-2, logit=3e-2, d=2e-2, score=1e-2)
"""Beyond these an export of fp16 fails; docs/explanation/precision.md says why they are where they are."""

_MARGIN = 4.0


def build_fp16(encoder: onnx.ModelProto) -> onnx.ModelProto:
    """`encoder`, float32 from edgeasd.export.graphs, as a graph that computes in float16.

    Input "logmel" and output "z" stay float32; the batch norm over mel bands and the mean over the
    feature map do too (edgeasd.calibration.quantization.fp16 says why). The graph carries its precision as a
    strongly typed TensorRT network wants it. Same opset, IR version and domains as `encoder`.
    Raises CheckFailed if a weight lies beyond float16.
    """
    return to_half(prepare(encoder))


def load_limits(measured: Deviation) -> Tolerance:
    """What a loaded fp16 engine must keep, from the deviation `measured` at export.

    Four times that, since an engine may sum in float16 where ONNX Runtime's CPU kernels sum in
    float32; never more than FP16_LIMITS, and not less than a quarter of them.
    """
    return Tolerance(
        **{
            name: min(limit, max(limit / 4, _MARGIN * getattr(measured, name)))
            for name, limit in FP16_LIMITS.model_dump().items()
        }
    )
