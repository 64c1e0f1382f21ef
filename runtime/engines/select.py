"""Which engine, on which accelerator: what was asked for, what is there, and no third way.

auto is TensorRT where it is installed, and ONNX Runtime on the CPU where it is not. A TensorRT that is there
and does not work is an error and never a reason for the CPU.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.system.board import l4t_release

ENGINES = ("auto", "onnxruntime", "tensorrt")
_ACCELERATOR = re.compile(r"auto|cpu|cuda(:[0-9]{1,3})?")


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """What will be opened. `note`, where there is one, becomes part of the engine's name."""

    engine: str
    """ "onnxruntime" or "tensorrt"."""
    accelerator: str
    """ "cpu", "cuda" or "cuda:K"."""
    note: str = ""


def tensorrt_present() -> bool:
    """Whether a library `tensorrt` is installed, working or not; a folder of type stubs is none."""
    try:
        spec = find_spec("tensorrt")
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None


def select_engine(engine: str = "auto", accelerator: str = "auto", precision: str | None = None) -> EngineChoice:
    """Settle engine and accelerator. Raises InputError for unknown names and for what cannot be together."""
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
    """On a Jetson without TensorRT the CPU is a surprise that should be read at every start."""
    if l4t_release() is None:
        return ""
    return "on a Jetson whose TensorRT this Python does not see (`edgeasd doctor`)"
