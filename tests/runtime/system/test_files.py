"""Files that are either whole or absent, whatever happens to the one who writes them."""

from __future__ import annotations

import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeasd.runtime.system import files as atomic
from edgeasd.runtime.system.files import atomic_directory, atomic_file, write_bytes, write_json

pytestmark = [pytest.mark.core, pytest.mark.timeout(60)]

OLD = b"the old file\n"

HALF_A_FILE = """
import sys, time
from pathlib import Path
from edgeasd.runtime.system.files import atomic_file
with atomic_file(Path(sys.argv[1])) as handle:
    handle.write(b"x" * 1_000_000)
    handle.flush()
    print("half", flush=True)
    time.sleep(60)
"""

HALF_A_DIRECTORY = """
import sys, time
from pathlib import Path
from edgeasd.runtime.system.files import atomic_directory
with atomic_directory(Path(sys.argv[1]), replace=True) as folder:
    (folder / "new").write_bytes(b"x" * 1_000_000)
    print("half", flush=True)
    time.sleep(60)
"""

REWRITE = """
import sys
from pathlib import Path
from edgeasd.runtime.system.files import write_bytes
print("begun", flush=True)
for version in range(1_000_000):
    write_bytes(Path(sys.argv[1]), (b"%08d" % version) * 20_000)
"""


def writer(script: str, path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() in ("half", "begun")
    return process


def kill(process: subprocess.Popen[str], how: signal.Signals = signal.SIGKILL) -> None:
    process.send_signal(how)
    process.wait(timeout=20)
    assert process.stdout is not None
    process.stdout.close()


# Files


def test_a_file_is_written_whole_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.bin"
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["x.bin"]


def test_nobody_sees_the_file_before_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(OLD)
    with atomic_file(path) as handle:
        handle.write(b"new")
        handle.flush()
        assert path.read_bytes() == OLD
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("existed", [True, False])
def test_an_exception_leaves_nothing_new(tmp_path: Path, error: type[BaseException], existed: bool) -> None:
    path = tmp_path / "x"
    if existed:
        path.write_bytes(OLD)
    with pytest.raises(error), atomic_file(path) as handle:
        handle.write(b"half")
        raise error
    assert os.listdir(tmp_path) == (["x"] if existed else [])
    assert not existed or path.read_bytes() == OLD


def test_a_full_disk_leaves_nothing_new(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(OLD)

    def write_to_a_full_disk() -> None:
        with open("/dev/full", "wb", buffering=0) as full, atomic_file(tmp_path / "x") as handle:
            os.dup2(full.fileno(), handle.fileno())
            handle.write(b"new")

    with pytest.raises(OSError, match="No space left"):
        write_to_a_full_disk()
    assert os.listdir(tmp_path) == ["x"]
    assert (tmp_path / "x").read_bytes() == OLD


def test_a_writer_killed_midway_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(OLD)
    kill(writer(HALF_A_FILE, path))
    assert path.read_bytes() == OLD
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new", "what the dead writer left is in nobody's way"


def test_an_interrupted_writer_cleans_up(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(OLD)
    kill(writer(HALF_A_FILE, path), signal.SIGINT)
    assert os.listdir(tmp_path) == ["x"]
    assert path.read_bytes() == OLD


def test_a_kill_leaves_one_whole_version_of_a_file(tmp_path: Path) -> None:
    path, chance = tmp_path / "x", random.Random(0)
    versions = set()
    for _ in range(6):
        process = writer(REWRITE, path)
        time.sleep(chance.uniform(0.0, 0.1))
        kill(process)
        if path.exists():
            data = path.read_bytes()
            assert len(data) == 160_000
            assert data == data[:8] * 20_000
            versions.add(data[:8])
    assert versions, "no writer got as far as a first version"


def test_two_writers_at_once_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with atomic_file(path) as first, atomic_file(path) as second:
        first.write(b"1" * 1000)
        second.write(b"2" * 500)
    assert path.read_bytes() == b"1" * 1000, "the last to finish wins, whole"
    assert os.listdir(tmp_path) == ["x"]


def test_text_is_utf_8(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "x", "w") as handle:
        handle.write("größer")
    assert (tmp_path / "x").read_bytes() == "größer".encode()


def test_json_comes_back_and_nan_is_refused_without_a_trace(tmp_path: Path) -> None:
    value = {"d′": [1.5, None, "größer"]}
    write_json(tmp_path / "x.json", value)
    assert json.loads((tmp_path / "x.json").read_bytes()) == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"score": float("nan")})
    assert json.loads((tmp_path / "x.json").read_bytes()) == value
    assert os.listdir(tmp_path) == ["x.json"]


# Directories


def test_a_directory_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "bundles" / "valve"
    with atomic_directory(path) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_bytes(b"a")
        assert not path.exists()
    assert (path / "sub" / "a").read_bytes() == b"a"
    assert os.listdir(path.parent) == ["valve"]


def test_an_existing_directory_is_not_replaced_unasked(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "old").write_bytes(OLD)
    with pytest.raises(FileExistsError), atomic_directory(tmp_path / "x"):
        pytest.fail("the block must not begin")
    assert (tmp_path / "x" / "old").read_bytes() == OLD


def test_a_replaced_directory_keeps_nothing_of_the_old(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "old").write_bytes(OLD)
    with atomic_directory(tmp_path / "x", replace=True) as folder:
        (folder / "new").write_bytes(b"new")
        assert (tmp_path / "x" / "old").read_bytes() == OLD
    assert os.listdir(tmp_path / "x") == ["new"]
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("existed", [True, False])
def test_a_failure_keeps_the_old_directory_and_nothing_else(tmp_path: Path, existed: bool) -> None:
    if existed:
        (tmp_path / "x").mkdir()
        (tmp_path / "x" / "old").write_bytes(OLD)
    with pytest.raises(ZeroDivisionError), atomic_directory(tmp_path / "x", replace=True) as folder:
        (folder / "new").write_bytes(b"new")
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == (["x"] if existed else [])
    assert not existed or (tmp_path / "x" / "old").read_bytes() == OLD


def test_a_failure_removes_only_folders_it_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="refused"), atomic_directory(tmp_path / "a" / "b" / "c"):
        raise ValueError("refused")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match="refused"), atomic_directory(tmp_path / "a" / "b" / "c") as made:
        (made.parent / "another").write_text("x")
        raise ValueError("refused")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["another"]


