"""edgeasd events."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeasd.runtime.errors import InputError, printable
from edgeasd.toolkit.cli._errors import handle_errors, print_error
from edgeasd.toolkit.cli._options import AsJson

if TYPE_CHECKING:
    from edgeasd.runtime.evidence.lookup import EventFilter, Evidence

app = typer.Typer(
    help="Look at alarms and their evidence on the device, beside a running service.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        readable=False,
        help="Data folder of the service, with events.db in it; that of ./site.toml or /etc/edgeasd/site.toml by default.",
    ),
]


def data_folder(data: Path | None) -> Path:
    """The folder that was given, or that of the usual site file. Raises InputError if there is none."""
    from edgeasd.runtime.config import read_config, usual_config

    if data is not None:
        return data
    try:
        path = usual_config()
    except InputError as error:
        raise InputError(f"{str(error).partition(';')[0]}; name the data folder with --data") from None
    return read_config(path).data


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
    data: Data = None,
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

    with EventReader(data_folder(data)) as reader:
        found = reader.events(_filter(machine, id, since, until, state), limit + 1)
        shown = [(event, reader.evidence(event["event"])) for event in found[:limit]]
    if as_json:
        for event, evidence in shown:
            print(json.dumps({**with_times(event), "evidence": sorted(evidence.files)}))
    else:
        _print_events(shown)
    if len(found) > limit:
        print_error(f"there are more than these {limit}; see more with --limit, or fewer with --since")


@app.command("show")
@handle_errors
def show(
    event: Annotated[str, typer.Argument(metavar="EVENT", help="Event ID, as list and every message show it.")],
    data: Data = None,
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

    with EventReader(data_folder(data)) as reader:
        found = reader.event(event)
        messages, evidence = reader.transitions(event), reader.evidence(event)
    if picture is not None:
        from edgeasd.runtime.evidence.spectrogram import draw_clip
        from edgeasd.runtime.system.files import write_bytes

        write_bytes(picture, draw_clip(data_folder(data) / "evidence" / event))
    if as_json:
        files = {name: str(path) for name, path in evidence.files.items()}
        print(json.dumps({**record_of(found, evidence), "files": files, "transitions": messages}, indent=2))
    else:
        _print_event(found, messages, evidence)


@app.command("export")
@handle_errors
def export(
    output: Annotated[Path, typer.Option(metavar="PATH", help="A new folder, or a file that ends in .zip.")],
    data: Data = None,
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
    with EventReader(data_folder(data)) as reader:
        found = [reader.event(event) for event in dict.fromkeys(events)] if events else reader.events(_filter(*filters))
        if not found:
            raise InputError(f"{data_folder(data)}: no event fits; `edgeasd events list` shows what is there")
        with progress("exporting events") as report:
            written = export_events(reader, found, output, report)
    if as_json:
        print(json.dumps({"output": str(output), "events": written}, indent=2))
        return
    clips = sum("clip.flac" in one["files"] for one in written)
    print(f"{output}: {len(written)} events, {clips} with a clip")


# What people read. Names and notes may come from anywhere: only printable characters are shown.

_ALL_COLUMNS = 100
"""Width of a terminal that shows peak and evidence too; `events show` has them."""
_ENDED = {
    "complete": "complete",
    "longest": "cut at the longest length",
    "stopped": "ended with the service",
    "source": "ended with the source",
    "killed": "broken off by a kill, completed later",
    "no_room": "broken off, the disk was full",
    "recording": "not finished",
}


def _print_events(events: Sequence[tuple[dict[str, Any], Evidence]]) -> None:
    from edgeasd.runtime.system.clocks import local_text
    from edgeasd.toolkit.cli._output import print_table

    if not events:
        print("no events")
        return
    rows = []
    for event, evidence in events:
        name = printable(f"{event['machine']} {event['id']}{' (test)' if event['test'] else ''}")
        raised = local_text(event["raised_at"])
        numbers = (_duration(event), _number(event["peak"]))
        rows.append((event["event"], name, event["state"], raised, *numbers, _clip_text(evidence)))
    headings = ("EVENT", "MACHINE", "STATE", "RAISED", "LASTED", "PEAK", "EVIDENCE")
    is_narrow = sys.stdout.isatty() and shutil.get_terminal_size().columns < _ALL_COLUMNS
    shown = 5 if is_narrow else len(headings)
    print_table(
        headings[:shown],
        [row[:shown] for row in rows],
        right=("LASTED", "PEAK"),
        fold=("MACHINE", "EVIDENCE")[: 1 if is_narrow else 2],
        indent=0,
    )


def _duration(event: dict[str, Any]) -> str:
    """Events of an earlier edgeasd have only the times of a wall clock, which may have been set in between."""
    lasted = event["lasted_seconds"]
    if lasted is None and event["cleared_at"] is not None and event["cleared_at"] >= event["raised_at"]:
        lasted = event["cleared_at"] - event["raised_at"]
    return "-" if lasted is None else f"{lasted:.0f} s"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _clip_text(evidence: Evidence) -> str:
    from edgeasd.runtime.evidence.clip import CLIP

    facts = evidence.metadata
    if facts is not None and facts.deleted_at is not None:
        return f"deleted ({facts.deleted_why})"
    if CLIP in evidence.files:
        return "clip" if facts is None else f"clip {facts.samples / facts.sample_rate:.0f} s"
    return "-"


def _print_event(event: dict[str, Any], messages: Sequence[dict[str, Any]], evidence: Evidence) -> None:
    from edgeasd.runtime.system.clocks import local_text, utc_text

    test = " (a test)" if event["test"] else ""
    print(f"{event['event']}: {printable(event['machine'])} ID {printable(event['id'])}, {event['state']}{test}")
    for name in ("raised", "acknowledged", "cleared"):
        at = event[f"{name}_at"]
        reason = f" ({printable(event['cleared_by'])})" if name == "cleared" and at is not None else ""
        print(f"  {name:<13} {'-' if at is None else f'{local_text(at)}, {utc_text(at)}'}{reason}")
    print(f"  {'lasted':<13} {_duration(event)}")
    print(f"  {'peak':<13} {_number(event['peak'])}, threshold {_number(event['threshold'])}")
    _print_evidence(evidence)
    print("messages")
    for one in messages:
        keys = ("sequence", "at", "previous", "state")
        text = {key: printable("-" if one.get(key) is None else one[key]) for key in keys}
        more = [printable(one[key], 600) for key in ("reason", "score", "by", "note") if one.get(key) is not None]
        print(f"  {text['sequence']:>5}  {text['at']}  {text['previous']} -> {text['state']}: {', '.join(more)}")


def _print_evidence(evidence: Evidence) -> None:
    from edgeasd.runtime.evidence.clip import CLIP, PICTURE, SCORES
    from edgeasd.runtime.system.clocks import utc_text

    facts = evidence.metadata
    if evidence.problem is not None:
        print(f"evidence: {printable(evidence.problem)}")
    elif facts is None:
        print("evidence: none")
    elif facts.deleted_at is not None:
        print(f"evidence: deleted at {utc_text(facts.deleted_at)} ({facts.deleted_why})")
    else:
        length = f"{facts.samples / facts.sample_rate:.1f} s, {facts.raised_seconds:.1f} s of it before the alarm"
        lost = f", {facts.lost_samples} samples lost" if facts.lost_samples else ""
        print(f"evidence: {length}, {facts.sample_rate} Hz, {facts.bits} bits, {_ENDED[facts.ended]}{lost}")
    for name in (CLIP, SCORES, PICTURE):
        if name in evidence.files:
            print(f"  {printable(evidence.files[name], 4096)}")
