"""Evidence of events: what is recorded is what was heard, whole or not at all, and never too much."""

from __future__ import annotations

import importlib.util
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeasd.runtime.alarms import AlarmInput, AlarmMachine, AlarmSettings, Command
from edgeasd.runtime.alarms.event_id import make_event_id
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.evidence import (
    ClipMetadata,
    ClipSettings,
    EvidenceRecorder,
    EvidenceWriter,
    KeepSettings,
    evidence_files,
    read_metadata,
)
from edgeasd.runtime.evidence.clip import PcmRing, score_line, to_pcm
from edgeasd.runtime.evidence.spectrogram import draw_clip
from edgeasd.runtime.scoring.threshold import Threshold

pytestmark = pytest.mark.core

RATE = 16_000
WALL = 1_800_000_000.0
SHORT = ClipSettings(pre_seconds=2.0, post_seconds=1.0, longest_seconds=5.0)
SMALL = KeepSettings(min_free_megabytes=0.1)
Sound = NDArray[np.float32]


def event_id(number: int = 0) -> str:
    return make_event_id(int(1000 * WALL) + number, lambda bits: number)


def noise(seconds: float, seed: int = 0, rate: int = RATE) -> Sound:
    """As 16-bit sound is: multiples of 2 ** -15."""
    whole = np.random.default_rng(seed).integers(-9000, 9000, round(seconds * rate))
    return (whole / 32768).astype(np.float32)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[EvidenceWriter]:
    made = EvidenceWriter(tmp_path, SMALL, wall=lambda: WALL + 100)
    yield made
    made.close()


def feed(recorder: EvidenceRecorder, sound: Sound, start: int = 0, block: int = 1600) -> int:
    """Blocks of a tenth of a second, and a score after each fifth; returns the position after it."""
    for at in range(0, sound.size, block):
        recorder.sound(start + at, sound[at : at + block])
        if (start + at) // block % 5 == 4:
            end = start + at + block
            recorder.score(end, WALL + end / RATE, 0.01, end / RATE)
    return start + sound.size


def ended(writer: EvidenceWriter, folder: Path, event: str) -> tuple[ClipMetadata, NDArray[np.int16]]:
    assert writer.close(10.0)
    facts = read_metadata(folder / "evidence" / event)
    assert facts is not None, writer.status()
    sound, rate = soundfile.read(folder / "evidence" / event / "clip.flac", dtype="int16")
    assert rate == facts.sample_rate
    assert sound.size == facts.samples
    return facts, sound


def exactly(sound: Sound) -> NDArray[Any]:
    return np.rint(sound * 32768).astype(np.int16)


# Clips


def test_an_event_becomes_a_clip_with_what_came_before_and_after(tmp_path: Path, writer: EvidenceWriter) -> None:
    sound, recorder, event = noise(10), EvidenceRecorder(writer, "valve", "00", RATE, SHORT), event_id()
    at = feed(recorder, sound[: 4 * RATE])
    recorder.open_event(event, WALL + 4, 0.5)
    at = feed(recorder, sound[at : at + RATE], at)
    recorder.end_event(event)
    feed(recorder, sound[at:], at)
    assert recorder.recording == ()
    facts, found = ended(writer, tmp_path, event)
    # From 2 s before it was raised at 4 s to 1 s after it was cleared at 5 s, bit by bit.
    np.testing.assert_array_equal(found, exactly(sound[2 * RATE : 6 * RATE]))
    assert (facts.raised_seconds, facts.ended, facts.gaps, facts.threshold) == (2.0, "complete", (), 0.5)
    assert (facts.machine, facts.id, facts.raised_at) == ("valve", "00", WALL + 4)
    lines = [json.loads(line) for line in (tmp_path / "evidence" / event / "scores.jsonl").read_text().splitlines()]
    assert [line["clip_score"] for line in lines] == [2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0]
    assert [line["at_seconds"] for line in lines] == [line["clip_score"] - 2.0 for line in lines]
    assert lines[0]["at"] == "2027-01-15T08:00:02.000Z"
    files = evidence_files(tmp_path, event)
    assert sorted(files) == ["clip.flac", "facts.json", "scores.jsonl"]
    assert facts.size == pytest.approx(sum(path.stat().st_size for path in files.values()), abs=20)


