"""edgeasd threshold."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import typer

from edgeasd.runtime.errors import DeviceError, InputError
from edgeasd.toolkit.cli._errors import handle_errors
from edgeasd.toolkit.cli._options import AsJson
from edgeasd.toolkit.cli.alarm import By, Config, StreamName, user_name

app = typer.Typer(
    help="Show and decide on thresholds that a device has learnt.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("show")
@handle_errors
def show(config: Config = None, stream: StreamName = None, as_json: AsJson = False) -> None:
    """Show where the learning period of each stream stands, and what is proposed.

    Example: edgeasd threshold show --config site.toml
    """
    _decide(config, stream, "show", None, as_json)


@app.command("accept")
@handle_errors
def accept(config: Config = None, stream: StreamName = None, by: By = None, as_json: AsJson = False) -> None:
    """Use the threshold that is proposed. It survives restarts, until the bundle scores otherwise.

    Example: edgeasd threshold accept --config site.toml --stream pump
    """
    _decide(config, stream, "accept", by, as_json)


@app.command("decline")
@handle_errors
def decline(config: Config = None, stream: StreamName = None, by: By = None, as_json: AsJson = False) -> None:
    """Keep the threshold of the bundle, also after a proposal was accepted.

    Example: edgeasd threshold decline --config site.toml --stream pump
    """
    _decide(config, stream, "decline", by, as_json)


@app.command("restart")
@handle_errors
def restart(config: Config = None, stream: StreamName = None, as_json: AsJson = False) -> None:
    """Begin the learning period anew: no alarm is raised until it is over.

    Example: edgeasd threshold restart --config site.toml --stream pump
    """
    _decide(config, stream, "restart", None, as_json)


def _decide(config: Path | None, stream: str | None, decision: str, by: str | None, as_json: bool) -> None:
    from edgeasd.runtime.config import read_config
    from edgeasd.runtime.service.control import ask

    settings = read_config(config)
    if stream is not None and stream not in settings.streams:
        raise InputError(f"--stream {stream}: {settings.path} has {', '.join(settings.streams)}; name one of them")
    if stream is None and decision != "show" and len(settings.streams) > 1:
        raise InputError(
            f"{decision}: {len(settings.streams)} streams have thresholds of their own; name one with --stream"
        )
    answers = []
    for name in [stream] if stream is not None else list(settings.streams):
        request = {"ask": "threshold", "stream": name, "decision": decision, "by": by or user_name()}
        answer = ask(settings.data, request)
        if answer is None:
            raise DeviceError(f"{settings.data}: no service runs there; start it with `edgeasd run --config`")
        answers.append(answer)
    if as_json:
        print(json.dumps(answers, indent=2))
        return
    for answer in answers:
        _print(answer)


def _print(answer: dict[str, Any]) -> None:
    print(f"{answer['stream']}: {answer['line']}")
    proposal = (answer["burn_in"] or {}).get("proposal")
    if proposal is None:
        return
    low, high = proposal["interval95"]
    heard = f"{proposal['minutes'] / 60:.1f} h"
    print(
        f"  {proposal['threshold']:.4f} [{low:.4f}, {high:.4f}]: one alarm in {1 / proposal['per_day']:.3g} days, from {heard}"
    )
    if proposal["left_out"]:
        print(
            f"  {proposal['left_out']} minutes were unlike the rest and were not learnt; with them it would be "
            f"{proposal['threshold_with_all']:.4f}. The highest, to listen to:"
        )
    for spell in proposal["spells"]:
        begun, ended = (datetime.fromtimestamp(spell[name]).astimezone() for name in ("begun", "ended"))
        print(f"    {begun:%Y-%m-%d %H:%M} to {ended:%Y-%m-%d %H:%M %z}, up to {spell['highest']:.4f}")
