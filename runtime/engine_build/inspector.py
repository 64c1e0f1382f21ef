"""The precision of each layer of a built engine, read from TensorRT's engine inspector.

The inspector's JSON is not documented and changes with the version. What cannot be read counts as "unknown", never as
an error or a precision.
Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/infer/Core/EngineInspector.html
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edgeasd.runtime.engines.tensorrt import library
from edgeasd.runtime.engines.tensorrt.library import make_logger
from edgeasd.runtime.errors import DeviceError

if TYPE_CHECKING:
    import tensorrt

UNKNOWN = "unknown"
_PRECISIONS = {
    "INT8": re.compile(r"\bint8\b|i8i8"),
    "BF16": re.compile(r"\bbf16\b|bfloat16"),
    "FP16": re.compile(r"\bfp16\b|\bhalf\b|\bfloat16\b|f16f16"),
    "FP32": re.compile(r"\bfp32\b|\bfloat(32)?\b|f32f32"),
}
_COPIES = re.compile(r"reformat|no-?op|constant|shuffle|quantize|scale", re.IGNORECASE)
"""Kinds of layers that only prepare a convolution's operands and may carry its name."""


@dataclass(frozen=True, slots=True)
class EngineLayer:
    """One layer of a built engine, which may be several of the graph."""

    name: str
    kind: str
    precision: str
    origin: str
    """The layers of the graph it came from, if the inspector names them."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """Layers counted by precision, and the precisions of the convolutions that should run as INT8."""

    layers: dict[str, int] = field(default_factory=dict)
    int8: tuple[str, ...] = ()
    other: dict[str, str] = field(default_factory=dict)
    """Convolution to the precision it got instead."""
    unknown: tuple[str, ...] = ()
    """Convolutions that the inspector's answer does not name."""


def ask_inspector(trt: ModuleType, engine_path: Path) -> str:
    """The inspector's JSON of an engine file. Raises DeviceError if TensorRT cannot load the engine."""
    errors = list[str]()
    logger = make_logger(trt, errors)
    with library.without_collection():
        runtime: tensorrt.Runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(engine_path.read_bytes())
    if engine is None:
        reason = errors[0] if errors else "without a reason"
        raise DeviceError(
            f"{engine_path.name}: TensorRT {library.version(trt)} built it and cannot load it ({reason}); "
            "`edgeasd doctor` looks at driver and GPU"
        )
    inspector = engine.create_engine_inspector()
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def inspect(text: str, quantised: Iterable[str]) -> Inspection:
    """Read the inspector's JSON; `quantised` are the graph's convolutions that should be INT8."""
    layers = parse_layers(text)
    int8, other, unknown = list[str](), dict[str, str](), list[str]()
    for name in quantised:
        found = _precision_of(name, layers)
        if found == "INT8":
            int8.append(name)
        elif found == UNKNOWN:
            unknown.append(name)
        else:
            other[name] = found
    counted = Counter(layer.precision for layer in layers)
    return Inspection(dict(sorted(counted.items())), tuple(int8), other, tuple(unknown))


def parse_layers(text: str) -> list[EngineLayer]:
    """Layers of the inspector's JSON; empty if it does not have the expected form."""
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError):
        return []
    listed = raw.get("Layers") if isinstance(raw, dict) else None
    entries = listed if isinstance(listed, list) else []
    # An engine built without details lists names alone.
    return [_layer(entry if isinstance(entry, dict) else {"Name": entry}) for entry in entries]


def _layer(entry: dict[str, Any]) -> EngineLayer:
    weights = entry.get("Weights")
    evidence = [
        # Inputs say more than outputs: an INT8 convolution often writes FP16.
        weights.get("Type") if isinstance(weights, dict) else None,
        entry.get("TacticName"),
        *_types(entry.get("Inputs")),
        *_types(entry.get("Outputs")),
    ]
    precision = next((name for said in evidence if (name := _precision(said)) != UNKNOWN), UNKNOWN)
    kind = " ".join(str(entry[key]) for key in ("LayerType", "ParameterType") if key in entry)
    return EngineLayer(str(entry.get("Name", "")), kind, precision, str(entry.get("Metadata", "")))


def _types(tensors: object) -> list[object]:
    entries = tensors if isinstance(tensors, list) else []
    return [e.get("Format/Datatype") or e.get("Datatype") or e.get("Format") for e in entries if isinstance(e, dict)]


def _precision(said: object) -> str:
    text = said.lower() if isinstance(said, str) else ""
    return next((name for name, pattern in _PRECISIONS.items() if pattern.search(text)), UNKNOWN)


def _precision_of(convolution: str, layers: list[EngineLayer]) -> str:
    """Precision of the layer that contains a convolution; INT8 if one of several is."""
    whole = re.compile(rf"(?<![\w./-]){re.escape(convolution)}(?![\w./-])")
    found = {
        layer.precision
        for layer in layers
        if (whole.search(layer.name) or whole.search(layer.origin)) and not _COPIES.search(layer.kind)
    } - {UNKNOWN}
    if "INT8" in found or not found:
        return "INT8" if found else UNKNOWN
    return sorted(found)[0]