def test_a_long_event_has_a_clip_of_bounded_length(tmp_path: Path, writer: EvidenceWriter) -> None:
    sound, recorder, event = noise(10), EvidenceRecorder(writer, "valve", "00", RATE, SHORT), event_id()
    at = feed(recorder, sound[: 3 * RATE])
    recorder.open_event(event, WALL, None)
    feed(recorder, sound[at:], at)
    facts, found = ended(writer, tmp_path, event)
    assert facts.ended == "longest"
    np.testing.assert_array_equal(found, exactly(sound[RATE : 6 * RATE]))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 5000), min_size=3, max_size=12),
    st.integers(0, 11),
    st.integers(0, 6000),
    st.integers(0, 4000),
    st.sampled_from([16, 24]),
)
def test_however_sound_is_cut_the_clip_is_what_was_heard(
    tmp_path_factory: Any, blocks: list[int], opened: int, late: int, pre: int, bits: int
) -> None:
    """An event opened after any block, at a position that may lie back, gives exactly the samples around it."""
    rate, opened = 1000, opened % len(blocks)
    folder = tmp_path_factory.mktemp("cut")
    clip = ClipSettings(pre_seconds=pre / rate, post_seconds=1.0, longest_seconds=6.0, bits=bits)
    sound, event = noise(sum(blocks) / rate, rate=rate), event_id()
    writer = EvidenceWriter(folder, SMALL)
    recorder, at, raised = EvidenceRecorder(writer, "valve", "00", rate, clip), 0, 0
    for number, count in enumerate(blocks):
        recorder.sound(7 + at, sound[at : at + count])
        at += count
        if number == opened:
            raised = max(0, at - late)
            start = max(0, at - pre)
            recorder.open_event(event, WALL, None, position=7 + raised)
    recorder.close()
    end = min(at, start + 6 * rate)
    if start == end:
        assert writer.close(10.0)
        assert read_metadata(folder / "evidence" / event) is None, "an event without any sound has no clip"
        return
    facts, found = ended(writer, folder, event)
    np.testing.assert_array_equal(found, exactly(sound[start:end]))
    assert facts.raised_seconds == pytest.approx((raised - start) / rate)


def test_lost_sound_is_silence_in_the_clip_and_named(tmp_path: Path, writer: EvidenceWriter) -> None:
    sound, recorder, event = noise(3), EvidenceRecorder(writer, "valve", "00", RATE, SHORT), event_id()
    recorder.sound(0, sound[:RATE])
    recorder.sound(RATE + 100, sound[:RATE])
    recorder.open_event(event, WALL, None)
    recorder.sound(2 * RATE + 400, sound[:RATE])
    recorder.close()
    facts, found = ended(writer, tmp_path, event)
    heard = exactly(sound[:RATE])
    expected = [heard[100:], np.zeros(100, np.int16), heard, np.zeros(300, np.int16), heard]
    np.testing.assert_array_equal(found, np.concatenate(expected))
    assert [(gap.at_seconds, gap.samples) for gap in facts.gaps] == [((RATE - 100) / RATE, 100), (2.0, 300)]
    assert (facts.lost_samples, facts.ended) == (400, "stopped")


def test_a_clip_of_an_ended_event_waits_for_no_source(tmp_path: Path, writer: EvidenceWriter) -> None:
    recorder = EvidenceRecorder(writer, "valve", "00", RATE, SHORT)
    sound = noise(4.0)
    feed(recorder, sound[:RATE])
    open_at_first = [event_id(1), event_id(2)]
    for event in open_at_first:
        recorder.open_event(event, WALL, 0.1)
    recorder.end_event(event_id(1))
    feed(recorder, sound[RATE : RATE + 8000], RATE)
    recorder.source_lost()
    # The post-roll of the first will not come; the second is open still, and is cleared while no sound comes.
    assert recorder.recording == (event_id(2),)
    recorder.end_event(event_id(2))
    assert recorder.recording == ()
    # The source is back: a clip has its post-roll again.
    feed(recorder, sound[RATE:], 3 * RATE)
    recorder.open_event(event_id(3), WALL, 0.1)
    recorder.end_event(event_id(3))
    assert recorder.recording == (event_id(3),)
    assert writer.close(10.0)
    for event in open_at_first:
        facts = read_metadata(tmp_path / "evidence" / event)
        assert facts is not None
        assert (facts.ended, facts.samples) == ("source", RATE + 8000)


