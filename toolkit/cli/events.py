"""edgeasd events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.cli._errors import handle_errors, print_error
from edgeasd.toolkit.cli._options import AsJson

if TYPE_CHECKING:
    from edgeasd.runtime.evidence.lookup import EventFilter

app = typer.Typer(
    help="Look at alarms and their evidence on the device, beside a running service.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Data = Annotated[
    Path,
    typer.Option("--data", metavar="DIR", readable=False, help="Data folder of the service, with events.db in it."),
]
OfMachine = Annotated[str | None, typer.Option("--machine", help="Only events of this machine type.")]
OfId = Annotated[str | None, typer.Option("--id", help="Only events of this machine ID.")]
Since = Annotated[
    str | None,
    typer.Option("--since", metavar="TIME", help="Raised then or later: 2027-01-31, 2027-01-31T08:00 (UTC), or 24h, 7d ago."),
]  # fmt: skip
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Raised before; as --since.")]
State = Annotated[
    str | None, typer.Option("--state", help="open (alarm or acknowledged), alarm, acknowledged or cleared.")
]


def _filter(
    machine: str | None, id: str | None, since: str | None, until: str | None, state: str | None
) -> EventFilter:
    import time

    from edgeasd.runtime.evidence.lookup import EVENT_STATES, EventFilter
    from edgeasd.toolkit.cli._options import parse_time

    if state not in (None, "open", *EVENT_STATES):
        raise InputError(f"--state {state}: unknown; use open, {', '.join(EVENT_STATES)}")
    now = time.time()
    start, end = (
        None if text is None else parse_time(text, name, now) for name, text in (("--since", since), ("--until", until))
    )
    return EventFilter(machine, id, start, end, state)


@app.command("list")
@handle_errors
def list_events(
    data: Data,
    machine: OfMachine = None,
    id: OfId = None,
    since: Since = None,
    until: Until = None,
    state: State = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="At most so many, the newest.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List events, the newest first.

    With --json one object a line. Reads only, and a running service does not notice.

    Example: edgeasd events list --data data --state open
    """
    from edgeasd.runtime.evidence.lookup import EventReader
    from edgeasd.runtime.evidence.lookup import as_json as with_times
    from edgeasd.toolkit.cli.events_table import print_events

    with EventReader(data) as reader:
        found = reader.events(_filter(machine, id, since, until, state), limit + 1)
        shown = [(event, reader.evidence(event["event"])) for event in found[:limit]]
    if as_json:
        for event, evidence in shown:
            print(json.dumps({**with_times(event), "evidence": sorted(evidence.files)}))
    else:
        print_events(shown)
    if len(found) > limit:
        print_error(f"there are more than these {limit}; see more with --limit, or fewer with --since")


@app.command("show")
@handle_errors
def show(
    event: Annotated[str, typer.Argument(metavar="EVENT", help="Event ID, as list and every message show it.")],
    data: Data,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw its spectrogram and scores into this PNG file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show one event: times, messages, and where its clip and scores are.

    Example: edgeasd events show 01KEZZCJ5C00000000000000ZZ --data data --picture event.png
    """
    from edgeasd.runtime.evidence.lookup import EventReader
    from edgeasd.toolkit.cli.events_export import record_of
    from edgeasd.toolkit.cli.events_table import print_event

    with EventReader(data) as reader:
        found = reader.event(event)
        messages, evidence = reader.transitions(event), reader.evidence(event)
    if as_json:
        files = {name: str(path) for name, path in evidence.files.items()}
        print(json.dumps({**record_of(found, evidence), "files": files, "transitions": messages}, indent=2))
    else:
        print_event(found, messages, evidence)
    if picture is not None:
        from edgeasd.runtime.evidence.spectrogram import draw_clip
        from edgeasd.runtime.system.files import write_bytes

        write_bytes(picture, draw_clip(data / "evidence" / event))


@app.command("export")
@handle_errors
def export(
    data: Data,
    output: Annotated[Path, typer.Option(metavar="PATH", help="A new folder, or a file that ends in .zip.")],
    events: Annotated[
        list[str] | None, typer.Argument(metavar="EVENT", help="Event IDs; by the filters below without any.")
    ] = None,
    machine: OfMachine = None,
    id: OfId = None,
    since: Since = None,
    until: Until = None,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Copy events with clip, scores, picture and messages into a folder or a zip.

    One folder for each event, named by its ID. The output is made whole or not at all, and replaces nothing.

    Example: edgeasd events export --data data --since 7d --output week.zip
    """
    from edgeasd.runtime.evidence.lookup import EventReader
    from edgeasd.toolkit.cli.events_export import export_events
    from edgeasd.toolkit.progress import progress

    filters = (machine, id, since, until, state)
    if events and any(value is not None for value in filters):
        raise InputError("events are named, and filters are given too; use one or the other")
    if not events and not any(value is not None for value in filters):
        raise InputError("no event is named and no filter given; name event IDs, or say --since, --machine, --state")
    with EventReader(data) as reader:
        found = [reader.event(event) for event in dict.fromkeys(events)] if events else reader.events(_filter(*filters))
        if not found:
            raise InputError(f"{data}: no event fits; `edgeasd events list` shows what is there")
        with progress("exporting events") as report:
            written = export_events(reader, found, output, report)
    if as_json:
        print(json.dumps({"output": str(output), "events": written}, indent=2))
        return
    _print_written(output, written)


def _print_written(output: Path, written: list[dict[str, Any]]) -> None:
    clips = sum("clip.flac" in one["files"] for one in written)
    print(f"{output}: {len(written)} events, {clips} with a clip")
    for problem in dict.fromkeys(one["problem"] for one in written if one["problem"]):
        print_error(problem)
