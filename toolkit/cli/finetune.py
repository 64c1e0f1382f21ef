"""edgeasd finetune."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.cli._errors import print_error
from edgeasd.toolkit.cli._options import RunDataOptions, TrainingOptions, expand_options
from edgeasd.toolkit.cli.train import load_run_data, prepare_features, run_training


@expand_options
def finetune(
    data: RunDataOptions,
    training: TrainingOptions,
    id: Annotated[str, typer.Option("--id", help="Machine ID whose model is updated.")],
    anomalies: Annotated[Path, typer.Option(help="Folder of clips of faults, or a text file of their paths.")],
    count: Annotated[int | None, typer.Option(min=1, help="Use that many, chosen by the seed; all by default.")] = None,
) -> None:
    """Update a trained model with a few known anomalies, one of them in every batch.

    The updated model stands beside the first one, and `evaluate` and `export` take the newest.

    Example: edgeasd finetune --data recordings/ --machine valve --id 00 --anomalies faults/
    """
    from edgeasd.toolkit.data.offered import choose_known, offered_files, offered_hashes
    from edgeasd.toolkit.presets import stored_preset
    from edgeasd.toolkit.presets.settings import FIXED_IN_AN_UPDATE, with_settings
    from edgeasd.toolkit.runs import find_runs, update_folder
    from edgeasd.toolkit.training.fabric import open_fabric
    from edgeasd.toolkit.training.session import finetune_one

    training.check()
    machine, workspace = data.machine, data.workspace
    base = find_runs(workspace, machine, id)[0]
    base.result()  # refuses a run that has not finished
    fabric = open_fabric(training.accelerator, training.training_precision)
    offered = offered_hashes(offered_files(anomalies, "--anomalies"), anomalies, "--anomalies")
    planned = stored_preset(base.facts["preset"], str(base.folder / "run.json")).for_finetuning()
    preset = with_settings(planned, training.settings, FIXED_IN_AN_UPDATE, {"iterations": training.iterations})
    if preset.batch_anomaly < 1:
        raise InputError("--set batch_anomaly=0: an update has known anomalies in every batch; set 1 or more")
    loaded = load_run_data(base, preset, data, base.id)
    known = choose_known(loaded, base.id, offered, count=count, seed=training.seed)
    split = loaded.trainable(base.id)
    prepare_features(
        loaded, [*split.normals, *split.outliers, *split.holdout_normals, *split.holdout_outliers, *known.used]
    )
    folder = update_folder(workspace, machine, base.id, len(known.used), training.seed)
    print_error(
        f"updating {machine} ID {base.id} with {len(known.used)} of {len(known.candidates)} known anomalies: "
        f"{preset.iterations} iterations on {fabric.device}"
    )
    train = partial(finetune_one, loaded, base, known, preset, training.seed, folder, fabric)
    run_training(train, training, f"update of {machine} ID {base.id}", f"{machine} {base.id}", preset.iterations)
