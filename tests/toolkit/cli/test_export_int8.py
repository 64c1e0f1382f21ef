"""`edgeasd export --precision fp32,int8,int8-cpu`: one command from a finished training to INT8."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.toolkit.demo.machines import render

SECONDS = 8.5
"""One segment and a little: what is tested is who goes where, not what is learned."""
NORMALS, HELD_OUT = 50, 0.84
EXPORT = ("export", "--machine", "valve", "--id", "00", "--precision", "fp32,int8,int8-cpu", "--json")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("int8") / "data"
    for id, count in (("00", NORMALS), ("02", 6)):
        folder = root / "valve" / id / "normal"
        folder.mkdir(parents=True)
        for seed in range(count):
            soundfile.write(folder / f"{seed:03d}.flac", render("valve", id, seconds=SECONDS, seed=seed), 16_000)
    return root


@pytest.fixture
def workspace(data: Path, edgeasd: Callable[..., Any], tmp_path: Path) -> Path:
    """A workspace with a run that held out enough clips for INT8."""
    root = Path(shutil.copytree(data, tmp_path / "data"))
    words = ("train", "--data", root, "--machine", "valve", "--id", "00", "--iterations", 2, "--accelerator", "cpu")
    done = edgeasd(*words, "--set", f"holdout_fraction={HELD_OUT}", "--set", "test_fraction=0", cwd=tmp_path)
    assert done.code == 0, done.said
    return tmp_path


def test_export_calibrates_int8_with_held_out_clips(workspace: Path, edgeasd: Callable[..., Any]) -> None:
    done = edgeasd(*EXPORT, cwd=workspace)
    assert done.code in (0, 1), done.said
    told = json.loads(done.out)["calibration"]
    facts = json.loads((workspace / "runs" / "valve" / "id_00" / "run.json").read_text())
    clips = told["clips"]
    assert len(clips) == facts["clips"]["holdout_normals"] >= 40
    assert all(clip["name"].startswith("valve/00/normal/") for clip in clips)
    bundle = workspace / "bundles" / "valve-id_00"
    assert (workspace / "bundles" / "valve-id_00.calibration.html").is_file()
    # What failed the gate is named and not offered; what passed opens as on a device.
    passed = {name for name, one in told["variants"].items() if one["passed"]}
    with Bundle(bundle) as opened:
        assert set(opened.manifest.precisions) == {"fp32"} | passed
        for name in passed:
            opened.open_scorer(precision=name)[0].close()
    assert done.code == (0 if passed == {"int8", "int8-cpu"} else 1)

    # Clips that joined the folder later may have trained or not: nothing says, so it is refused.
    shutil.copy(workspace / "data/valve/02/normal/000.flac", workspace / "data/valve/00/normal/new.flac")
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    again = edgeasd(*EXPORT, cwd=workspace)
    assert again.code == 2
    assert "has changed since valve ID 00 was trained" in again.lines[-1]
    shutil.rmtree(workspace / "data")
    gone = edgeasd(*EXPORT, cwd=workspace)
    assert gone.code == 2
    assert "where valve ID 00 was trained from, is not there" in gone.lines[-1]
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
