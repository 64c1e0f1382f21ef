"""edgeasd data scan."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeasd.toolkit.cli._options import AsJson
from edgeasd.toolkit.cli._output import print_table

if TYPE_CHECKING:
    from edgeasd.toolkit.data.scan import IdReport, ScanReport

app = typer.Typer(help="Look at data sets.", no_args_is_help=True, rich_markup_mode=None)

_SHOWN = 10
"""Lines of a list before the rest is counted; --json has them all."""


@app.callback()
def _group() -> None:
    """Keeps `scan` a sub-command while it is the only one."""


@app.command("scan")
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
    from edgeasd.toolkit.progress import progress

    with progress("scanning") as report:
        found = scan_root(root, deep=deep, progress=report)
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
    else:
        print_scan(found)


def print_scan(report: ScanReport) -> None:
    """One table row for each ID, split and domain, then what needs attention."""
    if rows := [row for id_report in report.ids for row in _rows(id_report)]:
        counts = ("normal", "anomaly", "unknown")
        headings = ("machine", "id", "split", "domain", *counts, "rate Hz", "channels", "seconds", "layout")
        print_table(headings, rows, right=counts, fold=("rate Hz", "channels", "seconds", "layout"), indent=0)
    else:
        print(f"{report.root}: no clips in a known layout")
    clips = sum(count.clips for id_report in report.ids for count in id_report.counts)
    machines = {id_report.machine for id_report in report.ids}
    checked = "every sample decoded" if report.deep else "headers read; --deep decodes every sample"
    print(
        f"\n{clips} clips, machines: {len(machines)}, IDs: {len(report.ids)}, damaged: {len(report.damaged)}, "
        f"duplicate groups: {len(report.duplicates)} ({checked})"
    )
    _print_list("damaged", [reason for _, reason in report.damaged])
    _print_list("same content", [" = ".join(group) for group in report.duplicates])
    _print_list("in no known layout, ignored", [f"{path}: {n} audio files" for path, n in report.unrecognised.items()])
    _print_list("set aside by the layout", [f"{machine}: {n} audio files" for machine, n in report.set_aside.items()])


def _rows(report: IdReport) -> list[tuple[str, ...]]:
    rows = []
    for split, domain in dict.fromkeys((count.split, count.domain) for count in report.counts):
        by_label = {c.label: c.clips for c in report.counts if (c.split, c.domain) == (split, domain)}
        numbers = (str(by_label.get(label, 0)) for label in ("normal", "anomaly", "unknown"))
        sound = (_values(report.sample_rates), _values(report.channels), _lengths(report), report.layout)
        rows.append((report.machine, report.id, split or "-", domain or "-", *numbers, *sound))
    return rows


def _values(counts: dict[int, int]) -> str:
    return ",".join(str(value) for value in counts) or "-"


def _lengths(report: IdReport) -> str:
    if report.seconds is None:
        return "-"
    low, middle, high = report.seconds.min, report.seconds.median, report.seconds.max
    return f"{low:.2f}" if low == high else f"{low:.2f} / {middle:.2f} / {high:.2f}"


def _print_list(title: str, items: Sequence[str]) -> None:
    if items:
        print(f"\n{title}:")
        for item in items[:_SHOWN]:
            print(f"  {item}")
    if len(items) > _SHOWN:
        print(f"  and {len(items) - _SHOWN} more (--json lists them)")
