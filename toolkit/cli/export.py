"""edgeasd export."""

from __future__ import annotations

import sys
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
    Update,
    Workspace,
    cache_folder,
)
from edgeasd.toolkit.cli.calibrating import refuse_failed
from edgeasd.toolkit.cli.export_front_end import read_sounds
from edgeasd.toolkit.cli.export_table import print_export
from edgeasd.toolkit.cli.triton import Repository, serve

if TYPE_CHECKING:
    from edgeasd.calibration.fit.deploy import DeployFit, SegmentOutputs
    from edgeasd.export.bundle_writer import TrainedModel
    from edgeasd.runtime.health.settings import LevelRange
    from edgeasd.toolkit.evaluation.trained import Trained


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
    make_zip: Annotated[bool, typer.Option("--zip", help="Also pack the bundle into one zip beside it.")] = False,
    update: Update = None,
    triton: Repository = None,
    workspace: Workspace = Path(),
    cache: Cache = None,
    as_json: AsJson = False,
) -> None:
    """Export trained models as bundles for a device.

    Writes bundles/<machine>-id_<id>/ in the workspace. First it compares ONNX with torch on real segments:
    where they differ it exits with code 1 and leaves nothing behind. INT8 is calibrated afterwards, and left
    out with exit code 1 where it drifts too far.

    Example: edgeasd export --machine valve --id 00 --precision fp32,fp16,int8
    """
    precisions, int8 = _precisions(precision)
    features = cache_folder(cache, workspace)
    from edgeasd.export.bundle_writer import write_bundle, zip_bundle
    from edgeasd.export.triton import check_repository
    from edgeasd.toolkit.cli.export_int8 import add_int8, int8_request
    from edgeasd.toolkit.evaluation.trained import load_trained
    from edgeasd.toolkit.runs import bundle_folder, find_runs

    runs = find_runs(workspace, machine, id)
    if output is not None and len(runs) > 1:
        raise InputError(f"--output {output}: {len(runs)} IDs would go to one folder; name one with --id")
    if triton is not None:
        check_repository(triton)
    calibrated, targets = [], []
    for run in runs:
        trained = load_trained(run.chosen(update)).with_alpha(alpha)
        if trained.run.known_anomalies:
            name, known = trained.run.folder.name, trained.run.known_anomalies
            print(f"edgeasd: {run.machine} ID {run.id}: update {name}, {known} known anomalies", file=sys.stderr)
        target = output or bundle_folder(workspace, run.machine, run.id)
        sounds = None if front_end is None else read_sounds(trained, front_end, channel)
        request = int8_request(trained, int8, clips, features, channel) if int8 else None
        model = _model(trained, *((None, None) if clips is None else _score_clips(trained, clips, channel)))
        with interruptible() as check:
            found = write_bundle(model, target, lambda text: _step(text, check), precisions, sounds)
        added = None if request is None else add_int8(target, request, features, workspace)
        paths = [target, *([zip_bundle(target)] if make_zip else [])]
        print_export(model, found, added, paths, as_json)
        targets.append(target)
        calibrated += [added] if added is not None else []
    if triton is not None:
        serve(targets, triton, as_json)
    refuse_failed(*calibrated)


def _precisions(given: str) -> tuple[list[str], list[str]]:
    """Names of a list with commas: those export makes itself, and those of INT8. InputError for another name."""
    from edgeasd.export.bundle_writer import PRECISIONS
    from edgeasd.toolkit.cli.export_int8 import INT8

    names = given.split(",")
    for name in names:
        if name not in (*PRECISIONS, *INT8):
            raise InputError(
                f"--precision {name}: export makes {', '.join((*PRECISIONS, *INT8))}; ask for some of them"
            )
    return [name for name in names if name not in INT8] or ["fp32"], [name for name in INT8 if name in names]


def _step(text: str, check: Callable[[], None]) -> None:
    """Say what comes next, unless the user has asked to stop."""
    check()
    print(f"edgeasd: {text}", file=sys.stderr)


def _model(trained: Trained, normals: list[SegmentOutputs] | None, level: LevelRange | None) -> TrainedModel:
    from edgeasd.export.bundle_writer import TrainedModel
    from edgeasd.toolkit.models.backbones import count_macs, count_parameters

    run, network, fit = trained.run, trained.network, trained.deploy(normals)
    encoder = network.encoder
    return TrainedModel(
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
        features=run.features,
        amplitude=run.amplitude,
        segments=run.segments,
        fit=fit,
        normals=trained.outcome.normals if normals is None else normals,
        outliers=trained.outcome.outliers,
        real_segments=trained.outcome.golden,
        provenance=_provenance(trained),
        metrics=_metrics(trained, fit),
        level=level,
    )


def _provenance(trained: Trained) -> dict[str, Any]:
    facts = trained.run.facts
    kept = ("preset", "seed", "data_fingerprint", "clips", "channel", "nominal_frames", "versions", "started", "update")
    # The folder the data lay in is left out: it says nothing on another machine and may name its owner.
    return {**{key: facts.get(key) for key in kept}, "iterations": trained.iteration}


def _metrics(trained: Trained, fit: DeployFit) -> dict[str, Any]:
    from edgeasd.toolkit.evaluation.stored import NAME, read_evaluation

    path = trained.run.folder / NAME
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


def _score_clips(trained: Trained, folder: Path, channel: int | None) -> tuple[list[SegmentOutputs], LevelRange | None]:
    """q and d of the normal clips in `folder`, and at which level they are heard; InputError names clips that cannot be used."""
    from edgeasd.calibration.fit.deploy import SegmentOutputs
    from edgeasd.calibration.fit.levels import ON_SITE_DB, clip_levels, expected_levels
    from edgeasd.runtime.features.logmel import logmel
    from edgeasd.runtime.scoring.clip import score_features
    from edgeasd.toolkit.cli.score import expand
    from edgeasd.toolkit.data.cache import read_clip
    from edgeasd.toolkit.data.clips import refuse_bad
    from edgeasd.toolkit.evaluation.trained import UNFITTED
    from edgeasd.toolkit.progress import progress

    if not folder.is_dir():
        raise InputError(f"--clips {folder}: not a folder; name one with normal clips of this machine")
    scorer = trained.scorer(UNFITTED)
    heard = trained.run.channel if channel is None else channel
    paths, found, bad = list(expand([folder])), [], []
    levels, seconds, rate = [], 0.0, scorer.features.sample_rate
    with progress("scoring clips") as report:
        for done, path in enumerate(paths, start=1):
            try:
                sound = read_clip(path, rate, heard)
                clip = score_features(scorer, logmel(sound, scorer.features, scorer.amplitude))
                found.append(SegmentOutputs(clip.segments.q, clip.segments.d))
                levels.append(clip_levels(sound, rate))
                seconds += len(sound) / rate
            except InputError as error:
                bad.append((path, str(error) if str(path) in str(error) else f"{path}: {error}"))
            report(done, len(paths))
    refuse_bad(bad, len(paths))
    return found, expected_levels(levels, seconds, ON_SITE_DB)
