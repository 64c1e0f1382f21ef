"""The workspace: runs/<machine>/id_<id>/ from training, bundles/<machine>-id_<id>/ from export."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError

from edgeasd.calibration.fit.bank import KNN, Bank, read_banks, write_banks
from edgeasd.calibration.fit.deploy import SegmentOutputs
from edgeasd.calibration.fit.stored_normals import NORMALS, StoredNormals
from edgeasd.runtime.errors import InputError, describe_validation_error
from edgeasd.runtime.features.logmel import Amplitude, FeatureSettings, Float32Array
from edgeasd.runtime.features.segments import SegmentSettings
from edgeasd.runtime.states import ModeProfile, SoundProfile
from edgeasd.runtime.system.files import atomic_file, write_bytes, write_json
from edgeasd.toolkit.data.clips import plain_id

FORMAT = 1
BANKS = "bank.npz"
"""Name of the banks in the run folder of a model that is scored by stored normals."""
OUTCOME, ALPHA, EVALUATION = "outcome.npz", "alpha.json", "evaluation.json"
"""Names of what a run holds for each scoring; see `Run.path_of`."""
BASE = "none"
"""--update none: the model as it was trained, without known anomalies."""
_SPLITS = ("normals", "outliers", "anomalies")


def run_folder(workspace: Path, machine: str, id: str) -> Path:
    """Where the training run of one ID lives."""
    return workspace / "runs" / machine / f"id_{id}"


def encoder_folder(workspace: Path, machine: str) -> Path:
    """Where the training run of the encoder that all IDs of a machine share lives."""
    return workspace / "runs" / machine / "encoder"


def update_folder(workspace: Path, machine: str, id: str, count: int, seed: int) -> Path:
    """Where an update of that ID with `count` known anomalies lives."""
    return run_folder(workspace, machine, id) / "updates" / f"n{count:03d}-s{seed}"


def bundle_folder(workspace: Path, machine: str, id: str) -> Path:
    """Where the bundle of one ID is exported to."""
    return workspace / "bundles" / f"{machine}-id_{id}"


class RunFile(BaseModel):
    """The part of run.json that its readers rely on."""

    model_config = ConfigDict(extra="allow")

    format: Literal[1]
    machine: str
    id: str
    preset: dict[str, Any]
    seed: StrictInt
    features: FeatureSettings
    amplitude: Amplitude
    segments: SegmentSettings
    sound: SoundProfile | None = None
    modes: dict[str, ModeProfile] = Field(default_factory=dict)
    channel: Annotated[StrictInt, Field(ge=0)] | None = None
    update: dict[str, Any] = Field(default_factory=dict)
    """Of an update with known anomalies only."""


@dataclass(frozen=True)
class Run:
    """A run folder and the facts in its run.json."""

    folder: Path
    facts: dict[str, Any]

    @property
    def machine(self) -> str:
        """Machine type."""
        return str(self.facts["machine"])

    @property
    def id(self) -> str:
        """Machine ID."""
        return str(self.facts["id"])

    @property
    def known_anomalies(self) -> int:
        """Known anomalies in training; 0 for a model trained without."""
        return len(self.facts.get("update", {}).get("known_anomalies", []))

    @property
    def candidates(self) -> frozenset[str]:
        """Content hashes of every anomaly the user offered; none of them may judge an update."""
        return frozenset(self.facts.get("update", {}).get("candidates", []))

    def updates(self) -> list[Run]:
        """Finished updates of this run, oldest first."""
        found = [load_run(path.parent) for path in self.folder.glob("updates/*/run.json")]
        finished = [run for run in found if (run.folder / "outcome.npz").is_file()]
        return sorted(finished, key=lambda run: (str(run.facts.get("started")), run.folder.name))

    def chosen(self, update: str | None) -> Run:
        """This run for "none", a named update, or by default the newest finished update, if any."""
        if update == BASE:
            return self
        updates = self.updates()
        if update is None:
            return updates[-1] if updates else self
        named = [run for run in updates if run.folder.name == update]
        if not named:
            there = ", ".join(run.folder.name for run in updates) or "none finished"
            raise InputError(f"--update {update}: not in {self.folder}/updates (there: {there}); name one of them")
        return named[0]

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.folder / "checkpoints"

    @property
    def features(self) -> FeatureSettings:
        """Feature settings of the run."""
        return FeatureSettings.model_validate(self.facts["features"])

    @property
    def amplitude(self) -> Amplitude:
        """Amplitude of the run's machine type."""
        return Amplitude.model_validate(self.facts["amplitude"])

    @property
    def channel(self) -> int | None:
        """The channel used of clips with several, counted from 0; None if all had one."""
        return self.facts.get("channel")

    @property
    def sound(self) -> SoundProfile | None:
        """What its normal clips sound like; None for a run of an earlier edgeasd, and for too few clips."""
        found = self.facts.get("sound")
        return None if found is None else SoundProfile.model_validate(found)

    @property
    def modes(self) -> dict[str, ModeProfile]:
        """The recorded modes among its normal clips."""
        return {name: ModeProfile.model_validate(one) for name, one in self.facts.get("modes", {}).items()}

    @property
    def segments(self) -> SegmentSettings:
        """Segment settings of the run."""
        return SegmentSettings.model_validate(self.facts["segments"])

    def save(self) -> None:
        """Write run.json atomically."""
        write_json(self.folder / "run.json", {"format": FORMAT, **self.facts})

    def banks(self) -> tuple[Bank, ...]:
        """Read bank.npz; InputError if it is missing or damaged."""
        path = self.folder / BANKS
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); train again") from None
        return read_banks(data, str(path))

    def save_banks(self, banks: Sequence[Bank], normals: StoredNormals, result: TrainingResult) -> None:
        """Write the banks, what they were fitted on, and what the held-out clips gave with them.

        The banks come last: without them the other files say nothing.
        """
        write_bytes(self.folder / NORMALS, normals.to_bytes())
        self._save(self.path_of(OUTCOME, of_banks=True), result)
        write_bytes(self.folder / BANKS, write_banks(banks))

    @property
    def is_stored(self) -> bool:
        """Whether its normals were stored and nothing was trained for this ID alone (knn, or a shared encoder)."""
        return bool(self.facts["preset"].get("method") == KNN) or "shared_encoder" in self.facts

    @property
    def is_scored_by_banks(self) -> bool:
        """Whether that is how the run is scored unless told otherwise."""
        return self.is_stored or self.facts["preset"].get("scoring") == KNN

    @property
    def has_banks(self) -> bool:
        """Whether its normals are stored, in place of a training or beside it."""
        return (self.folder / BANKS).is_file()

    def drop_banks(self) -> None:
        """Delete the banks of earlier weights."""
        for name in (BANKS, NORMALS):
            (self.folder / name).unlink(missing_ok=True)
        for name in () if self.is_stored else (OUTCOME, ALPHA, EVALUATION):
            self.path_of(name, of_banks=True).unlink(missing_ok=True)

    def stored_normals(self) -> StoredNormals | None:
        """What the banks were fitted on; None for a run of before. InputError if it is damaged."""
        path = self.folder / NORMALS
        return StoredNormals.from_bytes(path.read_bytes(), str(path)) if path.is_file() else None

    def save_result(self, result: TrainingResult) -> None:
        """Write outcome.npz atomically."""
        self._save(self.folder / OUTCOME, result)

    def _save(self, path: Path, result: TrainingResult) -> None:
        with atomic_file(path) as handle:
            np.savez(handle, allow_pickle=False, **result.to_arrays())

    def path_of(self, name: str, *, of_banks: bool) -> Path:
        """A file of this folder, such as "outcome.npz"; outcome-knn.npz for that of the banks beside a training."""
        stem, dot, kind = name.partition(".")
        return self.folder / (f"{stem}-knn{dot}{kind}" if of_banks and not self.is_stored else name)

    def result(self, *, of_banks: bool = False) -> TrainingResult:
        """Read the outcome, with the banks' distances in place of the centroid's where asked for; InputError if
        training has not finished."""
        path = self.path_of(OUTCOME, of_banks=of_banks)
        if not path.is_file():
            raise InputError(f"{self.folder}: training has not finished; continue it with `edgeasd train --resume`")
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return TrainingResult.from_arrays(dict(arrays))
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{path}: cannot be read ({error}); train again") from None


