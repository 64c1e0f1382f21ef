"""What the paper printed: Table II, with the clips it was measured on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from edgeasd.toolkit.presets import published_table_two


@dataclass(frozen=True)
class Published:
    """One row of Table II."""

    machine: str
    development_ids: tuple[str, ...]
    evaluation_ids: tuple[str, ...]
    normals: int
    anomalies: int
    auc: dict[str, tuple[float, float]]
    """Method -> (AUC, half-width of its 95 % interval), as shares of 1."""


@cache
def paper_rows() -> dict[str, Published]:
    """Machine type -> row, in the order of the table."""
    return {machine: _row(machine, raw) for machine, raw in published_table_two().items()}


def _row(machine: str, raw: dict[str, Any]) -> Published:
    return Published(
        machine=machine,
        development_ids=tuple(raw["development_ids"]),
        evaluation_ids=tuple(raw["evaluation_ids"]),
        normals=int(raw["normals"]),
        anomalies=int(raw["anomalies"]),
        auc={method: (auc / 100, half / 100) for method, (auc, half) in raw["auc"].items()},
    )
