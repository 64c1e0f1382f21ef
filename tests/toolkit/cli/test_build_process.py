"""`edgeasd build` as a process of its own: real signals, a real disk, a real builder, and no GPU.

TensorRT for RTX takes the place of TensorRT; a stand-in says that there is a GPU, so that building begins.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip(
    "tensorrt_rtx", reason="TENSORRT FOR RTX ABSENT: edgeasd build is not run; pip install tensorrt-rtx"
)

from edgeasd.runtime.engines.tensorrt.engine_file import engine_paths

TENSORRT = """
import os, signal, sys, time
import tensorrt_rtx
globals().update({name: value for name, value in vars(tensorrt_rtx).items() if not name.startswith("__")})
__version__ = "11.4.0"

class IProgressMonitor(tensorrt_rtx.IProgressMonitor):
    # Interrupts itself in the midst of a build, as a user would.
    def __init_subclass__(cls):
        step_complete = cls.step_complete
        def interrupted(self, phase_name, step):
            if os.environ.get("INTERRUPT") and phase_name == "Optimizing graph" and step == 3:
                os.kill(os.getpid(), getattr(signal, os.environ["INTERRUPT"]))
                time.sleep(0.3)
            return step_complete(self, phase_name, step)
        cls.step_complete = interrupted
"""
CUDA = """
class Properties:
    name, major, minor, totalGlobalMem = b"Stand-in", 8, 6, 8 << 30

def cudaGetDeviceCount(): return 0, 1
def cudaGetDeviceProperties(index): return 0, Properties
def cudaSetDevice(index): return 0,
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Modules `tensorrt` and `cuda.bindings` for another process."""
    site = tmp_path / "site"
    for name, text in {"tensorrt": TENSORRT, "cuda/bindings": "", "cuda/bindings/runtime": CUDA}.items():
        (site / name).mkdir(parents=True, exist_ok=True)
        (site / name / "__init__.py").write_text(text)
    return site


def run(site: Path, bundle: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgeasd", "build", str(bundle), "--precision", "fp32", *options]
    return subprocess.run(
        command,
        env={**os.environ, **environment, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture
def with_old_engine(bundle_copy: Path) -> Path:
    engine, sidecar = engine_paths(bundle_copy, "fp32")
    engine.parent.mkdir()
    engine.write_bytes(b"old engine")
    sidecar.write_text("{}")
    return bundle_copy


@pytest.mark.parametrize(
    ("name", "code", "last"),
    [
        ("SIGINT", 130, "edgeasd: stopped by Ctrl-C; nothing half-written was left"),
        ("SIGTERM", 143, "edgeasd: stopping"),
    ],
)
def test_an_interrupt_while_tensorrt_builds(site: Path, with_old_engine: Path, name: str, code: int, last: str) -> None:
    before = contents(with_old_engine)
    done = run(site, with_old_engine, INTERRUPT=name)
    assert done.returncode == code, done.stderr
    assert "edgeasd: stopping: TensorRT ends the step it is in" in done.stderr
    assert done.stderr.splitlines()[-1].startswith(last)
    assert "Traceback" not in done.stderr
    after = contents(with_old_engine)
    assert after.pop("engines/timing.cache"), "the next build goes on with what this one has measured"
    assert after == before


def test_an_engine_that_cannot_be_loaded_is_not_kept(site: Path, with_old_engine: Path) -> None:
    """There is no driver here: TensorRT builds, and cannot load what it built."""
    if Path("/dev/nvidiactl").exists():
        pytest.skip("A GPU IS HERE: TensorRT for RTX may load the engine")
    before = contents(with_old_engine)
    done = run(site, with_old_engine)
    assert done.returncode == 3
    *_, why, last = done.stderr.splitlines()
    assert "building for Stand-in with TensorRT 11.4.0: engines/encoder.fp32.json: schema_version None" in why
    assert "encoder.fp32.engine: TensorRT 11.4.0 built it and cannot load it (" in last
    assert {**contents(with_old_engine), "engines/timing.cache": b""} == {**before, "engines/timing.cache": b""}


@pytest.fixture
def small_disk(with_old_engine: Path, tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """(KiB that are free) to the bundle on a disk of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"NO SMALL DISK: a tmpfs cannot be mounted here ({mounted.stderr.strip()})")

    def make(free: int) -> Path:
        shutil.copytree(with_old_engine, disk / "valve-id_00")
        filled = shutil.disk_usage(disk).free - free * 1024
        (disk / "filler").write_bytes(bytes(filled))
        return disk / "valve-id_00"

    yield make
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize(
    ("free", "part"),
    [
        (100, "engines: 0.1 MiB free, an engine of encoder.fp32.onnx takes about 0.3 MiB; make room"),
        (500, "engines/encoder.fp32.engine: No space left on device; make room"),
    ],
)
def test_a_full_disk(site: Path, small_disk: Callable[[int], Path], free: int, part: str) -> None:
    bundle = small_disk(free)
    before = contents(bundle)
    done = run(site, bundle)
    assert done.returncode == 2, done.stderr
    assert part in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    after = contents(bundle)
    after.pop("engines/timing.cache", None)
    assert after == before
