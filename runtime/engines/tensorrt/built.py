"""Engines that were built beside a bundle: which are there, and whether one may be given to TensorRT here."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass
from pathlib import Path

from edgeasd.runtime.engines.tensorrt.build import BuildOptions
from edgeasd.runtime.engines.tensorrt.machine import MachineFacts
from edgeasd.runtime.engines.tensorrt.sidecar import FRONT_END, Sidecar, differences, engine_paths, read_sidecar
from edgeasd.runtime.errors import BundleError, DeviceError

PRECISIONS = ("int8", "fp16", "fp32")
"""What TensorRT runs, fastest first."""
_OPTIONS = {"head": ["--head"], FRONT_END: ["--front-end"]}
"""How `edgeasd build` is asked for a part that is no encoder."""


class NotBuilt(DeviceError):
    """There is no engine that fits, and `edgeasd build` would make it."""

    def __init__(self, what: str, arguments: list[str]) -> None:
        self.what = what
        self.arguments = arguments
        """What to give to `edgeasd`."""
        super().__init__(f"{what}; type: edgeasd {shlex.join(arguments)} (or pass --build to do it now)")


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """An engine whose sidecar fits this machine and whose bytes fit the sidecar."""

    path: Path
    sidecar: Sidecar
    plan: bytes


def built_precisions(bundle: Path) -> list[str]:
    """Precisions with an engine or a sidecar in the folder, valid or not, fastest first."""
    return [name for name in PRECISIONS if any(path.exists() for path in engine_paths(bundle, name))]


def read_built(
    bundle: Path, precision: str, machine: MachineFacts, *, onnx_sha256: str, part: str = "encoder", index: int = 0
) -> BuiltEngine:
    """The built engine of a precision, read once and compared with its sidecar, the sidecar with `machine`.

    `index` is the number of the GPU. Raises NotBuilt, a DeviceError with the line to type, where there is none,
    where the sidecar says that it is for another TensorRT, GPU, L4T, ONNX or precision, and where the bytes are
    not those that were built.
    """
    path, beside = engine_paths(bundle, precision, part)
    place = f"{bundle.name}/{path.parent.name}/{path.name}"
    line = ["build", str(bundle), *_OPTIONS.get(part, ["--precision", precision])]
    line += [] if index == 0 else ["--accelerator", f"cuda:{index}"]
    if not path.exists() and not beside.exists():
        raise NotBuilt(f"{place}: no TensorRT engine has been built", line)
    try:
        sidecar = read_sidecar(beside)
    except BundleError as error:
        raise NotBuilt(str(error).rpartition(";")[0], line) from None
    line += _as_before(sidecar)
    found = differences(sidecar, machine, onnx_sha256=onnx_sha256, precision=precision)
    if found:
        raise NotBuilt(f"{place}: built for something else: {'; '.join(found)}", line)
    try:
        plan = path.read_bytes()
    except OSError as error:
        raise NotBuilt(f"{place}: cannot be read ({error.strerror})", line) from None
    if len(plan) != sidecar.engine_size:
        raise NotBuilt(f"{place}: {len(plan)} bytes, its sidecar says {sidecar.engine_size}", line)
    if hashlib.sha256(plan).hexdigest() != sidecar.engine_sha256:
        raise NotBuilt(f"{place}: sha256 is not that of its sidecar, so damaged", line)
    return BuiltEngine(path, sidecar, plan)


def _as_before(sidecar: Sidecar) -> list[str]:
    """Options of the build that was, where they are not those of a plain one: a new build should not lose them."""
    plain, flags = BuildOptions(), sidecar.flags
    names = (
        ("--max-batch", sidecar.max_batch, plain.max_batch),
        ("--opt-batch", flags.get("opt_batch"), plain.opt_batch),
        ("--workspace-limit", flags.get("workspace_mib") or None, plain.workspace_mib),
        ("--optimisation-level", flags.get("optimisation_level"), plain.optimisation_level),
    )
    chosen = [(name, was) for name, was, usual in names if type(was) is int and was != usual]
    return [word for name, was in chosen for word in (name, str(was))]
