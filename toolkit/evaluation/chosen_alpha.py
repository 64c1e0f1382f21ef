"""α chosen on labelled validation clips, and the file in a run that keeps it with its provenance.

alpha.json stands beside run.json. It is bound to outcome.npz, the scores of the held-out clips: a run
that is trained to other weights has no α until one is chosen again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeasd.calibration.deploy import Alpha, SegmentOutputs
from edgeasd.runtime.atomic import write_json
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.score import ScoreSettings, relative_distance
from edgeasd.toolkit.data.clips import content_hash
from edgeasd.toolkit.evaluation.alpha import choose_alpha, sweep_alpha
from edgeasd.toolkit.runs import Run

FORMAT = 1
FEW_CLIPS = 10
"""Below this many of a kind the choice is little more than chance."""

CHOSEN = "chosen on"
"""How the source of a chosen α begins."""

_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


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
    """Content of the run's outcome.npz."""
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
) -> ChosenAlpha:
    """Sweep α over validation clips on the deploy scale `scale` and take the best.

    `outputs`, `anomalous` and `contents` (SHA-256) are in one order, (clips,) each. Raises InputError where a
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
        outcome=content_hash(run.folder / "outcome.npz"),
        chosen=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def save_chosen(run: Run, chosen: ChosenAlpha) -> Path:
    """Write alpha.json of the run atomically; returns its path."""
    path = _path(run)
    write_json(path, chosen.model_dump())
    return path


def load_chosen(run: Run) -> ChosenAlpha | None:
    """The α chosen for this run; None where none was. InputError for a damaged file, or one of other weights."""
    path = _path(run)
    if not path.is_file():
        return None
    try:
        chosen = ChosenAlpha.model_validate(_read(path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "all of it"
        raise InputError(f"{path}: {field}: {first['msg']}; {_REMEDY}") from None
    if chosen.outcome != content_hash(run.folder / "outcome.npz"):
        raise InputError(f"{path}: α {chosen.alpha} was chosen for an earlier training of this folder; {_REMEDY}")
    return chosen


_REMEDY = "choose again with `edgeasd alpha`, or delete the file"


def _path(run: Run) -> Path:
    return run.folder / "alpha.json"


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error}); {_REMEDY}") from None
