"""An engine that is not to be had: every case through the real command line, one line and the right exit code.

Packages that only say what machine this is stand in for TensorRT and the CUDA bindings; nothing is ever run on them,
because everything here is refused before an engine is given to TensorRT.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

pytestmark = pytest.mark.core

TENSORRT = '__version__ = "{version}"\n\nclass Builder: ...\n'
CUDA = """
from types import SimpleNamespace

def cudaGetDeviceCount():
    return ({error}, {count})

def cudaGetDeviceProperties(index):
    return (0, SimpleNamespace(name=b"Orin", major=8, minor=7, totalGlobalMem=8 << 30))
"""
L4T = Path("/etc/nv_tegra_release")


class Place:
    """A folder with the bundle `b`, a clip, and packages that stand in for those of a device."""

    def __init__(self, folder: Path, bundle: Path, edgeasd: Callable[..., Any]) -> None:
        self.folder, self._edgeasd = folder, edgeasd
        self.bundle = Path(shutil.copytree(bundle, folder / "b"))
        noise = 0.05 * np.random.default_rng(0).standard_normal(160_000)
        soundfile.write(folder / "a.wav", noise, 16_000, subtype="PCM_16")
        (folder / "site").mkdir()

    def package(self, name: str, text: str) -> None:
        path = self.folder / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def device(self, version: str = "10.3.0", count: int = 1, error: int = 0) -> Place:
        """TensorRT and GPUs, as far as they say what they are."""
        self.package("tensorrt/__init__.py", TENSORRT.format(version=version))
        self.package("cuda/__init__.py", "")
        self.package("cuda/bindings/__init__.py", "")
        self.package("cuda/bindings/runtime.py", CUDA.format(count=count, error=error))
        return self

    def built(self, **changes: object) -> Path:
        """A sidecar that fits the bundle and the device, and an engine that fits the sidecar."""
        engine = self.bundle / "engines" / "encoder.fp32.engine"
        engine.parent.mkdir(exist_ok=True)
        engine.write_bytes(b"engine")
        manifest = json.loads((self.bundle / "manifest.json").read_text())
        facts: dict[str, Any] = {
            "schema_version": 1,
            **{"tensorrt": "10.3.0", "gpu": "Orin", "compute_capability": "8.7", "l4t": None},
            **{"onnx_sha256": manifest["files"]["encoder.fp32.onnx"]["sha256"], "precision": "fp32", "max_batch": 10},
            **{"flags": {}, "engine_sha256": hashlib.sha256(b"engine").hexdigest(), "engine_size": 6},
            **{"built_at": "2026-11-22T12:00:00+00:00", "edgeasd": "0.1.0"},
        }
        engine.with_suffix(".json").write_text(json.dumps(facts | changes))
        return engine

    def say(self, *words: str, bundle: str = "b") -> tuple[int, str, str]:
        """(exit code, standard output, standard error) of a command with the bundle and the clip."""
        command, *options = words
        given = {
            "score": [bundle, "a.wav"],
            "run": ["--bundle", bundle, "--input", "a.wav", "--jsonl", "-"],
            "verify": [bundle],
        }[command]
        forget_packages()
        done = self._edgeasd(command, *given, *options, cwd=self.folder)
        return done.code, done.out, done.said


def forget_packages() -> None:
    """What was imported in the place of TensorRT and CUDA is looked for anew."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("tensorrt", "cuda")]:
        del sys.modules[name]


