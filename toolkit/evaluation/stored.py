"""Stored evaluations (evaluation.json): read, checked, averaged over seeds and IDs, compared."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgeasd.calibration.drift.ranking import PairedComparison, delong
from edgeasd.runtime.errors import InputError, describe_validation_error
from edgeasd.toolkit.evaluation.dcase import VARIANTS, harmonic_mean
from edgeasd.toolkit.evaluation.figures import Labels, figures_of
from edgeasd.toolkit.runs import EVALUATION, Run, load_run

_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)]


class _StoredFigures(BaseModel):
    model_config = ConfigDict(extra="allow")

    auc: _Share | None
    pauc: Annotated[_Share | None, Field(alias="pauc_0.1")]


class _StoredClip(BaseModel):
    """`file`, `label`, and a score for each way of scoring; evaluations of before have no `path`."""

    model_config = ConfigDict(extra="allow")

    file: str
    label: str


class EvaluationFile(BaseModel):
    """The part of an evaluation.json that its readers rely on."""

    model_config = ConfigDict(extra="allow")

    machine: str
    id: str
    trained: str
    figures: dict[str, _StoredFigures]
    clips: list[_StoredClip]

    @model_validator(mode="after")
    def _every_clip_is_scored(self) -> EvaluationFile:
        for number, clip in enumerate(self.clips):
            for name in self.figures:
                score = (clip.model_extra or {}).get(name)
                if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
                    raise ValueError(f"clips.{number}: score {name} is {score!r}")
        return self


def check_evaluation(content: object) -> str | None:
    """What keeps `content` from being an evaluation, or None."""
    try:
        EvaluationFile.model_validate(content)
    except ValidationError as error:
        return describe_validation_error(error, EvaluationFile).partition(";")[0]
    return None


@dataclass(frozen=True)
class StoredEvaluation:
    """The content of an evaluation.json, its path, and the run beside it if there is one."""

    path: Path
    content: dict[str, Any]
    run: Run | None

    @property
    def label(self) -> str:
        """Machine and ID for people."""
        return f"{self.content['machine']} ID {self.content['id']}"


def read_evaluation(path: Path) -> dict[str, Any]:
    """An evaluation.json, checked by `EvaluationFile`. Raises InputError that names the file."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no evaluation here; make it with `edgeasd evaluate`") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error}); evaluate again or delete it") from None
    wrong = check_evaluation(content)
    if wrong:
        raise InputError(f"{path}: {wrong}; evaluate again or delete it")
    return dict(content)


def stored_evaluation(source: Path, update: str | None = None) -> StoredEvaluation:
    """The evaluation in a run folder (of its newest update by default, see `Run.chosen`), or an evaluation.json.

    Raises InputError if there is none, or if the run was trained again since.
    """
    run: Run | None = None
    if source.is_dir():
        run = load_run(source).chosen(update)
        path = run.path_of(EVALUATION, of_banks=run.is_scored_by_banks)
    else:
        path = source
        if (source.parent / "run.json").is_file():
            run = load_run(source.parent)
    content = read_evaluation(path)
    if run is not None and content["trained"] != run.facts.get("started"):
        raise InputError(f"{path}: is of an earlier training of this folder; run `edgeasd evaluate` again")
    return StoredEvaluation(path, content, run)


def evaluations_in(source: Path, update: str | None = None) -> list[StoredEvaluation]:
    """Those of a workspace (every run in runs/), or the one of a run folder or an evaluation.json.

    Raises InputError if there is none, or if a run is not evaluated.
    """
    if not (source / "runs").is_dir():
        return [stored_evaluation(source, update)]
    folders = sorted(path.parent for path in (source / "runs").glob("*/id_*/run.json"))
    if not folders:
        raise InputError(f"{source}/runs: 0 training runs; train first with `edgeasd train`, or name another workspace")
    return [stored_evaluation(folder, update) for folder in folders]