def test_a_source_that_begins_anew_ends_the_clip(tmp_path: Path, writer: EvidenceWriter) -> None:
    sound, recorder, event = noise(1), EvidenceRecorder(writer, "valve", "00", RATE, SHORT), event_id()
    recorder.sound(5 * RATE, sound)
    recorder.open_event(event, WALL, None)
    recorder.sound(0, sound)
    assert recorder.recording == ()
    facts, found = ended(writer, tmp_path, event)
    assert (facts.ended, found.size) == ("source", RATE)


def test_an_earlier_event_is_recorded_from_the_first_sound(tmp_path: Path, writer: EvidenceWriter) -> None:
    sound, recorder, event = noise(8), EvidenceRecorder(writer, "valve", "00", RATE, SHORT), event_id()
    recorder.open_event(event, WALL, None)
    feed(recorder, sound, 3 * RATE)  # the beginning was dropped
    assert recorder.recording == ()
    facts, found = ended(writer, tmp_path, event)
    np.testing.assert_array_equal(found, exactly(sound[: 5 * RATE]))
    assert (facts.ended, facts.raised_seconds, facts.lost_samples) == ("longest", 0.0, 0)
    lines = [json.loads(line) for line in (tmp_path / "evidence" / event / "scores.jsonl").read_text().splitlines()]
    assert lines[0]["at_seconds"] == 0.5


def test_an_event_without_sound_has_no_empty_clip(tmp_path: Path, writer: EvidenceWriter) -> None:
    event = event_id()
    first = EvidenceRecorder(writer, "valve", "00", RATE, SHORT)
    first.open_event(event, WALL, None)
    first.close()
    second = EvidenceRecorder(writer, "valve", "00", RATE, SHORT)
    second.open_event(event, WALL, None)
    feed(second, noise(1))
    second.close()
    facts, _ = ended(writer, tmp_path, event)
    assert (facts.samples, facts.ended) == (RATE, "stopped")


def test_the_alarm_machine_begins_and_ends_clips(tmp_path: Path, writer: EvidenceWriter) -> None:
    machine = AlarmMachine("valve", "00", AlarmSettings(), Threshold(clip=1.0, consecutive=1, found_by="t", clips=1))
    recorder, sound = EvidenceRecorder(writer, "valve", "00", RATE, SHORT), noise(12)
    said = []
    for second in range(12):
        recorder.sound(second * RATE, sound[second * RATE : (second + 1) * RATE])
        new = machine.step(AlarmInput(float(second), WALL + second, 2.0 if 4 <= second < 6 else 0.0))
        if second == 5:
            new += machine.command(Command(command="acknowledge"), float(second), WALL + second)
        if second == 9:
            new += machine.command(Command(command="test"), float(second), WALL + second)
        recorder.transitions(new)
        said += new
    raised, test = (t.event for t in said if t.state == "alarm" and t.previous != "alarm")
    assert raised
    assert test
    facts, found = ended(writer, tmp_path, raised)
    # Raised with the second that ends at 5 s, cleared with the one that ends at 7 s.
    np.testing.assert_array_equal(found, exactly(sound[3 * RATE : 8 * RATE]))
    assert (facts.test, facts.threshold) == (False, 1.0)
    tested = read_metadata(tmp_path / "evidence" / test)
    assert tested is not None
    assert (tested.test, tested.samples) == (True, 3 * RATE)


