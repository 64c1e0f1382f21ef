"""The training loop of one model: one machine ID against its outliers (paper, sections III and IV-A).

Lightning Fabric moves things to the device and casts to the training precision; the loop, the
loss and the centroids are here in plain sight.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from edgeasd.runtime.errors import CheckFailed, DeviceError, InputError
from edgeasd.toolkit.losses import (
    ANOMALY,
    NORMAL,
    OUTLIER,
    LossParts,
    Method,
    method_loss,
    method_named,
    squared_distance,
)
from edgeasd.toolkit.models.backbones import Network, build_network
from edgeasd.toolkit.presets import Preset
from edgeasd.toolkit.training.batches import Ahead
from edgeasd.toolkit.training.centroids import estimate_norms, mean_embedding
from edgeasd.toolkit.training.checkpoint import Checkpoint, optimiser_tensors, save_checkpoint
from edgeasd.toolkit.training.pools import FeaturePool
from edgeasd.toolkit.training.sampler import BatchSampler

__all__ = ["Interrupted", "NotFinite", "StepLog", "Trainer", "open_fabric"]

TRAINING_PRECISIONS = ("auto", "fp32", "bf16")

_KEEP = 2


class Interrupted(Exception):
    """Training was asked to stop and did, after writing a checkpoint."""

    def __init__(self, iteration: int) -> None:
        super().__init__(f"stopped at iteration {iteration}")
        self.iteration = iteration


class NotFinite(CheckFailed):
    """The loss is no longer finite: the weights before `iteration` are to blame, those of an earlier one were good."""

    def __init__(self, iteration: int, found: str) -> None:
        self.iteration, self.found = iteration, f"iteration {iteration}: {found}"
        super().__init__(f"{self.found}; the last checkpoint stands; {self.remedy}")

    remedy = "train anew with --overwrite and a smaller learning rate (--set learning_rate=...) or another --seed"


@dataclass(frozen=True)
class StepLog:
    """What is worth knowing of one iteration."""

    iteration: int
    loss: float
    bce: float
    metric: float
    largest_inverse: float
    gradient_norm: float
    learning_rate: float
    iterations_per_second: float
    waiting: float
    """Share of this run's time so far that was spent waiting for batches, 0 to 1."""


def open_fabric(accelerator: str, precision: str = "auto") -> Fabric:
    """Fabric on "cpu", "cuda" or "cuda:K", training in "fp32" or with "bf16" autocast.

    An accelerator of "auto" is the first GPU there is, else the CPU. A precision of "auto" is bfloat16 on
    a GPU that has it, float32 elsewhere: on CPUs it pays on some only. Raises DeviceError for what is not
    there, InputError for an unknown precision.
    """
    if precision not in TRAINING_PRECISIONS:
        raise InputError(f"--training-precision {precision}: unknown; use one of {', '.join(TRAINING_PRECISIONS)}")
    kind, _, index = accelerator.partition(":")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise DeviceError(f"--accelerator {accelerator}: unknown; use auto, cpu, cuda or cuda:0")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(index or 0) >= count:
            raise DeviceError(f"--accelerator {accelerator}: torch sees {count} CUDA GPUs; use --accelerator cpu")
        # float32 means float32 (TF32 has 10 bits of mantissa), and a seed means the same run.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic = True
        able = torch.cuda.is_bf16_supported()
        if precision == "bf16" and not able:
            raise DeviceError(f"--training-precision bf16: {accelerator} has no bfloat16; use fp32")
        mixed = able and precision != "fp32"
        return Fabric(accelerator="cuda", devices=[int(index or 0)], precision="bf16-mixed" if mixed else "32-true")
    return Fabric(accelerator="cpu", devices=1, precision="bf16-mixed" if precision == "bf16" else "32-true")


