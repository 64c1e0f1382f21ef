"""The options of a calibration, and the bundle it changes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgeasd.calibration.drift.drift import DriftLimits
from edgeasd.calibration.fit.clips import SEGMENTS
from edgeasd.runtime.bundle.bundle import MANIFEST, Bundle
from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.data.clips import plain_id
from edgeasd.toolkit.runs import bundle_folder

PRECISIONS = ("fp16", "int8", "int8-cpu")
"""What calibrate makes, in this order; fp32 is the reference and always there."""
NO_PRECISION = "none"
METHODS = ("minmax", "entropy", "percentile")


@dataclass(frozen=True)
class ThresholdRequest:
    """How to find the threshold: one of the three, or by default the old one, else the largest clip score."""

    alarms_per_day: float | None = None
    false_positive_rate: float | None = None
    keep: bool = False

    def check(self, *, rescaled: bool) -> None:
        """Raises InputError for two methods at once, and for keeping a threshold of another scale."""
        given = [
            name
            for name, wanted in (
                ("--alarms-per-day", self.alarms_per_day is not None),
                ("--false-positive-rate", self.false_positive_rate is not None),
                ("--keep-threshold", self.keep),
            )
            if wanted
        ]
        if len(given) > 1:
            raise InputError(f"{' and '.join(given)}: a bundle has one threshold; pass one of them")
        if self.keep and rescaled:
            raise InputError(
                "--keep-threshold: a re-fit changes the scale of the score, so the threshold means nothing after it; "
                "pass --alarms-per-day or --false-positive-rate, or leave the re-fit out"
            )

    @property
    def needs_live_scores(self) -> bool:
        """Whether recordings have to be run by the live rule."""
        return self.alarms_per_day is not None


@dataclass(frozen=True)
class Request:
    """All that decides the result, beside the bundle and the content of the clips."""

    clips: Path
    """Folder of normal clips."""
    files: tuple[Path, ...] | None = None
    """Some files of that folder, where not all of it is meant."""
    anomalies: Path | None = None
    precisions: tuple[str, ...] = PRECISIONS
    threshold: ThresholdRequest = field(default_factory=ThresholdRequest)
    refit_distance: bool = False
    refit_amplitude: bool = False
    segments: int = SEGMENTS
    methods: tuple[str, ...] = METHODS
    """Methods to find ranges; the gate takes the one with the least drift."""
    budget: int = 40
    limits: dict[str, float] = field(default_factory=dict)
    """Limits of the drift gate by name, where they are not the defaults."""
    channel: int | None = None
    force: bool = False
    skip_bad: bool = False

    def check(self) -> None:
        """Refuse wrong use before any work: InputError."""
        self.threshold.check(rescaled=self.refit_distance or self.refit_amplitude)
        for kind in self.precisions:
            self.limits_of(kind)
        for name in self.methods:
            if name not in METHODS:
                raise InputError(f"--range-methods {name}: unknown; use some of {','.join(METHODS)}")

    def limits_of(self, kind: str) -> DriftLimits:
        """The gate's limits for a precision; InputError for one out of range."""
        return replace(DriftLimits.defaults(kind), **self.limits)


def parse_precisions(given: str) -> tuple[str, ...]:
    """Names of a list with commas, in the order of PRECISIONS; () for "none"; InputError for another name."""
    if given == NO_PRECISION:
        return ()
    names = given.split(",")
    for name in names:
        if name not in PRECISIONS:
            raise InputError(
                f"--precision {name}: calibrate makes {', '.join(PRECISIONS)}, or none for constants and threshold only"
            )
    return tuple(name for name in PRECISIONS if name in names)


def find_bundle_folder(bundle: Path | None, workspace: Path, machine: str, id: str | None) -> Path:
    """The bundle folder of one machine ID: --bundle, or bundles/<machine>-id_<id> in the workspace.

    Raises InputError if there is none, if there are several to choose from, for a zip, and for a
    bundle of another machine.
    """
    path = bundle if bundle is not None else _in_workspace(workspace, machine, id)
    if path.is_file():
        raise InputError(
            f"{path}: is a zip, and calibrate changes a bundle in place; unpack it into a folder "
            f"(`python3 -m zipfile -e {path.name} {path.stem}`), calibrate that and zip it again"
        )
    with Bundle(path) as opened:
        found = opened.manifest.machine
    if found.type != machine or (id is not None and found.id != plain_id(id)):
        raise InputError(
            f"{path}: is of {found.type} ID {found.id}, not of {machine}{f' ID {plain_id(id)}' if id else ''}; "
            "correct --machine and --id, or name another --bundle"
        )
    return path


def _in_workspace(workspace: Path, machine: str, id: str | None) -> Path:
    if id is not None:
        path = bundle_folder(workspace, machine, plain_id(id))
        if not path.exists():
            raise InputError(f"{path}: no such bundle; export it first with `edgeasd export` or see --workspace")
        return path
    found = sorted(p.parent for p in (workspace / "bundles").glob(f"{machine}-id_*/{MANIFEST}"))
    if len(found) == 1:
        return found[0]
    there = ", ".join(p.name for p in found) or "none"
    raise InputError(
        f"{workspace / 'bundles'}: {len(found)} bundles of {machine} ({there}) and clips are of one machine; "
        "name it with --id or --bundle, or see --workspace"
    )


def state_folder(workspace: Path, manifest: bytes) -> Path:
    """Where an interrupted calibration of the bundle with this manifest is kept."""
    return workspace / "cache" / "calibrate" / hashlib.sha256(manifest).hexdigest()[:16]
