"""edgeasd evaluate."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
    LabelledDataOptions,
    MachineId,
    Scoring,
    Update,
    checked_scoring,
    expand_options,
)
from edgeasd.toolkit.cli._output import print_table
from edgeasd.toolkit.cli.train import RunLoader

if TYPE_CHECKING:
    from edgeasd.toolkit.data.machine import MachineData
    from edgeasd.toolkit.evaluation.dcase import Result
    from edgeasd.toolkit.evaluation.evaluate import Evaluation
    from edgeasd.toolkit.evaluation.figures import Figures
    from edgeasd.toolkit.evaluation.trained import TrainedModel
    from edgeasd.toolkit.runs import Run


@expand_options
def evaluate(
    data: LabelledDataOptions,
    id: MachineId = None,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Add a baseline: Mahalanobis distance on mean log-mel.")
    ] = False,
    bundle: Annotated[
        Path | None, typer.Option(help="Also score with this bundle, and count the pairs of clips it orders otherwise.")
    ] = None,
    alpha: Alpha = None,
    scoring: Scoring = None,
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
    as_json: AsJson = False,
) -> None:
    """Judge trained models on labelled test clips.

    AUC with its 95 % interval and pAUC at a false-positive rate of 0.1, per ID and as a mean; once with
    the frozen range of d′ (deploy) and once with that of the test clips themselves (paper). Then what the
    shipped threshold does: faults found, by kind where file names tell it, and false alarms a month. Writes
    evaluation.json into the run (evaluation-knn.json for --scoring knn beside a training), and a report or the official DCASE files if asked.

    Example: edgeasd evaluate --data recordings/ --machine valve --baseline
    """
    from edgeasd.runtime.system.files import write_json
    from edgeasd.toolkit.evaluation.stored import over_ids, pooled
    from edgeasd.toolkit.runs import EVALUATION, find_runs

    _check_outputs(dcase, report, report_audio)
    runs = [run.chosen(update) for run in find_runs(data.workspace, data.machine, id)]
    excluded = _contents(without)
    if bundle is not None and len(runs) > 1:
        raise InputError(f"--bundle {bundle}: belongs to one ID, and {len(runs)} are evaluated; name one with --id")
    evaluations, clips, official = [], [], []
    loader = RunLoader(data)
    for run in runs:
        trained, loaded, evaluation = _evaluate_run(
            run, loader, alpha, checked_scoring(scoring), baseline, bundle, excluded, unlabelled=dcase is not None
        )
        if dcase is not None:
            official += _official_results(trained, evaluation)
        write_json(run.path_of(EVALUATION, of_banks=bool(trained.banks)), evaluation.to_json())
        evaluations.append(evaluation)
        clips.append(loaded)
        for note in evaluation.notes:
            print_error(f"{evaluation.machine} ID {evaluation.id}: {note}")
    stored = [evaluation.to_json() for evaluation in evaluations]
    means, together = over_ids(stored), pooled(stored)
    if as_json:
        print(json.dumps({"ids": stored, "mean": means, "pooled": together}, indent=2))
    else:
        print_evaluations(evaluations, means, together)
    if dcase is not None:
        _write_official(dcase, official, clips[0])
    if report is not None:
        _write_report(report, evaluations, clips, means, report_audio)


def _check_outputs(dcase: Path | None, report: Path | None, report_audio: bool) -> None:
    """Refuse, before minutes of work, what could not be written."""
    if report_audio and report is None:
        raise InputError("--report-audio: there is no report to put the sound into; add --report FILE.html")
    if report is not None and report.is_dir():
        raise InputError(f"--report {report}: is a folder; name a file in it, like {report / 'report.html'}")
    if dcase is not None and dcase.exists() and not dcase.is_dir():
        raise InputError(f"--dcase {dcase}: is not a folder; name one, it is made if it is missing")
    if report is not None:
        from edgeasd.toolkit.reports import check_packages

        check_packages()


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

    write_bytes(path, evaluation_report(list(zip(found, judged, strict=True)), means, audio=audio))
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
    scoring: str | None,
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

    trained = load_trained_model(run, scoring=scoring).with_alpha(alpha)
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
            live=True,
            report=report,
        )
    return trained, loaded, one


HEADINGS = {"deploy": "deploy d′", "paper": "paper d′", "bundle": "bundle", "baseline": "Mahalanobis"}
"""Ways of scoring, in the order of the columns."""


def print_evaluations(
    evaluations: Sequence[Evaluation],
    means: Mapping[str, Mapping[str, Any]],
    together: Mapping[str, Mapping[str, Any]],
) -> None:
    """A table of evaluations of one machine type, their means and the figures over all their clips; then remarks."""
    names = [name for name in HEADINGS if any(name in one.figures for one in evaluations)]
    print(f"{evaluations[0].machine}: AUC % [95 % interval] / pAUC(0.1) %, normal against anomalous test clips")
    rows = [
        [one.id, f"{one.normals}/{one.anomalies}", *(_cell(one.figures.get(name)) for name in names)]
        for one in evaluations
    ]
    if len(evaluations) > 1:
        rows.append(["mean", "", *(_mean_cell(means.get(name)) for name in names)])
        rows.append(["pooled", "", *(_pooled_cell(together.get(name)) for name in names)])
    headings = [HEADINGS[name] for name in names]
    print_table(("ID", "clips", *headings), rows, right=("clips",), fold=headings, indent=0)
    for one in evaluations:
        for line in _remarks(one):
            print(f"ID {one.id}: {line}")
    if len(evaluations) > 1:
        first = next((together[name] for name in HEADINGS if name in together), {})
        for line in _domain_line(first):
            print(f"pooled: {line}")


def _cell(figures: Figures | None) -> str:
    if figures is None:
        return "-"
    if figures.auc is None or figures.interval is None or figures.pauc is None:
        return str(figures.facts["undefined"])
    low, high = figures.interval
    return f"{100 * figures.auc:5.1f} [{100 * low:.1f}, {100 * high:.1f}] / {100 * figures.pauc:5.1f}"


def _mean_cell(mean: Mapping[str, Any] | None) -> str:
    if mean is None:
        return "undefined"
    return f"{100 * mean['auc']:5.1f} / {100 * mean['pauc_0.1']:5.1f} ({mean['ids']} IDs)"


def _pooled_cell(figures: Mapping[str, Any] | None) -> str:
    if figures is None or figures["auc"] is None:
        return "undefined"
    low, high = figures["interval95"]
    return f"{100 * figures['auc']:5.1f} [{100 * low:.1f}, {100 * high:.1f}] / {100 * figures['pauc_0.1']:5.1f}"


def _domain_line(facts: Mapping[str, Any]) -> list[str]:
    domains = facts.get("domains", {}).get("2022-2026", {})
    parts = [
        f"{key.removeprefix('auc_')} AUC {100 * domains[key]:.1f}"
        for key in ("auc_source", "auc_target")
        if key in domains
    ]
    return [f"{', '.join(parts)}, pAUC over both {100 * domains['pauc']:.1f} (%; DCASE 2022 to 2026)"] if parts else []


def _remarks(one: Evaluation) -> list[str]:
    from edgeasd.toolkit.evaluation.alpha import CHOSEN
    from edgeasd.toolkit.evaluation.at_threshold import at_threshold_lines

    lines = []
    if one.known_anomalies:
        lines.append(f"updated with {one.known_anomalies} known anomalies; none that were offered is in the test")
    judged = next((one.figures[name] for name in HEADINGS if name in one.figures), None)
    source = "" if judged is None else str(judged.facts.get("alpha_source", ""))
    if judged is not None and source.startswith(CHOSEN):
        lines.append(f"α {judged.facts['alpha']:g} was {source}; none of them is in the test")
    lines += [] if judged is None else _domain_line(judged.facts)
    lines += [] if one.at_threshold is None else at_threshold_lines(one.at_threshold)
    for name, figures in one.figures.items():
        lines += _comparison(HEADINGS[name], figures.facts)
    return lines


def _comparison(name: str, facts: Mapping[str, Any]) -> list[str]:
    lines = []
    if "pairs" in facts:
        lines.append(
            f"{name} against checkpoint: {facts['pairs_in_another_order']} of {facts['pairs']} pairs in "
            f"another order, {facts['of_these_tied_within_1e-4']} of them tied within 1e-4; "
            f"largest score difference {facts['largest_score_difference']:.1e}"
        )
    elif "deploy_minus_this" in facts:
        test = facts["deploy_minus_this"]
        low, high = test["interval"]
        p = "undefined" if test["p"] is None else f"{test['p']:.3f}"
        lines.append(
            f"deploy d′ minus {name} on the same clips: {100 * test['difference']:+.1f} points "
            f"[{100 * low:+.1f}, {100 * high:+.1f}], p = {p} (DeLong)"
        )
    return lines