@pytest.fixture
def place(
    tmp_path: Path, small_bundle: Path, edgeasd: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    if L4T.exists():
        pytest.skip("A JETSON: these stand-ins say that there is none")
    for name in [name for name in os.environ if name.startswith("EDGEASD_")]:
        monkeypatch.delenv(name)
    place = Place(tmp_path, small_bundle, edgeasd)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    yield place
    forget_packages()


BUILD = "; type: edgeasd build b --precision fp32 (or pass --build to do it now)"
NOT_HERE = "`edgeasd doctor` looks at "
AUTO, TRT, HEAD = (), ("--engine", "tensorrt"), ("--head", "tensorrt")


def broken(place: Place) -> None:
    place.package("tensorrt/__init__.py", "import not_a_library_libnvinfer\n")


def stubs(place: Place) -> None:
    place.package("tensorrt/__init__.pyi", "")


def without_bindings(place: Place) -> None:
    place.package("tensorrt/__init__.py", TENSORRT.format(version="10.3.0"))
    place.package("cuda/__init__.py", "")


def without_driver(place: Place) -> None:
    """Bindings of CUDA 12 raise where there is no driver library."""
    place.device()
    text = "def cudaGetDeviceCount():\n    raise RuntimeError('Failed to dlopen libcuda.so.1')\n"
    place.package("cuda/bindings/runtime.py", text)


def changed_onnx(place: Place) -> None:
    place.device().built()
    path = place.bundle / "encoder.fp32.onnx"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut_off(place: Place) -> None:
    place.device().built().write_bytes(b"engi")


def swapped(place: Place) -> None:
    place.device().built().write_bytes(b"Engine")


def damaged_sidecar(place: Place) -> None:
    place.device().built().with_suffix(".json").write_text("{")


def built_for(**changes: object) -> Callable[[Place], None]:
    return lambda place: place.device().built(**changes) and None


REFUSED = {
    "TensorRT is not installed": (lambda p: None, TRT, 3, "TensorRT: not installed", NOT_HERE),
    "stubs only": (stubs, TRT, 3, "TensorRT: a module `tensorrt` without the library", NOT_HERE),
    "a library that does not load": (broken, AUTO, 3, "TensorRT: not installed (No module named", NOT_HERE),
    "too old": (lambda p: p.device("8.6.2"), AUTO, 3, "TensorRT 8.6.2: too old", NOT_HERE),
    "no bindings": (without_bindings, AUTO, 3, "CUDA bindings: not installed", "--engine onnxruntime"),
    "no driver": (without_driver, AUTO, 3, "CUDA: no driver (Failed to dlopen libcuda.so.1)", "--engine onnxruntime"),
    "no GPU": (lambda p: p.device(error=100), AUTO, 3, "CUDA: counting the GPUs failed", "--engine onnxruntime"),
    "no such GPU": (lambda p: p.device(), ("--accelerator", "cuda:1"), 3, "cuda:1: this machine has 1 GPU", "cpu"),
    "nothing built": (lambda p: p.device(), AUTO, 3, "b/engines/encoder.fp32.engine: no TensorRT engine", BUILD),
    "another TensorRT": (built_for(tensorrt="10.16.1"), AUTO, 3, "TensorRT 10.16.1, here 10.3.0", BUILD),
    "another GPU": (built_for(gpu="Xavier"), TRT, 3, "GPU Xavier, here Orin", BUILD),
    "another capability": (built_for(compute_capability="7.2"), AUTO, 3, "capability 7.2, here 8.7", BUILD),
    "another L4T": (built_for(l4t="36.4.3"), AUTO, 3, "L4T 36.4.3, here none", BUILD),
    "another ONNX": (built_for(onnx_sha256="a" * 64), AUTO, 3, "ONNX sha256 aaaaaaaaaaaa, here ", BUILD),
    "another precision": (built_for(precision="fp16"), AUTO, 3, "precision fp16, here fp32", BUILD),
    "damaged sidecar": (damaged_sidecar, AUTO, 3, "engines/encoder.fp32.json: not JSON", BUILD),
    "cut off": (cut_off, AUTO, 3, "encoder.fp32.engine: 4 bytes, its sidecar says 6", BUILD),
    "swapped": (swapped, TRT, 3, "encoder.fp32.engine: sha256 is not that of its sidecar", BUILD),
    "changed ONNX file": (changed_onnx, AUTO, 2, "b/encoder.fp32.onnx: sha256 ", "copy the bundle again"),
    "a CPU for TensorRT": (lambda p: p.device(), (*TRT, "--accelerator", "cpu"), 2, "--accelerator cpu", "cuda:0"),
    "int8-cpu for TensorRT": (lambda p: p.device(), (*TRT, "--precision", "int8-cpu"), 2, "int8-cpu", "int8,"),
    "threads for TensorRT": (lambda p: p.device().built(), (*TRT, "--threads", "2"), 2, "--threads 2", "leave it out"),
    "a head of its own": (lambda p: None, HEAD, 2, "--head tensorrt: the encoder runs on ONNX", "--engine tensorrt"),
    "building for the CPU": (
        lambda p: p.device(),
        ("--build", "--accelerator", "cpu"),
        2,
        "--build: there is nothing to build",
        "leave it out",
    ),
    "building without TensorRT": (lambda p: None, ("--build",), 3, "TensorRT: ", NOT_HERE),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(place: Place, case: str) -> None:
    prepare, options, code, begins, ends = REFUSED[case]
    prepare(place)
    if case == "TensorRT is not installed":
        # Whatever this machine has installed must not be found.
        place.package("tensorrt.py", "raise ModuleNotFoundError('No module named tensorrt', name='tensorrt')")
    found, out, said = place.say("score", *options)
    assert (found, out) == (code, ""), said
    assert said.count("\n") == 1, said
    assert said.startswith("edgeasd: ")
    assert begins in said
    assert ends in said
    assert "Traceback" not in said


@pytest.mark.parametrize("case", ["nothing built", "another TensorRT", "no GPU", "changed ONNX file"])
def test_run_refuses_alike_and_scores_nothing(place: Place, case: str) -> None:
    prepare, options, code, begins, ends = REFUSED[case]
    prepare(place)
    found, out, said = place.say("run", *options)
    assert found == code, said
    (record,) = map(json.loads, out.splitlines())
    assert (record["kind"], record["body"]["segments"]) == ("stop", 0), "nothing was scored"
    assert begins in record["body"]["reason"]
    assert said.count("\n") == 1
    assert begins in said
    assert ends in said


def test_a_zip_is_refused_for_tensorrt_only(place: Place) -> None:
    import zipfile

    with zipfile.ZipFile(place.folder / "b.zip", "w") as archive:
        for path in place.bundle.iterdir():
            archive.write(path, path.name)
    assert place.say("score", bundle="b.zip")[0] == 0
    code, _, said = place.device().say("score", bundle="b.zip")
    assert code == 3
    assert said == (
        "edgeasd: b.zip: TensorRT engines lie in a bundle's folder and not in a zip; unpack it and `edgeasd build` "
        "the folder, or use --engine onnxruntime\n"
    )


def test_onnx_runtime_is_taken_if_asked_for_beside_tensorrt(place: Place) -> None:
    place.device()
    for options in (("--engine", "onnxruntime"), ("--accelerator", "cpu")):
        code, out, said = place.say("score", *options)
        assert code == 0, said
        assert said.startswith("edgeasd: fp32 on onnxruntime ")
        assert out.count("\n") == 2


def test_build_says_why_and_ends_as_the_build_does(place: Place) -> None:
    """This stand-in for TensorRT builds nothing: what is seen is the line, its failure, and the old engine whole."""
    engine = place.device().built(tensorrt="10.16.1", max_batch=4, flags={"optimisation_level": 5})
    before = engine.read_bytes()
    command = [sys.executable, "-m", "edgeasd", "score", "b", "a.wav", "--build"]
    done = subprocess.run(command, cwd=place.folder, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert done.stdout == ""
    first = done.stderr.splitlines()[0]
    assert first == (
        "edgeasd: b/engines/encoder.fp32.engine: built for something else: TensorRT 10.16.1, here 10.3.0; "
        "now: edgeasd build b --precision fp32 --max-batch 4 --optimisation-level 5"
    )
    assert engine.read_bytes() == before


def test_verify_with_tensorrt_checks_what_was_built(place: Place) -> None:
    place.device()
    assert place.say("verify")[0] == 0
    assert "no TensorRT engine has been built" in place.say("verify", "--engine", "tensorrt")[2]
    place.built(gpu="Xavier")
    code, _, said = place.say("verify", "--engine", "tensorrt")
    assert (code, "GPU Xavier, here Orin" in said) == (3, True)
