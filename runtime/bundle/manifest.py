"""manifest.json: everything about a bundle that is not a weight.

Unknown fields are kept and ignored, so that an older runtime reads a newer bundle of the same
schema and writing it back loses nothing. An unknown schema version is refused.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from edgeasd.runtime.errors import BundleError, printable
from edgeasd.runtime.features.logmel import Amplitude, FeatureSettings
from edgeasd.runtime.features.segments import SegmentSettings
from edgeasd.runtime.health.settings import LevelRange
from edgeasd.runtime.scoring.score import ScoreSettings
from edgeasd.runtime.scoring.threshold import Threshold
from edgeasd.runtime.states.settings import STATE_NAME
from edgeasd.runtime.states.sound import ModeProfile, SoundProfile

SCHEMA_VERSIONS = (1, 2)
"""2 has settings of the front end that a reader of 1 would not know, and so compute other features."""
LARGEST_MANIFEST = 4 * 1024 * 1024
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

_Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

_Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]
"""Used on terminals, in topics and in file names: no control characters."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow", defer_build=True)


class Machine(_Part):
    """Which machine the bundle listens to."""

    type: _Name
    id: _Name


class FileEntry(_Part):
    """Hash and size in bytes of a file of the bundle."""

    sha256: _Sha256
    size: Annotated[int, Field(ge=0, le=8 * 1024**3)]


class Tolerance(_Part):
    """How far outputs of the reference segments may be from the stored ones."""

    z: Annotated[float, Field(gt=0, le=1)]
    """Of the largest |z|."""
    logit: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """Times 1 + |logit|."""
    d: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """Times d_max - d_min."""
    score: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Precision(_Part):
    """One encoder of the bundle."""

    file: str
    tolerance: Tolerance
    recalibrate: bool = False
    """True after a re-fit that invalidates its calibration; refused until it is calibrated again."""
    recalibrate_reason: str | None = None

    @model_serializer(mode="wrap")
    def _as_found(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without an unset mark: an older manifest is written back as it was."""
        unmarked = set() if self.recalibrate else {"recalibrate"}
        unmarked |= {"recalibrate_reason"} if self.recalibrate_reason is None else set()
        return {name: value for name, value in dump(self).items() if name not in unmarked}

    @property
    def stale(self) -> str:
        """Why it must be calibrated again; empty if it need not be."""
        return (self.recalibrate_reason or "its manifest says so") if self.recalibrate else ""


class FrontEnd(_Part):
    """Log-mel as a graph, for a GPU, and its deviation from the runtime's features."""

    file: str
    logmel: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """Largest |Δ log10| of the mel magnitudes on the clips it was measured with (see `FeatureSettings.decade`)."""
    score: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """Largest |Δs| of a segment on them."""
    clips: Annotated[int, Field(ge=1)]


class Network(_Part):
    """Shape of the encoder, for display and for checks."""

    backbone: str
    embedding: Annotated[int, Field(ge=1, le=65_536)]
    parameters: Annotated[int, Field(ge=0)]
    """0 for an encoder that computes statistics and has no weights."""
    macs_per_segment: Annotated[int, Field(ge=0)]


class Manifest(_Part):
    """The whole manifest."""

    schema_version: int
    edgeasd_version: str
    created: str
    machine: Machine
    status: Annotated[str, Field(pattern="^(calibrated|uncalibrated)$")]
    network: Network
    features: FeatureSettings
    amplitude: Amplitude
    segments: SegmentSettings
    score: ScoreSettings
    threshold: Threshold | None
    precisions: Annotated[dict[str, Precision], Field(min_length=1)]
    front_end: FrontEnd | None = None
    files: dict[str, FileEntry]
    provenance: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, Any] = Field(default_factory=dict)
    level: LevelRange | None = None
    """The expected levels of the machine, if they were measured; see `edgeasd.runtime.health`."""
    sound: SoundProfile | None = None
    """What the recordings sound like; see `edgeasd.runtime.states`."""
    modes: Annotated[dict[Annotated[str, Field(pattern=STATE_NAME)], ModeProfile], Field(max_length=32)] = {}
    """The recorded modes by name, with the threshold of each."""

    @model_serializer(mode="wrap")
    def _as_found(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what is unset: an older manifest is written back as it was."""
        optional = ("level", "front_end", "sound", "modes")
        return {name: value for name, value in dump(self).items() if name not in optional or value}

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        for name in self.files:
            if not _FILE_NAME.fullmatch(name):
                raise ValueError(f"files: {name!r} is not a plain file name inside the bundle")
        front_end = [] if self.front_end is None else [self.front_end.file]
        for needed in ["head.onnx", "golden.npz", *front_end, *(p.file for p in self.precisions.values())]:
            if needed not in self.files:
                raise ValueError(f"files: {needed!r} is used but not listed with its hash")
        if self.status == "calibrated" and self.threshold is None:
            raise ValueError("status is calibrated, but there is no threshold")
        return self


def schema_version_for(features: FeatureSettings) -> int:
    """The lowest version whose readers compute `features` as they are meant."""
    return 2 if features.has_later_fields else 1


def parse_manifest(data: bytes, place: str) -> Manifest:
    """Read manifest.json; `place` names it in errors. Raises BundleError with one line."""
    if len(data) > LARGEST_MANIFEST:
        raise BundleError(f"{place}: {len(data)} bytes, at most {LARGEST_MANIFEST} are read; export the bundle again")
    try:
        raw = json.loads(data)
        # Refuse here what Python reads but could not write back: NaN, infinities, lone surrogates.
        json.dumps(raw, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{place}: not JSON ({error}); copy the bundle again or export it again") from None
    if not isinstance(raw, dict):
        raise BundleError(f"{place}: holds {type(raw).__name__}, expected an object; export the bundle again")
    version = raw.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool) or version not in SCHEMA_VERSIONS:
        given = printable(repr(version), 40)
        known = " and ".join(map(str, SCHEMA_VERSIONS))
        raise BundleError(f"{place}: schema_version {given}, this edgeasd reads {known}; read it with {_writer(raw)}")
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "manifest"
        value = "" if isinstance(first["input"], dict) else f" {str(first['input'])[:80]!r}"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        what = printable(f"{where}{value}: {first['msg']}", 300)
        if first["type"] == "literal_error" and first["loc"][0] == "features":
            # A choice that this version does not know, such as another mel scale: exporting again would not help.
            raise BundleError(f"{place}: {what}{more}; read it with {_writer(raw)}") from None
        raise BundleError(f"{place}: {what}{more}; export the bundle again") from None


def _writer(raw: dict[str, Any]) -> str:
    """The program that wrote the manifest, for a remedy."""
    version = raw.get("edgeasd_version")
    if isinstance(version, str):
        return f"edgeasd {printable(version, 40)}, which wrote it, or newer"
    return "the edgeasd that wrote it"


def dump_manifest(manifest: Manifest) -> bytes:
    """The manifest as indented UTF-8 JSON, unknown fields included."""
    try:
        value = manifest.model_dump(mode="json")
    except ValueError as error:
        raise BundleError(
            f"manifest: cannot be written ({error}); remove the unknown fields that nest so deep"
        ) from None
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
