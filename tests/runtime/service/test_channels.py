"""Several streams on one card or command: opened once, heard by all, each with a ring and a health of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from edgeasd.runtime.sources.arecord import STALL_SECONDS

pytestmark = [pytest.mark.core, pytest.mark.timeout(120)]
RATE = 16_000
Record = dict[str, Any]

# Notes its process; gives frames of two channels over and over, ten times as fast as they were heard.
PACED = """
import os, sys, time
open(sys.argv[2], "a").write(f"{os.getpid()}\\n")
data = open(sys.argv[1], "rb").read()
began = time.monotonic()
for i in range(100_000):
    at = 6400 * i % (len(data) - 6400)
    sys.stdout.buffer.write(data[at:][:6400]); sys.stdout.buffer.flush()
    time.sleep(max(0.0, began + 0.01 * (i + 1) - time.monotonic()))
"""


@pytest.fixture(scope="module")
def stereo(tmp_path_factory: pytest.TempPathFactory, sound: Path) -> Path:
    """Folder with stereo.raw and stereo.wav, of which left.wav and right.wav are the channels."""
    folder = tmp_path_factory.mktemp("stereo")
    left, _ = soundfile.read(sound, frames=14 * RATE, dtype="int16")
    right = (np.random.default_rng(9).standard_normal(len(left)) * 900).astype("<i2")
    both = np.stack([left, right], axis=1)
    (folder / "stereo.raw").write_bytes(both.astype("<i2").tobytes())
    for name, samples in (("stereo", both), ("left", left), ("right", right)):
        soundfile.write(folder / f"{name}.wav", samples, RATE, subtype="PCM_16")
    (folder / "paced.py").write_text(PACED, "utf-8")
    return folder


@pytest.fixture(scope="module")
def expected(stereo: Path, small_bundle: Path) -> dict[str, list[Record]]:
    """What `score --live` says of left.wav and right.wav."""
    command = [sys.executable, "-m", "edgeasd", "score", small_bundle, "left.wav", "right.wav", "--live"]
    done = subprocess.run(command, cwd=stereo, capture_output=True, text=True, timeout=60, check=True)
    found = [{**one["body"], "file": one["file"]} for one in map(json.loads, done.stdout.splitlines())]
    found = [one for one in found if "averaged" in one]
    return {name: [one for one in found if one["file"] == f"{name}.wav"] for name in ("left", "right")}


def scores(site: Any, id: str) -> list[Record]:
    return [one for one in site.records("segment") if one["id"] == id]


def assert_same(ours: list[Record], theirs: list[Record]) -> None:
    assert len(ours) >= len(theirs) > 20
    for one, two in zip(ours, theirs, strict=False):
        assert (one["start_sample"], one["end_sample"]) == (two["start_sample"], two["end_sample"])
        assert one["score"] == pytest.approx(two["score"], rel=1e-6)


def running(stereo: Path, pids: Path) -> str:
    command = f"{sys.executable} {stereo / 'paced.py'} {stereo / 'stereo.raw'} {pids}"
    return f"input_command = '{command}'\nchannels = 2\npace = \"block\"\n"


def test_two_channels_of_a_card_are_the_scores_of_each(
    site: Any, stereo: Path, expected: dict[str, list[Record]], playing: Callable[[bytes], str]
) -> None:
    left, right = expected["left"], expected["right"]
    card = 'device = "hw:1"\npace = "block"\n'
    site.write(f"{card}channel = 0", f"{card}channel = 1", f"{card}channel = 0")
    process = site.start(ALSA_CONFIG_PATH=playing((stereo / "stereo.raw").read_bytes()))
    site.until(lambda: all(len(scores(site, id)) >= len(left) for id in "abc"))
    _, said = site.end(process)
    assert process.returncode == 0, said
    assert "hw:1 through arecord, S16_LE, 16000 Hz, channel 1 of 2" in said
    assert_same(scores(site, "a"), left)
    assert_same(scores(site, "b"), right)
    assert_same(scores(site, "c"), left)


def test_two_channels_of_a_file_and_of_a_converting_command(
    site: Any, stereo: Path, expected: dict[str, list[Record]]
) -> None:
    left, right = expected["left"], expected["right"]
    file = f'input = "{stereo / "stereo.wav"}"\n'
    converter = f"input_command = 'cat {stereo / 'stereo.raw'}'\nonce = true\nchannels = 2\n"
    site.write(*(f"{source}channel = {channel}" for source in (file, converter) for channel in (0, 1)))
    process = site.start()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    for id, theirs in zip("abcd", (left, right, left, right), strict=True):
        assert_same(scores(site, id), theirs)
        assert len(scores(site, id)) == len(theirs)


def test_command_of_two_channels_runs_once_both_see_it_die(site: Any, stereo: Path) -> None:
    pids = site.folder / "pids"
    source = running(stereo, pids)
    site.write(f"{source}channel = 0", f"{source}channel = 1")
    process = site.start()
    site.until(lambda: scores(site, "a") and scores(site, "b"))
    assert len(pids.read_text("utf-8").split()) == 1
    os.kill(int(pids.read_text("utf-8")), signal.SIGKILL)
    killed = time.monotonic()
    for id in "ab":
        site.until(
            lambda id=id: (
                [one["state"] for one in site.records("source") if one["id"] == id][-2:] == ["lost", "reopened"]
            )
        )
        site.until(lambda id=id: [one for one in site.records("gap") if one["id"] == id])
    assert time.monotonic() - killed < 5.0
    gaps = {one["id"]: one["lost_samples"] for one in site.records("gap")}
    assert gaps["a"] == gaps["b"]
    assert len(pids.read_text("utf-8").split()) == 2
    _, said = site.end(process)
    assert process.returncode == 0, said
    assert said.count("was ended by signal 9") == 2


def test_sighup_adds_and_drops_a_sharer_and_the_others_hear_on(
    site: Any, stereo: Path, told: Callable[[], list[str]]
) -> None:
    pids = site.folder / "pids"
    source = running(stereo, pids)
    site.write(f"{source}channel = 0")
    process = site.start(NOTIFY_SOCKET=str(site.folder / "notify"))
    site.until(lambda: scores(site, "a"))
    site.write(f"{source}channel = 0", f"{source}channel = 1")
    process.send_signal(signal.SIGHUP)
    site.until(lambda: scores(site, "b"))
    site.until(lambda: told().count("READY=1") == 2)
    site.write('enabled = false\ninput = "x"', f"{source}channel = 1")
    process.send_signal(signal.SIGHUP)
    site.until(lambda: told().count("READY=1") == 3)
    before = len(scores(site, "b"))
    site.until(lambda: len(scores(site, "b")) > before + 10)
    _, said = site.end(process)
    assert process.returncode == 0, said
    assert said.count("reloaded") == 2
    assert len(pids.read_text("utf-8").split()) == 1, "it has run on all the while"
    assert site.records("gap") == []
    for id in "ab":
        indexes = [one["index"] for one in scores(site, id)]
        assert indexes == list(range(len(indexes)))


def test_channel_beyond_those_opened_reopens_the_card(site: Any, stereo: Path, playing: Callable[[bytes], str]) -> None:
    card = 'device = "hw:1"\npace = "block"\n'
    site.write(f"{card}channel = 0")
    process = site.start(ALSA_CONFIG_PATH=playing((stereo / "stereo.raw").read_bytes()))
    site.until(lambda: scores(site, "a"))
    site.write(f"{card}channel = 0", f"{card}channel = 1")
    process.send_signal(signal.SIGHUP)
    site.until(lambda: scores(site, "b") and site.records("gap"))
    before = len(scores(site, "a"))
    site.until(lambda: len(scores(site, "a")) > before)
    _, said = site.end(process)
    assert process.returncode == 0, said
    assert [one["id"] for one in site.records("start")] == ["a", "b"], "a has not begun anew"
    lost, back = [one for one in site.records("source") if one["id"] == "a"]
    assert (lost["detail"], back["state"]) == ("hw:1: is opened again, with more channels", "reopened")
    assert back["lost_seconds"] < 2.0
    assert {one["id"] for one in site.records("gap")} == {"a"}


# An arecord whose cards are opened once each, as real ones are. It plays the sound over and over, one channel or two.
EXCLUSIVE = """#!{python}
import fcntl, sys, time
given = dict(zip(sys.argv[1:], sys.argv[2:]))
lock = open("{folder}/" + given["-D"], "w")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    sys.exit("arecord: main:831: audio open error: Device or resource busy")
print("  format       :", given["-f"], file=sys.stderr)
print("  channels     :", given["-c"], file=sys.stderr)
print("  rate         : 16000\\n  buffer_size  : 8192", file=sys.stderr, flush=True)
data = open("{folder}/sound.raw", "rb").read()
while True:
    for at in range(0, len(data), 6400):
        sys.stdout.buffer.write(data[at:at + 6400]); sys.stdout.buffer.flush(); time.sleep(0.005)
