"""The wheel holds the tree: a subpackage forgotten in pyproject.toml works in an editable install only."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

FLOORS = ("runtime", "calibration", "export", "toolkit")
DATA_SUFFIXES = (".html", ".toml", ".typed")


@pytest.fixture(scope="session")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the tracked files, so that no build folder appears in the checkout."""
    source = tmp_path_factory.mktemp("source")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=repository,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (repository / name).is_file():
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((repository / name).read_bytes())
    output = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", output, source], check=True, capture_output=True
    )
    return next(output.glob("*.whl"))


def expected(repository: Path) -> set[str]:
    files = {f"edgeasd/{p.name}" for p in (repository / "toolkit" / "_root").iterdir() if p.is_file()}
    for floor in FLOORS:
        for path in (repository / floor).rglob("*"):
            relative = path.relative_to(repository)
            if "_root" in relative.parts or "__pycache__" in relative.parts:
                continue
            if path.suffix == ".py" or path.suffix in DATA_SUFFIXES:
                files.add(f"edgeasd/{relative.as_posix()}")
    return files


def test_the_wheel_holds_exactly_the_tree(repository: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == expected(repository)


def test_the_wheel_has_command_licence_and_version(wheel: Path) -> None:
    import edgeasd

    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        entry_points = archive.read(next(n for n in names if n.endswith("entry_points.txt"))).decode()
        metadata = archive.read(next(n for n in names if n.endswith("METADATA"))).decode()
    assert "edgeasd = edgeasd.toolkit.cli:main" in entry_points
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert f"Version: {edgeasd.__version__}" in metadata
    assert "License-Expression: Apache-2.0" in metadata
