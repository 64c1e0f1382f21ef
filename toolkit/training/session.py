"""Trains, resumes or updates the model of one ID in its run folder, until the end or a request to stop."""

from __future__ import annotations

import platform
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

import edgeasd
from edgeasd.calibration.fit.stored_normals import NORMALS
from edgeasd.runtime.errors import CheckFailed, InputError
from edgeasd.runtime.features.logmel import Amplitude
from edgeasd.runtime.features.segments import SegmentSettings
from edgeasd.toolkit.data.clips import Clip
from edgeasd.toolkit.data.machine import MachineData, MachineSplit
from edgeasd.toolkit.data.offered import KnownAnomalies
from edgeasd.toolkit.data.sound import profiles_of
from edgeasd.toolkit.encoders.table import ENCODERS
from edgeasd.toolkit.encoders.weights import Weights
from edgeasd.toolkit.losses import METHODS
from edgeasd.toolkit.models.backbones import network_of
from edgeasd.toolkit.presets import Preset, stored_preset
from edgeasd.toolkit.progress import ProgressCallback
from edgeasd.toolkit.runs import BANKS, Run, load_run
from edgeasd.toolkit.training.checkpoint import latest_checkpoint, list_checkpoints, load_encoder
from edgeasd.toolkit.training.data import FeaturePool
from edgeasd.toolkit.training.outcome import fit_banks_of, training_result
from edgeasd.toolkit.training.trainer import NotFinite, StepLog, Trainer


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether to stop. A second Ctrl-C raises KeyboardInterrupt at once."""
    asked = False

    def ask(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        # Only Ctrl-C counts twice: a parent that stops its processes adds SIGTERM to the terminal's SIGINT.
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True

    before = {one: signal.signal(one, ask) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def train_one(
    data: MachineData,
    id: str,
    preset: Preset,
    seed: int,
    folder: Path,
    fabric: Fabric,
    *,
    resume: bool = False,
    overwrite: bool = False,
    compile_network: bool = False,
    weights: Weights | None = None,
    start: Run | None = None,
    report: ProgressCallback,
    should_stop: Callable[[], bool],
) -> Run:
    """Train the model of one ID into `folder` and return its run; `data` must hold that machine.

    `weights` are those that a pretrained encoder begins with, `start` is a run whose encoder's weights training begins
    with, as `check_first_stage` takes it. Raises InputError for an existing run without `resume` or `overwrite`, for a
    resume with other data or settings, and what `Trainer.run` raises.
    """
    split = data.trainable(id)
    if preset.backbone in ENCODERS and weights is None and start is None:
        raise InputError(f"{preset.backbone}: begins with published weights; name the file with --weights")
    run = Run(folder, run_facts(data, id, split, preset, seed, weights) | first_stage_facts(start))
    claim_run(run, resume=resume, overwrite=overwrite)
    n_mels = data.cache.settings.n_mels
    normals, outliers = _pool(data, split.normals, preset), _pool(data, split.outliers, preset)
    trainer = Trainer(
        preset,
        seed,
        normals,
        outliers,
        n_mels,
        fabric,
        weights=None if weights is None else weights.state,
        compile_network=compile_network,
    )
    if start is not None:
        load_encoder(start, trainer.network.encoder)
    run_trainer(trainer, run, resume, report, should_stop)
    _finish(trainer, run, data, split, (), report)
    return run


def check_first_stage(run: Run, preset: Preset, place: Path) -> None:
    """InputError, naming `place`, for a run whose encoder is none that `preset` can begin with."""
    theirs = stored_preset(run.facts["preset"], str(run.folder / "run.json"))
    for name in ("backbone", "embedding_size"):
        if getattr(theirs, name) != getattr(preset, name):
            raise InputError(
                f"--init-from {place}: its {name} is {getattr(theirs, name)}, that of this training "
                f"{getattr(preset, name)}; they must be the same"
            )
    load_encoder(run, network_of(preset, run.features.n_mels).encoder)


def first_stage_facts(start: Run | None) -> dict[str, Any]:
    """What run.json keeps of the run that training began with."""
    if start is None:
        return {}
    kept = {name: start.facts.get(name) for name in ("machine", "id", "seed", "data_fingerprint", "started")}
    return {"init_from": {**kept, "method": start.facts["preset"]["method"]}}


def finetune_one(
    data: MachineData,
    base: Run,
    known: KnownAnomalies,
    preset: Preset,
    seed: int,
    folder: Path,
    fabric: Fabric,
    *,
    resume: bool = False,
    overwrite: bool = False,
    compile_network: bool = False,
    report: ProgressCallback,
    should_stop: Callable[[], bool],
) -> Run:
    """Update the model of `base` with known anomalies into `folder` (paper, section IV-C).

    `preset` is that of the base run, `for_finetuning` applied. Features, amplitude and segments are
    those of the base run. Raises what `train_one` raises.
    """
    split = data.trainable(base.id)
    facts = run_facts(data, base.id, split, preset, seed)
    facts |= {name: base.facts[name] for name in ("features", "amplitude", "segments", "nominal_frames")}
    start = latest_checkpoint(base.checkpoints)
    facts["update"] = {
        "known_anomalies": [data.hashes[clip.path] for clip in known.used],
        "candidates": sorted(data.hashes[clip.path] for clip in known.candidates),
        "base_iteration": start.iteration,
        "base_started": base.facts.get("started"),
    }
    run = Run(folder, facts)
    claim_run(run, resume=resume, overwrite=overwrite)
    pools = [_pool(data, clips, preset) for clips in (split.normals, split.outliers, known.used)]
    trainer = Trainer(
        preset,
        seed,
        pools[0],
        pools[1],
        data.cache.settings.n_mels,
        fabric,
        anomalies=pools[2],
        compile_network=compile_network,
    )
    trainer.start_from(start)
    run_trainer(trainer, run, resume, report, should_stop)
    _finish(trainer, run, data, split, known.used, report)
    return run


def _finish(
    trainer: Trainer,
    run: Run,
    data: MachineData,
    split: MachineSplit,
    anomalies: Sequence[Clip],
    report: ProgressCallback,
) -> None:
    """Store what the clips give with the trained network: around the centroid, and with a bank if asked for."""
    run.save_result(training_result(data, split, run, trainer, anomalies))
    if trainer.preset.scoring == "knn":
        fit_banks_of(run, trainer.network, data, split, trainer.preset, anomalies=anomalies, report=report)


def run_trainer(
    trainer: Trainer, run: Run, resume: bool, report: ProgressCallback, should_stop: Callable[[], bool]
) -> None:
    """Run a trainer to its end, from the newest checkpoint of `run` if asked to resume."""
    if resume and list_checkpoints(run.checkpoints):
        trainer.restore(latest_checkpoint(run.checkpoints))
    run.save()
    run.drop_banks()
    with _Log(run.folder / "log", trainer.iteration) as log:

        def on_step(step: StepLog) -> None:
            log.add(step)
            speed = f"{step.iterations_per_second:.1f} it/s, {step.waiting:.1%} waiting for data"
            parts = f" = bce {step.bce:.3f} + metric {step.metric:.3f}" if trainer.method in METHODS.values() else ""
            report(step.iteration, trainer.preset.iterations, f"loss {step.loss:8.3f}{parts}  {speed}")

        try:
            trainer.run(on_step, lambda: _save(trainer, run), should_stop)
        except NotFinite as error:
            raise CheckFailed(f"{run.folder}: {error.found}; {_last_good(run, error)}; {error.remedy}") from None


def _last_good(run: Run, error: NotFinite) -> str:
    """Delete the checkpoints whose weights gave no finite loss; returns a line on the newest that is left."""
    for path in list_checkpoints(run.checkpoints):
        if int(path.name.removeprefix("step-")) >= error.iteration:
            shutil.rmtree(path)
    good = list_checkpoints(run.checkpoints)
    return f"the checkpoint {good[-1].name} is good and stands" if good else "it came before the first checkpoint"


def _pool(data: MachineData, clips: list[Clip], preset: Preset) -> FeaturePool:
    return FeaturePool(len(clips), lambda i: data.features(clips[i]), preset.segment_frames)


def _save(trainer: Trainer, run: Run) -> None:
    trainer.save(run.checkpoints, {key: run.facts[key] for key in ("machine", "id", "data_fingerprint", "versions")})


def run_facts(
    data: MachineData, id: str, split: MachineSplit, preset: Preset, seed: int, weights: Weights | None = None
) -> dict[str, Any]:
    """The facts of run.json, for readers of the run, the bundle or a bug report."""
    lengths = [len(data.features(clip)) for clip in split.normals]
    nominal = int(np.median(lengths))
    segments = SegmentSettings.for_clip_length(nominal, preset.segment_frames, preset.sections)
    return {
        "machine": data.machine,
        "id": id,
        "preset": preset.model_dump(),
        "seed": seed,
        "data_root": str(data.root.resolve()),
        **({} if data.outliers is None else {"outliers": data.outliers}),
        # Named only where there are some, so that runs of before go on; they learned from short clips.
        **({"short_clips": "left out"} if data.short else {}),
        "data_fingerprint": data.fingerprint(split),
        "clips": {name: len(clips) for name, clips in vars(split).items()},
        "nominal_frames": nominal,
        "channel": data.cache.channel,
        "features": data.cache.settings.model_dump(),
        "amplitude": {**data.amplitude.model_dump(), "scope": _amplitude_scope(data)},
        **({} if weights is None else {"encoder": weights.provenance}),
        "segments": segments.model_dump(),
        **profiles_of(data, split.normals),
        "versions": {"edgeasd": edgeasd.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _amplitude_scope(data: MachineData) -> str:
    return "as recorded" if data.amplitude == Amplitude() else f"training normals of {data.machine}"


def claim_run(run: Run, *, resume: bool, overwrite: bool) -> None:
    """Make sure `run` may write its folder; raises InputError."""
    if not (run.folder / "run.json").is_file():
        _clear(run.folder)
        return
    if overwrite:
        # run.json goes first: should this be cut short, what is left is of a run that is no more.
        (run.folder / "run.json").unlink()
        shutil.rmtree(run.folder)
        return
    known = list_checkpoints(run.checkpoints)
    at = f"{len(known) and int(known[-1].name.removeprefix('step-'))} of {run.facts['preset']['iterations']} iterations"
    if not resume:
        raise InputError(
            f"{run.folder}: holds a run ({at}); pass --resume to go on with it or --overwrite to start anew"
        )
    before = load_run(run.folder).facts
    # Fields that came later have their default, and scoring concerns what follows the training.
    before["preset"] = {
        **stored_preset(before["preset"], str(run.folder / "run.json")).model_dump(),
        "scoring": run.facts["preset"]["scoring"],
    }
    earlier, now = _decisive(before), _decisive(run.facts)
    for name, value in now.items():
        if earlier[name] != value:
            raise InputError(
                f"{run.folder}: was started with another {name.replace('_', ' ')} "
                f"({_difference(earlier[name], value)}); resume with the same, or pass --overwrite"
            )


def _decisive(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts that a resumed run must share with the one that began."""
    # When another run began says nothing of it: one that was resumed began again.
    first = {name: value for name, value in facts.get("init_from", {}).items() if name != "started"}
    return {
        **{name: facts.get(name) for name in ("data_fingerprint", "preset", "seed", "channel", "update")},
        "encoder": facts.get("encoder", {}).get("sha256"),
        "shared_encoder": facts.get("shared_encoder", {}).get("weights"),
        "init_from": first,
    }


def _clear(folder: Path) -> None:
    """Delete what a run without a run.json left: its checkpoints would be taken for those of the next one."""
    for name in ("checkpoints", "log", "updates"):
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
    for name in (BANKS, NORMALS, "outcome*.npz", "evaluation*.json", "alpha*.json"):
        for path in folder.glob(name):
            path.unlink()


def _difference(before: Any, now: Any) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        changed = [key for key in now if before.get(key) != now[key]]
        return ", ".join(f"{key} {before.get(key)!r}, now {now[key]!r}" for key in changed)
    return f"{before!r}, now {now!r}"


class _Log:
    """An event file that TensorBoard opens. A resumed run hides what it is about to write again."""

    def __init__(self, folder: Path, iteration: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=iteration + 1 if iteration else None)

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def add(self, step: StepLog) -> None:
        for name, value in asdict(step).items():
            if name != "iteration":
                self._writer.add_scalar(f"train/{name}", value, step.iteration)