class Trainer:
    """Trains one network and holds all its state; `run` goes from `iteration` to the preset's end."""

    def __init__(
        self,
        preset: Preset,
        seed: int,
        normals: FeaturePool,
        outliers: FeaturePool,
        n_mels: int,
        fabric: Fabric,
        anomalies: FeaturePool | None = None,
        compile_network: bool = False,
    ) -> None:
        """`anomalies` are the known ones of fine-tuning, as many a batch as `preset.batch_anomaly` says.

        `compile_network` has torch.compile fuse the network: worth its minute of compilation on long runs.
        """
        if bool(preset.batch_anomaly) != bool(anomalies):
            raise ValueError("known anomalies and a preset with batch_anomaly come together or not at all")
        self.preset, self.seed, self.fabric = preset, seed, fabric
        self.method: Method = method_named(preset.method)
        self._normals, self._outliers, self._anomalies, self._n_mels = normals, outliers, anomalies, n_mels
        self.sampler = BatchSampler(
            len(normals),
            len(outliers),
            batch_normal=preset.batch_normal,
            batch_outlier=preset.batch_outlier,
            least_epoch=preset.least_epoch_iterations,
            seed=seed,
            anomalies=len(anomalies) if anomalies else 0,
            batch_anomaly=preset.batch_anomaly,
        )
        torch.manual_seed(seed)
        self.network: Network = build_network(
            preset.backbone,
            n_mels=n_mels,
            zero_init_residual=preset.zero_init_residual,
            embedding_size=preset.embedding_size,
        )
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._names = [name for name, _ in self.network.named_parameters() if not name.startswith("head.")]
        self._names += [name for name, _ in self.network.named_parameters() if name.startswith("head.")]
        named = dict(self.network.named_parameters())
        encoder = [named[name] for name in self._names if not name.startswith("head.")]
        head = [named[name] for name in self._names if name.startswith("head.")]
        # capturable/foreach defaults differ between devices; the mathematics is Adam's either way
        self.optimiser = torch.optim.Adam([{"params": encoder}, {"params": head}], lr=preset.learning_rate)
        if compile_network:
            self.network.compile()
        self._model, self._fabric_optimiser = fabric.setup(self.network, self.optimiser)
        self.centroids: tuple[Tensor, Tensor] | None = None
        self.iteration = 0

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from `checkpoint`, exactly."""
        c_p, c_n = checkpoint.restore_network(self.network)
        self.network.to(self.fabric.device)
        checkpoint.restore_optimiser(self.optimiser, self._names)
        checkpoint.restore_random_states()
        self.centroids = (c_p.to(self.fabric.device), c_n.to(self.fabric.device))
        self.iteration = checkpoint.iteration

    def start_from(self, checkpoint: Checkpoint) -> None:
        """Begin at iteration 0 with the weights and centroids of `checkpoint`: fine-tuning.

        Adam, the schedule and the random states start afresh (paper, section IV-C).
        """
        c_p, c_n = checkpoint.restore_network(self.network)
        self.network.to(self.fabric.device)
        self.centroids = (c_p.to(self.fabric.device), c_n.to(self.fabric.device))

    def run(
        self,
        on_step: Callable[[StepLog], None],
        on_checkpoint: Callable[[], None],
        should_stop: Callable[[], bool],
    ) -> None:
        """Train to the end. `on_checkpoint` is called after the iterations that the preset names, and the last.

        Raises Interrupted when `should_stop` says so, after a checkpoint; NotFinite when the loss, or what the
        final network says, is no longer finite. A checkpoint of that very iteration has the weights that did it.
        """
        if self.centroids is None:
            self._begin()
        self.network.train()
        with Ahead(self._batch, self.iteration, self.preset.iterations) as batches:
            self._iterate(batches, on_step, on_checkpoint, should_stop)
        if self.method.metric != "dsad":
            # "and once at the end"; for plain BCE they serve the exported distance only
            self.centroids = self._compute_centroids()
        self._check_final()
        on_checkpoint()

    def _iterate(
        self,
        batches: Ahead[tuple[Tensor, Tensor]],
        on_step: Callable[[StepLog], None],
        on_checkpoint: Callable[[], None],
        should_stop: Callable[[], bool],
    ) -> None:
        begun = clock = time.perf_counter()
        while self.iteration < self.preset.iterations:
            log = self._step(*batches.next())
            now = time.perf_counter()
            waiting = batches.waited / max(now - begun, 1e-9)
            on_step(replace(log, iterations_per_second=1.0 / max(now - clock, 1e-9), waiting=waiting))
            clock = now
            if self.iteration % self.sampler.epoch_iterations == 0 and self.method.moving_centroids:
                self.centroids = self._compute_centroids()
            if self.iteration == self.preset.iterations:
                break
            if should_stop():
                on_checkpoint()
                raise Interrupted(self.iteration)
            if self.iteration % self.preset.checkpoint_every == 0:
                on_checkpoint()

    def _check_final(self) -> None:
        """No loss follows the last step to tell whether its weights are any good. Raises NotFinite."""
        assert self.centroids is not None
        segments, _ = self._batch(self.iteration)
        self.network.eval()
        with torch.no_grad():
            logit, z = self._model(segments.to(self.fabric.device))
        self.network.train()
        d = squared_distance(z.float(), self.centroids[0])
        if not bool(torch.isfinite(logit).all() and torch.isfinite(d).all()):
            raise NotFinite(self.iteration, "the trained network gives logits or distances that are not finite")

    def save(self, folder: Path, facts: dict[str, Any]) -> Path:
        """Write a checkpoint of this moment; `facts` go into its state.json."""
        assert self.centroids is not None
        state = {
            **facts,
            "iteration": self.iteration,
            "epoch": self.iteration // self.sampler.epoch_iterations,
            "epoch_position": self.iteration % self.sampler.epoch_iterations,
            "learning_rates": [group["lr"] for group in self.optimiser.param_groups],
            "preset": self.preset.model_dump(),
            "seed": self.seed,
            "precision": str(self.fabric._precision.precision),
            "device": str(self.fabric.device),
            "threads": torch.get_num_threads(),
        }
        return save_checkpoint(
            folder, self.network, self.centroids, optimiser_tensors(self.optimiser, self._names), state, _KEEP
        )

    def _begin(self) -> None:
        frames = self.preset.segment_frames
        if self.preset.estimate_norms_first:
            estimate_norms(
                self._encoder, self._normals, self._outliers, frames, self._n_mels, self.fabric.device, self.seed
            )
        self.centroids = self._compute_centroids()

    @property
    def _encoder(self) -> nn.Module:
        return self.network.encoder

    def _compute_centroids(self) -> tuple[Tensor, Tensor]:
        outliers = np.arange(len(self._outliers))
        limit = self.preset.centroid_outliers
        if limit and len(outliers) > limit:
            outliers = np.sort(np.random.default_rng([self.seed, 5, self.iteration]).permutation(outliers)[:limit])
        frames, device = self.preset.segment_frames, self.fabric.device
        normals = np.arange(len(self._normals))
        with self.fabric.autocast():
            c_p = mean_embedding(self._encoder, self._normals, normals, frames, self._n_mels, device)
            c_n = mean_embedding(self._encoder, self._outliers, outliers, frames, self._n_mels, device)
            if self._anomalies is not None and self.preset.anomalies_in_centroid:
                known = np.arange(len(self._anomalies))
                c_a = mean_embedding(self._encoder, self._anomalies, known, frames, self._n_mels, device)
                share = len(known) / (len(known) + len(outliers))
                c_n = torch.lerp(c_n, c_a, share)
        return c_p, c_n

    def _step(self, segments: Tensor, kind: Tensor) -> StepLog:
        assert self.centroids is not None
        preset, factor = self.preset, 0.5 ** (self.iteration // self.preset.halve_every)
        for group, rate in zip(
            self.optimiser.param_groups, (preset.learning_rate, preset.head_learning_rate), strict=True
        ):
            group["lr"] = rate * factor
        device = self.fabric.device
        segments = segments.to(device, non_blocking=True)
        kind = kind.to(device, non_blocking=True)
        self._fabric_optimiser.zero_grad()
        logit, z = self._model(segments)
        parts = method_loss(
            self.method, logit, z, kind, *self.centroids, lam=preset.lam, eta=preset.eta, epsilon=preset.epsilon
        )
        self.fabric.backward(parts.total)
        gradient_norm = nn.utils.get_total_norm([p.grad for p in self.network.parameters() if p.grad is not None])
        log = _log(self.iteration + 1, parts, gradient_norm, preset.learning_rate * factor)
        if not math.isfinite(log.loss):
            raise NotFinite(
                self.iteration,
                f"the loss is {log.loss} (bce {log.bce:.3g}, metric {log.metric:.3g}, "
                f"largest 1/d² {log.largest_inverse:.3g})",
            )
        self._fabric_optimiser.step()
        self.iteration += 1
        return log

    def _batch(self, iteration: int) -> tuple[Tensor, Tensor]:
        chosen = self.sampler.batch(iteration)
        rows = [(self._normals, int(i)) for i in chosen.normals] + [(self._outliers, int(i)) for i in chosen.outliers]
        if self._anomalies is not None:
            rows += [(self._anomalies, int(i)) for i in chosen.anomalies]
        batch = np.empty((len(rows), self.preset.segment_frames, self._n_mels), dtype=np.float32)
        for row, (pool, index) in enumerate(rows):
            pool.crop(index, float(chosen.crops[row]), batch[row])
        counts = torch.tensor([len(chosen.normals), len(chosen.outliers), len(chosen.anomalies)])
        kind = torch.repeat_interleave(torch.tensor([NORMAL, OUTLIER, ANOMALY]), counts)
        segments = torch.from_numpy(batch)[:, None].contiguous(memory_format=torch.channels_last)
        if self.fabric.device.type == "cuda":
            # Only from pinned memory does the copy run beside the step before it.
            return segments.pin_memory(), kind.pin_memory()
        return segments, kind


def _log(iteration: int, parts: LossParts, gradient_norm: Tensor, rate: float) -> StepLog:
    """The numbers of a step, brought from the device in one transfer."""
    on_device = [parts.total.detach(), parts.bce, parts.metric, parts.largest_inverse, gradient_norm]
    loss, bce, metric, largest_inverse, norm = torch.stack([value.double() for value in on_device]).tolist()
    return StepLog(iteration, loss, bce, metric, largest_inverse, norm, rate, iterations_per_second=0.0, waiting=0.0)
