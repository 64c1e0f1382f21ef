"""Every name of TensorRT that our code uses exists in 10.3, 10.16 and 11.4, in the stubs and in TensorRT for RTX.

The names are read from the source, not listed here. The bindings of the three versions are not installed; their
wheels are read as they lie, in the folder that EDGEASD_TENSORRT_WHEELS names.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[4]
PACKAGE = REPOSITORY / "runtime" / "engines" / "tensorrt"
WHEELS = {"10.3": r"bindings-10\.3\.\d", "10.16": r"bindings-10\.16\.\d", "11.4": r"bindings-11\.4\.\d"}
ROOTS = {"trt", "_trt", "tensorrt"}
"""What the module is called in our code; `module` and others are found by what follows them."""
OURS = {"ctypes", "input", "precision"}
"""Names of ours or of Python that some TensorRT also has and another has not (ILayer.precision is gone in 11)."""


# What is used


def uses(source: str) -> Iterator[tuple[int, str, bool]]:
    """(line, name, whether it surely is TensorRT's) of all that may be a name of TensorRT.

    A getattr with a default is none: it says what happens where the name is absent.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            yield node.lineno, node.attr, _from_module(node.value)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            if len(node.args) == 2 and isinstance(node.args[1], ast.Constant):
                yield node.lineno, str(node.args[1].value), _from_module(node.args[0])
        elif isinstance(node, ast.ClassDef) and any(_from_module(base) for base in node.bases):
            # What TensorRT calls in a class of ours must be called as it calls it.
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef):
                    yield inner.lineno, inner.name, True


def _from_module(node: ast.expr) -> bool:
    while isinstance(node, ast.Attribute):
        if node.attr in ROOTS:
            return True
        node = node.value
    return isinstance(node, ast.Name) and node.id in ROOTS


def names_used(vocabulary: frozenset[str]) -> dict[str, str]:
    """Name to the place of its first use, for all names in our package that are TensorRT's."""
    found: dict[str, str] = {}
    for path in sorted(PACKAGE.glob("*.py")):
        for line, name, sure in uses(path.read_text("utf-8")):
            if not name.startswith("__") and name not in OURS and (sure or name in vocabulary):
                found.setdefault(name, f"{path.name}:{line}")
    return found


# What is there


@cache
def stub_names() -> frozenset[str]:
    """Names of the stubs' classes, functions, members and enumerations."""
    text = stub_file("tensorrt_bindings/tensorrt.pyi").read_text("utf-8")
    found = re.findall(r"^\s*(?:def|class) (\w+)|^\s*(\w+)\s*[:=]", text, re.MULTILINE)
    return frozenset(name for pair in found for name in pair) - {""}


def stub_file(name: str) -> Path:
    try:
        listed = files("tensorrt-stubs") or []
    except PackageNotFoundError:
        pytest.skip("TENSORRT STUBS ABSENT: no names are compared with them; pip install tensorrt-stubs")
    return next(Path(str(entry.locate())) for entry in listed if str(entry) == name)


@cache
def rtx_names() -> frozenset[str]:
    trt = pytest.importorskip("tensorrt_rtx", reason="TENSORRT FOR RTX ABSENT: no names are compared with it")
    members = [inner for value in vars(trt).values() if isinstance(value, type) for inner in dir(value)]
    severities = dir(trt.ILogger.Severity)
    return frozenset(vars(trt)) | frozenset(members) | frozenset(severities)


@cache
def wheel_bytes(version: str) -> bytes:
    folder = os.environ.get("EDGEASD_TENSORRT_WHEELS")
    if not folder:
        pytest.skip(
            "TENSORRT WHEELS ABSENT: no names are compared with TensorRT 10.3, 10.16 and 11.4; name a folder with the "
            "three tensorrt-cu12-bindings wheels in EDGEASD_TENSORRT_WHEELS"
        )
    wheels = [path for path in sorted(Path(folder).glob("*.whl")) if re.search(WHEELS[version], path.name)]
    assert wheels, f"{folder}: no wheel of the bindings of TensorRT {version}"
    with zipfile.ZipFile(wheels[0]) as wheel:
        return b"\0".join(wheel.read(name) for name in wheel.namelist() if name.endswith(".so"))


