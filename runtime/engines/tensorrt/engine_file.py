"""What a built engine fits: this TensorRT, this GPU, this release of Jetson Linux."""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeasd.runtime.engines.tensorrt import library
from edgeasd.runtime.engines.tensorrt.cuda import gpu_info
from edgeasd.runtime.errors import BundleError, DeviceError, InputError
from edgeasd.runtime.system.board import l4t_release


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """TensorRT version ("10.3.0"), GPU ("Orin"), compute capability ("8.7"), L4T ("36.4.3", None off a Jetson)."""

    tensorrt: str
    gpu: str
    compute_capability: str
    l4t: str | None


def this_machine(index: int = 0, trt: ModuleType | None = None) -> DeviceInfo:
    """Facts of this machine with the GPU `index`. Raises DeviceError without TensorRT, CUDA or that GPU.

    `trt` is a TensorRT module that was loaded before.
    """
    version = library.version(trt if trt is not None else library.load())
    gpu = gpu_info(index)
    return DeviceInfo(version, gpu.name, gpu.compute_capability, l4t_release())


SCHEMA_VERSION = 1
LARGEST_SIDECAR = 64 * 1024
FOLDER = "engines"
FRONT_END = "frontend"
"""The part that `engine_paths` names so: log-mel as a graph."""

_REMEDY = "build again with `edgeasd build`"
_Word = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]
"""Ends up on terminals and in messages: no control characters."""
_Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Sidecar(BaseModel):
    """`engines/encoder.<precision>.json`. Unknown fields are kept and ignored."""

    model_config = ConfigDict(frozen=True, extra="allow")

    schema_version: int = SCHEMA_VERSION
    tensorrt: _Word
    """Version, as the module states it: "10.3.0"."""
    gpu: _Word
    compute_capability: _Word
    """ "8.7" """
    l4t: _Word | None
    """Release of Jetson Linux, "36.4.3"; None where it is not a Jetson."""
    onnx_sha256: _Sha256
    """Of the ONNX file that the engine was built from."""
    precision: _Word
    max_batch: Annotated[int, Field(ge=1, le=4096)]
    flags: dict[str, bool | int | float | str]
    """Options of the builder."""
    engine_sha256: _Sha256
    engine_size: Annotated[int, Field(ge=1)]
    """Bytes."""
    built_at: _Word
    """UTC, ISO 8601."""
    edgeasd: _Word
    """Version of the program that built it."""
    layers: dict[str, int] = Field(default_factory=dict)
    """Layers of the engine by precision, from the inspector."""
    int8: int = 0
    """Convolutions that were quantised and run as INT8."""
    not_int8: dict[str, str] = Field(default_factory=dict)
    """Convolutions that were quantised, with the precision they run in instead."""
    unclear: list[str] = Field(default_factory=list)
    """Convolutions that were quantised and that the inspector does not name."""


def engine_paths(bundle: Path, precision: str, part: str = "encoder") -> tuple[Path, Path]:
    """(engine, sidecar) of a precision in a bundle folder; `part` is "encoder", "head" or FRONT_END."""
    folder = Path(bundle) / FOLDER
    return folder / f"{part}.{precision}.engine", folder / f"{part}.{precision}.json"


def read_sidecar(path: Path) -> Sidecar:
    """Read a sidecar. Raises BundleError, one line, where it is not there, damaged or of an unknown schema."""
    place = f"{path.parent.name}/{path.name}"
    try:
        with open(path, "rb") as handle:
            data = handle.read(LARGEST_SIDECAR + 1)
    except FileNotFoundError:
        raise BundleError(f"{place}: missing; {_REMEDY}") from None
    except OSError as error:
        raise BundleError(f"{place}: cannot be read ({error.strerror}); {_REMEDY}") from None
    if len(data) > LARGEST_SIDECAR:
        raise BundleError(f"{place}: more than {LARGEST_SIDECAR} bytes, so not a sidecar; {_REMEDY}")
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError):
        raise BundleError(f"{place}: not JSON, so damaged; {_REMEDY}") from None
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if isinstance(version, bool) or version != SCHEMA_VERSION:
        raise BundleError(f"{place}: schema_version {_shown(version)}, this edgeasd reads {SCHEMA_VERSION}; {_REMEDY}")
    try:
        return Sidecar.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{place}: {_shown(where)}: {_shown(first['msg'], 200)}; {_REMEDY}") from None


def differences(
    sidecar: Sidecar,
    machine: DeviceInfo,
    *,
    onnx_sha256: str,
    precision: str,
    flags: dict[str, Any] | None = None,
) -> list[str]:
    """One phrase for each thing the engine was built for that is another here; empty where it fits.

    Without `flags`, those of the sidecar are taken as they are: they change how fast an engine is, not what it
    computes. A caller that was asked for certain ones gives them.
    """
    compared = (
        ("TensorRT", sidecar.tensorrt, machine.tensorrt),
        ("GPU", sidecar.gpu, machine.gpu),
        ("compute capability", sidecar.compute_capability, machine.compute_capability),
        ("L4T", sidecar.l4t, machine.l4t),
        ("ONNX sha256", sidecar.onnx_sha256, onnx_sha256),
        ("precision", sidecar.precision, precision),
    )
    found = [
        f"{name} {_shown(there or 'none', 12)}, here {_shown(here or 'none', 12)}"
        if name == "ONNX sha256"
        else f"{name} {there or 'none'}, here {here or 'none'}"
        for name, there, here in compared
        if there != here
    ]
    for name in sorted({*sidecar.flags, *flags} if flags is not None else ()):
        there, here = sidecar.flags.get(name), (flags or {}).get(name)
        if there != here:
            found.append(f"{name} {there}, asked for {here}")
    return found


def _shown(value: object, longest: int = 40) -> str:
    """A value of a hostile file as it may be printed."""
    text = value if isinstance(value, str) else repr(value)
    return "".join(c if c.isprintable() else " " for c in text[:longest])


PRECISIONS = ("int8", "fp16", "fp32")
"""What TensorRT runs, fastest first."""
_OPTIONS = {"head": ["--head"], FRONT_END: ["--front-end"]}
"""How `edgeasd build` is asked for a part that is no encoder."""


LARGEST_BATCH = 4096


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What may be asked of the builder."""

    max_batch: int = 10
    """Largest batch in segments; the smallest is 1."""
    opt_batch: int = 1
    """The batch the engine is made fastest for: a listening device has one segment at a time."""
    workspace_mib: int | None = None
    """Memory a layer may use for intermediate values, in MiB; as much as the GPU has without it."""
    optimisation_level: int = 3
    """0 (quick to build) to 5 (searches longest); 3 is TensorRT's own."""

    def check(self) -> None:
        """Raise InputError for values that do not fit each other."""
        if not 1 <= self.opt_batch <= self.max_batch <= LARGEST_BATCH:
            raise InputError(
                f"--opt-batch {self.opt_batch} with --max-batch {self.max_batch}: give 1 <= --opt-batch <= --max-batch "
                f"<= {LARGEST_BATCH}"
            )

    def flags(self) -> dict[str, Any]:
        """As a sidecar keeps them."""
        return {
            "strongly_typed": True,
            "tf32": False,
            "opt_batch": self.opt_batch,
            "workspace_mib": self.workspace_mib or 0,
            "optimisation_level": self.optimisation_level,
        }


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
    bundle: Path, precision: str, machine: DeviceInfo, *, onnx_sha256: str, part: str = "encoder", index: int = 0
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
