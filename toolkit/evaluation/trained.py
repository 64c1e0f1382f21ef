"""A finished run as a scorer and as something to export: checkpoint, constants and facts together."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from edgeasd.calibration.deploy import HELD_OUT, TRAINING, Alpha, DeployFit, SegmentOutputs, fit_deploy
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.score import ScoreSettings
from edgeasd.runtime.scorer import Scorer
from edgeasd.toolkit.evaluation.chosen_alpha import load_chosen
from edgeasd.toolkit.evaluation.torch_scorer import torch_scorer
from edgeasd.toolkit.losses import Method, method_named
from edgeasd.toolkit.models.backbones import Network, build_network
from edgeasd.toolkit.presets import Preset, stored_preset
from edgeasd.toolkit.runs import Outcome, Run
from edgeasd.toolkit.training.checkpoint import latest_checkpoint

GIVEN = "given by the user"
"""Source of an α that an option set, for this once."""


@dataclass(frozen=True)
class Trained:
    """A run whose training has finished."""

    run: Run
    preset: Preset
    method: Method
    network: Network
    centroid: Tensor
    """c_p, (D,)."""
    outcome: Outcome
    iteration: int
    alpha: Alpha | None = None
    """Chosen on validation clips, or given; None for the default."""
    validation: frozenset[str] = frozenset()
    """Content of the clips that chose α; they never judge this model."""

    def with_alpha(self, value: float | None) -> Trained:
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
        return torch_scorer(self.network, self.centroid, run.features, run.amplitude, run.segments, score)

    def deploy(self, extra_normals: list[SegmentOutputs] | None = None) -> DeployFit:
        """The frozen constants; `extra_normals` (from clips the user gives) take the place of the held-out ones.

        Raises CheckFailed where normals and outliers do not separate.
        """
        origin = HELD_OUT if self.outcome.held_out else TRAINING
        normals, normal_origin = self.outcome.normals, origin
        if extra_normals is not None:
            normals, normal_origin = extra_normals, "given"
        return fit_deploy(
            self.method.name,
            self.method.fixed_alpha,
            normals,
            self.outcome.outliers,
            self.outcome.anomalies,
            alpha=self.alpha,
            normal_origin=normal_origin,
            outlier_origin=origin,
        )


def load_trained(run: Run, *, without_alpha: bool = False) -> Trained:
    """Load the newest checkpoint of a finished run onto the CPU; InputError where it is not finished or damaged,
    or has an α that was chosen for other weights. With `without_alpha` a chosen α is left unread, whatever it is."""
    outcome = run.outcome()
    preset = stored_preset(run.facts["preset"], str(run.folder / "run.json"))
    checkpoint = latest_checkpoint(run.checkpoints)
    network = build_network(
        preset.backbone,
        n_mels=run.features.n_mels,
        zero_init_residual=preset.zero_init_residual,
        embedding_size=preset.embedding_size,
    )
    centroid, _ = checkpoint.restore_network(network)
    network.eval()
    method = method_named(preset.method)
    chosen = None if without_alpha or method.fixed_alpha is not None else load_chosen(run)
    return Trained(
        run,
        preset,
        method,
        network,
        centroid,
        outcome,
        checkpoint.iteration,
        alpha=chosen.setting if chosen else None,
        validation=frozenset(chosen.validation if chosen else ()),
    )
