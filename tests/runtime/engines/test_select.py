"""Which engine, accelerator and precision: everything that was asked for and everything that is there, no third way."""

from __future__ import annotations

import itertools
import json
import os
import sys
from pathlib import Path

import pytest

from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.bundle.manifest import Manifest
from edgeasd.runtime.bundle.selection import select
from edgeasd.runtime.engines import select as choice
from edgeasd.runtime.engines import select_engine
from edgeasd.runtime.engines.select import tensorrt_present
from edgeasd.runtime.engines.tensorrt.engine_file import (
    DeviceInfo,
    NotBuilt,
    built_precisions,
    engine_paths,
    read_built,
)
from edgeasd.runtime.errors import BundleError, DeviceError, EdgeasdError, InputError

pytestmark = pytest.mark.core

ORIN = DeviceInfo("10.3.0", "Orin", "8.7", "36.4.3")
SHA = "a" * 64


@pytest.fixture(params=[False, True], ids=["no TensorRT", "TensorRT"])
def installed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(choice, "tensorrt_present", lambda: request.param)
    return bool(request.param)


# Engine and accelerator

ALL = list(
    itertools.product(
        ("auto", "onnxruntime", "tensorrt"), ("auto", "cpu", "cuda", "cuda:1"), (None, "fp32", "int8", "int8-cpu")
    )
)


@pytest.mark.parametrize(("engine", "accelerator", "precision"), ALL)
def test_whatever_was_named_is_what_is_used_or_an_error(
    installed: bool, engine: str, accelerator: str, precision: str | None
) -> None:
    impossible = precision == "int8-cpu" or accelerator == "cpu"
    if (engine == "tensorrt" and impossible) or (accelerator.startswith("cuda") and precision == "int8-cpu"):
        with pytest.raises(InputError, match=r"^[^\n]*; use [^\n]*$"):
            select_engine(engine, accelerator, precision)
        return
    chosen = select_engine(engine, accelerator, precision)
    assert engine in ("auto", chosen.engine)
    assert accelerator in ("auto", chosen.accelerator)
    assert (chosen.engine == "tensorrt") <= chosen.accelerator.startswith("cuda")
    if precision == "int8-cpu":
        assert (chosen.engine, chosen.accelerator) == ("onnxruntime", "cpu")


def test_auto_is_tensorrt_where_it_is_installed_and_else_the_cpu(installed: bool) -> None:
    chosen = select_engine()
    expected = ("tensorrt", "cuda:0") if installed else ("onnxruntime", "cpu")
    assert (chosen.engine, chosen.accelerator, chosen.note) == (*expected, "")


def test_who_asks_for_the_cpu_gets_it_with_tensorrt_too(installed: bool) -> None:
    assert select_engine("auto", "cpu").engine == "onnxruntime"
    assert select_engine("onnxruntime", "auto").accelerator == "cpu"


def test_a_jetson_without_tensorrt_says_so_in_the_name(monkeypatch: pytest.MonkeyPatch, small_bundle: Path) -> None:
    monkeypatch.setattr(choice, "tensorrt_present", lambda: False)
    monkeypatch.setattr(choice, "l4t_release", lambda: "36.4.3")
    with Bundle(small_bundle) as bundle:
        named = {}
        for accelerator in ("auto", "cpu"):
            scorer, _ = bundle.open_scorer(threads=1, accelerator=accelerator)
            named[accelerator] = scorer.engine.name
            scorer.close()
    assert "on a Jetson whose TensorRT this Python does not see" in named["auto"]
    assert "Jetson" not in named["cpu"], "who asked for the CPU is not surprised by it"


def test_a_folder_of_stubs_is_no_tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    folder = tmp_path / "tensorrt"
    folder.mkdir()
    (folder / "__init__.pyi").touch()
    assert not tensorrt_present()
    (folder / "__init__.py").touch()
    assert tensorrt_present(), "a library that does not work is there all the same, and an error later"


# Precision


def manifest(bundle: Path, *names: str, stale: tuple[str, ...] = ()) -> Manifest:
    raw = json.loads((bundle / "manifest.json").read_text())
    offer = raw["precisions"]["fp32"]
    raw["precisions"] = {name: {**offer, "recalibrate": name in stale} for name in names}
    return Manifest.model_validate(raw)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "valve-id_00" / "engines").mkdir(parents=True)
    return tmp_path / "valve-id_00"


