"""edgeasd history."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeasd.runtime.errors import InputError, printable
from edgeasd.toolkit.cli._errors import handle_errors
from edgeasd.toolkit.cli._options import AsJson
from edgeasd.toolkit.cli.events import Data, data_folder

if TYPE_CHECKING:
    from edgeasd.runtime.trend.history import History


@handle_errors
def history(
    data: Data = None,
    machine: Annotated[
        str | None, typer.Option("--machine", help="Machine type; may be left out if there is one.")
    ] = None,
    id: Annotated[str | None, typer.Option("--id", help="Machine ID; may be left out if there is one.")] = None,
    since: Annotated[
        str,
        typer.Option("--since", metavar="TIME", help="Beginning: 2027-01-31, 2027-01-31T08:00 (UTC), or 24h, 7d ago."),
    ] = "24h",
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="End, as --since; now by default.")
    ] = None,
    every: Annotated[
        str | None,
        typer.Option("--every", metavar="WIDTH", help="score, minute, hour or day; what fits the span by default."),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write the rows as CSV; - is standard output.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw scores, events, level and states: .svg or .png.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what is stored of a machine: scores, levels, operating states, alarms, and changes of its normal.

    Reads only, and a running service does not notice. Minutes are kept for 3 months, hours for 3 years.

    Example: edgeasd history --data data --since 7d --plot week.svg
    """
    import time

    from edgeasd.runtime.trend.history import csv_text, read_history
    from edgeasd.toolkit.cli._options import parse_time

    now = time.time()
    start, end = parse_time(since, "--since", now), now if until is None else parse_time(until, "--until", now)
    folder = data_folder(data)
    with _store(folder) as store:
        found = read_history(store, *_machine(store.machines(), machine, id, folder), start, end, every)
    if plot is not None:
        from edgeasd.runtime.system.files import write_bytes
        from edgeasd.runtime.trend.picture import draw_history

        write_bytes(plot, draw_history(found, plot.suffix.removeprefix(".").lower()))
    if csv is not None:
        text = csv_text(found)
        if str(csv) == "-":
            print(text, end="")
        else:
            from edgeasd.runtime.system.files import write_bytes

            write_bytes(csv, text.encode())
    if as_json:
        print(json.dumps(_as_json(found), indent=2))
    elif csv is None:
        _print(found)
        if plot is not None:
            print(f"drawn into {plot}")


def _store(data: Path) -> Any:
    from edgeasd.runtime.evidence.lookup import DATABASE
    from edgeasd.runtime.storage import EventStore

    try:
        return EventStore.open(data / DATABASE, read_only=True)
    except PermissionError:
        raise InputError(f"{data}: Permission denied; run this as the user of the service") from None


def _machine(known: list[tuple[str, str]], machine: str | None, id: str | None, data: Path) -> tuple[str, str]:
    """The one machine that the options name."""
    fitting = [one for one in known if machine in (None, one[0]) and id in (None, one[1])]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(printable(f"{a} {b}") for a, b in known) or "none"
    if fitting:
        raise InputError(f"{data}: holds several machines ({names}); name one with --machine and --id")
    asked = printable(" ".join(one for one in (machine, id) if one is not None)) or "a machine"
    raise InputError(f"{data}: nothing is stored of {asked}; stored are: {names}")


def _print(found: History) -> None:
    from edgeasd.runtime.trend.history import change_text, local_text
    from edgeasd.toolkit.cli._output import print_table

    print(f"{printable(found.machine)} {printable(found.id)}, {local_text(found.since)} to {local_text(found.until)}")
    cut = {"day": 10, "hour": 16, "minute": 16, "score": 19}[found.every]
    rows = [
        (
            local_text(row.at)[:cut],
            *(_number(value, ".3f") for value in (row.mean, row.low, row.high)),
            _number(row.level, ".1f"),
            printable(row.state or "-"),
            _alarms(found, row.at, cut),
        )
        for row in found.rows
    ]
    headings = (found.every.upper(), "SCORE", "LOWEST", "HIGHEST", "dBFS", "STATE", "ALARMS")
    if rows:
        print_table(headings, rows, right=("SCORE", "LOWEST", "HIGHEST", "dBFS", "ALARMS"), indent=0)
    else:
        print("nothing is stored of this time")
    if found.state_seconds:
        hours = ", ".join(f"{printable(name)} {seconds / 3600:.1f} h" for name, seconds in found.state_seconds.items())
        print(f"states: {hours}")
    for mode, change in found.changes:
        print(f"change: {printable(change_text(mode, change))}")


def _alarms(found: History, at: float, cut: int) -> str:
    """How many events began in a row."""
    from edgeasd.runtime.trend.history import local_text

    begins = [local_text(event["raised_at"]) for event in found.events]
    row = local_text(at)
    length = {"day": 10, "hour": 13}.get(found.every, cut)
    count = sum(text[:length] == row[:length] for text in begins)
    return str(count) if count else "-"


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


def _as_json(found: History) -> dict[str, Any]:
    from dataclasses import asdict

    from edgeasd.runtime.evidence.lookup import as_json as with_times
    from edgeasd.runtime.system.clocks import utc_text
    from edgeasd.runtime.trend.history import change_text

    def finite(value: Any) -> Any:
        return None if isinstance(value, float) and math.isnan(value) else value

    changes = [{"mode": mode, **asdict(one), "text": change_text(mode, one)} for mode, one in found.changes]
    for change in changes:
        change |= {
            name: None if change[name] is None else utc_text(change[name]) for name in ("began", "found", "ended")
        }
    return {
        **{"machine": found.machine, "id": found.id, "since": utc_text(found.since), "until": utc_text(found.until)},
        **{"every": found.every, "threshold": found.threshold, "state_seconds": found.state_seconds},
        "rows": [
            {**{name: finite(value) for name, value in asdict(row).items()}, "at": utc_text(row.at)}
            for row in found.rows
        ],
        "events": [with_times(event) for event in found.events],
        "changes": changes,
    }
