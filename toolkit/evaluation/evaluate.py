"""Judges a trained model on its test clips: AUC with interval and pAUC, in both d′ modes, beside a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeasd.calibration.fit.deploy import SegmentOutputs, clip_scores
from edgeasd.calibration.fit.distance import paper_range
from edgeasd.calibration.threshold.gamma import GammaThreshold, gamma_threshold
from edgeasd.runtime.errors import CheckFailed, InputError
from edgeasd.runtime.features.logmel import Float32Array
from edgeasd.runtime.features.segments import SlidingSegments
from edgeasd.runtime.scoring.clip import score_features
from edgeasd.runtime.scoring.score import ScoreSettings, blend, relative_distance
from edgeasd.runtime.scoring.scorer import Scorer
from edgeasd.toolkit.data.clips import Clip
from edgeasd.toolkit.data.machine import MachineData
from edgeasd.toolkit.evaluation.at_threshold import at_threshold
from edgeasd.toolkit.evaluation.baseline import MahalanobisBaseline
from edgeasd.toolkit.evaluation.figures import Figures, Labels, agreement, difference, figures_of
from edgeasd.toolkit.evaluation.trained import GIVEN, UNFITTED, TrainedModel
from edgeasd.toolkit.presets import table_one_alpha
from edgeasd.toolkit.progress import ProgressCallback, no_progress

_BATCH = 64


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
    alpha_is_free: bool
    """Whether the method blends q and d′, so that α matters."""
    sources: list[Clip]
    """Where `clips` come from, in the same order; not stored."""
    at_threshold: dict[str, Any] | None = None
    """Faults found and false alarms at the shipped threshold; None without one."""

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
            **({} if self.at_threshold is None else {"at_threshold": self.at_threshold}),
            "notes": self.notes,
            "clips": self.clips,
        }


def collect(
    scorer: Scorer, data: MachineData, clips: Sequence[Clip], report: ProgressCallback = no_progress
) -> list[SegmentOutputs]:
    """q and d of every clip's segments (clip rule; short clips tiled)."""
    found = []
    for done, clip in enumerate(clips, start=1):
        scored = score_features(scorer, data.features(clip), tile_short=True).segments
        found.append(SegmentOutputs(scored.q, scored.d))
        report(done, len(clips))
    return found


