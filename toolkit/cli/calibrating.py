"""A calibration as a user meets it: progress, the one line of an interrupt, the report, the verdict."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgeasd.runtime.errors import CheckFailed
from edgeasd.toolkit.cli._errors import INTERRUPTED, interruptible, print_error

if TYPE_CHECKING:
    from edgeasd.toolkit.calibrate.record import Calibration
    from edgeasd.toolkit.calibrate.work import Work


@contextmanager
def resumable(folder: Path, how: str = "with the same command and --resume") -> Iterator[Work]:
    """An interrupt becomes one line that says how to go on, and exit code 130."""
    from edgeasd.toolkit.calibrate.work import Work

    try:
        with interruptible() as check:
            yield Work(lambda text: print_error(text), check)
    except KeyboardInterrupt:
        print_error(f"calibration stopped; {folder} is as it was, and the work so far is kept: go on {how}")
        raise typer.Exit(INTERRUPTED) from None


def report_path(folder: Path) -> Path:
    """Where the report of a bundle's calibration is written by default: beside the bundle."""
    whole = folder.resolve()
    return whole.with_name(f"{whole.name}.calibration.html")


def write_report(found: Calibration, target: Path) -> None:
    """The HTML report, whole or not at all; and the warnings on standard error."""
    from edgeasd.runtime.system.files import write_bytes
    from edgeasd.toolkit.reports.calibration import calibration_report

    write_bytes(target, calibration_report(found).encode())
    for warning in found.warnings:
        print_error(f"warning: {warning}")


def refuse_failed(*calibrations: Calibration) -> None:
    """Raise CheckFailed where a variant was not put into its bundle."""
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
