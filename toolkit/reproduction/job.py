"""One job, in whichever process it runs: load, train or update, judge, write the result."""

from __future__ import annotations

import json
import os
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from lightning_fabric import Fabric

from edgeasd.runtime.errors import EdgeasdError, InputError
from edgeasd.runtime.system.files import write_bytes, write_json
from edgeasd.toolkit.data.clips import REPAIR
from edgeasd.toolkit.data.machine import MachineData, load_machine
from edgeasd.toolkit.data.offered import KnownAnomalies, choose_known
from edgeasd.toolkit.data.split import describe_copies
from edgeasd.toolkit.evaluation.evaluate import evaluate
from edgeasd.toolkit.evaluation.trained import load_trained_model
from edgeasd.toolkit.progress import ProgressCallback
from edgeasd.toolkit.reproduction.plan import FORMAT, JobEnd, ModelJob, job_lock
from edgeasd.toolkit.runs import Run, load_run
from edgeasd.toolkit.training.fabric import open_fabric
from edgeasd.toolkit.training.session import finetune_one, train_one
from edgeasd.toolkit.training.trainer import Interrupted, NotFinite

ATTEMPTS = "attempts.json"

_last: tuple[object, MachineData] | None = None
"""The machine this process loaded last: jobs that follow each other mostly share it."""


class Stopped(Exception):
    """The job was asked to stop; what it had done is kept."""


def run_job(
    job: ModelJob, accelerator: str, report: ProgressCallback, should_stop: Callable[[], bool]
) -> dict[str, Any]:
    """Do a job, from its newest checkpoint where an earlier attempt left one, and return its result.

    If another process did it meanwhile, its result. Raises Stopped if `should_stop` says so, and what
    `job_lock`, training and evaluation raise.
    """

    def check_stop() -> None:
        if should_stop():
            raise Stopped(f"{job.name}: stopped")

    with job_lock(job.folder, on_wait=check_stop):
        done = job.result()
        return _do(job, accelerator, report, should_stop) if done is None else done


def attempt_job(job: ModelJob, accelerator: str, report: ProgressCallback, should_stop: Callable[[], bool]) -> JobEnd:
    """`run_job` in a worker process, local or of Ray: every error becomes a `JobEnd`."""
    try:
        run_job(job, accelerator, report, should_stop)
    except Stopped:
        return JobEnd("stopped")
    except Exception as error:
        return JobEnd("failed", *failure(job, error))
    return JobEnd("finished")


def _do(job: ModelJob, accelerator: str, report: ProgressCallback, should_stop: Callable[[], bool]) -> dict[str, Any]:
    attempt = _note_attempt(job)
    started = time.monotonic()

    def watched(done: int, total: int, text: str = "") -> None:
        if should_stop():
            raise Stopped(f"{job.name}: stopped")
        report(done, total, text)

    fabric = open_fabric(accelerator)
    data = _machine_data(job, watched)
    known = _known(job, data)
    _prepare(job, data, watched)
    finished = _finished_run(job, data)
    run = _train(job, data, known, fabric, report, should_stop) if finished is None else finished
    training_seconds = time.monotonic() - started
    trained = load_trained_model(run)
    trained.network.to(fabric.device)
    excluded = frozenset() if known is None else frozenset(data.hashes[clip.path] for clip in known.candidates)
    judged = evaluate(trained, data, excluded=excluded, report=watched)
    result = {
        "format": FORMAT,
        "job": job.name,
        "settings": job.settings(),
        "data_fingerprint": run.facts.get("data_fingerprint"),
        "versions": run.facts.get("versions"),
        "device": str(fabric.device),
        "attempts": attempt,
        "trained_here": finished is None,
        "seconds": {"training": round(training_seconds, 3), "all": round(time.monotonic() - started, 3)},
        "copies": describe_copies(data.copies) if data.copies else None,
        "evaluation": judged.to_json(),
    }
    write_json(job.result_path, result)
    return result


