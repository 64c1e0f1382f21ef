"""`reproduce --ray`: a cluster that is not there, and a worker that dies on one that is."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("torch")


from edgeasd.runtime.errors import DeviceError, InputError
from edgeasd.toolkit.reproduction.ray_runner import capacity, connect

_NODE = ["--num-cpus=1", "--object-store-memory=80000000", "--disable-usage-stats", "--block"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(what: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.2)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DeviceError, match=r"edgeasd\[cluster\]"):
        connect("auto")


def test_an_address_where_nothing_listens_is_refused_at_once() -> None:
    pytest.importorskip("ray")
    address = f"127.0.0.1:{free_port()}"
    began = time.monotonic()
    with pytest.raises(DeviceError, match=address):
        connect(address)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("address", ["somewhere", "host:port", "ray://host:10001", ":1"])
def test_an_address_of_another_form_is_refused(address: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(InputError, match="host:port"):
        connect(address)


def test_a_job_that_fits_no_node_is_refused() -> None:
    nodes = [{"Resources": {"CPU": 4.0}}, {"Resources": {"CPU": 3.0, "GPU": 1.0}}]
    assert capacity(nodes, 2.0, 0.0) == 3
    assert capacity(nodes, 1.0, 0.5) == 2
    with pytest.raises(DeviceError, match="8 CPUs"):
        capacity(nodes, 8.0, 0.0)


@pytest.fixture
def cluster() -> Iterator[str]:
    """A head and a second node on loopback; only these processes are ended afterwards."""
    pytest.importorskip("ray")
    # Sockets lie in this folder, and their paths may have 107 characters only.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        address = f"127.0.0.1:{free_port()}"
        head = ["--head", f"--port={address.partition(':')[2]}", "--include-dashboard=false", f"--temp-dir={folder}"]
        nodes = []
        try:
            for options in (head, [f"--address={address}"]):
                start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--node-ip-address=127.0.0.1"]
                log = Path(folder, f"node-{len(nodes)}.txt")
                with open(log, "w") as handle:
                    node = subprocess.Popen(
                        [*start, *options, *_NODE], stdout=handle, stderr=handle, start_new_session=True
                    )
                nodes.append(node)
                wait_for(lambda log=log: "Ray runtime started" in log.read_text(errors="replace"), 90)
            yield address
        finally:
            for node in reversed(nodes):
                node.terminate()
            for node in nodes:
                with suppress(subprocess.TimeoutExpired):
                    node.wait(timeout=30)
                with suppress(ProcessLookupError):
                    os.killpg(node.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_ray_worker_costs_its_own_job_one_attempt(
    cluster: str, tmp_path: Path, write_gears: Callable[..., Path], reproduce: Callable[..., subprocess.Popen[str]]
) -> None:
    data, workspace = write_gears(tmp_path / "data"), tmp_path / "workspace"
    choice = ["--machine", "gear", "--method", "bce", "--method", "bce+ddcsad", "--iterations", "12", "--json"]
    running = reproduce("table2", data, workspace, *choice, "--ray", cluster)
    folder = workspace / "reproduce" / "gear"
    begun: list[Path] = []

    def training() -> bool:
        begun[:] = [path.parent for path in folder.glob("*/*/*/run.json")]
        return bool(begun) or running.poll() is not None

    wait_for(training, 120)
    assert begun, running.communicate()
    victim = begun[0]
    os.kill(json.loads((victim / "attempts.json").read_text())[-1]["pid"], signal.SIGKILL)
    out, said = running.communicate(timeout=400)
    assert running.returncode == 0, said
    assert "attempt 1 failed" in said
    results = {path.parent: json.loads(path.read_text()) for path in folder.glob("*/*/*/table2.json")}
    assert len(results) == 4
    assert {path: result["attempts"] for path, result in results.items()} == {
        path: 2 if path == victim else 1 for path in results
    }
    pids = [one["pid"] for path in results for one in json.loads((path / "attempts.json").read_text())]
    assert len(pids) == 5
    assert [cell["missing"] for cell in json.loads(out)["cells"]] == [[], []]
    assert not list((workspace / "reproduce").glob(".s*"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_stopped_on_a_cluster_it_keeps_a_checkpoint_and_goes_on(
    cluster: str, tmp_path: Path, write_gears: Callable[..., Path], reproduce: Callable[..., subprocess.Popen[str]]
) -> None:
    data, workspace = write_gears(tmp_path / "data"), tmp_path / "workspace"
    choice = ["--machine", "gear", "--id", "00", "--method", "bce", "--ray", cluster, "--json"]
    first = reproduce("table2", data, workspace, *choice, "--iterations", "40")
    run = workspace / "reproduce" / "gear" / "id_00" / "bce" / "seed-0"
    wait_for(lambda: (run / "run.json").exists() or first.poll() is not None, 120)
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=120)
    assert first.returncode == 130, said
    assert "go on with the same command" in said
    assert len(list((run / "checkpoints").glob("step-*"))) == 1
    again = reproduce("table2", data, workspace, *choice, "--iterations", "40")
    _, said = again.communicate(timeout=400)
    assert again.returncode == 0, said
    assert json.loads((run / "table2.json").read_text())["attempts"] == 2
