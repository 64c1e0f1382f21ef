"""edgeasd alpha."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeasd.toolkit.cli._errors import print_error
from edgeasd.toolkit.cli._options import AsJson, LabelledDataOptions, Scoring, Update, checked_scoring, expand_options
from edgeasd.toolkit.cli._output import print_table
from edgeasd.toolkit.cli.train import load_run_data

if TYPE_CHECKING:
    from edgeasd.toolkit.evaluation.alpha import ChosenAlpha


@expand_options
def alpha(
    data: LabelledDataOptions,
    id: Annotated[str, typer.Option("--id", help="Machine ID whose model gets the α.")],
    clips: Annotated[
        Path,
        typer.Option(help="Validation clips: a folder with normal/ and anomaly/, or a text file of clips of the data."),
    ],
    scoring: Scoring = None,
    update: Update = None,
    as_json: AsJson = False,
) -> None:
    """Choose α of equation 5 on labelled validation clips.

    Sweeps α on the deploy scale and takes the one with the largest AUC. Writes alpha.json into the run:
    `evaluate` and `export` use it from then on, and the validation clips no longer judge the model.

    Example: edgeasd alpha --data recordings/ --machine valve --id 00 --clips validation/
    """
    from edgeasd.toolkit.data.validation import validation_clips
    from edgeasd.toolkit.evaluation.alpha import FEW_CLIPS, choose, save_chosen
    from edgeasd.toolkit.evaluation.evaluate import collect
    from edgeasd.toolkit.evaluation.trained import UNFITTED, load_trained_model
    from edgeasd.toolkit.progress import progress
    from edgeasd.toolkit.runs import find_runs

    run = find_runs(data.workspace, data.machine, id)[0].chosen(update)
    trained = load_trained_model(run, scoring=checked_scoring(scoring), without_alpha=True)
    trained.check_alpha_is_free("edgeasd alpha")
    # Before hours of reading: refuses a model without a scale.
    scale = trained.deploy().score
    loaded = load_run_data(run, trained.preset, data, run.id)
    found = validation_clips(loaded, run.id, clips, run.facts.get("update", {}).get("known_anomalies", ()))
    with progress("validation clips") as report:
        loaded.prepare(found.clips, report)
        outputs = collect(trained.scorer(UNFITTED), loaded, found.clips, report)
    anomalous = [clip.label == "anomaly" for clip in found.clips]
    of_banks = bool(trained.banks)
    chosen = choose(run, scale, outputs, anomalous, found.contents, of_banks=of_banks)
    path = save_chosen(run, chosen, of_banks=of_banks)
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


def _print(model: str, chosen: ChosenAlpha, path: Path) -> None:
    print(f"{model}: α {chosen.alpha:g}, {chosen.setting.source}")
    rows = [
        (f"{value:g}", f"{100 * auc:.1f}", "<" if value == chosen.alpha else "")
        for value, auc in zip(chosen.alphas, chosen.aucs, strict=True)
    ]
    print_table(("α", "AUC % over these clips", ""), rows, right=("AUC % over these clips",))
    print(f"{path}")
