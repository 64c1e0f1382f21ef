"""Evidence over time: kills, retention, full disks."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.runtime.alarms.event_id import make_event_id
from edgeasd.runtime.evidence import (
    ClipMetadata,
    ClipSettings,
    EvidenceRecorder,
    EvidenceWriter,
    KeepSettings,
    evidence_files,
    read_metadata,
)
from edgeasd.runtime.evidence.archive import ClipArchive, StoredClip, select_for_deletion
from edgeasd.runtime.evidence.clip import FILES
from edgeasd.runtime.evidence.settings import DAY, MEGABYTE
from edgeasd.runtime.storage import EventStore

pytestmark = pytest.mark.core

RATE = 16_000
WALL = 1_800_000_000.0
SHORT = ClipSettings(pre_seconds=2.0, post_seconds=1.0, longest_seconds=5.0)
SOUND_FACTOR = 20_077
"""As in evidence_writer.py."""
WRITER = Path(__file__).with_name("evidence_writer.py")


def event_id(number: int = 0) -> str:
    return make_event_id(int(1000 * WALL) + number, lambda bits: number)


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.3, 0.3, round(seconds * RATE)).astype(np.float32)


def wait_for(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Kills


def test_clips_and_store_are_whole_after_kills(tmp_path: Path) -> None:
    kill_and_look(tmp_path, 10)


@pytest.mark.slow
def test_clips_and_store_are_whole_after_a_hundred_kills(tmp_path: Path) -> None:
    kill_and_look(tmp_path, 100)


def kill_and_look(data: Path, times: int) -> None:
    chance, killed = random.Random(), 0
    command = [sys.executable, str(WRITER), str(data)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        for _ in range(times):
            parent.stdin.write("\n")
            parent.stdin.flush()
            word, number = parent.stdout.readline().split()
            assert word == "writer"
            time.sleep(chance.uniform(0.0, 0.8))
            os.kill(int(number), signal.SIGKILL)
            assert parent.stdout.readline() == "gone\n"
            killed = look_over(data)
        parent.stdin.close()
    archive = ClipArchive(data, KeepSettings(min_free_megabytes=0.1))
    assert archive.recover() == []
    archive.close()
    look_over(data)
    assert list((data / "evidence").glob(".*.part")) == []
    assert killed, "clips were broken off and made whole"


def look_over(data: Path) -> int:
    """Everything under a final name is whole and belongs to an event; returns how many clips were salvaged."""
    if not (data / "events.db").exists():
        return 0
    with EventStore.open(data / "events.db") as store:
        events = {event["event"] for event in store.events(limit=10**6)}
    salvaged = 0
    for folder in (data / "evidence").glob("[0-9]*"):
        facts = read_metadata(folder)
        assert facts is not None
        assert facts.event == folder.name
        assert facts.event in events
        assert facts.ended != "recording"
        salvaged += facts.ended == "killed"
        if facts.deleted_at is None:
            look_at_clip(folder, facts)
    return salvaged


def look_at_clip(folder: Path, facts: ClipMetadata) -> None:
    sound, _ = soundfile.read(folder / "clip.flac", dtype="int16")
    assert sound.size == facts.samples > 0
    # No sample is missing or moved: each follows from the one before it.
    np.testing.assert_array_equal((SOUND_FACTOR * sound[:-1].astype(np.int64) + 1).astype(np.int16), sound[1:])
    for line in (folder / "scores.jsonl").read_bytes().splitlines()[:-1]:
        assert line.startswith(b"{")
        assert line.endswith(b"}")


# Retention

KEPT = st.lists(
    st.builds(
        StoredClip, st.integers(0, 10**6).map(event_id), st.floats(0, 200 * DAY), st.integers(0, 5000), st.booleans()
    ),
    max_size=30,
    unique_by=lambda one: one.event,
)
KEEP = st.builds(
    KeepSettings,
    max_age_days=st.floats(1, 100),
    max_megabytes=st.integers(1, 60_000).map(lambda size: size / MEGABYTE),
    min_free_megabytes=st.integers(1, 60_000).map(lambda size: size / MEGABYTE),
    fewest=st.integers(0, 8),
)


@given(KEPT, KEEP, st.floats(0, 300 * DAY), st.integers(0, 60_000))
def test_retention_deletes_the_oldest_and_no_more_than_it_has_to(
    kept: list[StoredClip], keep: KeepSettings, now: float, free: int
) -> None:
    chosen = dict(select_for_deletion(kept, now, free, keep))
    order = sorted(kept, key=lambda one: (one.at, one.event))
    gone = [one for one in order if one.event in chosen]
    left = [one for one in order if one.event not in chosen]
    assert list(chosen) == [one.event for one in gone]
    # Open events never.
    assert not any(one.is_open for one in gone)
    # The limits hold, or nothing is left that might go.
    total = sum(one.size for one in left)
    after = free + sum(one.size for one in gone)
    held = total <= keep.max_bytes and after >= keep.min_free_bytes
    assert held or all(one.is_open for one in left)
    # Oldest first.
    newest_gone = max(((one.at, one.event) for one in gone), default=(-1.0, ""))
    assert all(one.is_open or (one.at, one.event) > newest_gone for one in left) or "age" in chosen.values()
    for one in gone:
        too_old = one.at < now - DAY * keep.max_age_days
        assert too_old if chosen[one.event] == "age" else True
    # Without the last that went for size or room, a limit would be broken.
    pressed = [one for one in gone if chosen[one.event] != "age"]
    if pressed:
        last = pressed[-1].size
        assert total + last > keep.max_bytes or after - last < keep.min_free_bytes
    # The newest stay, whatever the clock says.
    newest = order[len(order) - min(keep.fewest, len(order)) :]
    assert all(chosen.get(one.event) != "age" for one in newest)


def filled(folder: Path, count: int, keep: KeepSettings) -> ClipArchive:
    """An archive of `count` events, a day apart, of a second each."""
    archive = ClipArchive(folder, keep)
    for number in range(count):
        raised = {"raised_at": WALL + number * DAY, "raised_seconds": 0.5, "ended": "complete"}
        facts = ClipMetadata(event=event_id(number), machine="valve", id="00", sample_rate=RATE, bits=16, **raised)
        clip = archive.begin(facts)
        assert clip is not None
        clip.write(np.arange(RATE, dtype=np.int16))
        archive.finish(clip, facts)
    return archive


def test_what_is_deleted_is_recorded_and_what_is_open_stays(tmp_path: Path) -> None:
    archive = filled(tmp_path, 4, KeepSettings(max_age_days=1.5, fewest=1, min_free_megabytes=0.1))
    archive.protected.add(event_id(0))
    assert archive.sweep(WALL + 3.1 * DAY) == [(event_id(1), "age")]
    folder = tmp_path / "evidence" / event_id(1)
    assert [path.name for path in folder.iterdir()] == ["facts.json"]
    facts = read_metadata(folder)
    assert facts is not None
    assert (facts.deleted_at, facts.deleted_why, facts.samples, facts.size) == (WALL + 3.1 * DAY, "age", RATE, 0)
    archive.protected.clear()
    assert archive.sweep(WALL + 3.1 * DAY) == [(event_id(0), "age")]
    # The clock may be wrong by years: the newest stays.
    assert [event for event, _ in archive.sweep(WALL + 10_000 * DAY)] == [event_id(2)]
    assert archive.sweep(WALL + 10_000 * DAY) == []
    archive.close()
    again = ClipArchive(tmp_path, KeepSettings(max_megabytes=1e-6, min_free_megabytes=0.1))
    assert again.recover() == []
    assert again.sweep(WALL) == [(event_id(3), "size")]
    # What was deleted is known and is not recorded anew.
    assert again.begin(facts) is None
    again.close()


def test_what_was_open_before_a_restart_stays_until_it_is_over(tmp_path: Path) -> None:
    filled(tmp_path, 3, KeepSettings()).close()
    keep = KeepSettings(max_megabytes=1e-6, min_free_megabytes=0.1)
    writer = EvidenceWriter(tmp_path, keep, open_events=[event_id(0)], sweep_seconds=0.05)
    wait_for(lambda: writer.status().deleted == 2)
    assert (tmp_path / "evidence" / event_id(0) / "clip.flac").exists()
    EvidenceRecorder(writer, "valve", "00", RATE).end_event(event_id(0))
    wait_for(lambda: writer.status().deleted == 3)
    assert writer.close()


def test_damaged_evidence_is_said_and_goes_when_its_time_comes(tmp_path: Path) -> None:
    filled(tmp_path, 2, KeepSettings()).close()
    (tmp_path / "evidence" / event_id(0) / "facts.json").write_text('{"schema": 9, "event": "\\u001b[31m"}')
    (tmp_path / "evidence" / f".{event_id(7)}.part").mkdir()
    (tmp_path / "evidence" / event_id(1) / ".facts.json.1-2.tmp").write_text("half")
    (tmp_path / "evidence" / event_id(8)).symlink_to("/etc")
    archive = ClipArchive(tmp_path, KeepSettings(max_megabytes=1e-6, min_free_megabytes=0.1))
    (problem,) = archive.recover()
    assert problem.isprintable()
    assert "facts.json" in problem
    assert {one.event for one in archive.clips()} == {event_id(0), event_id(1)}
    assert len(archive.sweep(WALL)) == 2
    for number in (0, 1):
        folder = tmp_path / "evidence" / event_id(number)
        assert [path.name for path in folder.iterdir()] == ["facts.json"]
        assert read_metadata(folder)
    archive.close()
    assert os.listdir("/etc")


FOLDERS = st.sampled_from([event_id(0), event_id(1), f".{event_id(2)}.part"])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(FOLDERS, st.sampled_from(FILES), st.floats(0, 1), st.binary(min_size=1, max_size=30)), max_size=5
    ),
    FOLDERS,
    st.sampled_from(FILES),
    st.one_of(st.none(), st.floats(0, 1)),
)
def test_damaged_files_end_nothing_and_delete_no_sound(
    tmp_path_factory: Any, damage: list[tuple[str, str, float, bytes]], folder: str, name: str, cut: float | None
) -> None:
    data = tmp_path_factory.mktemp("evidence")
    archive = filled(data, 2, KeepSettings(min_free_megabytes=0.1))
    facts = ClipMetadata(
        event=event_id(2), machine="m", id="0", raised_at=WALL, sample_rate=RATE, bits=16, raised_seconds=0.5
    )
    part = archive.begin(facts)
    assert part is not None
    part.write((32_000 * noise(8)).astype(np.int16))
    part.score(b"{}\n")
    archive.close()
    sizes = sum(path.stat().st_size for path in data.rglob("clip.flac"))
    assert sizes > 200_000
    changed = [data / "evidence" / one / file for one, file, _, _ in damage] + [data / "evidence" / folder / name]
    for path, (_, _, place, what) in zip(changed, damage, strict=False):
        content = bytearray(path.read_bytes()) if path.exists() else bytearray()
        start = int(place * max(0, len(content) - len(what)))
        content[start : start + len(what)] = what
        path.write_bytes(content)
    if cut is not None and changed[-1].exists():
        os.truncate(changed[-1], int(cut * changed[-1].stat().st_size))
    held = {path.parent.name.strip(".")[:26]: path.stat().st_size for path in data.rglob("clip.flac")}
    writer = EvidenceWriter(data, KeepSettings(min_free_megabytes=0.1))
    recorder = EvidenceRecorder(writer, "valve", "00", RATE, SHORT)
    recorder.sound(0, noise(2))
    recorder.open_event(event_id(9), WALL, None)
    recorder.close()
    assert writer.close(20.0)
    assert writer.status().clips == 1
    assert (data / "evidence" / event_id(9) / "clip.flac").exists()
    assert not list(data.glob("evidence/.*.part"))
    for event, size in held.items():
        # What was readable of a broken clip is made whole, which may be less; a few bytes hold no sound.
        assert (data / "evidence" / event / "clip.flac").exists() or size <= 65_536
        evidence_files(data, event)


def test_other_settings_hold_at_once(tmp_path: Path) -> None:
    filled(tmp_path, 4, KeepSettings()).close()
    writer = EvidenceWriter(tmp_path, KeepSettings(max_age_days=36_600, min_free_megabytes=0.1), sweep_seconds=60)
    wait_for(lambda: writer.status().state == "ok")
    writer.keep(KeepSettings(max_megabytes=1e-6, min_free_megabytes=0.1))
    wait_for(lambda: writer.status().deleted == 4)
    assert writer.close()


# Full disks


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(place)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"NO RIGHT to mount a small disk ({done.stderr.strip()})")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def free_on(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


def test_the_floor_of_free_room_is_kept_and_the_oldest_give_way(disk: Path) -> None:
    keep = KeepSettings(min_free_megabytes=3.2, fewest=0)
    writer, least = EvidenceWriter(disk, keep, wall=lambda: WALL), free_on(disk)
    recorder, sound = EvidenceRecorder(writer, "valve", "00", RATE, SHORT), noise(5)
    for number in range(16):
        recorder.sound(number * 5 * RATE, sound[: 2 * RATE])
        recorder.open_event(event_id(number), WALL + number, None)
        recorder.end_event(event_id(number))
        recorder.sound(number * 5 * RATE + 2 * RATE, sound[2 * RATE :])
        wait_for(lambda n=number: writer.status().clips + writer.status().lost_clips >= n)
        least = min(least, free_on(disk))
    recorder.close()
    assert writer.close(10.0)
    status = writer.status()
    assert (status.clips, status.lost_clips) == (16, 0)
    assert status.deleted > 0
    # A clip of 3 s is written before it is looked again.
    assert least > keep.min_free_bytes - 400_000
    whole = [n for n in range(16) if (disk / "evidence" / event_id(n) / "clip.flac").exists()]
    assert whole == list(range(whole[0], 16))
    for number in range(whole[0]):
        facts = read_metadata(disk / "evidence" / event_id(number))
        assert facts is not None
        assert facts.deleted_why == "room"


def test_without_room_evidence_is_lost_but_no_event(disk: Path) -> None:
    keep = KeepSettings(min_free_megabytes=1.0)
    writer = EvidenceWriter(disk, keep, sweep_seconds=0.05)
    recorder = EvidenceRecorder(writer, "valve", "00", RATE, SHORT)
    recorder.sound(0, noise(2))
    with EventStore.open(disk / "events.db") as store:
        (disk / "others").write_bytes(b"x" * (free_on(disk) - 900_000))
        recorder.open_event(event_id(0), WALL, None)
        wait_for(lambda: writer.status().state == "no_room")
        status = writer.status()
        assert status.lost_clips == 1
        assert status.is_degraded
        assert "make room" in str(status.detail)
        assert store.add_scores("valve", "00", [(WALL + n, 1.0) for n in range(100)]) == 100
        (disk / "others").unlink()
        wait_for(lambda: writer.status().state == "ok")
        recorder.close()
        recorder.open_event(event_id(1), WALL, None)
        recorder.close()
        assert writer.close(10.0)
    assert sorted(p.name for p in (disk / "evidence" / event_id(1)).iterdir()) == [
        "clip.flac",
        "facts.json",
        "scores.jsonl",
    ]
    assert not (disk / "evidence" / event_id(0)).exists()


def test_a_full_disk_loses_the_clip_and_says_so(disk: Path) -> None:
    writer = EvidenceWriter(disk, KeepSettings(min_free_megabytes=0.000_001), sweep_seconds=0.05)
    recorder = EvidenceRecorder(
        writer, "valve", "00", RATE, ClipSettings(pre_seconds=1, post_seconds=1, longest_seconds=600)
    )
    recorder.sound(0, noise(1))
    recorder.open_event(event_id(0), WALL, None)
    wait_for(lambda: (disk / "evidence" / f".{event_id(0)}.part" / "clip.flac").exists())
    (disk / "others").write_bytes(b"x" * max(0, free_on(disk) - 100_000))
    position, sound = RATE, noise(1)
    began = time.monotonic()
    while writer.status().lost_clips == 0:
        recorder.sound(position, sound)
        position += RATE
        assert time.monotonic() < began + 10
        time.sleep(0.005)
    wait_for(lambda: writer.status().is_degraded)
    recorder.close()
    wait_for(lambda: not list((disk / "evidence").glob(".*.part")))
    (disk / "others").unlink()
    wait_for(lambda: writer.status().state == "ok")
    recorder.open_event(event_id(1), WALL, None)
    recorder.close()
    assert writer.close(10.0)
    facts = read_metadata(disk / "evidence" / event_id(1))
    assert facts is not None
    assert facts.samples == RATE
    assert not (disk / "evidence" / event_id(0)).exists()


def test_deletion_is_recorded_on_a_disk_that_has_no_byte_left(disk: Path) -> None:
    archive = filled(disk, 2, KeepSettings(max_megabytes=1e-6, min_free_megabytes=0.1))
    (disk / "others").write_bytes(b"x" * free_on(disk))
    assert free_on(disk) == 0
    assert len(archive.sweep(WALL)) == 2
    for number in range(2):
        facts = read_metadata(disk / "evidence" / event_id(number))
        assert facts is not None
        assert facts.deleted_why == "size"
    archive.close()
