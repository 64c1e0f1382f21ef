"""Checkpoints: everything the next iteration depends on, in safetensors and JSON.

    step-000300/
      model.safetensors       network parameters and batch-norm statistics, both centroids
      optimiser.safetensors   Adam moments and steps by parameter name, states of the random generators
      state.json              iteration, preset, seed, machine, data fingerprint, versions

The learning rate and the sampler's position are functions of the iteration and need no state.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgeasd.runtime.errors import InputError, describe_validation_error
from edgeasd.runtime.system.files import atomic_directory, write_json
from edgeasd.toolkit.models.blocks import UnitLength
from edgeasd.toolkit.runs import Run

FORMAT = 1
_REMEDY = "delete that folder and go on from the checkpoint before it, or train anew with --overwrite"


class CheckpointState(BaseModel):
    """The part of state.json that resuming relies on; the rest is for people."""

    model_config = ConfigDict(extra="allow")

    format: Literal[1]
    iteration: Annotated[StrictInt, Field(ge=0)]


@dataclass
class Checkpoint:
    """The content of a checkpoint folder."""

    path: Path
    state: dict[str, Any]
    model: dict[str, Tensor]
    optimiser: dict[str, Tensor]

    @property
    def iteration(self) -> int:
        """Iterations done."""
        return int(self.state["iteration"])

    def restore_network(self, network: nn.Module) -> tuple[Tensor, Tensor]:
        """Load weights and statistics into `network`; returns the centroids (c_p, c_n), each (D,)."""
        weights = {k.removeprefix("network."): v for k, v in self.model.items() if k.startswith("network.")}
        try:
            network.load_state_dict(weights)
            return self.model["centroid.normal"], self.model["centroid.outlier"]
        except (RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{self.path}: does not fit the network of its preset ({reason}); train again") from None

    def restore_optimiser(self, optimiser: torch.optim.Optimizer, names: list[str]) -> None:
        """Load Adam's moments; `names` are the parameter names in the optimiser's order. Raises InputError."""
        layout = optimiser.state_dict()
        state = {}
        for index, name in enumerate(names):
            entry = {
                key.rsplit("/", 1)[1]: value for key, value in self.optimiser.items() if key.startswith(f"adam/{name}/")
            }
            # Methods without a classifier never touch the head, so it may have none.
            if entry:
                state[index] = entry
        if not state:
            raise InputError(f"{self.path}: has no Adam moments; {_REMEDY}")
        optimiser.load_state_dict({"state": state, "param_groups": layout["param_groups"]})

    def restore_random_states(self) -> None:
        """Put torch's generators where they were. Raises InputError."""
        if "random/cpu" not in self.optimiser:
            raise InputError(f"{self.path}: has no random state; {_REMEDY}")
        torch.set_rng_state(self.optimiser["random/cpu"])
        if "random/cuda" in self.optimiser and torch.cuda.is_available():
            torch.cuda.set_rng_state(self.optimiser["random/cuda"])


def optimiser_tensors(optimiser: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    """Adam's state by parameter name, and the random states, as one flat dictionary for safetensors."""
    tensors = {
        f"adam/{names[index]}/{key}": torch.as_tensor(value).cpu()
        for index, entry in optimiser.state_dict()["state"].items()
        for key, value in entry.items()
    }
    tensors["random/cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    return tensors


def save_checkpoint(
    folder: Path,
    network: nn.Module,
    centroids: tuple[Tensor, Tensor],
    optimiser: dict[str, Tensor],
    state: dict[str, Any],
    keep: int,
) -> Path:
    """Write `folder`/step-NNNNNN atomically, then delete all but the newest `keep`.

    Raises InputError or OSError, and leaves the earlier ones as they were, if it cannot be written.
    """
    path = folder / f"step-{state['iteration']:06d}"
    model = {f"network.{k}": v.detach().cpu().contiguous().clone() for k, v in network.state_dict().items()}
    model["centroid.normal"], model["centroid.outlier"] = (c.detach().cpu().clone() for c in centroids)
    with atomic_directory(path, replace=True) as temporary:
        try:
            save_file(model, temporary / "model.safetensors")
            save_file({k: v.contiguous().clone() for k, v in optimiser.items()}, temporary / "optimiser.safetensors")
        except SafetensorError as error:
            # Not an OSError, though what it reports is a full disk and the like.
            raise InputError(f"{path}: cannot be written ({error}); make room and go on with --resume") from None
        write_json(temporary / "state.json", {"format": FORMAT, **state})
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints in `folder`, oldest first."""
    found = folder.glob("step-*/state.json") if folder.is_dir() else []
    steps = {p.parent: p.parent.name.removeprefix("step-") for p in found}
    return sorted((p for p, step in steps.items() if step.isdigit()), key=lambda p: int(steps[p]))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU; InputError, naming the file, if one is missing or damaged."""
    try:
        state = json.loads((path / "state.json").read_text("utf-8"))
        CheckpointState.model_validate(state)
        model = load_file(path / "model.safetensors")
        optimiser = load_file(path / "optimiser.safetensors")
    except ValidationError as error:
        reason = describe_validation_error(error, CheckpointState).partition(";")[0]
        raise InputError(f"{path}/state.json: {reason} (this edgeasd reads format {FORMAT}); {_REMEDY}") from None
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{path}: not a whole checkpoint ({error}); {_REMEDY}") from None
    return Checkpoint(path, state, model, optimiser)


def latest_checkpoint(folder: Path) -> Checkpoint:
    """The newest checkpoint of a run; InputError if there is none."""
    found = list_checkpoints(folder)
    if not found:
        raise InputError(f"{folder}: holds no checkpoint; train first with `edgeasd train`")
    return load_checkpoint(found[-1])


def load_encoder(run: Run, encoder: nn.Module) -> None:
    """Load the weights that `run` trained, or took over, into `encoder`.

    Raises InputError for a run without weights or whose training has not finished, and for those of another network.
    """
    checkpoint, wanted = latest_checkpoint(run.checkpoints), int(run.facts["preset"].get("iterations", 0))
    if checkpoint.iteration != wanted and not run.is_stored:
        raise InputError(
            f"{run.folder}: stopped at iteration {checkpoint.iteration} of {wanted}; finish its training with --resume"
        )
    prefix = "network.encoder."
    weights = {
        name.removeprefix(prefix).removeprefix("inner."): value
        for name, value in checkpoint.model.items()
        if name.startswith(prefix)
    }
    try:
        (encoder.inner if isinstance(encoder, UnitLength) else encoder).load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{checkpoint.path}: does not fit the encoder that is to take it over ({reason}); name another run"
        ) from None
