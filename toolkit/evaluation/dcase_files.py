"""The official result files of DCASE Task 2: one line a test clip, found by its name.

    anomaly_score_ToyCar_section_00_test.csv       file name, score
    decision_result_ToyCar_section_00_test.csv     file name, 0 or 1

Named after machine and section since 2022; 2021 has source_test and target_test in place of test, and
2020 has the machine ID: anomaly_score_valve_id_00.csv. Clips of other layouts are named as in 2020.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeasd.runtime.atomic import write_bytes
from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.data.clips import Clip
from edgeasd.toolkit.evaluation.decision import decision_figures

KINDS = ("anomaly_score", "decision_result")


@dataclass(frozen=True)
class Result:
    """What is said of one test clip: its score, and 1 where that lies above the threshold of its model."""

    clip: Clip
    score: float
    decision: int


def result_of(clip: Clip, score: float, threshold: float) -> Result:
    """A clip's result; InputError for a score that is not finite."""
    if not math.isfinite(score):
        raise InputError(f"{clip.path}: scored {score}; repair the model, an official file takes finite scores")
    return Result(clip, score, int(score > threshold))


def official_stem(clip: Clip) -> str:
    """What the file name of a clip's results ends in: ToyCar_section_00_test, or valve_id_00."""
    section = re.match(r"section_([0-9]+)_", clip.path.name)
    if section is None:
        return f"{clip.machine}_id_{clip.id}"
    return f"{clip.machine}_section_{section[1]}_{clip.path.parent.name}"


def write_official(folder: Path, results: Iterable[Result]) -> list[Path]:
    """Write both files of every section among `results` into `folder`, atomically; returns their paths.

    Several models may share a section (IDs that are attributes): their clips go into one file, in order of
    name. Raises InputError, before anything is written, where two clips of a file have one name.
    """
    of_stem: dict[str, dict[str, Result]] = {}
    for result in results:
        named = of_stem.setdefault(official_stem(result.clip), {})
        other = named.setdefault(result.clip.path.name, result)
        if other is not result:
            raise InputError(
                f"{other.clip.path} and {result.clip.path}: official files know a clip by its name alone, and these "
                "share it; rename one"
            )
    written = []
    for stem, named in sorted(of_stem.items()):
        ordered = sorted(named.items())
        for kind, rows in (
            ("anomaly_score", [(name, repr(result.score)) for name, result in ordered]),
            ("decision_result", [(name, str(result.decision)) for name, result in ordered]),
        ):
            path = folder / f"{kind}_{stem}.csv"
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows(rows)
            # A name that is not UTF-8 goes back to the bytes it had on disk.
            write_bytes(path, text.getvalue().encode("utf-8", "surrogateescape"))
            written.append(path)
    return written


def judge_decisions(results: Iterable[Result]) -> dict[str, dict[str, float | None]]:
    """Precision, recall and F1 over the labelled clips: of all, and of each domain by itself, as since 2021."""
    labelled = [result for result in results if result.clip.label != "unknown"]
    groups = {"all": labelled}
    for domain in ("source", "target"):
        groups[domain] = [result for result in labelled if result.clip.domain == domain]
    return {
        name: decision_figures([r.decision for r in group], [r.clip.label == "anomaly" for r in group])
        for name, group in groups.items()
        if group
    }


def read_official(path: Path) -> dict[str, float]:
    """{file name: score or decision} of one official file.

    Raises InputError, with the line, for a file that is not such a table, a number that is none, and a name
    that stands there twice.
    """
    found: dict[str, float] = {}
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the name") from None
    for number, row in enumerate(csv.reader(io.StringIO(text)), start=1):
        try:
            name, value = row[0], float(row[1])
        except (IndexError, ValueError):
            raise InputError(f"{path}: line {number} is {row!r}; a file name and a number are needed") from None
        if name in found:
            raise InputError(f"{path}: line {number}: {name} stands there twice; remove one")
        found[name] = value
    return found


def match_by_name(values: Mapping[str, float], names: Iterable[str], where: Path) -> list[float]:
    """The values of `names`, in their order; InputError that names the first clip `values` (of file `where`) lacks."""
    wanted = list(names)
    missing = [name for name in wanted if name not in values]
    if missing:
        raise InputError(
            f"{where}: {len(missing)} of {len(wanted)} clips are missing, {missing[0]} first; score it too"
        )
    return [values[name] for name in wanted]
