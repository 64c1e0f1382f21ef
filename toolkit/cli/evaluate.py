"""edgeasd evaluate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.cli.guard import complain
from edgeasd.toolkit.cli.options import (
    AsJson,
    Cache,
    ChannelOfRun,
    IdAttribute,
    Machine,
    MachineId,
    Root,
    SkipBad,
    Update,
    Workspace,
    cache_folder,
)

if TYPE_CHECKING:
    from edgeasd.toolkit.data.machine import MachineData
    from edgeasd.toolkit.evaluation.evaluate import Evaluation, Figures
    from edgeasd.toolkit.evaluation.trained import Trained
    from edgeasd.toolkit.runs import Run

_HEADINGS = {"deploy": "deploy d′", "paper": "paper d′", "bundle": "bundle", "baseline": "Mahalanobis"}


def evaluate(
    data: Root,
    machine: Machine,
    id: MachineId = None,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Add a baseline: Mahalanobis distance on mean log-mel.")
    ] = False,
    bundle: Annotated[
        Path | None, typer.Option(help="Also score with this bundle, and count the pairs of clips it orders otherwise.")
    ] = None,
    update: Update = None,
    without: Annotated[
        Path | None, typer.Option(help="Leave these recordings out of the test: a folder, or a text file of paths.")
    ] = None,
    ground_truth: Annotated[
        Path | None, typer.Option(help="Folder with published labels of unlabelled test clips (DCASE), as CSV.")
    ] = None,
    workspace: Workspace = Path(),
    id_attribute: IdAttribute = None,
    channel: ChannelOfRun = None,
    skip_bad: SkipBad = False,
    cache: Cache = None,
    as_json: AsJson = False,
) -> None:
    """Judge trained models on labelled test clips.

    AUC with its 95 % interval and pAUC at a false-positive rate of 0.1, per ID and as a mean; once with
    the frozen range of d′ (deploy) and once with that of the test clips themselves (paper). Writes
    evaluation.json beside the run.

    Example: edgeasd evaluate --data recordings/ --machine valve --baseline
    """
    from edgeasd.runtime.atomic import write_json
    from edgeasd.toolkit.runs import find_runs

    runs = [run.chosen(update) for run in find_runs(workspace, machine, id)]
    excluded = _contents(without)
    if bundle is not None and len(runs) > 1:
        raise InputError(f"--bundle {bundle}: belongs to one ID, and {len(runs)} are evaluated; name one with --id")
    found = []
    loader = _Loader(data, cache_folder(cache, workspace), id_attribute, channel, ground_truth, skip_bad)
    for run in runs:
        one = _evaluate_run(run, loader, baseline, bundle, excluded)
        write_json(run.folder / "evaluation.json", one.to_json())
        found.append(one)
        for note in one.notes:
            complain(f"{one.machine} ID {one.id}: {note}")
    means = _means(found)
    if as_json:
        print(json.dumps({"ids": [one.to_json() for one in found], "mean": means}, indent=2))
    else:
        _print_table(found, means)


class _Loader:
    """Loads a machine's data once for all runs that split it alike."""

    def __init__(
        self,
        root: Path,
        cache: Path,
        id_attribute: str | None,
        channel: int | None,
        ground_truth: Path | None,
        skip_bad: bool,
    ) -> None:
        self._root, self._cache, self._id_attribute, self._skip_bad = root, cache, id_attribute, skip_bad
        self._channel, self._ground_truth = channel, ground_truth
        self._loaded: dict[tuple[object, ...], MachineData] = {}

    def __call__(self, trained: Trained) -> MachineData:
        from edgeasd.toolkit.cli.training_data import load_for

        run, preset, seed = trained.run, trained.preset, int(trained.run.facts["seed"])
        channel = run.channel if self._channel is None else self._channel
        key = (run.machine, seed, preset.holdout_fraction, preset.test_fraction, channel)
        if key not in self._loaded:
            self._loaded[key] = load_for(
                self._root,
                run.machine,
                preset,
                seed,
                self._cache,
                id_attribute=self._id_attribute,
                channel=channel,
                ground_truth=self._ground_truth,
                skip_bad=self._skip_bad,
            )
        loaded = self._loaded[key]
        # The model must hear with the amplitude it was trained with, whatever has joined the folder since.
        return replace(loaded, amplitudes={**loaded.amplitudes, run.machine: run.amplitude})


