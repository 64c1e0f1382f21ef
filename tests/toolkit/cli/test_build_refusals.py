"""`edgeasd build` where it cannot build: one line, its exit code, and the engine that was there as it was."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.engine_build.bundle_engines import EnginePart, rebuild_reasons, select_parts
from edgeasd.runtime.engines.tensorrt import library
from edgeasd.runtime.engines.tensorrt.engine_file import BuildOptions, DeviceInfo, Sidecar, engine_paths
from edgeasd.runtime.errors import BundleError, InputError
from edgeasd.toolkit.cli.build import build as command

pytestmark = pytest.mark.core

HERE = DeviceInfo("10.3.0", "Orin", "8.7", "36.4.3")
ENCODER = EnginePart("encoder", "fp32", "encoder.fp32.onnx")
OPTIONS = BuildOptions()
BROKEN = "raise ImportError('libnvinfer.so.10: cannot open shared object file')\n"
OLD = "__version__ = '8.6.2'\nclass Builder: ...\n"
BARE = "__version__ = '10.3.0'\nclass Builder: ...\n"


@pytest.fixture
def built(bundle_copy: Path) -> Path:
    """A bundle with an engine of an earlier day, as far as its sidecar and hash can say."""
    engine, sidecar = engine_paths(bundle_copy, "fp32")
    engine.parent.mkdir()
    engine.write_bytes(b"an engine of an earlier day")
    facts = Sidecar(
        tensorrt=HERE.tensorrt,
        gpu=HERE.gpu,
        compute_capability=HERE.compute_capability,
        l4t=HERE.l4t,
        onnx_sha256=json.loads((bundle_copy / "manifest.json").read_text())["files"]["encoder.fp32.onnx"]["sha256"],
        precision="fp32",
        max_batch=10,
        flags=OPTIONS.flags(),
        engine_sha256=hashlib.sha256(engine.read_bytes()).hexdigest(),
        engine_size=len(engine.read_bytes()),
        built_at="2026-01-01T00:00:00+00:00",
        edgeasd="0.1.0",
    )
    sidecar.write_text(facts.model_dump_json())
    return bundle_copy


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def build(bundle: Path, *options: str, tensorrt: str | None = None) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, where `tensorrt` is the text of the module that it finds."""
    environment = dict(os.environ)
    if tensorrt is not None:
        folder = bundle.parent / "site" / "tensorrt"
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(tensorrt)
        environment["PYTHONPATH"] = str(folder.parent)
    command = [sys.executable, "-m", "edgeasd", "build", str(bundle), *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def refused(done: subprocess.CompletedProcess[str], code: int, part: str) -> None:
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("edgeasd: ")
    assert part in done.stderr


@pytest.mark.parametrize(
    ("tensorrt", "part"),
    [
        (BROKEN, "TensorRT: not installed (libnvinfer.so.10"),
        (OLD, "TensorRT 8.6.2: too old"),
        ("", "without the library"),
    ],
    ids=["absent", "too old", "stubs"],
)
def test_without_tensorrt(built: Path, tensorrt: str, part: str) -> None:
    before = contents(built)
    refused(build(built, tensorrt=tensorrt), 3, part)
    assert contents(built) == before


def test_without_a_gpu(built: Path) -> None:
    if Path("/dev/nvidiactl").exists() or Path("/dev/nvgpu").exists():
        pytest.skip("A GPU IS HERE: what is said without one is not tested")
    before = contents(built)
    refused(build(built, "--json", tensorrt=BARE), 3, "CUDA")
    assert contents(built) == before


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"precision": "int8-cpu"}, "--precision int8-cpu: it is made for ONNX Runtime on a CPU"),
        ({"precision": "fp8"}, "--precision fp8: unknown; TensorRT runs fp32, fp16, int8"),
        ({"precision": ""}, "--precision : unknown"),
        ({"precision": "fp32,int8"}, "--precision int8: valve-id_00 offers fp32"),
        ({"opt_batch": 11}, "--opt-batch 11 with --max-batch 10"),
        ({"max_batch": 5000}, "--max-batch <= 4096"),
        ({"accelerator": "cpu"}, "--accelerator cpu: TensorRT builds on a GPU"),
        ({"accelerator": "cuda:x"}, "--accelerator cuda:x: TensorRT builds on a GPU"),
    ],
)
def test_wrong_use_is_said_before_tensorrt_is_looked_for(
    built: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], part: str
) -> None:
    monkeypatch.setattr(library, "load", lambda: pytest.fail("looked for"))
    with pytest.raises(InputError) as caught:
        command(built, **options)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_zip_is_refused_with_the_remedy(built: Path) -> None:
    packed = Path(shutil.make_archive(str(built.parent / "packed"), "zip", built))
    refused(build(packed), 2, "engines are built into a folder, and this is a file; unpack the zip")


def test_what_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"has no manifest\.json"):
        command(tmp_path)
    with pytest.raises(InputError, match="no such bundle"):
        command(tmp_path / "nothing")


# Which engine may stay


