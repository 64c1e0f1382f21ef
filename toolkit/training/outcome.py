"""What a finished training leaves for export and evaluation: held-out scores and a few real segments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeasd.runtime.segments import tile
from edgeasd.toolkit.data.clips import Clip
from edgeasd.toolkit.data.machine import MachineData, Roles
from edgeasd.toolkit.evaluation.evaluate import collect
from edgeasd.toolkit.evaluation.torch_scorer import torch_scorer
from edgeasd.toolkit.runs import Outcome, Run
from edgeasd.toolkit.training.trainer import Trainer

_GOLDEN_SEGMENTS = 16
"""Export holds ONNX against torch on all of them and puts the first few into the bundle."""
_STAND_IN_CLIPS = 200


def outcome_of(data: MachineData, roles: Roles, run: Run, trainer: Trainer, anomalies: Sequence[Clip] = ()) -> Outcome:
    """Score what was held out (or, if nothing was, training clips as a stand-in) and pick golden segments."""
    assert trainer.centroids is not None
    scorer = torch_scorer(trainer.network, trainer.centroids[0], run.features, run.amplitude, run.segments)
    held_out = bool(roles.holdout_normals and roles.holdout_outliers)
    normals = roles.holdout_normals if held_out else roles.normals[:_STAND_IN_CLIPS]
    outliers = roles.holdout_outliers if held_out else roles.outliers[:_STAND_IN_CLIPS]
    return Outcome(
        normals=collect(scorer, data, normals),
        outliers=collect(scorer, data, outliers),
        anomalies=collect(scorer, data, anomalies),
        held_out=held_out,
        golden=_golden(data, normals, outliers, run.segments.frames),
    )


def _golden(data: MachineData, normals: list[Clip], outliers: list[Clip], frames: int) -> np.ndarray:
    """Middle segments of real clips, (G, frames, n_mels) float32: three normals, one outlier, and so on."""
    chosen = []
    for index in range(_GOLDEN_SEGMENTS // 4):
        chosen += normals[3 * index : 3 * index + 3] + outliers[index : index + 1]
    segments = []
    for clip in chosen:
        features = data.features(clip)
        if len(features) < frames:
            features = tile(features, frames)
        start = (len(features) - frames) // 2
        segments.append(features[start : start + frames])
    return np.stack(segments)
