"""Evaluations found in several workspaces, sorted into trainings that differ in nothing but their seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.evaluation.stored import StoredEvaluation, stored_evaluation
from edgeasd.toolkit.runs import Run


def evaluations_in(source: Path, update: str | None = None) -> list[StoredEvaluation]:
    """Those of a workspace (every run in runs/), or the one of a run folder or an evaluation.json.

    Raises InputError where there is none, or a run is not evaluated.
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
