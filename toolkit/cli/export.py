"""edgeasd export."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.cli._errors import interruptible, print_error
from edgeasd.toolkit.cli._options import (
    Alpha,
    AsJson,
    Cache,
    ChannelOfRun,
    Machine,
    MachineId,
    RunDataOptions,
    Scoring,
    Update,
    Workspace,
    cache_folder,
    checked_scoring,
)
from edgeasd.toolkit.cli._output import print_table
from edgeasd.toolkit.cli.calibrate import print_variant, refuse_failed, report_path, resumable, write_report
from edgeasd.toolkit.cli.train import load_run_data
from edgeasd.toolkit.cli.triton import Repository, serve

if TYPE_CHECKING:
    from edgeasd.calibration.fit.deploy import DeployFit, SegmentOutputs
    from edgeasd.export.bundle_writer import ExportInput
    from edgeasd.runtime.bundle.manifest import FrontEnd, Manifest
    from edgeasd.runtime.bundle.reference_segments import Deviation
    from edgeasd.runtime.features.logmel import Float32Array
    from edgeasd.runtime.health.settings import LevelRange
    from edgeasd.runtime.states import SoundProfile
    from edgeasd.toolkit.calibrate.record import Calibration
    from edgeasd.toolkit.calibrate.request import Request
    from edgeasd.toolkit.evaluation.trained import TrainedModel

INT8 = ("int8", "int8-cpu")
FRONT_END_CLIPS = 10
"""Clips that a front end is measured on: each costs twenty segments of the encoder."""
_FIGURES = (
    ("z", "max|Δz| / max|z|"),
    ("logit", "|Δℓ| / (1 + |ℓ|)"),
    ("d", "|Δd| / (d_max - d_min)"),
    ("score", "|Δs|"),
)
_WITHOUT_INT8 = "name a folder of normal clips with --clips, or export without INT8 and add it with `edgeasd calibrate`"


def export(
    machine: Machine,
    id: MachineId = None,
    precision: Annotated[str, typer.Option(help="Some of fp32,fp16,int8,int8-cpu; fp32 is always written.")] = "fp32",
    clips: Annotated[
        Path | None,
        typer.Option(
            help="Folder of normal clips to take d_min, the threshold and the ranges of INT8 from, in place of those "
            "that training held out."
        ),
    ] = None,
    front_end: Annotated[
        Path | None,
        typer.Option(help="Folder of clips of the machine: also write log-mel as a graph for GPUs, measured on these."),
    ] = None,
    channel: ChannelOfRun = None,
    output: Annotated[
        Path | None, typer.Option(help="Bundle folder, in place of bundles/<machine>-id_<id>; with one ID only.")
    ] = None,
    alpha: Alpha = None,
    scoring: Scoring = None,
    discard_calibration: Annotated[
        bool, typer.Option("--discard-calibration", help="Keep nothing of what `calibrate` found for the old bundle.")
    ] = False,
    make_zip: Annotated[bool, typer.Option("--zip", help="Also pack the bundle into one zip beside it.")] = False,
    update: Update = None,
    triton: Repository = None,
    workspace: Workspace = Path(),
    cache: Cache = None,
    as_json: AsJson = False,
) -> None:
    """Export trained models as bundles for a device.

    Writes bundles/<machine>-id_<id>/ in the workspace. First it compares ONNX with torch on real segments:
    if they differ it exits with code 1 and leaves nothing behind. INT8 is calibrated afterwards, and left
    out with exit code 1 if it drifts too far. Over a calibrated bundle of the same weights, its threshold and
    precisions are kept; what no longer holds is named.

    Example: edgeasd export --machine valve --id 00 --precision fp32,fp16,int8
    """
    precisions, int8 = _precisions(precision)
    features = cache_folder(cache, workspace)
    from edgeasd.export.bundle_writer import write_bundle, zip_bundle
    from edgeasd.export.triton import check_repository
    from edgeasd.toolkit.evaluation.trained import load_trained_model
    from edgeasd.toolkit.models.backbones import count_parameters
    from edgeasd.toolkit.runs import bundle_folder, find_runs

    runs = find_runs(workspace, machine, id)
    if output is not None and len(runs) > 1:
        raise InputError(f"--output {output}: {len(runs)} IDs would go to one folder; name one with --id")
    if triton is not None:
        check_repository(triton)
    calibrated, targets = [], []
    for run in runs:
        trained = load_trained_model(run.chosen(update), scoring=checked_scoring(scoring)).with_alpha(alpha)
        if not count_parameters(trained.network.encoder) and (int8 or precisions != ["fp32"]):
            raise InputError(
                f"--precision {precision}: {trained.preset.backbone} of {run.machine} ID {run.id} computes statistics and "
                "has no weights to round; leave it at fp32"
            )
        if trained.run.known_anomalies:
            name, known = trained.run.folder.name, trained.run.known_anomalies
            print_error(f"{run.machine} ID {run.id}: update {name}, {known} known anomalies")
        target = output or bundle_folder(workspace, run.machine, run.id)
        sounds = None if front_end is None else read_sounds(trained, front_end, channel)
        request = int8_request(trained, int8, clips, features, channel) if int8 else None
        model = _model(trained, *((None, None, None, None) if clips is None else _score_clips(trained, clips, channel)))
        keeping = None if discard_calibration else Keeping(precisions, int8, has_given_clips=clips is not None)
        with interruptible() as check:
            found = write_bundle(model, target, lambda text: _step(text, check), precisions, sounds, keeping)
        put_old_reports_aside(target, keeping.holds if keeping is not None else False)
        added = None if request is None else add_int8(target, request, features, workspace)
        paths = [target, *([zip_bundle(target)] if make_zip else [])]
        print_export(model, found, added, paths, as_json)
        targets.append(target)
        calibrated += [added] if added is not None else []
    if triton is not None:
        serve(targets, triton, as_json)
    refuse_failed(*calibrated)


class Keeping:
    """Brings what `calibrate` found for an older bundle into the new one, and says what was kept and what was not."""

    def __init__(self, precisions: list[str], int8: list[str], *, has_given_clips: bool) -> None:
        self._written, self._has_given_clips = ["fp32", *precisions, *int8], has_given_clips
        self.holds = False
        """Whether the threshold and all precisions of the older bundle were kept."""

    def __call__(self, old: Path, new: Path) -> None:
        from edgeasd.export.keep_calibration import keep_calibration

        found = keep_calibration(old, new, self._written, has_given_clips=self._has_given_clips)
        self.holds = bool(found.kept) and not found.dropped
        if found.kept:
            print_error(f"{old}: kept from its calibration: {', '.join(found.kept)}")
        for line in found.dropped:
            print_error(f"{old}: not kept from its calibration: {line}")


def put_old_reports_aside(bundle: Path, holds: bool) -> None:
    """Rename reports beside the bundle that are of an older one: `.old` comes before their suffix."""
    reports = [] if holds else [report_path(bundle)]
    whole = bundle.resolve()
    reports += [whole.with_name(f"{whole.name}.acceptance.{kind}") for kind in ("html", "json")]
    for path in reports:
        if path.is_file():
            aside = path.with_suffix(f".old{path.suffix}")
            path.replace(aside)
            print_error(f"{path}: is of the older bundle and is {aside.name} now")


def _precisions(given: str) -> tuple[list[str], list[str]]:
    """Names of a list with commas: those export makes itself, and those of INT8. InputError for another name."""
    from edgeasd.export.bundle_writer import PRECISIONS

    names = given.split(",")
    for name in names:
        if name not in (*PRECISIONS, *INT8):
            raise InputError(
                f"--precision {name}: export makes {', '.join((*PRECISIONS, *INT8))}; ask for some of them"
            )
    return [name for name in names if name not in INT8] or ["fp32"], [name for name in INT8 if name in names]


def _step(text: str, check: Callable[[], None]) -> None:
    """Print what comes next, unless the user has asked to stop."""
    check()
    print_error(text)


def _model(
    trained: TrainedModel,
    normals: list[SegmentOutputs] | None,
    live: SegmentOutputs | None,
    level: LevelRange | None,
    sound: SoundProfile | None,
) -> ExportInput:
    from edgeasd.export.bundle_writer import ExportInput
    from edgeasd.toolkit.models.backbones import count_macs, count_parameters

    run, network, fit = trained.run, trained.network, trained.deploy(normals, live)
    encoder = network.encoder
    return ExportInput(
        machine=run.machine,
        id=run.id,
        backbone=trained.preset.backbone,
        parameters=count_parameters(encoder),
        macs_per_segment=count_macs(encoder, run.segments.frames, run.features.n_mels),
        encoder=encoder,
        weight=network.head.weight.detach()[0],
        bias=network.head.bias.detach()[0],
        centroid=trained.centroid,
        banks=trained.banks,
        normals_of_banks=run.stored_normals() if trained.banks else None,
        features=run.features,
        amplitude=run.amplitude,
        segments=run.segments,
        fit=fit,
        normals=trained.result.normals if normals is None else normals,
        outliers=trained.result.outliers,
        real_segments=trained.result.golden,
        provenance=_provenance(trained),
        metrics=_metrics(trained, fit),
        level=level,
        sound=sound or run.sound,
        modes=run.modes,
    )


def _provenance(trained: TrainedModel) -> dict[str, Any]:
    facts = trained.run.facts
    kept = (
        "preset",
        "seed",
        "data_fingerprint",
        "clips",
        "channel",
        "nominal_frames",
        "versions",
        "started",
        "update",
        "encoder",
    )
    # The folder the data lay in is left out: it says nothing on another machine and may name its owner.
    return {**{key: facts.get(key) for key in kept}, "iterations": trained.iteration}


def _metrics(trained: TrainedModel, fit: DeployFit) -> dict[str, Any]:
    from edgeasd.toolkit.evaluation.stored import read_evaluation
    from edgeasd.toolkit.runs import EVALUATION

    path = trained.run.path_of(EVALUATION, of_banks=bool(trained.banks))
    if not path.is_file():
        return {}
    measured = read_evaluation(path)
    # Figures of an earlier training of this folder would be a lie in this bundle.
    if measured["trained"] != trained.run.facts.get("started"):
        return {}
    # So would those of another α.
    alpha, judged_at = fit.score.alpha, measured["figures"].get("deploy", {}).get("alpha", fit.score.alpha)
    if judged_at != alpha:
        print_error(
            f"{path}: judged with α {judged_at}, the bundle scores with {alpha}; its figures are left out of the "
            "bundle, evaluate again to have them"
        )
        return {}
    # Names of single recordings stay in the workspace; the bundle travels.
    return {key: value for key, value in measured.items() if key != "clips"}


def _score_clips(
    trained: TrainedModel, folder: Path, channel: int | None
) -> tuple[list[SegmentOutputs], SegmentOutputs, LevelRange | None, SoundProfile | None]:
    """q and d of the normal clips in `folder`, of all live segments of them joined, their range of levels, their sound.

    Raises InputError that names clips that cannot be used.
    """
    from edgeasd.calibration.fit.deploy import SegmentOutputs
    from edgeasd.calibration.fit.levels import ON_SITE_DB, clip_levels, expected_levels
    from edgeasd.calibration.fit.profile import clip_sound, sound_profile
    from edgeasd.runtime.features.logmel import logmel
    from edgeasd.runtime.scoring.clip import score_features
    from edgeasd.toolkit.cli.score import expand
    from edgeasd.toolkit.data.cache import read_clip
    from edgeasd.toolkit.data.clips import refuse_bad
    from edgeasd.toolkit.evaluation.evaluate import JoinedSegments
    from edgeasd.toolkit.evaluation.trained import UNFITTED
    from edgeasd.toolkit.progress import progress

    if not folder.is_dir():
        raise InputError(f"--clips {folder}: not a folder; name one with normal clips of this machine")
    scorer = trained.scorer(UNFITTED)
    heard = trained.run.channel if channel is None else channel
    paths, found, bad = list(expand([folder])), [], []
    levels, sounds, seconds, rate = [], [], 0.0, scorer.features.sample_rate
    joined = JoinedSegments(scorer)
    with progress("scoring clips") as report:
        for done, path in enumerate(paths, start=1):
            try:
                sound = read_clip(path, scorer.features, heard)
                frames = logmel(sound, scorer.features, scorer.amplitude)
                clip = score_features(scorer, frames)
                joined.add(frames)
                found.append(SegmentOutputs(clip.segments.q, clip.segments.d))
                levels.append(clip_levels(sound, rate))
                sounds.append(clip_sound(frames, levels[-1], scorer.features, scorer.amplitude))
                seconds += len(sound) / rate
            except InputError as error:
                bad.append((path, str(error) if str(path) in str(error) else f"{path}: {error}"))
            report(done, len(paths))
    refuse_bad(bad, len(paths))
    return found, joined.outputs(), expected_levels(levels, seconds, ON_SITE_DB), sound_profile(sounds)


def read_sounds(trained: TrainedModel, folder: Path, channel: int | None) -> list[Float32Array]:
    """Samples of at most FRONT_END_CLIPS clips of `folder`, evenly over its sorted names.

    InputError for an empty folder, and one that names clips that cannot be used or is shorter than a segment.
    """
    import numpy as np

    from edgeasd.toolkit.cli.score import expand
    from edgeasd.toolkit.data.cache import read_clip
    from edgeasd.toolkit.data.clips import refuse_bad

    if not folder.is_dir():
        raise InputError(f"--front-end {folder}: not a folder; name one with clips of this machine")
    paths, run = list(expand([folder])), trained.run
    chosen = [
        paths[i]
        for i in np.unique(np.linspace(0, len(paths) - 1, min(FRONT_END_CLIPS, len(paths))).round().astype(int))
    ]
    heard, need = run.channel if channel is None else channel, run.features.sample_count(run.segments.frames)
    sounds, bad = [], []
    for path in chosen:
        try:
            sound = read_clip(path, run.features, heard)
            if sound.size < need:
                raise InputError(f"{path}: {sound.size} samples, a segment takes {need}")
            sounds.append(sound)
        except InputError as error:
            bad.append((path, str(error) if str(path) in str(error) else f"{path}: {error}"))
    refuse_bad(bad, len(chosen), "repair them or leave them out of the folder")
    return sounds


def written_manifest(bundle: Path) -> Manifest:
    """The manifest of a bundle that was just written."""
    from edgeasd.runtime.bundle.bundle import Bundle

    with Bundle(bundle) as opened:
        return opened.manifest


def print_front_end(front_end: FrontEnd | None) -> None:
    """How far it is from the features of the runtime, if there is one."""
    if front_end is not None:
        print(
            f"  {front_end.file} against the features of the runtime on {front_end.clips} clips: "
            f"|Δ log10| up to {front_end.logmel:.1e}, |Δs| up to {front_end.score:.1e}; "
            "`run --front-end graph` uses it"
        )


def int8_request(
    trained: TrainedModel, kinds: list[str], clips: Path | None, cache: Path, channel: int | None
) -> Request:
    """What to calibrate with: the folder --clips, or the normal clips that training held out.

    Raises InputError before anything is exported: for clips that are not there any more, and for too few.
    """
    from edgeasd.calibration.fit.clips import split_calibration_clips
    from edgeasd.toolkit.calibrate.clips import normal_files
    from edgeasd.toolkit.calibrate.request import Request, parse_precisions
    from edgeasd.toolkit.progress import no_progress
    from edgeasd.toolkit.reports import check_packages

    check_packages()
    folder, files = (clips, None) if clips is not None else _held_out(trained, cache)
    found = normal_files(folder, no_progress, files)
    try:
        split_calibration_clips(list(found.paths))
    except InputError as error:
        origin = f"--clips {folder}" if files is None else f"{trained.run.machine} ID {trained.run.id}, held out"
        raise InputError(f"--precision {','.join(kinds)}: {origin}: {error}; {_WITHOUT_INT8}") from None
    return Request(clips=folder, files=files, precisions=parse_precisions(",".join(kinds)), channel=channel)


def _held_out(trained: TrainedModel, cache: Path) -> tuple[Path, tuple[Path, ...]]:
    """The data root of the training and the normals it kept out, which no weight has seen."""
    run = trained.run
    root = Path(str(run.facts.get("data_root", "")))
    if not root.is_dir():
        raise InputError(
            f"--precision int8: INT8 needs normal clips, and {root}, where {run.machine} ID {run.id} was trained "
            f"from, is not there; {_WITHOUT_INT8}"
        )
    data = load_run_data(run, trained.preset, RunDataOptions(root=root, machine=run.machine, cache=cache))
    split = data.split_for(run.id)
    if data.fingerprint(split) != run.facts.get("data_fingerprint"):
        raise InputError(
            f"--precision int8: {root} has changed since {run.machine} ID {run.id} was trained, so what was held out "
            f"cannot be told; {_WITHOUT_INT8}"
        )
    return root, tuple(clip.path for clip in split.holdout_normals)


def add_int8(target: Path, request: Request, cache: Path, workspace: Path) -> Calibration:
    """Calibrate the bundle that was just written; its report lies beside it."""
    from edgeasd.toolkit.calibrate.session import calibrate_bundle

    with resumable(target, f"with `edgeasd calibrate --resume --bundle {target}`, which has the options") as work:
        found = calibrate_bundle(target, request, cache, workspace, work)
    write_report(found, report_path(target))
    return found


def print_export(
    model: ExportInput, found: dict[str, Deviation], added: Calibration | None, paths: list[Path], as_json: bool
) -> None:
    """The bundle `paths[0]`: how far ONNX is from torch, what was added, the constants; further paths at the end."""
    manifest = written_manifest(paths[0])
    front_end = manifest.front_end
    if as_json:
        print(json.dumps(_facts(model, found, added, paths[0], manifest)))
        return
    made = {*found, *(variant.name for variant in (added.variants if added is not None else ()))}
    names = ", ".join([*found, *(name for name in manifest.precisions if name not in made)])
    print(f"{paths[0]}: {model.machine} ID {model.id}, {model.backbone}, {names}, {manifest.status}")
    _print_deviations(model, found)
    print_front_end(front_end)
    for variant in added.variants if added is not None else ():
        print_variant(variant)
    _print_constants(manifest)
    for path in [*paths[1:], *([report_path(paths[0])] if added is not None else [])]:
        print(f"  {path}")


def _facts(
    model: ExportInput,
    found: dict[str, Deviation],
    added: Calibration | None,
    bundle: Path,
    manifest: Manifest,
) -> dict[str, object]:
    from dataclasses import asdict

    from edgeasd.toolkit.calibrate.record import summary

    return {
        "bundle": str(bundle),
        "machine": model.machine,
        "id": model.id,
        "status": manifest.status,
        "segments_compared": len(model.real_segments),
        "deviation": asdict(found["fp32"]),
        "deviation_of": {name: asdict(deviation) for name, deviation in found.items() if name != "fp32"},
        **({} if added is None else {"calibration": summary(added)}),
        **({} if manifest.front_end is None else {"front_end": manifest.front_end.model_dump()}),
    }


def _print_deviations(model: ExportInput, found: dict[str, Deviation]) -> None:
    from edgeasd.export.fp16 import FP16_LIMITS
    from edgeasd.export.parity import EXPORT_LIMITS

    limits = {"fp32": EXPORT_LIMITS, **({"fp16": FP16_LIMITS} if "fp16" in found else {})}
    rows = [
        [meaning, *(f"{getattr(found[kind], name):.1e} ({getattr(of, name):.0e})" for kind, of in limits.items())]
        for name, meaning in _FIGURES
    ]
    print(f"  ONNX against torch on {len(model.real_segments)} real segments, largest deviation (limit):")
    print_table(("", *limits), rows, indent=4)


def _print_constants(manifest: Manifest) -> None:
    score, threshold = manifest.score, manifest.threshold
    print(f"  α {score.alpha} ({score.alpha_source}); d_min {score.d_min:.4g} ({score.d_min_source});")
    print(f"  d_max {score.d_max:.4g} ({score.d_max_source})")
    if threshold is None:
        print("  uncalibrated: nothing was held out, so no alarms; export again with --clips FOLDER of normal clips")
        return
    print(f"  threshold {threshold.clip:.4f} ({threshold.found_by}, {threshold.clips} clips)")
    if threshold.warning:
        print(f"  warning: {threshold.warning}")
