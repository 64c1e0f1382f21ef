"""edgeasd train, and what other commands share with it: loading clips as a model was trained on them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeasd.runtime.errors import CheckFailed
from edgeasd.toolkit.cli._errors import INTERRUPTED, interruptible, print_error
from edgeasd.toolkit.cli._options import DataOptions, LabelledDataOptions, MachineId, TrainingOptions, expand_options

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from edgeasd.toolkit.data.clips import Clip
    from edgeasd.toolkit.data.machine import MachineData
    from edgeasd.toolkit.evaluation.trained import TrainedModel
    from edgeasd.toolkit.presets import Preset
    from edgeasd.toolkit.progress import ProgressCallback
    from edgeasd.toolkit.runs import Run


@expand_options
def train(
    data: DataOptions,
    training: TrainingOptions,
    id: MachineId = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="quick (minutes on a CPU), paper (the published experiment) or knn (no training: the machine's normals "
            "are stored and compared with). quick by default, knn for a machine without any other beside it."
        ),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="resnet38, quick or, with knn, logmel-stats; the preset's by default.")
    ] = None,
    loss: Annotated[
        str | None, typer.Option(help="bce, dsad, ddcsad, bce+dsad, bce+ddcsad or knn; the preset's by default.")
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
    jobs: Annotated[
        int | None, typer.Option(min=1, help="IDs trained at the same time; one per GPU by default.")
    ] = None,
) -> None:
    """Train one model for each machine ID.

    Sets the normal clips of an ID against those of the other IDs and machines, its outliers. A machine alone needs
    none: its normals are stored, and what is far from all of them is odd (knn). Writes runs/<machine>/id_<id>/ in
    the workspace and prints that folder. Ctrl-C writes a checkpoint and stops.

    Example: edgeasd train --data recordings/ --machine valve --id 00
    """
    from edgeasd.toolkit.data.clips import plain_id
    from edgeasd.toolkit.losses import method_named
    from edgeasd.toolkit.models.backbones import check_segment
    from edgeasd.toolkit.presets import load_preset
    from edgeasd.toolkit.presets.settings import FIXED_IN_TRAINING, with_settings
    from edgeasd.toolkit.training.fabric import open_fabric

    training.check()
    options = {
        "backbone": backbone,
        "method": loss,
        "iterations": training.iterations,
        "scoring": scoring,
        "lam": lam,
        "eta": eta,
    }
    # Whoever asks for anything of a trained model gets that, or the refusal that says what it needs.
    asked = [value for name, value in options.items() if not (name == "scoring" and value == "knn")]
    is_open = preset is None and not training.settings and all(value is None for value in asked)
    chosen = with_settings(load_preset(preset or "quick"), training.settings, FIXED_IN_TRAINING, options)
    method_named(chosen.method)
    check_segment(chosen.backbone, chosen.segment_frames)
    fabric = open_fabric(training.accelerator, training.training_precision)
    loaded = load_data(data, chosen, training.seed, id)
    ids = [plain_id(id)] if id is not None else loaded.ids
    if is_open and not loaded.split_for(ids[0]).outliers:
        chosen = load_preset("knn")
        print_error(
            f"{loaded.machine} ID {ids[0]} has no other machine beside it, so nothing is trained: its normals are stored "
            f"as {chosen.backbone} and compared with (--preset knn)"
        )
    prepare_features(loaded, [clip for one in ids for clip in _training_clips(loaded, one, chosen)])
    accelerators = _accelerators(training.accelerator, jobs, len(ids))
    if len(accelerators) > 1:
        _train_in_processes(ids, accelerators)
        return
    for one in ids:
        _train_id(loaded, one, chosen, training, data.workspace, fabric)


def _training_clips(loaded: MachineData, id: str, preset: Preset) -> list[Clip]:
    if preset.method == "knn":
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
    loaded: MachineData, id: str, preset: Preset, training: TrainingOptions, workspace: Path, fabric: Fabric
) -> None:
    from edgeasd.toolkit.runs import run_folder
    from edgeasd.toolkit.training.session import train_one

    folder = run_folder(workspace, loaded.machine, id)
    if preset.method == "knn":
        _fit_banks(loaded, id, preset, training, folder)
        return
    print_error(
        f"training {loaded.machine} ID {id}: {preset.backbone}, {preset.method}, {preset.iterations} iterations "
        f"on {fabric.device} at {fabric._precision.precision}; {_counts(loaded, id)}{_changes(preset)}"
    )
    with stoppable_training(f"training of {loaded.machine} ID {id}", f"{loaded.machine} {id}", preset.iterations) as (
        should_stop,
        report,
    ):
        run = train_one(
            loaded,
            id,
            preset,
            training.seed,
            folder,
            fabric,
            resume=training.resume,
            overwrite=training.overwrite,
            compile_network=training.compile_network,
            report=report,
            should_stop=should_stop,
        )
    print(f"{run.folder}")
    if should_stop():
        # Asked for after the last iteration: this run is whole, and the next ID must not begin.
        raise KeyboardInterrupt


def _fit_banks(loaded: MachineData, id: str, preset: Preset, training: TrainingOptions, folder: Path) -> None:
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
        run = fit_one(loaded, id, preset, training.seed, folder, resume=resume, overwrite=overwrite, report=report)
    print(f"{run.folder}")


@contextmanager
def stoppable_training(work: str, label: str, iterations: int) -> Iterator[tuple[Callable[[], bool], ProgressCallback]]:
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


def load_data(data: DataOptions, preset: Preset, seed: int, id: str | None = None) -> MachineData:
    """Clips of a machine, split as `preset` says; names every file it leaves out, and copies of test clips."""
    from edgeasd.toolkit.data.machine import load_machine
    from edgeasd.toolkit.data.split import describe_copies
    from edgeasd.toolkit.progress import progress

    loaded = load_machine(
        data.root,
        data.machine,
        cache_folder=data.cache_folder,
        seed=seed,
        holdout_fraction=preset.holdout_fraction,
        test_fraction=preset.test_fraction,
        id=id,
        id_attribute=data.id_attribute,
        channel=data.channel,
        ground_truth=data.ground_truth if isinstance(data, LabelledDataOptions) else None,
        skip_bad=data.skip_bad,
        stage=progress,
    )
    for _, reason in loaded.bad:
        print_error(f"left out: {reason}")
    if loaded.copies:
        print_error(describe_copies(loaded.copies))
    return loaded


def load_run_data(run: Run, preset: Preset, data: DataOptions, id: str | None = None) -> MachineData:
    """Clips as the model of `run` was trained on them: its split, its amplitude and, unless named, its channel."""
    channel = run.channel if data.channel is None else data.channel
    loaded = load_data(replace(data, machine=run.machine, channel=channel), preset, int(run.facts["seed"]), id)
    return _with_amplitude_of(run, loaded)


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
        key = (run.machine, run.facts["seed"], preset.holdout_fraction, preset.test_fraction, channel)
        if key not in self._loaded:
            self._loaded[key] = load_run_data(run, preset, self._data)
        return _with_amplitude_of(run, self._loaded[key])