def reasons(bundle: Path, machine: DeviceInfo = HERE, options: BuildOptions = OPTIONS) -> list[str]:
    with Bundle(bundle) as opened:
        return rebuild_reasons(opened, ENCODER, machine, options)


def test_an_engine_that_fits_may_stay(built: Path) -> None:
    assert reasons(built) == []


def test_there_is_none_yet(bundle_copy: Path) -> None:
    assert reasons(bundle_copy) == ["not built yet"]


def rewrite(bundle: Path, **changed: Any) -> None:
    path = engine_paths(bundle, "fp32")[1]
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def truncate(bundle: Path) -> None:
    os.truncate(engine_paths(bundle, "fp32")[0], 5)


def flip(bundle: Path) -> None:
    engine_paths(bundle, "fp32")[0].write_bytes(b"an engine of an earlier dax")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda bundle: rewrite(bundle, tensorrt="10.16.1.11"), "TensorRT 10.16.1.11, here 10.3.0"),
        (lambda bundle: rewrite(bundle, gpu="Thor"), "GPU Thor, here Orin"),
        (lambda bundle: rewrite(bundle, compute_capability="11.0"), "compute capability 11.0, here 8.7"),
        (lambda bundle: rewrite(bundle, l4t="38.2"), "L4T 38.2, here 36.4.3"),
        (lambda bundle: rewrite(bundle, onnx_sha256="0" * 64), "ONNX sha256 000000000000, here "),
        (lambda bundle: rewrite(bundle, max_batch=4), "max_batch 4, asked for 10"),
        (truncate, "5 bytes, its sidecar says 27"),
        (flip, "its bytes are not those of its sidecar"),
        (lambda bundle: engine_paths(bundle, "fp32")[1].unlink(), "engines/encoder.fp32.json: missing"),
        (lambda bundle: engine_paths(bundle, "fp32")[1].write_text("{"), "engines/encoder.fp32.json: not JSON"),
    ],
)
def test_an_engine_that_does_not_fit_is_told_why(built: Path, damage: Callable[[Path], None], reason: str) -> None:
    damage(built)
    (found,) = reasons(built)
    assert found.startswith(reason)


def test_other_options_ask_for_another_engine(built: Path) -> None:
    assert reasons(built, options=BuildOptions(10, 10, None, 3)) == ["opt_batch 1, asked for 10"]
    assert reasons(built, options=BuildOptions(10, 1, 256, 5)) == [
        "optimisation_level 3, asked for 5",
        "workspace_mib 0, asked for 256",
    ]


def test_an_onnx_file_that_was_changed_is_refused_and_not_built(built: Path) -> None:
    """Only for what the manifest vouches: a changed file with a changed manifest is told by its hash, above."""
    with open(built / "encoder.fp32.onnx", "ab") as handle:
        handle.write(b"\0")
    with Bundle(built) as opened, pytest.raises(BundleError, match=r"encoder\.fp32\.onnx: .*copy the bundle again"):
        opened.file("encoder.fp32.onnx")


# What of a bundle is built


def wanted(bundle: Path, asked: list[str], head: bool = False, front_end: bool = False) -> list[str]:
    with Bundle(bundle) as opened:
        return [target.label for target in select_parts(opened, asked, head, front_end)]


@pytest.fixture
def with_three(bundle_copy: Path) -> Path:
    """A bundle whose manifest offers fp32, int8-cpu and a stale int8."""
    path = bundle_copy / "manifest.json"
    manifest = json.loads(path.read_text())
    offer = manifest["precisions"]["fp32"]
    manifest["precisions"]["int8-cpu"] = offer
    manifest["precisions"]["int8"] = {**offer, "recalibrate": True, "recalibrate_reason": "the amplitude was fitted"}
    path.write_text(json.dumps(manifest))
    return bundle_copy


def test_all_that_tensorrt_takes_is_built_by_default(with_three: Path) -> None:
    assert wanted(with_three, []) == ["fp32"]
    assert wanted(with_three, ["fp32", "fp32"]) == ["fp32"]


def test_the_head_is_built_alone_where_no_precision_is_named(with_three: Path) -> None:
    assert wanted(with_three, [], head=True) == ["head"]
    assert wanted(with_three, ["fp32"], head=True) == ["fp32", "head"]


def test_so_is_the_front_end(with_three: Path) -> None:
    path = with_three / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["front_end"] = {"file": "head.onnx", "logmel": 1e-6, "score": 1e-7, "clips": 1}
    path.write_text(json.dumps(manifest))
    assert wanted(with_three, [], front_end=True) == ["front end"]
    assert wanted(with_three, ["fp32"], head=True, front_end=True) == ["fp32", "head", "front end"]
    assert wanted(with_three, []) == ["fp32"], "not unless it is asked for: few need it"


def test_a_stale_precision_is_refused_with_its_reason(with_three: Path) -> None:
    with pytest.raises(BundleError, match="to be calibrated again .the amplitude was fitted"):
        wanted(with_three, ["int8"])