@pytest.mark.parametrize(("rate", "bits"), [(48_000, 24), (44_100, 16), (8_000, 24)])
def test_a_clip_has_the_rate_and_depth_of_its_source(tmp_path: Path, rate: int, bits: int) -> None:
    writer, event = EvidenceWriter(tmp_path, SMALL), event_id()
    recorder = EvidenceRecorder(writer, "valve", "00", rate, SHORT.model_copy(update={"bits": bits}))
    whole = np.random.default_rng(0).integers(-(2**20), 2**20, 2 * rate)
    recorder.sound(0, (whole / 2**23).astype(np.float32))
    recorder.open_event(event, WALL, None)
    recorder.close()
    assert writer.close(10.0)
    assert writer.status().lost_clips == 0, writer.status()
    info = soundfile.info(evidence_files(tmp_path, event)["clip.flac"])
    assert (info.samplerate, info.frames, info.subtype) == (rate, 2 * rate, f"PCM_{bits}")
    if bits == 24:
        found, _ = soundfile.read(evidence_files(tmp_path, event)["clip.flac"], dtype="int32")
        np.testing.assert_array_equal(found >> 8, whole)
    if importlib.util.find_spec("PIL"):
        assert draw_clip(tmp_path / "evidence" / event).startswith(b"\x89PNG")


def test_a_rate_that_flac_does_not_know_is_refused(writer: EvidenceWriter) -> None:
    with pytest.raises(InputError, match="700000 Hz, a FLAC clip has"):
        EvidenceRecorder(writer, "valve", "00", 700_000)


def test_evidence_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    event = event_id()
    for seconds in (2, 1):
        writer = EvidenceWriter(tmp_path, SMALL)
        recorder = EvidenceRecorder(writer, "valve", "00", RATE, SHORT)
        recorder.sound(0, noise(seconds))
        recorder.open_event(event, WALL, None)
        recorder.close()
        facts, _ = ended(writer, tmp_path, event)
        assert facts.samples == 2 * RATE
        assert not writer.status().lost_clips


@pytest.mark.parametrize(("bits", "kind"), [(16, "int16"), (24, "int32")])
def test_pcm_is_exact_at_its_depth_and_clips_beyond(bits: int, kind: str) -> None:
    full = 1 << (bits - 1)
    whole = np.array([-full, -full + 1, -1, 0, 1, full - 1])
    shift = 0 if bits == 16 else 8
    found = to_pcm((whole / full).astype(np.float32), bits)
    assert found.dtype == kind
    np.testing.assert_array_equal(found >> shift, whole)
    odd = np.array([2.0, -3.0, np.nan, np.inf, -np.inf], np.float32)
    np.testing.assert_array_equal(to_pcm(odd, bits) >> shift, [full - 1, -full, 0, full - 1, -full])


