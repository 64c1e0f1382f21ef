"""edgeasd train, and what other commands share with it: loading clips as a model was trained on them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeasd.runtime.errors import CheckFailed, InputError
from edgeasd.toolkit.cli._errors import INTERRUPTED, interruptible, print_error
from edgeasd.toolkit.cli._options import (
    DataOptions,
    EncoderOptions,
    LabelledDataOptions,
    MachineId,
    TrainingOptions,
    expand_options,
)

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from edgeasd.runtime.features.logmel import FeatureSettings
    from edgeasd.toolkit.data.clips import Clip
    from edgeasd.toolkit.data.machine import MachineData
    from edgeasd.toolkit.encoders.weights import Weights
    from edgeasd.toolkit.evaluation.trained import TrainedModel
    from edgeasd.toolkit.presets import Preset
    from edgeasd.toolkit.progress import ProgressCallback
    from edgeasd.toolkit.runs import Run
    from edgeasd.toolkit.training.bank import SharedEncoder

PRETRAINED_PRESETS = ("pretrained", "pretrained-tuned", "pretrained-classify")
"""Presets that name a pretrained encoder by themselves."""


@expand_options
def train(
    data: DataOptions,
    training: TrainingOptions,
    pretrained: EncoderOptions,
    id: MachineId = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="quick (minutes on a CPU), medium (an hour), paper (the published experiment), classify (one encoder for all IDs, each "
            "compared with its own stored normals), knn (no training: the machine's normals are stored and compared "
            "with), pretrained (the same through a pretrained encoder), pretrained-tuned or pretrained-classify (its "
            "training goes on). quick by default, knn for a machine without any other beside it."
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="resnet38, quick, medium, a pretrained encoder or, with knn, logmel-stats; the preset's by default."
        ),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            "--loss",
            "--method",
            help="bce, dsad, ddcsad, bce+dsad, bce+ddcsad, classify or knn; the preset's by default.",
        ),
    ] = None,
    scoring: Annotated[
        str | None,
        typer.Option(
            help="What d is measured to after training: centroid, or knn (the nearest of the stored normals). With "
            "--resume a trained model gets its normals stored beside it; the preset's by default."
        ),
    ] = None,
    lam: Annotated[
        float | None, typer.Option(metavar="NUMBER", help="λ of equation 4; the preset's by default.")
    ] = None,
    eta: Annotated[
        float | None, typer.Option(metavar="NUMBER", help="η of equations 2 and 3; the preset's by default.")
    ] = None,
    encoder_run: Annotated[
        Path | None,
        typer.Option(
            help="Run folder of an encoder that was trained with classify: nothing is trained, an ID gets a bank of it."
        ),
    ] = None,
    init_from: Annotated[
        Path | None,
        typer.Option(help="Run folder whose encoder's weights training begins with, such as one of classify."),
    ] = None,
    outliers: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|self",
            help="Other sound of the place as outliers beside those in the data, or self: made of the machine's own "
            "normals (detuned, filtered, gated, modulated, hit, mixed).",
        ),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="IDs trained at the same time; one per GPU by default.")
    ] = None,
) -> None:
    """Train one model for each machine ID.

    Sets the normal clips of an ID against those of the other IDs and machines, its outliers. A machine alone needs
    none: its normals are stored, and what is far from all of them is odd (knn). With classify one encoder learns to
    tell all IDs apart, in runs/<machine>/encoder/, and every ID gets a bank of it; a new ID needs no more than
    --encoder-run. Writes runs/<machine>/id_<id>/ in the workspace and prints that folder. Ctrl-C writes a checkpoint
    and stops.

    Example: edgeasd train --data recordings/ --machine valve --id 00
    """
    from edgeasd.toolkit.data.clips import plain_id
    from edgeasd.toolkit.losses import method_named
    from edgeasd.toolkit.models.backbones import check_segment
    from edgeasd.toolkit.presets import load_preset
    from edgeasd.toolkit.presets.settings import FIXED_IN_TRAINING, with_settings
    from edgeasd.toolkit.training.fabric import open_fabric

    training.check()
    preset, backbone = _with_encoder(preset, backbone, pretrained, loss)
    options = {
        "backbone": backbone,
        "method": loss,
        "iterations": training.iterations,
        "scoring": scoring,
        "lam": lam,
        "eta": eta,
    }
    if encoder_run is not None:
        _banks_of(encoder_run, data, training, id, (preset, init_from, *options.values()))
        return
    if loss == "classify" and scoring == "centroid":
        raise InputError(
            "--loss classify --scoring centroid: its IDs share no centroid, each has stored normals; leave it out"
        )
    # Whoever asks for anything of a trained model gets that, or the refusal that says what it needs.
    asked = [value for name, value in options.items() if not (name == "scoring" and value == "knn")]
    is_open = preset is None and not training.settings and all(value is None for value in (*asked, init_from))
    chosen = with_settings(load_preset(preset or "quick"), training.settings, FIXED_IN_TRAINING, options)
    method_named(chosen.method)
    check_segment(chosen.backbone, min(chosen.segment_frames, chosen.crop_frames or chosen.segment_frames))
    weights = _read_weights(chosen, pretrained)
    start = None if init_from is None else _first_stage(init_from, chosen)
    fabric = open_fabric(training.accelerator, training.training_precision)
    if outliers not in (None, "self"):
        outliers = str(Path(outliers).resolve())
    loaded = load_data(data, chosen, training.seed, id, follow_recordings=True, outliers=outliers, tile=training.tile)
    ids = [plain_id(id)] if id is not None else loaded.ids
    if is_open and not loaded.split_for(ids[0]).outliers:
        chosen = load_preset("knn")
        print_error(
            f"{loaded.machine} ID {ids[0]} has no other machine beside it, so nothing is trained: its normals are stored "
            f"as {chosen.backbone} and compared with (--preset knn)"
        )
    if chosen.method == "classify":
        _train_encoder(loaded, ids, chosen, training, data.workspace, fabric, weights, start, named=id is not None)
        return
    prepare_features(loaded, [clip for one in ids for clip in _training_clips(loaded, one, chosen)])
    accelerators = _accelerators(training.accelerator, jobs, len(ids))
    if len(accelerators) > 1:
        _train_in_processes(ids, accelerators)
        return
    for one in ids:
        _train_id(loaded, one, chosen, training, data.workspace, fabric, weights, start)


def _with_encoder(
    preset: str | None, backbone: str | None, pretrained: EncoderOptions, loss: str | None
) -> tuple[str | None, str | None]:
    """Preset and backbone, with what --encoder means for both. InputError if they contradict each other."""
    from edgeasd.toolkit.encoders.table import ENCODERS, encoder_named

    name = pretrained.encoder
    if name is None:
        if pretrained.weights is not None and preset not in PRETRAINED_PRESETS and backbone not in ENCODERS:
            raise InputError(f"--weights {pretrained.weights}: of which encoder? name it with --encoder")
        name = backbone if backbone in ENCODERS else None
    else:
        encoder_named(name)
        if backbone not in (None, name):
            raise InputError(f"--encoder {name} and --backbone {backbone}: two encoders; leave one of them out")
    if name is not None and preset is None:
        stored = {None: "pretrained", "knn": "pretrained", "classify": "pretrained-classify"}
        preset = stored.get(loss, "pretrained-tuned")
    return preset, name or backbone


def _read_weights(preset: Preset, pretrained: EncoderOptions) -> Weights | None:
    """The weights of a pretrained encoder, said in one line; None for a backbone that has none."""
    from edgeasd.toolkit.encoders.table import ENCODERS

    if preset.backbone not in ENCODERS:
        if pretrained.weights is not None:
            raise InputError(f"--weights {pretrained.weights}: {preset.backbone} takes none; name an --encoder")
        return None
    from edgeasd.toolkit.encoders.weights import read_weights

    weights = read_weights(preset.backbone, pretrained.weights, trust_unknown=pretrained.trust_weights)
    if not weights.is_known:
        print_error(f"{weights.file}: not the published file, taken on trust; sha256 {weights.sha256}")
    return weights


def _training_clips(loaded: MachineData, id: str, preset: Preset) -> list[Clip]:
    if preset.method in ("knn", "classify"):
        split = loaded.trainable(id, alone=True)
        return [*split.normals, *split.holdout_normals]
    split = loaded.trainable(id)
    return [*split.normals, *split.outliers, *split.holdout_normals, *split.holdout_outliers]


def prepare_features(loaded: MachineData, clips: list[Clip]) -> None:
    """Compute the features that the cache lacks."""
    from edgeasd.toolkit.progress import progress

    with progress("log-mel features") as report:
        loaded.prepare(dict.fromkeys(clips), report)


def _accelerators(accelerator: str, jobs: int | None, ids: int) -> list[str]:
    """One entry per process that trains at the same time."""
    import torch

    gpus = torch.cuda.device_count() if accelerator in ("auto", "cuda") and torch.cuda.is_available() else 0
    wanted = min(ids, jobs if jobs is not None else max(1, gpus))
    if wanted <= 1:
        return [accelerator]
    return [f"cuda:{k % gpus}" if gpus else accelerator for k in range(wanted)]


def _train_id(
    loaded: MachineData,
    id: str,
    preset: Preset,
    training: TrainingOptions,
    workspace: Path,
    fabric: Fabric,
    weights: Weights | None,
    start: Run | None,
) -> None:
    from edgeasd.toolkit.training.session import train_one

    folder = _id_folder(workspace, loaded, id)
    if preset.method == "knn":
        _fit_banks(loaded, id, preset, training, folder, weights)
        return
    print_error(
        f"training {loaded.machine} ID {id}: {preset.backbone}, {preset.method}, {preset.iterations} iterations "
        f"on {fabric.device} at {fabric._precision.precision}; {_counts(loaded, id)}{_changes(preset)}"
    )
    work = f"training of {loaded.machine} ID {id}"
    train = partial(train_one, loaded, id, preset, training.seed, folder, fabric, weights=weights, start=start)
    _, is_stopped = run_training(train, training, work, f"{loaded.machine} {id}", preset.iterations)
    if is_stopped:
        # This run is whole, and the next ID must not begin.
        raise KeyboardInterrupt


def _first_stage(folder: Path, preset: Preset) -> Run:
    """The run that training is to begin with. Raises InputError for one that cannot be taken over."""
    from edgeasd.toolkit.runs import load_run
    from edgeasd.toolkit.training.session import check_first_stage

    run = load_run(folder)
    check_first_stage(run, preset, folder)
    return run


def _train_encoder(
    loaded: MachineData,
    ids: list[str],
    preset: Preset,
    training: TrainingOptions,
    workspace: Path,
    fabric: Fabric,
    weights: Weights | None,
    start: Run | None,
    *,
    named: bool,
) -> None:
    """Train the encoder that all IDs share, then store the normals of `ids`."""
    from edgeasd.toolkit.runs import encoder_folder
    from edgeasd.toolkit.training.classify import labelled_clips, shared_encoder, train_encoder

    labelled = labelled_clips(loaded, all_machines=preset.class_machines == "all")
    ids = ids if named else _with_enough_normals(loaded, ids, preset)
    _refuse_present_runs(loaded, ids, preset, training, workspace)
    held_out = [clip for one in ids for clip in loaded.split_for(one).holdout_normals]
    prepare_features(loaded, [*labelled.clips, *held_out])
    print_error(
        f"training an encoder for {loaded.machine}: {preset.backbone}, {len(labelled.classes)} classes, "
        f"{len(labelled.clips)} normal clips, {preset.iterations} iterations on {fabric.device} at "
        f"{fabric._precision.precision}{_changes(preset)}"
    )
    folder = encoder_folder(workspace, loaded.machine)
    train = partial(train_encoder, loaded, preset, training.seed, folder, fabric, weights=weights, start=start)
    work = f"training of the encoder for {loaded.machine}"
    run, is_stopped = run_training(train, training, work, f"{loaded.machine} encoder", preset.iterations)
    if is_stopped:
        raise KeyboardInterrupt
    _, shared = shared_encoder(run)
    for one in ids:
        _fit_banks(loaded, one, preset, training, _id_folder(workspace, loaded, one), shared=shared)


def _id_folder(workspace: Path, loaded: MachineData, id: str) -> Path:
    """Where the run of one ID lives."""
    from edgeasd.toolkit.runs import run_folder

    return run_folder(workspace, loaded.machine, id)


def _with_enough_normals(loaded: MachineData, ids: list[str], preset: Preset) -> list[str]:
    """The IDs that a bank can be made of; the others are named. Raises InputError if none is left."""
    least = preset.bank_neighbours + 1
    counts = {one: len(loaded.split_for(one).normals) for one in ids}
    if few := [f"{one} has {count}" for one, count in counts.items() if count < least]:
        print_error(
            f"no bank for {len(few)} IDs of {loaded.machine} with fewer than {least} normal training clips, of which the "
            f"encoder learns all the same: {', '.join(few)}"
        )
    if len(few) == len(ids):
        raise InputError(f"{loaded.machine}: no ID has {least} normal training clips for a bank; record more")
    return [one for one, count in counts.items() if count >= least]


def _refuse_present_runs(
    loaded: MachineData, ids: list[str], preset: Preset, training: TrainingOptions, workspace: Path
) -> None:
    """InputError, before minutes of training, for a run of an ID that this one would have to replace."""
    from edgeasd.toolkit.runs import load_run

    for one in ids:
        folder = _id_folder(workspace, loaded, one)
        if training.overwrite or not (folder / "run.json").is_file():
            continue
        if not training.resume or load_run(folder).facts["preset"].get("method") != preset.method:
            raise InputError(f"{folder}: holds a run; pass --overwrite to start anew, or another --workspace")


def _banks_of(
    encoder_run: Path, data: DataOptions, training: TrainingOptions, id: str | None, others: tuple[Any, ...]
) -> None:
    """Store the normals of IDs as an encoder sees them that is trained already."""
    from edgeasd.toolkit.data.clips import plain_id
    from edgeasd.toolkit.runs import load_run
    from edgeasd.toolkit.training.classify import shared_encoder, with_features_of

    if training.settings or any(value is not None for value in others):
        raise InputError(
            f"--encoder-run {encoder_run}: nothing is trained and every setting is that of the run; leave the options of "
            "training out (--preset, --backbone, --loss, --iterations, --lam, --eta, --set, --init-from)"
        )
    run = load_run(encoder_run)
    preset, shared = shared_encoder(run)
    loaded = with_features_of(
        run, load_data(data, preset, training.seed, id, settings=run.features, tile=training.tile)
    )
    ids = [plain_id(id)] if id is not None else _with_enough_normals(loaded, loaded.ids, preset)
    prepare_features(loaded, [clip for one in ids for clip in _training_clips(loaded, one, preset)])
    for one in ids:
        _fit_banks(loaded, one, preset, training, _id_folder(data.workspace, loaded, one), shared=shared)


def _fit_banks(
    loaded: MachineData,
    id: str,
    preset: Preset,
    training: TrainingOptions,
    folder: Path,
    weights: Weights | None = None,
    shared: SharedEncoder | None = None,
) -> None:
    from edgeasd.toolkit.progress import progress
    from edgeasd.toolkit.training.bank import fit_one

    split = loaded.split_for(id)
    print_error(
        f"storing the normals of {loaded.machine} ID {id}: {preset.backbone}, {preset.bank_sections} segments of each of "
        f"{len(split.normals)} clips, {len(split.holdout_normals)} held out{_changes(preset)}"
    )
    with interruptible() as check, progress(f"{loaded.machine} {id}") as show:

        def report(done: int, total: int, text: str = "") -> None:
            check()
            show(done, total, text)

        resume, overwrite = training.resume, training.overwrite
        run = fit_one(
            loaded,
            id,
            preset,
            training.seed,
            folder,
            network=shared,
            weights=weights,
            resume=resume,
            overwrite=overwrite,
            report=report,
        )
    print(f"{run.folder}")


def run_training(
    train: Callable[..., Run], training: TrainingOptions, work: str, label: str, iterations: int
) -> tuple[Run, bool]:
    """Train and print the folder of the run; returns it, and whether a stop was asked for after the last iteration.

    Ctrl-C before it ends the command with one line that says how to go on.
    """
    with _stoppable(work, label, iterations) as (should_stop, report):
        run = train(
            resume=training.resume,
            overwrite=training.overwrite,
            compile_network=training.compile_network,
            report=report,
            should_stop=should_stop,
        )
    print(f"{run.folder}")
    return run, should_stop()


@contextmanager
def _stoppable(work: str, label: str, iterations: int) -> Iterator[tuple[Callable[[], bool], ProgressCallback]]:
    """Yield (should_stop, report). After Ctrl-C one line says how to go on, with exit code 130."""
    from edgeasd.toolkit.progress import progress
    from edgeasd.toolkit.training.session import stop_requests
    from edgeasd.toolkit.training.trainer import Interrupted

    try:
        with stop_requests() as should_stop, progress(label) as report:
            yield should_stop, report
    except Interrupted as stopped:
        print_error(
            f"{work} stopped at iteration {stopped.iteration} of {iterations}; "
            "a checkpoint was written: go on with the same command and --resume"
        )
        raise typer.Exit(INTERRUPTED) from None


def _counts(loaded: MachineData, id: str) -> str:
    split = loaded.split_for(id)
    held = len(split.holdout_normals) + len(split.holdout_outliers)
    return f"{len(split.normals)} normal and {len(split.outliers)} outlier clips, {held} held out"


def _changes(preset: Preset) -> str:
    """The fields that differ from the preset, so that no change is silent."""
    from edgeasd.toolkit.presets import load_preset
    from edgeasd.toolkit.presets.settings import describe_changes

    changes = describe_changes(load_preset(preset.name), preset)
    return f"; {preset.name} with {changes}" if changes else ""


def _train_in_processes(ids: list[str], accelerators: list[str]) -> None:
    """Train each ID in a process of its own, with the arguments this command was given."""
    from edgeasd.toolkit.training.fabric import Job, run_jobs

    arguments = _without(sys.argv[1:], ("--jobs", "--accelerator"))
    codes = run_jobs([Job(id, [*arguments, "--id", id, "--jobs", "1"]) for id in ids], accelerators)
    failed = {id: code for id, code in codes.items() if code}
    if INTERRUPTED in failed.values():
        raise KeyboardInterrupt
    if failed:
        raise CheckFailed(f"training failed for {', '.join(failed)}, see the lines above; the others are trained")


def _without(arguments: list[str], options: tuple[str, ...]) -> list[str]:
    """Drop options with a value, in the forms `--name value` and `--name=value`."""
    kept, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in options:
            skip = True
        elif not argument.startswith(tuple(f"{option}=" for option in options)):
            kept.append(argument)
    return kept


def load_data(
    data: DataOptions,
    preset: Preset,
    seed: int,
    id: str | None = None,
    *,
    settings: FeatureSettings | None = None,
    follow_recordings: bool = False,
    outliers: str | None = None,
    tile: bool = False,
) -> MachineData:
    """Clips of a machine, split as `preset` says; names every file it leaves out, and copies of test clips.

    `settings` are those of the backbone by default. With `follow_recordings` (a new training) clips of a lower rate than
    theirs are resampled, in one line.
    """
    from edgeasd.runtime.audio.reader import describe_rates, rate_steps
    from edgeasd.toolkit.data.machine import load_machine
    from edgeasd.toolkit.data.split import describe_copies
    from edgeasd.toolkit.encoders.table import ENCODERS, features_of
    from edgeasd.toolkit.progress import progress

    loaded = load_machine(
        data.root,
        data.machine,
        cache_folder=data.cache_folder,
        seed=seed,
        holdout_fraction=preset.holdout_fraction,
        test_fraction=preset.test_fraction,
        settings=features_of(preset.backbone) if settings is None else settings,
        as_recorded=preset.backbone in ENCODERS,
        id=id,
        id_attribute=data.id_attribute,
        channel=data.channel,
        ground_truth=data.ground_truth if isinstance(data, LabelledDataOptions) else None,
        skip_bad=data.skip_bad,
        follow_recordings=follow_recordings,
        keep_unhealthy=data.keep_unhealthy,
        segment_frames=None if tile else preset.segment_frames,
        outliers=outliers,
        stage=progress,
    )
    rate, recorded = loaded.cache.settings.sample_rate, loaded.cache.settings.recorded_rate
    if follow_recordings and recorded is not None:
        print_error(f"recordings: {describe_rates(rate_steps(recorded, rate))}")
    for _, reason in loaded.bad:
        print_error(f"left out: {reason}")
    for line in loaded.unhealthy.describe():
        print_error(line)
    if loaded.copies:
        print_error(describe_copies(loaded.copies))
    return loaded


def load_run_data(run: Run, preset: Preset, data: DataOptions, id: str | None = None) -> MachineData:
    """Clips as the model of `run` was trained on them: its split, its amplitude and, unless named, its channel."""
    channel = run.channel if data.channel is None else data.channel
    own = replace(data, machine=run.machine, channel=channel)
    seed, tile = int(run.facts["seed"]), "short_clips" not in run.facts
    loaded = load_data(own, preset, seed, id, settings=run.features, outliers=_outliers_of(run), tile=tile)
    return _with_amplitude_of(run, loaded)


def _outliers_of(run: Run) -> str | None:
    """--outliers of a training; None for a folder that is there no more, without which a model can be judged still."""
    outliers = run.facts.get("outliers")
    return outliers if outliers is None or outliers == "self" or Path(outliers).is_dir() else None


def _with_amplitude_of(run: Run, loaded: MachineData) -> MachineData:
    """The clips of today with the amplitude that the model was trained with."""
    return replace(loaded, amplitudes={**loaded.amplitudes, run.machine: run.amplitude})


class RunLoader:
    """Loads a machine's clips once for all runs that split them alike."""

    def __init__(self, data: DataOptions) -> None:
        self._data = data
        self._loaded: dict[tuple[Any, ...], MachineData] = {}

    def __call__(self, trained: TrainedModel) -> MachineData:
        run, preset = trained.run, trained.preset
        channel = run.channel if self._data.channel is None else self._data.channel
        front_end = run.features.fingerprint()
        key = (
            run.machine,
            run.facts["seed"],
            preset.holdout_fraction,
            preset.test_fraction,
            channel,
            front_end,
            _outliers_of(run),
            "short_clips" in run.facts,
        )
        if key not in self._loaded:
            self._loaded[key] = load_run_data(run, preset, self._data)
        return _with_amplitude_of(run, self._loaded[key])
