"""Fitting a bank of normals in place of training: one pass of the encoder over the machine's own clips."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.data.machine import MachineData
from edgeasd.toolkit.encoders.weights import Weights
from edgeasd.toolkit.models.backbones import Network, build_network, count_parameters
from edgeasd.toolkit.presets import Preset
from edgeasd.toolkit.progress import ProgressCallback
from edgeasd.toolkit.runs import Run
from edgeasd.toolkit.training.checkpoint import save_checkpoint
from edgeasd.toolkit.training.outcome import fit_banks_of
from edgeasd.toolkit.training.session import claim_run, run_facts


@dataclass(frozen=True)
class SharedEncoder:
    """A network whose encoder was trained for several IDs."""

    network: Network
    origin: dict[str, Any]
    """What run.json keeps of that training."""


def fit_one(
    data: MachineData,
    id: str,
    preset: Preset,
    seed: int,
    folder: Path,
    *,
    network: Network | SharedEncoder | None = None,
    weights: Weights | None = None,
    resume: bool = False,
    overwrite: bool = False,
    report: ProgressCallback,
) -> Run:
    """Fit the banks of one ID into `folder` and return its run; `data` must hold that machine.

    `network` is what embeds, with frozen weights that the run keeps; by default that of the preset's backbone, with
    `weights` if it is a pretrained encoder. The origin of one that was trained for several IDs goes into the run. Its
    `bank_plans()` says which banks there are. An interrupted fit begins anew; what `report` raises ends it.
    Raises InputError as `train_one`, and for too few clips.
    """
    split = data.trainable(id, alone=True)
    facts = run_facts(data, id, split, preset, seed, weights)
    if isinstance(network, SharedEncoder):
        facts, network = facts | {"shared_encoder": network.origin}, network.network
    run = Run(folder, facts)
    claim_run(run, resume=resume, overwrite=overwrite)
    run.drop_banks()
    if network is None:
        state = None if weights is None else weights.state
        network = build_network(preset.backbone, n_mels=data.cache.settings.n_mels, frozen=True, weights=state)
        if weights is None and count_parameters(network.encoder):
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
