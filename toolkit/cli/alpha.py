"""edgeasd alpha."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeasd.toolkit.cli._errors import print_error
from edgeasd.toolkit.cli._options import (
    AsJson,
    Cache,
    ChannelOfRun,
    GroundTruth,
    IdAttribute,
    Machine,
    Root,
    SkipBad,
    Update,
    Workspace,
    cache_folder,
)

if TYPE_CHECKING:
    from edgeasd.toolkit.evaluation.alpha import ChosenAlpha


def alpha(
    data: Root,
    machine: Machine,
    id: Annotated[str, typer.Option("--id", help="Machine ID whose model gets the α.")],
    clips: Annotated[
        Path,
        typer.Option(help="Validation clips: a folder with normal/ and anomaly/, or a text file of clips of the data."),
    ],
    update: Update = None,
    ground_truth: GroundTruth = None,
    workspace: Workspace = Path(),
    id_attribute: IdAttribute = None,
    channel: ChannelOfRun = None,
    skip_bad: SkipBad = False,
    cache: Cache = None,
    as_json: AsJson = False,
) -> None:
    """Choose α of equation 5 on labelled validation clips.

    Sweeps α on the deploy scale and takes the one with the largest AUC. Writes alpha.json into the run:
    `evaluate` and `export` use it from then on, and the validation clips no longer judge the model.

    Example: edgeasd alpha --data recordings/ --machine valve --id 00 --clips validation/
    """
    from edgeasd.toolkit.cli.training_data import load_for_run
    from edgeasd.toolkit.data.validation import validation_clips
    from edgeasd.toolkit.evaluation.alpha import FEW_CLIPS, choose, save_chosen
    from edgeasd.toolkit.evaluation.evaluate import collect
    from edgeasd.toolkit.evaluation.trained import UNFITTED, load_trained_model
    from edgeasd.toolkit.progress import progress
    from edgeasd.toolkit.runs import find_runs

    run = find_runs(workspace, machine, id)[0].chosen(update)
    trained = load_trained_model(run, without_alpha=True)
    trained.check_alpha_is_free("edgeasd alpha")
    scale = trained.deploy().score  # refuses, before hours of reading, a model without a scale
    loaded = load_for_run(
        run,
        trained.preset,
        data,
        cache_folder(cache, workspace),
        id=run.id,
        id_attribute=id_attribute,
        channel=channel,
        ground_truth=ground_truth,
        skip_bad=skip_bad,
    )
    found = validation_clips(loaded, run.id, clips, run.facts.get("update", {}).get("known_anomalies", ()))
    with progress("validation clips") as report:
        loaded.prepare(found.clips, report)
        outputs = collect(trained.scorer(UNFITTED), loaded, found.clips, report)
    anomalous = [clip.label == "anomaly" for clip in found.clips]
    chosen = choose(run, scale, outputs, anomalous, found.contents)
    path = save_chosen(run, chosen)
    fewest = min(chosen.normals, chosen.anomalies)
    if fewest < FEW_CLIPS:
        print_error(
            f"{fewest} validation clips of a kind: a choice from fewer than {FEW_CLIPS} is little more than chance"
        )
    if as_json:
        facts = {"machine": run.machine, "id": run.id, "file": str(path), **chosen.model_dump()}
        print(json.dumps({**facts, "alpha_source": chosen.setting.source}, indent=2, ensure_ascii=False))
    else:
        _print(f"{run.machine} ID {run.id}", chosen, path)


def _print(which: str, chosen: ChosenAlpha, path: Path) -> None:
    print(f"{which}: α {chosen.alpha:g}, {chosen.setting.source}")
    print("  α     AUC % over these clips")
    for value, auc in zip(chosen.alphas, chosen.aucs, strict=True):
        print(f"  {value:<4g}  {100 * auc:5.1f}{'  <' if value == chosen.alpha else ''}")
    print(f"{path}")
