"""A trained model judged on its test clips: AUC with interval and pAUC, in both d′ modes, beside a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeasd.calibration.deploy import SegmentOutputs, clip_scores
from edgeasd.calibration.distance import paper_range
from edgeasd.runtime.clip import score_features
from edgeasd.runtime.errors import CheckFailed, InputError
from edgeasd.runtime.score import ScoreSettings
from edgeasd.runtime.scorer import Scorer
from edgeasd.toolkit.data.clips import Clip
from edgeasd.toolkit.data.machine import MachineData
from edgeasd.toolkit.evaluation.baseline import MahalanobisBaseline
from edgeasd.toolkit.evaluation.metrics import auc, hanley_mcneil, partial_auc, tied_pairs
from edgeasd.toolkit.evaluation.torch_scorer import UNFITTED
from edgeasd.toolkit.evaluation.trained import Trained
from edgeasd.toolkit.presets import table_one_alpha
from edgeasd.toolkit.progress import Report, quiet

TIE = 1e-4
"""Clip scores closer than this count as tied when two scorings of the same clips are compared."""


@dataclass(frozen=True)
class Figures:
    """What one way of scoring achieves on one ID. AUC and pAUC are None where they are undefined."""

    auc: float | None
    interval: tuple[float, float] | None
    """95 %, Hanley and McNeil, normal as the positive class."""
    pauc: float | None
    """At a false-positive rate of 0.1, McClish-standardised."""
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        interval = None if self.interval is None else list(self.interval)
        return {"auc": self.auc, "interval95": interval, "pauc_0.1": self.pauc, **self.facts}


@dataclass(frozen=True)
class Evaluation:
    """One ID: figures by way of scoring, and every clip's scores."""

    machine: str
    id: str
    normals: int
    anomalies: int
    tiled: int
    known_anomalies: int
    """That the model was updated with."""
    figures: dict[str, Figures]
    clips: list[dict[str, Any]]
    trained: str
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return {
            "machine": self.machine,
            "id": self.id,
            "trained": self.trained,
            "normals": self.normals,
            "anomalies": self.anomalies,
            "tiled": self.tiled,
            "known_anomalies": self.known_anomalies,
            "figures": {name: figures.to_json() for name, figures in self.figures.items()},
            "notes": self.notes,
            "clips": self.clips,
        }


def collect(scorer: Scorer, data: MachineData, clips: Sequence[Clip], report: Report = quiet) -> list[SegmentOutputs]:
    """q and d of every clip's segments (clip rule; short clips tiled)."""
    found = []
    for done, clip in enumerate(clips, start=1):
        scored = score_features(scorer, data.features(clip), tile_short=True).segments
        found.append(SegmentOutputs(scored.q, scored.d))
        report(done, len(clips))
    return found


def evaluate(
    trained: Trained,
    data: MachineData,
    *,
    baseline: bool = False,
    bundle: Scorer | None = None,
    excluded: frozenset[str] = frozenset(),
    report: Report = quiet,
) -> Evaluation:
    """Score the labelled test clips of the run's ID. Raises InputError where there are none.

    Anomalies that were offered for an update never judge it, the ones left unused included;
    `excluded` (content hashes) leaves out more, so that several models face the same test set.
    """
    run = trained.run
    roles = data.roles(run.id)
    offered = run.candidates | excluded
    copied = {path for path, _ in data.copies}  # the test clip they equal judges for them
    labelled = [clip for clip in roles.test if clip.label != "unknown" and clip.path not in copied]
    clips = [clip for clip in labelled if data.hashes[clip.path] not in offered]
    if not clips:
        unlabelled = sum(clip.label == "unknown" for clip in roles.test)
        remedy = f", or label {unlabelled} that are there with --ground-truth" if unlabelled else ""
        raise InputError(
            f"{run.machine} ID {run.id}: 0 labelled test clips in {data.root}; add some to judge by{remedy}"
        )
    labels = np.array([clip.label == "anomaly" for clip in clips])
    outputs = collect(trained.scorer(UNFITTED), data, clips, report)
    scores, facts, notes = _both_modes(trained, outputs)
    if bundle is not None:
        of_bundle = collect(bundle, data, clips, report)
        scores["bundle"] = clip_scores(bundle.score, of_bundle)
        facts["bundle"] = _constants(bundle.score) | _agreement(scores, labels)
    if baseline:
        model = MahalanobisBaseline().fit([data.features(clip) for clip in roles.normals])
        scores["baseline"] = [model.score(data.features(clip)) for clip in clips]
        facts["baseline"] = {"kind": "Mahalanobis distance on mean log-mel", "clips": len(roles.normals)}
    if run.facts.get("data_fingerprint") != data.fingerprint(roles):
        notes.append("the training clips in the data folder are not those the model was trained on")
    if data.cache.channel != run.channel:
        heard, trained_on = (
            "the only channel" if c is None else f"channel {c}" for c in (data.cache.channel, run.channel)
        )
        notes.append(f"the clips were heard on {heard}, the model was trained on {trained_on}")
    frames = run.segments.frames
    return Evaluation(
        machine=run.machine,
        id=run.id,
        normals=int(np.sum(~labels)),
        anomalies=int(np.sum(labels)),
        tiled=sum(len(data.features(clip)) < frames for clip in clips),
        known_anomalies=run.known_anomalies,
        figures={name: _figures(np.asarray(values), labels, facts[name]) for name, values in scores.items()},
        clips=[
            {"file": clip.path.name, "label": clip.label, **{name: float(scores[name][i]) for name in scores}}
            for i, clip in enumerate(clips)
        ],
        trained=str(run.facts.get("started")),
        notes=notes,
    )


