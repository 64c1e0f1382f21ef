"""edgeasd status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeasd.runtime.errors import CheckFailed, DeviceError
from edgeasd.toolkit.cli._options import AsJson

if TYPE_CHECKING:
    from edgeasd.runtime.outputs.base import OutputState

Config = Annotated[
    Path | None,
    typer.Option(
        help="The site.toml of the service; ./site.toml or /etc/edgeasd/site.toml by default.", envvar="EDGEASD_SITE"
    ),
]


def status(config: Config = None, as_json: AsJson = False) -> None:
    """Show how the running service is doing: streams, outputs, and what needs attention.

    Exit code 0 if all is well, 1 if something needs attention, 3 if no service runs.

    Example: edgeasd status --config site.toml
    """
    from edgeasd.runtime.config import read_config
    from edgeasd.runtime.service.control import ask
    from edgeasd.runtime.service.live_view import concerns, print_status
    from edgeasd.runtime.service.status import parse_status

    settings = read_config(config)
    answer = ask(settings.data, {"ask": "status"})
    if answer is None:
        raise DeviceError(f"{settings.data}: no service runs there; start it, or look at its log")
    present = parse_status(answer)
    problems = concerns(present)
    if as_json:
        print(json.dumps({**present.to_json(), "well": not problems, "concerns": problems}, indent=2))
    else:
        print_status(present)
        _print_outputs(present.outputs)
    if problems:
        raise typer.Exit(CheckFailed.exit_code)


def _print_outputs(outputs: list[OutputState]) -> None:
    from edgeasd.runtime.service.live_view import connection, printable
    from edgeasd.toolkit.cli._output import print_table

    if not outputs:
        return
    rows = []
    for one in outputs:
        at = f" at {one.last_error_at}" if one.last_error_at else ""
        error = (one.last_error or "none") + at
        rows.append([printable(text) for text in (one.name, one.type, connection(one), str(one.queued), error)])
    headings = ("output", "type", "connection", "waiting", "last error")
    print_table(headings, rows, right=("waiting",), fold=("last error",), indent=0)
