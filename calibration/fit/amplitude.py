"""A new amplitude for an existing bundle: the input of the encoder changes, so more than a number must follow.

Amplitude is the first step, x ← (x − mean) / std. Another std multiplies every magnitude by one factor and so
adds one constant to every log-mel value above the floor. Another mean changes nothing in the log-mel: a
constant offset lies in the lowest two bins of a Hann window's spectrum, below the first mel band. (Where bands begin
at 0 Hz, the lowest of them move with the mean; the reference segments are then of a sound with the old one.)

- Distances and scores of all sound change. So d_min, d_max and the threshold must be fitted on outputs under the
  new amplitude; `refit_amplitude` requires them.
- The reference segments must be checked where the device works: fp16 and INT8 err differently at another level.
  So golden.npz is written again: the same sound under the new amplitude, with the outputs of fp32 and the head.
- The ranges of INT8 were taken at the old level. Values outside them are clipped, and a clipped fault sounds
  normal. Those precisions are marked `recalibrate` and the runtime refuses them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path

import numpy as np

from edgeasd.calibration.fit.refit import changed, check_reference, open_folder, rescaled
from edgeasd.runtime.bundle.bundle import MANIFEST, Bundle, hash_file
from edgeasd.runtime.bundle.manifest import FileEntry, Manifest, Precision, dump_manifest
from edgeasd.runtime.bundle.reference_segments import ReferenceSegments
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.features.logmel import Amplitude, FeatureSettings, Float32Array
from edgeasd.runtime.scoring.score import ScoreSettings
from edgeasd.runtime.scoring.scorer import Scorer
from edgeasd.runtime.scoring.threshold import Threshold
from edgeasd.runtime.system.files import atomic_directory, write_bytes

_GOLDEN = "golden.npz"


def shifted_logmel(
    logmel: Float32Array, before: Amplitude, after: Amplitude, features: FeatureSettings
) -> Float32Array:
    """Log-mel frames (..., n_mels) float32 of the same sound under another amplitude.

    Exact to rounding (1e-6) above the floor. Values on the floor stay there: what lay below it is not
    known, and digital silence has nothing there at any level.
    """
    floor, rise = np.float32(features.lowest), features.decade * np.log10(before.std / after.std)
    if features.floor_rule == "add":
        # log(m + floor) is of no single rise: back to m, and forth.
        base = np.e if features.logarithm == "ln" else 10.0
        mel = base ** (logmel.astype(np.float64) / features.scale - features.offset) - features.log_floor
        mel *= base ** (rise / features.scale)
        log = np.log(np.maximum(mel, 0.0) + features.log_floor) / np.log(base)
        return ((log + features.offset) * features.scale).astype(np.float32)
    moved = logmel.astype(np.float64) + rise
    return np.where(logmel <= floor, floor, np.maximum(moved, floor)).astype(np.float32)


def with_amplitude(scorer: Scorer, amplitude: Amplitude) -> Scorer:
    """`scorer` under another amplitude, sharing its engine: to run clips before the bundle is changed."""
    return Scorer(scorer.engine, scorer.head, scorer.features, amplitude, scorer.segments, scorer.score)


def refit_amplitude(
    path: Path, amplitude: Amplitude, score: ScoreSettings, threshold: Threshold | None, *, dated: bool = True
) -> Manifest:
    """Put `amplitude` into the bundle folder `path`, with the `score` and `threshold` found under it.

    Writes golden.npz and manifest.json; the graphs and all other files stay, engines built on the device
    included. Every precision called int8 or int8-… is marked `recalibrate`. The new bundle is made beside
    the old one (files that stay are linked, not copied), verified, and takes its name only then. Measured
    drift and the figures of `metrics` belong to the old amplitude, and `provenance.refits` says so, with the
    time where `dated`.

    Raises InputError for a zip, BundleError for a damaged bundle, CheckFailed if fp32 does not
    reproduce the reference segments; the old bundle then stands.
    """
    with open_folder(path) as bundle:
        bundle.verify_files()
        old = bundle.manifest
        golden = golden_under(bundle, amplitude)
    reason = f"the amplitude was fitted again: std {old.amplitude.std:.6g} became {amplitude.std:.6g}"
    with atomic_directory(path, replace=True) as folder:
        link_all(path, folder, (MANIFEST, _GOLDEN))
        write_bytes(folder / _GOLDEN, golden.to_bytes())
        entry = FileEntry(sha256=hash_file(folder / _GOLDEN), size=(folder / _GOLDEN).stat().st_size)
        offers = {name: rescaled(offer, old.score, score) for name, offer in old.precisions.items()}
        changes = {
            "amplitude": amplitude,
            "score": score,
            "threshold": threshold,
            "status": "calibrated" if threshold is not None else "uncalibrated",
            "precisions": {name: _marked(name, offer, reason) for name, offer in offers.items()},
            "files": {**old.files, _GOLDEN: entry},
        }
        what = (
            "amplitude, d_min, d_max, threshold and reference segments; metrics and drift are of the earlier amplitude"
        )
        new = changed(old, changes, what, dated=dated)
        write_bytes(folder / MANIFEST, dump_manifest(new))
        with Bundle(folder) as made:
            made.verify_files()
            check_reference(made, new)
    return new


def golden_under(bundle: Bundle, amplitude: Amplitude) -> ReferenceSegments:
    """The reference segments under `amplitude`, with what fp32 and the head make of them; as stored under the old one.

    Raises InputError for a bundle without fp32, and what `Bundle.open_scorer` raises.
    """
    if amplitude == bundle.manifest.amplitude:
        return bundle.reference_segments()
    if "fp32" not in bundle.manifest.precisions:
        raise InputError(f"{bundle.path}: has no fp32 encoder to make reference segments with; export it with fp32")
    scorer, _ = bundle.open_scorer(precision="fp32", engine="onnxruntime")
    try:
        stored = bundle.reference_segments().logmel
        logmel = shifted_logmel(stored, bundle.manifest.amplitude, amplitude, bundle.manifest.features)
        z = scorer.embed(logmel)
        head = scorer.head(z)
    finally:
        scorer.close()
    return ReferenceSegments(logmel, z, head["logit"], head["q"], head["d"])


def _marked(name: str, offer: Precision, reason: str) -> Precision:
    if name != "int8" and not name.startswith("int8-"):
        return offer
    return offer.model_copy(update={"recalibrate": True, "recalibrate_reason": reason})


def link_all(source: Path, target: Path, without: Collection[str]) -> None:
    """All files of a bundle folder but those named, as hard links: an encoder may have hundreds of megabytes.

    Copies where links fail. A linked file must be replaced, never written into.
    """
    for folder, folders, names in os.walk(source):
        here = target / Path(folder).relative_to(source)
        for name in folders:
            (here / name).mkdir()
        for name in names:
            if Path(folder) == source and name in without:
                continue
            try:
                os.link(Path(folder, name), here / name, follow_symlinks=False)
            except OSError:
                shutil.copy2(Path(folder, name), here / name, follow_symlinks=False)
