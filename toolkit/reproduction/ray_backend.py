"""The same jobs on a Ray cluster. Nodes share the data and the workspace as paths; Ray only carries the jobs.

A dead worker or node fails its own job, which the board hands out again. Stopping goes through a file in the
workspace, which running jobs look for between iterations. Source: Ray Core (tasks, fault tolerance), docs.ray.io.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from edgeasd.toolkit.reproduction.board import Board, Say
from edgeasd.toolkit.reproduction.plan import ModelJob
from edgeasd.toolkit.reproduction.ray_cluster import check_nodes, connect, gpu_share, in_a_line, resources, room

_STATUS_EVERY_SECONDS = 20.0
_STOP_EVERY_SECONDS = 0.5


def run_on_ray(
    board: Board,
    address: str,
    data: Path,
    workspace: Path,
    accelerator: str,
    cpus: float,
    gpus: float | None,
    most_at_once: int | None,
    say: Say,
    should_stop: Callable[[], bool],
) -> None:
    """Run the jobs of `board` as Ray tasks; returns when all ended or were stopped.

    `address` is `auto` or the host:port of a running cluster that this machine belongs to. A job takes `cpus`
    and `gpus`, by default one GPU where the cluster has one and `accelerator` allows it. Raises DeviceError
    where Ray is not installed, the cluster does not answer or a node cannot run the jobs, InputError where a
    node does not see `data` or `workspace`.
    """
    log = workspace / "reproduce" / "logs" / "ray.log"
    ray = connect(address)
    stop_file = workspace / "reproduce" / f".stop-{uuid.uuid4().hex[:12]}"
    aside = ExitStack()
    try:
        # Ray prints on standard output when a worker dies. Only results belong there; the board says what happened.
        aside.enter_context(_aside(log))
        nodes = [node for node in ray.nodes() if node["Alive"]]
        say(f"Ray {ray.__version__} at {address}: {len(nodes)} nodes, {resources(ray.cluster_resources())}")
        check_nodes(ray, nodes, data, workspace)
        share = gpu_share(ray, accelerator, gpus)
        at_once = most_at_once or room(nodes, cpus, share)
        kind = ("cuda" if share else "cpu") if accelerator == "auto" else accelerator
        task = ray.remote(_job_on_node).options(num_cpus=cpus, num_gpus=share, max_retries=0)
        _follow(ray, board, task, (kind, max(1, int(cpus)), str(stop_file)), at_once, stop_file, say, should_stop)
    finally:
        ray.shutdown()
        aside.close()
        stop_file.unlink(missing_ok=True)


@contextmanager
def _aside(log: Path) -> Iterator[None]:
    """What is printed goes to a file meanwhile."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w", encoding="utf-8", errors="backslashreplace") as handle, redirect_stdout(handle):
        yield


def _follow(
    ray: Any,
    board: Board,
    task: Any,
    arguments: tuple[str, int, str],
    at_once: int,
    stop_file: Path,
    say: Say,
    should_stop: Callable[[], bool],
) -> None:
    """Hand out jobs as their needs are met and take results as they come."""
    running: dict[Any, ModelJob] = {}
    asked, shown = False, time.monotonic()
    while True:
        while not asked and len(running) < at_once:
            job = board.take(wait=False)
            if job is None:
                break
            running[task.remote(job.model_dump_json(), *arguments)] = job
        if not running:
            return
        ready, _ = ray.wait(list(running), num_returns=1, timeout=0.5)
        for one in ready:
            _end(ray, board, running.pop(one), one, asked)
        if should_stop() and not asked:
            asked = True
            board.stop()
            stop_file.touch()
            say("stopping: running models write a checkpoint; a second Ctrl-C ends at once")
        if time.monotonic() - shown >= _STATUS_EVERY_SECONDS:
            shown = time.monotonic()
            say(f"[{len(board.done)}/{board.total}] done, {len(running)} handed to Ray")


def _end(ray: Any, board: Board, job: ModelJob, reference: Any, stopping: bool) -> None:
    try:
        event = ray.get(reference)
    except Exception as error:  # Ray's own: a worker, a node or an object that is gone, or a cancelled task
        if stopping:
            board.put_back(job)
        else:
            board.fail(job, f"{type(error).__name__}: {in_a_line(error)}", again=True)
        return
    if event["event"] == "finished":
        result = job.result()
        if result is None:
            board.fail(job, f"{job.result_path}: not visible here though its node wrote it; share it", again=False)
        else:
            board.finish(job, result)
    elif event["event"] == "stopped":
        board.put_back(job)
    else:
        board.fail(job, event["reason"], again=event["again"])


def _job_on_node(job_json: str, accelerator: str, threads: int, stop_file: str) -> dict[str, Any]:
    """The Ray task: one job, in a worker of Ray's that may do another one later."""
    import torch

    from edgeasd.toolkit.progress import no_progress
    from edgeasd.toolkit.reproduction.job import Stopped, failure, run_job

    if os.path.exists(stop_file):
        return {"event": "stopped"}
    torch.set_num_threads(threads)
    job = ModelJob.model_validate_json(job_json)
    looked, asked = 0.0, False

    def should_stop() -> bool:
        nonlocal looked, asked
        if not asked and time.monotonic() - looked >= _STOP_EVERY_SECONDS:
            looked = time.monotonic()
            asked = os.path.exists(stop_file)
        return asked

    try:
        run_job(job, accelerator, no_progress, should_stop)
    except Stopped:
        return {"event": "stopped"}
    except Exception as error:
        reason, again = failure(job, error)
        return {"event": "failed", "reason": reason, "again": again}
    return {"event": "finished"}
