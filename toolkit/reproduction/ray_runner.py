"""Runs the jobs of an experiment on a Ray cluster, whose nodes share data and workspace as paths.

The cluster is joined within a bounded time and its nodes are checked before any work. A dead worker or node costs
its own job one attempt. Running jobs are stopped through a file in the workspace that they look for between
iterations. Source: Ray Core (starting a cluster, tasks, fault tolerance), docs.ray.io.
"""

from __future__ import annotations

import importlib
import logging
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import edgeasd
from edgeasd.runtime.errors import DeviceError, InputError
from edgeasd.toolkit.reproduction.plan import JobEnd, ModelJob
from edgeasd.toolkit.reproduction.runner import JobQueue, PrintLine

_CONNECT_SECONDS = 5.0
_JOIN_SECONDS = 60.0
_CHECK_SECONDS = 120.0
_STATUS_EVERY_SECONDS = 20.0
_STOP_EVERY_SECONDS = 0.5


def run_on_ray(
    queue: JobQueue,
    address: str,
    data: Path,
    workspace: Path,
    accelerator: str,
    cpus: float,
    gpus: float | None,
    most_at_once: int | None,
    print_line: PrintLine,
    should_stop: Callable[[], bool],
) -> None:
    """Run the jobs of `queue` as Ray tasks; returns when all ended or were stopped.

    `address` is `auto` or the host:port of a running cluster that this machine belongs to. A job takes `cpus`
    and `gpus`, by default one GPU if the cluster has one and `accelerator` allows it. Raises DeviceError
    if Ray is not installed, the cluster does not answer or a node cannot run the jobs, InputError if a
    node does not see `data` or `workspace`.
    """
    log = workspace / "reproduce" / "logs" / "ray.log"
    ray = connect(address)
    stop_file = workspace / "reproduce" / f".stop-{uuid.uuid4().hex[:12]}"
    printed = ExitStack()
    try:
        # Ray prints to standard output if a worker dies. Only results belong there.
        printed.enter_context(_printed_to(log))
        nodes = [node for node in ray.nodes() if node["Alive"]]
        print_line(f"Ray {ray.__version__} at {address}: {len(nodes)} nodes, {_resources(ray.cluster_resources())}")
        _check_nodes(ray, nodes, data, workspace)
        share = _gpu_share(ray, accelerator, gpus)
        at_once = most_at_once or capacity(nodes, cpus, share)
        kind = ("cuda" if share else "cpu") if accelerator == "auto" else accelerator
        task = ray.remote(_job_on_node).options(num_cpus=cpus, num_gpus=share, max_retries=0)
        _follow(
            ray, queue, task, (kind, max(1, int(cpus)), str(stop_file)), at_once, stop_file, print_line, should_stop
        )
    finally:
        ray.shutdown()
        printed.close()
        stop_file.unlink(missing_ok=True)


@contextmanager
def _printed_to(log: Path) -> Iterator[None]:
    """Send standard output to a file while the block runs."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w", encoding="utf-8", errors="backslashreplace") as handle, redirect_stdout(handle):
        yield


def _follow(
    ray: Any,
    queue: JobQueue,
    task: Any,
    arguments: tuple[str, int, str],
    at_once: int,
    stop_file: Path,
    print_line: PrintLine,
    should_stop: Callable[[], bool],
) -> None:
    """Hand out jobs as their needs are met and take results as they come."""
    running: dict[Any, ModelJob] = {}
    is_stopping, shown = False, time.monotonic()
    while True:
        while len(running) < at_once and (job := queue.take()) is not None:
            running[task.remote(job.model_dump_json(), *arguments)] = job
        if not running:
            return
        ready, _ = ray.wait(list(running), num_returns=1, timeout=0.5)
        for reference in ready:
            job = running.pop(reference)
            try:
                end = ray.get(reference)
            except Exception as error:  # of Ray: a worker, a node or an object that is gone, or a cancelled task
                end = JobEnd("failed", f"{type(error).__name__}: {_in_a_line(error)}", may_retry=True)
                end = JobEnd("stopped") if is_stopping else end
            queue.end(job, end)
        if should_stop() and not is_stopping:
            is_stopping = True
            queue.stop()
            stop_file.touch()
            print_line("stopping: running models write a checkpoint; a second Ctrl-C ends at once")
        if time.monotonic() - shown >= _STATUS_EVERY_SECONDS:
            shown = time.monotonic()
            print_line(f"[{len(queue.done)}/{queue.total}] done, {len(running)} handed to Ray")


def _job_on_node(job_json: str, accelerator: str, threads: int, stop_file: str) -> JobEnd:
    """The Ray task: one job, in a worker of Ray's that may do another one later."""
    import torch

    from edgeasd.toolkit.progress import no_progress
    from edgeasd.toolkit.reproduction.job import attempt_job

    if os.path.exists(stop_file):
        return JobEnd("stopped")
    torch.set_num_threads(threads)
    looked, is_stopping = 0.0, False

    def should_stop() -> bool:
        nonlocal looked, is_stopping
        if not is_stopping and time.monotonic() - looked >= _STOP_EVERY_SECONDS:
            looked = time.monotonic()
            is_stopping = os.path.exists(stop_file)
        return is_stopping

    return attempt_job(ModelJob.model_validate_json(job_json), accelerator, no_progress, should_stop)


