"""edgeasd calibrate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeasd.runtime.errors import DeviceError, InputError
from edgeasd.toolkit.cli._options import AsJson, Cache, ChannelOfRun, Machine, SkipBad, Workspace, cache_folder
from edgeasd.toolkit.cli.calibrating import refuse_failed, report_path, resumable, write_report

if TYPE_CHECKING:
    from edgeasd.toolkit.calibrate.record import Calibration


def calibrate(
    machine: Machine,
    clips: Annotated[
        Path, typer.Option(help="Folder of normal clips of this machine, at any depth, that it was not trained on.")
    ],
    id: Annotated[str | None, typer.Option("--id", help="Machine ID; the only one in bundles/ by default.")] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Bundle folder, in place of bundles/<machine>-id_<id> of the workspace.")
    ] = None,
    anomalies: Annotated[
        Path | None, typer.Option(help="Known anomalies: a folder, or a text file of paths. Adds AUC to the drift.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="Which of fp16,int8,int8-cpu to make; none for constants and threshold only.")
    ] = "fp16,int8,int8-cpu",
    alarms_per_day: Annotated[
        float | None, typer.Option(help="New threshold: this many false alarms a day; needs long recordings.")
    ] = None,
    false_positive_rate: Annotated[
        float | None, typer.Option(help="New threshold: this share of single normal clips may lie above it.")
    ] = None,
    keep_threshold: Annotated[
        bool, typer.Option("--keep-threshold", help="Keep the bundle's threshold, or fail where it has none.")
    ] = False,
    refit_distance: Annotated[
        bool, typer.Option("--refit-distance", help="Fit d_min, and d_max with 8 anomalies or more, on these clips.")
    ] = False,
    refit_amplitude: Annotated[
        bool, typer.Option("--refit-amplitude", help="Fit the input level on these clips, and d_min with it.")
    ] = False,
    segments: Annotated[int, typer.Option(min=8, max=4096, help="Segments that ranges are collected from.")] = 128,
    range_methods: Annotated[
        str, typer.Option(help="Ways to find ranges, of which the one with the least drift is taken.")
    ] = "minmax,entropy,percentile",
    budget: Annotated[
        int, typer.Option(min=0, max=1000, help="Layers that may be tried in higher precision, for each variant.")
    ] = 40,
    min_rank_correlation: Annotated[
        float | None,
        typer.Option(help="Limit of drift, for every variant; docs/explanation/precision.md has the defaults."),
    ] = None,
    max_score_change: Annotated[
        float | None, typer.Option(help="Limit: of a normal clip, in parts of its way to the threshold.")
    ] = None,
    max_flipped: Annotated[float | None, typer.Option(help="Limit: share of normal clips that change sides.")] = None,
    max_auc_loss: Annotated[float | None, typer.Option(help="Limit: lower end of the AUC change's interval.")] = None,
    max_pauc_loss: Annotated[float | None, typer.Option(help="Limit: the same of the partial AUC.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Go on with clips that evidently are of another machine.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted calibration.")] = False,
    report: Annotated[
        Path | None, typer.Option(help="HTML report; <bundle>.calibration.html beside the bundle by default.")
    ] = None,
    workspace: Workspace = Path(),
    channel: ChannelOfRun = None,
    skip_bad: SkipBad = False,
    cache: Cache = None,
    as_json: AsJson = False,
) -> None:
    """Add INT8 and fp16 to a bundle, measured on normal clips, and set its threshold.

    A variant that drifts too far from fp32 is not put into the bundle: exit code 1. The bundle is changed in
    place, at the very end and at once; Ctrl-C leaves it as it was. Writes an HTML report.

    Example: edgeasd calibrate --machine valve --id 00 --clips normal-clips/
    """
    _require_onnx()
    from edgeasd.toolkit.calibrate.request import Request, find_bundle_folder, parse_precisions
    from edgeasd.toolkit.calibrate.session import calibrate_bundle, forget_state
    from edgeasd.toolkit.calibrate.thresholds import ThresholdRequest

    given = {
        "rank_correlation": min_rank_correlation,
        "largest_change": max_score_change,
        "flipped_share": max_flipped,
        "auc_loss": max_auc_loss,
        "partial_auc_loss": max_pauc_loss,
    }
    request = Request(
        clips=clips,
        anomalies=anomalies,
        precisions=parse_precisions(precision),
        threshold=ThresholdRequest(alarms_per_day, false_positive_rate, keep_threshold),
        refit_distance=refit_distance,
        refit_amplitude=refit_amplitude,
        segments=segments,
        methods=tuple(range_methods.split(",")),
        budget=budget,
        limits={name: value for name, value in given.items() if value is not None},
        channel=channel,
        force=force,
        skip_bad=skip_bad,
    )
    request.check()
    folder = find_bundle_folder(bundle, workspace, machine, id)
    target = report if report is not None else report_path(folder)
    if target.is_dir():
        raise InputError(f"--report {target}: is a folder; name a file in it, like {target / 'calibration.html'}")
    if not resume:
        forget_state(folder, workspace)
    with resumable(folder) as work:
        found = calibrate_bundle(folder, request, cache_folder(cache, workspace), workspace, work)
    write_report(found, target)
    _tell(found, target, as_json)
    refuse_failed(found)


def _require_onnx() -> None:
    """Calibration writes graphs; a core install cannot, and a device need not."""
    try:
        import onnx  # noqa: F401
    except ModuleNotFoundError:
        raise DeviceError(
            "edgeasd calibrate needs onnx, which is not installed here; calibrate on the workstation, or "
            "pip install 'edgeasd[export]'"
        ) from None


def _tell(found: Calibration, target: Path, as_json: bool) -> None:
    from edgeasd.toolkit.calibrate.record import summary
    from edgeasd.toolkit.cli.calibrate_table import print_calibration

    if as_json:
        print(json.dumps({**summary(found), "report": str(target)}, indent=2, ensure_ascii=False))
    else:
        print_calibration(found, target)