def _train(
    job: ModelJob,
    data: MachineData,
    known: KnownAnomalies | None,
    fabric: Fabric,
    report: ProgressCallback,
    should_stop: Callable[[], bool],
) -> Run:
    """The run of the job, trained or updated to its end."""
    options: dict[str, Any] = {"resume": (job.folder / "run.json").is_file()}
    options |= {"report": report, "should_stop": should_stop}
    try:
        if not job.count:
            return train_one(data, job.id, job.preset, job.seed, job.folder, fabric, **options)
        assert known is not None
        used = replace(known, used=known.candidates[: job.count])
        base = load_run(job.base)
        return finetune_one(data, base, used, job.training_preset, job.seed, job.folder, fabric, **options)
    except Interrupted as stopped:
        raise Stopped(f"{job.name}: {stopped}") from None


def failure(job: ModelJob, error: Exception) -> tuple[str, bool]:
    """(one line on why the job failed, whether another attempt may help); keeps the traceback of a surprise."""
    if isinstance(error, NotFinite):
        return f"{error.found}; take other --seeds, or another --preset", False
    if isinstance(error, EdgeasdError):
        return str(error), False
    if isinstance(error, OSError):
        return f"{error.filename or job.folder}: {error.strerror or error}; make room or check the path", False
    place = job.folder / "failure.txt"
    try:
        write_bytes(place, "".join(traceback.format_exception(error)).encode("utf-8", "backslashreplace"))
    except OSError:
        place = job.folder
    first = (str(error).strip().splitlines() or [""])[0][:200]
    return f"{type(error).__name__}: {first} (see {place})", True


def _note_attempt(job: ModelJob) -> int:
    """Add this process to the job's attempts.json; returns how many attempts that makes."""
    path = job.folder / ATTEMPTS
    try:
        before = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        before = []
    here = {
        "what": job.what,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    attempts = [*before, here] if isinstance(before, list) else [here]
    write_json(path, attempts)
    return sum(isinstance(one, dict) and one.get("what") == job.what for one in attempts)


def _machine_data(job: ModelJob, report: ProgressCallback) -> MachineData:
    global _last
    source, preset = job.data, job.preset
    key = (source, job.machine, job.seed, preset.holdout_fraction, preset.test_fraction)
    if _last is not None and _last[0] == key:
        return _last[1]
    _last = None  # the old one goes before the new one comes: hashes of 100,000 clips are some memory

    @contextmanager
    def stage(label: str) -> Iterator[ProgressCallback]:
        yield _labelled(report, label)

    if not source.root.is_dir():
        raise InputError(f"{source.root}: no such folder on {socket.gethostname()}; every node must see the data there")
    data = load_machine(
        source.root,
        job.machine,
        cache_folder=source.cache,
        seed=job.seed,
        holdout_fraction=preset.holdout_fraction,
        test_fraction=preset.test_fraction,
        id_attribute=source.id_attribute,
        channel=source.channel,
        ground_truth=source.ground_truth,
        keep_unhealthy=True,  # the published experiment takes every clip
        bad_remedy=REPAIR,
        stage=stage,
    )
    _last = (key, data)
    return data


def _known(job: ModelJob, data: MachineData) -> KnownAnomalies | None:
    """The anomalies set apart, by rank under the seed: the first n of them are those of the update with n."""
    if not job.most:
        return None
    offered = {clip.path: data.hashes[clip.path] for clip in data.split_for(job.id).test if clip.label == "anomaly"}
    chosen = choose_known(data, job.id, offered, count=job.most, seed=job.seed)
    return KnownAnomalies(used=[], candidates=chosen.used)


def _prepare(job: ModelJob, data: MachineData, report: ProgressCallback) -> None:
    split = data.trainable(job.id)
    wanted = [clip for clips in vars(split).values() for clip in clips if clip.label != "unknown"]
    data.prepare(dict.fromkeys(wanted), _labelled(report, "log-mel features"))


def _labelled(report: ProgressCallback, label: str) -> ProgressCallback:
    return lambda done, total, text="": report(done, total, text or label)


def _finished_run(job: ModelJob, data: MachineData) -> Run | None:
    """The job's run where it only has to be judged. Raises InputError for one on other clips."""
    if not (job.folder / "run.json").is_file():
        return None
    run = load_run(job.folder)
    now = data.fingerprint(data.trainable(job.id))
    if run.facts.get("data_fingerprint") != now:
        raise InputError(
            f"{job.folder}: was trained on other clips (fingerprint {run.facts.get('data_fingerprint')}, now {now}); "
            "give the same data, another --workspace, or delete that folder"
        )
    return run if (job.folder / "outcome.npz").is_file() else None
