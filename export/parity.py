"""ONNX against torch on real segments, and the limits of their difference."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from edgeasd.runtime.bundle.manifest import Tolerance
from edgeasd.runtime.bundle.reference_segments import ReferenceSegments
from edgeasd.runtime.features.logmel import Float32Array

EXPORT_LIMITS = Tolerance(z=1e-5, logit=1e-4, d=1e-4, score=1e-4)
"""Beyond these an export fails: max|Δz| / max|z|, |Δℓ| / (1 + |ℓ|), |Δd| / (d_max - d_min), |Δs|."""

LOAD_LIMITS = Tolerance(z=1e-4, logit=1e-3, d=1e-3, score=1e-3)
"""What a loaded fp32 engine must keep. Wider than EXPORT_LIMITS: other processors sum in another order."""

_BATCH = 8


@torch.no_grad()
def torch_reference(
    encoder: nn.Module, weight: Tensor, bias: Tensor, centroid: Tensor, segments: Float32Array
) -> ReferenceSegments:
    """Outputs of the torch model for log-mel segments (G, frames, n_mels), on the CPU in float32."""
    encoder = encoder.eval().cpu()
    batches = torch.from_numpy(np.ascontiguousarray(segments))[:, None].split(_BATCH)
    z = torch.cat([encoder(batch) for batch in batches])
    logit = z @ weight.cpu() + bias.cpu()
    d = torch.sum((z - centroid.cpu()) ** 2, dim=1)
    return ReferenceSegments(segments, z.numpy(), logit.numpy(), torch.sigmoid(-logit).numpy(), d.numpy())
