"""The engines that run in TensorRT: encoder, head, front end, and front end with encoder."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from edgeasd.runtime.engines.tensorrt.engine_file import FRONT_END, read_built, this_machine
from edgeasd.runtime.engines.tensorrt.execution import ExecutionPipeline, SerializedEngine
from edgeasd.runtime.errors import BundleError, InputError
from edgeasd.runtime.features.logmel import Float32Array

_GPU = re.compile(r"cuda(:(?P<index>[0-9]{1,3}))?")


def gpu_index(accelerator: str, why: str = "TensorRT runs on a GPU; use cuda:0, or --engine onnxruntime") -> int:
    """0 of "cuda", K of "cuda:K". Raises InputError with `why` for anything else."""
    found = _GPU.fullmatch(accelerator)
    if found is None:
        raise InputError(f"--accelerator {accelerator}: {why}")
    return int(found["index"] or 0)


class TensorRTEngine:
    """The encoder as a built engine. Satisfies edgeasd.runtime.engines.base.Engine.

    No sidecar is compared here; `engine_file.read_built` does that first.
    """

    def __init__(
        self,
        engine_path: Path,
        *,
        precision: str,
        accelerator: str = "cuda:0",
        max_batch: int = 10,
        plan: bytes | None = None,
    ) -> None:
        """Load the engine at `engine_path`; `plan` is its bytes if they have been read already.

        Runs and records every batch size once, so that no later call is slow. Raises DeviceError without TensorRT,
        CUDA or the GPU and if TensorRT refuses the engine, InputError if it was built for less than `max_batch`.
        """
        index = gpu_index(accelerator)
        serialized = SerializedEngine.of(engine_path, plan)
        self._pipeline = ExecutionPipeline([serialized], index=index, max_batch=max_batch)
        self._output = only_output(self._pipeline, serialized.place)
        self.accelerator = f"cuda:{index}"
        self.precision = precision
        self.max_batch = max_batch
        gpu = self._pipeline.gpu
        self.name = (
            f"tensorrt {self._pipeline.version} {gpu.name} (compute capability {gpu.compute_capability}), "
            f"{self._pipeline.graphs}"
        )

    def embed(self, batch: Float32Array) -> Float32Array:
        """Segments (N, 1, frames, n_mels) float32 to embeddings (N, D) float32."""
        return self._pipeline(batch)[self._output]

    def close(self) -> None:
        """Free the GPU."""
        self._pipeline.close()


def only_output(pipeline: ExecutionPipeline, place: str, what: str = "an encoder") -> str:
    """Name of a pipeline's only output. Raises BundleError, and closes the pipeline, if it has several."""
    outputs = pipeline.io.outputs
    if len(outputs) != 1:
        pipeline.close()
        raise BundleError(f"{place}: {len(outputs)} outputs, {what} has one; build again with `edgeasd build`")
    return outputs[0].name


