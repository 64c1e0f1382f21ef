"""Engines that were built beside a bundle: which are there, and whether one may be given to TensorRT here."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass
from pathlib import Path

from edgeasd.runtime.engines.tensorrt.machine import MachineFacts
from edgeasd.runtime.engines.tensorrt.sidecar import Sidecar, differences, engine_paths, read_sidecar
from edgeasd.runtime.errors import BundleError, DeviceError

PRECISIONS = ("int8", "fp16", "fp32")
"""What TensorRT runs, fastest first."""


class NotBuilt(DeviceError):
    """There is no engine that fits, and `edgeasd build` would make it."""

    def __init__(self, what: str, bundle: Path, precision: str, part: str = "encoder") -> None:
        self.arguments = ["build", str(bundle), *(["--head"] if part == "head" else ["--precision", precision])]
        """What to give to `edgeasd`."""
        super().__init__(f"{what}; type: edgeasd {shlex.join(self.arguments)} (or pass --build to do it now)")


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
    bundle: Path, precision: str, machine: MachineFacts, *, onnx_sha256: str, part: str = "encoder"
) -> BuiltEngine:
    """The built engine of a precision, read once and compared with its sidecar, the sidecar with `machine`.

    Raises NotBuilt, a DeviceError with the line to type, where there is none, where the sidecar says that it is
    for another TensorRT, GPU, L4T, ONNX or precision, and where the bytes are not those that were built.
    """
    path, beside = engine_paths(bundle, precision, part)
    place = f"{bundle.name}/{path.parent.name}/{path.name}"
    if not path.exists() and not beside.exists():
        raise NotBuilt(f"{place}: no TensorRT engine has been built", bundle, precision, part)
    try:
        sidecar = read_sidecar(beside)
    except BundleError as error:
        raise NotBuilt(str(error).rpartition(";")[0], bundle, precision, part) from None
    found = differences(sidecar, machine, onnx_sha256=onnx_sha256, precision=precision)
    if found:
        raise NotBuilt(f"{place}: built for something else: {'; '.join(found)}", bundle, precision, part)
    try:
        plan = path.read_bytes()
    except OSError as error:
        raise NotBuilt(f"{place}: cannot be read ({error.strerror})", bundle, precision, part) from None
    if len(plan) != sidecar.engine_size:
        what = f"{place}: {len(plan)} bytes, its sidecar says {sidecar.engine_size}"
        raise NotBuilt(what, bundle, precision, part)
    if hashlib.sha256(plan).hexdigest() != sidecar.engine_sha256:
        raise NotBuilt(f"{place}: sha256 is not that of its sidecar, so damaged", bundle, precision, part)
    return BuiltEngine(path, sidecar, plan)