def put(folder: Path, built: str, **changes: object) -> Path:
    """An engine (a few bytes) and its sidecar as a build leaves them; returns the engine's path."""
    import hashlib

    path, beside = engine_paths(folder, built)
    data = b"engine of " + built.encode()
    path.write_bytes(data)
    facts = {
        "schema_version": 1,
        **{"tensorrt": "10.3.0", "gpu": "Orin", "compute_capability": "8.7", "l4t": "36.4.3"},
        **{"onnx_sha256": SHA, "precision": built, "max_batch": 10, "flags": {"tf32": False}},
        **{"engine_sha256": hashlib.sha256(data).hexdigest(), "engine_size": len(data)},
        **{"built_at": "2026-11-22T12:00:00+00:00", "edgeasd": "0.1.0"},
    }
    beside.write_text(json.dumps(facts | changes))
    return path


EVERY = ("fp32", "fp16", "int8", "int8-cpu")


def test_tensorrt_takes_the_fastest_that_was_built(small_bundle: Path, folder: Path) -> None:
    offers = manifest(small_bundle, *EVERY)

    def taken() -> str:
        return select(offers, folder, None, "tensorrt", "auto").precision

    assert taken() == "int8", "nothing was built: the fastest is to be"
    for built, expected in (("fp32", "fp32"), ("fp16", "fp16"), ("int8", "int8")):
        put(folder, built)
        assert taken() == expected
    assert built_precisions(folder) == ["int8", "fp16", "fp32"]
    assert select(offers, folder, "fp16", "tensorrt", "auto").precision == "fp16"
    assert select(offers, folder, None, "onnxruntime", "auto").precision == "fp32"


def test_half_of_an_engine_is_not_passed_over(small_bundle: Path, folder: Path) -> None:
    """A sidecar without its engine, or the other way round, is damage to be reported and no reason for fp16."""
    for index in (0, 1):
        put(folder, "fp16")
        put(folder, "int8")
        engine_paths(folder, "int8")[index].unlink()
        assert select(manifest(small_bundle, *EVERY), folder, None, "tensorrt", "auto").precision == "int8"


def test_a_stale_precision_is_passed_over_and_refused_by_name(small_bundle: Path, folder: Path) -> None:
    offers = manifest(small_bundle, *EVERY, stale=("int8",))
    put(folder, "int8")
    put(folder, "fp16")
    assert select(offers, folder, None, "tensorrt", "auto").precision == "fp16"
    with pytest.raises(BundleError, match="needs it to be calibrated again"):
        select(offers, folder, "int8", "tensorrt", "auto")


def test_a_bundle_that_offers_nothing_for_tensorrt_says_so(small_bundle: Path, folder: Path) -> None:
    with pytest.raises(InputError, match=r"offers int8-cpu, TensorRT runs int8, fp16, fp32; use --engine onnxruntime"):
        select(manifest(small_bundle, "int8-cpu"), folder, None, "tensorrt", "auto")


def test_the_head_goes_to_the_gpu_only_beside_its_encoder(small_bundle: Path, folder: Path) -> None:
    offers = manifest(small_bundle, *EVERY)
    assert select(offers, folder, None, "tensorrt", "auto", "tensorrt").head == "tensorrt"
    with pytest.raises(InputError, match="--head tensorrt: the encoder runs on ONNX Runtime"):
        select(offers, folder, None, "onnxruntime", "auto", "tensorrt")
    with pytest.raises(InputError, match="--head gpu: unknown; use cpu or tensorrt"):
        select(offers, folder, None, "tensorrt", "auto", "gpu")


def test_a_zip_has_no_place_for_engines(small_bundle: Path, tmp_path: Path) -> None:
    packed = tmp_path / "valve.zip"
    packed.touch()
    with pytest.raises(DeviceError, match="unpack it and `edgeasd build` the folder"):
        select(manifest(small_bundle, "fp32"), packed, None, "tensorrt", "auto")


# What was built


