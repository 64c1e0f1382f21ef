"""Results of single models summarised in a table: one cell per machine type, method and number of anomalies."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from edgeasd.toolkit.evaluation.metrics import hanley_mcneil
from edgeasd.toolkit.reproduction.plan import ModelJob

RULE = (
    "= agrees with the paper, ≠ differs: the two AUCs lie at most 1.96 standard errors of their difference apart, "
    "or further, taken as independent samples"
)
_MOST_NAMED = 8


@dataclass(frozen=True)
class Cell:
    """The AUC of a machine type under one method: the mean over IDs, then over seeds, as a share of 1."""

    machine: str
    method: str
    count: int
    """Known anomalies in training."""
    auc: float | None
    half_width: float | None
    """Of the 95 % interval after Hanley and McNeil, over the test clips of all IDs together."""
    seed_std: float | None
    """Sample standard deviation of the mean over IDs, between seeds; None for one seed."""
    normals: int
    anomalies: int
    ids: dict[str, float] = field(default_factory=dict)
    """ID -> AUC, the mean over seeds."""
    missing: list[str] = field(default_factory=list)
    """Models without a result, or whose AUC is undefined; `auc` is None if there is one."""
    published: tuple[float, float] | None = None
    """AUC and half-width that the paper printed, where it was measured on these clips."""

    @property
    def agrees(self) -> bool | None:
        """Whether the published AUC and ours lie no further apart than 1.96 standard errors of their difference.

        The difference is taken as that of independent samples. None if there is nothing to compare.
        """
        if self.published is None or self.auc is None or self.half_width is None:
            return None
        auc, half_width = self.published
        return bool(abs(auc - self.auc) <= (self.half_width**2 + half_width**2) ** 0.5)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        published = None if self.published is None else {"auc": self.published[0], "half_width": self.published[1]}
        return {**asdict(self), "published": published, "agrees": self.agrees}


def summarise(
    jobs: Sequence[ModelJob],
    results: Mapping[str, Mapping[str, Any]],
    scale: str,
    published: Mapping[str, Mapping[str, tuple[float, float]]] | None = None,
) -> list[Cell]:
    """One cell for each machine type, method and count of `jobs`, in their order.

    `results` maps names of jobs to what they stored, `scale` is `paper` or `deploy`, `published` maps machine
    types that were judged on the paper's own clips to the figures it printed.
    """
    groups: dict[tuple[str, str, int], list[ModelJob]] = {}
    for job in jobs:
        groups.setdefault((job.machine, job.method, job.count), []).append(job)
    known = published or {}
    return [
        _cell(key, group, results, scale, known.get(key[0], {}).get(key[1]) if key[2] == 0 else None)
        for key, group in groups.items()
    ]


def machine_average(cells: Sequence[Cell], method: str, count: int = 0) -> float | None:
    """Mean over machine types; None if one is missing."""
    values = [cell.auc for cell in cells if (cell.method, cell.count) == (method, count)]
    defined = [value for value in values if value is not None]
    return statistics.fmean(defined) if defined and len(defined) == len(values) else None


def _cell(
    key: tuple[str, str, int],
    jobs: Sequence[ModelJob],
    results: Mapping[str, Mapping[str, Any]],
    scale: str,
    published: tuple[float, float] | None,
) -> Cell:
    values: dict[int, dict[str, float]] = {}
    clips: dict[str, tuple[int, int]] = {}
    missing = []
    for job in jobs:
        evaluation = results.get(job.name, {}).get("evaluation", {})
        auc = evaluation.get("figures", {}).get(scale, {}).get("auc")
        if auc is None:
            missing.append(job.name if not evaluation else f"{job.name} ({_why(evaluation, scale)})")
            continue
        values.setdefault(job.seed, {})[job.id] = float(auc)
        clips.setdefault(job.id, (int(evaluation["normals"]), int(evaluation["anomalies"])))
    normals, anomalies = sum(n for n, _ in clips.values()), sum(a for _, a in clips.values())
    ids = {
        id: statistics.fmean(of_seed[id] for of_seed in values.values() if id in of_seed)
        for id in dict.fromkeys(job.id for job in jobs)
        if id in clips
    }
    if missing:
        return Cell(*key, None, None, None, normals, anomalies, ids, missing, published)
    means = [statistics.fmean(of_seed.values()) for of_seed in values.values()]
    auc = statistics.fmean(means)
    half_width = hanley_mcneil(auc, normals, anomalies).half_width
    std = statistics.stdev(means) if len(means) > 1 else None
    return Cell(*key, auc, half_width, std, normals, anomalies, ids, [], published)


def _why(evaluation: Mapping[str, Any], scale: str) -> str:
    figures = evaluation.get("figures", {}).get(scale)
    if figures is None:
        notes = [note for note in evaluation.get("notes", []) if note.startswith(f"no {scale}")]
        return notes[0] if notes else f"no {scale} d′"
    return str(figures.get("undefined", "AUC undefined"))


def rows(cells: Sequence[Cell]) -> tuple[list[str], list[list[str]]]:
    """(headings, rows) with a line for each machine type and number of anomalies, a column for each method.

    Below a line stand the spread over seeds and the paper's figures, if there are any.
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


def as_markdown(title: str, cells: Sequence[Cell]) -> str:
    """A Markdown page."""
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
