"""TensorRT's front end before its encoder: two engines, one stream, one CUDA graph a call.

Frames go to the GPU, embeddings come back; log-mel stays there, in a buffer that the one writes and the other reads.
"""

from __future__ import annotations

from pathlib import Path

from edgeasd.runtime.engines.tensorrt.built import read_built
from edgeasd.runtime.engines.tensorrt.engine import gpu_index, the_output
from edgeasd.runtime.engines.tensorrt.machine import this_machine
from edgeasd.runtime.engines.tensorrt.program import Program
from edgeasd.runtime.engines.tensorrt.sidecar import FRONT_END
from edgeasd.runtime.engines.tensorrt.stage import Serialised
from edgeasd.runtime.logmel import Float32Array


class TensorRTChain:
    """Front end and encoder as built engines. Satisfies edgeasd.runtime.engines.base.ChainedEngine."""

    def __init__(
        self, front_end: Serialised, encoder: Serialised, *, precision: str, accelerator: str, max_batch: int
    ) -> None:
        """`precision` is the encoder's. Raises as TensorRTEngine, and BundleError where the two do not fit together."""
        index = gpu_index(accelerator)
        self._program = Program([front_end, encoder], index=index, max_batch=max_batch)
        self._output = the_output(self._program, encoder.place)
        self.accelerator, self.precision, self.max_batch = f"cuda:{index}", precision, max_batch
        gpu = self._program.gpu
        on = f"tensorrt {self._program.version} {gpu.name} (compute capability {gpu.compute_capability})"
        self.name = f"{on}, {self._program.graphs}, log-mel by {front_end.place} on the same stream"
        self.encoder = EncoderOfChain(self._program, self._output, on, precision, self.accelerator)

    def logmel(self, frames: Float32Array) -> Float32Array:
        """Normalised frames (N, frames, n_fft) float32 to log-mel (N, 1, frames, n_mels) float32."""
        (made,) = self._program.part(frames, 0, 1).values()
        return made

    def embed(self, batch: Float32Array) -> Float32Array:
        """Normalised frames (N, 1, frames, n_fft) float32 to embeddings (N, D) float32."""
        return self._program(batch[:, 0])[self._output]

    def close(self) -> None:
        """Free the GPU."""
        self._program.close()


class EncoderOfChain:
    """The encoder of a chain from log-mel, without a graph: for the golden segments. Freed with the chain."""

    def __init__(self, program: Program, output: str, on: str, precision: str, accelerator: str) -> None:
        self._program, self._output = program, output
        self.name, self.precision, self.accelerator = on, precision, accelerator
        self.max_batch = program.max_batch

    def embed(self, batch: Float32Array) -> Float32Array:
        """Log-mel segments (N, 1, frames, n_mels) float32 to embeddings (N, D) float32."""
        return self._program.part(batch, 1, 2)[self._output]

    def close(self) -> None:
        """Nothing: the chain is what holds the GPU."""


def open_built_chain(
    bundle: Path,
    precision: str,
    accelerator: str,
    *,
    onnx_sha256: str,
    front_end_sha256: str,
    max_batch: int = 10,
) -> TensorRTChain:
    """As `open_built`, with the engine built from the front end whose hash is given before the encoder."""
    index = gpu_index(accelerator)
    machine = this_machine(index)
    encoder = read_built(bundle, precision, machine, onnx_sha256=onnx_sha256, index=index)
    front = read_built(bundle, "fp32", machine, onnx_sha256=front_end_sha256, part=FRONT_END, index=index)
    return TensorRTChain(
        Serialised.of(front.path, front.plan),
        Serialised.of(encoder.path, encoder.plan),
        precision=precision,
        accelerator=accelerator,
        max_batch=min(max_batch, encoder.sidecar.max_batch, front.sidecar.max_batch),
    )
