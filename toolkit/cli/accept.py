"""edgeasd accept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeasd.runtime.errors import CheckFailed, InputError
from edgeasd.toolkit.cli._errors import interruptible, print_error
from edgeasd.toolkit.cli._options import AsJson, Channel, Resample
from edgeasd.toolkit.cli._output import print_table

if TYPE_CHECKING:
    from edgeasd.toolkit.acceptance.accept import Acceptance, FaultResult, ModeResult
    from edgeasd.toolkit.progress import ProgressCallback


def accept(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder or zip.")],
    normal: Annotated[
        list[Path],
        typer.Option(help="Folder of normal recordings of this machine that it was not trained on; may be repeated."),
    ],
    faults: Annotated[
        Path | None, typer.Option(help="Folder of recorded faults, a folder for each kind, to be mixed in too.")
    ] = None,
    fault: Annotated[
        str, typer.Option(help="Synthetic faults to mix in: some of leak,bearing,cavitation,imbalance; or none.")
    ] = "leak,bearing,cavitation,imbalance",
    false_alarms_per_month: Annotated[
        float | None, typer.Option(help="Limit: false alarms a month, promised with 95 % confidence.")
    ] = None,
    delay: Annotated[
        float | None, typer.Option(help="Limit: seconds in which a fault of --fault-level must raise the alarm.")
    ] = None,
    fault_level: Annotated[
        float, typer.Option(help="Level of the faults of --delay against the machine's sound, in dB.")
    ] = -6.0,
    excerpts: Annotated[
        int, typer.Option(min=1, max=100, help="Pieces of the recordings that each fault is mixed into.")
    ] = 5,
    report: Annotated[
        Path | None, typer.Option(help="HTML page to sign; <bundle>.acceptance.html beside the bundle by default.")
    ] = None,
    channel: Channel = None,
    resample: Resample = False,
    as_json: AsJson = False,
) -> None:
    """Test a bundle on normal recordings of the machine, without faults at hand.

    Plays the recordings through the live rule and counts false alarms. Mixes faults into them, fainter and
    fainter, and measures the delay to the alarm. Limits become a verdict: exit code 1 if one is not kept, or
    if the recordings are too short to promise it. Writes an HTML page and beside it a JSON file.

    Example: edgeasd accept bundles/valve-id_00 --normal week-2/ --false-alarms-per-month 30 --delay 30
    """
    from edgeasd.runtime.system.files import write_bytes, write_json
    from edgeasd.toolkit.acceptance.accept import AcceptRequest, Limits, accept_bundle
    from edgeasd.toolkit.progress import progress
    from edgeasd.toolkit.reports import check_packages

    check_packages()
    _check_limits(false_alarms_per_month, delay, fault_level)
    page = report if report is not None else _page_of(bundle)
    if page.is_dir():
        raise InputError(f"--report {page}: is a folder; name a file in it, like {page / 'acceptance.html'}")
    request = AcceptRequest(
        normal=tuple(normal),
        kinds=() if fault == "none" else tuple(dict.fromkeys(fault.split(","))),
        faults=faults,
        limits=Limits(false_alarms_per_month, delay, fault_level),
        excerpts=excerpts,
        channel=channel,
        resample=resample,
    )
    with interruptible("stopped; no report was written") as check:

        @contextmanager
        def part(label: str) -> Iterator[ProgressCallback]:
            with progress(label) as show:
                yield _checked(show, check)

        found = accept_bundle(bundle, request, part)
    from edgeasd.toolkit.reports.acceptance import acceptance_report

    write_bytes(page, acceptance_report(found))
    write_json(page.with_suffix(".json"), found.to_json())
    print(json.dumps(found.to_json(), indent=2, ensure_ascii=False)) if as_json else _print_result(found)
    print_error(f"wrote {page} and {page.with_suffix('.json')}")
    if not found.passed:
        failed = [f"{one.name}: {one.text}" for one in found.checks if not one.passed]
        raise CheckFailed(f"{bundle}: not accepted; {'; '.join(failed)}")


def _checked(show: ProgressCallback, check: Callable[[], None]) -> ProgressCallback:
    def report(done: int, total: int, text: str = "") -> None:
        check()
        show(done, total, text)

    return report


def _check_limits(per_month: float | None, delay: float | None, level: float) -> None:
    if per_month is not None and not 0 < per_month <= 1e6:
        raise InputError(f"--false-alarms-per-month {per_month:g}: not a rate; give a number above 0, such as 1")
    if delay is not None and not 1 <= delay <= 600:
        raise InputError(f"--delay {delay:g}: outside 1 to 600 s; give a time in which somebody would have noticed")
    if not -40 <= level <= 20:
        raise InputError(f"--fault-level {level:g}: outside -40 to 20 dB; give a level relative to the machine's sound")


def _page_of(bundle: Path) -> Path:
    whole = bundle.resolve()
    return whole.with_name(f"{whole.name.removesuffix('.zip')}.acceptance.html")


def _print_result(found: Acceptance) -> None:
    print(f"{found.bundle}: {found.machine} ID {found.id}, threshold {found.threshold.clip:.4f}")
    for mode in found.modes:
        _print_mode(mode, found.delay_seconds)
    for check in found.checks:
        print(f"  {'PASS' if check.passed else 'FAIL'}  {check.name}: {check.text}")
    if not found.checks:
        print("  no limits were given, so nothing is promised; see --false-alarms-per-month and --delay")


def _print_mode(mode: ModeResult, delay: float) -> None:
    seen = mode.false_alarms
    low, high = seen.interval95
    name = f"{mode.mode}: " if mode.mode else ""
    print(
        f"  {name}{seen.call_outs} false alarm{'' if seen.call_outs == 1 else 's'} in {seen.hours:.3g} h of {mode.recordings} recordings: "
        f"{seen.per_month:.3g} a month (95 % from {low:.3g} to {high:.3g})"
    )
    rows = [_fault_row(fault, delay) for fault in mode.faults]
    if rows:
        print_table(("fault", "faintest found", "delay there", "found at each level, dB"), rows, indent=4)


def _fault_row(fault: FaultResult, delay: float) -> list[str]:
    faintest = fault.faintest(delay)
    at = None if faintest is None else fault.at(faintest)
    levels = ", ".join(f"{one.db:g}: {one.found_within(delay)}/{one.tried}" for one in fault.levels)
    if faintest is None or at is None:
        return [fault.kind, "none", "-", levels]
    return [fault.kind, f"{faintest:g} dB", f"{sorted(at.delays)[len(at.delays) // 2]:.1f} s", levels]