def test_a_failing_rename_brings_the_old_directory_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "old").write_bytes(OLD)
    real, calls = os.replace, []

    def second_fails(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise OSError("the disk went away")
        real(source, target)

    monkeypatch.setattr(os, "replace", second_fails)
    with pytest.raises(OSError, match="went away"), atomic_directory(tmp_path / "x", replace=True) as folder:
        (folder / "new").write_bytes(b"new")
    assert os.listdir(tmp_path) == ["x"]
    assert (tmp_path / "x" / "old").read_bytes() == OLD


def test_a_writer_killed_midway_leaves_the_old_directory_whole(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "old").write_bytes(OLD)
    kill(writer(HALF_A_DIRECTORY, tmp_path / "x"))
    assert os.listdir(tmp_path / "x") == ["old"]
    assert (tmp_path / "x" / "old").read_bytes() == OLD


# Power cuts


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What reaches the disk and in which order: names fsynced, and "rename"."""
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor: int) -> None:
        fsync(descriptor)
        name = os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))
        done.append(("folder " if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file ") + name)

    def watched_replace(source: Path, target: Path) -> None:
        replace(source, target)
        done.append("rename")

    monkeypatch.setattr(atomic.os, "fsync", watched_fsync)
    monkeypatch.setattr(atomic.os, "replace", watched_replace)
    return done


def kinds(steps: list[str], sort: Callable[[str], bool] = bool) -> list[str]:
    return [step.split()[0] for step in steps if sort(step)]


def test_a_file_is_synced_before_its_name(tmp_path: Path, steps: list[str]) -> None:
    write_bytes(tmp_path / "x", b"new")
    assert kinds(steps) == ["file", "rename", "folder"]
    assert steps[-1] == f"folder {tmp_path.name}"


def test_all_of_a_directory_is_on_disk_before_its_name(tmp_path: Path, steps: list[str]) -> None:
    with atomic_directory(tmp_path / "x") as folder:
        (folder / "sub").mkdir()
        for name in ("a", "b", "sub/c"):
            (folder / name).write_bytes(b"new")
    before, after = steps[: steps.index("rename")], steps[steps.index("rename") + 1 :]
    assert {"file a", "file b", "file c", "folder sub"} <= set(before)
    assert len(before) == 5
    assert after == [f"folder {tmp_path.name}"]
