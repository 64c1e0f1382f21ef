"""Engines: what turns log-mel segments into embeddings. `open_engine` picks one and says which."""

from __future__ import annotations

from pathlib import Path

from edgeasd.runtime.engines.base import Engine
from edgeasd.runtime.errors import DeviceError, InputError

__all__ = ["ENGINES", "Engine", "open_engine"]

ENGINES = ("auto", "onnxruntime", "tensorrt")


def open_engine(
    model: Path,
    *,
    precision: str,
    engine: str = "auto",
    accelerator: str = "cpu",
    threads: int | None = None,
    max_batch: int = 10,
) -> Engine:
    """Load `model` on the engine asked for; "auto" means ONNX Runtime, which the engine's name states.

    Raises InputError for an unknown name and DeviceError for an engine that is not available here.
    """
    if engine not in ENGINES:
        raise InputError(f"--engine {engine}: unknown; use one of {', '.join(ENGINES)}")
    if engine == "tensorrt":
        raise DeviceError(
            "--engine tensorrt: this version of edgeasd has no TensorRT engine yet; use --engine onnxruntime"
        )
    from edgeasd.runtime.engines.onnxruntime import OnnxRuntimeEngine, optimisation_of

    return OnnxRuntimeEngine(
        model,
        precision=precision,
        accelerator=accelerator,
        threads=threads,
        optimisation=optimisation_of(precision),
        max_batch=max_batch,
    )