"""


def test_streams_swapping_cards_find_none_busy(
    site: Any, stereo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Any
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sound.raw").write_bytes((stereo / "stereo.raw").read_bytes())
    (folder / "arecord").write_text(EXCLUSIVE.format(python=sys.executable, folder=folder))
    (folder / "arecord").chmod(0o755)

    def card(number: int, channel: int, more: str = "") -> str:
        return f'device = "hw:{number}"\npace = "block"\nchannel = {channel}\n{more}'

    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    site.write(card(1, 0), card(1, 1), card(2, 0))
    service, records = serve()
    reasons: set[str | None] = set()

    def settled(sources: list[str]) -> bool:
        states = service.status().streams
        reasons.update(one.reason for one in states)
        return [one.source for one in states] == sources and all(one.state == "running" for one in states)

    def named(format: str, *places: tuple[int, int, int]) -> list[str]:
        return [
            f"hw:{card} through arecord, {format if count == 2 else 'S16_LE'}, 16000 Hz, channel {channel} of {count}"
            for card, channel, count in places
        ]

    wide = 'alsa_format = "S32_LE"\n'
    try:
        site.until(lambda: settled(named("S16_LE", (1, 0, 2), (1, 1, 2), (2, 0, 1))))
        site.write(card(2, 0), card(2, 1), card(1, 0))
        service.reload()
        site.until(lambda: settled(named("S16_LE", (2, 0, 2), (2, 1, 2), (1, 0, 1))))
        site.write(card(2, 0, wide), card(2, 1, wide), card(1, 0))
        service.reload()
        site.until(lambda: settled(named("S32_LE", (2, 0, 2), (2, 1, 2), (1, 0, 1))))
        assert [one["id"] for one in records if one["kind"] == "start"] == list("abcabcab")
    finally:
        service.stop("test")
    assert reasons == {None}


def test_channels_have_own_health_and_a_common_start(
    site: Any, stereo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Any
) -> None:
    left, _ = soundfile.read(stereo / "left.wav", dtype="int16")
    dead = np.stack([left, np.zeros_like(left)], axis=1).astype("<i2")
    (tmp_path / "dead.raw").write_bytes(dead.tobytes())
    (tmp_path / "play.sh").write_text("echo once more >> runs.txt; cat dead.raw")
    source = "input_command = 'sh play.sh'\nonce = true\nchannels = 2\n"
    monkeypatch.chdir(tmp_path)
    site.write(f"{source}channel = 0", f"{source}channel = 1")
    service, records = serve()
    try:
        site.until(lambda: not service.poll())
        (a, b) = service.status().streams
    finally:
        service.stop("test")
    assert [one["samples"] for one in records if one["kind"] == "stop"] == [len(left)] * 2
    assert (tmp_path / "runs.txt").read_text() == "once more\n"
    assert "digital_silence" not in a.health
    assert b.unhealthy
    assert "digital_silence" in b.health


def test_a_channel_that_the_card_has_not_fails_alone(
    site: Any, playing: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch, serve: Any
) -> None:
    monkeypatch.setenv("ALSA_CONFIG_PATH", playing(b""))
    card = 'device = "stereo_only"\npace = "block"\n'
    site.write(f"{card}channel = 0", f"{card}channel = 5")
    service, _ = serve()
    try:
        site.until(lambda: len(s := service.status().streams) == 2 and s[0].segments and s[1].state == "failed")
        (a, b) = service.status().streams
    finally:
        service.stop("test")
    assert a.state == "running"
    assert "has no channel 5, channels are counted from 0 and it has 2; correct the channel" in str(b.reason)


# A scripted arecord: sound of two channels, then the card is gone, until the file `back` is there.
CARD = """#!/bin/sh
echo $$ >> '{folder}/opened'
n=$(wc -l < '{folder}/opened')
if [ "$n" -gt 1 ] && [ ! -e '{folder}/back' ]; then
  echo 'arecord: main:831: audio open error: No such device' >&2; exit 1
