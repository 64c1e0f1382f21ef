"""Results of single models put together: one figure for each machine type, method and number of anomalies."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from edgeasd.toolkit.evaluation.metrics import hanley_mcneil
from edgeasd.toolkit.reproduction.plan import ModelJob


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
    """Models without a result, or whose AUC is undefined; `auc` is None where there is one."""
    published: tuple[float, float] | None = None
    """AUC and half-width that the paper printed, where it was measured on these clips."""

    @property
    def agrees(self) -> bool | None:
        """Whether the published AUC and ours lie no further apart than 1.96 standard errors of their difference.

        The difference is taken as that of independent samples. None where there is nothing to compare.
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
    """Mean over machine types; None where one is missing."""
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
