"""The variants to measure: every precision of a bundle on every engine and accelerator that may run it.

A combination that is left out stays in the result, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeasd.runtime.bundle.manifest import Manifest
from edgeasd.runtime.engines import ENGINES
from edgeasd.runtime.engines.onnxruntime import has_cuda
from edgeasd.runtime.engines.tensorrt import library
from edgeasd.runtime.engines.tensorrt.engine_file import engine_paths
from edgeasd.runtime.errors import InputError

FOR_TENSORRT = ("fp16", "int8")
FOR_ONNXRUNTIME = ("int8-cpu",)
REFERENCE = "not optimised by ONNX Runtime, which miscomputes such graphs when it is: a reference, not its speed"


@dataclass(frozen=True)
class Variant:
    """One row of the result."""

    precision: str
    engine: str
    """"onnxruntime" or "tensorrt"."""
    accelerator: str
    left_out: str | None = None
    """Why it is not measured; None if it is."""
    note: str | None = None
    """A note on its figures, or None."""

    @property
    def label(self) -> str:
        """ "int8-cpu on onnxruntime cpu" """
        return f"{self.precision} on {self.engine} {self.accelerator}"


def find_variants(
    manifest: Manifest,
    bundle: Path,
    *,
    precisions: Sequence[str] | None = None,
    engine: str = "auto",
    accelerator: str = "auto",
) -> list[Variant]:
    """Variants in the order of the manifest; None and "auto" mean all that this machine has.

    Every precision has at least one row. Raises InputError for a precision that the bundle does not offer and
    for an unknown engine.
    """
    if engine not in ENGINES:
        raise InputError(f"--engine {engine}: unknown; use one of {', '.join(ENGINES)}")
    for name in precisions or ():
        if name not in manifest.precisions:
            offered = ", ".join(manifest.precisions)
            raise InputError(f"--precision {name}: {bundle.name} offers {offered}; choose among them")
    places = [accelerator] if accelerator != "auto" else ["cpu", *(["cuda:0"] if has_cuda() else [])]
    named = precisions is not None
    found: list[Variant] = []
    for name in precisions or manifest.precisions:
        rows = [] if engine == "tensorrt" else [_on_onnxruntime(name, where, named=named) for where in places]
        if engine == "tensorrt" or (engine == "auto" and accelerator != "cpu" and _may_run(bundle, name)):
            rows.append(_on_tensorrt(name, accelerator))
        found += rows
    return found


def _on_onnxruntime(precision: str, accelerator: str, *, named: bool) -> Variant:
    if precision in FOR_TENSORRT:
        why = None
        if not named:
            why = (
                f"made for TensorRT; --precision {precision} measures it in ONNX Runtime, not optimised, as a reference"
            )
        return Variant(precision, "onnxruntime", accelerator, left_out=why, note=REFERENCE)
    if precision in FOR_ONNXRUNTIME and accelerator != "cpu":
        return Variant(precision, "onnxruntime", accelerator, left_out="made for CPUs: --accelerator cpu")
    return Variant(precision, "onnxruntime", accelerator)


def _on_tensorrt(precision: str, accelerator: str) -> Variant:
    where = "cuda:0" if accelerator in ("auto", "cuda") else accelerator
    if precision in FOR_ONNXRUNTIME:
        return Variant(precision, "tensorrt", where, left_out="made for ONNX Runtime on a CPU, not for TensorRT")
    return Variant(precision, "tensorrt", where)


def _may_run(bundle: Path, precision: str) -> bool:
    """Whether an engine was built or could be built, so that the result has a row for it."""
    if precision in FOR_ONNXRUNTIME:
        return False
    return engine_paths(bundle, precision)[0].is_file() or library.installed()
