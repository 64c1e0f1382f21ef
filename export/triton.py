"""A Triton model repository from bundles: encoder, head and ensemble of each, written whole and checked.

A model has the bundle's name; its parts end in `__encoder` and `__head`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeasd.calibration.fit.amplitude import link_all
from edgeasd.export.triton_config import EMBEDDING, ENCODER_OUT, encoder_config, ensemble_config, head_config, render
from edgeasd.runtime.bundle.bundle import Bundle, hash_file
from edgeasd.runtime.bundle.manifest import Manifest, dump_manifest
from edgeasd.runtime.bundle.reference_segments import check_reference_segments
from edgeasd.runtime.engines import open_engine
from edgeasd.runtime.engines.tensorrt.engine_file import engine_paths, read_sidecar
from edgeasd.runtime.errors import BundleError, InputError
from edgeasd.runtime.features.logmel import FeatureSettings
from edgeasd.runtime.scoring.score import ScoreSettings
from edgeasd.runtime.scoring.scorer import Head, Scorer
from edgeasd.runtime.system.files import atomic_directory, write_bytes, write_json

ENCODER, HEAD = "__encoder", "__head"
"""Endings of the parts. No name made here has two underscores in a row, so no model is taken for a part."""

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*(_[A-Za-z0-9-]+)*")
_LONGEST = 100
_BETWEEN = "-id_"
MARKER = "edgeasd.json"
MARKER_VERSION = 1
PLATFORMS = {"onnx": ("fp32", "int8-cpu"), "tensorrt": ("fp32", "fp16", "int8")}
"""Precisions that each runs well; the first is the default."""
KINDS = ("gpu", "cpu")
_LARGEST_MARKER = 4 * 1024 * 1024


def model_name(machine: str, id: str) -> str:
    """`<machine>-id_<id>`, as the bundle's folder is called.

    If that is not of plain letters, digits, - and single _, is longer than 100 characters, or fits another pair
    as well, its plain part gets a hash of the pair.
    """
    name = f"{machine}{_BETWEEN}{id}"
    if _PLAIN.fullmatch(name) and len(name) <= _LONGEST and name.count(_BETWEEN) == 1:
        return name
    left = re.sub(r"[^A-Za-z0-9-]+", "_", name)[:_LONGEST].strip("_-") or "model"
    return f"{left}-{hashlib.sha256(json.dumps([machine, id]).encode()).hexdigest()[:10]}"


def client_metadata(manifest: Manifest, precision: str) -> dict[str, object]:
    """Names and values; numbers are written so that reading them gives the same float64.

    The manifest stays the law: this is for a client that has only the server. None if there is no threshold.
    """
    features, segments, score, threshold = manifest.features, manifest.segments, manifest.score, manifest.threshold
    return {
        "edgeasd_version": manifest.edgeasd_version,
        "machine": manifest.machine.type,
        "id": manifest.machine.id,
        "status": manifest.status,
        "backbone": manifest.network.backbone,
        "precision": precision,
        "sample_rate": features.sample_rate,
        "n_fft": features.n_fft,
        "hop_length": features.hop_length,
        "n_mels": features.n_mels,
        "f_min": features.f_min,
        "f_max": features.f_max,
        # What an older client takes for granted is named only where it is otherwise.
        **{
            name: value
            for name, value in features.model_dump().items()
            if name in FeatureSettings.model_fields and value != FeatureSettings.model_fields[name].default
        },
        "amplitude_mean": manifest.amplitude.mean,
        "amplitude_std": manifest.amplitude.std,
        "segment_frames": segments.frames,
        "segment_hop_frames": segments.hop,
        "segment_hop_seconds": segments.hop * features.hop_length / features.sample_rate,
        "sections": segments.sections,
        "method": score.method,
        "alpha": score.alpha,
        "d_min": score.d_min,
        "d_max": score.d_max,
        "threshold_clip": threshold.clip if threshold else None,
        "threshold_consecutive": threshold.consecutive if threshold else None,
    }


def served_head(path: Path, score: ScoreSettings) -> onnx.ModelProto:
    """head.onnx with d_min and d_max of `score` and one more output, "embedding" (N, D).

    A re-fit changes d_min and d_max in the manifest and leaves the graph alone; a server knows no manifest. And
    an ensemble must not give out a tensor that a later step also reads: Triton leaves out the step that makes
    an output that was not requested, even if another step needs it. So the embedding comes out of the last step.

    Raises BundleError for a head that is not of our making.
    """
    model = onnx.load_from_string(path.read_bytes())
    graph = model.graph
    found = {constant.name: constant for constant in graph.initializer}
    inputs = [value for value in graph.input if value.name == ENCODER_OUT]
    if not inputs or "d_min" not in found or "d_spread" not in found:
        raise BundleError(f"{path.name}: not a head that this edgeasd writes; export the bundle again")
    values = {"d_min": np.float32(score.d_min), "d_spread": np.float32(score.d_max) - np.float32(score.d_min)}
    for name, value in values.items():
        found[name].CopyFrom(numpy_helper.from_array(np.asarray(value, np.float32), name))
    size = inputs[0].type.tensor_type.shape.dim[1].dim_value
    graph.node.append(helper.make_node("Identity", [ENCODER_OUT], [EMBEDDING]))
    graph.output.append(helper.make_tensor_value_info(EMBEDDING, TensorProto.FLOAT, ["N", size]))
    onnx.checker.check_model(model, full_check=True)
    return model


@dataclass(frozen=True)
class TritonOptions:
    """Options of serving a bundle."""

    platform: str = "onnx"
    """"onnx" (Triton's ONNX Runtime) or "tensorrt" (an engine that was built for the server)."""
    precision: str | None = None
    max_batch: int = 64
    """With TensorRT no more than the engine was built for."""
    queue_delay_microseconds: int = 5000
    """How long a request may wait for others to fill a batch."""
    instances: int = 1
    kind: str = "gpu"
    """Where the encoder runs; the head always runs on the CPU."""


@dataclass(frozen=True)
class ServedModel:
    """One bundle in a repository; `name` is the ensemble's, which clients ask."""

    name: str
    version: int
    machine: str
    id: str
    platform: str
    precision: str
    max_batch: int
    manifest_sha256: str


def check_repository(folder: Path) -> dict[str, Any]:
    """What `folder` holds already, by model name; {} for one that is empty or absent.

    Raises InputError for a folder with something in it that we did not write, for a file, and for a mount point.
    """
    if not folder.exists():
        return {}
    if not folder.is_dir():
        raise InputError(f"{folder}: a file; name a folder")
    if os.path.ismount(folder):
        raise InputError(f"{folder}: a mount point, which cannot be replaced whole; name a folder inside it")
    marker = folder / MARKER
    if not marker.is_file():
        if any(folder.iterdir()):
            raise InputError(f"{folder}: holds something else than our models; name an empty or new folder")
        return {}
    try:
        with open(marker, "rb") as handle:
            found = json.loads(handle.read(_LARGEST_MARKER))
        models, version = found["models"], found["schema_version"]
        numbered = all(type(model["version"]) is int and 0 < model["version"] < 2**31 for model in models.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        numbered = False
    if not numbered or version != MARKER_VERSION:
        raise InputError(f"{folder}: its {MARKER} is damaged or of another version; name a new folder")
    return dict(models)


def write_repository(
    bundles: Sequence[Path],
    folder: Path,
    options: TritonOptions | None = None,
    step: Callable[[str], None] = lambda _: None,
) -> list[ServedModel]:
    """Put `bundles` into the repository `folder`, new or our own, and return what was put there.

    The whole repository is made in a hidden folder beside it, opened and checked with the reference segments of each
    bundle, and takes its name only then; other models in it stay (linked, not copied). A bundle that is there
    already gets the next version number. Raises InputError, BundleError, CheckFailed; the old repository then
    stands.
    """
    options = options or TritonOptions()
    _check_options(options)
    folder = folder.resolve()
    old = check_repository(folder)
    with atomic_directory(folder, replace=True) as made:
        if old:
            link_all(folder, made, (MARKER,))
        served: list[ServedModel] = []
        for path in bundles:
            step(f"{path} for Triton")
            with Bundle(path) as bundle:
                added = _add(bundle, made, old, options)
            if any(one.name == added.name for one in served):
                raise InputError(f"{path}: a second bundle of {added.machine} ID {added.id}; serve one of them")
            served.append(added)
        entries = {**old, **{model.name: asdict(model) for model in served}}
        write_json(made / MARKER, {"schema_version": MARKER_VERSION, "models": entries})
        step("moving the repository into place")
    return served


def _check_options(options: TritonOptions) -> None:
    if options.platform not in PLATFORMS:
        raise InputError(f"--platform {options.platform}: unknown; use one of {', '.join(PLATFORMS)}")
    if options.kind not in KINDS:
        raise InputError(f"--kind {options.kind}: unknown; use one of {', '.join(KINDS)}")
    if options.platform == "tensorrt" and options.kind == "cpu":
        raise InputError("--kind cpu: TensorRT runs on a GPU; use --platform onnx")


def _add(bundle: Bundle, folder: Path, old: dict[str, Any], options: TritonOptions) -> ServedModel:
    """Write the three models of a bundle, replacing those of its earlier version."""
    manifest = bundle.manifest
    precision = _precision(bundle, options)
    source, file_name, largest = _encoder_file(bundle, precision, options)
    max_batch = min(options.max_batch, largest or options.max_batch)
    name = model_name(manifest.machine.type, manifest.machine.id)
    before = old.get(name, {})
    version = before.get("version", 0) + 1
    encoder, head = name + ENCODER, name + HEAD
    for model in (name, encoder, head):
        shutil.rmtree(folder / model, ignore_errors=True)
        (folder / model / str(version)).mkdir(parents=True)
    # Not shutil.copyfile: where the disk is full it names the bundle's file as the one without room.
    with open(source, "rb") as handle, open(folder / encoder / str(version) / file_name, "wb") as sink:
        shutil.copyfileobj(handle, sink, 1 << 20)
    served = served_head(bundle.file("head.onnx"), manifest.score)
    write_bytes(folder / head / str(version) / "model.onnx", served.SerializeToString(deterministic=True))
    metadata = client_metadata(manifest, precision)
    configs = {
        encoder: encoder_config(
            encoder,
            manifest,
            platform=options.platform,
            max_batch=max_batch,
            delay_microseconds=options.queue_delay_microseconds,
            instances=options.instances,
            kind=options.kind,
        ),
        head: head_config(head, manifest, max_batch=max_batch),
        name: ensemble_config(name, (encoder, head), version, manifest, metadata, max_batch=max_batch),
    }
    for model, config in configs.items():
        write_bytes(folder / model / "config.pbtxt", render(config).encode("ascii"))
    if options.platform == "onnx":
        _check_chain(bundle, precision, folder / encoder / str(version) / file_name, folder / head / str(version))
    return ServedModel(
        name=name,
        version=version,
        machine=manifest.machine.type,
        id=manifest.machine.id,
        platform=options.platform,
        precision=precision,
        max_batch=max_batch,
        manifest_sha256=_manifest_hash(bundle),
    )


def _precision(bundle: Bundle, options: TritonOptions) -> str:
    suited = PLATFORMS[options.platform]
    offered = bundle.manifest.precisions
    chosen = options.precision or suited[0]
    if chosen not in offered:
        raise InputError(f"--precision {chosen}: {bundle.path.name} offers {', '.join(offered)}; choose one of them")
    if chosen not in suited:
        other = next(name for name, precisions in PLATFORMS.items() if chosen in precisions)
        raise InputError(f"--precision {chosen}: not for --platform {options.platform}; use --platform {other}")
    if chosen == "int8-cpu" and options.kind != "cpu":
        raise InputError("--precision int8-cpu: made for CPUs; add --kind cpu")
    if stale := offered[chosen].stale:
        raise BundleError(f"--precision {chosen}: needs to be calibrated again ({stale}); use another until then")
    return chosen


def _encoder_file(bundle: Bundle, precision: str, options: TritonOptions) -> tuple[Path, str, int | None]:
    """(verified file, its name in the repository, largest batch or None for any)."""
    listed = bundle.manifest.precisions[precision].file
    onnx_file = bundle.file(listed)
    if options.platform == "onnx":
        return onnx_file, "model.onnx", None
    engine, beside = engine_paths(bundle.path, precision)
    build = f"build it on the server with `edgeasd build {bundle.path} --precision {precision}`"
    if not engine.is_file():
        raise InputError(f"{engine}: no such engine; {build}")
    sidecar = read_sidecar(beside)
    if sidecar.onnx_sha256 != bundle.manifest.files[listed].sha256:
        raise BundleError(f"{engine}: built from another {listed} than the bundle holds; {build}")
    if hash_file(engine) != sidecar.engine_sha256:
        raise BundleError(f"{engine}: not the file that its sidecar describes; {build}")
    return engine, "model.plan", sidecar.max_batch


def _check_chain(bundle: Bundle, precision: str, encoder: Path, head: Path) -> None:
    """Run the reference segments through the two files as they were written."""
    manifest, offer = bundle.manifest, bundle.manifest.precisions[precision]
    engine = open_engine(encoder, precision=precision, engine="onnxruntime")
    scorer = Scorer(
        engine,
        Head(head / "model.onnx"),
        manifest.features,
        manifest.amplitude,
        manifest.segments,
        manifest.score,
    )
    try:
        check_reference_segments(scorer, bundle.reference_segments(), offer.tolerance, bundle.path.name)
    finally:
        scorer.close()


def _manifest_hash(bundle: Bundle) -> str:
    """Of manifest.json as parsed and written again: a zip and a folder of one bundle give the same."""
    return hashlib.sha256(dump_manifest(bundle.manifest)).hexdigest()
