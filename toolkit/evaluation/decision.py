"""How well decisions agree with labels: precision, recall and F1 as the official DCASE scripts count them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def decision_figures(decisions: ArrayLike, anomalous: ArrayLike) -> dict[str, float | None]:
    """precision, recall and f1 of decisions (1: anomalous) against labels, (clips,) each.

    None where a figure is 0 / 0: nothing was called anomalous, or nothing was. (The official scripts print 0.)
    """
    called, labels = np.asarray(decisions, bool), np.asarray(anomalous, bool)
    hits = int(np.sum(called & labels))
    precision = hits / int(called.sum()) if called.any() else None
    recall = hits / int(labels.sum()) if labels.any() else None
    both = int(called.sum()) + int(labels.sum())
    return {"precision": precision, "recall": recall, "f1": 2 * hits / both if both else None}
