"""Training by classification: one encoder learns to tell all machine IDs, and what else their names say, apart."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.features.logmel import Amplitude
from edgeasd.toolkit.data.clips import Clip
from edgeasd.toolkit.data.machine import MachineData, MachineSplit
from edgeasd.toolkit.encoders.table import ENCODERS
from edgeasd.toolkit.encoders.weights import Weights
from edgeasd.toolkit.losses import CLASSIFY, LossParts, SubCentres, classification_loss
from edgeasd.toolkit.models.backbones import Network, network_of
from edgeasd.toolkit.presets import Preset, stored_preset
from edgeasd.toolkit.progress import ProgressCallback
from edgeasd.toolkit.runs import Run
from edgeasd.toolkit.training.bank import SharedEncoder
from edgeasd.toolkit.training.checkpoint import load_encoder
from edgeasd.toolkit.training.data import BatchSampler, BatchSource, FeaturePool
from edgeasd.toolkit.training.session import claim_run, first_stage_facts, run_facts, run_trainer
from edgeasd.toolkit.training.trainer import Trainer

_MIXING = 7
"""Stream of the random numbers that mix segments, beside those of training/data.py."""


@dataclass(frozen=True)
class LabelledClips:
    """Training clips and the class of each."""

    clips: list[Clip]
    labels: np.ndarray
    """(N,) int64: index into `classes`."""
    classes: list[str]
    """Names such as `fan 00` or `ToyCar 00 car=B1 spd=31V`, sorted."""

    def fingerprint(self, data: MachineData) -> str:
        """16 hexadecimal digits that change with the content or the class of any clip."""
        lines = sorted(
            f"{self.classes[k]}:{data.hashes[clip.path]}" for clip, k in zip(self.clips, self.labels, strict=True)
        )
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def labelled_clips(data: MachineData, *, all_machines: bool) -> LabelledClips:
    """The training normals of every ID of the machine, or of all machines recorded alike, by class.

    A class is a machine type, its ID and, where file names carry attributes, their values. Raises InputError where
    that makes a single class.
    """
    kinds = data.splits if all_machines else {data.machine: data.splits[data.machine]}
    named = [(clip, class_name(clip)) for splits in kinds.values() for split in splits.values() for clip in split.train]
    classes = sorted({name for _, name in named})
    if len(classes) < 2:
        found = ", ".join(classes) or "none"
        others = "" if all_machines else "take other machines in with --set class_machines=all, "
        raise InputError(
            f"--loss classify: {data.machine} in {data.root} makes {len(classes)} class ({found}), two are needed to "
            f"tell apart; {others}add another ID, or store its normals with --preset knn"
        )
    labels = np.array([classes.index(name) for _, name in named], np.int64)
    return LabelledClips([clip for clip, _ in named], labels, classes)


def class_name(clip: Clip) -> str:
    """`machine id key=value …`, as the data set tells a clip from others."""
    return " ".join([clip.machine, clip.id, *(f"{key}={value}" for key, value in clip.attributes)])


class MixedBatches(BatchSource):
    """The batch of every iteration, some of its segments mixed with another: batches[731] is the same at any time.

    Segments (N, 1, frames, n_mels) float32, channels last, and shares (N, classes) float32. With λ uniform in
    [0, 1) a mixed segment is λ x_i + (1 - λ) x_j of log-mel, and so are its shares.
    """

    def __init__(
        self,
        sampler: BatchSampler,
        pool: FeaturePool,
        labels: Tensor,
        frames: int,
        n_mels: int,
        mixed: float,
        seed: int,
    ) -> None:
        self._sampler, self._pool, self._frames, self._n_mels = sampler, pool, frames, n_mels
        self._shares = torch.nn.functional.one_hot(labels).to(torch.float32)
        self._mixed, self._seed = mixed, seed

    def __getitem__(self, iteration: int) -> tuple[Tensor, Tensor] | Exception:
        """An error is returned, not raised, as of `Batches`."""
        try:
            return self._batch(iteration)
        except Exception as error:
            return error

    def _batch(self, iteration: int) -> tuple[Tensor, Tensor]:
        chosen = self._sampler.batch(iteration)
        count = len(chosen.normals)
        batch = np.empty((count, self._frames, self._n_mels), dtype=np.float32)
        for row, index in enumerate(chosen.normals):
            self._pool.crop(int(index), float(chosen.crops[row]), batch[row])
        generator = np.random.default_rng([self._seed, _MIXING, iteration])
        partners = torch.from_numpy(generator.permutation(count))
        own = np.where(generator.random(count) < self._mixed, generator.random(count), 1.0)
        weights = torch.from_numpy(own.astype(np.float32))
        segments, shares = torch.from_numpy(batch), self._shares[torch.from_numpy(chosen.normals)]
        segments = torch.lerp(segments[partners], segments, weights[:, None, None])
        shares = torch.lerp(shares[partners], shares, weights[:, None])
        return segments[:, None].contiguous(memory_format=torch.channels_last), shares


class ClassNetwork(Network):
    """An encoder with class centres: segments to (logits (N, C), embedding (N, D)). The linear head stays unused."""

    def __init__(self, encoder: torch.nn.Module, embedding_size: int, classes: int, sub_centres: int) -> None:
        super().__init__(encoder, embedding_size)
        self.classes = SubCentres(embedding_size, classes, sub_centres)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encoder(x)
        return self.classes(z), z


class ClassTrainer(Trainer):
    """Trains an encoder and class centres; centroids stay zero, since banks take their place."""

    def __init__(
        self,
        preset: Preset,
        seed: int,
        clips: FeaturePool,
        labels: Sequence[int] | np.ndarray,
        n_mels: int,
        fabric: Fabric,
        weights: Mapping[str, Tensor] | None = None,
        compile_network: bool = False,
    ) -> None:
        """`labels` are the class of each clip of the pool, from 0 on without a gap; `weights` are as of `Trainer`."""
        self.preset, self.seed, self.fabric, self.method = preset, seed, fabric, CLASSIFY
        self._normals, self._n_mels, self._anomalies = clips, n_mels, None
        kinds = torch.as_tensor(np.asarray(labels))
        self._count = int(kinds.max()) + 1
        self.sampler = BatchSampler(
            len(clips),
            0,
            batch_normal=preset.batch_normal,
            batch_outlier=0,
            least_epoch=preset.least_epoch_iterations,
            seed=seed,
        )
        self._batches = MixedBatches(
            self.sampler, clips, kinds, preset.crop_frames or preset.segment_frames, n_mels, preset.mixup, seed
        )
        self._weights = weights
        self._set_up(self._build, compile_network)

    def _build(self) -> Network:
        plain = super()._build()
        return ClassNetwork(plain.encoder, plain.embedding_size, self._count, self.preset.sub_centres)

    def _begin(self) -> None:
        self.centroids = self._compute_centroids()

    def _compute_centroids(self) -> tuple[Tensor, Tensor]:
        zero = torch.zeros(self.network.embedding_size, device=self.fabric.device)
        return zero, zero

    def _loss(self, logit: Tensor, z: Tensor, kind: Tensor) -> LossParts:
        del z  # the classes have judged it
        total = classification_loss(logit, kind)
        zero = torch.zeros((), device=total.device)
        return LossParts(total, zero, total.detach(), zero)


def train_encoder(
    data: MachineData,
    preset: Preset,
    seed: int,
    folder: Path,
    fabric: Fabric,
    *,
    resume: bool = False,
    overwrite: bool = False,
    compile_network: bool = False,
    weights: Weights | None = None,
    start: Run | None = None,
    report: ProgressCallback,
    should_stop: Callable[[], bool],
) -> Run:
    """Train the encoder that the IDs of a machine share into `folder` and return its run.

    `weights` and `start` are as of `train_one`. Raises what that raises, and InputError for a single class.
    """
    labelled = labelled_clips(data, all_machines=preset.class_machines == "all")
    if preset.backbone in ENCODERS and weights is None and start is None:
        raise InputError(f"{preset.backbone}: begins with published weights; name the file with --weights")
    run = Run(folder, _facts(data, labelled, preset, seed, weights) | first_stage_facts(start))
    claim_run(run, resume=resume, overwrite=overwrite)
    frames = preset.crop_frames or preset.segment_frames
    pool = FeaturePool(len(labelled.clips), lambda i: data.features(labelled.clips[i]), frames)
    n_mels = data.cache.settings.n_mels
    trainer = ClassTrainer(
        preset,
        seed,
        pool,
        labelled.labels,
        n_mels,
        fabric,
        weights=None if weights is None else weights.state,
        compile_network=compile_network,
    )
    if start is not None:
        load_encoder(start, trainer.network.encoder)
    run_trainer(trainer, run, resume, report, should_stop)
    return run


def _facts(
    data: MachineData, labelled: LabelledClips, preset: Preset, seed: int, weights: Weights | None
) -> dict[str, Any]:
    split = MachineSplit(labelled.clips, [], [], [], [])
    counts = np.bincount(labelled.labels, minlength=len(labelled.classes)).tolist()
    return run_facts(data, "all", split, preset, seed, weights) | {
        "data_fingerprint": labelled.fingerprint(data),
        "classes": dict(zip(labelled.classes, counts, strict=True)),
        "amplitudes": {machine: amplitude.model_dump() for machine, amplitude in data.amplitudes.items()},
    }


def shared_encoder(run: Run) -> tuple[Preset, SharedEncoder]:
    """The encoder of a run of `train_encoder`, or of an ID that has a bank of one, and its preset.

    Raises InputError for a run of another method, one that has not finished, or one that is damaged.
    """
    preset = stored_preset(run.facts["preset"], str(run.folder / "run.json"))
    if preset.method != CLASSIFY.name:
        raise InputError(
            f"{run.folder}: was trained with {preset.method} for one ID, an encoder for others takes --loss classify; "
            "name a run of that"
        )
    network = network_of(preset, run.features.n_mels, banks=True)
    load_encoder(run, network.encoder)
    weights = hashlib.sha256()
    for name, value in sorted(network.encoder.state_dict().items()):
        weights.update(name.encode() + value.numpy().tobytes())
    kept = ("machine", "classes", "data_fingerprint", "started")
    origin = run.facts.get("shared_encoder") or {name: run.facts.get(name) for name in kept}
    return preset, SharedEncoder(network.eval(), {**origin, "weights": weights.hexdigest()[:16]})


def with_features_of(run: Run, data: MachineData) -> MachineData:
    """`data` with the amplitudes that the encoder of `run` was trained with. Raises InputError for other features."""
    if run.features != data.cache.settings:
        raise InputError(
            f"{run.folder}: its encoder takes other features than these clips were prepared as; train anew"
        )
    known = run.facts.get("amplitudes") or {run.machine: run.facts["amplitude"]}
    taken = {machine: Amplitude.model_validate(values) for machine, values in known.items() if machine in data.splits}
    return replace(data, amplitudes={**data.amplitudes, **taken})
