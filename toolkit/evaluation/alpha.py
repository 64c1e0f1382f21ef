"""α of equation 5: swept over a grid, chosen on validation clips, stored with the run.

A clip score is the mean of α q + (1 − α) d′ over its segments, which is α mean(q) + (1 − α) mean(d′):
two numbers a clip are enough for every α.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeasd.calibration.fit.deploy import Alpha, SegmentOutputs
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.scoring.score import ScoreSettings, blend, relative_distance
from edgeasd.runtime.system.files import write_json
from edgeasd.toolkit.data.clips import content_hash
from edgeasd.toolkit.evaluation.metrics import auc
from edgeasd.toolkit.runs import ALPHA, OUTCOME, Run

GRID = tuple(i / 20 for i in range(21))
"""0, 0.05, …, 1."""
FORMAT = 1
FEW_CLIPS = 10
"""Below this many of a kind the choice is little more than chance."""
CHOSEN = "chosen on"
"""How the source of a chosen α begins."""
_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_REMEDY = "choose again with `edgeasd alpha`, or delete the file"


@dataclass(frozen=True)
class Sweep:
    """AUC at each α of the grid over one set of clips."""

    alphas: tuple[float, ...]
    aucs: tuple[float, ...]


def sweep_alpha(q: ArrayLike, d_prime: ArrayLike, anomalous: ArrayLike, grid: tuple[float, ...] = GRID) -> Sweep:
    """AUC at every α of `grid`; `q`, `d_prime` and `anomalous` (bool) are clip-level, (clips,) each.

    Raises InputError for lengths that differ, an α outside [0, 1], an empty grid, a class without clips, or a value
    that is not finite.
    """
    q_means, d_means, labels = _clips(q, d_prime, anomalous)
    if not grid or not all(0 <= alpha <= 1 for alpha in grid):
        raise InputError(f"α grid {grid}: give at least one α, all of them in [0, 1]")
    aucs = []
    for alpha in grid:
        scores = blend(q_means, d_means, alpha)
        aucs.append(auc(scores[~labels], scores[labels]))
    return Sweep(tuple(grid), tuple(aucs))


def choose_alpha(validation: Sweep) -> float:
    """The α with the largest AUC over **validation** clips; among equals the one nearest to 0.5, then the smaller.

    Give it a sweep over labelled clips that neither train nor judge the model: an α chosen on the test clips
    makes their AUC look better than it is.
    """
    best = max(validation.aucs)
    equal = [a for a, value in zip(validation.alphas, validation.aucs, strict=True) if value >= best - 1e-12]
    return min(equal, key=lambda alpha: (abs(alpha - 0.5), alpha))


def _clips(
    q: ArrayLike, d_prime: ArrayLike, anomalous: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    arrays = np.asarray(q, np.float64), np.asarray(d_prime, np.float64), np.asarray(anomalous, bool)
    if not arrays[0].shape == arrays[1].shape == arrays[2].shape == (arrays[0].size,):
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise InputError(f"q, d′ and labels of shapes {shapes}; give one of each for every clip")
    return arrays


class ChosenAlpha(BaseModel):
    """α of a run, the sweep it was chosen from, and the clips that chose it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    format: Annotated[int, Field(ge=FORMAT, le=FORMAT)] = FORMAT
    alpha: _Share
    normals: Annotated[int, Field(ge=1)]
    anomalies: Annotated[int, Field(ge=1)]
    alphas: list[_Share]
    aucs: list[_Share]
    """AUC over the validation clips at each of `alphas`."""
    d_min: float
    d_max: float
    """The deploy scale it was chosen on."""
    validation: list[_Sha256]
    """Content of the clips; none of them judges this run."""
    outcome: _Sha256
    """Content of the run's outcome of that scoring."""
    chosen: str = ""

    @property
    def setting(self) -> Alpha:
        """The value with its source, as a manifest states it."""
        source = f"{CHOSEN} {self.normals} normal and {self.anomalies} anomalous validation clips"
        return Alpha(self.alpha, source)


def choose(
    run: Run,
    scale: ScoreSettings,
    outputs: Sequence[SegmentOutputs],
    anomalous: Sequence[bool],
    contents: Sequence[str],
    *,
    of_banks: bool = False,
) -> ChosenAlpha:
    """Sweep α over validation clips on the deploy scale `scale` and take the best.

    `outputs`, `anomalous` and `contents` (SHA-256) are in one order, (clips,) each. Raises InputError if a
    class has no clips and for scores that are not finite.
    """
    q = [float(np.mean(one.q)) for one in outputs]
    d_prime = [float(np.mean(relative_distance(one.d, scale.d_min, scale.d_max))) for one in outputs]
    sweep = sweep_alpha(q, d_prime, anomalous)
    return ChosenAlpha(
        alpha=choose_alpha(sweep),
        normals=len(anomalous) - sum(anomalous),
        anomalies=sum(anomalous),
        alphas=list(sweep.alphas),
        aucs=list(sweep.aucs),
        d_min=scale.d_min,
        d_max=scale.d_max,
        validation=sorted(contents),
        outcome=content_hash(run.path_of(OUTCOME, of_banks=of_banks)),
        chosen=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def save_chosen(run: Run, chosen: ChosenAlpha, *, of_banks: bool = False) -> Path:
    """Write alpha.json of the run atomically, or alpha-knn.json for its banks; returns its path."""
    path = _path(run, of_banks)
    write_json(path, chosen.model_dump())
    return path


def load_chosen(run: Run, *, of_banks: bool = False) -> ChosenAlpha | None:
    """The α chosen for this run, or for its banks; None if none was.

    InputError for a damaged file, or one of other weights."""
    path = _path(run, of_banks)
    if not path.is_file():
        return None
    try:
        chosen = ChosenAlpha.model_validate(_read(path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "all of it"
        raise InputError(f"{path}: {field}: {first['msg']}; {_REMEDY}") from None
    if chosen.outcome != content_hash(run.path_of(OUTCOME, of_banks=of_banks)):
        raise InputError(f"{path}: α {chosen.alpha} was chosen for an earlier training of this folder; {_REMEDY}")
    return chosen


def _path(run: Run, of_banks: bool) -> Path:
    return run.path_of(ALPHA, of_banks=of_banks)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error}); {_REMEDY}") from None
