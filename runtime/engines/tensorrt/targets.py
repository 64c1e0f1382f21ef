"""What of a bundle can become an engine, and whether one that is there may stay."""

from __future__ import annotations

from dataclasses import dataclass

from edgeasd.runtime.bundle import Bundle, hash_file
from edgeasd.runtime.engines.tensorrt.build import BuildOptions
from edgeasd.runtime.engines.tensorrt.machine import MachineFacts
from edgeasd.runtime.engines.tensorrt.sidecar import FRONT_END, differences, engine_paths, read_sidecar
from edgeasd.runtime.errors import BundleError, InputError

PRECISIONS = ("fp32", "fp16", "int8")
"""What TensorRT can be given."""
HEAD = "head"


@dataclass(frozen=True, slots=True)
class Target:
    """One engine to have: a part of the bundle at a precision."""

    part: str
    precision: str
    file: str
    """ONNX file of the bundle."""

    @property
    def label(self) -> str:
        """As a user calls it."""
        return {"encoder": self.precision, FRONT_END: "front end"}.get(self.part, self.part)


def targets(bundle: Bundle, asked: list[str], head: bool, front_end: bool = False) -> list[Target]:
    """What to build. Raises InputError for a precision or a front end that TensorRT or the bundle has not.

    `asked` are precisions; none means all that the bundle offers for TensorRT, or head and front end alone where
    asked for.
    """
    offers, name = bundle.manifest.precisions, bundle.path.name
    for precision in asked:
        if precision not in PRECISIONS:
            meant = "it is made for ONNX Runtime on a CPU" if precision == "int8-cpu" else "unknown"
            raise InputError(f"--precision {precision}: {meant}; TensorRT is given {', '.join(PRECISIONS)}")
        if precision not in offers:
            raise InputError(f"--precision {precision}: {name} offers {', '.join(offers)}; choose one of them")
        if offers[precision].stale:
            raise BundleError(
                f"--precision {precision}: {name} needs it to be calibrated again ({offers[precision].stale}); "
                "run `edgeasd calibrate` on the workstation and copy the bundle"
            )
    usable = [precision for precision in PRECISIONS if precision in offers and not offers[precision].stale]
    alone = _alone(bundle, head, front_end)
    if not usable and not asked and not alone:
        raise InputError(f"{name}: offers {', '.join(offers)}, none of it for TensorRT; export it with fp32 or fp16")
    wanted = asked or ([] if alone else usable)
    return [*(Target("encoder", precision, offers[precision].file) for precision in dict.fromkeys(wanted)), *alone]


def _alone(bundle: Bundle, head: bool, front_end: bool) -> list[Target]:
    """Parts that are no encoder. Raises InputError for a front end that the bundle has not."""
    found = [Target(HEAD, "fp32", "head.onnx")] if head else []
    if front_end:
        offered = bundle.manifest.front_end
        if offered is None:
            raise InputError(
                f"--front-end: {bundle.path.name} has no front end; export it with `edgeasd export --front-end FOLDER`"
            )
        found.append(Target(FRONT_END, "fp32", offered.file))
    return found


def why_not(bundle: Bundle, target: Target, machine: MachineFacts, options: BuildOptions) -> list[str]:
    """Why the engine that is there cannot be taken, one phrase each; empty where it can."""
    engine, beside = engine_paths(bundle.path, target.precision, target.part)
    if not engine.exists():
        return ["not built yet"]
    try:
        sidecar = read_sidecar(beside)
    except BundleError as error:
        return [str(error).rpartition(";")[0]]
    sha256 = bundle.manifest.files[target.file].sha256
    found = differences(sidecar, machine, onnx_sha256=sha256, precision=target.precision, flags=options.flags())
    if sidecar.max_batch != options.max_batch:
        found.append(f"max_batch {sidecar.max_batch}, asked for {options.max_batch}")
    size = engine.stat().st_size
    if size != sidecar.engine_size:
        found.append(f"{size} bytes, its sidecar says {sidecar.engine_size}")
    elif hash_file(engine) != sidecar.engine_sha256:
        found.append("its bytes are not those of its sidecar")
    return found
