"""Cells as text: the table on standard output and the same in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgeasd.toolkit.reproduction.summary import Cell, machine_average

RULE = (
    "= agrees with the paper, ≠ differs: the two AUCs lie at most 1.96 standard errors of their difference apart, "
    "or further, taken as independent samples"
)
_MOST_NAMED = 8


def rows(cells: Sequence[Cell]) -> tuple[list[str], list[list[str]]]:
    """(headings, rows) with a line for each machine type and number of anomalies, a column for each method.

    Below a line stand the spread over seeds and the paper's figures, where there are any.
    """
    methods = list(dict.fromkeys(cell.method for cell in cells))
    counts = sorted({cell.count for cell in cells})
    several = len(counts) > 1
    found = {(cell.machine, cell.method, cell.count): cell for cell in cells}
    machines = list(dict.fromkeys(cell.machine for cell in cells))
    headings = ["machine", *(["n"] if several else []), "clips", *methods]
    lines = []
    for machine in machines:
        for count in counts:
            of_line = [found[machine, method, count] for method in methods]
            lead = [machine, *([str(count)] if several else [])]
            clips = max(of_line, key=lambda cell: cell.normals + cell.anomalies)
            lines.append([*lead, f"{clips.normals}/{clips.anomalies}", *(_value(cell) for cell in of_line)])
            blank = [""] * (len(lead) - 1)
            if any(cell.seed_std is not None for cell in of_line):
                lines.append(["  seeds", *blank, "std", *(_percent(cell.seed_std) for cell in of_line)])
            if any(cell.published is not None for cell in of_line):
                lines.append(["  paper", *blank, "", *(_paper(cell) for cell in of_line)])
    if len(machines) > 1:
        for count in counts:
            lead = ["average", *([str(count)] if several else [])]
            lines.append([*lead, "", *(_percent(machine_average(cells, method, count)) for method in methods)])
    return headings, lines


def as_text(title: str, cells: Sequence[Cell]) -> str:
    """Aligned columns."""
    headings, lines = rows(cells)
    widths = [max(len(line[k]) for line in [headings, *lines]) for k in range(len(headings))]
    shown = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in (headings, *lines)
    ]
    return "\n".join([title, *(line.rstrip() for line in shown), *remarks(cells)])


def as_markdown(title: str, cells: Sequence[Cell]) -> str:
    """The same as a Markdown page."""
    headings, lines = rows(cells)
    table = [headings, ["---"] * len(headings), *lines]
    body = ["| " + " | ".join(cell.strip() for cell in line) + " |" for line in table]
    return "\n".join([f"# {title}", "", *body, "", *(f"- {line}" for line in remarks(cells))]) + "\n"


def as_json(what: str, scale: str, cells: Sequence[Cell]) -> dict[str, Any]:
    """Everything, AUCs as shares of 1."""
    keys = dict.fromkeys((cell.method, cell.count) for cell in cells)
    averages = [
        {"method": method, "count": count, "auc": machine_average(cells, method, count)} for method, count in keys
    ]
    return {"what": what, "scale": scale, "cells": [cell.to_json() for cell in cells], "machine_average": averages}


def remarks(cells: Sequence[Cell]) -> list[str]:
    """What a reader needs to know of the figures, and what is missing."""
    lines = []
    if any(cell.agrees is not None for cell in cells):
        compared = [cell for cell in cells if cell.agrees is not None]
        lines.append(f"{sum(bool(c.agrees) for c in compared)} of {len(compared)} cells agree. {RULE}")
    missing = [name for cell in cells for name in cell.missing]
    if missing:
        more = f" and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
        lines.append(f"missing {len(missing)} models: {'; '.join(missing[:_MOST_NAMED])}{more}")
    if any(cell.auc == 1.0 for cell in cells):
        lines.append("at 100 the interval's formula gives no width; that is its limit and not certainty")
    return lines


def title_of(what: str, scale: str, facts: Mapping[str, Any]) -> str:
    """One line: what the figures are."""
    name = {"table2": "Table II", "fig2": "Figure 2"}[what]
    scored = {
        "paper": "paper d′ (range of the test clips, α of Table I or 0.5)",
        "deploy": "deploy d′ (frozen range)",
    }[scale]
    seeds = len(facts["seeds"])
    preset = facts["preset"] if facts["preset"] == facts["backbone"] else f"{facts['preset']}, {facts['backbone']}"
    return (
        f"{name}: AUC %, mean over IDs{f' and {seeds} seeds' if seeds > 1 else ''}, ± half a 95 % interval "
        f"(Hanley-McNeil over all clips of the type); {preset}, "
        f"{facts['iterations']} iterations; {scored}"
    )


def _value(cell: Cell) -> str:
    if cell.auc is None or cell.half_width is None:
        return f"- ({len(cell.missing)} missing)"
    mark = {None: "", True: " =", False: " ≠"}[cell.agrees]
    return f"{100 * cell.auc:.2f} ± {100 * cell.half_width:.2f}{mark}"


def _paper(cell: Cell) -> str:
    return "" if cell.published is None else f"{100 * cell.published[0]:.2f} ± {100 * cell.published[1]:.2f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