fi
printf '  format       : S16_LE\n  channels     : 2\n  rate         : 16000\n  buffer_size  : 8192\n' >&2
cat '{folder}/sound.raw'
while [ "$n" -gt 1 ]; do sleep 0.5; cat '{folder}/sound.raw'; done
touch '{folder}/gone'
{end}
"""
ENDS = {
    "the driver says so": "echo 'arecord: pcm_read:2221: read error: No such device' >&2; exit 1",
    "it only falls silent": "exec sleep 60",
}


@pytest.mark.parametrize("how", ENDS)
def test_unplugged_card_is_seen_by_all_and_comes_back(
    how: str, site: Any, stereo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Any
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sound.raw").write_bytes((stereo / "stereo.raw").read_bytes()[: 4 * 9 * RATE])
    (folder / "arecord").write_text(CARD.format(folder=folder, end=ENDS[how]))
    (folder / "arecord").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    card = 'device = "hw:1"\npace = "block"\n'
    site.write(f"{card}channel = 0", f"{card}channel = 1")
    service, records = serve()
    try:
        site.until(lambda: len([one for one in records if one.get("state") == "lost"]) == 2)
        states = service.status().streams
        assert [one.state for one in states] == ["failed", "failed"]
        time.sleep(1.2)  # pauses of 0.25, 0.5 and 1 s at most, and of half of that at least
        assert len((folder / "opened").read_text().split()) - 1 <= 4
        site.until(lambda: len((folder / "opened").read_text().split()) - 1 >= 2)
        assert all("No such device" in str(one.reason) for one in service.status().streams)
        (folder / "back").touch()
        site.until(lambda: len([one for one in records if one.get("state") == "reopened"]) == 2)
        site.until(lambda: [one.state for one in service.status().streams] == ["running", "running"])
        site.until(lambda: len([one for one in records if one["kind"] == "gap"]) == 2)
    finally:
        service.stop("test")
    gaps = [one for one in records if one["kind"] == "gap"]
    assert sorted(one["id"] for one in gaps) == ["a", "b"]
    assert all(one["lost_samples"] > 0.8 * RATE for one in gaps)
    gone = (folder / "gone").stat().st_mtime
    # Silence is waited for most of the two seconds; what a busy machine adds to that is not the service's.
    assert STALL_SECONDS <= 1.5
    allowed = 2.0 + (3.0 if how == "it only falls silent" else 0.0)
    for one in records:
        if one.get("state") == "lost":
            noticed = datetime.fromisoformat(one["at"].replace("Z", "+00:00")).timestamp()
            assert noticed - gone < allowed
