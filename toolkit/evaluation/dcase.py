"""The protocols of DCASE Task 2: AUC by domain, official score and decision files, F1 of decisions."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.system.files import write_bytes
from edgeasd.toolkit.data.clips import Clip
from edgeasd.toolkit.evaluation.metrics import auc, partial_auc

Variant = Literal["2021", "2022-2026"]
VARIANTS: tuple[Variant, ...] = ("2021", "2022-2026")
DOMAINS = ("source", "target")
KINDS = ("anomaly_score", "decision_result")


def decision_figures(decisions: ArrayLike, anomalous: ArrayLike) -> dict[str, float | None]:
    """precision, recall and f1 of decisions (1: anomalous) against labels, (clips,) each.

    None if a figure is 0 / 0: nothing was called anomalous, or nothing was. (The official scripts print 0.)
    """
    called, labels = np.asarray(decisions, bool), np.asarray(anomalous, bool)
    hits = int(np.sum(called & labels))
    precision = hits / int(called.sum()) if called.any() else None
    recall = hits / int(labels.sum()) if labels.any() else None
    both = int(called.sum()) + int(labels.sum())
    return {"precision": precision, "recall": recall, "f1": 2 * hits / both if both else None}


def variant_of(year: int) -> Variant:
    """The definition that held in a year's challenge; InputError for years without domains."""
    if not 2021 <= year <= 2026:
        raise InputError(f"year {year}: no per-domain AUC is defined; the challenges of 2021 to 2026 have domains")
    return "2021" if year == 2021 else "2022-2026"


def domain_figures(
    scores: ArrayLike, anomalous: ArrayLike, domains: Sequence[str | None], variant: Variant = "2022-2026"
) -> dict[str, float]:
    """AUC by domain and pAUC of one machine ID, after the table above.

    `scores` (clips,) finite, higher = more anomalous; `anomalous` (clips,) bool; `domains` one of "source",
    "target" or None a clip. Clips without a domain take part nowhere in 2021, and since 2022 in the pAUC, and as
    anomalies. What is undefined (a class without clips) is left out.

    Keys: auc_source, auc_target and, for 2021, pauc_source, pauc_target, else pauc; and
    harmonic_mean over those, where all are there. Raises InputError for an unknown variant or lengths that differ.
    """
    if variant not in VARIANTS:
        raise InputError(f"variant {variant!r} of the domain AUC is unknown; pass one of: {', '.join(VARIANTS)}")
    values, labels, names = np.asarray(scores, np.float64), np.asarray(anomalous, bool), np.asarray(domains, object)
    if not values.shape == labels.shape == names.shape == (values.size,):
        raise InputError(
            f"{values.shape} scores, {labels.shape} labels and {names.shape} domains; give one of each for every clip"
        )
    found: dict[str, float] = {}
    for domain in DOMAINS:
        here = names == domain
        normals = values[here & ~labels]
        anomalies = values[labels & here] if variant == "2021" else values[labels]
        if normals.size and anomalies.size:
            found[f"auc_{domain}"] = auc(normals, anomalies)
            if variant == "2021":
                found[f"pauc_{domain}"] = partial_auc(normals, anomalies)
    if variant != "2021" and labels.any() and not labels.all():
        found["pauc"] = partial_auc(values[~labels], values[labels])
    if len(found) == (4 if variant == "2021" else 3):
        found["harmonic_mean"] = harmonic_mean(found.values())
    return found


def harmonic_mean(values: Iterable[float]) -> float:
    """n / Σ 1/v over figures in [0, 1]; the official score is this over all AUCs and pAUCs of all IDs.

    One 0 makes it 0 (the official scripts put the smallest float in its place, with the same result
    to 15 digits). Raises InputError for no values, and for one that is negative or not finite.
    """
    given = [float(value) for value in values]
    if not given:
        raise InputError("0 figures have no harmonic mean; give at least one")
    bad = [value for value in given if not math.isfinite(value) or value < 0]
    if bad:
        raise InputError(f"{bad[0]} among {len(given)} figures; a harmonic mean takes finite numbers of 0 or more")
    if min(given) == 0:
        return 0.0
    # Dividing by the smallest first keeps 1/v finite for denormal values.
    smallest = min(given)
    return len(given) * smallest / sum(smallest / value for value in given)


@dataclass(frozen=True)
class Result:
    """The result of one test clip: its score, and 1 if that lies above the threshold of its model."""

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
