"""New constants and a new threshold for an existing bundle: the manifest changes, the graphs do not.

`refit_score` writes manifest.json only, so every listed hash stays the same. The head keeps the d_min and d_max of
the export; the runtime forms d′ from the manifest's (runtime/scoring/score.py). A change of the amplitude changes
more: see amplitude.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from edgeasd.calibration.fit.bank import CLASSIFY, KNN
from edgeasd.calibration.fit.deploy import SegmentOutputs
from edgeasd.calibration.fit.distance import ANOMALY_CLIPS_NEEDED, fit_distance_range, normal_range
from edgeasd.runtime.bundle.bundle import MANIFEST, Bundle
from edgeasd.runtime.bundle.manifest import Manifest, Precision, Tolerance, dump_manifest
from edgeasd.runtime.bundle.reference_segments import check_reference_segments
from edgeasd.runtime.engines import open_engine
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.scoring.score import ScoreSettings
from edgeasd.runtime.scoring.scorer import Head, Scorer
from edgeasd.runtime.scoring.threshold import Threshold
from edgeasd.runtime.system.files import write_bytes

GIVEN = "given"


def refit_constants(
    score: ScoreSettings,
    normals: Sequence[SegmentOutputs],
    outliers: Sequence[SegmentOutputs] = (),
    anomalies: Sequence[SegmentOutputs] = (),
) -> ScoreSettings:
    """`score` with d_min and d_max fitted again in `deploy` mode; method and α stay.

    d_min is the smallest distance of the new normals. d_max is fitted again where outliers, or 8 known
    anomalies or more, are given; without, it stays as it is, since an outlier's distance does not depend
    on this machine's normals; a method without outliers has both from the new normals. Raises InputError without normals, CheckFailed if d_max is not above d_min.
    """
    if score.method in (KNN, CLASSIFY) and not outliers and len(anomalies) < ANOMALY_CLIPS_NEEDED:
        scale = normal_range([c.d for c in normals])
        sources = {
            "d_min_source": scale.d_min_source.replace("held-out", GIVEN),
            "d_max_source": scale.d_max_source.replace("held-out", GIVEN),
        }
        fitted = {"d_min": scale.d_min, "d_max": scale.d_max, "mode": "deploy", **sources}
        return ScoreSettings.model_validate(score.model_dump() | fitted)
    from_factory = not outliers and len(anomalies) < ANOMALY_CLIPS_NEEDED
    # As an outlier it passes the check that the two lie apart.
    reference = [np.array([score.d_max])] if from_factory else [c.d for c in outliers]
    found = fit_distance_range([c.d for c in normals], reference, [c.d for c in anomalies])
    changes: dict[str, Any] = {
        "d_min": found.d_min,
        "d_min_source": found.d_min_source.replace("held-out", GIVEN),
        "mode": "deploy",
    }
    if not from_factory:
        changes |= {"d_max": found.d_max, "d_max_source": found.d_max_source.replace("held-out", GIVEN)}
    elif not score.d_max_source.startswith("kept: "):
        changes["d_max_source"] = f"kept: {score.d_max_source}"
    return ScoreSettings.model_validate(score.model_dump() | changes)


def refit_score(path: Path, score: ScoreSettings, threshold: Threshold | None, *, dated: bool = True) -> Manifest:
    """Put `score` and the `threshold` found on its scale into the manifest of the bundle folder `path`.

    All files are verified first, and the reference segments must come out of fp32 with the new constants;
    then manifest.json is written, atomically, with an entry in `provenance.refits` that keeps what it
    replaced and, where `dated`, the time. Without a threshold the bundle becomes `uncalibrated`. Returns the
    new manifest.

    Raises InputError for a zip, BundleError for a damaged bundle, CheckFailed if the reference segments
    are not reproduced; the old manifest then stands.
    """
    with open_folder(path) as bundle:
        bundle.verify_files()
        old = bundle.manifest
        new = changed(
            old,
            constants(old, score, threshold),
            "d_min, d_max and threshold" if score != old.score else "threshold",
            dated=dated,
        )
        check_reference(bundle, new)
    write_bytes(path / MANIFEST, dump_manifest(new))
    return new


def open_folder(path: Path) -> Bundle:
    """A bundle folder to be changed; InputError for a zip, which has no manifest to replace."""
    if path.is_file():
        raise InputError(f"{path}: is a zip, and its manifest cannot be replaced alone; unpack it into a folder first")
    return Bundle(path)


def constants(old: Manifest, score: ScoreSettings, threshold: Threshold | None) -> dict[str, Any]:
    """The fields of a manifest that new constants or a new threshold change."""
    return {
        "score": score,
        "threshold": threshold,
        "status": "calibrated" if threshold is not None else "uncalibrated",
        "precisions": {name: rescaled(offer, old.score, score) for name, offer in old.precisions.items()},
    }


def changed(old: Manifest, changes: dict[str, Any], what: str, *, dated: bool = True) -> Manifest:
    """`old` with new fields, unknown ones kept, and a note of what was replaced; validated as a whole.

    A note without a date is the same whenever it is made.
    """
    when = {"at": datetime.now(timezone.utc).isoformat(timespec="seconds")} if dated else {}
    before = {name: getattr(old, name) for name in ("score", "threshold", "amplitude")}
    note = {
        "changed": what,
        **when,
        "replaced": {
            name: value.model_dump(mode="json", exclude={"sources"}) if value is not None else None
            for name, value in before.items()
            if name in changes and changes[name] != value
        },
    }
    provenance = {**old.provenance, "refits": [*old.provenance.get("refits", []), note]}
    plain = {name: _plain(value) for name, value in changes.items()}
    return Manifest.model_validate({**old.model_dump(), **plain, "provenance": provenance})


def rescaled(offer: Precision, before: ScoreSettings, after: ScoreSettings) -> Precision:
    """The offer with its tolerances in the units of the new constants.

    `d` and `score` are allowed to deviate in units of d_max − d_min. The graphs are the same, so what they
    may deviate by in distance stays the same, whatever the units.
    """
    factor = (before.d_max - before.d_min) / (after.d_max - after.d_min)
    was = offer.tolerance
    # The share of q in a score does not depend on the constants: a wider range narrows nothing there.
    scaled = {"d": was.d * factor, "score": was.score * max(1.0, factor)}
    return offer.model_copy(update={"tolerance": Tolerance.model_validate({**was.model_dump(), **scaled})})


def check_reference(bundle: Bundle, new: Manifest) -> None:
    """Run the reference segments through fp32 with the constants of `new`; raises CheckFailed or BundleError."""
    if "fp32" not in new.precisions:
        raise InputError(f"{bundle.path}: has no fp32 encoder to check a re-fit with; export it with fp32")
    offer = new.precisions["fp32"]
    engine = open_engine(bundle.model(offer.file), precision="fp32", engine="onnxruntime")
    scorer = Scorer(
        engine, Head(bundle.file("head.onnx")), new.features, bundle.manifest.amplitude, new.segments, new.score
    )
    try:
        check_reference_segments(scorer, bundle.reference_segments(), offer.tolerance, bundle.path.name)
    finally:
        scorer.close()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return value.model_dump() if hasattr(value, "model_dump") else value
