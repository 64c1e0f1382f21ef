"""Synthetic recordings in the field layout that training and evaluation read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import soundfile

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.system.files import atomic_file
from edgeasd.toolkit.demo import machines

_MOST_CLIPS = 100_000


@dataclass(frozen=True)
class DatasetPlan:
    """What to render: `normals` clips of every machine, `anomalies` of those in `anomaly_ids`.

    `seconds` is the length of a clip and `fault_snr_db` the level of its fault (see
    `machines.render`). `anomaly_ids` maps a kind to the IDs that get anomalies; None means all, and a
    kind that is left out of the mapping gets none. The faults of a kind take turns.
    """

    kinds: tuple[str, ...] = machines.KINDS
    ids: tuple[str, ...] = machines.IDS
    normals: int = 60
    anomalies: int = 12
    anomaly_ids: Mapping[str, tuple[str, ...]] | None = None
    seconds: float = 10.0
    fault_snr_db: float = machines.DEFAULT_FAULT_SNR_DB
    seed: int = 0


@dataclass(frozen=True)
class _Job:
    path: Path
    kind: str
    machine_id: str
    seed: int
    fault: str | None = None


def _jobs(root: Path, plan: DatasetPlan) -> Iterator[_Job]:
    wanted = dict.fromkeys(plan.kinds, plan.ids) if plan.anomaly_ids is None else plan.anomaly_ids
    # Normal and anomalous clips take alternate seeds, so that none is another with a fault added.
    first = plan.seed * 2 * _MOST_CLIPS
    for kind in plan.kinds:
        for machine_id in plan.ids:
            folder = root / kind / machine_id
            for index in range(plan.normals):
                path = folder / "normal" / f"{index:04d}.flac"
                yield _Job(path, kind, machine_id, first + 2 * index)
            for index in range(plan.anomalies if machine_id in wanted.get(kind, ()) else 0):
                fault = machines.FAULTS[kind][index % len(machines.FAULTS[kind])]
                path = folder / "anomaly" / f"{index:04d}_{fault}.flac"
                yield _Job(path, kind, machine_id, first + 2 * index + 1, fault)


def _check(root: Path, plan: DatasetPlan) -> None:
    """Refuse before the first file what could only fail after some."""
    for kind in (*plan.kinds, *(plan.anomaly_ids or ())):
        if kind not in plan.kinds or kind not in machines.KINDS:
            known = ", ".join(machines.KINDS)
            raise InputError(f"machine kind {kind!r}: not among the kinds to render; use {known}")
    for machine_id in {machine_id for ids in (plan.anomaly_ids or {}).values() for machine_id in ids}:
        if machine_id not in plan.ids:
            known = ", ".join(plan.ids)
            raise InputError(f"anomaly ID {machine_id!r}: not among the IDs to render ({known}); add it there")
    for name, count in (("normals", plan.normals), ("anomalies", plan.anomalies)):
        if not 0 <= count <= _MOST_CLIPS:
            raise InputError(f"{name} {count}: outside 0 to {_MOST_CLIPS} clips a machine; give fewer")
    for kind in plan.kinds:
        for machine_id in plan.ids:
            for fault in machines.FAULTS[kind]:
                broken = machines.Fault(fault, plan.fault_snr_db)
                machines.check(kind, machine_id, plan.seconds, plan.seed, broken)
    if root.exists() and not root.is_dir():
        raise InputError(f"{root}: is a file, a folder is needed here; name another place")
    if root.is_dir() and any(root.iterdir()):
        raise InputError(f"{root}: the folder is not empty; name a new one or delete this one first")


def _write(job: _Job, plan: DatasetPlan) -> None:
    signal = machines.render(
        job.kind,
        job.machine_id,
        seconds=plan.seconds,
        seed=job.seed,
        fault=job.fault,
        fault_snr_db=plan.fault_snr_db,
    )
    health = "normal" if job.fault is None else f"{job.fault} at {plan.fault_snr_db:g} dB"
    with (
        atomic_file(job.path) as handle,
        soundfile.SoundFile(handle, "w", machines.SAMPLE_RATE, 1, "PCM_16", format="FLAC") as sound,
    ):
        # The file itself says that it is no recording, wherever it is copied to.
        sound.title = f"{job.kind} {job.machine_id}, {health}"
        sound.comment = "synthetic sound rendered by edgeasd demo, not a recording"
        sound.write(signal)


def write_dataset(root: Path, plan: DatasetPlan, progress: Callable[[int, int], None] | None = None) -> None:
    """Write <root>/<kind>/<id>/{normal,anomaly}/<name>.flac: 16 kHz, mono, 16 bit.

    Names carry the index and the fault (`normal/0003.flac`, `anomaly/0003_leak.flac`). Each file is
    whole or absent; the same plan gives the same samples. `progress(done, total)` is called after
    every file.

    Raises InputError for a `root` that is not empty or cannot be written, and for a plan with an
    unknown kind or ID or a number outside its range.
    """
    root = Path(root)
    try:
        _check(root, plan)
        jobs = list(_jobs(root, plan))
        for done, job in enumerate(jobs, start=1):
            _write(job, plan)
            if progress is not None:
                progress(done, len(jobs))
    except OSError as error:
        where = error.filename or root
        raise InputError(f"{where}: cannot be written ({error.strerror}); name another place") from error
