"""Selects precision, engine, head and front end of a bundle, by the options given and by what is available."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeasd.runtime.bundle.front_end_check import FRONT_ENDS
from edgeasd.runtime.bundle.manifest import Manifest
from edgeasd.runtime.engines import EngineChoice, select_engine
from edgeasd.runtime.engines.tensorrt.engine import gpu_index
from edgeasd.runtime.engines.tensorrt.engine_file import (
    FRONT_END,
    PRECISIONS,
    built_precisions,
    read_built,
    this_machine,
)
from edgeasd.runtime.errors import BundleError, DeviceError, InputError

HEADS = ("cpu", "tensorrt")
"""Where the head may run."""


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What to load."""

    engine: EngineChoice
    precision: str
    head: str
    """One of HEADS."""
    front_end: str = "cpu"
    """One of FRONT_ENDS."""


def select(
    manifest: Manifest,
    bundle: Path,
    precision: str | None,
    engine: str,
    accelerator: str,
    head: str = "cpu",
    front_end: str = "cpu",
) -> LoadPlan:
    """Select what to load, before anything is loaded; `bundle` is the path of the folder or zip.

    Without `precision`: fp32 for ONNX Runtime; for TensorRT the fastest that was built, else the fastest offered (int8,
    fp16, fp32), without those that must be calibrated again. Raises InputError for unknown names and impossible
    combinations, BundleError for a precision that must be calibrated again, DeviceError for TensorRT with a zip.
    """
    choice = select_engine(engine, accelerator, precision)
    offers = manifest.precisions
    if precision is not None and precision not in offers:
        raise InputError(f"--precision {precision}: {bundle.name} offers {', '.join(offers)}; choose one of them")
    usable = [name for name, offer in offers.items() if not offer.stale] or list(offers)
    chosen = precision or _default(usable, bundle, choice.engine)
    _refuse_stale(manifest, bundle, chosen)
    if head not in HEADS:
        raise InputError(f"--head {head}: unknown; use {' or '.join(HEADS)}")
    if head == "tensorrt" and choice.engine != "tensorrt":
        raise InputError("--head tensorrt: the encoder runs on ONNX Runtime here; use --engine tensorrt too")
    check_front_end_offered(manifest, bundle, front_end)
    if choice.engine == "tensorrt" and bundle.is_file():
        raise DeviceError(
            f"{bundle}: TensorRT engines lie in a bundle's folder and not in a zip; unpack it and "
            "`edgeasd build` the folder, or use --engine onnxruntime"
        )
    return LoadPlan(choice, chosen, head, front_end)


def check_front_end_offered(manifest: Manifest, bundle: Path, front_end: str) -> None:
    """Raise InputError if `front_end` is not one of FRONT_ENDS, or is "graph" and the bundle has none."""
    if front_end not in FRONT_ENDS:
        raise InputError(f"--front-end {front_end}: unknown; use {' or '.join(FRONT_ENDS)}")
    if front_end == "graph" and manifest.front_end is None:
        raise InputError(
            f"--front-end graph: {bundle.name} has no front end; export it with `edgeasd export --front-end FOLDER`, "
            "or use --front-end cpu"
        )


def check_built(manifest: Manifest, bundle: Path, plan: LoadPlan) -> None:
    """Raise NotBuilt if a TensorRT engine that `plan` needs is missing or does not fit this machine."""
    index = gpu_index(plan.engine.accelerator)
    machine = this_machine(index)
    encoder = manifest.files[manifest.precisions[plan.precision].file]
    read_built(bundle, plan.precision, machine, onnx_sha256=encoder.sha256, index=index)
    if plan.head == "tensorrt":
        head = manifest.files["head.onnx"]
        read_built(bundle, "fp32", machine, onnx_sha256=head.sha256, part="head", index=index)
    if plan.front_end == "graph" and manifest.front_end is not None:
        graph = manifest.files[manifest.front_end.file]
        read_built(bundle, "fp32", machine, onnx_sha256=graph.sha256, part=FRONT_END, index=index)


def _refuse_stale(manifest: Manifest, bundle: Path, precision: str) -> None:
    """Raise BundleError if a re-fit has marked `precision` to be calibrated again.

    An error, not a warning: values beyond their ranges are clipped, and a clipped fault looks normal.
    """
    reason = manifest.precisions[precision].stale
    if reason:
        fresh = [name for name, offer in manifest.precisions.items() if not offer.stale]
        instead = f"use --precision {fresh[0]} until then" if fresh else "export the bundle again with fp32"
        raise BundleError(
            f"--precision {precision}: {bundle.name} needs it to be calibrated again "
            f"({' '.join(reason.split())[:200]}); {instead}"
        )


def _default(usable: list[str], bundle: Path, engine: str) -> str:
    if engine == "onnxruntime":
        return "fp32" if "fp32" in usable else usable[0]
    runnable = [name for name in PRECISIONS if name in usable]
    if not runnable:
        raise InputError(
            f"{bundle.name}: offers {', '.join(usable)}, TensorRT runs {', '.join(PRECISIONS)}; "
            "use --engine onnxruntime, or export the bundle with one of these"
        )
    built = [name for name in built_precisions(bundle) if name in runnable]
    return (built or runnable)[0]
