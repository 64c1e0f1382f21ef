"""Labels of unlabelled test clips, from the lists that DCASE published afterwards; matched by name alone.

    eval_data_list.csv                                   2020: a line `fan`, then lines of that machine
        id_01_00000000.wav,anomaly_id_01_00000012.wav,1    name, labelled name, label
    ground_truth_fan_section_00_test.csv                 since 2021: one file for each machine and section
        section_00_0000.wav,1                              name, label

Sources: the evaluators of DCASE Task 2, y-kawagu/dcase2020_task2_evaluator and the later ones by nttcslab.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.data.clips import Clip, Label

_LABELS: dict[str, Label] = {"0": "normal", "0.0": "normal", "1": "anomaly", "1.0": "anomaly"}
_LIST_OF_2020 = re.compile(r"eval_data_list.*\.csv")
_DATA_FOLDER = "ground_truth_data"
_OTHER_FOLDERS = ("ground_truth_domain", "ground_truth_attributes")
"""Their files are called alike, and their second column is no label."""


@dataclass(frozen=True)
class Row:
    """One line of a list: the clip's name without suffix, its label, and where that stands."""

    name: str
    label: Label
    place: str
    labelled_name: str | None = None


def read_ground_truth(folder: Path, machine: str) -> list[Row]:
    """Every row about `machine` in the CSV files of `folder`, or of `ground_truth_data` in it.

    Raises InputError for a folder without a list of this machine, and for a line that cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"--ground-truth {folder}: no such folder; name the one with the CSV files")
    if folder.resolve().name in _OTHER_FOLDERS:
        raise InputError(f"--ground-truth {folder}: holds no labels; name {_DATA_FOLDER} beside it")
    own = re.compile(rf"ground_truth_{re.escape(machine)}_(?:id|section)_.+\.csv")
    rows: list[Row] = []
    for path in sorted([*folder.glob("*.csv"), *(folder / _DATA_FOLDER).glob("*.csv")]):
        if own.fullmatch(path.name):
            rows += _rows(path, machine, machine)
        elif _LIST_OF_2020.fullmatch(path.name):
            rows += _rows(path, machine, None)
    if not rows:
        raise InputError(
            f"--ground-truth {folder}: no labels of {machine}; expected ground_truth_{machine}_id_05_test.csv, "
            f"ground_truth_{machine}_section_00_test.csv or an eval_data_list.csv with a part {machine}"
        )
    return rows


def label_clips(clips: Sequence[Clip], machine: str, rows: Sequence[Row], source: Path) -> list[Clip]:
    """`clips` in their order, the unlabelled test clips of `machine` with the labels of `rows`.

    Names are compared without their suffix. Raises one InputError that lists every unlabelled clip
    without a row, every row without a test clip, and every name on which two sources disagree.
    """
    test = [clip for clip in clips if clip.machine == machine and clip.split == "test"]
    in_data = {clip.path.stem: clip for clip in test}
    listed = {row.name: row for row in rows}
    unlabelled = [clip for clip in test if clip.label == "unknown"]
    missing = [clip.path.name for clip in unlabelled if clip.path.stem not in listed]
    extra = [name for name, row in listed.items() if name not in in_data and row.labelled_name not in in_data]
    wrong = _contradictions(rows, listed, in_data)
    wrong += [
        f"{name}: {count} clips of that name"
        for name, count in Counter(clip.path.stem for clip in unlabelled).items()
        if count > 1
    ]
    problems = [
        f"{len(names)} {what}: {', '.join(names)}"
        for names, what in (
            (missing, "test clips without a label"),
            (extra, "labels without a test clip"),
            (wrong, "contradictions"),
        )
        if names
    ]
    if problems:
        raise InputError(
            f"--ground-truth {source}: does not fit the test clips of {machine}; {'; '.join(problems)}; "
            "take the list that was published with these clips"
        )
    chosen = {clip.path: listed[clip.path.stem].label for clip in unlabelled}
    return [replace(clip, label=chosen[clip.path]) if clip.path in chosen else clip for clip in clips]


def _contradictions(rows: Sequence[Row], listed: dict[str, Row], in_data: dict[str, Clip]) -> list[str]:
    found = []
    for row in rows:
        other = listed[row.name]
        if other.label != row.label:
            found.append(f"{row.name}: {row.label} ({row.place}) and {other.label} ({other.place})")
        named = _label_in(row.labelled_name)
        if named is not None and named != row.label:
            found.append(f"{row.name}: {row.label} and called {row.labelled_name} ({row.place})")
        for name in (row.name, row.labelled_name):
            clip = in_data.get(name) if name is not None else None
            if clip is not None and clip.label not in ("unknown", row.label):
                found.append(f"{clip.path.name}: {row.label} ({row.place})")
    return found


def _label_in(name: str | None) -> Label | None:
    match = re.search(r"(?:^|_)(normal|anomaly)_", name or "")
    return None if match is None else ("normal" if match[1] == "normal" else "anomaly")


def _rows(path: Path, wanted: str, part: str | None) -> list[Row]:
    """The rows about `wanted`; `part` is the machine that the file begins with, None if a line names it."""
    rows = []
    try:
        with open(path, encoding="utf-8-sig", newline="") as handle:
            for number, cells in enumerate(csv.reader(handle), start=1):
                cells = [cell.strip() for cell in cells if cell.strip()]
                if len(cells) == 1 and _LIST_OF_2020.fullmatch(path.name):
                    part = cells[0]
                elif cells and part == wanted:
                    rows.append(_row(cells, f"{path.name} line {number}", path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV ({error}); download it again") from None
    return rows


def _row(cells: list[str], place: str, path: Path) -> Row:
    label = _LABELS.get(cells[-1])
    if label is None or len(cells) not in (2, 3):
        raise InputError(
            f"{path.parent / place}: {','.join(cells)!r}; expected `name,0` (normal) or `name,1` (anomaly), "
            "or name, labelled name and 0 or 1"
        )
    return Row(PurePath(cells[0]).stem, label, place, PurePath(cells[1]).stem if len(cells) == 3 else None)