def connect(address: str) -> Any:
    """The ray module, connected to `auto` or host:port.

    Raises DeviceError within a bounded time if Ray is not installed or no cluster answers, InputError for an
    address of another form.
    """
    try:
        ray = importlib.import_module("ray")
    except ModuleNotFoundError:
        raise DeviceError("--ray: Ray is not installed; pip install 'edgeasd[cluster]'") from None
    if address != "auto":
        _check_address(address)
    _probe(address)
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    return ray


def _check_address(address: str) -> None:
    """Refuse an address of another form, or one where nothing listens."""
    host, _, port = address.rpartition(":")
    if not host or "/" in address or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise InputError(f"--ray {address}: expected auto or host:port, as `ray start` prints it")
    try:
        socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
    except OSError as error:
        raise _unreachable(address, error.strerror or str(error)) from None


def _probe(address: str) -> None:
    """Join in a process of its own: if something else than Ray answers, joining can hang or end the process."""
    probe = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level=40); ray.shutdown()"
    try:
        done = subprocess.run(
            [sys.executable, "-c", probe, address],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_JOIN_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _unreachable(address, f"no cluster answered within {_JOIN_SECONDS:.0f} s") from None
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise _unreachable(address, lines[-1][:300] if lines else f"exit code {done.returncode}")


def _unreachable(address: str, reason: str) -> DeviceError:
    return DeviceError(
        f"--ray {address}: no Ray cluster to join ({reason}); start one with `ray start --head` on one node, "
        "`ray start --address HOST:PORT` on each other, and run this on one of them"
    )


def _check_nodes(ray: Any, nodes: list[dict[str, Any]], data: Path, workspace: Path) -> None:
    """Raises DeviceError or InputError for a node that runs another edgeasd or does not see the folders."""
    strategy = importlib.import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
    with _marked(workspace) as mark:
        look = ray.remote(_missing_path)
        seen = {}
        for node in nodes:
            here = look.options(num_cpus=0, max_retries=0, scheduling_strategy=strategy(node["NodeID"], soft=False))
            seen[here.remote(str(data), str(mark))] = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        ready, late = ray.wait(list(seen), num_returns=len(seen), timeout=_CHECK_SECONDS)
        if late:
            names = ", ".join(seen[one] for one in late)
            raise DeviceError(f"--ray: no answer from {names} within {_CHECK_SECONDS:.0f} s; check that node's Ray")
        for one in ready:
            try:
                version, problem = ray.get(one)
            except Exception as error:  # what a node may fail with, an old edgeasd or none included
                raise DeviceError(
                    f"--ray: {seen[one]} cannot run edgeasd ({_in_a_line(error)}); install edgeasd "
                    f"{edgeasd.__version__} with the extra `train` there"
                ) from None
            if version != edgeasd.__version__:
                raise DeviceError(f"--ray: {seen[one]} has edgeasd {version}, here is {edgeasd.__version__}")
            if problem:
                raise InputError(
                    f"--ray: {seen[one]} does not see {problem}; mount the data and the workspace under the same "
                    "paths on every node"
                )


def _missing_path(data: str, mark: str) -> tuple[str, str]:
    """On a node: (version of edgeasd, the path that is missing there or "")."""
    if not os.path.isdir(data):
        return edgeasd.__version__, data
    return edgeasd.__version__, "" if os.path.isfile(mark) else os.path.dirname(mark)


@contextmanager
def _marked(workspace: Path) -> Iterator[Path]:
    """A file by which a node recognises this workspace."""
    path = workspace / "reproduce" / f".seen-{uuid.uuid4().hex[:12]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _gpu_share(ray: Any, accelerator: str, gpus: float | None) -> float:
    if gpus is not None:
        return gpus
    return 1.0 if accelerator in ("auto", "cuda") and ray.cluster_resources().get("GPU", 0) else 0.0


def capacity(nodes: list[dict[str, Any]], cpus: float, gpus: float) -> int:
    """How many jobs fit the cluster at once. Raises DeviceError if none does: they would wait for ever."""
    jobs = 0
    for node in nodes:
        has = node["Resources"]
        fits = [has.get(kind, 0) // share for kind, share in (("CPU", cpus), ("GPU", gpus)) if share]
        jobs += int(min(fits, default=has.get("CPU", 0)))
    if not jobs:
        listed = "; ".join(_resources(node["Resources"]) for node in nodes)
        raise DeviceError(
            f"--ray: a job asks for {cpus:g} CPUs and {gpus:g} GPUs, no node has them ({listed}); "
            "ask for less with --job-cpus and --job-gpus"
        )
    return jobs


def _resources(found: dict[str, Any]) -> str:
    return f"{found.get('CPU', 0):g} CPUs, {found.get('GPU', 0):g} GPUs"


def _in_a_line(error: Exception) -> str:
    """The cause if Ray passes on the traceback of a task, else the first line of Ray's message."""
    cause = getattr(error, "cause", None)
    if cause is not None:
        return f"{type(cause).__name__}: {cause}"[:200]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return (lines[-1] if "Traceback" in str(error) else lines[0])[:200]
