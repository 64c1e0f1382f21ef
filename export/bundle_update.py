"""Changes a bundle: new precisions, constants and threshold, made beside it, checked, and swapped in whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from edgeasd.calibration.fit.amplitude import link_all, refit_amplitude
from edgeasd.calibration.fit.refit import open_folder, refit_score
from edgeasd.export.fp16 import load_limits
from edgeasd.runtime.bundle.bundle import MANIFEST, Bundle, hash_file
from edgeasd.runtime.bundle.manifest import FileEntry, Manifest, Precision, Tolerance, dump_manifest
from edgeasd.runtime.bundle.reference_segments import Deviation
from edgeasd.runtime.errors import BundleError
from edgeasd.runtime.features.logmel import Amplitude
from edgeasd.runtime.health.settings import LevelRange
from edgeasd.runtime.scoring.score import ScoreSettings
from edgeasd.runtime.scoring.threshold import Threshold
from edgeasd.runtime.states import ModeProfile, SoundProfile
from edgeasd.runtime.system.files import atomic_directory, write_bytes, write_json

CALIBRATION = "calibration.json"
ORDER = ("fp32", "fp16", "int8", "int8-cpu")
"""Of precisions in a manifest; others come after these."""

_MARGIN = 4.0
_INT8_FLOOR = Tolerance(z=1e-2, logit=1e-2, d=1e-2, score=5e-3)


@dataclass(frozen=True)
class MadeVariant:
    """A precision that passed its gate."""

    name: str
    model: onnx.ModelProto
    tolerance: Tolerance
    facts: dict[str, Any]
    """What its entry in the manifest says beside file and tolerance."""


@dataclass(frozen=True)
class BundleChanges:
    """The changes of a calibration. A field that is None stays as it is in the bundle."""

    variants: Sequence[MadeVariant] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    """Precisions that the bundle has and that no longer pass their gate, with the reason."""
    score: ScoreSettings | None = None
    threshold: Threshold | None = None
    level: LevelRange | None = None
    sound: SoundProfile | None = None
    modes: Mapping[str, ModeProfile] | None = None
    """All recorded modes; they take the place of those that the bundle has."""
    amplitude: Amplitude | None = None
    """With a new one `score` and `threshold` must be given too: the old ones are of another scale."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Written to `provenance.calibration`."""

    def is_empty(self, manifest: Manifest) -> bool:
        """Whether the bundle would not change."""
        refused = [name for name in self.refused if name in manifest.precisions]
        threshold = self.threshold is not None and self.threshold != manifest.threshold
        level = self.level is not None and self.level != manifest.level
        sound = self.sound is not None and self.sound != manifest.sound
        modes = self.modes is not None and dict(self.modes) != manifest.modes
        return not (self.variants or refused or self.score or threshold or self.amplitude or level or sound or modes)


def int8_load_limits(measured: Deviation) -> Tolerance:
    """What a loaded INT8 engine must keep, from the deviation `measured` in ONNX Runtime.

    Four times that, since engines fuse and round in other places; at least 1e-2 of z, logit and d and 5e-3 of
    the score. The drift gate decides whether the variant is good enough; this detects an engine that computes
    something else.
    """
    values = {name: max(floor, _MARGIN * getattr(measured, name)) for name, floor in _INT8_FLOOR.model_dump().items()}
    return Tolerance(**{**values, "z": min(1.0, values["z"])})


def tolerance_of(name: str, measured: Deviation) -> Tolerance:
    """The golden tolerance that goes into the manifest for a variant."""
    return load_limits(measured) if name == "fp16" else int8_load_limits(measured)


