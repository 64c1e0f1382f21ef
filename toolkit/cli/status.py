"""edgeasd status."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeasd.runtime.errors import CheckFailed, DeviceError
from edgeasd.toolkit.cli._options import AsJson

if TYPE_CHECKING:
    from edgeasd.runtime.service.row import Cell
    from edgeasd.runtime.service.state import SiteState

Config = Annotated[Path, typer.Option(help="The site.toml of the service.", envvar="EDGEASD_SITE")]


def status(config: Config, as_json: AsJson = False) -> None:
    """How the running service is doing, once: streams, outputs, and what needs somebody.

    Exit code 0 where all is well, 1 where something needs somebody, 3 where no service runs.

    Example: edgeasd status --config site.toml
    """
    from edgeasd.runtime.config import read_config
    from edgeasd.runtime.service import ask
    from edgeasd.runtime.service.state import read_state
    from edgeasd.runtime.service.table import concerns

    site = read_config(config)
    answer = ask(site.data, {"ask": "state"})
    if answer is None:
        raise DeviceError(f"{site.data}: no service runs there; start it, or look at its log")
    state = read_state(answer)
    found = concerns(state)
    if as_json:
        print(json.dumps({**state.to_json(), "well": not found, "concerns": found}, indent=2))
    else:
        _print(state)
    if found:
        raise typer.Exit(CheckFailed.exit_code)


def _print(state: SiteState) -> None:
    """As on the screen of the service, but that nothing is cut off."""
    from edgeasd.runtime.service.row import written
    from edgeasd.runtime.service.table import heading, table

    terminal = sys.stdout.isatty()
    coloured = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    width = shutil.get_terminal_size().columns if terminal else None
    lines = [*heading(state), *table(state.streams, width), *_outputs(state)]
    for line in lines:
        print(written(line, coloured=coloured))


def _outputs(state: SiteState) -> list[list[Cell]]:
    from edgeasd.runtime.service.row import FAINT, columns, printable
    from edgeasd.runtime.service.table import connection

    if not state.outputs:
        return []
    rows: list[list[Cell]] = [[(text, FAINT) for text in ("output", "type", "connection", "waiting", "last error")]]
    for one in state.outputs:
        error = one.last_error or "none"
        at = f" at {one.last_error_at}" if one.last_error_at else ""
        texts = (one.name, one.type, connection(one), str(one.queued), error + at)
        rows.append([(printable(text), "") for text in texts])
    return columns(rows)