def _both_modes(
    trained: Trained, outputs: Sequence[SegmentOutputs]
) -> tuple[dict[str, list[float]], dict[str, dict[str, Any]], list[str]]:
    """Clip scores with frozen constants (`deploy`) and with those of the evaluation set itself (`paper`)."""
    scores: dict[str, list[float]] = {}
    facts: dict[str, dict[str, Any]] = {}
    notes = []
    try:
        fit = trained.deploy()
        scores["deploy"] = clip_scores(fit.score, outputs)
        facts["deploy"] = _constants(fit.score)
        if fit.threshold is not None:
            facts["deploy"]["threshold"] = fit.threshold.clip
    except CheckFailed as error:
        notes.append(f"no deploy mode: {error}")
    span = paper_range([c.d for c in outputs])
    alpha, source = _paper_alpha(trained)
    settings = ScoreSettings(
        method=trained.method.name,
        alpha=alpha,
        alpha_source=source,
        d_min=span.d_min,
        d_max=span.d_max,
        d_min_source=span.d_min_source,
        d_max_source=span.d_max_source,
        mode="paper",
    )
    scores["paper"] = clip_scores(settings, outputs)
    facts["paper"] = _constants(settings)
    return scores, facts, notes


def _paper_alpha(trained: Trained) -> tuple[float, str]:
    if trained.method.fixed_alpha is not None:
        return trained.method.fixed_alpha, f"fixed by the method {trained.method.name}"
    listed = table_one_alpha(trained.method.name, trained.run.machine)
    if listed is not None:
        return listed, "Table I"
    return 0.5, f"0.5: Table I has no {trained.run.machine}"


def _constants(score: ScoreSettings) -> dict[str, Any]:
    return {"alpha": score.alpha, "alpha_source": score.alpha_source, "d_min": score.d_min, "d_max": score.d_max}


def _figures(scores: np.ndarray, labels: np.ndarray, facts: dict[str, Any]) -> Figures:
    normal, anomaly = scores[~labels], scores[labels]
    if not normal.size or not anomaly.size:
        why = f"AUC undefined: {normal.size} normal and {anomaly.size} anomalous test clips"
        return Figures(None, None, None, {**facts, "undefined": why})
    value = auc(normal, anomaly)
    interval = hanley_mcneil(value, normal.size, anomaly.size)
    return Figures(value, (interval.low, interval.high), partial_auc(normal, anomaly), facts)


def _agreement(scores: dict[str, list[float]], labels: np.ndarray) -> dict[str, Any]:
    """How the bundle ranks the clips beside the checkpoint: pairs in another order, and those that are ties."""
    if "deploy" not in scores:
        return {}
    ours, theirs = np.asarray(scores["deploy"]), np.asarray(scores["bundle"])
    largest = float(np.max(np.abs(ours - theirs)))
    if labels.all() or not labels.any():
        return {"largest_score_difference": largest}
    pairs = tied_pairs(ours[~labels], ours[labels], theirs[~labels], theirs[labels], TIE)
    return {
        "largest_score_difference": largest,
        "pairs": pairs.total,
        "pairs_in_another_order": pairs.discordant,
        "of_these_tied_within_1e-4": pairs.explained_by_ties,
    }
