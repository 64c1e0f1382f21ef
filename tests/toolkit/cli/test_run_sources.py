"""`edgeasd run` on folders, loops and commands: equal scores for equal samples, and a source that dies and returns."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

pytestmark = [pytest.mark.core, pytest.mark.timeout(120)]
RATE = 16000
Record = dict[str, Any]
Run = Callable[..., tuple[int, list[Record], str]]


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("EDGEASD_")}


@pytest.fixture
def run(edgeasd: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, place: Path, small_bundle: Path) -> Run:
    """Runs in this process and in `place`: (*arguments) -> exit code, records, standard error."""
    for name in os.environ:
        if name.startswith("EDGEASD_"):
            monkeypatch.delenv(name)

    def run(*arguments: object) -> tuple[int, list[Record], str]:
        done = edgeasd("run", "--bundle", small_bundle, "--jsonl", "-", *arguments, cwd=place)
        assert "Traceback" not in done.said
        return done.code, [json.loads(line) for line in done.out.splitlines()], done.said

    return run


def start(bundle: Path, command: str, folder: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "edgeasd", "run", "--bundle", str(bundle), "--jsonl", "-"]
    return subprocess.Popen(
        [*words, "--input-command", command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def bodies(records: list[Record], kind: str) -> list[Record]:
    return [record["body"] for record in records if record["kind"] == kind]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """whole.wav of 10 s, the same as clips/1.wav, 2.wav and 3.wav, and as whole.raw."""
    folder = tmp_path_factory.mktemp("sound")
    sound = (np.random.default_rng(0).standard_normal(10 * RATE) * 600).astype("<i2")
    soundfile.write(folder / "whole.wav", sound, RATE)
    (folder / "whole.raw").write_bytes(sound.tobytes())
    (folder / "clips").mkdir()
    for number, part in enumerate(np.split(sound, [3 * RATE, 7 * RATE]), 1):
        soundfile.write(folder / "clips" / f"{number}.wav", part, RATE)
    return folder


@pytest.fixture(scope="module")
def expected(place: Path, small_bundle: Path) -> list[Record]:
    """Segments of whole.wav by `score --live`."""
    words = [sys.executable, "-m", "edgeasd", "score", str(small_bundle), "whole.wav", "--live"]
    done = subprocess.run(words, cwd=place, capture_output=True, text=True, timeout=60, check=True, env=environment())
    segments = bodies([json.loads(line) for line in done.stdout.splitlines()], "segment")
    assert len(segments) == 10
    return segments


def test_folder_scores_as_one_sound(run: Run, expected: list[Record]) -> None:
    code, records, errors = run("--input", "clips")
    assert code == 0, errors
    assert bodies(records, "segment") == expected
    files = [(one["state"], one["detail"], one["at_sample"]) for one in bodies(records, "source")]
    assert files == [("playing", f"clips/{n}.wav", at * RATE) for n, at in ((1, 0), (2, 3), (3, 7))]


def test_loop_ends_at_its_duration(run: Run, expected: list[Record]) -> None:
    code, records, errors = run("--input", "whole.wav", "--loop", "--duration", "25")
    assert code == 0, errors
    assert bodies(records, "segment")[: len(expected)] == expected
    assert bodies(records, "stop")[-1]["samples"] == 25 * RATE
    assert "looped" in bodies(records, "start")[0]["source"]


def test_bad_files_are_skipped_only_if_asked(run: Run, place: Path, tmp_path: Path) -> None:
    for path in (place / "clips").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "2b.wav").write_text("not sound")
    code, _, errors = run("--input", tmp_path)
    assert (code, errors.count("\n")) == (2, 1)
    code, records, errors = run("--input", tmp_path, "--skip-bad")
    assert code == 0, errors
    (skipped,) = [one for one in bodies(records, "source") if one["state"] == "skipped"]
    assert "2b.wav: not a sound file" in skipped["detail"]


def test_converting_command_gives_the_same_scores(run: Run, expected: list[Record]) -> None:
    code, records, errors = run("--input-command", "cat whole.raw", "--once")
    assert code == 0, errors
    assert bodies(records, "segment") == expected
    assert bodies(records, "start")[0]["source"] == "command cat, raw s16le, 16000 Hz, channel 0 of 1"
    assert bodies(records, "stop")[-1]["reason"] == "end of sound"


def test_without_reopening_the_end_of_the_source_ends_the_run(run: Run, tmp_path: Path) -> None:
    (tmp_path / "feed.sh").write_text("printf abcd; echo camera gone >&2; exit 4")
    code, records, errors = run("--input-command", f"sh {tmp_path}/feed.sh", "--no-reopen")
    assert code == 3
    assert "command sh: ended with exit code 4 (camera gone)" in errors
    assert "camera gone" in bodies(records, "stop")[-1]["reason"]


def test_killed_command_comes_back_with_a_gap(place: Path, small_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "feed.py").write_text(
        "import os, time\n"
        "open('pid', 'a').write(f'{os.getpid()}\\n')\n"
        f"sound = open({str(place / 'whole.raw')!r}, 'rb').read()\n"
        "while True:\n    os.write(1, sound[:3200])\n    open('fed', 'w')\n    time.sleep(0.1)\n"
    )
    process = start(small_bundle, f"{sys.executable} feed.py", tmp_path)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["kind"] == "start"
    # A command that dies before its first sound ends the run.
    while not (tmp_path / "fed").exists():
        time.sleep(0.02)
    time.sleep(0.3)
    pids = (tmp_path / "pid").read_text().split()
    os.kill(int(pids[0]), signal.SIGKILL)
    killed = time.monotonic()
    records: list[Record] = []
    while not records or records[-1]["kind"] != "gap":
        records.append(json.loads(process.stdout.readline()))
        assert time.monotonic() - killed < 10
    process.send_signal(signal.SIGTERM)
    rest, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    lost, reopened = bodies(records, "source")
    assert (lost["state"], reopened["state"]) == ("lost", "reopened")
    assert "was ended by signal 9" in lost["detail"]
    assert 0.0 < reopened["lost_seconds"] < 5.0
    gap = records[-1]["body"]
    assert abs(gap["lost_samples"] - reopened["lost_seconds"] * RATE) <= 16
    stop = bodies([json.loads(line) for line in rest.splitlines()], "stop")[-1]
    assert (stop["reconnects"], stop["lost_samples"]) == (1, gap["lost_samples"])
    for pid in (tmp_path / "pid").read_text().split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


def test_sigterm_ends_the_run_while_the_source_is_away(small_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "feed.sh").write_text("mkdir once 2>/dev/null && printf abcd; exit 4")
    process = start(small_bundle, "sh feed.sh", tmp_path)
    assert process.stdout is not None
    while (record := json.loads(process.stdout.readline()))["kind"] != "source":
        assert record["kind"] in ("start", "event"), "the input is unhealthy now"
    assert record["body"]["state"] == "lost"
    time.sleep(2.0)  # by now a pause takes a second or more
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    rest, errors = process.communicate(timeout=20)
    # Two seconds, and more on a busy machine.
    assert time.monotonic() - asked < 4.5
    assert process.returncode == 0, errors
    assert bodies([json.loads(line) for line in rest.splitlines()], "stop")[-1]["reason"] == "SIGTERM"