def in_wheel(version: str) -> Callable[[str], bool]:
    # Linkers keep a string that ends another one inside that one, so only its end is sure to be a NUL.
    data = wheel_bytes(version)
    return lambda name: name.encode() + b"\0" in data


SOURCES: dict[str, Callable[[], Callable[[str], bool]]] = {
    **{f"wheel {version}": (lambda version=version: in_wheel(version)) for version in WHEELS},
    "stubs": lambda: stub_names().__contains__,
    "rtx": lambda: rtx_names().__contains__,
}


@pytest.mark.parametrize("source", SOURCES)
def test_every_name_we_use_is_there(source: str) -> None:
    there = SOURCES[source]()
    used = names_used(stub_names() | rtx_names())
    assert len(used) > 30, "the source is not read"
    assert {name: place for name, place in used.items() if not there(name)} == {}


@pytest.mark.parametrize("source", SOURCES)
def test_a_name_that_is_not_there_would_be_found(source: str) -> None:
    there = SOURCES[source]()
    assert there("build_serialized_network")
    assert not there("build_cuda_engine_of_tensorrt_7")
    if source in ("wheel 11.4", "rtx"):
        assert not there("EXPLICIT_BATCH"), "gone in 11, which is why it is asked for with a default"
    if source.startswith("wheel 10"):
        assert there("EXPLICIT_BATCH")


def test_uses_are_found_wherever_they_hide() -> None:
    source = (
        "class L(trt.ILogger):\n    def log(self): ...\n"
        "self._trt.Runtime(x).deserialize_cuda_engine(y)\n"
        "getattr(trt.Flag, 'A')\ngetattr(trt.Flag, 'B', None)\nengine.num_layers\n"
    )
    found = {(name, sure) for _, name, sure in uses(source)}
    assert {("ILogger", True), ("log", True), ("Runtime", True), ("A", True), ("num_layers", False)} <= found
    assert ("deserialize_cuda_engine", False) in found
    assert "B" not in {name for name, _ in found}


@pytest.mark.slow
def test_our_code_fits_the_types_of_the_stubs(tmp_path: Path) -> None:
    """The stubs do not parse as they are shipped (a parameter is called `in`), so a copy is mended first."""
    shutil.copytree(stub_file("tensorrt/__init__.pyi").parent, tmp_path / "stubs" / "tensorrt")
    bindings = shutil.copytree(
        stub_file("tensorrt_bindings/tensorrt.pyi").parent, tmp_path / "stubs" / "tensorrt_bindings"
    )
    stub = Path(bindings) / "tensorrt.pyi"
    text = stub.read_text("utf-8").replace(" in: ", " in_: ")
    stub.write_text(
        text.replace("power: Weights = None, channel_axis: int)", "power: Weights = None, *, channel_axis: int)")
    )
    ast.parse(stub.read_text("utf-8"))
    house = tmp_path / "edgeasd"
    house.mkdir()
    for path in [
        *(REPOSITORY / "toolkit" / "_root").iterdir(),
        *(REPOSITORY / floor for floor in ("runtime", "toolkit")),
    ]:
        (house / path.name).symlink_to(path)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--config-file",
            str(REPOSITORY / "pyproject.toml"),
            "-p",
            "edgeasd.runtime.engines",
        ],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": f"{tmp_path}:{tmp_path / 'stubs'}", "MYPY_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    # Whether our own modules are all there is for `make lint` to say.
    ours = [line for line in done.stdout.splitlines() if re.match(r"edgeasd/.* error: (?!Cannot find impl)", line)]
    assert "Found" in done.stdout or "Success" in done.stdout, done.stderr
    assert "import-untyped" not in done.stdout
    assert ours == [], done.stdout[:2000]
