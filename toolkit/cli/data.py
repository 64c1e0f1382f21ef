"""edgeasd data scan, import, repair."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeasd.runtime.errors import CheckFailed, InputError, escaped
from edgeasd.toolkit.cli._errors import print_error
from edgeasd.toolkit.cli._options import AsJson, KeepUnhealthy, Machine
from edgeasd.toolkit.cli._output import print_table

if TYPE_CHECKING:
    from edgeasd.toolkit.data.importing import ImportSettings, ImportTotals
    from edgeasd.toolkit.data.scan import IdReport, ScanReport

app = typer.Typer(help="Look at data sets, and make clips of recordings.", no_args_is_help=True, rich_markup_mode=None)

_SHOWN = 10
"""Lines of a list before the rest is counted; --json has them all."""


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


@app.command("import")
def import_(
    sources: Annotated[list[Path], typer.Argument(metavar="SRC...", help="Recordings, or folders of them.")],
    machine: Machine,
    id: Annotated[str, typer.Option("--id", help="Machine ID, the folder below the machine's.")],
    label: Annotated[str, typer.Option(help="normal, or anomaly for recordings of a fault.")] = "normal",
    output: Annotated[Path, typer.Option(help="Data root that the clips go to.")] = Path("recordings"),
    clip: Annotated[
        float, typer.Option("--clip", min=0.0, max=600.0, help="Seconds of a clip; 0 leaves recordings whole.")
    ] = 10.0,
    rate: Annotated[int, typer.Option(min=4000, max=192_000, help="Sample rate in Hz; training wants 16000.")] = 16000,
    channel: Annotated[
        int | None, typer.Option(min=0, help="Channel to use of several, counted from 0; their mean by default.")
    ] = None,
    keep_unhealthy: KeepUnhealthy = False,
    as_json: AsJson = False,
) -> None:
    """Make clips of recordings: phones, flat folders, hours in one file.

    Takes any rate, number of channels, length and format that libsndfile or an installed ffmpeg reads. Writes
    OUTPUT/MACHINE/ID/LABEL/NAME.flac, named after the recording. Never overwrites; after Ctrl-C the same command
    goes on. What is silent or stuck is left and named, with exit code 1, as is what cannot be read.

    Example: edgeasd data import phone/ --machine valve --id 00
    """
    from edgeasd.toolkit.data.importing import ImportSettings, import_recordings
    from edgeasd.toolkit.progress import progress

    settings = ImportSettings(output, machine, id, label, rate, clip, channel, keep_unhealthy)
    if clip and clip < 1.0:
        raise InputError(f"--clip {clip:g}: a clip has at least 1 s; give 10, or 0 to leave recordings whole")
    with progress("importing") as report:
        totals = import_recordings(sources, settings, report)
    if as_json:
        print(json.dumps({"type": "import", "version": 1, "folder": str(settings.folder), **asdict(totals)}))
    else:
        _print_import(totals, settings)
    if totals.left:
        raise CheckFailed(
            f"{len(totals.left)} recordings or parts were left, the first is {totals.left[0][0]}; see the list above"
        )


def _print_import(totals: ImportTotals, settings: ImportSettings) -> None:
    levels = ""
    if totals.lowest_dbfs is not None and totals.highest_dbfs is not None:
        levels = f", level {totals.lowest_dbfs:.1f} to {totals.highest_dbfs:.1f} dBFS"
    print(
        f"{escaped(settings.folder)}: {len(totals.taken)} clips taken ({totals.seconds:.0f} s), {totals.already} were there, "
        f"from {totals.sources} recordings; {len(totals.left)} left, {len(totals.ignored)} ignored{levels}"
    )
    _print_list("left", [why if where in why else f"{where}: {why}" for where, why in totals.left])
    _print_list("ignored", [f"{path}: {why}" for path, why in totals.ignored])
    _print_list("taken, listen to them", [f"{name}: {', '.join(states)}" for name, states in totals.doubtful])
    _print_list("note", totals.notes)
    if totals.taken or totals.already:
        where = ["--data", str(settings.root), "--machine", settings.machine, "--id", settings.id.removeprefix("id_")]
        print(f"\nnext: edgeasd train {shlex.join(where)}")


@app.command("repair")
def repair_(
    files: Annotated[list[Path], typer.Argument(help="Recordings whose length in the header is wrong.")],
) -> None:
    """Write the length of unfinished or cut-off recordings anew.

    For what a recorder leaves that was killed, and for WAV files beyond 4 GiB. The sound that is there stays as it
    is; a file is replaced when the new one is whole. Cut-off Ogg and MP3 files are decoded to FLAC beside them.

    Example: edgeasd data repair night.wav
    """
    from edgeasd.toolkit.data.repair import repair

    bad: list[str] = []
    for file in files:
        try:
            result = repair(file)
        except InputError as error:
            bad.append(str(error))
            continue
        what = "written anew" if result.is_changed else "was whole, left as it is"
        print(f"{escaped(result.path)}: {result.seconds:.1f} s, {what}", flush=True)
    for line in bad[1:]:
        print_error(line)
    if bad:
        raise InputError(bad[0])


def print_scan(report: ScanReport) -> None:
    """One table row for each ID, split and domain, then what needs attention."""
    from edgeasd.toolkit.data.scan import SEGMENT_SECONDS

    if rows := [row for id_report in report.ids for row in _rows(id_report)]:
        counts = ("normal", "anomaly", "unknown")
        headings = ("machine", "id", "split", "domain", *counts, "rate Hz", "channels", "seconds", "layout")
        print_table(headings, rows, right=counts, fold=("rate Hz", "channels", "seconds", "layout"), indent=0)
    else:
        print(f"{escaped(report.root)}: no clips in a known layout")
    clips = sum(count.clips for id_report in report.ids for count in id_report.counts)
    machines = {id_report.machine for id_report in report.ids}
    unhealthy = f"not to be trusted: {len(report.unhealthy)}, " if report.deep else ""
    checked = "every sample decoded" if report.deep else "headers read; --deep decodes every sample"
    print(
        f"\n{clips} clips, machines: {len(machines)}, IDs: {len(report.ids)}, damaged: {len(report.damaged)}, "
        f"{unhealthy}duplicate groups: {len(report.duplicates)} ({checked})"
    )
    _print_list("damaged", [reason for _, reason in report.damaged])
    _print_list("sound not to be trusted, left out of training", [f"{path}: {what}" for path, what in report.unhealthy])
    _print_list(
        f"shorter than a segment ({SEGMENT_SECONDS:.2f} s), left out of training unless --tile is given",
        [f"{path}: {seconds:.2f} s" for path, seconds in report.short],
    )
    _print_list("read, but note", [f"{path}: {note}" for path, note in report.notes])
    _print_list("same content", [" = ".join(group) for group in report.duplicates])
    _print_list("in no known layout, ignored", [f"{path}: {n} audio files" for path, n in report.unrecognised.items()])
    _print_list(
        "sound that is no clip as it lies",
        [
            f"{folder}: {', '.join(f'{n} {suffix}' for suffix, n in suffixes.items())}"
            for folder, suffixes in report.no_clips.items()
        ],
    )
    _print_list("to make clips of it", report.imports)
    _print_list("set aside by the layout", [f"{machine}: {n} audio files" for machine, n in report.set_aside.items()])


def _rows(report: IdReport) -> list[tuple[str, ...]]:
    rows = []
    for split, domain in dict.fromkeys((count.split, count.domain) for count in report.counts):
        by_label = {c.label: c.clips for c in report.counts if (c.split, c.domain) == (split, domain)}
        numbers = (str(by_label.get(label, 0)) for label in ("normal", "anomaly", "unknown"))
        sound = (_values(report.sample_rates), _values(report.channels), _lengths(report), report.layout)
        rows.append((escaped(report.machine), escaped(report.id), split or "-", domain or "-", *numbers, *sound))
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
            print(f"  {escaped(item)}")
    if len(items) > _SHOWN:
        print(f"  and {len(items) - _SHOWN} more (--json lists them)")
