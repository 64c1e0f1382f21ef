"""A Ray cluster that is to run jobs: joined within a bounded time, and looked over before any work is handed out.

Source: Ray Core (starting a cluster, resources, scheduling strategies), docs.ray.io.
"""

from __future__ import annotations

import importlib
import logging
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import edgeasd
from edgeasd.runtime.errors import DeviceError, InputError

_CONNECT_SECONDS = 5.0
_JOIN_SECONDS = 60.0
_CHECK_SECONDS = 120.0


def connect(address: str) -> Any:
    """The ray module, connected to `auto` or host:port.

    Raises DeviceError within a bounded time where Ray is not installed or no cluster answers, InputError for an
    address that is none.
    """
    try:
        ray = importlib.import_module("ray")
    except ModuleNotFoundError:
        raise DeviceError("--ray: Ray is not installed; pip install 'edgeasd[cluster]'") from None
    if address != "auto":
        _knock(address)
    _probe(address)
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    return ray


def _knock(address: str) -> None:
    """Refuse an address that is none, or where nothing listens."""
    host, _, port = address.rpartition(":")
    if not host or "/" in address or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise InputError(f"--ray {address}: expected auto or host:port, as `ray start` prints it")
    try:
        socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
    except OSError as error:
        raise _unreachable(address, error.strerror or str(error)) from None


def _probe(address: str) -> None:
    """Join in a process of its own: where something else than Ray answers, joining can hang or end the process."""
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


def check_nodes(ray: Any, nodes: list[dict[str, Any]], data: Path, workspace: Path) -> None:
    """Every node must run this edgeasd and see the same folders."""
    strategy = importlib.import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
    with _mark(workspace) as mark:
        look = ray.remote(_look)
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
                    f"--ray: {seen[one]} cannot run edgeasd ({in_a_line(error)}); install edgeasd "
                    f"{edgeasd.__version__} with the extra `train` there"
                ) from None
            if version != edgeasd.__version__:
                raise DeviceError(f"--ray: {seen[one]} has edgeasd {version}, here is {edgeasd.__version__}")
            if problem:
                raise InputError(
                    f"--ray: {seen[one]} does not see {problem}; mount the data and the workspace under the same "
                    "paths on every node"
                )


def _look(data: str, mark: str) -> tuple[str, str]:
    """On a node: (version of edgeasd, which of the paths is not there or empty)."""
    if not os.path.isdir(data):
        return edgeasd.__version__, data
    return edgeasd.__version__, "" if os.path.isfile(mark) else os.path.dirname(mark)


@contextmanager
def _mark(workspace: Path) -> Iterator[Path]:
    """A file that only those see who see this very workspace."""
    path = workspace / "reproduce" / f".seen-{uuid.uuid4().hex[:12]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def gpu_share(ray: Any, accelerator: str, gpus: float | None) -> float:
    if gpus is not None:
        return gpus
    return 1.0 if accelerator in ("auto", "cuda") and ray.cluster_resources().get("GPU", 0) else 0.0


def room(nodes: list[dict[str, Any]], cpus: float, gpus: float) -> int:
    """How many jobs fit the cluster at once. Raises DeviceError for none: they would wait for ever."""
    jobs = 0
    for node in nodes:
        has = node["Resources"]
        fits = [has.get(kind, 0) // share for kind, share in (("CPU", cpus), ("GPU", gpus)) if share]
        jobs += int(min(fits, default=has.get("CPU", 0)))
    if not jobs:
        listed = "; ".join(resources(node["Resources"]) for node in nodes)
        raise DeviceError(
            f"--ray: a job asks for {cpus:g} CPUs and {gpus:g} GPUs, no node has them ({listed}); "
            "ask for less with --job-cpus and --job-gpus"
        )
    return jobs


def resources(found: dict[str, Any]) -> str:
    return f"{found.get('CPU', 0):g} CPUs, {found.get('GPU', 0):g} GPUs"


def in_a_line(error: Exception) -> str:
    """The cause where Ray passes on the traceback of a task, else the first line of what Ray says."""
    cause = getattr(error, "cause", None)
    if cause is not None:
        return f"{type(cause).__name__}: {cause}"[:200]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return (lines[-1] if "Traceback" in str(error) else lines[0])[:200]
