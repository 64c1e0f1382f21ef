"""edgeasd finetune."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.cli._options import (
    Cache,
    ChannelOfRun,
    Compile,
    IdAttribute,
    Machine,
    Root,
    Settings,
    SkipBad,
    TrainingPrecision,
    Workspace,
    cache_folder,
)


def finetune(
    data: Root,
    machine: Machine,
    id: Annotated[str, typer.Option("--id", help="Machine ID whose model is updated.")],
    anomalies: Annotated[Path, typer.Option(help="Folder of clips of faults, or a text file of their paths.")],
    count: Annotated[int | None, typer.Option(min=1, help="Use that many, chosen by the seed; all by default.")] = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="Iterations; the preset's by default.")] = None,
    settings: Settings = [],  # noqa: B006 - typer reads it and never changes it
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Decides the choice and the batches.")] = 0,
    workspace: Workspace = Path(),
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Discard an earlier update of this size.")] = False,
    accelerator: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:K.")] = "auto",
    training_precision: TrainingPrecision = "auto",
    compile_network: Compile = False,
    id_attribute: IdAttribute = None,
    channel: ChannelOfRun = None,
    skip_bad: SkipBad = False,
    cache: Cache = None,
) -> None:
    """Update a trained model with a few known anomalies, one of them in every batch.

    The updated model stands beside the first one, and `evaluate` and `export` take the newest.

    Example: edgeasd finetune --data recordings/ --machine valve --id 00 --anomalies faults/
    """
    from edgeasd.toolkit.cli.stoppable import stoppable
    from edgeasd.toolkit.cli.training_data import load_for_run
    from edgeasd.toolkit.data.offered import choose_known, offered_files, offered_hashes
    from edgeasd.toolkit.presets import stored_preset
    from edgeasd.toolkit.presets.settings import FIXED_IN_AN_UPDATE, with_settings
    from edgeasd.toolkit.progress import progress
    from edgeasd.toolkit.runs import find_runs, update_folder
    from edgeasd.toolkit.training.fabric import open_fabric
    from edgeasd.toolkit.training.session import finetune_one

    if resume and overwrite:
        raise InputError(
            "--resume and --overwrite: one goes on with an update, the other discards it; pass one of them"
        )
    base = find_runs(workspace, machine, id)[0]
    base.outcome()  # refuses a run that has not finished
    fabric = open_fabric(accelerator, training_precision)
    offered = offered_hashes(offered_files(anomalies, "--anomalies"), anomalies, "--anomalies")
    planned = stored_preset(base.facts["preset"], str(base.folder / "run.json")).for_finetuning()
    preset = with_settings(planned, settings, FIXED_IN_AN_UPDATE, {"iterations": iterations})
    if preset.batch_anomaly < 1:
        raise InputError("--set batch_anomaly=0: an update has known anomalies in every batch; set 1 or more")
    loaded = load_for_run(
        base,
        preset,
        data,
        cache_folder(cache, workspace),
        id=base.id,
        id_attribute=id_attribute,
        channel=channel,
        skip_bad=skip_bad,
    )
    known = choose_known(loaded, base.id, offered, count=count, seed=seed)
    roles = loaded.trainable(base.id)
    wanted = [*roles.normals, *roles.outliers, *roles.holdout_normals, *roles.holdout_outliers, *known.used]
    with progress("log-mel features") as report:
        loaded.prepare(dict.fromkeys(wanted), report)
    folder = update_folder(workspace, machine, base.id, len(known.used), seed)
    print(
        f"edgeasd: updating {machine} ID {base.id} with {len(known.used)} of {len(known.candidates)} known anomalies: "
        f"{preset.iterations} iterations on {fabric.device}",
        file=sys.stderr,
    )
    with stoppable(f"update of {machine} ID {base.id}", f"{machine} {base.id}", preset.iterations) as (
        should_stop,
        report,
    ):
        run = finetune_one(
            loaded,
            base,
            known,
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
