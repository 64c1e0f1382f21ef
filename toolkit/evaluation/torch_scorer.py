"""A trained network behind the runtime's Scorer, so that training and runtime share one scoring code."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from edgeasd.runtime.logmel import Amplitude, FeatureSettings, Float32Array
from edgeasd.runtime.score import ScoreSettings
from edgeasd.runtime.scorer import Scorer
from edgeasd.runtime.segments import SegmentSettings
from edgeasd.toolkit.models.backbones import Network

UNFITTED = ScoreSettings(
    alpha=0.5, alpha_source="not fitted", d_min=0.0, d_max=1.0, d_min_source="not fitted", d_max_source="not fitted"
)
"""Stands in while q and d are collected that the real constants are fitted from."""


class TorchEngine:
    """The encoder in torch, float32, as an Engine."""

    precision = "fp32"

    def __init__(self, network: Network, max_batch: int = 64) -> None:
        self._encoder = network.encoder.eval()
        self._device = next(network.parameters()).device
        self.name = f"torch {torch.__version__}"
        self.accelerator = str(self._device)
        self.max_batch = max_batch

    @torch.inference_mode()
    def embed(self, batch: Float32Array) -> Float32Array:
        """Segments (N, 1, frames, n_mels) float32 to embeddings (N, D) float32."""
        x = torch.from_numpy(np.ascontiguousarray(batch)).to(self._device)
        embedded: Float32Array = self._encoder(x).cpu().numpy()
        return embedded

    def close(self) -> None:
        """Nothing to free."""


class TorchHead:
    """The head in torch, on the CPU: the same outputs as head.onnx."""

    def __init__(self, network: Network, centroid: Tensor) -> None:
        self._weight = network.head.weight.detach().cpu()[0]
        self._bias = network.head.bias.detach().cpu()[0]
        self._centroid = centroid.detach().cpu()

    @torch.inference_mode()
    def __call__(self, z: Float32Array) -> dict[str, Float32Array]:
        """Embeddings (N, D) to logit, q, p and d, each (N,) float32."""
        embedded = torch.from_numpy(z)
        logit = embedded @ self._weight + self._bias
        d = torch.sum((embedded - self._centroid) ** 2, dim=1)
        outputs = {"logit": logit, "q": torch.sigmoid(-logit), "p": torch.sigmoid(logit), "d": d}
        return {name: tensor.numpy() for name, tensor in outputs.items()}


def torch_scorer(
    network: Network,
    centroid: Tensor,
    features: FeatureSettings,
    amplitude: Amplitude,
    segments: SegmentSettings,
    score: ScoreSettings = UNFITTED,
) -> Scorer:
    """A Scorer over a torch network; `centroid` is c_p, (D,)."""
    return Scorer(TorchEngine(network), TorchHead(network, centroid), features, amplitude, segments, score)
