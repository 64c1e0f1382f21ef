"""Recording: clips are exact and complete, never span a gap, and never overwrite others; the disk is watched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.runtime.errors import CheckFailed, InputError
from edgeasd.runtime.health import HealthMonitor, HealthSettings
from edgeasd.runtime.record import ClipFolder, ClipRecorder, measure
from edgeasd.runtime.record.clip_folder import to_integers
from edgeasd.runtime.sources import AudioChunk

pytestmark = [pytest.mark.core, pytest.mark.timeout(60)]
RATE = 16000


def folder_at(root: Path, **options: object) -> ClipFolder:
    return ClipFolder(root, "valve", "00", "normal", sample_rate=RATE, **options)  # type: ignore[arg-type]


def noise(samples: int, level: float = 0.1, seed: int = 0) -> np.ndarray:
    whole = np.random.default_rng(seed).normal(0, level * 32768, samples).clip(-32768, 32767).astype(np.int16)
    return (whole / 32768).astype(np.float32)


@pytest.mark.parametrize("bits", [16, 24])
def test_clip_has_every_captured_bit(tmp_path: Path, bits: int) -> None:
    whole = np.random.default_rng(bits).integers(-(1 << (bits - 1)), 1 << (bits - 1), RATE)
    with folder_at(tmp_path) as folder:
        path = folder.write((whole / (1 << (bits - 1))).astype(np.float32), bits)
    assert path == tmp_path / "valve" / "00" / "normal" / "clip_000001.flac"
    info = soundfile.info(str(path))
    assert (info.format, info.subtype, info.samplerate, info.channels) == ("FLAC", f"PCM_{bits}", RATE, 1)
    read = soundfile.read(path, dtype="int32")[0] >> (32 - bits)
    np.testing.assert_array_equal(read, whole)
    assert os.listdir(path.parent) == [path.name]


def test_samples_beyond_full_scale_are_stored_at_full_scale() -> None:
    assert to_integers(np.array([-1.5, -1.0, 1.0, 2.0], np.float32), 16).tolist() == [-32768, -32768, 32767, 32767]
    assert (to_integers(np.array([1.0], np.float32), 24) >> 8).tolist() == [(1 << 23) - 1]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 900), st.integers(0, 300), st.booleans()), min_size=1, max_size=30),
    st.integers(100, 500),
)
def test_no_clip_spans_a_gap_and_no_complete_clip_is_lost(blocks: list[tuple[int, int, bool]], size: int) -> None:
    """(samples, known loss before them, unknown loss before them) against a plain reckoning."""
    written: list[np.ndarray] = []

    class Store:
        samples = 0

        def check_disk(self, _: int) -> None:
            pass

        def write(self, samples: np.ndarray, bits: int) -> Path:
            written.append(samples.copy())
            return Path(f"clip_{len(written)}.flac")

    recorder = ClipRecorder(Store(), size, 16, 1 << 40)  # type: ignore[arg-type]
    stretches: list[list[float]] = [[]]
    position = lost = losses = 0
    for count, missing, unknown in blocks:
        position += missing
        if missing or unknown:
            stretches.append([])
            lost, losses = lost + missing, losses + 1
        samples = np.arange(position, position + count, dtype=np.float32)
        recorder.accept(AudioChunk(samples, position, discontinuity=unknown))
        stretches[-1] += samples.tolist()
        position += count
    expected = [s[at : at + size] for s in stretches for at in range(0, len(s) - size + 1, size)]
    assert [clip.tolist() for clip in written] == expected
    totals = recorder.totals
    assert (totals.lost_samples, totals.losses) == (lost, losses)
    assert totals.thrown_away == sum(len(s) % size > 0 for s in stretches[:-1])


def test_earlier_clips_count_for_the_minutes_asked(tmp_path: Path) -> None:
    with folder_at(tmp_path) as folder:
        first = ClipRecorder(folder, RATE, 16, 5 * RATE // 2)
        assert first.clips_left == 3
        clips = first.accept(AudioChunk(noise(2 * RATE + 100), 0))
        assert [clip.path.name for clip in clips] == ["clip_000001.flac", "clip_000002.flac"]
        assert first.seconds_left(RATE) == pytest.approx(1 - 100 / RATE)
    with folder_at(tmp_path, resume=True) as folder:
        assert (folder.clips, folder.samples) == (2, 2 * RATE)
        second = ClipRecorder(folder, RATE, 16, 5 * RATE // 2)
        assert [clip.path.name for clip in second.accept(AudioChunk(noise(4 * RATE), 0))] == ["clip_000003.flac"]
        assert second.clips_left == 0
    assert len(os.listdir(tmp_path / "valve/00/normal")) == 3


def test_existing_clips_are_never_touched(tmp_path: Path) -> None:
    with folder_at(tmp_path) as folder:
        folder.write(noise(RATE), 16)
    before = (tmp_path / "valve/00/normal/clip_000001.flac").read_bytes()
    with pytest.raises(InputError, match="holds 1 clips; go on with --resume"), folder_at(tmp_path):
        pass
    with folder_at(tmp_path, resume=True) as folder:
        shutil.copy(folder.path / "clip_000001.flac", folder.path / "clip_000002.flac")  # somebody else was quicker
        assert folder.write(noise(RATE, seed=1), 16).name == "clip_000003.flac"
    assert (tmp_path / "valve/00/normal/clip_000001.flac").read_bytes() == before


def test_numbers_go_on_after_the_highest(tmp_path: Path) -> None:
    place = tmp_path / "valve/00/normal"
    place.mkdir(parents=True)
    soundfile.write(place / "clip_000041.flac", noise(RATE), RATE)
    soundfile.write(place / "by_hand.wav", noise(RATE), RATE)
    with folder_at(tmp_path, resume=True) as folder:
        assert (folder.clips, folder.samples) == (1, RATE)
        assert folder.write(noise(RATE), 16).name == "clip_000042.flac"


def test_partial_files_of_a_killed_recording_are_removed(tmp_path: Path) -> None:
    place = tmp_path / "valve/00/normal"
    place.mkdir(parents=True)
    (place / ".clip_000003.flac.99-abcdef12.tmp").write_bytes(b"half")
    (place / ".other.tmp").write_bytes(b"not ours")
    with folder_at(tmp_path):
        assert os.listdir(place) == [".other.tmp"]


def test_two_recordings_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        folder_at(tmp_path),
        pytest.raises(InputError, match="another recording goes on here"),
        folder_at(tmp_path, resume=True),
    ):
        pass
    with folder_at(tmp_path):
        pass


def test_existing_folder_of_an_id_is_used(tmp_path: Path) -> None:
    (tmp_path / "valve" / "id_00" / "abnormal").mkdir(parents=True)
    assert folder_at(tmp_path).path == tmp_path / "valve" / "id_00" / "normal"
    anomaly = ClipFolder(tmp_path, "valve", "id_00", "anomaly", sample_rate=RATE)
    assert anomaly.path == tmp_path / "valve" / "id_00" / "abnormal"
    assert ClipFolder(tmp_path, "valve", "id_01", "normal", sample_rate=RATE).path.parent.name == "01"


@pytest.mark.parametrize("word", ["", "..", "a/b", "/etc", ".hidden", "a b", "a\0b", "x" * 65, "-x", "_x"])
def test_names_that_are_not_folder_names_are_refused(tmp_path: Path, word: str) -> None:
    for machine, machine_id in ((word, "00"), ("valve", word)):
        with pytest.raises(InputError, match="names a folder"):
            ClipFolder(tmp_path, machine, machine_id, "normal", sample_rate=RATE)
    with pytest.raises(InputError, match="--label bad: unknown; use normal or anomaly"):
        ClipFolder(tmp_path, "valve", "00", "bad", sample_rate=RATE)


def test_other_layout_rate_and_broken_clip_are_refused(tmp_path: Path) -> None:
    place = tmp_path / "valve/00/normal"
    place.mkdir(parents=True)
    soundfile.write(place / "clip_000001.flac", noise(RATE), 48000)
    with pytest.raises(InputError, match="clip_000001.flac: 48000 Hz, this recording has 16000 Hz"):
        folder_at(tmp_path, resume=True).__enter__()
    (place / "clip_000001.flac").write_bytes(b"no sound")
    with pytest.raises(InputError, match=r"clip_000001.flac: cannot be read; remove it"):
        folder_at(tmp_path, resume=True).__enter__()
    (tmp_path / "fan" / "train").mkdir(parents=True)
    with pytest.raises(InputError, match="holds train/ of another layout"):
        ClipFolder(tmp_path, "fan", "00", "normal", sample_rate=RATE)


def test_full_disk_ends_it_before_the_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = [10 << 30]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free[0]))
    with folder_at(tmp_path) as folder:
        recorder = ClipRecorder(folder, RATE, 16, 10 * RATE)
        recorder.accept(AudioChunk(noise(RATE), 0))
        free[0] = 256 << 20
        with pytest.raises(CheckFailed, match=r"268 MB free, 0 MB are needed beside a reserve of 268 MB; make room"):
            recorder.accept(AudioChunk(noise(RATE), RATE))
    assert os.listdir(tmp_path / "valve/00/normal") == ["clip_000001.flac"]


@pytest.mark.parametrize(
    ("sound", "complaints"),
    [
        (noise(RATE), ()),
        (noise(RATE, 1e-3), ()),
        (np.zeros(RATE, np.float32), ("digital_silence",)),
        (np.full(RATE, 1e-5, np.float32), ("silence",)),
        (noise(RATE, 3.0), ("clipping",)),
        (noise(RATE) * 0.1 + np.float32(0.06), ("dc_offset",)),
        (np.ones(RATE, np.float32), ("silence", "clipping", "dc_offset")),
    ],
)
def test_figures_show_a_bad_microphone(sound: np.ndarray, complaints: tuple[str, ...]) -> None:
    assert measure(sound).complaints == complaints


def test_running_sound_shows_what_no_single_clip_does(tmp_path: Path) -> None:
    stuck = np.tile(noise(800), 200)
    with folder_at(tmp_path) as folder:
        recorder = ClipRecorder(folder, 2 * RATE, 16, 10 * RATE, HealthMonitor(HealthSettings(), RATE))
        clips = recorder.accept(AudioChunk(stuck, 0))
        assert [clip.complaints for clip in clips][-1] == ("stuck",)
        assert clips[0].figures.complaints == ()
        for _ in range(3):
            assert recorder.accept(AudioChunk(noise(100), 20 * RATE, discontinuity=True)) == []
        assert set(recorder.totals.complaints.values()) == {("stuck",)}


def test_levels_of_a_sine() -> None:
    sine = (0.5 * np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)).astype(np.float32)
    figures = measure(sine)
    assert figures.level_dbfs == pytest.approx(-9.03, abs=0.01)
    assert figures.peak_dbfs == pytest.approx(-6.02, abs=0.01)
    assert figures.offset_dbfs == -120.0
    assert (figures.clipped, figures.samples) == (0, RATE)


WRITE_ON = """
import sys
from pathlib import Path
import numpy as np
from edgeasd.runtime.health import HealthMonitor, HealthSettings
from edgeasd.runtime.record import ClipFolder
with ClipFolder(Path(sys.argv[1]), "valve", "00", "normal", sample_rate=16000, resume=True) as folder:
    while True:
        folder.write(np.random.default_rng(0).uniform(-1, 1, 160000).astype(np.float32), 24)
        print(folder.clips, flush=True)
"""


def test_kill_9_leaves_complete_clips(tmp_path: Path) -> None:
    for kills in range(4):
        process = subprocess.Popen([sys.executable, "-c", WRITE_ON, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        try:
            process.wait(0.013 * (kills + 1))
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
    with folder_at(tmp_path, resume=True) as folder:
        assert folder.clips >= 4
        assert folder.samples == folder.clips * 160_000
        assert all(soundfile.read(path)[0].size == 160_000 for path in folder.path.iterdir())


def test_clip_of_a_source_with_another_rate_is_named(tmp_path: Path) -> None:
    with folder_at(tmp_path) as folder:
        recorder = ClipRecorder(folder, RATE, 16, 10 * RATE)
        (clip,) = recorder.accept(AudioChunk(noise(RATE), 0), has_wrong_rate=True)
        assert clip.complaints == ("wrong_rate",)
        (clip,) = recorder.accept(AudioChunk(noise(RATE), RATE))
        assert clip.complaints == ()
