"""Presets are data: one TOML file each, read into a checked `Preset`. Every field is stored with the run."""

from __future__ import annotations

import sys
from importlib import resources
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgeasd.runtime.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PRESETS = ("paper", "quick", "medium", "classify", "knn", "pretrained", "pretrained-tuned", "pretrained-classify")

SCORINGS = ("centroid", "knn")
_WITHOUT_WEIGHTS = ("logmel-stats",)
_STARTS_AT_RANDOM = ("resnet38", "quick", "medium")
"""Encoders that know nothing before they are trained."""
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
_DESCRIBED = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
"""The docstring of a field is its description, which `edgeasd preset show` prints."""


class FinetunePlan(BaseModel):
    """What changes when known anomalies join the training (paper, section IV-C)."""

    model_config = _DESCRIBED

    iterations: Annotated[int, Field(ge=1, le=10_000_000)] = 2000
    """Training steps of an update."""
    batch_outlier: Annotated[int, Field(ge=1, le=4096)] = 31
    """Outliers in each batch of an update."""
    batch_anomaly: Annotated[int, Field(ge=1, le=4096)] = 1
    """Known anomalies in each batch of an update."""


class Preset(BaseModel):
    """Everything that decides what a training run computes, apart from the data and the seed."""

    model_config = _DESCRIBED

    name: str
    """The preset that the values come from."""
    backbone: str
    """What maps log-mel to an embedding: resnet38, quick, medium, logmel-stats or a pretrained encoder."""
    method: str
    """Loss and score: bce, dsad, ddcsad, bce+dsad or bce+ddcsad; or stored normals: classify (trained) or knn (not)."""
    iterations: Annotated[int, Field(ge=0, le=10_000_000)]
    """Training steps, one batch each; 0 for knn, which has nothing to train."""
    batch_normal: Annotated[int, Field(ge=1, le=4096)]
    """Normal segments in each batch."""
    batch_outlier: Annotated[int, Field(ge=1, le=4096)]
    """Outlier segments in each batch."""
    batch_anomaly: Annotated[int, Field(ge=0, le=4096)] = 0
    """Known anomalies in each batch; 0 but in fine-tuning."""
    learning_rate: _Positive
    """Learning rate of the encoder (Adam), at the start."""
    head_learning_rate: _Positive
    """Learning rate of the head (Adam), at the start."""
    halve_every: Annotated[int, Field(ge=1)]
    """Iterations after which both learning rates are halved."""
    lam: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """λ of equation 4: weight of the metric loss beside the cross-entropy."""
    eta: _Positive
    """η of equations 2 and 3: weight of normals and known anomalies beside outliers."""
    epsilon: _Positive
    """Added to d² before it is inverted, in units of d²."""
    least_epoch_iterations: Annotated[int, Field(ge=1)]
    """An epoch is one pass over the normals, but at least this many iterations."""
    centroid_outliers: Annotated[int, Field(ge=0)]
    """Most outlier clips that enter c_n; 0 for all."""
    holdout_fraction: _Fraction
    """Share of the training normals kept out for d′, α and the threshold."""
    test_fraction: _Fraction
    """Share of the normals that judge, where the layout has no test folder."""
    checkpoint_every: Annotated[int, Field(ge=1)]
    """Iterations between two checkpoints."""
    segment_frames: Annotated[int, Field(ge=8, le=4096)] = 256
    """Log-mel frames of a segment: of 32 ms each, or of 10 ms for a pretrained encoder."""
    sections: Annotated[int, Field(ge=1, le=1000)] = 10
    """Segments of a clip whose scores are averaged."""
    zero_init_residual: bool = True
    """Start the second batch norm of each residual block at 0."""
    embedding_size: Annotated[int, Field(ge=0, le=65_536)] = 0
    """D, the numbers in an embedding; 0 for the backbone's own (2048 for resnet38, 64 for quick, 256 for medium)."""
    tune_from: Annotated[int, Field(ge=0, le=1000)] = 0
    """Pretrained encoders: the first layer that is trained; those before it stay as they came."""
    estimate_norms_first: bool = True
    """Estimate batch-norm statistics in one pass before the first centroids."""
    anomalies_in_centroid: bool = False
    """Let known anomalies enter c_n beside the outliers."""
    crop_frames: Annotated[int, Field(ge=0, le=4096)] = 0
    """classify: frames of a training segment; 0 for those of a segment."""
    mixup: Annotated[float, Field(ge=0, le=1)] = 0.5
    """classify: share of the training segments that are mixed with another."""
    sub_centres: Annotated[int, Field(ge=1, le=1024)] = 16
    """classify: centres of each class."""
    class_machines: Literal["own", "all"] = "own"
    """classify: whose IDs are told apart, those of the machine alone (own) or of all machines recorded alike (all)."""
    scoring: str = "centroid"
    """What d is measured to: the centroid of the normals, or the nearest of them (knn), whatever the training."""
    bank_size: Annotated[int, Field(ge=8, le=65_536)] = 1024
    """Banks: stored normal segments of each bank, at most."""
    bank_neighbours: Annotated[int, Field(ge=1, le=100)] = 4
    """Banks: neighbours whose mean distance is the local density."""
    bank_sections: Annotated[int, Field(ge=1, le=100)] = 3
    """Banks: segments of each training clip that are stored, first and last included."""
    finetune: FinetunePlan = FinetunePlan()
    """What an update with known anomalies does otherwise."""

    @model_validator(mode="before")
    @classmethod
    def _stored_is_compared_with(cls, raw: Any) -> Any:
        """The methods knn and classify have nothing but stored normals; presets of older runs do not say so."""
        if isinstance(raw, dict) and raw.get("method") == "classify":
            return {**raw, "scoring": "knn"}  # it may come from a preset of another method
        return {"scoring": "knn", **raw} if isinstance(raw, dict) and raw.get("method") == "knn" else raw

    @model_validator(mode="after")
    def _trained_or_stored(self) -> Preset:
        knn = self.method == "knn"
        if self.scoring not in SCORINGS:
            raise ValueError(f"scoring {self.scoring} is unknown; use one of {', '.join(SCORINGS)}")
        if knn and self.scoring != "knn":
            raise ValueError("the method knn has no centroid, only stored normals; leave scoring at knn")
        if self.backbone in _WITHOUT_WEIGHTS and not knn:
            raise ValueError(
                f"backbone {self.backbone} with the method {self.method} does not fit: {self.backbone} has nothing to "
                "train and goes with knn; change one of them"
            )
        if self.backbone in _STARTS_AT_RANDOM and knn:
            raise ValueError(
                f"backbone {self.backbone} with the method knn does not fit: knn trains nothing and {self.backbone} "
                "knows nothing before it is trained; train it and compare with stored normals by --scoring knn"
            )
        if knn != (self.iterations == 0):
            raise ValueError(
                f"{self.iterations} iterations with the method {self.method}: knn trains nothing and takes 0, every other "
                "method 1 or more; change one of them"
            )
        return self

    def for_finetuning(self) -> Preset:
        """The preset of an update with known anomalies: `finetune` applied, all else as it was.

        Raises InputError for a method that trains nothing.
        """
        if self.method in ("knn", "classify"):
            raise InputError(
                f"finetune: the model compares with stored normals ({self.method}), which known anomalies do not change, "
                "so there is no update; train it with another method, such as --preset quick, which needs at least one "
                "other machine"
            )
        return self.changed(**self.finetune.model_dump())

    def changed(self, **fields: Any) -> Preset:
        """A copy with the fields that are not None replaced, checked again. Raises InputError."""
        return _checked({**self.model_dump(), **{k: v for k, v in fields.items() if v is not None}}, self.name)


