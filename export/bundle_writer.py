"""Writes a bundle from a trained model and its constants: made beside its place, checked, then renamed."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

import edgeasd
from edgeasd.calibration.fit.bank import Bank, bank_distances
from edgeasd.calibration.fit.deploy import DeployFit, SegmentOutputs, clip_scores
from edgeasd.calibration.fit.stored_normals import NORMALS, StoredNormals
from edgeasd.export import graphs as encoder_graph
from edgeasd.export.fp16 import FP16_LIMITS, build_fp16, load_limits
from edgeasd.export.front_end import FRONT_END, build_front_end, measure_front_end
from edgeasd.export.head import build_bank_head, build_head, describe_banks
from edgeasd.export.parity import EXPORT_LIMITS, LOAD_LIMITS, torch_reference
from edgeasd.runtime.bundle.bundle import MANIFEST, Bundle, hash_file
from edgeasd.runtime.bundle.manifest import (
    FileEntry,
    Machine,
    Manifest,
    Network,
    Precision,
    dump_manifest,
    schema_version_for,
)
from edgeasd.runtime.bundle.reference_segments import (
    Deviation,
    ReferenceSegments,
    check_reference_segments,
    reference_deviation,
)
from edgeasd.runtime.engines import open_engine
from edgeasd.runtime.errors import CheckFailed, InputError
from edgeasd.runtime.features.logmel import Amplitude, FeatureSettings, Float32Array
from edgeasd.runtime.features.segments import SegmentSettings
from edgeasd.runtime.health.settings import LevelRange
from edgeasd.runtime.scoring.score import ScoreSettings
from edgeasd.runtime.scoring.scorer import Head, Scorer
from edgeasd.runtime.states import ModeProfile, SoundProfile
from edgeasd.runtime.system.files import atomic_directory, atomic_file, write_bytes, write_json

PRECISIONS = ("fp32", "fp16")
"""What export makes by itself; INT8 needs normal clips, so `edgeasd calibrate` makes it."""

_LIMITS = {"fp32": EXPORT_LIMITS, "fp16": FP16_LIMITS}
_FAILURES = {
    "fp32": ("ONNX", "report this with the versions of torch and onnxscript"),
    "fp16": ("fp16", "this model does not fit float16: leave fp16 out of --precision"),
}

_GOLDEN_IN_BUNDLE = 4


@dataclass(frozen=True)
class ExportInput:
    """A trained model with all that its bundle states; nothing here depends on how it was trained."""

    machine: str
    id: str
    backbone: str
    parameters: int
    macs_per_segment: int
    encoder: nn.Module
    weight: Tensor
    """(D,) of the head."""
    bias: Tensor
    """() of the head."""
    centroid: Tensor
    """c_p, (D,); not used if there are banks."""
    features: FeatureSettings
    amplitude: Amplitude
    segments: SegmentSettings
    fit: DeployFit
    normals: Sequence[SegmentOutputs]
    outliers: Sequence[SegmentOutputs]
    real_segments: Float32Array
    """(G, frames, n_mels) of real clips; the first few become the reference segments."""
    level: LevelRange | None = None
    """None without clips to measure it on."""
    sound: SoundProfile | None = None
    """What the normal clips sound like; None without enough of them."""
    modes: Mapping[str, ModeProfile] = field(default_factory=dict)
    """The same for each recorded mode."""
    banks: tuple[Bank, ...] = ()
    """Stored normals that take the place of the centroid."""
    normals_of_banks: StoredNormals | None = None
    """What the banks were fitted on: with it `edgeasd grow` can add to them."""
    provenance: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)


def write_bundle(
    model: ExportInput,
    path: Path,
    step: Callable[[str], None] = lambda _: None,
    precisions: Sequence[str] = ("fp32",),
    front_end_sounds: Sequence[Float32Array] | None = None,
    keep: Callable[[Path, Path], None] | None = None,
) -> dict[str, Deviation]:
    """Export `model` to the folder `path`, replacing an older bundle there; returns the deviation of each precision.

    fp32 is always written, as the reference of all others. Everything is written to a hidden folder
    beside `path`, opened again the way a device would and compared with torch on all real segments;
    only then it takes its name. Raises CheckFailed, and leaves nothing behind, beyond EXPORT_LIMITS for
    fp32 and FP16_LIMITS for fp16.

    With `front_end_sounds`, clips (n,) float32, the front end is written too and measured on them: see
    `edgeasd.export.front_end`. `keep(old, new)` may bring parts of an older bundle at `path` into the new one before
    it takes its place; see `edgeasd.export.keep_calibration`.
    """
    wanted = ["fp32", *(name for name in PRECISIONS[1:] if name in precisions)]
    if path.exists() and not (path / MANIFEST).is_file():
        raise InputError(f"{path}: is there and is not a bundle; move it away or choose another --output")
    step("running the torch model")
    reference = _reference(model)
    with atomic_directory(path, replace=True) as folder:
        step("writing ONNX")
        _write_graphs(model, folder, wanted)
        if front_end_sounds is not None:
            front_end = build_front_end(model.features, model.segments.frames)
            encoder_graph.save(front_end, folder / FRONT_END)
        golden = ReferenceSegments(
            *(getattr(reference, name)[:_GOLDEN_IN_BUNDLE] for name in ReferenceSegments.__slots__)
        )
        write_bytes(folder / "golden.npz", golden.to_bytes())
        if model.normals_of_banks is not None:
            write_bytes(folder / NORMALS, model.normals_of_banks.to_bytes())
        write_json(folder / "calibration.json", _calibration(model))
        manifest = _manifest(model, folder, wanted)
        write_bytes(folder / MANIFEST, dump_manifest(manifest))
        step("checking ONNX against torch")
        found = _check(folder, reference)
        manifest = _with_tolerances(manifest, found)
        write_bytes(folder / MANIFEST, dump_manifest(manifest))
        if front_end_sounds is not None:
            step("measuring the front end")
            with Bundle(folder) as bundle:
                measured = measure_front_end(bundle, front_end_sounds)
            write_bytes(folder / MANIFEST, dump_manifest(manifest.model_copy(update={"front_end": measured})))
        if keep is not None and path.exists():
            keep(path, folder)
        step("moving the bundle into place")
        return found


def _reference(model: ExportInput) -> ReferenceSegments:
    """What torch says of the real segments; for banks, d is that of their definition in float64."""
    made = torch_reference(model.encoder, model.weight, model.bias, model.centroid, model.real_segments)
    if not model.banks:
        return made
    return replace(made, d=bank_distances(model.banks, made.z).astype(np.float32))


def _write_graphs(model: ExportInput, folder: Path, precisions: Sequence[str]) -> None:
    score = model.fit.score
    encoder = encoder_graph.build_encoder(model.encoder, model.segments.frames, model.features.n_mels)
    encoder_graph.save(encoder, folder / "encoder.fp32.onnx")
    if "fp16" in precisions:
        encoder_graph.save(build_fp16(encoder), folder / "encoder.fp16.onnx")
    weight, bias = model.weight.cpu().numpy(), float(model.bias)
    if model.banks:
        head = build_bank_head(weight, bias, model.banks, score.d_min, score.d_max)
    else:
        head = build_head(weight, bias, model.centroid.cpu().numpy(), score.d_min, score.d_max)
    encoder_graph.save(head, folder / "head.onnx")


def _calibration(model: ExportInput) -> dict[str, Any]:
    score = model.fit.score
    return {
        "score": score.model_dump(),
        "threshold": model.fit.threshold.model_dump() if model.fit.threshold else None,
        "normal_clip_scores": clip_scores(score, model.normals),
        "outlier_clip_scores": clip_scores(score, model.outliers),
    }


def _manifest(model: ExportInput, folder: Path, precisions: Sequence[str]) -> Manifest:
    files = {
        path.name: FileEntry(sha256=hash_file(path), size=path.stat().st_size) for path in sorted(folder.iterdir())
    }
    versions = {
        "edgeasd": edgeasd.__version__,
        "torch": torch.__version__,
        "onnx": encoder_graph.onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
    return Manifest(
        schema_version=schema_version_for(model.features),
        edgeasd_version=edgeasd.__version__,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        machine=Machine(type=model.machine, id=model.id),
        status=model.fit.status,
        network=Network(
            backbone=model.backbone,
            embedding=len(model.centroid),
            parameters=model.parameters,
            macs_per_segment=model.macs_per_segment,
        ),
        features=model.features,
        amplitude=model.amplitude,
        segments=model.segments,
        score=_described(model),
        threshold=model.fit.threshold,
        precisions={name: Precision(file=f"encoder.{name}.onnx", tolerance=_LIMITS[name]) for name in precisions},
        files=files,
        provenance={**model.provenance, "exported_with": versions},
        metrics=model.metrics,
        level=model.level,
        sound=model.sound,
        modes=dict(model.modes),
    )


def _described(model: ExportInput) -> ScoreSettings:
    """The constants of the score; with what it is measured by where that is a bank."""
    banks = describe_banks(model.banks)
    return model.fit.score.model_copy(update={"banks": banks}) if banks else model.fit.score


def _with_tolerances(manifest: Manifest, found: dict[str, Deviation]) -> Manifest:
    """What a device must keep: for fp32 fixed, for fp16 from what this model was measured to do."""
    precisions = {
        name: offer.model_copy(update={"tolerance": LOAD_LIMITS if name == "fp32" else load_limits(found[name])})
        for name, offer in manifest.precisions.items()
    }
    return manifest.model_copy(update={"precisions": precisions})


def _check(folder: Path, reference: ReferenceSegments) -> dict[str, Deviation]:
    """Load the bundle from its verified files and compare all real segments at every precision. Raises CheckFailed."""
    with Bundle(folder) as bundle:
        bundle.verify_files()
        return {name: _check_precision(bundle, name, reference) for name in bundle.manifest.precisions}


def _check_precision(bundle: Bundle, precision: str, reference: ReferenceSegments) -> Deviation:
    manifest = bundle.manifest
    # Not Bundle.open_scorer: its golden check would come first, with wider limits and another remedy.
    engine = open_engine(bundle.model(manifest.precisions[precision].file), precision=precision, engine="onnxruntime")
    head = Head(bundle.file("head.onnx"))
    scorer = Scorer(engine, head, manifest.features, manifest.amplitude, manifest.segments, manifest.score)
    found = reference_deviation(scorer, reference)
    problems = found.beyond(_LIMITS[precision])
    if problems:
        what, remedy = _FAILURES[precision]
        raise CheckFailed(
            f"export: {what} does not reproduce torch on {len(reference.z)} real segments: {'; '.join(problems)}; "
            f"nothing was written; {remedy}"
        )
    check_reference_segments(
        scorer,
        bundle.reference_segments(),
        LOAD_LIMITS if precision == "fp32" else load_limits(found),
        bundle.path.name,
    )
    scorer.close()
    return found


def zip_bundle(folder: Path) -> Path:
    """Pack a bundle folder into one zip beside it, atomically; weights do not compress, so they are stored."""
    target = folder.with_name(folder.name + ".zip")
    with atomic_file(target) as handle, zipfile.ZipFile(handle, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(folder.iterdir()):
            if path.is_file():
                with open(path, "rb") as source, archive.open(path.name, "w", force_zip64=True) as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
    return target