def by_id(evaluations: Sequence[StoredEvaluation]) -> dict[tuple[str, str], list[StoredEvaluation]]:
    """{(machine, ID): evaluations in order of seed}.

    Raises InputError for one whose run is not beside it, for two of one seed, and for two trainings that
    differ in more than their seed: a spread over those would mix two causes.
    """
    groups: defaultdict[tuple[str, str], list[StoredEvaluation]] = defaultdict(list)
    for one in evaluations:
        groups[(str(one.content["machine"]), str(one.content["id"]))].append(one)
    for key, group in groups.items():
        group.sort(key=lambda one: seed_of(one))
        _check(key, group)
    return dict(sorted(groups.items()))


def seed_of(one: StoredEvaluation) -> int:
    """The seed of the training. Raises InputError."""
    return int(_run(one).facts["seed"])


def _run(one: StoredEvaluation) -> Run:
    if one.run is None:
        raise InputError(f"{one.path}: has no run.json beside it, so its seed is unknown; name the run folder")
    return one.run


def _check(key: tuple[str, str], group: Sequence[StoredEvaluation]) -> None:
    first = group[0]
    which = f"{key[0]} ID {key[1]}"
    for earlier, later in pairwise(group):
        if seed_of(earlier) == seed_of(later):
            raise InputError(
                f"{earlier.path} and {later.path}: {which} with seed {seed_of(later)} twice; name each seed once"
            )
    for other in group[1:]:
        for name in ("preset", "channel", "features"):
            before, now = _run(first).facts.get(name), _run(other).facts.get(name)
            if before != now:
                raise InputError(
                    f"{first.path} and {other.path}: {which} with another {name} ({_difference(before, now)}); "
                    "a spread over seeds needs trainings that differ in nothing else"
                )
        if _run(first).known_anomalies != _run(other).known_anomalies:
            raise InputError(
                f"{first.path} and {other.path}: {which} updated with {_run(first).known_anomalies} and "
                f"{_run(other).known_anomalies} known anomalies; name updates of one size with --update"
            )


def _difference(before: object, now: object) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        return ", ".join(f"{key} {before.get(key)!r} and {now.get(key)!r}" for key in changed)
    return f"{before!r} and {now!r}"


@dataclass(frozen=True)
class Spread:
    """One figure over several seeds."""

    mean: float
    std: float | None
    """Sample standard deviation (n − 1); None for one seed, which has no spread."""
    low: float
    high: float
    runs: int


def over_seeds(
    evaluations: Sequence[Mapping[str, Any]], names: Sequence[object] | None = None
) -> dict[str, dict[str, Spread]]:
    """{way of scoring: {figure: Spread}} over evaluations of one machine ID that differ in their seed.

    Figures are auc and pauc_0.1; a way of scoring that is missing or undefined in one run is left out of
    the result. Raises InputError for none, for different IDs and for different test clips: a mean over those
    would mix two causes. `names` are what errors call the evaluations; their positions by default.
    """
    if not evaluations:
        raise InputError("0 evaluations have no mean; give at least one")
    which = {(str(one["machine"]), str(one["id"])) for one in evaluations}
    if len(which) > 1:
        names = ", ".join(f"{machine} ID {id}" for machine, id in sorted(which))
        raise InputError(f"evaluations of {names}: seeds are averaged for one ID; give those of one")
    first = _labels(evaluations[0])
    called = [f"evaluation {number}" for number in range(len(evaluations))] if names is None else names
    for name, one in zip(called, evaluations, strict=True):
        if _labels(one) != first:
            raise InputError(
                f"{name} has other test clips than {called[0]}; judge all seeds on the same clips "
                "(a layout with its own test split, or --without)"
            )
    found: dict[str, dict[str, Spread]] = {}
    for name in evaluations[0]["figures"]:
        for figure in ("auc", "pauc_0.1"):
            values = [one["figures"].get(name, {}).get(figure) for one in evaluations]
            if all(value is not None for value in values):
                found.setdefault(name, {})[figure] = _spread([float(value) for value in values])
    return found


