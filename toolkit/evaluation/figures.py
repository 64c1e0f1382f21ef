"""The figures of one way of scoring on one ID: AUC, interval, pAUC, domains, difference from another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeasd.calibration.drift.ranking import delong
from edgeasd.toolkit.evaluation.dcase import VARIANTS, domain_figures
from edgeasd.toolkit.evaluation.metrics import auc, newcombe, partial_auc, tied_pairs

TIE = 1e-4
"""Clip scores closer than this count as tied when two scorings of the same clips are compared."""


@dataclass(frozen=True)
class Labels:
    """What the data set says of the scored clips, (clips,) each."""

    anomalous: NDArray[np.bool_]
    known: NDArray[np.bool_]
    """False for clips without a label; they are scored and judge nothing."""
    domains: Sequence[str | None]

    def split(self, scores: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scores of the normal and of the anomalous clips."""
        values = np.asarray(scores, np.float64)
        return values[self.known & ~self.anomalous], values[self.known & self.anomalous]


@dataclass(frozen=True)
class Figures:
    """What one way of scoring achieves on one ID. AUC and pAUC are None if they are undefined."""

    auc: float | None
    interval: tuple[float, float] | None
    """95 %, Newcombe's method 5."""
    pauc: float | None
    """At a false-positive rate of 0.1, McClish-standardised."""
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        interval = None if self.interval is None else list(self.interval)
        method = {} if interval is None else {"interval_method": "Newcombe 2006, method 5"}
        return {"auc": self.auc, "interval95": interval, **method, "pauc_0.1": self.pauc, **self.facts}


def figures_of(
    scores: Sequence[float], labels: Labels, facts: dict[str, Any], medians: Sequence[float] | None = None
) -> Figures:
    """The figures of clip scores (clips,); `medians` are those with the median over sections in place of the mean."""
    normal, anomaly = labels.split(scores)
    if not normal.size or not anomaly.size:
        why = f"AUC undefined: {normal.size} normal and {anomaly.size} anomalous test clips"
        return Figures(None, None, None, {**facts, "undefined": why})
    value = auc(normal, anomaly)
    interval = newcombe(value, normal.size, anomaly.size)
    found = dict(facts)
    if medians is not None:
        middle = labels.split(medians)
        found["median_over_sections"] = {"auc": auc(*middle), "pauc_0.1": partial_auc(*middle)}
    if any(domain is not None for domain in labels.domains):
        found["domains"] = {
            variant: domain_figures(
                np.asarray(scores)[labels.known],
                labels.anomalous[labels.known],
                [domain for domain, known in zip(labels.domains, labels.known, strict=True) if known],
                variant,
            )
            for variant in VARIANTS
        }
    return Figures(value, (interval.low, interval.high), partial_auc(normal, anomaly), found)


def difference(ours: Sequence[float], theirs: Sequence[float], labels: Labels) -> dict[str, Any]:
    """DeLong's test of AUC(ours) − AUC(theirs) over the same clips; empty if a class has fewer than 2 clips."""
    pairs = (*labels.split(ours), *labels.split(theirs))
    return {} if min(part.size for part in pairs) < 2 else {"deploy_minus_this": delong(*pairs).to_json()}


def agreement(ours: Sequence[float], theirs: Sequence[float], labels: Labels) -> dict[str, Any]:
    """How two scorings rank the clips: pairs in another order, and those of them that are ties."""
    largest = float(np.max(np.abs(np.asarray(ours) - np.asarray(theirs))))
    pairs = (*labels.split(ours), *labels.split(theirs))
    if not all(part.size for part in pairs):
        return {"largest_score_difference": largest}
    counted = tied_pairs(*pairs, TIE)
    return {
        "largest_score_difference": largest,
        "pairs": counted.total,
        "pairs_in_another_order": counted.discordant,
        "of_these_tied_within_1e-4": counted.explained_by_ties,
    }
