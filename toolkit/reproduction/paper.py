"""Table II of the paper, and DCASE 2020, the data set that it was measured on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.data.clips import Clip, Label
from edgeasd.toolkit.data.ground_truth import read_ground_truth
from edgeasd.toolkit.data.machine import recorded_alike
from edgeasd.toolkit.presets import published_table_two

_NAME = re.compile(r"(?:(?:normal|anomaly)_)?id_[0-9]+_[0-9]+")


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


def is_dcase2020(clips: Sequence[Clip], machine: str) -> bool:
    """Whether `machine` is one of the paper's types and all its clips are named as in 2020."""
    own = [clip for clip in clips if clip.machine == machine]
    return bool(own) and machine in paper_rows() and all(c.split and _NAME.fullmatch(c.path.stem) for c in own)


def require_all(root: Path, clips: Sequence[Clip], ground_truth: Path | None) -> None:
    """All that Table II needs must be there. Raises one InputError that names everything that is missing."""
    present = {clip.machine for clip in clips}
    absent = [machine for machine in paper_rows() if machine not in present]
    problems = [f"no machine types {', '.join(absent)}"] if absent else []
    for machine, row in paper_rows().items():
        if machine not in present:
            continue
        if not is_dcase2020(clips, machine):
            problems.append(f"{machine}: its clips are not named as in DCASE 2020 (normal_id_00_00000000.wav)")
            continue
        found = [*_training(clips, row), *_evaluation(clips, row, ground_truth)]
        if found:
            problems.append(f"{machine}: {', '.join(found)}")
    if problems:
        there = ", ".join(sorted(present)) or "nothing"
        raise InputError(
            f"{root}: without --machine the data of DCASE 2020 Task 2 must be complete, and is not: "
            f"{'; '.join(problems)}; add what is missing, or name machine types with --machine (here: {there})"
        )


def differs(clips: Sequence[Clip], machine: str, ground_truth: Path | None) -> list[str]:
    """What keeps figures of `machine` from being compared with the paper's: its pool of outliers and its test."""
    rows, alike = paper_rows(), recorded_alike(clips, machine)
    types = {clip.machine for clip in alike}
    own = _evaluation(clips, rows[machine], ground_truth)
    # The types that lend outliers are those of one data set, and each lends the normals of all its IDs.
    missing = [f"no {name}" for name in _same_set(machine) if name not in types]
    lent = [f"{name}: {problem}" for name in sorted(types) for problem in _training(clips, rows[name])]
    return [*own, *missing, *lent]


def _same_set(machine: str) -> list[str]:
    """The paper's machine types of the data set (MIMII or ToyADMOS) that `machine` is from."""
    every = [Clip(Path(name), name, "", "normal") for name in paper_rows()]
    return [clip.machine for clip in recorded_alike(every, machine)]


def _training(clips: Sequence[Clip], row: Published) -> list[str]:
    trained = {c.id for c in clips if (c.machine, c.split, c.label) == (row.machine, "train", "normal")}
    problems = []
    for ids, part in (
        (row.development_ids, "development data"),
        (row.evaluation_ids, "additional training data"),
    ):
        missing = [id for id in ids if id not in trained]
        if missing:
            problems.append(f"no training clips of ID {', '.join(missing)} ({part})")
    return problems


def _evaluation(clips: Sequence[Clip], row: Published, ground_truth: Path | None) -> list[str]:
    test = [c for c in clips if (c.machine, c.split) == (row.machine, "test") and c.id in row.evaluation_ids]
    present = {clip.id for clip in test}
    missing = [id for id in row.evaluation_ids if id not in present]
    if missing:
        return [f"no test clips of ID {', '.join(missing)} (evaluation data)"]
    labels: dict[str, Label] = {}
    if ground_truth is not None:
        try:
            labels = {found.name: found.label for found in read_ground_truth(ground_truth, row.machine)}
        except InputError as error:
            return [str(error)]
    known = [clip.label if clip.label != "unknown" else labels.get(clip.path.stem, "unknown") for clip in test]
    if unknown := known.count("unknown"):
        remedy = "not in the lists of --ground-truth" if ground_truth else "pass their list with --ground-truth"
        return [f"no labels of {unknown} of {len(test)} evaluation clips ({remedy})"]
    counts = (known.count("normal"), known.count("anomaly"))
    if counts != (row.normals, row.anomalies):
        return [
            f"{counts[0]} normal and {counts[1]} anomalous evaluation clips of ID {', '.join(row.evaluation_ids)}, "
            f"published were {row.normals} and {row.anomalies}"
        ]
    return []
