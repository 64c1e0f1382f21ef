"""edgeasd alarm."""

from __future__ import annotations

import getpass
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeasd.runtime.errors import CheckFailed, InputError
from edgeasd.toolkit.cli._errors import BAD_INPUT, handle_errors, print_error
from edgeasd.toolkit.cli._options import AsJson

if TYPE_CHECKING:
    from edgeasd.runtime.service.direct import Commanded

app = typer.Typer(help="Test, acknowledge and silence alarms.", no_args_is_help=True, rich_markup_mode=None)

Config = Annotated[Path, typer.Option(help="The site.toml of the service.", envvar="EDGEASD_SITE")]
StreamName = Annotated[str | None, typer.Option(help="Stream as it is called in the site file; all by default.")]
By = Annotated[str | None, typer.Option(help="Who says so; by default the user who types it, also behind sudo.")]
Note = Annotated[str | None, typer.Option(help="Why; is repeated in the message.")]
EventID = Annotated[str | None, typer.Option(help="Only this event, on whichever stream it is open.")]

_WHY_NOTHING = {
    "acknowledge": ": no such event waits for it",
    "clear": ": no such event is open",
}
"""What it means that a command changed nothing, where that is not plain."""


@app.command("test")
@handle_errors
def send_test(
    config: Config, stream: StreamName = None, by: By = None, note: Note = None, as_json: AsJson = False
) -> None:
    """Send a test alarm and its end through every output.

    Marked as a test, under an event ID of its own; the state of the machine stays, and so does an event that is
    open, which is said once more afterwards. At the end stands for each output whether it has delivered; exit code
    1 where one has not within 5 s.

    Example: edgeasd alarm test --config site.toml
    """
    _command(config, stream, {"command": "test"}, by, note, as_json)


@app.command("ack")
@handle_errors
def ack(
    config: Config,
    stream: StreamName = None,
    event: EventID = None,
    by: By = None,
    note: Note = None,
    as_json: AsJson = False,
) -> None:
    """Acknowledge the open alarm: somebody has seen it.

    Example: edgeasd alarm ack --config site.toml --stream pump
    """
    _command(config, stream, {"command": "acknowledge", "event": event}, by, note, as_json)


@app.command("clear")
@handle_errors
def clear(
    config: Config,
    stream: StreamName = None,
    event: EventID = None,
    by: By = None,
    note: Note = None,
    as_json: AsJson = False,
) -> None:
    """End the open event by hand.

    Example: edgeasd alarm clear --config site.toml --stream pump
    """
    _command(config, stream, {"command": "clear", "event": event}, by, note, as_json)


@app.command("snooze")
@handle_errors
def snooze(
    config: Config,
    stream: StreamName = None,
    minutes: Annotated[float | None, typer.Option(min=0.02, max=43_200.0, help="How long.")] = None,
    over: Annotated[bool, typer.Option("--over", help="End it now.")] = False,
    by: By = None,
    note: Note = None,
    as_json: AsJson = False,
) -> None:
    """Raise no alarm for a while.

    Example: edgeasd alarm snooze --config site.toml --stream pump --minutes 30
    """
    if over == (minutes is not None):
        raise InputError("snooze: needs either --minutes or --over; give one")
    value = {"command": "end_snooze"} if minutes is None else {"command": "snooze", "seconds": 60.0 * minutes}
    _command(config, stream, value, by, note, as_json)


@app.command("maintenance")
@handle_errors
def maintenance(
    state: Annotated[str, typer.Argument(help="on or off.")],
    config: Config,
    stream: StreamName = None,
    by: By = None,
    note: Note = None,
    as_json: AsJson = False,
) -> None:
    """Maintenance mode: an open event ends, and scores are ignored until it is off.

    Example: edgeasd alarm maintenance on --config site.toml --stream pump
    """
    if state not in ("on", "off"):
        raise InputError(f"maintenance {state}: use on or off")
    _command(config, stream, {"command": f"maintenance_{state}"}, by, note, as_json)


def _command(
    config: Path, stream: str | None, value: dict[str, Any], by: str | None, note: str | None, as_json: bool
) -> None:
    from edgeasd.runtime.alarms import parse_command
    from edgeasd.runtime.config import read_config
    from edgeasd.runtime.service.direct import command_streams

    site = read_config(config)
    if stream is not None and stream not in site.streams:
        raise InputError(f"--stream {stream}: {config} has {', '.join(site.streams)}; name one of them")
    given = {key: item for key, item in {**value, "by": by or _user(), "note": note}.items() if item is not None}
    command = parse_command(given, "command")
    names = [stream] if stream is not None else list(site.streams)
    done = command_streams(site, names, command, print_error)
    if stream is None and command.event is not None and any(done.found.values()):
        # An event belongs to one stream: the others have nothing to do with it.
        done.found, done.refused = {name: said for name, said in done.found.items() if said}, {}
    if as_json:
        outputs = [asdict(one) for one in done.deliveries]
        answer = {"service": done.by_service, "streams": done.found, "refused": done.refused, "outputs": outputs}
        print(json.dumps(answer, indent=2), flush=True)
    else:
        _print(done.found)
    _complain(done, command.command)
    if not done.by_service:
        print_error(f"no service runs on {site.data}; written to the event store, and said through the outputs")
    if done.refused:
        raise typer.Exit(BAD_INPUT)
    if any(one.delivered is False for one in done.deliveries):
        raise typer.Exit(CheckFailed.exit_code)


def _print(found: dict[str, list[dict[str, Any]]]) -> None:
    for name, messages in found.items():
        for message in messages:
            event = f", event {message['event']}" if message["event"] else ""
            print(f"{name}: {message['previous']} -> {message['state']}, {message['reason']}{event}", flush=True)


def _complain(done: Commanded, command: str) -> None:
    """All that people should know and programs read elsewhere."""
    quiet = [name for name, messages in done.found.items() if not messages]
    if quiet:
        print_error(f"{', '.join(quiet)}: nothing to do for {command}{_WHY_NOTHING.get(command, '')}")
    for line in done.refused.values():
        print_error(line)
    for one in done.deliveries:
        print_error(f"output {one.output}: {one.said}")
    if command == "test" and any(done.found.values()) and not done.deliveries:
        print_error("no output is configured: nobody was told")


def _user() -> str | None:
    """Who types this; behind sudo that is not the account it runs under."""
    try:
        return (os.environ.get("SUDO_USER") or getpass.getuser())[:64]
    except (KeyError, OSError):
        return None
