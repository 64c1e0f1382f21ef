"""The engine that runs in ONNX Runtime. All sessions are made here.

Source: https://onnxruntime.ai/docs/api/python/api_summary.html
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeasd.runtime.errors import DeviceError, InputError, printable
from edgeasd.runtime.features.logmel import Float32Array

if TYPE_CHECKING:
    import onnxruntime


_LARGE_MODEL_BYTES = 32 * 1024 * 1024
"""Larger models are optimised at the extended level only: see `optimisation_for`."""

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_ACCELERATOR = re.compile(r"cpu|cuda(:[0-9]{1,3})?")


def default_threads() -> int:
    """Processors this process may use, the default number of threads."""
    return len(os.sched_getaffinity(0))


def has_cuda() -> bool:
    """Whether this ONNX Runtime lists the CUDA provider. Only loading a session proves that it works."""
    import onnxruntime as ort

    return _PROVIDERS["cuda"] in ort.get_available_providers()


def optimisation_for(model_bytes: int) -> str:
    """ "all" for small models, "extended" for large ones.

    The level above extended re-packs convolution weights for the CPU and keeps both copies while it
    does: for ResNet38 the peak of loading more than doubles (from 1.8 to 4.1 times the weights) and
    100 MiB more stay, for about a fifth of a segment's time. A small model pays 1 MiB for it. The
    figures are in docs/results/runtime.md, made by benchmarks/bench_load.py.
    """
    return "extended" if model_bytes >= _LARGE_MODEL_BYTES else "all"


def optimisation_of(precision: str) -> str | None:
    """Level for a precision; None leaves it to the size of the file.

    fp16 and int8 are made for TensorRT and run here without optimisation: ONNX Runtime's optimiser miscomputes
    graphs of float16 with Q/DQ on the CPU. int8-cpu needs level "all": only then Q/DQ become integer kernels.
    """
    return {"fp16": "none", "int8": "none", "int8-cpu": "all"}.get(precision)


def make_session(
    model: Path | bytes,
    *,
    accelerator: str = "cpu",
    threads: int | None = None,
    optimisation: str | None = None,
) -> onnxruntime.InferenceSession:
    """Load an ONNX file or its bytes. Raises DeviceError for an accelerator that is not available.

    `accelerator` is "cpu", "cuda" or "cuda:K". A provider that ONNX Runtime lists but drops while loading counts
    as not available: nothing falls back to the CPU silently.
    """
    import onnxruntime as ort

    size = len(model) if isinstance(model, bytes) else model.stat().st_size
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or default_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    levels = {
        "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
        "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
        "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
        "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    }
    options.graph_optimization_level = levels[optimisation or optimisation_for(size)]
    # With a small net at one segment every 192 ms, worker threads that spin between runs take a fifth of a
    # core from an idle device and are no faster (docs/results/runtime.md).
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not _ACCELERATOR.fullmatch(accelerator):
        raise InputError(f"--accelerator {accelerator}: unknown; use cpu, cuda or cuda:0")
    kind, _, index = accelerator.partition(":")
    wanted = _PROVIDERS[kind]
    if wanted not in ort.get_available_providers():
        raise DeviceError(
            f"--accelerator {accelerator}: this ONNX Runtime {ort.__version__} has no {wanted} "
            f"(it has {', '.join(ort.get_available_providers())}); install onnxruntime-gpu or use --accelerator cpu"
        )
    provider_options: dict[str, Any] = {}
    if kind == "cuda":
        provider_options = {"device_id": index or "0", "use_tf32": "0"}
    source = model if isinstance(model, bytes) else str(model)
    try:
        session = ort.InferenceSession(source, options, providers=[(wanted, provider_options)])
    except Exception as error:
        # ONNX Runtime's exception classes share no public base; only the message says what is wrong.
        place, reason = "model" if isinstance(model, bytes) else model.name, printable(error, 300)
        raise InputError(
            f"{place}: ONNX Runtime {ort.__version__} cannot load it ({reason}); export it again"
        ) from None
    if not session.get_inputs() or not session.get_outputs():
        place = "model" if isinstance(model, bytes) else model.name
        raise InputError(f"{place}: a graph without inputs or outputs, so no model of a bundle; export it again")
    if session.get_providers()[0] != wanted:
        raise DeviceError(
            f"--accelerator {accelerator}: ONNX Runtime lists {wanted} but loaded {session.get_providers()[0]}; "
            "check the CUDA and cuDNN libraries or use --accelerator cpu"
        )
    return session


class OnnxRuntimeEngine:
    """The encoder in an ONNX Runtime session. Satisfies edgeasd.runtime.engines.base.Engine."""

    def __init__(
        self,
        model: Path | bytes,
        *,
        precision: str = "fp32",
        accelerator: str = "cpu",
        threads: int | None = None,
        optimisation: str | None = None,
        max_batch: int = 10,
    ) -> None:
        import onnxruntime as ort

        self._session: Any = make_session(model, accelerator=accelerator, threads=threads, optimisation=optimisation)
        self._input = self._session.get_inputs()[0].name
        self._outputs = [self._session.get_outputs()[0].name]
        self.accelerator = accelerator
        self.precision = precision
        self.max_batch = max_batch
        count = threads or default_threads()
        provider = self._session.get_providers()[0]
        as_written = ", graph not optimised" if optimisation == "none" else ""
        self.name = f"onnxruntime {ort.__version__} {provider} {count} thread{'s' if count > 1 else ''}{as_written}"

    def embed(self, batch: Float32Array) -> Float32Array:
        """Segments (N, 1, frames, n_mels) float32 to embeddings (N, D) float32."""
        result: Float32Array = self._session.run(self._outputs, {self._input: batch})[0]
        return result

    def close(self) -> None:
        """Free the session."""
        self._session = None


class OnnxRuntimeWithFrontEnd:
    """frontend.onnx and an encoder in two sessions on one accelerator. Satisfies base.EngineWithFrontEnd."""

    def __init__(self, front_end: Path, encoder: OnnxRuntimeEngine, *, threads: int | None = None) -> None:
        """Raises as `make_session`. The encoder is closed with this engine and must not be closed alone."""
        self._session: Any = make_session(front_end, accelerator=encoder.accelerator, threads=threads)
        self._input, self._output = self._session.get_inputs()[0].name, self._session.get_outputs()[0].name
        self.encoder = encoder
        self.accelerator, self.precision, self.max_batch = encoder.accelerator, encoder.precision, encoder.max_batch
        self.name = f"{encoder.name}, log-mel by {front_end.name} on {self._session.get_providers()[0]}"

    def logmel(self, frames: Float32Array) -> Float32Array:
        """Normalised frames (N, frames, n_fft) float32 to log-mel (N, 1, frames, n_mels) float32."""
        # One segment at a time: its frames take 1 MB and its products 5 MB, and a batch is no faster on a CPU.
        segments = [self._session.run([self._output], {self._input: segment[None]})[0] for segment in frames]
        return segments[0] if len(segments) == 1 else np.concatenate(segments)

    def embed(self, batch: Float32Array) -> Float32Array:
        """Normalised frames (N, 1, frames, n_fft) float32 to embeddings (N, D) float32."""
        return self.encoder.embed(self.logmel(batch[:, 0]))

    def close(self) -> None:
        """Free both sessions."""
        self._session = None
        self.encoder.close()
