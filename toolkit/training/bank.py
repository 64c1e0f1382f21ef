"""Fitting a bank of normals in place of training: one pass of the encoder over the machine's own clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgeasd.calibration.fit.bank import fit_bank, write_banks
from edgeasd.runtime.features.logmel import Float32Array
from edgeasd.runtime.features.segments import tile
from edgeasd.runtime.system.files import write_bytes
from edgeasd.toolkit.data.clips import Clip
from edgeasd.toolkit.data.machine import MachineData
from edgeasd.toolkit.evaluation.evaluate import collect, collect_joined
from edgeasd.toolkit.evaluation.trained import UNFITTED, TorchEngine, bank_scorer
from edgeasd.toolkit.models.backbones import build_network
from edgeasd.toolkit.models.logmel_stats import bank_plans
from edgeasd.toolkit.presets import Preset
from edgeasd.toolkit.progress import ProgressCallback
from edgeasd.toolkit.runs import BANKS, Run, TrainingResult
from edgeasd.toolkit.training.session import claim_run, pick_reference_segments, run_facts

_BATCH = 64


def fit_one(
    data: MachineData,
    id: str,
    preset: Preset,
    seed: int,
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    report: ProgressCallback,
) -> Run:
    """Fit the banks of one ID into `folder` and return its run; `data` must hold that machine.

    Takes seconds, so an interrupted fit begins anew; what `report` raises ends it. Raises InputError as `train_one`, and for too few clips.
    """
    split = data.trainable(id, alone=True)
    run = Run(folder, run_facts(data, id, split, preset, seed))
    claim_run(run, resume=resume, overwrite=overwrite)
    network = build_network(preset.backbone, n_mels=data.cache.settings.n_mels)
    engine = TorchEngine(network)
    z, clips = _embeddings(data, split.normals, preset, engine, report)
    plans = bank_plans(network.embedding_size)
    banks = [fit_bank(z, clips, plan, size=preset.bank_size, neighbours=preset.bank_neighbours) for plan in plans]
    scorer = bank_scorer(network, banks, run, UNFITTED)
    held_out = bool(split.holdout_normals)
    normals = split.holdout_normals if held_out else split.normals
    result = TrainingResult(
        normals=collect(scorer, data, normals),
        outliers=[],
        anomalies=[],
        held_out=held_out,
        golden=pick_reference_segments(data, normals, [], run.segments.frames),
        live_normals=collect_joined(scorer, data, normals) if held_out else None,
    )
    run.save()
    write_bytes(run.folder / BANKS, write_banks(banks))
    run.save_result(result)
    return run


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
