"""ONNX Runtime's front end before its encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgeasd.runtime.engines.onnxruntime import OnnxRuntimeEngine, make_session
from edgeasd.runtime.logmel import Float32Array


class OnnxRuntimeChain:
    """frontend.onnx and an encoder in two sessions on one accelerator. Satisfies base.ChainedEngine."""

    def __init__(self, front_end: Path, encoder: OnnxRuntimeEngine, *, threads: int | None = None) -> None:
        """Raises what `make_session` raises; the encoder is closed with the chain, and by nobody else."""
        self._session: Any = make_session(front_end, accelerator=encoder.accelerator, threads=threads)
        self._input, self._output = self._session.get_inputs()[0].name, self._session.get_outputs()[0].name
        self.encoder = encoder
        self.accelerator, self.precision, self.max_batch = encoder.accelerator, encoder.precision, encoder.max_batch
        self.name = f"{encoder.name}, log-mel by {front_end.name} on {self._session.get_providers()[0]}"

    def logmel(self, frames: Float32Array) -> Float32Array:
        """Normalised frames (N, frames, n_fft) float32 to log-mel (N, 1, frames, n_mels) float32."""
        # One segment at a time: framed it is a megabyte, and its products are five. A batch is no faster on a CPU.
        made = [self._session.run([self._output], {self._input: segment[None]})[0] for segment in frames]
        return made[0] if len(made) == 1 else np.concatenate(made)

    def embed(self, batch: Float32Array) -> Float32Array:
        """Normalised frames (N, 1, frames, n_fft) float32 to embeddings (N, D) float32."""
        return self.encoder.embed(self.logmel(batch[:, 0]))

    def close(self) -> None:
        """Drop both sessions."""
        self._session = None
        self.encoder.close()
