"""The sidecar of a built engine: what it was built from, for what and how.

An engine is a program for one GPU and one TensorRT; what does not fit crashes, or is refused in words that
nobody understands. The sidecar is therefore compared before an engine is given to TensorRT.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeasd.runtime.engines.tensorrt.machine import MachineFacts
from edgeasd.runtime.errors import BundleError

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
    machine: MachineFacts,
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