def over_ids(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """{way of scoring: arithmetic and harmonic means} over IDs, of the figures that are defined.

    auc, pauc_0.1 and their *_harmonic; `ids` is how many count. Where every such ID has all figures of a variant, `domains` has
    for that variant the mean of each figure, and `harmonic_mean` over all AUCs and pAUCs: the official score.
    """
    means: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(name for one in evaluations for name in one["figures"]):
        figures = [one["figures"][name] for one in evaluations if name in one["figures"]]
        defined = [one for one in figures if one["auc"] is not None]
        if not defined:
            continue
        means[name] = {"ids": len(defined)}
        for figure in ("auc", "pauc_0.1"):
            values = [float(one[figure]) for one in defined]
            means[name] |= {figure: statistics.fmean(values), f"{figure}_harmonic": harmonic_mean(values)}
        of_variants = {v: _domain_means([one.get("domains", {}).get(v) for one in defined]) for v in VARIANTS}
        if domains := {variant: found for variant, found in of_variants.items() if found}:
            means[name]["domains"] = domains
    return means


def pooled(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """{way of scoring: figures} over the clips of all IDs together, as if one threshold served them all.

    Each clip keeps the score of its own ID's model. This is the protocol of a section that holds several IDs
    (DCASE 2021 to 2026). A way of scoring that one of the IDs lacks is left out.
    """
    clips = [clip for one in evaluations for clip in one["clips"]]
    labels = Labels(
        anomalous=np.array([clip["label"] == "anomaly" for clip in clips]),
        known=np.array([clip["label"] != "unknown" for clip in clips]),
        domains=[clip.get("domain") for clip in clips],
    )
    names = dict.fromkeys(name for one in evaluations for name in one["figures"])
    return {
        name: figures_of([float(clip[name]) for clip in clips], labels, {"ids": len(evaluations)}).to_json()
        for name in names
        if all(name in clip for clip in clips)
    }


def _domain_means(of_ids: Sequence[Mapping[str, float] | None]) -> dict[str, float]:
    """Means over IDs that have all figures of a variant; empty if one of them has not."""
    complete = [one for one in of_ids if one is not None and "harmonic_mean" in one]
    if len(complete) < len(of_ids):
        return {}
    keys = [key for key in complete[0] if key != "harmonic_mean"]
    means = {key: statistics.fmean(one[key] for one in complete) for key in keys}
    return {**means, "harmonic_mean": harmonic_mean(one[key] for one in complete for key in keys)}


def compare(a: Mapping[str, Any], b: Mapping[str, Any], scoring: str = "deploy") -> PairedComparison:
    """DeLong's test between two evaluations of the same clips, paired by path and never by position.

    `scoring` is a way of scoring both have. Raises InputError if one lacks it, if the clips
    differ (the first one missing is named), and as `delong` does.
    """
    for one in (a, b):
        if scoring not in one["figures"]:
            have = ", ".join(one["figures"])
            raise InputError(f"{one['machine']} ID {one['id']}: not scored by {scoring!r} (it has {have}); pass one")
    labels = _labels(a)
    if labels != _labels(b):
        odd = sorted(labels.items() ^ _labels(b).items())
        raise InputError(f"{odd[0][0]}: is not judged alike in both evaluations; compare models on the same clips")
    scores = [{_key(clip): float(clip[scoring]) for clip in one["clips"]} for one in (a, b)]
    normals, anomalies = (sorted(key for key in labels if labels[key] == kind) for kind in ("normal", "anomaly"))
    (a_normal, a_anomaly), (b_normal, b_anomaly) = (
        ([of[key] for key in normals], [of[key] for key in anomalies]) for of in scores
    )
    return delong(a_normal, a_anomaly, b_normal, b_anomaly)


def _labels(one: Mapping[str, Any]) -> dict[str, str]:
    return {_key(clip): str(clip["label"]) for clip in one["clips"]}


def _key(clip: Mapping[str, Any]) -> str:
    # Two folders may hold a file of one name; evaluations written before paths were stored have the name only.
    return str(clip.get("path") or f"{clip['label']}/{clip['file']}")


def _spread(values: list[float]) -> Spread:
    std = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.fmean(values), std, min(values), max(values), len(values))