class TensorRTHead:
    """The head as an engine of its own: embeddings (N, D) float32 to logit, q, p, d and d_prime, each (N,) float32."""

    def __init__(self, engine_path: Path, *, accelerator: str, max_batch: int, plan: bytes | None = None) -> None:
        """As for TensorRTEngine."""
        serialized = SerializedEngine.of(engine_path, plan)
        self._pipeline = ExecutionPipeline([serialized], index=gpu_index(accelerator), max_batch=max_batch)
        self.graphs = self._pipeline.graphs
        missing = {"logit", "q", "d"} - {tensor.name for tensor in self._pipeline.io.outputs}
        if missing:
            self._pipeline.close()
            raise BundleError(
                f"{serialized.place}: without {', '.join(sorted(missing))}; build again with `edgeasd build`"
            )

    def __call__(self, z: Float32Array) -> dict[str, Float32Array]:
        """All outputs by name, in as many batches as needed."""
        limit = self._pipeline.max_batch
        parts = [self._pipeline(z[start : start + limit]) for start in range(0, len(z), limit)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def close(self) -> None:
        """Free the GPU."""
        self._pipeline.close()


class TensorRTFrontEnd:
    """The front end alone as a built engine, to verify it. In use it runs in front of the encoder."""

    def __init__(self, engine_path: Path, *, accelerator: str, max_batch: int) -> None:
        """As for TensorRTEngine."""
        serialized = SerializedEngine.of(engine_path)
        self._pipeline = ExecutionPipeline([serialized], index=gpu_index(accelerator), max_batch=max_batch)
        self._output = only_output(self._pipeline, serialized.place, "a front end")

    def logmel(self, frames: Float32Array) -> Float32Array:
        """Normalised frames (N, frames, n_fft) float32 to log-mel (N, 1, frames, n_mels) float32."""
        return self._pipeline(frames)[self._output]

    def close(self) -> None:
        """Free the GPU."""
        self._pipeline.close()


def open_built(
    bundle: Path, precision: str, accelerator: str, *, onnx_sha256: str, max_batch: int = 10
) -> TensorRTEngine:
    """Open the engine built from the encoder with this hash, after comparing its sidecar with this machine.

    Takes batches up to `max_batch`, or as large as it was built for. Raises NotBuilt if no engine fits, and as
    TensorRTEngine.
    """
    index = gpu_index(accelerator)
    built = read_built(bundle, precision, this_machine(index), onnx_sha256=onnx_sha256, index=index)
    most = min(max_batch, built.sidecar.max_batch)
    return TensorRTEngine(built.path, precision=precision, accelerator=accelerator, max_batch=most, plan=built.plan)


def open_built_head(bundle: Path, accelerator: str, *, onnx_sha256: str, max_batch: int = 10) -> TensorRTHead:
    """As `open_built`, for the head."""
    index = gpu_index(accelerator)
    built = read_built(bundle, "fp32", this_machine(index), onnx_sha256=onnx_sha256, part="head", index=index)
    most = min(max_batch, built.sidecar.max_batch)
    return TensorRTHead(built.path, accelerator=accelerator, max_batch=most, plan=built.plan)


class TensorRTWithFrontEnd:
    """Front end and encoder as built engines. Satisfies edgeasd.runtime.engines.base.EngineWithFrontEnd."""

    def __init__(
        self,
        front_end: SerializedEngine,
        encoder: SerializedEngine,
        *,
        precision: str,
        accelerator: str,
        max_batch: int,
    ) -> None:
        """`precision` is the encoder's. Raises as TensorRTEngine, and BundleError if the two do not fit together."""
        index = gpu_index(accelerator)
        self._pipeline = ExecutionPipeline([front_end, encoder], index=index, max_batch=max_batch)
        self._output = only_output(self._pipeline, encoder.place)
        self.accelerator, self.precision, self.max_batch = f"cuda:{index}", precision, max_batch
        gpu = self._pipeline.gpu
        on = f"tensorrt {self._pipeline.version} {gpu.name} (compute capability {gpu.compute_capability})"
        self.name = f"{on}, {self._pipeline.graphs}, log-mel by {front_end.place} on the same stream"
        self.encoder = PipelineEncoder(self._pipeline, self._output, on, precision, self.accelerator)

    def logmel(self, frames: Float32Array) -> Float32Array:
        """Normalised frames (N, frames, n_fft) float32 to log-mel (N, 1, frames, n_mels) float32."""
        (logmel,) = self._pipeline.part(frames, 0, 1).values()
        return logmel

    def embed(self, batch: Float32Array) -> Float32Array:
        """Normalised frames (N, 1, frames, n_fft) float32 to embeddings (N, D) float32."""
        return self._pipeline(batch[:, 0])[self._output]

    def close(self) -> None:
        """Free the GPU."""
        self._pipeline.close()


class PipelineEncoder:
    """The encoder of a pipeline with a front end, from log-mel and without a graph, for the reference segments."""

    def __init__(self, pipeline: ExecutionPipeline, output: str, on: str, precision: str, accelerator: str) -> None:
        self._pipeline, self._output = pipeline, output
        self.name, self.precision, self.accelerator = on, precision, accelerator
        self.max_batch = pipeline.max_batch

    def embed(self, batch: Float32Array) -> Float32Array:
        """Log-mel segments (N, 1, frames, n_mels) float32 to embeddings (N, D) float32."""
        return self._pipeline.part(batch, 1, 2)[self._output]

    def close(self) -> None:
        """Nothing: the pipeline is closed with the engine it belongs to."""


def open_built_with_front_end(
    bundle: Path,
    precision: str,
    accelerator: str,
    *,
    onnx_sha256: str,
    front_end_sha256: str,
    max_batch: int = 10,
) -> TensorRTWithFrontEnd:
    """As `open_built`, with the engine built from the front end with this hash before the encoder."""
    index = gpu_index(accelerator)
    machine = this_machine(index)
    encoder = read_built(bundle, precision, machine, onnx_sha256=onnx_sha256, index=index)
    front = read_built(bundle, "fp32", machine, onnx_sha256=front_end_sha256, part=FRONT_END, index=index)
    return TensorRTWithFrontEnd(
        SerializedEngine.of(front.path, front.plan),
        SerializedEngine.of(encoder.path, encoder.plan),
        precision=precision,
        accelerator=accelerator,
        max_batch=min(max_batch, encoder.sidecar.max_batch, front.sidecar.max_batch),
    )
