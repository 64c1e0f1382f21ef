"""edgeasd data scan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from edgeasd.toolkit.cli._errors import handle_errors
from edgeasd.toolkit.cli._options import AsJson

app = typer.Typer(help="Look at data sets.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Keeps `scan` a sub-command while it is the only one."""


@app.command("scan")
@handle_errors
def scan(
    root: Annotated[Path, typer.Argument(help="Data root: the folder with one folder per machine type.")],
    deep: Annotated[bool, typer.Option("--deep", help="Decode every file to its end, as training does.")] = False,
    as_json: AsJson = False,
) -> None:
    """List machines, IDs, counts, rates and damage.

    Reads names, headers and bytes: also shows channels, lengths, layouts, copies of one recording, and
    folders in no known layout. A damaged file is listed and does not stop the scan.

    Example: edgeasd data scan recordings/
    """
    from edgeasd.toolkit.data.scan import scan as scan_root
    from edgeasd.toolkit.data.scan_table import format_report
    from edgeasd.toolkit.progress import progress

    with progress("scanning") as report:
        found = scan_root(root, deep=deep, progress=report)
    print(json.dumps(found.to_json(), indent=2) if as_json else format_report(found))
