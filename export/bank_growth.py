"""Adds new normals to the banks of a bundle: made beside it, checked, and swapped in whole. No torch, no training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgeasd.calibration.fit.amplitude import link_all
from edgeasd.calibration.fit.bank import bank_distances
from edgeasd.calibration.fit.deploy import HELD_OUT, TRAINING, Alpha, DeployFit, SegmentOutputs, clip_scores, fit_deploy
from edgeasd.calibration.fit.refit import changed, constants, open_folder
from edgeasd.calibration.fit.stored_normals import NORMALS, EmbeddedClips, StoredNormals, embedded_clips
from edgeasd.export.bundle_update import CALIBRATION, stored_record
from edgeasd.export.head import build_bank_head, classifier_of, describe_banks
from edgeasd.runtime.bundle.bundle import MANIFEST, Bundle, hash_file
from edgeasd.runtime.bundle.manifest import FileEntry, Manifest, dump_manifest
from edgeasd.runtime.errors import BundleError, CheckFailed, InputError
from edgeasd.runtime.features.logmel import Float32Array
from edgeasd.runtime.scoring.score import ScoreSettings
from edgeasd.runtime.scoring.scorer import Head
from edgeasd.runtime.scoring.threshold import Threshold
from edgeasd.runtime.system.files import atomic_directory, write_bytes, write_json

HELD_OUT_SHARE = 0.15
"""Of the new clips: they enter no bank, so that constants and threshold know the new state too."""
SAME = 1e-3
"""A clip is taken for a copy if all its stored segments lie this near to stored ones, in units of their density."""


@dataclass(frozen=True)
class NewClip:
    """A new normal clip, embedded by the fp32 encoder of the bundle."""

    name: str
    content: str
    """SHA-256 of the file."""
    stored: Float32Array
    """(sections, D): the segments that a bank stores."""
    whole: Float32Array
    """(K, D): those of the clip rule."""
    live: Float32Array
    """(L, D): all of the live rule."""


@dataclass(frozen=True)
class Growth:
    """A bundle before and after."""

    before: Manifest
    after: Manifest
    banks_before: list[int]
    banks_after: list[int]
    added: int
    """New clips in the banks."""
    held_out: int
    """New clips that constants and threshold were found with."""
    scores: list[tuple[str, float, float | None]]
    """Of each new clip: name, score before, score after; None after for one that the bank holds, and so knows."""
    refused: dict[str, str]
    """Precisions that no longer reproduce the reference segments, with the reason; out of use until calibrated."""

    @property
    def threshold_no_longer_holds(self) -> str | None:
        """How a calibrated threshold was found that this growth replaced; None for one that growth finds itself."""
        old = self.before.threshold
        ours = ("exponential tail of held-out", "largest held-out")
        return None if old is None or old.found_by.startswith(ours) else old.found_by


def read_stored_normals(bundle: Bundle) -> StoredNormals:
    """The normals that the banks of a bundle were fitted on.

    Raises InputError for a bundle without banks, or one that was exported before they were kept; BundleError for a
    damaged file.
    """
    if not _banks(bundle.manifest.score):
        raise InputError(
            f"{bundle.path}: is scored by a centroid and has no bank to grow; export it with --scoring knn"
        )
    if NORMALS not in bundle.manifest.files:
        raise InputError(
            f"{bundle.path}: has no {NORMALS}, so its bank cannot grow; train again with this edgeasd and export it"
        )
    path = bundle.file(NORMALS)
    found = StoredNormals.from_bytes(path.read_bytes(), f"{bundle.path.name}/{NORMALS}")
    if found.stored.z.shape[1] != bundle.manifest.network.embedding:
        raise BundleError(f"{bundle.path.name}/{NORMALS}: is of another encoder; copy the bundle again, whole")
    return found


def grow_bundle(
    path: Path, before: bytes, new: Sequence[NewClip], step: Callable[[str], None] = lambda _: None
) -> Growth:
    """Add `new` to the banks of the bundle folder `path`, and find constants and threshold again.

    `before` is the manifest that the clips were embedded with. The new bundle is made in a hidden folder (files that
    stay are linked, not copied), opened as a device opens it and takes its name only then: a kill leaves the old one.
    Raises InputError for a copy of what is stored and for normals that no bank can be fitted on, CheckFailed if
    normals and outliers no longer lie apart, BundleError if the bundle changed meanwhile; the old one then stands.
    """
    path = path.resolve()
    with open_folder(path) as bundle:
        bundle.verify_files()
        old, kept = bundle.manifest, read_stored_normals(bundle)
        head_before = bundle.file("head.onnx").read_bytes()
        record, golden = stored_record(bundle), bundle.reference_segments()
    if not new:
        raise InputError(f"{path}: no new clips to add; name some")
    _refuse_copies(kept, new)
    step("fitting the banks")
    grown, aside = _with_new(kept, new)
    banks, unseen = grown.fit()
    weight, bias = classifier_of(head_before)
    unscaled = Head(build_bank_head(weight, bias, banks, 0.0, 1.0).SerializeToString())
    fit = _fit(old, grown, unseen, unscaled)
    score = ScoreSettings.model_validate(
        old.score.model_dump() | fit.score.model_dump() | {"banks": describe_banks(banks)}
    )
    threshold = _as_before(fit.threshold, old.threshold)
    scores = [
        (
            clip.name,
            _clip_score(Head(head_before), old.score, clip),
            _clip_score(unscaled, score, clip) if clip.content in aside else None,
        )
        for clip in new
    ]
    with atomic_directory(path, replace=True) as folder:
        link_all(path, folder, ())
        step("writing the bundle")
        head = build_bank_head(weight, bias, banks, score.d_min, score.d_max)
        write_bytes(folder / "head.onnx", head.SerializeToString(deterministic=True))
        write_bytes(folder / NORMALS, grown.to_bytes())
        reference = replace(golden, d=bank_distances(banks, golden.z).astype(np.float32))
        write_bytes(folder / "golden.npz", reference.to_bytes())
        found = _calibration(grown, unscaled, score, threshold, unseen)
        write_json(folder / CALIBRATION, {**record, **found})
        manifest = changed(
            old,
            constants(old, score, threshold),
            f"bank grown by {len(new)} normal clips",
        )
        manifest = _write_manifest(folder, manifest)
        step("checking the bundle")
        refused = _check(folder, manifest)
        if refused:
            offers = {
                name: offer.model_copy(update={"recalibrate": True, "recalibrate_reason": refused[name]})
                if name in refused
                else offer
                for name, offer in manifest.precisions.items()
            }
            manifest = _write_manifest(folder, manifest.model_copy(update={"precisions": offers}))
        if (path / MANIFEST).read_bytes() != before:
            raise BundleError(f"{path}: was changed by another program meanwhile; grow it again")
        step("moving the bundle into place")
    return Growth(
        old,
        manifest,
        [bank["normals"] for bank in _banks(old.score)],
        [len(bank.points) for bank in banks],
        len(new) - len(aside),
        len(aside),
        scores,
        refused,
    )


def _banks(score: ScoreSettings) -> list[dict[str, int]]:
    return list((score.model_extra or {}).get("banks", []))


def _refuse_copies(kept: StoredNormals, new: Sequence[NewClip]) -> None:
    """InputError for a clip whose file or sound is stored already, or given twice."""
    known = {content: "stored already" for group in (kept.stored, kept.held_out) for content in group.contents}
    known |= dict.fromkeys(kept.outliers.contents, "sound of another machine, by which this one was trained")
    for clip in new:
        if clip.content in known:
            raise InputError(f"{clip.name}: {known[clip.content]}; leave it out")
        known[clip.content] = f"a copy of {clip.name}"
    banks, _ = kept.fit()
    for clip in new:
        if all((bank_distances([bank], clip.stored) < SAME).all() for bank in banks):
            raise InputError(f"{clip.name}: its sound is that of a stored clip, under another file; leave it out")


def _with_new(kept: StoredNormals, new: Sequence[NewClip]) -> tuple[StoredNormals, set[str]]:
    """With the new clips stored or, a share of them by content, held out; and the contents of the latter."""
    size = kept.stored.z.shape[1]
    ranked = sorted(new, key=lambda clip: hashlib.sha256(f"grow:{clip.content}".encode()).hexdigest())
    count = round(HELD_OUT_SHARE * len(ranked))
    aside, taken = ranked[:count], ranked[count:]

    def embedded(parts: list[Float32Array], clips: Sequence[NewClip]) -> EmbeddedClips:
        return embedded_clips(parts, [clip.content for clip in clips], size)

    grown = replace(
        kept,
        stored=kept.stored.with_more(embedded([clip.stored for clip in taken], taken)),
        held_out=kept.held_out.with_more(embedded([clip.whole for clip in aside], aside)),
        live=np.concatenate([kept.live, *(clip.live for clip in aside)]),
    )
    return grown.bounded(), {clip.content for clip in aside}


def _outputs(head: Head, clips: EmbeddedClips) -> list[SegmentOutputs]:
    if not len(clips.z):
        return []
    found = head(clips.z)
    return [SegmentOutputs(*pair) for pair in zip(clips.by_clip(found["q"]), clips.by_clip(found["d"]), strict=True)]


def _all_outputs(head: Head, z: Float32Array) -> SegmentOutputs:
    found = head(z)
    return SegmentOutputs(found["q"], found["d"])


def _normals(grown: StoredNormals, head: Head, unseen: np.ndarray) -> list[SegmentOutputs]:
    """Of the held-out normals; without any, of the stored ones, judged by banks without their clips."""
    if len(grown.held_out.z):
        return _outputs(head, grown.held_out)
    stored = grown.stored
    q, d = stored.by_clip(head(stored.z)["q"]), stored.by_clip(unseen.astype(np.float32))
    return [SegmentOutputs(*pair) for pair in zip(q, d, strict=True)]


def _fit(old: Manifest, grown: StoredNormals, unseen: np.ndarray, head: Head) -> DeployFit:
    origin = HELD_OUT if len(grown.held_out.z) else TRAINING
    return fit_deploy(
        old.score.method,
        None,
        _normals(grown, head, unseen),
        _outputs(head, grown.outliers),
        alpha=Alpha(old.score.alpha, old.score.alpha_source),
        normal_origin=origin,
        outlier_origin=origin,
        live=_all_outputs(head, grown.live) if len(grown.live) else None,
        features=old.features,
        segments=old.segments,
    )


def _as_before(found: Threshold | None, old: Threshold | None) -> Threshold | None:
    """With the number in a row that the old one had."""
    return found if found is None or old is None else found.model_copy(update={"consecutive": old.consecutive})


def _clip_score(head: Head, score: ScoreSettings, clip: NewClip) -> float:
    found = head(clip.whole)
    return clip_scores(score, [SegmentOutputs(found["q"], found["d"])])[0]


def _calibration(
    grown: StoredNormals,
    head: Head,
    score: ScoreSettings,
    threshold: Threshold | None,
    unseen: np.ndarray,
) -> dict[str, object]:
    """What export writes to calibration.json, found again."""
    return {
        "score": score.model_dump(),
        "threshold": threshold.model_dump() if threshold else None,
        "normal_clip_scores": clip_scores(score, _normals(grown, head, unseen)),
        "outlier_clip_scores": clip_scores(score, _outputs(head, grown.outliers)),
    }


def _write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Write it with the hashes and sizes of today; returns it."""
    files = {
        name: FileEntry(sha256=hash_file(folder / name), size=(folder / name).stat().st_size) for name in manifest.files
    }
    manifest = manifest.model_copy(update={"files": files})
    write_bytes(folder / MANIFEST, dump_manifest(manifest))
    return manifest


def _check(folder: Path, manifest: Manifest) -> dict[str, str]:
    """Open every precision as a device does; the reasons of those, fp32 apart, that no longer fit the bank."""
    refused = {}
    with Bundle(folder) as made:
        made.verify_files()
        for name, offer in manifest.precisions.items():
            if offer.stale:
                continue
            try:
                scorer, _ = made.open_scorer(precision=name, engine="onnxruntime")
                scorer.close()
            except CheckFailed as error:
                if name == "fp32":
                    raise
                figures = str(error).partition(f"at {name}: ")[2].partition(";")[0] or str(error)
                refused[name] = f"the bank grew, and its distances differ too much: {figures}"
    return refused