@dataclass(frozen=True)
class TrainingResult:
    """The result of a finished training: export and evaluation need no data beside it."""

    normals: list[SegmentOutputs]
    outliers: list[SegmentOutputs]
    anomalies: list[SegmentOutputs]
    """Known anomalies the model was updated with; empty for a model trained without."""
    held_out: bool
    """False if nothing was held out and these are training clips."""
    golden: Float32Array
    """A few real segments (G, frames, n_mels)."""
    live_normals: SegmentOutputs | None = None
    """Outputs of every live segment of the held-out normals joined one after another; None if nothing was held out, and
    for a run of an earlier version."""

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Flat arrays for npz."""
        arrays: dict[str, np.ndarray] = {"golden": self.golden, "held_out": np.array(self.held_out)}
        for split in _SPLITS:
            clips: list[SegmentOutputs] = getattr(self, split)
            empty = np.empty(0, np.float32)
            arrays[f"{split}_q"] = np.concatenate([empty, *(c.q for c in clips)])
            arrays[f"{split}_d"] = np.concatenate([empty, *(c.d for c in clips)])
            arrays[f"{split}_lengths"] = np.array([len(c.q) for c in clips], dtype=np.int64)
        if self.live_normals is not None:
            arrays |= {"live_q": self.live_normals.q, "live_d": self.live_normals.d}
        return arrays

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> TrainingResult:
        """The inverse of `to_arrays`."""

        def clips(split: str) -> list[SegmentOutputs]:
            cuts = np.cumsum(arrays[f"{split}_lengths"])[:-1]
            q, d = np.split(arrays[f"{split}_q"], cuts), np.split(arrays[f"{split}_d"], cuts)
            return [SegmentOutputs(*pair) for pair in zip(q, d, strict=True) if len(pair[0])]

        normals, outliers, anomalies = (clips(split) for split in _SPLITS)
        live = SegmentOutputs(arrays["live_q"], arrays["live_d"]) if "live_q" in arrays else None
        return cls(normals, outliers, anomalies, bool(arrays["held_out"]), arrays["golden"], live)


def load_run(folder: Path) -> Run:
    """Read a run. Raises InputError if there is none, or if its run.json is damaged."""
    path = folder / "run.json"
    try:
        facts = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder}: no training run here; train first with `edgeasd train`") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error}); train again") from None
    try:
        RunFile.model_validate(facts)
    except ValidationError as error:
        reason = describe_validation_error(error, RunFile).partition(";")[0]
        raise InputError(f"{path}: {reason}; train again") from None
    return Run(folder, facts)


def find_runs(workspace: Path, machine: str, id: str | None) -> list[Run]:
    """The runs of a machine, or of one ID; InputError lists what is there if none fits."""
    base = workspace / "runs"
    if id is not None:
        folder = run_folder(workspace, machine, plain_id(id))
        if (folder / "run.json").is_file():
            return [load_run(folder)]
    else:
        found = sorted((base / machine).glob("id_*/run.json"))
        if found:
            return [load_run(path.parent) for path in found]
    present = sorted(f"{p.parent.parent.name} {p.parent.name}" for p in base.glob("*/id_*/run.json"))
    wanted = machine if id is None else f"{machine} id_{plain_id(id)}"
    there = ", ".join(present) or "none"
    raise InputError(
        f"{base}: no run of {wanted} (there: {there}); train first with `edgeasd train` or see --workspace"
    )
