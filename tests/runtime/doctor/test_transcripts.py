"""The transcripts in docs/how-to/doctor.md are what the doctor says of the trees."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from edgeasd.runtime.system.board import _VERSIONS, jetpack

pytestmark = pytest.mark.core

PAGE = Path("docs") / "how-to" / "doctor.md"


@pytest.mark.parametrize("transcript", ["orin_nano --venv opt/edgeasd", "orin_nano --venv opt/plain"])
def test_a_transcript_is_what_is_printed(repository: Path, trees: ModuleType, tmp_path: Path, transcript: str) -> None:
    shown = re.search(
        rf"^```console\n\$ edgeasd doctor --root {transcript}\n(.*?)^```$",
        (repository / PAGE).read_text("utf-8"),
        re.M | re.S,
    )
    assert shown
    board, _, venv = transcript.split()
    root = getattr(trees, board)(tmp_path / board)
    trees.virtual_environment(root, venv, "3.12" if board == "agx_orin" else "3.10", sees_system=venv != "opt/plain")
    command = [sys.executable, "-m", "edgeasd", "doctor", "--root", board, "--venv", venv]
    environment = {**os.environ, "COLUMNS": "100", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", timeout=60)
    assert done.returncode == (3 if venv == "opt/plain" else 0)
    printed = re.sub(r"^edgeasd \S+ ", "", done.stdout)
    if venv == "opt/plain":
        for part in shown[1].split("\n\n"):
            assert part in printed
    else:
        assert printed == re.sub(r"^edgeasd \S+ ", "", shown[1])


def test_the_table_of_jetpacks_is_the_one_in_use(repository: Path) -> None:
    table = re.findall(
        r"^\| (\d\.[\d.]+) \| ([^|]+) \| ([\d.]+)[^|]* \| ([\d.]+) \| ([\d.]+) \|$",
        (repository / PAGE).read_text(),
        re.M,
    )
    assert {row[0] for row in table} == set(_VERSIONS.values())
    for version, releases, *components in table:
        for release in re.findall(r"[\d.]+", releases):
            assert jetpack(release) == (version, *components)
