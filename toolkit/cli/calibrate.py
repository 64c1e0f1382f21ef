"""edgeasd calibrate, and what `edgeasd export` shares with it: report, resume hint and verdict."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeasd.runtime.errors import CheckFailed, DeviceError, InputError
from edgeasd.toolkit.cli._errors import interruptible, print_error
from edgeasd.toolkit.cli._options import (
    AsJson,
    Cache,
    ChannelOfRun,
    Machine,
    SkipBad,
    Workspace,
    cache_folder,
    expand_options,
)

if TYPE_CHECKING:
    from edgeasd.calibration.drift.drift import Drift
    from edgeasd.toolkit.calibrate.record import Calibration
    from edgeasd.toolkit.calibrate.variants import VariantResult
    from edgeasd.toolkit.calibrate.work import Work


@dataclass(frozen=True, kw_only=True)
class ThresholdOptions:
    """How the threshold of alarms is found."""

    alarms_per_day: Annotated[
        float | None, typer.Option(help="New threshold: this many false alarms a day; needs long recordings.")
    ] = None
    false_positive_rate: Annotated[
        float | None, typer.Option(help="New threshold: this share of single normal clips may lie above it.")
    ] = None
    keep_threshold: Annotated[
        bool, typer.Option("--keep-threshold", help="Keep the bundle's threshold, or fail if it has none.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class RangeOptions:
    """How ranges of INT8 are found."""

    segments: Annotated[int, typer.Option(min=8, max=4096, help="Segments that ranges are collected from.")] = 128
    range_methods: Annotated[
        str, typer.Option(help="Ways to find ranges, of which the one with the least drift is taken.")
    ] = "minmax,entropy,percentile"
    budget: Annotated[
        int, typer.Option(min=0, max=1000, help="Layers that may be tried in higher precision, for each variant.")
    ] = 40


@dataclass(frozen=True, kw_only=True)
class DriftLimitOptions:
    """How far a variant may drift from fp32."""

    min_rank_correlation: Annotated[
        float | None,
        typer.Option(help="Limit of drift, for every variant; docs/explanation/precision.md has the defaults."),
    ] = None
    max_score_change: Annotated[
        float | None, typer.Option(help="Limit: of a normal clip, in parts of its way to the threshold.")
    ] = None
    max_flipped: Annotated[float | None, typer.Option(help="Limit: share of normal clips that change sides.")] = None
    max_auc_loss: Annotated[float | None, typer.Option(help="Limit: lower end of the AUC change's interval.")] = None
    max_pauc_loss: Annotated[float | None, typer.Option(help="Limit: the same of the partial AUC.")] = None

    def named(self) -> dict[str, float]:
        """Those that were given, by the names of DriftLimits."""
        limits = {
            "rank_correlation": self.min_rank_correlation,
            "largest_change": self.max_score_change,
            "flipped_share": self.max_flipped,
            "auc_loss": self.max_auc_loss,
            "partial_auc_loss": self.max_pauc_loss,
        }
        return {name: value for name, value in limits.items() if value is not None}


@expand_options
def calibrate(
    machine: Machine,
    clips: Annotated[
        Path, typer.Option(help="Folder of normal clips of this machine, at any depth, that it was not trained on.")
    ],
    threshold: ThresholdOptions,
    ranges: RangeOptions,
    limits: DriftLimitOptions,
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
    refit_distance: Annotated[
        bool, typer.Option("--refit-distance", help="Fit d_min, and d_max with 8 anomalies or more, on these clips.")
    ] = False,
    refit_amplitude: Annotated[
        bool, typer.Option("--refit-amplitude", help="Fit the input level on these clips, and d_min with it.")
    ] = False,
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
    _require_packages()
    from edgeasd.toolkit.calibrate.request import Request, ThresholdRequest, find_bundle_folder, parse_precisions
    from edgeasd.toolkit.calibrate.session import calibrate_bundle, forget_state

    request = Request(
        clips=clips,
        anomalies=anomalies,
        precisions=parse_precisions(precision),
        threshold=ThresholdRequest(threshold.alarms_per_day, threshold.false_positive_rate, threshold.keep_threshold),
        refit_distance=refit_distance,
        refit_amplitude=refit_amplitude,
        segments=ranges.segments,
        methods=tuple(ranges.range_methods.split(",")),
        budget=ranges.budget,
        limits=limits.named(),
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
    _print_result(found, target, as_json)
    refuse_failed(found)


def _require_packages() -> None:
    """Refuse, before hours of work, an environment that cannot write graphs or the report."""
    try:
        import onnx  # noqa: F401
    except ModuleNotFoundError:
        raise DeviceError(
            "edgeasd calibrate needs onnx, which is not installed here; calibrate on the workstation, or "
            "pip install 'edgeasd[export]'"
        ) from None
    from edgeasd.toolkit.reports import check_packages

    check_packages()


def _print_result(found: Calibration, target: Path, as_json: bool) -> None:
    from edgeasd.toolkit.calibrate.record import summary

    if as_json:
        print(json.dumps({**summary(found), "report": str(target)}, indent=2, ensure_ascii=False))
    else:
        print_calibration(found, target)


def print_calibration(found: Calibration, report: Path) -> None:
    """The bundle, a line or two for each variant, the constants and the threshold, the report."""
    machine = found.manifest.machine
    print(f"{found.bundle}: {machine.type} ID {machine.id}, {_clips(found)}")
    for one in found.variants:
        print_variant(one)
    score, request = found.score, found.request
    if request.refit_distance or request.refit_amplitude:
        print(f"  d_min {score.d_min:.4g} ({score.d_min_source}); d_max {score.d_max:.4g} ({score.d_max_source})")
    if request.refit_amplitude:
        print(f"  amplitude: std {found.normals.amplitude.std:.4g} ({len(found.normals.clips)} given clips)")
    _print_threshold(found)
    if found.level is not None:
        print(f"  level: {found.level.low_dbfs:g} to {found.level.high_dbfs:g} dBFS expected ({found.level.found_by})")
    from edgeasd.runtime.states.settings import OFF_MARGIN_DB

    if found.sound is not None:
        low, high = found.sound.level_dbfs
        print(f"  sound: {low:g} to {high:g} dBFS; off {OFF_MARGIN_DB:g} dB below that, unless set otherwise")
    for name, mode in found.modes.items():
        assert mode.threshold is not None
        low, high = mode.sound.level_dbfs
        print(f"  mode {name}: {mode.sound.clips} clips, {low:g} to {high:g} dBFS, threshold {mode.threshold.clip:.4f}")
    if not found.written:
        print("  nothing to change: the bundle is as it was")
    print(f"  report: {report}")


def _clips(found: Calibration) -> str:
    parts = [f"{len(found.normals.clips)} normal clips"]
    if found.split is not None:
        parts[0] += f" ({len(found.split.ranges)} for ranges, {len(found.split.drift)} for drift)"
    if found.anomalies is not None:
        parts.append(f"{len(found.anomalies.clips)} anomalies")
    return ", ".join(parts)


def print_variant(one: VariantResult) -> None:
    """What became of one precision: verdict, cost, drift, reverted layers, reasons."""
    gate, cost = one.gate, one.cost
    name = one.name if gate.method is None else f"{one.name} ({gate.method} ranges)"
    verdict = "in the bundle" if one.passed else "NOT in the bundle"
    print(f"  {name:<26} {verdict}, {one.size / 1e6:.2f} MB, {cost.seconds:.0f} s, peak {cost.peak_bytes / 1e6:.0f} MB")
    if gate.drift is not None:
        print(f"    {', '.join(_figures(gate.drift))}")
    for layer in gate.fp16_layers:
        print(f"    in higher precision: {layer.reason}")
    for reason in one.reasons:
        print(f"    {reason}")


def _figures(drift: Drift) -> list[str]:
    figures = [f"rank correlation {drift.rank_clips:.5f}", f"largest score change {drift.largest:.2g}"]
    if drift.flipped_normals is not None:
        figures.append(f"{drift.flipped_normals} of {drift.normals} normal clips change sides")
    if drift.auc is not None:
        figures.append(f"AUC {100 * drift.auc.reference:.1f} % → {100 * drift.auc.variant:.1f} %")
    return figures


def _print_threshold(found: Calibration) -> None:
    from edgeasd.toolkit.calibrate.thresholds import KEPT

    threshold = found.threshold.threshold
    kept = "kept: " if found.threshold.method == KEPT else ""
    print(
        f"  threshold {threshold.clip:.4f}{threshold.describe_interval()}, "
        f"{kept}{threshold.found_by}, {threshold.clips} clips"
    )
    if threshold.promise is not None:
        print(f"    {threshold.promise.describe()}")
    print(f"    {found.threshold.above} of the {found.threshold.clips} given normal clips lie above it")


@contextmanager
def resumable(folder: Path, how: str = "with the same command and --resume") -> Iterator[Work]:
    """After Ctrl-C one line says how to go on, with exit code 130."""
    from edgeasd.toolkit.calibrate.work import Work

    stopped = f"calibration stopped; {folder} is as it was, and the work so far is kept: go on {how}"
    with interruptible(stopped) as check:
        yield Work(print_error, check)


def report_path(folder: Path) -> Path:
    """The default place of a calibration's report: beside the bundle."""
    whole = folder.resolve()
    return whole.with_name(f"{whole.name}.calibration.html")


def write_report(found: Calibration, target: Path) -> None:
    """The HTML report, whole or not at all; and the warnings on standard error."""
    from edgeasd.runtime.system.files import write_bytes
    from edgeasd.toolkit.reports.calibration import calibration_report

    write_bytes(target, calibration_report(found))
    for warning in found.warnings:
        print_error(f"warning: {warning}")


def refuse_failed(*calibrations: Calibration) -> None:
    """Raise CheckFailed if a variant was not put into its bundle."""
    failures = [
        f"{found.bundle.name}: not put into the bundle, since beyond the limits of drift: "
        + "; ".join(f"{one.name}: {', '.join(one.reasons)}" for one in found.failed)
        for found in calibrations
        if found.failed
    ]
    if failures:
        raise CheckFailed(
            f"{'; '.join(failures)}; give other clips or a larger --budget to `edgeasd calibrate`, or allow more "
            "(see the report)"
        )
