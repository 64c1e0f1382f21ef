"""edgeasd alarm."""

from __future__ import annotations

import getpass
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeasd.runtime.errors import CheckFailed, InputError
from edgeasd.toolkit.cli._errors import BAD_INPUT, handle_errors, print_error
from edgeasd.toolkit.cli._options import AsJson

if TYPE_CHECKING:
    from edgeasd.runtime.service.commands import CommandResult

app = typer.Typer(help="Test, acknowledge and silence alarms.", no_args_is_help=True, rich_markup_mode=None)

Config = Annotated[
    Path | None,
    typer.Option(
        help="The site.toml of the service; ./site.toml or /etc/edgeasd/site.toml by default.", envvar="EDGEASD_SITE"
    ),
]
StreamName = Annotated[str | None, typer.Option(help="Name of the stream in the site file; all by default.")]
By = Annotated[
    str | None, typer.Option(help="Who gives the command; by default the user who types it, also behind sudo.")
]
Note = Annotated[str | None, typer.Option(help="Why; repeated in the message.")]
EventID = Annotated[str | None, typer.Option(help="Only this event, whatever its stream.")]

_WHY_NOTHING = {
    "acknowledge": ": no such event waits for it",
    "clear": ": no such event is open",
}
"""Why a command changed nothing."""


@app.command("test")
@handle_errors
def send_test(
    config: Config = None, stream: StreamName = None, by: By = None, note: Note = None, as_json: AsJson = False
) -> None:
    """Send a test alarm and its end through every output.

    It is marked as a test and has its own event ID. The state of the machine stays, and an open event is sent once
    more afterwards. At the end, each output says whether it has delivered; exit code 1 if one has not within 5 s.

    Example: edgeasd alarm test --config site.toml
    """
    _command(config, stream, {"command": "test"}, by, note, as_json)


@app.command("ack")
@handle_errors
def ack(
    config: Config = None,
    stream: StreamName = None,
    event: EventID = None,
    by: By = None,
    note: Note = None,
    as_json: AsJson = False,
) -> None:
    """Acknowledge the open alarm.

    Example: edgeasd alarm ack --config site.toml --stream pump
    """
    _command(config, stream, {"command": "acknowledge", "event": event}, by, note, as_json)


@app.command("clear")
@handle_errors
def clear(
    config: Config = None,
    stream: StreamName = None,
    event: EventID = None,
    by: By = None,
    note: Note = None,
    as_json: AsJson = False,
) -> None:
    """Clear the open event by hand.

    Example: edgeasd alarm clear --config site.toml --stream pump
    """
    _command(config, stream, {"command": "clear", "event": event}, by, note, as_json)


@app.command("snooze")
@handle_errors
def snooze(
    config: Config = None,
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
    config: Config = None,
    stream: StreamName = None,
    by: By = None,
    note: Note = None,
    as_json: AsJson = False,
) -> None:
    """Maintenance mode: the open event is cleared, and scores are ignored until it is off.

    Example: edgeasd alarm maintenance on --config site.toml --stream pump
    """
    if state not in ("on", "off"):
        raise InputError(f"maintenance {state}: use on or off")
    _command(config, stream, {"command": f"maintenance_{state}"}, by, note, as_json)


@app.command("state")
@handle_errors
def set_state(
    state: Annotated[str, typer.Argument(help="off, idle, running, or a mode of the bundle.")],
    config: Config,
    stream: StreamName = None,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Tell what the machine is doing, as a tag of the plant would; it holds until the next one.

    While it is off or idle no alarm is raised. Needs a running service.

    Example: edgeasd alarm state off --config site.toml --stream pump
    """
    _command(config, stream, {"command": "set_state", "state": state}, by, None, as_json)


def _command(
    config: Path | None, stream: str | None, value: dict[str, Any], by: str | None, note: str | None, as_json: bool
) -> None:
    from edgeasd.runtime.alarms import parse_command
    from edgeasd.runtime.config import read_config
    from edgeasd.runtime.service.commands import send_command

    settings = read_config(config)
    if stream is not None and stream not in settings.streams:
        raise InputError(f"--stream {stream}: {settings.path} has {', '.join(settings.streams)}; name one of them")
    fields = {key: item for key, item in {**value, "by": by or user_name(), "note": note}.items() if item is not None}
    command = parse_command(fields, "command")
    names = [stream] if stream is not None else list(settings.streams)
    result = send_command(settings, names, command)
    if stream is None and command.event is not None and any(result.transitions.values()):
        # An event belongs to one stream: what the others answer is of no interest.
        result.transitions = {name: changes for name, changes in result.transitions.items() if changes}
        result.rejected = {}
    if as_json:
        print(json.dumps(_json(result), indent=2), flush=True)
    else:
        _print(result.transitions)
    _print_notes(result, command.command)
    if not result.by_service:
        print_error(f"no service runs on {settings.data}; stored, and sent through the outputs, by this command")
    if result.rejected:
        raise typer.Exit(BAD_INPUT)
    if any(one.delivered is False for one in result.deliveries):
        raise typer.Exit(CheckFailed.exit_code)


def _json(result: CommandResult) -> dict[str, Any]:
    outputs = [
        {"output": one.output, "delivered": one.delivered, "waiting": one.waiting, "said": one.text}
        for one in result.deliveries
    ]
    streams = {"streams": result.transitions, "refused": result.rejected}
    return {"service": result.by_service, **streams, "outputs": outputs}


def _print(transitions: dict[str, list[dict[str, Any]]]) -> None:
    for name, bodies in transitions.items():
        for body in bodies:
            event = f", event {body['event']}" if body["event"] else ""
            print(f"{name}: {body['previous']} -> {body['state']}, {body['reason']}{event}", flush=True)


def _print_notes(result: CommandResult, command: str) -> None:
    """On standard error, what people should know and programs read in the JSON."""
    unchanged = [name for name, bodies in result.transitions.items() if not bodies]
    if unchanged and command == "set_state":
        print_error(f"{', '.join(unchanged)}: the state is taken; `edgeasd status` shows it")
    elif unchanged:
        print_error(f"{', '.join(unchanged)}: nothing to do for {command}{_WHY_NOTHING.get(command, '')}")
    for line in result.rejected.values():
        print_error(line)
    for one in result.deliveries:
        print_error(f"output {one.output}: {one.text}")
    if command == "test" and any(result.transitions.values()) and not result.deliveries:
        print_error("no output is configured: nobody was told")


def user_name() -> str | None:
    """Who types this; behind sudo that is not the account it runs under."""
    try:
        return (os.environ.get("SUDO_USER") or getpass.getuser())[:64]
    except (KeyError, OSError):
        return None