def _checked(raw: dict[str, Any], place: str) -> Preset:
    try:
        return Preset.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        if not field:  # settings that do not fit each other
            raise InputError(f"preset {place}: {first['msg'].removeprefix('Value error, ')}") from None
        raise InputError(f"preset {place}: {field} = {first['input']!r}: {first['msg']}") from None


def load_preset(name: str) -> Preset:
    """Read a preset by name; InputError for an unknown one."""
    if name not in PRESETS:
        raise InputError(f"--preset {name}: unknown; use one of {', '.join(PRESETS)}")
    return _checked(_read(f"{name}.toml"), name)


def stored_preset(raw: Any, place: str) -> Preset:
    """A preset as a run keeps it, checked again. Raises InputError that names `place`."""
    return _checked(raw, place)


def table_one_alpha(method: str, machine: str) -> float | None:
    """α of the paper's Table I, or None if the table has no such cell."""
    return table_one().get(method, {}).get(machine)


def table_one() -> dict[str, dict[str, float]]:
    """α of the paper's Table I: {method: {machine type: α}}."""
    return {
        method: {machine: float(alpha) for machine, alpha in cells.items()}
        for method, cells in _read("alpha.toml").items()
    }


def published_table_two() -> dict[str, Any]:
    """Table II of the paper as table2.toml has it: machine type -> IDs, clip counts, {method: [AUC %, half-width]}."""
    return _read("table2.toml")


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads(resources.files(__package__).joinpath(name).read_text("utf-8"))
