"""`edgeasd demo` makes what it says, once or twice, and touches nothing that it did not make."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

MARK = "made-by-edgeasd-demo.txt"


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "edgeasd", "demo", *map(str, arguments)]


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("EDGEASD_")}


def demo(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), cwd=cwd, capture_output=True, text=True, timeout=840, env=environment())


def assert_whole(folder: Path) -> None:
    for name in (MARK, "stream.wav", "recordings/valve/00/normal/0059.flac", "runs/valve/id_00/outcome.npz"):
        assert (folder / name).is_file(), name
    assert (folder / "bundles" / "valve-id_00" / "manifest.json").is_file()
    assert [p for p in folder.rglob("*") if p.name.endswith(".tmp")] == []


@pytest.mark.slow
def test_short_demo_completes_and_says_it_learned_little(tmp_path: Path) -> None:
    done = demo("--output", "here", "--iterations", 3, cwd=tmp_path)
    assert done.returncode in (0, 1), done.stderr
    assert "Traceback" not in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["here"]
    assert "synthetic" in done.stdout
    assert "[5/5] listening" in done.stdout
    assert "edgeasd run --device hw:1" in done.stdout
    assert_whole(tmp_path / "here")
    if done.returncode == 1:
        assert done.stderr.splitlines()[-1].startswith("edgeasd: demo: expected the first alarm after 30 s")
        assert "--iterations" in done.stderr.splitlines()[-1]

    # A second demo empties the folder of the first; to see that takes a moment, not a whole demo.
    (tmp_path / "here" / "stray.txt").write_text("left by the first")
    process = subprocess.Popen(
        command("--output", "here", "--iterations", 3),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    deadline = time.monotonic() + 60
    while (tmp_path / "here" / "stray.txt").exists() or not (tmp_path / "here" / "recordings").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("edgeasd: stopped by Ctrl-C")
    assert "Traceback" not in said
    assert not (tmp_path / "here" / "bundles").exists()
    assert [p for p in (tmp_path / "here").rglob("*") if p.name.endswith(".tmp")] == []


@pytest.mark.parametrize("kind", ["a folder", "an empty folder", "a file"])
def test_what_the_demo_did_not_make_is_not_touched(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "mine"
    if kind == "a file":
        place.write_text("years of work")
    else:
        place.mkdir()
        if kind == "a folder":
            (place / "thesis.txt").write_text("years of work")
    before = sorted(p.name for p in tmp_path.rglob("*"))
    done = demo("--output", "mine", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "edgeasd: mine: is there and was not made by the demo; choose another --output\n"
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_hears_the_fault_and_nothing_before_it(tmp_path: Path) -> None:
    done = demo(cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "after the fault began, 0 before it" in done.stdout
    assert "ALARM" in done.stdout
    assert_whole(tmp_path / "edgeasd-demo")