def refused(folder: Path, machine: DeviceInfo = ORIN, sha: str = SHA) -> str:
    with pytest.raises(NotBuilt) as error:
        read_built(folder, "int8", machine, onnx_sha256=sha)
    assert issubclass(error.type, EdgeasdError)
    assert error.value.exit_code == 3
    text = str(error.value)
    assert "\n" not in text
    line = f"; type: edgeasd build {folder} --precision int8 (or pass --build to do it now)"
    assert text.endswith(line)
    assert error.value.arguments == ["build", str(folder), "--precision", "int8"]
    return text.removesuffix(line)


def test_an_engine_that_fits_is_read_whole(folder: Path) -> None:
    path = put(folder, "int8")
    built = read_built(folder, "int8", ORIN, onnx_sha256=SHA)
    assert (built.path, built.plan, built.sidecar.max_batch) == (path, b"engine of int8", 10)


def test_where_nothing_was_built_the_line_to_type_is_given(folder: Path) -> None:
    assert refused(folder) == "valve-id_00/engines/encoder.int8.engine: no TensorRT engine has been built"


@pytest.mark.parametrize(
    ("machine", "said"),
    [
        (DeviceInfo("10.16.1", "Orin", "8.7", "36.4.3"), "TensorRT 10.3.0, here 10.16.1"),
        (DeviceInfo("10.3.0", "Orin Nano", "8.7", "36.4.3"), "GPU Orin, here Orin Nano"),
        (DeviceInfo("10.3.0", "Orin", "9.0", "36.4.3"), "compute capability 8.7, here 9.0"),
        (DeviceInfo("10.3.0", "Orin", "8.7", "38.2"), "L4T 36.4.3, here 38.2"),
        (DeviceInfo("10.3.0", "Orin", "8.7", None), "L4T 36.4.3, here none"),
    ],
)
def test_an_engine_for_another_machine_says_what_differs(folder: Path, machine: DeviceInfo, said: str) -> None:
    put(folder, "int8")
    assert refused(folder, machine) == f"valve-id_00/engines/encoder.int8.engine: built for something else: {said}"


def test_everything_that_differs_is_said_at_once(folder: Path) -> None:
    put(folder, "int8")
    text = refused(folder, DeviceInfo("11.4.0", "NVIDIA H200", "9.0", None), "b" * 64)
    assert [name for name in ("TensorRT", "GPU", "capability", "L4T", "ONNX") if name not in text] == []


def test_a_changed_onnx_or_a_swapped_engine_is_seen(folder: Path) -> None:
    put(folder, "int8")
    assert "ONNX sha256 aaaaaaaaaaaa, here bbbbbbbbbbbb" in refused(folder, sha="b" * 64)
    put(folder, "int8", precision="fp16")
    assert "precision fp16, here int8" in refused(folder)


@pytest.mark.parametrize("damage", ["shorter", "longer", "changed", "gone"])
def test_a_changed_engine_is_never_loaded(folder: Path, damage: str) -> None:
    path = put(folder, "int8")
    data = path.read_bytes()
    said = {"shorter": "13 bytes, its sidecar says 14", "longer": "15 bytes", "changed": "damaged", "gone": "No such"}
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"shorter": data[:-1], "longer": data + b".", "changed": data[:-1] + b"7"}[damage])
    assert said[damage] in refused(folder)


@pytest.mark.parametrize("text", ["", "{}", "[]", "not JSON", '{"schema_version": 2}', '{"schema_version": 1}'])
def test_a_damaged_sidecar_is_a_reason_to_build_again(folder: Path, text: str) -> None:
    put(folder, "int8")
    engine_paths(folder, "int8")[1].write_text(text)
    assert refused(folder).startswith("engines/encoder.int8.json: ")


def test_the_line_to_type_survives_a_shell(tmp_path: Path) -> None:
    odd = tmp_path / "my bundles" / "valve"
    (odd / "engines").mkdir(parents=True)
    with pytest.raises(NotBuilt) as error:
        read_built(odd, "int8", ORIN, onnx_sha256=SHA)
    assert f"edgeasd build '{odd}' --precision int8" in str(error.value)


@pytest.mark.timeout(20)
def test_a_pipe_in_place_of_a_sidecar_is_refused(tmp_path: Path) -> None:
    from edgeasd.runtime.engines.tensorrt.engine_file import read_sidecar

    os.mkfifo(tmp_path / "encoder.json")
    with pytest.raises(BundleError, match="not a plain file"):
        read_sidecar(tmp_path / "encoder.json")
