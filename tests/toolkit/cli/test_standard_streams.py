"""Standard streams that are closed or full, and names that a command must not touch: one line at most, the right code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytestmark = pytest.mark.core


def shell(line: str, cwd: Path, **names: object) -> subprocess.CompletedProcess[str]:
    """A line of sh, in which $edgeasd is the command."""
    given = {name: str(value) for name, value in names.items()} | {"edgeasd": f"{sys.executable} -m edgeasd"}
    return subprocess.run(
        ["sh", "-c", line], cwd=cwd, capture_output=True, text=True, timeout=120, env={**os.environ, **given}
    )


def test_a_closed_standard_output_is_no_failure(small_bundle: Path, tmp_path: Path) -> None:
    done = shell("$edgeasd verify $bundle >&-", tmp_path, bundle=small_bundle)
    assert (done.returncode, done.stderr) == (0, "")


def test_help_on_a_full_disk_is_one_line(tmp_path: Path) -> None:
    done = shell("$edgeasd --help >/dev/full", tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr


@pytest.mark.parametrize("asked", ["--help", "run --help", "--version", "verify $bundle"])
def test_a_reader_that_has_left_is_exit_code_141(asked: str, small_bundle: Path, tmp_path: Path) -> None:
    line = f"{{ $edgeasd {asked}; echo $? >code; }} | true"
    done = shell(line, tmp_path, bundle=small_bundle)
    assert (tmp_path / "code").read_text() == "141\n"
    assert done.stderr == "edgeasd: standard output was closed by its reader; stopped\n"


@pytest.mark.parametrize("kind", ["fifo", "/dev/zero"])
def test_a_bundle_that_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    place = Path(kind) if kind.startswith("/") else tmp_path / "bundle"
    if place.parent == tmp_path:
        os.mkfifo(place)
    done = shell("$edgeasd verify $bundle", tmp_path, bundle=place)
    assert done.returncode == 2
    assert done.stderr == f"edgeasd: {place}: neither a folder nor a plain file; name a bundle folder or its zip\n"


def test_records_are_appended_to_records_only(bundle_copy: Path, tmp_path: Path) -> None:
    sound = tmp_path / "sound.wav"
    noise = 0.05 * np.random.default_rng(0).standard_normal(150_000)
    soundfile.write(sound, noise, 16_000, subtype="PCM_16")
    for victim in (sound, bundle_copy / "manifest.json"):
        before = victim.read_bytes()
        line = "$edgeasd run --input $sound --bundle $bundle --jsonl $victim"
        done = shell(line, tmp_path, sound=sound, bundle=bundle_copy, victim=victim)
        assert done.returncode == 2
        assert f"--jsonl {victim}: holds something else than JSON lines" in done.stderr
        assert victim.read_bytes() == before
    records = tmp_path / "records.jsonl"
    for _ in range(2):
        line = "$edgeasd run --input $sound --bundle $bundle --jsonl $records >/dev/null"
        assert shell(line, tmp_path, sound=sound, bundle=bundle_copy, records=records).returncode == 0
    kinds = [json.loads(line)["kind"] for line in records.read_text("utf-8").splitlines()]
    assert kinds.count("start") == 2


def test_what_libraries_print_is_not_on_standard_output(tmp_path: Path) -> None:
    code = (
        "import ctypes, os, sys\n"
        "from edgeasd.toolkit.cli._errors import prepare_streams\n"
        "prepare_streams()\n"
        "print('{\"ours\": 1}')\n"
        "os.write(1, b'theirs\\n')\n"
        "libc = ctypes.CDLL(None); libc.printf(b'theirs too\\n'); libc.fflush(None)\n"
        "print('{\"ours\": 2}')\n"
    )
    (tmp_path / "program.py").write_text(code)
    done = subprocess.run([sys.executable, tmp_path / "program.py"], capture_output=True, text=True, check=True)
    assert done.stdout == '{"ours": 1}\n{"ours": 2}\n'
    assert done.stderr == "theirs\ntheirs too\n"
