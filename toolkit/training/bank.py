"""Fitting a bank of normals in place of training: one pass of the encoder over the machine's own clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from edgeasd.calibration.fit.bank import fit_banks
from edgeasd.calibration.fit.deploy import SegmentOutputs
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.features.logmel import Float32Array
from edgeasd.runtime.features.segments import tile
from edgeasd.toolkit.data.clips import Clip
from edgeasd.toolkit.data.machine import MachineData, MachineSplit
from edgeasd.toolkit.evaluation.evaluate import collect
from edgeasd.toolkit.evaluation.trained import UNFITTED, TorchEngine, bank_scorer
from edgeasd.toolkit.models.backbones import Network, build_network, count_parameters
from edgeasd.toolkit.presets import Preset
from edgeasd.toolkit.progress import ProgressCallback
from edgeasd.toolkit.runs import Run, TrainingResult
from edgeasd.toolkit.training.checkpoint import save_checkpoint
from edgeasd.toolkit.training.session import STAND_IN_CLIPS, claim_run, pick_reference_segments, run_facts

_BATCH = 64


def fit_one(
    data: MachineData,
    id: str,
    preset: Preset,
    seed: int,
    folder: Path,
    *,
    network: Network | None = None,
    resume: bool = False,
    overwrite: bool = False,
    report: ProgressCallback,
) -> Run:
    """Fit the banks of one ID into `folder` and return its run; `data` must hold that machine.

    `network` is what embeds, with frozen weights that the run keeps; by default that of the preset's backbone, which
    must be one without weights. Its `bank_plans()` says which banks there are. An interrupted fit begins anew; what
    `report` raises ends it. Raises InputError as `train_one`, and for too few clips.
    """
    split = data.trainable(id, alone=True)
    run = Run(folder, run_facts(data, id, split, preset, seed))
    claim_run(run, resume=resume, overwrite=overwrite)
    run.drop_banks()
    if network is None:
        network = build_network(preset.backbone, n_mels=data.cache.settings.n_mels)
        if count_parameters(network.encoder):
            raise InputError(f"{preset.backbone} has weights, and knn trains none; name a file of them with --weights")
    torch.nn.init.zeros_(network.head.weight)
    network.eval()
    if count_parameters(network.encoder):
        none = torch.zeros(network.embedding_size)
        facts = {key: run.facts[key] for key in ("machine", "id", "data_fingerprint", "versions")}
        save_checkpoint(run.checkpoints, network, (none, none), {}, {**facts, "iteration": 0}, keep=1)
    run.save()
    fit_banks_of(run, network, data, split, preset, report=report)
    return run


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
    outliers = split.holdout_outliers if held_out else split.outliers[:STAND_IN_CLIPS]
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