def _contents(source: Path | None) -> frozenset[str]:
    """Content hashes of the recordings that are not to judge."""
    from edgeasd.toolkit.data.clips import content_hashes
    from edgeasd.toolkit.data.known import offered_files

    return frozenset() if source is None else frozenset(content_hashes(offered_files(source))[0].values())


def _evaluate_run(
    run: Run, loader: _Loader, baseline: bool, bundle: Path | None, excluded: frozenset[str]
) -> Evaluation:
    from edgeasd.runtime.bundle import Bundle
    from edgeasd.toolkit.evaluation.evaluate import evaluate as judge
    from edgeasd.toolkit.evaluation.trained import load_trained
    from edgeasd.toolkit.progress import progress

    trained = load_trained(run)
    loaded = loader(trained)
    with progress(f"{run.machine} {run.id}") as report:
        if bundle is None:
            return judge(trained, loaded, baseline=baseline, excluded=excluded, report=report)
        with Bundle(bundle) as opened:
            of = opened.manifest.machine
            if (of.type, of.id) != (run.machine, run.id):
                raise InputError(
                    f"--bundle {bundle}: is of {of.type} ID {of.id}, {run.machine} ID {run.id} is evaluated; "
                    "name its own bundle"
                )
            scorer, _ = opened.open_scorer()
            return judge(trained, loaded, baseline=baseline, bundle=scorer, excluded=excluded, report=report)


def _means(found: list[Evaluation]) -> dict[str, dict[str, Any]]:
    """Mean AUC and pAUC over the IDs where they are defined, per way of scoring."""
    means = {}
    for name in _HEADINGS:
        of_name = [one.figures[name] for one in found if name in one.figures]
        defined = [f for f in of_name if f.auc is not None]
        if defined:
            means[name] = {
                "auc": sum(f.auc for f in defined if f.auc is not None) / len(defined),
                "pauc_0.1": sum(f.pauc for f in defined if f.pauc is not None) / len(defined),
                "ids": len(defined),
            }
    return means


def _print_table(found: list[Evaluation], means: dict[str, dict[str, Any]]) -> None:
    names = [name for name in _HEADINGS if any(name in one.figures for one in found)]
    print(f"{found[0].machine}: AUC % [95 % interval] / pAUC(0.1) %, normal against anomalous test clips")
    print("  ".join([f"{'ID':<6}", f"{'clips':>9}", *(f"{_HEADINGS[name]:<28}" for name in names)]).rstrip())
    for one in found:
        cells = [_cell(one.figures.get(name)) for name in names]
        counts = f"{one.normals}/{one.anomalies}"
        print("  ".join([f"{one.id:<6}", f"{counts:>9}", *(f"{cell:<28}" for cell in cells)]).rstrip())
    if len(found) > 1:
        cells = [
            f"{100 * means[n]['auc']:5.1f} / {100 * means[n]['pauc_0.1']:5.1f} ({means[n]['ids']} IDs)"
            if n in means
            else "undefined"
            for n in names
        ]
        print("  ".join([f"{'mean':<6}", f"{'':>9}", *(f"{cell:<28}" for cell in cells)]).rstrip())
    for one in found:
        if one.known_anomalies:
            print(
                f"ID {one.id}: updated with {one.known_anomalies} known anomalies; none that were offered is in the test"
            )
        facts = one.figures["bundle"].facts if "bundle" in one.figures else {}
        if "pairs" in facts:
            print(
                f"ID {one.id}: bundle against checkpoint: {facts['pairs_in_another_order']} of {facts['pairs']} pairs in "
                f"another order, {facts['of_these_tied_within_1e-4']} of them tied within 1e-4; "
                f"largest score difference {facts['largest_score_difference']:.1e}"
            )


def _cell(figures: Figures | None) -> str:
    if figures is None:
        return "-"
    if figures.auc is None or figures.interval is None or figures.pauc is None:
        return str(figures.facts["undefined"])
    low, high = figures.interval
    return f"{100 * figures.auc:5.1f} [{100 * low:.1f}, {100 * high:.1f}] / {100 * figures.pauc:5.1f}"
