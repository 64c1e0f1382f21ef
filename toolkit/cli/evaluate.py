"""edgeasd evaluate."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.cli._errors import print_error
from edgeasd.toolkit.cli._options import (
    Alpha,
    AsJson,
    Cache,
    ChannelOfRun,
    GroundTruth,
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
    from edgeasd.toolkit.cli.training_data import RunLoader
    from edgeasd.toolkit.data.machine import MachineData
    from edgeasd.toolkit.evaluation.dcase import Result
    from edgeasd.toolkit.evaluation.evaluate import Evaluation
    from edgeasd.toolkit.evaluation.trained import TrainedModel
    from edgeasd.toolkit.runs import Run


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
    alpha: Alpha = None,
    update: Update = None,
    without: Annotated[
        Path | None, typer.Option(help="Leave these recordings out of the test: a folder, or a text file of paths.")
    ] = None,
    dcase: Annotated[
        Path | None, typer.Option(help="Write the official score and decision files of DCASE Task 2 into this folder.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write a report to this file: one HTML page, opens offline.")
    ] = None,
    report_audio: Annotated[
        bool, typer.Option("--report-audio", help="Put the sound of the clips shown into the report.")
    ] = False,
    ground_truth: GroundTruth = None,
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
    evaluation.json beside the run, and a report or the official DCASE files where asked.

    Example: edgeasd evaluate --data recordings/ --machine valve --baseline
    """
    from edgeasd.runtime.system.files import write_json
    from edgeasd.toolkit.cli.evaluate_table import print_table
    from edgeasd.toolkit.cli.training_data import RunLoader
    from edgeasd.toolkit.evaluation.stored import over_ids, pooled
    from edgeasd.toolkit.runs import find_runs

    _check_outputs(dcase, report, report_audio)
    runs = [run.chosen(update) for run in find_runs(workspace, machine, id)]
    excluded = _contents(without)
    if bundle is not None and len(runs) > 1:
        raise InputError(f"--bundle {bundle}: belongs to one ID, and {len(runs)} are evaluated; name one with --id")
    found, judged, official = [], [], []
    loader = RunLoader(
        data,
        cache_folder(cache, workspace),
        channel,
        id_attribute=id_attribute,
        ground_truth=ground_truth,
        skip_bad=skip_bad,
    )
    for run in runs:
        trained, loaded, one = _evaluate_run(
            run, loader, alpha, baseline, bundle, excluded, unlabelled=dcase is not None
        )
        if dcase is not None:
            official += _official_results(trained, one)
        write_json(run.folder / "evaluation.json", one.to_json())
        found.append(one)
        judged.append(loaded)
        for note in one.notes:
            print_error(f"{one.machine} ID {one.id}: {note}")
    stored = [one.to_json() for one in found]
    means, together = over_ids(stored), pooled(stored)
    if as_json:
        print(json.dumps({"ids": stored, "mean": means, "pooled": together}, indent=2))
    else:
        print_table(found, means, together)
    if dcase is not None:
        _write_official(dcase, official, judged[0])
    if report is not None:
        _write_report(report, found, judged, means, report_audio)


def _check_outputs(dcase: Path | None, report: Path | None, report_audio: bool) -> None:
    """Refuse, before minutes of work, what could not be written."""
    if report_audio and report is None:
        raise InputError("--report-audio: there is no report to put the sound into; add --report FILE.html")
    if report is not None and report.is_dir():
        raise InputError(f"--report {report}: is a folder; name a file in it, like {report / 'report.html'}")
    if dcase is not None and dcase.exists() and not dcase.is_dir():
        raise InputError(f"--dcase {dcase}: is not a folder; name one, it is made where it is missing")


def _official_results(trained: TrainedModel, one: Evaluation) -> list[Result]:
    """Scores and decisions of every test clip; how well the decisions do is added to the figures."""
    from edgeasd.toolkit.evaluation.dcase import judge_decisions, result_of
    from edgeasd.toolkit.evaluation.evaluate import decision_threshold

    threshold = decision_threshold(trained)
    origin = "held-out" if trained.result.held_out else "training"
    print_error(
        f"{one.machine} ID {one.id}: decisions at {threshold.value:.6g}, the {threshold.quantile} quantile of a gamma "
        f"distribution fitted to {threshold.clips} {origin} normal clips"
    )
    results = [
        result_of(clip, float(row["deploy"]), threshold.value) for clip, row in zip(one.sources, one.clips, strict=True)
    ]
    one.figures["deploy"].facts["decisions"] = {**asdict(threshold), "clips_are": origin, **judge_decisions(results)}
    return results


def _write_official(folder: Path, results: list[Result], data: MachineData) -> None:
    from edgeasd.toolkit.evaluation.dcase import official_stem, write_official

    for path in write_official(folder, results):
        print_error(f"wrote {path}")
    stems, written = {official_stem(r.clip) for r in results}, {r.clip.path for r in results}
    tests = [clip for split in data.splits[data.machine].values() for clip in split.test]
    missing = [clip.path.name for clip in tests if clip.path not in written and official_stem(clip) in stems]
    if missing:
        print_error(
            f"the files lack {len(missing)} test clips ({missing[0]} first): of IDs that were not evaluated, offered "
            "as known anomalies, spent on choosing α, or left out by --without; the official figures need all"
        )


def _write_report(
    path: Path, found: list[Evaluation], judged: list[MachineData], means: dict[str, dict[str, Any]], audio: bool
) -> None:
    from edgeasd.runtime.system.files import write_bytes
    from edgeasd.toolkit.reports.evaluation import evaluation_report

    write_bytes(
        path, evaluation_report(list(zip(found, judged, strict=True)), means, audio=audio).encode("utf-8", "replace")
    )
    print_error(f"wrote {path}")


def _contents(source: Path | None) -> frozenset[str]:
    """Content hashes of the recordings that are not to judge."""
    from edgeasd.toolkit.data.offered import offered_files, offered_hashes

    if source is None:
        return frozenset()
    return frozenset(offered_hashes(offered_files(source, "--without"), source, "--without").values())


def _evaluate_run(
    run: Run,
    loader: RunLoader,
    alpha: float | None,
    baseline: bool,
    bundle: Path | None,
    excluded: frozenset[str],
    *,
    unlabelled: bool,
) -> tuple[TrainedModel, MachineData, Evaluation]:
    from edgeasd.runtime.bundle.bundle import Bundle
    from edgeasd.toolkit.evaluation.evaluate import evaluate as judge
    from edgeasd.toolkit.evaluation.trained import load_trained_model
    from edgeasd.toolkit.progress import progress

    trained = load_trained_model(run).with_alpha(alpha)
    loaded = loader(trained)
    with progress(f"{run.machine} {run.id}") as report, ExitStack() as opened_bundle:
        scorer = None
        if bundle is not None:
            opened = opened_bundle.enter_context(Bundle(bundle))
            of = opened.manifest.machine
            if (of.type, of.id) != (run.machine, run.id):
                raise InputError(
                    f"--bundle {bundle}: is of {of.type} ID {of.id}, {run.machine} ID {run.id} is evaluated; "
                    "name its own bundle"
                )
            scorer, _ = opened.open_scorer(engine="onnxruntime")
        one = judge(
            trained,
            loaded,
            baseline=baseline,
            bundle=scorer,
            excluded=excluded,
            unlabelled=unlabelled,
            report=report,
        )
    return trained, loaded, one
