"""The page of an acceptance test: verdict, false alarms, faults, and a place to sign."""

from __future__ import annotations

from typing import Any

from edgeasd.toolkit.acceptance.accept import Acceptance, ModeResult
from edgeasd.toolkit.acceptance.rate import CALL_OUT_SECONDS
from edgeasd.toolkit.reports import DASH, Figure, Table, render
from edgeasd.toolkit.reports.plots import Plot


def acceptance_report(found: Acceptance) -> bytes:
    """One HTML page, in UTF-8."""
    verdict = "no limits were given"
    if found.checks:
        verdict = "accepted" if found.passed else "not accepted"
    return render(
        "acceptance.html",
        title=f"{found.machine} ID {found.id}: acceptance test",
        verdict=verdict,
        passed=found.passed,
        facts=[
            ("bundle", found.bundle),
            ("manifest, sha256", found.manifest_sha256),
            ("threshold", f"{found.threshold.clip:.6g}, {found.threshold.found_by}"),
            ("recordings", ", ".join(str(path) for path in found.request.normal)),
            ("recorded faults", str(found.request.faults or DASH)),
            ("tested", found.created),
        ],
        checks=[(check.passed, check.name, check.text) for check in found.checks],
        modes=[_mode(one, found) for one in found.modes],
        call_out_minutes=f"{CALL_OUT_SECONDS / 60:g}",
    )


def _mode(one: ModeResult, found: Acceptance) -> dict[str, Any]:
    seen = one.false_alarms
    low, high = seen.interval95
    middle, nine, almost, largest = one.levels
    alarms = Table(
        "False alarms",
        ["hours", "alarms", "call-outs", "a month", "95 % interval", "at most, 95 %"],
        [
            [
                f"{seen.hours:.3g}",
                seen.alarms,
                seen.call_outs,
                f"{seen.per_month:.3g}",
                f"{low:.3g} to {high:.3g}",
                f"{seen.at_most:.3g}",
            ]
        ],
    )
    scores = Table(
        "Clip scores of the recordings",
        ["threshold", "median", "90 %", "99 %", "largest"],
        [[f"{value:.4g}" for value in (one.threshold, middle, nine, almost, largest)]],
    )
    return {
        "name": one.mode,
        "tables": [alarms, scores, _faults_table(one, found)],
        "plots": [_plot(one, found)] if one.faults else [],
    }


def _faults_table(one: ModeResult, found: Acceptance) -> Table:
    levels = sorted({level.db for fault in one.faults for level in fault.levels}, reverse=True)
    rows: list[list[object]] = []
    for fault in one.faults:
        faintest = fault.faintest(found.delay_seconds)
        cells: list[object] = [
            f"{fault.kind} (recorded)" if fault.is_given else fault.kind,
            DASH if faintest is None else f"{faintest:g} dB",
        ]
        for db in levels:
            level = fault.at(db)
            if level is None or not level.tried:
                cells.append(DASH)
                continue
            delay = f", {sorted(level.delays)[len(level.delays) // 2]:.1f} s" if level.delays else ""
            cells.append(f"{level.found_within(found.delay_seconds)}/{level.tried}{delay}")
        rows.append(cells)
    caption = f"Faults found within {found.delay_seconds:g} s, and the median delay, at each level"
    return Table(caption, ["fault", "faintest", *(f"{db:g} dB" for db in levels)], rows)


def _plot(one: ModeResult, found: Acceptance) -> Figure:
    dbs = [level.db for fault in one.faults for level in fault.levels]
    plot = Plot(
        "Faults found by level",
        "Share of faults found at each level relative to the machine's sound; one line for each kind.",
        "level of the fault, dB",
        "share found",
        (min(dbs), max(dbs)),
        (0.0, 1.02),
    )
    for fault in one.faults:
        points = [
            (level.db, level.found_within(found.delay_seconds) / level.tried) for level in fault.levels if level.tried
        ]
        if points:
            plot.line([db for db, _ in points], [share for _, share in points], "accent")
    return Figure(plot.svg(), "Each line is one kind of fault. Half found is what is called the faintest fault.")
