"""What a finished training leaves beside its weights: held-out scores, reference segments, and a bank of normals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeasd.calibration.fit.bank import fit_banks
from edgeasd.calibration.fit.deploy import SegmentOutputs
from edgeasd.runtime.features.logmel import Float32Array
from edgeasd.runtime.features.segments import tile
from edgeasd.toolkit.data.clips import Clip
from edgeasd.toolkit.data.machine import MachineData, MachineSplit
from edgeasd.toolkit.evaluation.evaluate import collect
from edgeasd.toolkit.evaluation.trained import UNFITTED, TorchEngine, bank_scorer, torch_scorer
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
    z, clips = _embeddings(data, split.normals, preset, engine, report)
    banks, unseen = fit_banks(z, clips, network.bank_plans(), size=preset.bank_size, neighbours=preset.bank_neighbours)
    scorer = bank_scorer(network, banks, run, UNFITTED)
    held_out = bool(split.holdout_normals)
    if held_out:
        normals = collect(scorer, data, split.holdout_normals)
    else:
        q = scorer.head(z)["q"]
        rows = [np.flatnonzero(clips == index) for index in range(len(split.normals))]
        normals = [SegmentOutputs(q[own], unseen[own].astype(np.float32)) for own in rows]
    outliers = split.holdout_outliers if held_out else split.outliers[:_STAND_IN_CLIPS]
    result = TrainingResult(
        normals=normals,
        # Without a classifier nobody asks how far other machines are.
        outliers=[] if run.is_stored else collect(scorer, data, outliers),
        anomalies=collect(scorer, data, anomalies),
        held_out=held_out,
        golden=pick_reference_segments(
            data, split.holdout_normals or split.normals, [] if run.is_stored else outliers, run.segments.frames
        ),
    )
    run.save_banks(banks, result)


def section_starts(frames: int, length: int, count: int) -> list[int]:
    """First frames of `count` segments spread over a clip, both ends included; fewer where they would coincide."""
    last = max(0, frames - length)
    return sorted({round(last * i / max(1, count - 1)) for i in range(count)})


def _embeddings(
    data: MachineData,
    normals: Sequence[Clip],
    preset: Preset,
    engine: TorchEngine,
    report: ProgressCallback,
) -> tuple[Float32Array, np.ndarray]:
    """Embeddings (N, D) of a few segments of each clip, and the index of the clip of each."""
    found: list[Float32Array] = []
    clips: list[int] = []
    waiting: list[Float32Array] = []
    for index, clip in enumerate(normals):
        features = data.features(clip)
        if len(features) < preset.segment_frames:
            features = tile(features, preset.segment_frames)
        for start in section_starts(len(features), preset.segment_frames, preset.bank_sections):
            waiting.append(np.asarray(features[start : start + preset.segment_frames]))
            clips.append(index)
        if len(waiting) >= _BATCH or index + 1 == len(normals):
            found.append(engine.embed(np.stack(waiting)[:, None]))
            waiting.clear()
        report(index + 1, len(normals), "normal clips")
    return np.concatenate(found), np.array(clips)