@given(st.integers(0, 50), st.lists(st.integers(0, 120), max_size=12))
def test_the_ring_is_the_end_of_what_came(capacity: int, sizes: list[int]) -> None:
    ring, seen = PcmRing(capacity, 16), np.empty(0, np.int16)
    memory = ring.memory_bytes
    for size in sizes:
        pcm = np.arange(seen.size, seen.size + size).astype(np.int16)
        seen = np.concatenate([seen, pcm])
        ring.push(pcm)
        assert ring.filled == min(capacity, seen.size)
        for count in (0, ring.filled // 2, ring.filled):
            np.testing.assert_array_equal(ring.last(count), seen[seen.size - count :])
    assert ring.memory_bytes == memory


def test_memory_is_what_the_page_says(writer: EvidenceWriter) -> None:
    assert EvidenceRecorder(writer, "valve", "00", RATE).memory_bytes == 30 * RATE * 2
    assert EvidenceRecorder(writer, "valve", "00", 48_000, ClipSettings(bits=24)).memory_bytes == 30 * 48_000 * 4


def test_nothing_but_an_event_id_names_a_folder(tmp_path: Path, writer: EvidenceWriter) -> None:
    hostile = "../../../../etc/cron.d/x\x1b[31m\ud800"
    recorder, event = EvidenceRecorder(writer, hostile, hostile, RATE, SHORT), event_id()
    recorder.sound(0, noise(1))
    recorder.open_event(event, WALL, None)
    recorder.close()
    facts, _ = ended(writer, tmp_path, event)
    assert facts.machine.startswith("../../../../etc")
    assert sorted(path.name for path in (tmp_path / "evidence").iterdir()) == [".lock", event]
    assert evidence_files(tmp_path, "../evidence/" + event) == {}
    (tmp_path / "evidence" / event_id(1)).symlink_to("/etc")
    (tmp_path / "evidence" / event / "picture.png").symlink_to("/etc/hostname")
    assert evidence_files(tmp_path, event_id(1)) == {}
    assert "picture.png" not in evidence_files(tmp_path, event)


# Slow and failing disks


def test_no_call_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeasd.runtime.evidence.writer._MOST_WAITING_BYTES", 3 * RATE)
    answers, given_up = threading.Event(), time.monotonic() + 10.0
    writer = EvidenceWriter(tmp_path, SMALL)
    monkeypatch.setattr(writer, "_has_room", lambda: answers.wait(max(0.0, given_up - time.monotonic())))
    recorder, event, sound = EvidenceRecorder(writer, "valve", "00", RATE, SHORT), event_id(), noise(5)
    recorder.sound(0, sound[: RATE // 2])
    began = time.monotonic()
    recorder.open_event(event, WALL, None)
    feed(recorder, sound[RATE // 2 :], RATE // 2)
    recorder.close()
    took = time.monotonic() - began
    answers.set()
    assert took < 5.0
    facts, found = ended(writer, tmp_path, event)
    assert found.size == 5 * RATE
    assert facts.lost_samples == writer.status().lost_samples > 0
    assert facts.lost_samples == sum(gap.samples for gap in facts.gaps)
    for gap in facts.gaps:
        at = round(gap.at_seconds * RATE)
        assert not found[at : at + gap.samples].any()


def wait_for(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_folder_that_cannot_be_written_is_logged_and_recovers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "edgeasd.runtime.evidence")
    writer = EvidenceWriter(tmp_path, SMALL, sweep_seconds=0.05)
    recorder = EvidenceRecorder(writer, "valve", "00", RATE, SHORT)
    recorder.sound(0, noise(1))
    wait_for((tmp_path / "evidence" / ".lock").exists)
    (tmp_path / "evidence").rename(tmp_path / "away")
    (tmp_path / "evidence").write_text("in the way")
    recorder.open_event(event_id(), WALL, None)
    recorder.sound(RATE, noise(1))
    wait_for(lambda: writer.status().state == "failing")
    assert writer.status().lost_clips >= 1
    assert "evidence" in str(writer.status().detail)
    (tmp_path / "evidence").unlink()
    (tmp_path / "away").rename(tmp_path / "evidence")
    wait_for(lambda: writer.status().state == "ok")
    recorder.close()
    assert [(one.levelname, one.message.split(":")[1].strip()) for one in caplog.records] == [
        ("WARNING", "failing"),
        ("INFO", "ok"),
    ]
    recorder.open_event(event_id(1), WALL, None)
    recorder.close()
    assert ended(writer, tmp_path, event_id(1))[0].samples > 0
    assert writer.status().state == "stopped"


def test_only_one_process_writes(tmp_path: Path, writer: EvidenceWriter) -> None:
    with pytest.raises(InputError, match="another process writes evidence here"):
        EvidenceWriter(tmp_path)


@settings(max_examples=200)
@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=9), lambda v: st.dictionaries(st.sampled_from([*ClipSettings.model_fields, *KeepSettings.model_fields, "x\n"]), v, max_size=4)))  # fmt: skip
def test_settings_are_good_or_one_line(value: Any) -> None:
    for kind in (ClipSettings, KeepSettings):
        said = "site.toml: "
        try:
            kind.parse(value, "site.toml")
        except InputError as error:
            said = str(error)
        assert said.startswith("site.toml: ")
        assert said.isprintable()


def test_a_score_that_is_no_number_is_null() -> None:
    assert json.loads(score_line(1.0, WALL, float("nan"), float("inf"), True))["score"] is None


def test_the_page_describes_how_a_clip_ends() -> None:
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "events.md").read_text("utf-8")
    section = page.partition("\n| `ended` in")[2].partition("\n\n")[0]
    ends = set(get_args(ClipMetadata.model_fields["ended"].annotation)) - {"recording"}
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == ends
