"""A finished run as a scorer and as something to export: checkpoint, constants and facts together."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from edgeasd.calibration.deploy import HELD_OUT, TRAINING, DeployFit, SegmentOutputs, fit_deploy
from edgeasd.runtime.score import ScoreSettings
from edgeasd.runtime.scorer import Scorer
from edgeasd.toolkit.evaluation.torch_scorer import torch_scorer
from edgeasd.toolkit.losses import Method, method_named
from edgeasd.toolkit.models.backbones import Network, build_network
from edgeasd.toolkit.presets import Preset, stored_preset
from edgeasd.toolkit.runs import Outcome, Run
from edgeasd.toolkit.training.checkpoint import latest_checkpoint


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
            normal_origin=normal_origin,
            outlier_origin=origin,
        )


def load_trained(run: Run) -> Trained:
    """Load the newest checkpoint of a finished run onto the CPU; InputError where it is not finished or damaged."""
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
    return Trained(run, preset, method_named(preset.method), network, centroid, outcome, checkpoint.iteration)
