"""A trained run, loaded, and its network behind the runtime's Scorer: training and runtime share one scoring code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from edgeasd.calibration.fit.bank import Bank, bank_distances
from edgeasd.calibration.fit.deploy import HELD_OUT, TRAINING, Alpha, DeployFit, SegmentOutputs, fit_deploy
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.features.logmel import Amplitude, FeatureSettings, Float32Array
from edgeasd.runtime.features.segments import SegmentSettings
from edgeasd.runtime.scoring.score import ScoreSettings
from edgeasd.runtime.scoring.scorer import Scorer
from edgeasd.toolkit.evaluation.alpha import load_chosen
from edgeasd.toolkit.losses import CLASSIFY, KNN, Method, method_named
from edgeasd.toolkit.models.backbones import Network, count_parameters, network_of
from edgeasd.toolkit.presets import Preset, stored_preset
from edgeasd.toolkit.runs import BANKS, Run, TrainingResult
from edgeasd.toolkit.training.checkpoint import latest_checkpoint

UNFITTED = ScoreSettings(
    alpha=0.5, alpha_source="not fitted", d_min=0.0, d_max=1.0, d_min_source="not fitted", d_max_source="not fitted"
)
"""Stands in while q and d are collected that the real constants are fitted from."""
GIVEN = "given by the user"
"""Source of an α that an option set, for this once."""


class TorchEngine:
    """The encoder in torch, float32, as an Engine."""

    precision = "fp32"

    def __init__(self, network: Network, max_batch: int = 64) -> None:
        self._encoder = network.encoder.eval()
        self._device = network.head.weight.device
        self.name = f"torch {torch.__version__}"
        self.accelerator = str(self._device)
        self.max_batch = max_batch

    @torch.inference_mode()
    def embed(self, batch: Float32Array) -> Float32Array:
        """Segments (N, 1, frames, n_mels) float32 to embeddings (N, D) float32."""
        x = torch.from_numpy(np.ascontiguousarray(batch)).to(self._device)
        embedded: Float32Array = self._encoder(x).cpu().numpy()
        return embedded

    def close(self) -> None:
        """Nothing to free."""


class TorchHead:
    """The head in torch, on the CPU: the same outputs as head.onnx."""

    def __init__(self, network: Network, centroid: Tensor) -> None:
        self._weight = network.head.weight.detach().cpu()[0]
        self._bias = network.head.bias.detach().cpu()[0]
        self._centroid = centroid.detach().cpu()

    @torch.inference_mode()
    def __call__(self, z: Float32Array) -> dict[str, Float32Array]:
        """Embeddings (N, D) to logit, q, p and d, each (N,) float32."""
        embedded = torch.from_numpy(z)
        logit = embedded @ self._weight + self._bias
        d = torch.sum((embedded - self._centroid) ** 2, dim=1)
        outputs = {"logit": logit, "q": torch.sigmoid(-logit), "p": torch.sigmoid(logit), "d": d}
        return {name: tensor.numpy() for name, tensor in outputs.items()}


class BankHead:
    """The head of a bank: q is that of the classifier, or 1/2 if there is none, and d is the banks'."""

    def __init__(self, network: Network, banks: Sequence[Bank]) -> None:
        self._classifier = TorchHead(network, torch.zeros(network.embedding_size))
        self._banks = banks

    def __call__(self, z: Float32Array) -> dict[str, Float32Array]:
        """As of `TorchHead`."""
        return {**self._classifier(z), "d": bank_distances(self._banks, z).astype(np.float32)}


def bank_scorer(network: Network, banks: Sequence[Bank], run: Run, score: ScoreSettings) -> Scorer:
    """A Scorer over a torch encoder and banks of its embeddings."""
    return Scorer(TorchEngine(network), BankHead(network, banks), run.features, run.amplitude, run.segments, score)


def torch_scorer(
    network: Network,
    centroid: Tensor,
    features: FeatureSettings,
    amplitude: Amplitude,
    segments: SegmentSettings,
    score: ScoreSettings = UNFITTED,
) -> Scorer:
    """A Scorer over a torch network; `centroid` is c_p, (D,)."""
    return Scorer(TorchEngine(network), TorchHead(network, centroid), features, amplitude, segments, score)


