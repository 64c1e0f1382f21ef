"""What a finished training leaves beside its weights: held-out scores, reference segments, and a bank of normals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from edgeasd.calibration.fit.deploy import SegmentOutputs
from edgeasd.calibration.fit.stored_normals import EmbeddedClips, StoredNormals, embedded_clips, section_starts
from edgeasd.runtime.features.logmel import Float32Array
from edgeasd.runtime.features.segments import clip_starts, tile
from edgeasd.runtime.scoring.scorer import Scorer
from edgeasd.toolkit.data.clips import Clip
from edgeasd.toolkit.data.machine import MachineData, MachineSplit
from edgeasd.toolkit.evaluation.evaluate import collect, collect_joined
from edgeasd.toolkit.evaluation.trained import UNFITTED, BankHead, TorchEngine, bank_scorer, torch_scorer
from edgeasd.toolkit.models.backbones import Network
from edgeasd.toolkit.presets import Preset
from edgeasd.toolkit.progress import ProgressCallback
from edgeasd.toolkit.runs import Run, TrainingResult
from edgeasd.toolkit.training.trainer import Trainer

_REFERENCE_SEGMENTS = 16
"""Export holds ONNX against torch on all of them and puts the first few into the bundle."""
_STAND_IN_CLIPS = 200
_BATCH = 64


def training_result(
    data: MachineData, split: MachineSplit, run: Run, trainer: Trainer, anomalies: Sequence[Clip] = ()
) -> TrainingResult:
    """Score what was held out (or, if nothing was, training clips as a stand-in) and pick reference segments."""
    assert trainer.centroids is not None
    scorer = torch_scorer(trainer.network, trainer.centroids[0], run.features, run.amplitude, run.segments)
    held_out = bool(split.holdout_normals and split.holdout_outliers)
    normals = split.holdout_normals if held_out else split.normals[:_STAND_IN_CLIPS]
    outliers = split.holdout_outliers if held_out else split.outliers[:_STAND_IN_CLIPS]
    return TrainingResult(
        normals=collect(scorer, data, normals),
        outliers=collect(scorer, data, outliers),
        anomalies=collect(scorer, data, anomalies),
        held_out=held_out,
        golden=pick_reference_segments(data, normals, outliers, run.segments.frames),
        live_normals=collect_joined(scorer, data, normals) if held_out else None,
    )


def pick_reference_segments(data: MachineData, normals: list[Clip], outliers: list[Clip], frames: int) -> np.ndarray:
    """Middle segments of real clips, (G, frames, n_mels) float32: three normals, one outlier, and so on."""
    chosen = []
    for index in range(_REFERENCE_SEGMENTS // 4):
        chosen += normals[3 * index : 3 * index + 3] + outliers[index : index + 1]
    segments = []
    for clip in chosen:
        features = data.features(clip)
        if len(features) < frames:
            features = tile(features, frames)
        start = (len(features) - frames) // 2
        segments.append(features[start : start + frames])
    return np.stack(segments)


def fit_banks_of(
    run: Run,
    network: Network,
    data: MachineData,
    split: MachineSplit,
    preset: Preset,
    *,
    anomalies: Sequence[Clip] = (),
    report: ProgressCallback,
) -> None:
    """Fit the banks of a network, frozen or trained, on the normals of `split`, and store them with `run`.

    Beside them goes what the held-out normals and outliers, and known `anomalies`, give with them. Where nothing was
    held out a training normal stands in, judged by banks that have not seen its clip: in its own bank it would lie at
    no distance. Raises InputError for too few clips, values that are not finite, and copies.
    """
    engine = TorchEngine(network)
    held_out = bool(split.holdout_normals)
    # Without a classifier nobody asks how far other machines are.
    away = [] if run.is_stored else split.holdout_outliers if held_out else split.outliers[:_STAND_IN_CLIPS]

    def by_clip_rule(frames: int) -> list[int]:
        return clip_starts(frames, run.segments)

    def embed(clips: Sequence[Clip], starts: Callable[[int], list[int]], what: str) -> EmbeddedClips:
        parts = _embeddings(
            data, clips, preset.segment_frames, starts, engine, lambda done, total: report(done, total, what)
        )
        return embedded_clips(parts, [data.hashes[clip.path] for clip in clips], network.embedding_size)

    kept = StoredNormals(
        tuple(network.bank_plans()),
        preset.bank_size,
        preset.bank_neighbours,
        preset.bank_sections,
        embed(
            split.normals,
            lambda frames: section_starts(frames, preset.segment_frames, preset.bank_sections),
            "normal clips",
        ),
        embed(split.holdout_normals, by_clip_rule, "held-out clips"),
        embed(away, by_clip_rule, "outlier clips"),
        np.empty((0, network.embedding_size), np.float32),
    )
    banks, unseen = kept.fit()
    head = BankHead(network, banks)
    live, live_outputs = _live(bank_scorer(network, banks, run, UNFITTED), data, split.holdout_normals)
    result = TrainingResult(
        normals=_outputs(head, kept.held_out) if held_out else _outputs(head, kept.stored, unseen),
        outliers=_outputs(head, kept.outliers),
        anomalies=_outputs(head, embed(anomalies, by_clip_rule, "known anomalies")),
        held_out=held_out,
        golden=pick_reference_segments(data, split.holdout_normals or split.normals, list(away), run.segments.frames),
        live_normals=live_outputs if held_out else None,
    )
    if held_out and len(live):
        kept = replace(kept, live=live)
    run.save_banks(banks, kept.bounded(), result)


def _live(scorer: Scorer, data: MachineData, normals: Sequence[Clip]) -> tuple[Float32Array, SegmentOutputs]:
    """Embeddings (L, D) of the live segments of clips joined one after another, and their outputs."""
    found: list[Float32Array] = []
    head = scorer.head

    def keep(z: Float32Array) -> Mapping[str, Float32Array]:
        found.append(z)
        return head(z)

    scorer.head = keep
    outputs = collect_joined(scorer, data, normals)
    return np.concatenate(found) if found else np.empty((0, 0), np.float32), outputs


def _outputs(head: BankHead, clips: EmbeddedClips, d: np.ndarray | None = None) -> list[SegmentOutputs]:
    """q and d of the segments of each clip, with these distances (N,) in place of the head's."""
    if not len(clips.z):
        return []
    found = head(clips.z)
    d = found["d"] if d is None else d.astype(np.float32)
    return [SegmentOutputs(*pair) for pair in zip(clips.by_clip(found["q"]), clips.by_clip(d), strict=True)]


def _embeddings(
    data: MachineData,
    clips: Sequence[Clip],
    length: int,
    starts: Callable[[int], list[int]],
    engine: TorchEngine,
    report: Callable[[int, int], None],
) -> list[Float32Array]:
    """Embeddings (segments, D) of each clip, of the segments of `length` frames that begin at `starts`(frames)."""
    found: list[Float32Array] = []
    counts: list[int] = []
    waiting: list[Float32Array] = []
    for index, clip in enumerate(clips):
        features = data.features(clip)
        if len(features) < length:
            features = tile(features, length)
        begins = starts(len(features))
        counts.append(len(begins))
        waiting += [np.asarray(features[start : start + length]) for start in begins]
        while len(waiting) >= _BATCH or (waiting and index + 1 == len(clips)):
            found.append(engine.embed(np.stack(waiting[:_BATCH])[:, None]))
            del waiting[:_BATCH]
        report(index + 1, len(clips))
    return np.split(np.concatenate(found), np.cumsum(counts)[:-1]) if found else []
