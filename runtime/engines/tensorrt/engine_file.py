"""Built engines on the disk: file, sidecar, and whether they fit this machine.

The sidecar states what an engine was built for: TensorRT, GPU, release of Jetson Linux, ONNX file, precision. It is
compared before TensorRT sees the engine.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeasd.runtime.engines.tensorrt import library
from edgeasd.runtime.engines.tensorrt.cuda import gpu_info
from edgeasd.runtime.errors import BundleError, DeviceError, InputError, printable
from edgeasd.runtime.system.board import l4t_release


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """TensorRT version ("10.3.0"), GPU ("Orin"), compute capability ("8.7"), L4T ("36.4.3", None off a Jetson)."""

    tensorrt: str
    gpu: str
    compute_capability: str
    l4t: str | None


def this_machine(index: int = 0, trt: ModuleType | None = None) -> DeviceInfo:
    """This machine with the GPU `index`. Raises DeviceError without TensorRT, CUDA or that GPU.

    `trt` is the TensorRT module if it has been loaded already.
    """
    version = library.version(trt if trt is not None else library.load())
    gpu = gpu_info(index)
    return DeviceInfo(version, gpu.name, gpu.compute_capability, l4t_release())


SCHEMA_VERSION = 1
LARGEST_SIDECAR = 64 * 1024
FOLDER = "engines"
FRONT_END = "frontend"
"""The part of a bundle that makes log-mel, as `engine_paths` names it."""

_REMEDY = "build again with `edgeasd build`"
_Word = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]
"""Shown on terminals and in messages: no control characters."""
_Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Sidecar(BaseModel):
    """`engines/encoder.<precision>.json`. Unknown fields are kept and ignored."""

    model_config = ConfigDict(frozen=True, extra="allow", defer_build=True)

    schema_version: int = SCHEMA_VERSION
    tensorrt: _Word
    """Version, as the module states it: "10.3.0"."""
    gpu: _Word
    compute_capability: _Word
    """ "8.7" """
    l4t: _Word | None
    """Release of Jetson Linux, "36.4.3"; None if it is not a Jetson."""
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
    """Read a sidecar. Raises BundleError, one line, if it is missing, damaged or of an unknown schema."""
    place = f"{path.parent.name}/{path.name}"
    try:
        # Without O_NONBLOCK a pipe in its place would block.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as handle:
            if not stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
                raise BundleError(f"{place}: not a plain file; {_REMEDY}")
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
        raise BundleError(
            f"{place}: schema_version {printable(version, 40)}, this edgeasd reads {SCHEMA_VERSION}; {_REMEDY}"
        )
    try:
        return Sidecar.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{place}: {printable(where, 40)}: {printable(first['msg'], 200)}; {_REMEDY}") from None


def differences(
    sidecar: Sidecar,
    machine: DeviceInfo,
    *,
    onnx_sha256: str,
    precision: str,
    flags: dict[str, Any] | None = None,
) -> list[str]:
    """One phrase for each difference between what the engine was built for and this machine; empty if it fits.

    `flags` of the builder are compared only if given: they change how fast an engine is, not what it computes.
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
        f"{name} {(there or 'none')[:12]}, here {(here or 'none')[:12]}"
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


PRECISIONS = ("int8", "fp16", "fp32")
"""What TensorRT runs, fastest first."""
_OPTIONS = {"head": ["--head"], FRONT_END: ["--front-end"]}
"""Options of `edgeasd build` for a part other than the encoder."""


LARGEST_BATCH = 4096


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """Options of the builder."""

    max_batch: int = 10
    """Largest batch in segments; the smallest is 1."""
    opt_batch: int = 1
    """The batch the engine is made fastest for: a listening device has one segment at a time."""
    workspace_mib: int | None = None
    """Memory a layer may use for intermediate values, in MiB; None: as much as the GPU has."""
    optimisation_level: int = 3
    """0 (quick to build) to 5 (searches longest); 3 is TensorRT's own."""

    def check(self) -> None:
        """Raise InputError if the batch sizes contradict each other."""
        if not 1 <= self.opt_batch <= self.max_batch <= LARGEST_BATCH:
            raise InputError(
                f"--opt-batch {self.opt_batch} with --max-batch {self.max_batch}: give 1 <= --opt-batch <= --max-batch "
                f"<= {LARGEST_BATCH}"
            )

    def flags(self) -> dict[str, Any]:
        """The options as a sidecar stores them."""
        return {
            "strongly_typed": True,
            "tf32": False,
            "opt_batch": self.opt_batch,
            "workspace_mib": self.workspace_mib or 0,
            "optimisation_level": self.optimisation_level,
        }


class NotBuilt(DeviceError):
    """No built engine fits; `edgeasd build` would make it."""

    def __init__(self, what: str, arguments: list[str]) -> None:
        self.what = what
        self.arguments = arguments
        """Arguments of `edgeasd` that build it."""
        super().__init__(f"{what}; type: edgeasd {shlex.join(arguments)} (or pass --build to do it now)")


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """An engine whose sidecar fits this machine and whose bytes fit the sidecar."""

    path: Path
    sidecar: Sidecar
    plan: bytes


def built_precisions(bundle: Path) -> list[str]:
    """Precisions that have an engine or a sidecar, valid or not, fastest first."""
    return [name for name in PRECISIONS if any(path.exists() for path in engine_paths(bundle, name))]


def read_built(
    bundle: Path, precision: str, machine: DeviceInfo, *, onnx_sha256: str, part: str = "encoder", index: int = 0
) -> BuiltEngine:
    """Read the built engine of a precision, compared with its sidecar, and the sidecar with `machine`.

    `index` is the number of the GPU. Raises NotBuilt, with the command to type, if there is no engine, if it was
    built for another TensorRT, GPU, L4T, ONNX or precision, and if its bytes are not those that were built.
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
    line += _earlier_options(sidecar)
    found = differences(sidecar, machine, onnx_sha256=onnx_sha256, precision=precision)
    if found:
        raise NotBuilt(f"{place}: built for something else: {'; '.join(found)}", line)
    try:
        found_file = path.lstat()
        if not stat.S_ISREG(found_file.st_mode):
            raise NotBuilt(f"{place}: not a plain file", line)
        if found_file.st_size != sidecar.engine_size:
            raise NotBuilt(f"{place}: {found_file.st_size} bytes, its sidecar says {sidecar.engine_size}", line)
        plan = path.read_bytes()
    except OSError as error:
        raise NotBuilt(f"{place}: cannot be read ({error.strerror})", line) from None
    if len(plan) != sidecar.engine_size:
        raise NotBuilt(f"{place}: {len(plan)} bytes, its sidecar says {sidecar.engine_size}", line)
    if hashlib.sha256(plan).hexdigest() != sidecar.engine_sha256:
        raise NotBuilt(f"{place}: sha256 is not that of its sidecar, so damaged", line)
    return BuiltEngine(path, sidecar, plan)


def _earlier_options(sidecar: Sidecar) -> list[str]:
    """Options of the earlier build that are not the defaults: a new build should keep them."""
    plain, flags = BuildOptions(), sidecar.flags
    names = (
        ("--max-batch", sidecar.max_batch, plain.max_batch),
        ("--opt-batch", flags.get("opt_batch"), plain.opt_batch),
        ("--workspace-limit", flags.get("workspace_mib") or None, plain.workspace_mib),
        ("--optimisation-level", flags.get("optimisation_level"), plain.optimisation_level),
    )
    chosen = [(name, was) for name, was, usual in names if type(was) is int and was != usual]
    return [word for name, was in chosen for word in (name, str(was))]