@dataclass(frozen=True)
class TrainedModel:
    """A run whose training has finished."""

    run: Run
    preset: Preset
    method: Method
    network: Network
    centroid: Tensor
    """c_p, (D,); zeros where banks take its place."""
    result: TrainingResult
    iteration: int
    alpha: Alpha | None = None
    """Chosen on validation clips, or given; None for the default."""
    banks: tuple[Bank, ...] = ()
    """The stored normals of a method that compares with them."""
    validation: frozenset[str] = frozenset()
    """Content of the clips that chose α; they never judge this model."""

    def with_alpha(self, value: float | None) -> TrainedModel:
        """A copy that scores with α = `value`; itself for None.

        Raises InputError for a value outside [0, 1], and for a method that leaves no choice.
        """
        if value is None:
            return self
        self.check_alpha_is_free("--alpha")
        if not 0 <= value <= 1:
            raise InputError(f"--alpha {value}: outside 0 to 1; 0 is the distance alone, 1 the classifier alone")
        return replace(self, alpha=Alpha(value, GIVEN))

    def check_alpha_is_free(self, who: str) -> None:
        """InputError, naming `who` asked, for a method whose score has no α to choose."""
        if self.method.fixed_alpha is not None:
            raise InputError(
                f"{who}: {self.run.machine} ID {self.run.id} was trained with {self.method.name}, whose α is always "
                f"{self.method.fixed_alpha:g}; only bce+dsad and bce+ddcsad leave a choice"
            )

    def scorer(self, score: ScoreSettings) -> Scorer:
        """The torch network with these constants."""
        run = self.run
        if self.banks:
            return bank_scorer(self.network, self.banks, run, score)
        return torch_scorer(self.network, self.centroid, run.features, run.amplitude, run.segments, score)

    def deploy(
        self, extra_normals: list[SegmentOutputs] | None = None, extra_live: SegmentOutputs | None = None
    ) -> DeployFit:
        """The frozen constants; `extra_normals` (from clips the user gives) take the place of the held-out ones.

        `extra_live` is of their live segments, joined one after another.

        Raises CheckFailed if normals and outliers do not separate.
        """
        origin = HELD_OUT if self.result.held_out else TRAINING
        normals, normal_origin, live = self.result.normals, origin, self.result.live_normals
        if extra_normals is not None:
            normals, normal_origin, live = extra_normals, "given", extra_live
        return fit_deploy(
            self.method.name,
            self.method.fixed_alpha,
            normals,
            self.result.outliers,
            self.result.anomalies,
            alpha=self.alpha,
            normal_origin=normal_origin,
            outlier_origin=origin,
            live=live,
            features=self.run.features,
            segments=self.run.segments,
        )


def load_trained_model(run: Run, *, scoring: str | None = None, without_alpha: bool = False) -> TrainedModel:
    """Load the newest checkpoint of a finished run onto the CPU; InputError if it is not finished or damaged,
    or has an α that was chosen for other weights. With `without_alpha` a chosen α is left unread, whatever it is.

    `scoring` is "centroid" or "knn"; None for what the run was trained for. InputError for knn where no normals are
    stored, and for a centroid where there is nothing else."""
    preset = stored_preset(run.facts["preset"], str(run.folder / "run.json"))
    by_bank = (scoring or preset.scoring) == "knn"
    if not by_bank and run.is_stored:
        raise InputError(f"--scoring {scoring}: {run.machine} ID {run.id} has stored normals only; leave it out")
    result = run.result()
    if by_bank and not run.has_banks:
        raise InputError(
            f"--scoring knn: the normals of {run.machine} ID {run.id} are not stored; store them with the same "
            "`edgeasd train` and --scoring knn --resume, which trains nothing anew"
        )
    if by_bank:
        result = run.result(of_banks=True)
    network = network_of(preset, run.features.n_mels, banks=True)
    method = method_named(preset.method)
    centroid, iteration = torch.zeros(network.embedding_size), 0
    if count_parameters(network.encoder):
        checkpoint = latest_checkpoint(run.checkpoints)
        centroid, iteration = checkpoint.restore_network(network)[0], checkpoint.iteration
    if method in (KNN, CLASSIFY):  # no classifier
        torch.nn.init.zeros_(network.head.weight)
    network.eval()
    chosen = None if without_alpha or method.fixed_alpha is not None else load_chosen(run, of_banks=by_bank)
    return TrainedModel(
        run,
        preset,
        method,
        network,
        centroid,
        result,
        iteration,
        alpha=chosen.setting if chosen else None,
        banks=_banks(run, preset, network) if by_bank else (),
        validation=frozenset(chosen.validation if chosen else ()),
    )


def _banks(run: Run, preset: Preset, network: Network) -> tuple[Bank, ...]:
    banks = run.banks()
    if max(bank.columns[1] for bank in banks) > network.embedding_size:
        raise InputError(f"{run.folder / BANKS}: is of another encoder than {preset.backbone}; train again")
    return banks
