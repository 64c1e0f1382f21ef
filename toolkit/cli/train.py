"""edgeasd train."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeasd.runtime.errors import CheckFailed, InputError
from edgeasd.toolkit.cli._errors import INTERRUPTED, interruptible
from edgeasd.toolkit.cli._options import (
    Cache,
    Channel,
    Compile,
    IdAttribute,
    Machine,
    MachineId,
    Root,
    Settings,
    SkipBad,
    TrainingPrecision,
    Workspace,
    cache_folder,
)

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from edgeasd.toolkit.data.machine import MachineData
    from edgeasd.toolkit.presets import Preset


def train(
    data: Root,
    machine: Machine,
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
    iterations: Annotated[int | None, typer.Option(min=1, help="Iterations; the preset's by default.")] = None,
    lam: Annotated[
        float | None, typer.Option(metavar="NUMBER", help="λ of equation 4; the preset's by default.")
    ] = None,
    eta: Annotated[
        float | None, typer.Option(metavar="NUMBER", help="η of equations 2 and 3; the preset's by default.")
    ] = None,
    settings: Settings = [],  # noqa: B006 - typer reads it and never changes it
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Decides splits, batches and first weights.")] = 0,
    workspace: Workspace = Path(),
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint, exactly.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Discard an earlier run of the same ID.")] = False,
    accelerator: Annotated[
        str, typer.Option(help="Compute: auto (a GPU where there is one), cpu, cuda or cuda:K.")
    ] = "auto",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="IDs trained at the same time; one per GPU by default.")
    ] = None,
    training_precision: TrainingPrecision = "auto",
    compile_network: Compile = False,
    id_attribute: IdAttribute = None,
    channel: Channel = None,
    skip_bad: SkipBad = False,
    cache: Cache = None,
) -> None:
    """Train one model for each machine ID.

    Sets the normal clips of an ID against those of the other IDs and machines, its outliers. A machine alone needs
    none: its normals are stored, and what is far from all of them is odd (knn). Writes runs/<machine>/id_<id>/ in
    the workspace and prints that folder. Ctrl-C writes a checkpoint and stops.

    Example: edgeasd train --data recordings/ --machine valve --id 00
    """
    from edgeasd.toolkit.cli.training_data import load_for
    from edgeasd.toolkit.data.clips import plain_id
    from edgeasd.toolkit.losses import method_named
    from edgeasd.toolkit.models.backbones import check_segment
    from edgeasd.toolkit.presets import load_preset
    from edgeasd.toolkit.presets.settings import FIXED_IN_TRAINING, with_settings
    from edgeasd.toolkit.training.fabric import open_fabric

    if resume and overwrite:
        raise InputError("--resume and --overwrite: one goes on with a run, the other discards it; pass one of them")
    options = {"backbone": backbone, "method": loss, "iterations": iterations, "lam": lam, "eta": eta}
    # Whoever asks for anything of a trained model gets that, or the refusal that says what it needs.
    left_open = preset is None and not settings and not any(value is not None for value in options.values())
    chosen = with_settings(load_preset(preset or "quick"), settings, FIXED_IN_TRAINING, options)
    method_named(chosen.method)
    check_segment(chosen.backbone, chosen.segment_frames)
    fabric = open_fabric(accelerator, training_precision)
    loaded = load_for(
        data,
        machine,
        chosen,
        seed,
        cache_folder(cache, workspace),
        id=id,
        id_attribute=id_attribute,
        channel=channel,
        skip_bad=skip_bad,
    )
    ids = [plain_id(id)] if id is not None else loaded.ids
    if left_open and not loaded.roles(ids[0]).outliers:
        chosen = load_preset("knn")
        print(
            f"edgeasd: {loaded.machine} ID {ids[0]} has no other machine beside it, so nothing is trained: its normals "
            f"are stored as {chosen.backbone} and compared with (--preset knn)",
            file=sys.stderr,
        )
    wanted = [clip for one in ids for clip in _training_clips(loaded, one, chosen)]
    _prepare(loaded, wanted)
    accelerators = _accelerators(accelerator, jobs, len(ids))
    if len(accelerators) > 1:
        _train_apart(ids, accelerators)
        return
    for one in ids:
        _train_here(
            loaded,
            one,
            chosen,
            seed,
            workspace,
            fabric,
            resume=resume,
            overwrite=overwrite,
            compile_network=compile_network,
        )


def _training_clips(loaded: MachineData, id: str, preset: Preset) -> list[Any]:
    roles = loaded.trainable(id, alone=preset.method == "knn")
    if preset.method == "knn":
        return [*roles.normals, *roles.holdout_normals]
    return [*roles.normals, *roles.outliers, *roles.holdout_normals, *roles.holdout_outliers]


def _prepare(loaded: MachineData, clips: list[Any]) -> None:
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


def _train_here(
    loaded: MachineData,
    id: str,
    preset: Preset,
    seed: int,
    workspace: Path,
    fabric: Fabric,
    *,
    resume: bool,
    overwrite: bool,
    compile_network: bool,
) -> None:
    from edgeasd.toolkit.cli.stoppable import stoppable
    from edgeasd.toolkit.runs import run_folder
    from edgeasd.toolkit.training.session import train_one

    folder = run_folder(workspace, loaded.machine, id)
    if preset.method == "knn":
        _fit_here(loaded, id, preset, seed, folder, resume=resume, overwrite=overwrite)
        return
    print(
        f"edgeasd: training {loaded.machine} ID {id}: {preset.backbone}, {preset.method}, {preset.iterations} iterations "
        f"on {fabric.device} at {fabric._precision.precision}; {_counts(loaded, id)}{_changes(preset)}",
        file=sys.stderr,
    )
    with stoppable(f"training of {loaded.machine} ID {id}", f"{loaded.machine} {id}", preset.iterations) as (
        should_stop,
        report,
    ):
        run = train_one(
            loaded,
            id,
            preset,
            seed,
            folder,
            fabric,
            resume=resume,
            overwrite=overwrite,
            compile_network=compile_network,
            report=report,
            should_stop=should_stop,
        )
    print(f"{run.folder}")
    if should_stop():
        # Asked for after the last iteration: this run is whole, and the next ID must not begin.
        raise KeyboardInterrupt


def _fit_here(
    loaded: MachineData, id: str, preset: Preset, seed: int, folder: Path, *, resume: bool, overwrite: bool
) -> None:
    from edgeasd.toolkit.progress import progress
    from edgeasd.toolkit.training.bank import fit_one

    roles = loaded.roles(id)
    print(
        f"edgeasd: storing the normals of {loaded.machine} ID {id}: {preset.backbone}, {preset.bank_sections} segments "
        f"of each of {len(roles.normals)} normal clips, {len(roles.holdout_normals)} held out{_changes(preset)}",
        file=sys.stderr,
    )
    with interruptible() as check, progress(f"{loaded.machine} {id}") as report:

        def step(done: int, total: int, text: str = "") -> None:
            check()
            report(done, total, text)

        run = fit_one(loaded, id, preset, seed, folder, resume=resume, overwrite=overwrite, report=step)
    print(f"{run.folder}")


def _counts(loaded: MachineData, id: str) -> str:
    roles = loaded.roles(id)
    held = len(roles.holdout_normals) + len(roles.holdout_outliers)
    return f"{len(roles.normals)} normal and {len(roles.outliers)} outlier clips, {held} held out"


def _changes(preset: Preset) -> str:
    """The fields that are not as the preset has them; nothing falls back or changes silently."""
    from edgeasd.toolkit.presets import load_preset
    from edgeasd.toolkit.presets.settings import describe_changes

    changes = describe_changes(load_preset(preset.name), preset)
    return f"; {preset.name} with {changes}" if changes else ""


def _train_apart(ids: list[str], accelerators: list[str]) -> None:
    """Train each ID in a process of its own, with the arguments this command was given."""
    from edgeasd.toolkit.training.fabric import Job, run_jobs

    given = _without(sys.argv[1:], ("--jobs", "--accelerator"))
    codes = run_jobs([Job(id, [*given, "--id", id, "--jobs", "1"]) for id in ids], accelerators)
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