class JoinedSegments:
    """q and d of every live segment of clips joined one after another, as a device would hear them, seams included."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._window = SlidingSegments(scorer.segments, scorer.features.n_mels)
        self._waiting: list[Float32Array] = []
        self._found: list[SegmentOutputs] = []

    def add(self, features: Float32Array) -> None:
        """Append the log-mel frames (T, n_mels) float32 of one clip."""
        for _, segment in self._window.push(np.asarray(features, np.float32)):
            self._waiting.append(segment.copy())
            if len(self._waiting) == _BATCH:
                self._score()

    def outputs(self) -> SegmentOutputs:
        """Those of all clips so far, (segments,) each."""
        self._score()
        empty = np.empty(0, np.float32)
        return SegmentOutputs(*(np.concatenate([empty, *(getattr(one, n) for one in self._found)]) for n in ("q", "d")))

    def _score(self) -> None:
        if self._waiting:
            scored = self._scorer.score_segments(np.stack(self._waiting))
            self._found.append(SegmentOutputs(scored.q, scored.d))
            self._waiting.clear()


def collect_joined(scorer: Scorer, data: MachineData, clips: Sequence[Clip]) -> SegmentOutputs:
    """`JoinedSegments` of `clips`."""
    joined = JoinedSegments(scorer)
    for clip in clips:
        joined.add(data.features(clip))
    return joined.outputs()


def evaluate(
    trained: TrainedModel,
    data: MachineData,
    *,
    baseline: bool = False,
    bundle: Scorer | None = None,
    excluded: frozenset[str] = frozenset(),
    unlabelled: bool = False,
    live: bool = False,
    report: ProgressCallback = no_progress,
) -> Evaluation:
    """Score the labelled test clips of the run's ID, with `unlabelled` the others too. InputError if there are none.

    Anomalies that were offered for an update never judge it, the ones left unused included;
    nor do the clips that chose its α; `excluded` (content hashes) leaves out more, so that several models face the same test set.
    With `live` the normal test clips are also played one after another, to count false alarms at the threshold.
    """
    run = trained.run
    clips = _test_clips(trained, data, excluded, unlabelled)
    labels = Labels(
        anomalous=np.array([clip.label == "anomaly" for clip in clips]),
        known=np.array([clip.label != "unknown" for clip in clips]),
        domains=[clip.domain for clip in clips],
    )
    outputs = collect(trained.scorer(UNFITTED), data, clips, report)
    modes, facts, notes = _both_modes(trained, outputs)
    scores = {name: clip_scores(settings, outputs) for name, settings in modes.items()}
    medians = {name: _clip_medians(settings, outputs) for name, settings in modes.items()}
    if bundle is not None:
        scores["bundle"] = clip_scores(bundle.score, collect(bundle, data, clips, report))
        facts["bundle"] = _constants(bundle.score)
        if "deploy" in scores:
            facts["bundle"] |= agreement(scores["deploy"], scores["bundle"], labels)
    if baseline:
        normals = data.split_for(run.id).normals
        try:
            model = MahalanobisBaseline().fit([data.features(clip) for clip in normals])
            scores["baseline"] = [model.score(data.features(clip)) for clip in clips]
            facts["baseline"] = {"kind": "Mahalanobis distance on mean log-mel", "clips": len(normals)}
        except InputError as error:
            # The network has figures all the same, and so have the other IDs.
            notes.append(f"no baseline: {error}")
    for name in ("bundle", "baseline"):
        if name in scores and "deploy" in scores:
            facts[name] |= difference(scores["deploy"], scores[name], labels)
    # The first mode: deploy if there is one, so that the parts of a clip add up to its deploy score.
    parts = _parts(next(iter(modes.values())), outputs)
    rows = _rows(data, clips, parts, scores)
    return Evaluation(
        machine=run.machine,
        id=run.id,
        normals=int(np.sum(labels.known & ~labels.anomalous)),
        anomalies=int(np.sum(labels.anomalous)),
        tiled=sum(len(data.features(clip)) < run.segments.frames for clip in clips),
        known_anomalies=run.known_anomalies,
        figures={name: figures_of(values, labels, facts[name], medians.get(name)) for name, values in scores.items()},
        clips=rows,
        trained=str(run.facts.get("started")),
        notes=[*notes, *_warnings(trained, data)],
        alpha_is_free=trained.method.fixed_alpha is None,
        sources=clips,
        at_threshold=_at_threshold(trained, data, clips, rows, live=live) if "deploy" in modes else None,
    )


def _at_threshold(
    trained: TrainedModel, data: MachineData, clips: Sequence[Clip], rows: list[dict[str, Any]], *, live: bool
) -> dict[str, Any] | None:
    """Figures at the threshold that `export` would ship; None if there is none."""
    fit, run = trained.deploy(), trained.run
    if fit.threshold is None:
        return None
    outliers = clip_scores(fit.score, trained.result.outliers) if trained.result.held_out else []
    joined = None
    if live and (normals := [clip for clip in clips if clip.label == "normal"]):
        outputs = collect_joined(trained.scorer(UNFITTED), data, normals)
        joined = (fit.score, outputs, run.features, run.segments)
    return at_threshold(rows, "deploy", fit.threshold, outliers, joined)


def _test_clips(trained: TrainedModel, data: MachineData, excluded: frozenset[str], unlabelled: bool) -> list[Clip]:
    """The clips that judge the model. Raises InputError if there are none."""
    run = trained.run
    test = data.split_for(run.id).test
    offered = run.candidates | trained.validation | excluded
    copied = {path for path, _ in data.copies}  # the test clip they equal judges for them
    clips = [
        clip
        for clip in test
        if (unlabelled or clip.label != "unknown") and clip.path not in copied and data.hashes[clip.path] not in offered
    ]
    if not clips:
        kind = "" if unlabelled else "labelled "
        waiting = sum(clip.label == "unknown" for clip in test)
        remedy = f", or label {waiting} that are there with --ground-truth" if waiting else ""
        raise InputError(f"{run.machine} ID {run.id}: 0 {kind}test clips in {data.root}; add some to judge by{remedy}")
    return clips


def _warnings(trained: TrainedModel, data: MachineData) -> list[str]:
    """What a reader must know of the figures: other training clips, or another channel, than the model had."""
    run, found = trained.run, []
    if run.facts.get("data_fingerprint") != data.fingerprint(data.split_for(run.id)):
        found.append("the training clips in the data folder are not those the model was trained on")
    if data.cache.channel != run.channel:
        used, trained_on = (
            "the only channel" if c is None else f"channel {c}" for c in (data.cache.channel, run.channel)
        )
        found.append(f"the clips were read from {used}, the model was trained on {trained_on}")
    return found


def _rows(
    data: MachineData,
    clips: Sequence[Clip],
    parts: Sequence[Mapping[str, float]],
    scores: Mapping[str, Sequence[float]],
) -> list[dict[str, Any]]:
    """One for each clip: its name, place and label, the parts of its score, and its score in every way."""
    return [
        {
            "file": clip.path.name,
            "path": clip.path.relative_to(data.root).as_posix(),
            "label": clip.label,
            **({"domain": clip.domain} if clip.domain else {}),
            **parts[i],
            **{name: float(scores[name][i]) for name in scores},
        }
        for i, clip in enumerate(clips)
    ]


def decision_threshold(trained: TrainedModel) -> GammaThreshold:
    """The threshold of official decision files: gamma fit, 0.9 quantile, of the run's held-out normal clips.

    Of its training normals where nothing was held out. On the scale of the `deploy` scores. Raises CheckFailed
    if the model has no such scale, InputError if the scores have no fit.
    """
    try:
        return gamma_threshold(clip_scores(trained.deploy().score, trained.result.normals))
    except InputError as error:
        raise InputError(f"{trained.run.machine} ID {trained.run.id}: {error}") from None


def _both_modes(
    trained: TrainedModel, outputs: Sequence[SegmentOutputs]
) -> tuple[dict[str, ScoreSettings], dict[str, dict[str, Any]], list[str]]:
    """Score constants: frozen (`deploy`), and those of the evaluation set itself (`paper`)."""
    modes: dict[str, ScoreSettings] = {}
    facts: dict[str, dict[str, Any]] = {}
    notes = []
    try:
        fit = trained.deploy()
        modes["deploy"] = fit.score
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
    modes["paper"] = settings
    facts["paper"] = _constants(settings)
    return modes, facts, notes


def _clip_medians(score: ScoreSettings, clips: Sequence[SegmentOutputs]) -> list[float]:
    """Clip scores with the median over sections in place of the mean."""
    scored = (blend(c.q, relative_distance(c.d, score.d_min, score.d_max), score.alpha) for c in clips)
    return [float(np.median(one)) for one in scored]


def _parts(score: ScoreSettings, clips: Sequence[SegmentOutputs]) -> list[dict[str, float]]:
    """Mean q and d′ of every clip: enough for its score at any α."""
    scored = ((c.q, relative_distance(c.d, score.d_min, score.d_max)) for c in clips)
    return [{"q": float(np.mean(q)), "d_prime": float(np.mean(d_prime))} for q, d_prime in scored]


def _paper_alpha(trained: TrainedModel) -> tuple[float, str]:
    if trained.method.fixed_alpha is not None:
        return trained.method.fixed_alpha, f"fixed by the method {trained.method.name}"
    if trained.alpha is not None and trained.alpha.source == GIVEN:
        return trained.alpha.value, GIVEN
    listed = table_one_alpha(trained.method.name, trained.run.machine)
    return (0.5, f"0.5: Table I has no {trained.run.machine}") if listed is None else (listed, "Table I")


def _constants(score: ScoreSettings) -> dict[str, Any]:
    return {"alpha": score.alpha, "alpha_source": score.alpha_source, "d_min": score.d_min, "d_max": score.d_max}
