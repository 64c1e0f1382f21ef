"""A scan report as plain text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from edgeasd.toolkit.data.scan import IdReport, ScanReport

_HEADINGS = (
    "machine",
    "id",
    "split",
    "domain",
    "normal",
    "anomaly",
    "unknown",
    "rate Hz",
    "channels",
    "seconds",
    "layout",
)
_SHOWN = 10
"""Lines of a list before the rest is counted; --json has them all."""


def format_report(report: ScanReport) -> str:
    """One table row for each ID, split and domain, then what needs attention; no trailing newline."""
    rows = [row for id_report in report.ids for row in _rows(id_report)]
    lines = _table(_HEADINGS, rows) if rows else [f"{report.root}: no clips in a known layout"]
    clips = sum(count.clips for id_report in report.ids for count in id_report.counts)
    machines = {id_report.machine for id_report in report.ids}
    checked = "every sample decoded" if report.deep else "headers read; --deep decodes every sample"
    lines += [
        "",
        f"{clips} clips, machines: {len(machines)}, IDs: {len(report.ids)}, damaged: {len(report.damaged)}, "
        f"duplicate groups: {len(report.duplicates)} ({checked})",
    ]
    lines += _list("damaged", [reason for _, reason in report.damaged])
    lines += _list("same content", [" = ".join(group) for group in report.duplicates])
    lines += _list(
        "in no known layout, ignored", [f"{path}: {n} audio files" for path, n in report.unrecognised.items()]
    )
    lines += _list(
        "set aside by the layout", [f"{machine}: {n} audio files" for machine, n in report.set_aside.items()]
    )
    return "\n".join(lines)


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


def _table(headings: Sequence[str], rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in (headings, *rows)) for i in range(len(headings))]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()

    return [line(headings), line(["-" * width for width in widths]), *(line(row) for row in rows)]


def _list(title: str, items: Sequence[str]) -> list[str]:
    if not items:
        return []
    rest = [f"  and {len(items) - _SHOWN} more (--json lists them)"] if len(items) > _SHOWN else []
    return ["", f"{title}:", *(f"  {item}" for item in items[:_SHOWN]), *rest]
