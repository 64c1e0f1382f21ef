"""`edgeasd run` on folders, loops and commands: the scores of the same samples, and a source that dies and returns."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

pytestmark = [pytest.mark.core, pytest.mark.timeout(120)]
RATE = 16000


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("EDGEASD_")}


def command(bundle: Path, *arguments: object) -> list[str]:
    fixed = [sys.executable, "-m", "edgeasd", "run", "--bundle", str(bundle), "--jsonl", "-"]
    return fixed + [str(word) for word in arguments]


def run(bundle: Path, *arguments: object, cwd: Path) -> tuple[int, list[dict[str, Any]], str]:
    done = subprocess.run(
        command(bundle, *arguments), cwd=cwd, capture_output=True, text=True, timeout=60, env=environment()
    )
    assert "Traceback" not in done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def scores(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record for record in records if record["type"] == "score"]


def of_type(records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [record for record in records if record["type"] == kind]


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
def expected(place: Path, small_bundle: Path) -> list[dict[str, Any]]:
    code, records, said = run(small_bundle, "--input", "whole.wav", cwd=place)
    assert code == 0, said
    return scores(records)


def test_a_folder_scores_as_one_sound_and_states_its_joints(
    place: Path, small_bundle: Path, expected: list[dict[str, Any]]
) -> None:
    code, records, said = run(small_bundle, "--input", "clips", cwd=place)
    assert code == 0, said
    assert scores(records) == expected
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "listen.md").read_text("utf-8")
    described = re.findall(
        r"`(\w+)`", "".join(re.findall(r"^\| (`[^|]+) \|", page.split("### source\n")[1].split("###")[0], re.M))
    )
    assert set(of_type(records, "source")[0]) == set(described)
    joints = [(r["state"], r["detail"], r["at_sample"]) for r in of_type(records, "source")]
    assert joints == [("playing", f"clips/{n}.wav", at * RATE) for n, at in ((1, 0), (2, 3), (3, 7))]


def test_a_loop_ends_at_its_duration(place: Path, small_bundle: Path, expected: list[dict[str, Any]]) -> None:
    code, records, said = run(small_bundle, "--input", "whole.wav", "--loop", "--duration", "25", cwd=place)
    assert code == 0, said
    assert scores(records)[: len(expected)] == expected
    assert records[-1]["samples"] == 25 * RATE
    assert "looped" in records[0]["source"]


def test_bad_files_are_named_and_skipped_only_where_asked(place: Path, small_bundle: Path, tmp_path: Path) -> None:
    for path in (place / "clips").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "2b.wav").write_text("not sound")
    code, _, said = run(small_bundle, "--input", tmp_path, cwd=tmp_path)
    assert (code, said.count("\n")) == (2, 1)
    code, records, said = run(small_bundle, "--input", tmp_path, "--skip-bad", cwd=tmp_path)
    assert code == 0, said
    skipped = [r for r in of_type(records, "source") if r["state"] == "skipped"]
    assert len(skipped) == 1
    assert "2b.wav: not a sound file" in skipped[0]["detail"]


def test_a_converting_command_gives_the_same_scores_and_ends(
    place: Path, small_bundle: Path, expected: list[dict[str, Any]]
) -> None:
    code, records, said = run(small_bundle, "--input-command", "cat whole.raw", "--once", cwd=place)
    assert code == 0, said
    assert scores(records) == expected
    assert records[0]["source"] == "command cat, raw s16le, 16000 Hz, channel 0 of 1"
    assert records[-1]["reason"] == "end of sound"


def test_a_killed_command_comes_back_and_the_loss_is_a_gap(place: Path, small_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "feed.py").write_text(
        "import os, time\n"
        "open('pid', 'a').write(f'{os.getpid()}\\n')\n"
        f"sound = open({str(place / 'whole.raw')!r}, 'rb').read()\n"
        "while True:\n    os.write(1, sound[:3200])\n    open('fed', 'w')\n    time.sleep(0.1)\n"
    )
    process = subprocess.Popen(
        command(small_bundle, "--input-command", f"{sys.executable} feed.py"),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["type"] == "start"
    # A command that dies before its first sound ends the run.
    while not (tmp_path / "fed").exists():
        time.sleep(0.02)
    time.sleep(0.5)
    pids = (tmp_path / "pid").read_text().split()
    os.kill(int(pids[0]), signal.SIGKILL)
    killed = time.monotonic()
    records = []
    while not records or records[-1]["type"] != "gap":
        records.append(json.loads(process.stdout.readline()))
        assert time.monotonic() - killed < 10
    process.send_signal(signal.SIGTERM)
    rest, said = process.communicate(timeout=20)
    assert process.returncode == 0, said
    lost, back = of_type(records, "source")
    assert (lost["state"], back["state"]) == ("lost", "reopened")
    assert "was ended by signal 9" in lost["detail"]
    assert 0.0 < back["lost_seconds"] < 5.0
    assert lost["time"].endswith("Z")
    assert abs(records[-1]["lost_samples"] - back["lost_seconds"] * RATE) <= 16
    end = json.loads(rest.splitlines()[-1])
    assert (end["reopened"], end["lost_samples"]) == (1, records[-1]["lost_samples"])
    assert "reopened 1 times" in said
    for pid in (tmp_path / "pid").read_text().split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


def test_sigterm_ends_it_within_two_seconds_while_the_source_is_away(small_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "feed.sh").write_text("mkdir once 2>/dev/null && printf abcd; exit 4")
    (tmp_path / "sitecustomize.py").write_text(
        "from edgeasd.runtime.sources import reopening\nreopening.FIRST_PAUSE = reopening.LONGEST_PAUSE = 60.0\n"
    )
    process = subprocess.Popen(
        command(small_bundle, "--input-command", "sh feed.sh"),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment(), "PYTHONPATH": str(tmp_path)},
    )
    assert process.stdout is not None
    while (record := json.loads(process.stdout.readline()))["type"] != "source":
        assert record["type"] == "start"
    assert record["state"] == "lost"
    time.sleep(1.0)
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    rest, said = process.communicate(timeout=20)
    # Two seconds, and more on a busy machine; a pause that nothing broke off would take 5 s.
    assert time.monotonic() - asked < 4.5
    assert process.returncode == 0, said
    assert json.loads(rest.splitlines()[-1])["reason"] == "SIGTERM"


def test_without_reopening_its_end_is_the_end_of_the_run(small_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "feed.sh").write_text("printf abcd; echo camera gone >&2; exit 4")
    code, records, said = run(small_bundle, "--input-command", "sh feed.sh", "--no-reopen", cwd=tmp_path)
    assert code == 3
    assert "command sh: ended with exit code 4 (camera gone)" in said
    assert records[-1]["reason"] == "error"
