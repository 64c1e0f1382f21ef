"""The laws of the floor plan: nothing imports upward, and the runtime imports nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from edgeasd.toolkit.cli import app

pytestmark = pytest.mark.core

FLOORS = {"runtime": 1, "calibration": 2, "export": 3, "toolkit": 4}
HEAVY = {"torch", "onnx", "onnxscript", "sklearn", "scipy", "matplotlib", "lightning_fabric", "tensorboard", "librosa"}
GRAPH_MODULES = {
    "drift/candidate.py",
    "drift/gate.py",
    "quantization/encoder_parts.py",
    "quantization/fold.py",
    "quantization/fp16.py",
    "quantization/layer_noise.py",
    "quantization/placement.py",
    "quantization/qdq.py",
    "quantization/ranges.py",
}
"""Of calibration: those that read and write ONNX graphs, and may import onnx; never torch."""
PICKLING = {"pickle", "cPickle", "dill", "shelve", "joblib"}


def sources(repository: Path, floor: str) -> list[Path]:
    found = sorted((repository / floor).rglob("*.py"))
    assert found, f"{floor} has no source files: the test looks in the wrong place"
    return found


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import in a file, functions and TYPE_CHECKING blocks included."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; the house imports by full name"
            assert node.module
            yield node.lineno, node.module
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


@pytest.mark.parametrize("floor", FLOORS)
def test_no_floor_imports_upward(repository: Path, floor: str) -> None:
    upward = [
        f"{path.relative_to(repository)}:{line}: {module}"
        for path in sources(repository, floor)
        for line, module in imported(path)
        for other, height in FLOORS.items()
        if module.split(".")[:2] == ["edgeasd", other] and height > FLOORS[floor]
    ]
    assert not upward


def heavy_imports(repository: Path, floor: str) -> list[tuple[str, str]]:
    """(file, heavy package) of every such import on a floor."""
    return [
        (str(path.relative_to(repository / floor)), package)
        for path in sources(repository, floor)
        for _, module in imported(path)
        if (package := module.split(".")[0]) in HEAVY
    ]


def test_the_runtime_imports_nothing_heavy(repository: Path) -> None:
    assert not heavy_imports(repository, "runtime")


def test_calibration_imports_onnx_in_its_graph_modules_only(repository: Path) -> None:
    found = set(heavy_imports(repository, "calibration"))
    assert {package for _, package in found} == {"onnx"}
    assert {file for file, _ in found} <= GRAPH_MODULES


def test_fitting_constants_needs_the_core_only() -> None:
    modules = ("fit.deploy", "fit.distance", "fit.clips", "drift.drift", "threshold.alarms_per_day")
    names = ", ".join(f"edgeasd.calibration.{module}" for module in modules)
    code = f"import sys, {names}\nprint(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("floor", FLOORS)
def test_no_pickle_anywhere(repository: Path, floor: str) -> None:
    for path in sources(repository, floor):
        text = path.read_text("utf-8")
        assert "allow_pickle=True" not in text, path
        if path.match(
            "toolkit/encoders/weights.py"
        ):  # published weights are pickles: read in one place, and nothing in them is run
            assert text.count("torch.load(") == text.count("weights_only=True") == 1, path
        else:
            assert "torch.load" not in text, path
        assert "torch.save" not in text, path
        assert not [m for _, m in imported(path) if m.split(".")[0] in PICKLING], path


def test_the_laws_can_be_broken(tmp_path: Path) -> None:
    """The parser above sees imports wherever they hide."""
    sample = tmp_path / "sample.py"
    sample.write_text("def f():\n    from edgeasd.toolkit import losses\n    import torch.nn\n")
    assert {"edgeasd.toolkit.losses", "torch.nn"} <= {module for _, module in imported(sample)}


def test_importing_cli_and_runtime_loads_nothing_heavy() -> None:
    """Static reading misses what a library drags in; this looks at a real process."""
    code = (
        "import sys, edgeasd.toolkit.cli, edgeasd.runtime.bundle.bundle, edgeasd.runtime.service.service, edgeasd.runtime.sources\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_run_imports_no_other_command() -> None:
    """A device starts `run` again and again, on a slow disk at worst."""
    code = (
        "import sys, typer; from edgeasd.toolkit.cli import app\n"
        "typer.main.get_command(app).commands['run']\n"
        "print(*sorted(m for m in sys.modules if m.startswith('edgeasd.toolkit.cli.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [f"edgeasd.toolkit.cli.{name}" for name in ("_errors", "_options", "run")]


def test_every_module_of_a_command_is_reachable(repository: Path) -> None:
    modules = {path.stem for path in (repository / "toolkit" / "cli").glob("[a-z]*.py")}
    assert set(typer.main.get_command(app).commands) == modules - {"events_export"}  # type: ignore[attr-defined]


@pytest.mark.parametrize("floor", FLOORS)
def test_a_floor_refuses_a_second_name(repository: Path, floor: str) -> None:
    """From the repository root `import runtime` would find a second copy of every class."""
    done = subprocess.run([sys.executable, "-c", f"import {floor}"], cwd=repository, capture_output=True, text=True)
    assert done.returncode != 0
    assert f"import edgeasd.{floor} instead" in done.stderr