def update_bundle(
    path: Path,
    before: bytes,
    changes: BundleChanges,
    record: Mapping[str, Any],
    step: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Bring `changes` into the bundle folder `path` and `record` into its calibration.json; returns the manifest.

    `before` is the manifest the changes were found with. The new bundle is made in a hidden folder (files that
    stay are linked, not copied), opened as a device opens it (every hash, the reference segments at every
    precision) and takes its name only then. The same bundle and changes give the same bytes; there is no date.

    Raises InputError for a zip, BundleError if the bundle changed meanwhile or is damaged, CheckFailed if
    a precision does not reproduce the reference segments; the old bundle then stands.
    """
    path = path.resolve()
    with open_folder(path) as bundle:
        bundle.verify_files()
        old = bundle.manifest
        stored = stored_record(bundle)
    with atomic_directory(path, replace=True) as folder:
        link_all(path, folder, ())
        step("writing the bundle")
        manifest = _refit(folder, old, changes)
        if changes.level is not None:
            manifest = manifest.model_copy(update={"level": changes.level})
        if changes.sound is not None:
            manifest = manifest.model_copy(update={"sound": changes.sound})
        if changes.modes is not None:
            manifest = manifest.model_copy(update={"modes": dict(changes.modes)})
        for variant in changes.variants:
            write_bytes(folder / _file(variant.name), variant.model.SerializeToString(deterministic=True))
        write_json(folder / CALIBRATION, {**stored, **record})
        manifest = _with_files(folder, _with_variants(manifest, changes))
        write_bytes(folder / MANIFEST, dump_manifest(manifest))
        step("checking the bundle")
        _open_as_a_device_does(folder, manifest)
        if (path / MANIFEST).read_bytes() != before:
            raise BundleError(f"{path}: was changed by another program during calibration; calibrate it again")
        step("moving the bundle into place")
    return manifest


def stored_record(bundle: Bundle) -> dict[str, Any]:
    """calibration.json as it is: what export wrote stays in it. Raises BundleError for one that is damaged."""
    if CALIBRATION not in bundle.manifest.files:
        return {}
    try:
        found = json.loads(bundle.file(CALIBRATION).read_bytes())
    except ValueError as error:
        raise BundleError(f"{bundle.path}/{CALIBRATION}: not JSON ({error}); export the bundle again") from None
    return found if isinstance(found, dict) else {}


def _refit(folder: Path, old: Manifest, changes: BundleChanges) -> Manifest:
    score, threshold = changes.score or old.score, changes.threshold or old.threshold
    if changes.amplitude is not None:
        return refit_amplitude(folder, changes.amplitude, score, threshold, dated=False)
    if score != old.score or threshold != old.threshold:
        return refit_score(folder, score, threshold, dated=False)
    return old


def _with_variants(manifest: Manifest, changes: BundleChanges) -> Manifest:
    offers = dict(manifest.precisions)
    for name, reason in changes.refused.items():
        if name in offers:
            offers[name] = offers[name].model_copy(update={"recalibrate": True, "recalibrate_reason": reason})
    for variant in changes.variants:
        offers[variant.name] = Precision.model_validate(
            {"file": _file(variant.name), "tolerance": variant.tolerance.model_dump(), **variant.facts}
        )
    ordered = sorted(offers, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))
    provenance = {**manifest.provenance, **({"calibration": changes.provenance} if changes.provenance else {})}
    update = {"precisions": {name: offers[name] for name in ordered}, "provenance": provenance}
    return manifest.model_copy(update=update)


def _with_files(folder: Path, manifest: Manifest) -> Manifest:
    """With hash and size of all files that were listed, and of the new ones."""
    names = {*manifest.files, CALIBRATION, *(offer.file for offer in manifest.precisions.values())}
    files = {
        name: FileEntry(sha256=hash_file(folder / name), size=(folder / name).stat().st_size) for name in sorted(names)
    }
    return manifest.model_copy(update={"files": files})


def _open_as_a_device_does(folder: Path, manifest: Manifest) -> None:
    with Bundle(folder) as made:
        made.verify_files()
        for name, offer in manifest.precisions.items():
            if not offer.stale:
                scorer, _ = made.open_scorer(precision=name, engine="onnxruntime")
                scorer.close()


def _file(name: str) -> str:
    return f"encoder.{name}.onnx"
