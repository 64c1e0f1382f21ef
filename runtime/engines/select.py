"""Selects and opens the engine that runs an encoder.

`auto` is TensorRT if it is installed, else ONNX Runtime on the CPU. A TensorRT that is installed and does not work
is an error; the CPU is never taken silently instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from edgeasd.runtime.engines.base import Engine, EngineWithFrontEnd
from edgeasd.runtime.errors import DeviceError, InputError
from edgeasd.runtime.system.board import l4t_release

if TYPE_CHECKING:
    from edgeasd.runtime.engines.onnxruntime import OnnxRuntimeEngine

ENGINES = ("auto", "onnxruntime", "tensorrt")
_ACCELERATOR = re.compile(r"auto|cpu|cuda(:[0-9]{1,3})?")


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """The engine to open. `note`, if any, becomes part of its name."""

    engine: str
    """ "onnxruntime" or "tensorrt"."""
    accelerator: str
    """ "cpu", "cuda" or "cuda:K"."""
    note: str = ""


def tensorrt_present() -> bool:
    """Whether a library `tensorrt` is installed, working or not. A folder of type stubs does not count."""
    try:
        spec = find_spec("tensorrt")
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None


def select_engine(engine: str = "auto", accelerator: str = "auto", precision: str | None = None) -> EngineChoice:
    """Select engine and accelerator. Raises InputError for unknown names and for combinations that cannot run."""
    if engine not in ENGINES:
        raise InputError(f"--engine {engine}: unknown; use one of {', '.join(ENGINES)}")
    if not _ACCELERATOR.fullmatch(accelerator):
        raise InputError(f"--accelerator {accelerator}: unknown; use auto, cpu, cuda or cuda:0")
    if precision == "int8-cpu" and engine == "tensorrt":
        raise InputError(
            "--precision int8-cpu: is for ONNX Runtime on a CPU, TensorRT runs int8; "
            "use --precision int8, or --engine onnxruntime"
        )
    if precision == "int8-cpu" and accelerator.startswith("cuda"):
        raise InputError(
            f"--precision int8-cpu: is for ONNX Runtime on a CPU, not for {accelerator}; use --accelerator cpu"
        )
    if engine == "tensorrt" and accelerator == "cpu":
        raise InputError("--accelerator cpu: TensorRT runs on a GPU; use --accelerator cuda:0, or --engine onnxruntime")
    asked_for_cpu = accelerator == "cpu" or precision == "int8-cpu"
    if engine == "tensorrt" or (engine == "auto" and not asked_for_cpu and tensorrt_present()):
        return EngineChoice("tensorrt", "cuda:0" if accelerator == "auto" else accelerator)
    note = _note() if engine == "auto" and accelerator == "auto" and not asked_for_cpu else ""
    return EngineChoice("onnxruntime", "cpu" if accelerator == "auto" else accelerator, note)


def _note() -> str:
    """On a Jetson, running on the CPU for want of TensorRT is said at every start."""
    if l4t_release() is None:
        return ""
    return "on a Jetson whose TensorRT this Python does not see (`edgeasd doctor`)"


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
    """Open the encoder `model`, an ONNX file of a bundle folder, on the engine asked for.

    TensorRT loads the engine built from it, in engines/ beside it; `onnx_sha256` is the hash of `model`.
    Raises InputError for unknown names and impossible combinations, DeviceError for an engine that is not available,
    and NotBuilt, a DeviceError, if `edgeasd build` would make it.
    """
    chosen = select_engine(engine, accelerator, precision)
    if chosen.engine == "tensorrt":
        _refuse_threads(threads, engine)
        from edgeasd.runtime.engines.tensorrt.engine import open_built

        with _named_option(engine):
            sha256 = _required(onnx_sha256)
            return open_built(model.parent, precision, chosen.accelerator, onnx_sha256=sha256, max_batch=max_batch)
    return _open_onnxruntime(model, precision, chosen, threads, max_batch)


def open_engine_with_front_end(
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
    """As `open_engine`, with the graph `front_end` of the same folder before the encoder, on the same accelerator.

    `front_end_sha256` is its hash.
    """
    chosen = select_engine(engine, accelerator, precision)
    if chosen.engine == "tensorrt":
        _refuse_threads(threads, engine)
        from edgeasd.runtime.engines.tensorrt.engine import open_built_with_front_end

        with _named_option(engine):
            return open_built_with_front_end(
                model.parent,
                precision,
                chosen.accelerator,
                onnx_sha256=_required(onnx_sha256),
                front_end_sha256=_required(front_end_sha256),
                max_batch=max_batch,
            )
    from edgeasd.runtime.engines.onnxruntime import OnnxRuntimeWithFrontEnd

    return OnnxRuntimeWithFrontEnd(
        front_end, _open_onnxruntime(model, precision, chosen, threads, max_batch), threads=threads
    )


def _open_onnxruntime(
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
def _named_option(asked: str) -> Iterator[None]:
    """Adds to a DeviceError of TensorRT which option asked for it."""
    from edgeasd.runtime.engines.tensorrt.engine_file import NotBuilt

    try:
        yield
    except NotBuilt:
        raise
    except DeviceError as error:
        if asked == "auto":
            raise DeviceError(f"{error}; --engine onnxruntime asks for the CPU instead") from None
        raise DeviceError(f"--engine {asked}: {error}") from None
