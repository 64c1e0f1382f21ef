"""Trains one network, iteration by iteration, with exact resume from a checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from edgeasd.runtime.errors import CheckFailed
from edgeasd.toolkit.losses import LossParts, Method, method_loss, method_named, squared_distance
from edgeasd.toolkit.models.backbones import Network, network_of
from edgeasd.toolkit.models.layered import LayeredEncoder
from edgeasd.toolkit.presets import Preset
from edgeasd.toolkit.training.centroids import estimate_norms, mean_embedding
from edgeasd.toolkit.training.checkpoint import Checkpoint, optimiser_tensors, save_checkpoint
from edgeasd.toolkit.training.data import Batches, BatchSampler, BatchSource, FeaturePool, load_batches

_KEEP = 2
"""Checkpoints that are kept."""


class Interrupted(Exception):
    """Training was asked to stop and did, after writing a checkpoint."""

    def __init__(self, iteration: int) -> None:
        super().__init__(f"stopped at iteration {iteration}")
        self.iteration = iteration


class NotFinite(CheckFailed):
    """The loss is no longer finite after the weights of `iteration`; those of an earlier checkpoint were good."""

    def __init__(self, iteration: int, found: str) -> None:
        self.iteration, self.found = iteration, f"iteration {iteration}: {found}"
        super().__init__(f"{self.found}; the last checkpoint stands; {self.remedy}")

    remedy = "train anew with --overwrite and a smaller learning rate (--set learning_rate=...) or another --seed"


@dataclass(frozen=True)
class StepLog:
    """The figures of one iteration."""

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


def step_log(iteration: int, parts: LossParts, gradient_norm: Tensor, rate: float) -> StepLog:
    """The numbers of a step, brought from the device in one transfer."""
    on_device = [parts.total.detach(), parts.bce, parts.metric, parts.largest_inverse, gradient_norm]
    loss, bce, metric, largest_inverse, norm = torch.stack([value.double() for value in on_device]).tolist()
    return StepLog(iteration, loss, bce, metric, largest_inverse, norm, rate, iterations_per_second=0.0, waiting=0.0)


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
        weights: Mapping[str, Tensor] | None = None,
        compile_network: bool = False,
    ) -> None:
        """`weights` are those that a pretrained encoder begins with. `anomalies` are the known ones of fine-tuning, as many a batch as `preset.batch_anomaly` says.

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
        pools = [normals, outliers, *([] if anomalies is None else [anomalies])]
        self._batches: BatchSource = Batches(self.sampler, pools, preset.segment_frames, n_mels)
        self._weights = weights
        self._set_up(self._build, compile_network)

    def _build(self) -> Network:
        network = network_of(self.preset, self._n_mels, weights=self._weights)
        if isinstance(network.encoder, LayeredEncoder):
            network.encoder.freeze_before(self.preset.tune_from)
        return network

    def _set_up(self, build: Callable[[], Network], compile_network: bool) -> None:
        """The network that `build` makes, its optimiser, and the state of iteration 0."""
        torch.manual_seed(self.seed)
        self.network = build()
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._names, self.optimiser = _adam(self.network, self.preset)
        if compile_network:
            self.network.compile()
        self._model, self._fabric_optimiser = self.fabric.setup(self.network, self.optimiser)
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
        self._iterate(on_step, on_checkpoint, should_stop)
        if self.method.metric != "dsad":
            # "and once at the end"; for plain BCE they serve the exported distance only
            self.centroids = self._compute_centroids()
        self._check_final()
        on_checkpoint()

    def _iterate(
        self, on_step: Callable[[StepLog], None], on_checkpoint: Callable[[], None], should_stop: Callable[[], bool]
    ) -> None:
        is_gpu = self.fabric.device.type == "cuda"
        # On a CPU the network needs every core, and a process that makes batches ahead gains nothing.
        batches = load_batches(
            self._batches, self.iteration, self.preset.iterations, workers=int(is_gpu), pin_memory=is_gpu
        )
        waited, begun = 0.0, time.perf_counter()
        clock = begun
        while self.iteration < self.preset.iterations:
            asked = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - asked
            log = self._step(*_checked(batch))
            now = time.perf_counter()
            waiting = waited / max(now - begun, 1e-9)
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
        segments, _ = _checked(self._batches[self.iteration])
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
                self.network.encoder, self._normals, self._outliers, frames, self._n_mels, self.fabric.device, self.seed
            )
        self.centroids = self._compute_centroids()

    def _compute_centroids(self) -> tuple[Tensor, Tensor]:
        outliers = np.arange(len(self._outliers))
        limit = self.preset.centroid_outliers
        if limit and len(outliers) > limit:
            outliers = np.sort(np.random.default_rng([self.seed, 5, self.iteration]).permutation(outliers)[:limit])
        frames, device = self.preset.segment_frames, self.fabric.device
        normals = np.arange(len(self._normals))
        with self.fabric.autocast():
            c_p = mean_embedding(self.network.encoder, self._normals, normals, frames, self._n_mels, device)
            c_n = mean_embedding(self.network.encoder, self._outliers, outliers, frames, self._n_mels, device)
            if self._anomalies is not None and self.preset.anomalies_in_centroid:
                known = np.arange(len(self._anomalies))
                c_a = mean_embedding(self.network.encoder, self._anomalies, known, frames, self._n_mels, device)
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
        parts = self._loss(logit, z, kind)
        self.fabric.backward(parts.total)
        gradient_norm = nn.utils.get_total_norm([p.grad for p in self.network.parameters() if p.grad is not None])
        log = step_log(self.iteration + 1, parts, gradient_norm, preset.learning_rate * factor)
        if not math.isfinite(log.loss):
            raise NotFinite(
                self.iteration,
                f"the loss is {log.loss} (bce {log.bce:.3g}, metric {log.metric:.3g}, "
                f"largest 1/d² {log.largest_inverse:.3g})",
            )
        self._fabric_optimiser.step()
        self.iteration += 1
        return log

    def _loss(self, logit: Tensor, z: Tensor, kind: Tensor) -> LossParts:
        """The loss of a batch, of what the network says of it."""
        assert self.centroids is not None
        preset = self.preset
        return method_loss(
            self.method, logit, z, kind, *self.centroids, lam=preset.lam, eta=preset.eta, epsilon=preset.epsilon
        )


def _checked(batch: tuple[Tensor, Tensor] | Exception) -> tuple[Tensor, Tensor]:
    if isinstance(batch, Exception):
        raise batch
    return batch


def _adam(network: nn.Module, preset: Preset) -> tuple[list[str], torch.optim.Adam]:
    """Names of the parameters in the optimiser's order, and Adam with the encoder as group 0, the head (and class
    centres) as group 1. Frozen weights are in neither."""
    named = {name: weights for name, weights in network.named_parameters() if weights.requires_grad}
    encoder = [name for name in named if name.startswith("encoder.")]
    head = [name for name in named if not name.startswith("encoder.")]
    groups = [{"params": [named[name] for name in names]} for names in (encoder, head)]
    # capturable/foreach defaults differ between devices; the mathematics is Adam's either way
    return [*encoder, *head], torch.optim.Adam(groups, lr=preset.learning_rate)
