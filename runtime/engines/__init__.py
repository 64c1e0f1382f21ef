"""Engines: what turns log-mel segments into embeddings. `open_engine` opens one that says what it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgeasd.runtime.engines.base import Engine, EngineWithFrontEnd
from edgeasd.runtime.engines.select import ENGINES, EngineChoice, select_engine
from edgeasd.runtime.errors import DeviceError, InputError

if TYPE_CHECKING:
    from edgeasd.runtime.engines.onnxruntime import OnnxRuntimeEngine

__all__ = ["ENGINES", "Engine", "EngineChoice", "EngineWithFrontEnd", "open_chain", "open_engine", "select_engine"]


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
    chosen = select_engine(engine, accelerator, precision)
    if chosen.engine == "tensorrt":
        _refuse_threads(threads, engine)
        from edgeasd.runtime.engines.tensorrt.engine import open_built

        with _as_asked(engine):
            sha256 = _required(onnx_sha256)
            return open_built(model.parent, precision, chosen.accelerator, onnx_sha256=sha256, max_batch=max_batch)
    return _on_onnxruntime(model, precision, chosen, threads, max_batch)


def open_chain(
    model: Path,
    front_end: Path,
    *,
    precision: str,
    engine: str = "auto",
    accelerator: str = "auto",
    threads: int | None = None,
    max_batch: int = 10,
    onnx_sha256: str | None = None,
    front_end_sha256: str | None = None,
) -> EngineWithFrontEnd:
    """As `open_engine`, with the graph `front_end` of the same folder before the encoder, on the same accelerator."""
    chosen = select_engine(engine, accelerator, precision)
    if chosen.engine == "tensorrt":
        _refuse_threads(threads, engine)
        from edgeasd.runtime.engines.tensorrt.engine import open_built_chain

        with _as_asked(engine):
            return open_built_chain(
                model.parent,
                precision,
                chosen.accelerator,
                onnx_sha256=_required(onnx_sha256),
                front_end_sha256=_required(front_end_sha256),
                max_batch=max_batch,
            )
    from edgeasd.runtime.engines.onnxruntime import OnnxRuntimeChain

    return OnnxRuntimeChain(front_end, _on_onnxruntime(model, precision, chosen, threads, max_batch), threads=threads)


def _on_onnxruntime(
    model: Path, precision: str, chosen: EngineChoice, threads: int | None, max_batch: int
) -> OnnxRuntimeEngine:
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


def _refuse_threads(threads: int | None, asked: str) -> None:
    if threads is not None and asked == "tensorrt":
        raise InputError(f"--threads {threads}: is for ONNX Runtime, TensorRT runs on the GPU; leave it out")


def _required(onnx_sha256: str | None) -> str:
    if onnx_sha256 is None:
        raise ValueError("TensorRT: a sha256 says which engine belongs to a model; give it")
    return onnx_sha256


@contextmanager
def _as_asked(asked: str) -> Iterator[None]:
    """What TensorRT lacks, said to whoever asked for `asked`."""
    from edgeasd.runtime.engines.tensorrt.engine_file import NotBuilt

    try:
        yield
    except NotBuilt:
        raise
    except DeviceError as error:
        if asked == "auto":
            raise DeviceError(f"{error}; --engine onnxruntime asks for the CPU instead") from None
        raise DeviceError(f"--engine {asked}: {error}") from None
