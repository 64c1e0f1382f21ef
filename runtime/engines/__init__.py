"""Engines: what turns log-mel segments into embeddings. `open_engine` opens one that says what it is."""

from __future__ import annotations

from pathlib import Path

from edgeasd.runtime.engines.base import Engine
from edgeasd.runtime.engines.choice import ENGINES, EngineChoice, choose_engine
from edgeasd.runtime.errors import DeviceError, InputError

__all__ = ["ENGINES", "Engine", "EngineChoice", "choose_engine", "open_engine"]


def open_engine(
    model: Path,
    *,
    precision: str,
    engine: str = "auto",
    accelerator: str = "auto",
    threads: int | None = None,
    max_batch: int = 10,
    onnx_sha256: str | None = None,
) -> Engine:
    """Load the encoder `model`, an ONNX file of a bundle folder, on the engine asked for.

    For TensorRT that is the engine built from it, in engines/ beside it, and `onnx_sha256` is its hash.
    Raises InputError for names that are unknown or do not go together, and DeviceError for an engine that is not
    available here; NotBuilt, one of these, where `edgeasd build` would make it.
    """
    chosen = choose_engine(engine, accelerator, precision)
    if chosen.engine == "tensorrt":
        if threads is not None and engine == "tensorrt":
            raise InputError(f"--threads {threads}: is for ONNX Runtime, TensorRT runs on the GPU; leave it out")
        if onnx_sha256 is None:
            raise ValueError("TensorRT: onnx_sha256 says which engine belongs to the model; give it")
        return _open_built(model.parent, precision, chosen, engine, onnx_sha256, max_batch)
    from edgeasd.runtime.engines.onnxruntime import OnnxRuntimeEngine, optimisation_of

    opened = OnnxRuntimeEngine(
        model,
        precision=precision,
        accelerator=chosen.accelerator,
        threads=threads,
        optimisation=optimisation_of(precision),
        max_batch=max_batch,
    )
    if chosen.note:
        opened.name += f", {chosen.note}"
    return opened


def _open_built(bundle: Path, precision: str, chosen: EngineChoice, asked: str, sha256: str, max_batch: int) -> Engine:
    from edgeasd.runtime.engines.tensorrt.built import NotBuilt
    from edgeasd.runtime.engines.tensorrt.engine import open_built

    try:
        return open_built(bundle, precision, chosen.accelerator, onnx_sha256=sha256, max_batch=max_batch)
    except NotBuilt:
        raise
    except DeviceError as error:
        if asked == "auto":
            raise DeviceError(f"{error}; --engine onnxruntime asks for the CPU instead") from None
        raise DeviceError(f"--engine {asked}: {error}") from None
