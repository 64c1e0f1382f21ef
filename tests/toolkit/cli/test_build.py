"""`edgeasd build`, the whole way, with a real builder and no GPU.

TensorRT for RTX takes the place of TensorRT, and stand-ins that of the GPU's name and of what only a GPU can answer:
the inspector and the reference segments. Whatever they are asked, the order of things, the files and the exit codes are
the command's own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx")
pytest.importorskip(
    "tensorrt_rtx", reason="TENSORRT FOR RTX ABSENT: edgeasd build is not run; pip install tensorrt-rtx"
)

import onnx
import tensorrt_rtx

from edgeasd.calibration.quantization.encoder_parts import prepare
from edgeasd.calibration.quantization.placement import calibrated_tensors
from edgeasd.calibration.quantization.qdq import int8_graph
from edgeasd.runtime.bundle.bundle import hash_file
from edgeasd.runtime.bundle.reference_segments import Deviation
from edgeasd.runtime.engine_build import bundle_engines as bundle_build
from edgeasd.runtime.engine_build.timing_cache import cache_path, read_cache
from edgeasd.runtime.engines.tensorrt import cuda, library
from edgeasd.runtime.engines.tensorrt import engine_file as machine
from edgeasd.runtime.engines.tensorrt.engine_file import engine_paths, read_sidecar
from edgeasd.runtime.errors import CheckFailed
from edgeasd.runtime.scoring.scorer import FrontEndDeviation

pytestmark = pytest.mark.filterwarnings("ignore:.*TensorRT-RTX:DeprecationWarning")
Edgeasd = Callable[..., Any]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def bundle(bundle_copy: Path) -> Path:
    """A bundle that offers fp32 and an INT8 graph with ranges of no meaning."""
    encoder = onnx.load(bundle_copy / "encoder.fp32.onnx")
    ranges = {tensor: (-1.5, 3.0) for tensor in calibrated_tensors(prepare(encoder))}
    path = bundle_copy / "encoder.int8.onnx"
    onnx.save(int8_graph(encoder, ranges), path)
    manifest = json.loads((bundle_copy / "manifest.json").read_text())
    manifest["files"][path.name] = {"sha256": hash_file(path), "size": path.stat().st_size}
    manifest["precisions"]["int8"] = {**manifest["precisions"]["fp32"], "file": path.name}
    (bundle_copy / "manifest.json").write_text(json.dumps(manifest))
    return bundle_copy


class Gpu:
    """What the stand-ins answer, to be changed by a test."""

    def __init__(self) -> None:
        self.weights: Callable[[str], str] = lambda name: "Int8"
        self.deviation: Deviation | CheckFailed = Deviation(1e-6, 1e-6, 1e-6, 1e-6)
        self.proven: list[Path] = []

    def inspector(self, trt: Any, engine: Path) -> str:
        assert engine.stat().st_size > 100_000
        graph = onnx.load(engine.parents[2] / "encoder.int8.onnx").graph
        names = [node.name for node in graph.node if node.op_type == "Conv"]
        return json.dumps(
            {
                "Layers": [
                    {"Name": n, "LayerType": "CaskConvolution", "Weights": {"Type": self.weights(n)}} for n in names
                ]
            }
        )

    def prove(self, bundle: Any, precision: Any, engine: Path, accelerator: str, max_batch: int) -> Deviation:
        assert read_sidecar(engine.with_suffix(".json")).engine_sha256 == hash_file(engine)
        assert engine.parent.parent == bundle.path / "engines", "not yet under its name"
        self.proven.append(engine)
        if isinstance(self.deviation, CheckFailed):
            raise self.deviation
        return self.deviation


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    gpu = Gpu()
    monkeypatch.setattr(library, "load", lambda: tensorrt_rtx)
    monkeypatch.setattr(machine, "gpu_info", lambda index: cuda.GpuInfo("Stand-in", "8.6", 8 << 30))
    monkeypatch.setattr(bundle_build, "_select", lambda index: None)
    monkeypatch.setattr(bundle_build, "ask_inspector", gpu.inspector)
    monkeypatch.setattr(bundle_build, "verify_encoder", gpu.prove)
    return gpu


@pytest.fixture
def build(edgeasd: Edgeasd, bundle: Path, gpu: Gpu) -> Edgeasd:
    return lambda *options: edgeasd("build", bundle, *options, cwd=bundle.parent)


def test_everything_that_is_offered_is_built_once(build: Edgeasd, bundle: Path, gpu: Gpu) -> None:
    done = build()
    assert (done.code, [path.name for path in gpu.proven]) == (0, ["encoder.fp32.engine", "encoder.int8.engine"])
    assert "reference segments reproduced (z 1.0e-06" in done.out
    assert "layers by precision: " in done.out
    assert "fp32: building for Stand-in with TensorRT " in done.said
    assert re.search(r"encoder.fp32.engine: built in \d+ s, \d+\.\d MiB", done.out)
    names = ["encoder.fp32.engine", "encoder.fp32.json", "encoder.int8.engine", "encoder.int8.json", "timing.cache"]
    assert sorted(path.name for path in (bundle / "engines").iterdir()) == names
    before = contents(bundle)
    again = build()
    assert again.code == 0
    assert again.out.count("fits this machine, nothing to do (--force builds again)") == 2
    assert contents(bundle) == before
    assert len(gpu.proven) == 2


def test_the_sidecar_says_what_was_built(build: Edgeasd, bundle: Path) -> None:
    build(
        "--precision",
        "int8",
        "--max-batch",
        "4",
        "--opt-batch",
        "2",
        "--workspace-limit",
        "64",
        "--optimisation-level",
        "1",
    )
    engine, path = engine_paths(bundle, "int8")
    sidecar = read_sidecar(path)
    assert (sidecar.gpu, sidecar.compute_capability, sidecar.max_batch) == ("Stand-in", "8.6", 4)
    assert sidecar.flags == {
        "strongly_typed": True,
        "tf32": False,
        "opt_batch": 2,
        "workspace_mib": 64,
        "optimisation_level": 1,
    }
    assert (sidecar.engine_sha256, sidecar.engine_size) == (hash_file(engine), engine.stat().st_size)
    assert sidecar.onnx_sha256 == hash_file(bundle / "encoder.int8.onnx")
    assert sidecar.int8 > 0


def test_another_machine_and_force_build_again_and_say_why(build: Edgeasd, bundle: Path, gpu: Gpu) -> None:
    build("--precision", "fp32")
    forced = build("--precision", "fp32", "--force")
    assert "building for Stand-in with TensorRT" in forced.said
    assert "asked for with --force" in forced.said
    path = engine_paths(bundle, "fp32")[1]
    path.write_text(json.dumps({**json.loads(path.read_text()), "gpu": "Orin", "tensorrt": "10.3.0"}))
    other = build("--precision", "fp32")
    assert f"TensorRT 10.3.0, here {tensorrt_rtx.__version__}; GPU Orin, here Stand-in" in other.said
    assert len(gpu.proven) == 3
    assert "nothing to do" in build("--precision", "fp32").out


def test_json_for_machines(build: Edgeasd, bundle: Path) -> None:
    done = build("--precision", "int8", "--json")
    facts = json.loads(done.out)
    (engine,) = facts["engines"]
    assert facts["machine"]["gpu"] == "Stand-in"
    assert (engine["precision"], engine["new"], engine["why"]) == ("int8", True, ["not built yet"])
    assert engine["golden_deviation"]["z"] == 1e-6
    assert engine["sidecar"]["layers"] == {"INT8": engine["sidecar"]["int8"] + 1}
    (again,) = json.loads(build("--precision", "int8", "--json").out)["engines"]
    assert (again["new"], again["golden_deviation"], again["sidecar"]) == (False, None, engine["sidecar"])


def test_a_front_end_is_built_alone_and_proven_on_noise(
    edgeasd: Edgeasd, front_end_bundle: Path, tmp_path: Path, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(front_end_bundle, tmp_path / "with-front-end" / "valve-id_00"))

    def prove(bundle: Any, engine: Path, accelerator: str, max_batch: int) -> FrontEndDeviation:
        gpu.prove(bundle, None, engine, accelerator, max_batch)
        return FrontEndDeviation(2e-6)

    monkeypatch.setattr(bundle_build, "verify_front_end", prove)
    monkeypatch.setattr(bundle_build, "ask_inspector", lambda trt, engine: '{"Layers": []}')
    done = edgeasd("build", folder, "--front-end", "--max-batch", "4", cwd=tmp_path)
    assert done.code == 0, done.said
    assert "front end: building for Stand-in with TensorRT" in done.said
    assert "  log-mel of noise reproduced (logmel 2.0e-06)" in done.out
    assert sorted(path.name for path in (folder / "engines").glob("*.engine")) == ["frontend.fp32.engine"]
    sidecar = read_sidecar(engine_paths(folder, "fp32", "frontend")[1])
    assert (sidecar.onnx_sha256, sidecar.max_batch) == (hash_file(folder / "frontend.onnx"), 4)
    assert sidecar.flags["tf32"] is False
    again = edgeasd("build", folder, "--front-end", "--max-batch", "4", "--json", cwd=tmp_path)
    (engine,) = json.loads(again.out)["engines"]
    assert (engine["part"], engine["precision"], engine["new"]) == ("frontend", "fp32", False)


def test_an_int8_engine_that_is_none_is_kept_and_told_each_time(build: Edgeasd, bundle: Path, gpu: Gpu) -> None:
    gpu.weights = lambda name: "Half"
    first = build("--precision", "int8")
    assert first.code == 1
    (line,) = [line for line in first.lines if "do not run as INT8" in line]
    assert "(stages.0.0.conv1" in line or "node_Conv" in line
    assert "the engine is kept" in line
    assert engine_paths(bundle, "int8")[0].exists()
    again = build("--precision", "int8")
    assert again.code == 1
    assert "nothing to do" in again.out
    assert "do not run as INT8" in again.lines[-1]


def test_convolutions_unknown_to_the_inspector_are_a_warning(build: Edgeasd, gpu: Gpu) -> None:
    gpu.weights = lambda name: "no word for a type"
    done = build("--precision", "int8")
    assert done.code == 0
    assert "warning: " in done.lines[-1]
    assert "whether they run as INT8 is not known" in done.lines[-1]


def test_an_engine_that_fails_on_the_golden_segments_is_not_kept(build: Edgeasd, bundle: Path, gpu: Gpu) -> None:
    build("--precision", "fp32")
    before = contents(bundle)
    gpu.deviation = CheckFailed("valve-id_00: reference segments are not reproduced by a stand-in; export again")
    done = build("--precision", "fp32", "--force")
    assert (done.code, done.out) == (1, "")
    assert done.lines[-1].endswith("reference segments are not reproduced by a stand-in; export again")
    assert contents(bundle) == {**before, "engines/timing.cache": (bundle / "engines/timing.cache").read_bytes()}


def test_a_crash_between_the_two_names_is_never_believed(
    build: Edgeasd, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build("--precision", "fp32")
    replace, seen = os.replace, []

    def crash(source: Any, target: Any) -> None:
        if Path(target).name == "encoder.fp32.json" and Path(target).parent.name == "engines":
            raise KeyboardInterrupt
        seen.append(Path(target).name)
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(bundle_build.os, "replace", crash)
        assert build("--precision", "fp32", "--force", "--max-batch", "4").code == 130
    assert "encoder.fp32.engine" in seen
    done = build("--precision", "fp32")
    assert "fp32.engine: built in" in done.out
    assert "its sidecar says" in done.said or "not those of its sidecar" in done.said


def test_the_timing_cache_of_another_machine_is_refused(build: Edgeasd, bundle: Path) -> None:
    build("--precision", "fp32")
    place, here = cache_path(bundle), machine.this_machine(0, tensorrt_rtx)
    kept, why = read_cache(place, here)
    assert (bool(kept), why) == (True, "")
    place.write_bytes(place.read_bytes().replace(b"Stand-in", b"Other-in"))
    done = build("--precision", "fp32", "--force")
    assert "timing.cache: not used, made on another machine or by another TensorRT" in done.said
    assert read_cache(place, here)[0]


def test_a_file_in_the_place_of_the_folder_is_one_line(build: Edgeasd, bundle: Path) -> None:
    (bundle / "engines").write_text("a file in the place of the folder")
    done = build("--precision", "fp32")
    assert done.code == 2
    assert done.lines[-1].endswith("engines: not a folder, and engines are kept in it; remove it")
