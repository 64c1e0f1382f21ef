"""Any recordings made into clips; nothing lost in silence, nothing overwritten, nothing without an end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edgeasd.runtime.audio.reader import read_audio
from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.data import importing
from edgeasd.toolkit.data.importing import ImportSettings, clip_name, import_recordings
from edgeasd.toolkit.data.layouts import find_clips
from edgeasd.toolkit.data.scan import scan

FFMPEG = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="NO FFMPEG")


def noise(seconds: float, rate: int = 16_000, channels: int = 1, seed: int = 0) -> np.ndarray:
    """int16 noise (n, channels)."""
    return np.random.default_rng(seed).integers(-3000, 3000, (round(seconds * rate), channels)).astype(np.int16)


@pytest.fixture
def phone(tmp_path: Path) -> Path:
    (tmp_path / "phone").mkdir()
    return tmp_path / "phone"


def settings(tmp_path: Path, **changes: object) -> ImportSettings:
    return ImportSettings(tmp_path / "out", "valve", "00", **changes)  # type: ignore[arg-type]


def names(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "out/valve/00/normal").iterdir())


def test_sound_of_16_bits_is_kept_bit_for_bit(tmp_path: Path, phone: Path) -> None:
    soundfile.write(phone / "a.wav", noise(10), 16_000)
    totals = import_recordings([phone], settings(tmp_path))
    assert totals.taken == [("a.flac", str(phone / "a.wav"))]
    path = tmp_path / "out/valve/00/normal/a.flac"
    assert soundfile.info(str(path)).subtype == "PCM_16"
    np.testing.assert_array_equal(read_audio(path) * 32768, noise(10)[:, 0])
    assert [clip.path for clip in find_clips(tmp_path / "out")] == [path]


def test_rate_and_channels_are_converted(tmp_path: Path, phone: Path) -> None:
    soundfile.write(phone / "a.wav", noise(10, 48_000, 2), 48_000)
    import_recordings([phone / "a.wav"], settings(tmp_path))
    read = read_audio(tmp_path / "out/valve/00/normal/a.flac")
    expected = read_audio(phone / "a.wav", mix=True, resample=True)
    np.testing.assert_allclose(read, expected, atol=2**-23)
    import_recordings([phone / "a.wav"], settings(tmp_path, channel=1, label="anomaly"))
    read = read_audio(tmp_path / "out/valve/00/anomaly/a.flac")
    np.testing.assert_allclose(read, read_audio(phone / "a.wav", channel=1, resample=True), atol=2**-23)


def test_long_recording_is_cut_without_a_seam(tmp_path: Path, phone: Path) -> None:
    soundfile.write(phone / "night.wav", noise(47), 16_000)
    totals = import_recordings([phone], settings(tmp_path))
    assert names(tmp_path) == [f"night_{part:04d}.flac" for part in (1, 2, 3, 4)]
    parts = [read_audio(tmp_path / "out/valve/00/normal" / name) for name in names(tmp_path)]
    np.testing.assert_array_equal(np.concatenate(parts) * 32768, noise(47)[: 40 * 16_000, 0])
    assert totals.notes == [f"{phone / 'night.wav'}: the last 7.0 s do not fill a clip and are left"]


@pytest.mark.parametrize(("clip_seconds", "clips"), [(10.0, 1), (0.0, 1), (5.0, 2)])
def test_recording_a_little_longer_stays_whole(tmp_path: Path, phone: Path, clip_seconds: float, clips: int) -> None:
    soundfile.write(phone / "a.wav", noise(14), 16_000)
    assert len(import_recordings([phone], settings(tmp_path, clip_seconds=clip_seconds)).taken) == clips


def test_second_import_adds_nothing(tmp_path: Path, phone: Path) -> None:
    for k in range(3):
        soundfile.write(phone / f"{k}.wav", noise(3, seed=k), 16_000)
    import_recordings([phone], settings(tmp_path))
    totals = import_recordings([phone], settings(tmp_path))
    assert (totals.taken, totals.already, totals.left) == ([], 3, [])


def test_other_sound_under_a_name_that_is_taken(tmp_path: Path, phone: Path) -> None:
    for day in ("monday", "tuesday"):
        (phone / day).mkdir()
        soundfile.write(phone / day / "REC001.wav", noise(3, seed=len(day)), 16_000)
    for day in ("monday", "tuesday", "monday"):
        import_recordings([phone / day], settings(tmp_path))
    assert names(tmp_path) == ["REC001-2.flac", "REC001.flac"]
    import_recordings([phone], settings(tmp_path))
    assert names(tmp_path)[2:] == ["monday_REC001.flac", "tuesday_REC001.flac"]


def test_what_is_no_clip_is_named(tmp_path: Path, phone: Path) -> None:
    good = (noise(10)[:, 0] / 32768).astype(np.float32)
    soundfile.write(phone / "good.wav", noise(10), 16_000)
    soundfile.write(phone / "copy.wav", noise(10), 16_000)
    soundfile.write(phone / "silent.wav", 0 * good, 16_000)
    soundfile.write(phone / "short.wav", noise(0.5), 16_000)
    soundfile.write(phone / "absurd.wav", good * np.float32(1e30), 16_000, subtype="FLOAT")
    soundfile.write(phone / "cut.wav", noise(10, seed=3), 16_000)
    os.truncate(phone / "cut.wav", 100_000)
    os.mkfifo(phone / "fifo.wav")
    (phone / "zero.wav").symlink_to("/dev/zero")
    (phone / "empty.wav").touch()
    (phone / "readme.txt").write_text("hello")
    totals = import_recordings([phone], settings(tmp_path))
    left = {Path(path).name: why for path, why in totals.left}
    assert left["silent.wav"] == "digital_silence"
    assert "a clip has at least 1 s" in left["short.wav"]
    assert "no sound reaches 16" in left["absurd.wav"]
    assert "cut off" in left["cut.wav"]
    assert "may have no end" in left["fifo.wav"]
    assert "may have no end" in left["zero.wav"]
    assert "is empty" in left["empty.wav"]
    assert sorted(Path(path).name for path, _ in totals.ignored) == ["good.wav", "readme.txt"]
    assert names(tmp_path) == ["copy.flac"]


def test_one_file_that_cannot_be_used_is_one_error(tmp_path: Path, phone: Path) -> None:
    os.mkfifo(phone / "fifo.wav")
    for source in (phone / "fifo.wav", Path("/dev/zero"), phone / "missing.wav"):
        with pytest.raises(InputError, match=str(source)):
            import_recordings([source], settings(tmp_path))
    assert not (tmp_path / "out").exists()


def test_floats_in_the_range_of_integers_are_scaled(tmp_path: Path, phone: Path) -> None:
    soundfile.write(phone / "a.wav", noise(10)[:, 0].astype(np.float32), 16_000, subtype="FLOAT")
    totals = import_recordings([phone], settings(tmp_path))
    read = read_audio(tmp_path / "out/valve/00/normal/a.flac")
    np.testing.assert_array_equal(read * 32768, noise(10)[:, 0])
    assert totals.notes == [f"{phone / 'a.wav'}: floats in the range of integers, divided by 32768"]


def test_unfinished_recording_is_taken_whole(tmp_path: Path, phone: Path) -> None:
    soundfile.write(phone / "a.wav", noise(10), 16_000)
    content = bytearray((phone / "a.wav").read_bytes())
    content[40:44] = (0x80000000).to_bytes(4, "little")
    (phone / "a.wav").write_bytes(content)
    assert import_recordings([phone], settings(tmp_path)).seconds == 10.0


@FFMPEG
@pytest.mark.parametrize("suffix", ["m4a", "webm", "mkv", "mp4", "3gp"])
def test_what_only_ffmpeg_reads(tmp_path: Path, phone: Path, suffix: str) -> None:
    soundfile.write(tmp_path / "a.wav", noise(10, 48_000, 2), 48_000)
    make = ["ffmpeg", "-v", "error", "-i", str(tmp_path / "a.wav"), str(phone / f"call.{suffix}")]
    if subprocess.run(make, stdin=subprocess.DEVNULL, check=False).returncode:
        pytest.skip(f"NO ENCODER for {suffix} in this ffmpeg")
    totals = import_recordings([phone], settings(tmp_path))
    assert totals.left == []
    assert abs(totals.seconds - 10.0) < 0.2
    assert names(tmp_path) == ["call.flac"]


@FFMPEG
def test_cut_off_m4a_and_video_without_sound(tmp_path: Path, phone: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(10), 16_000)
    make = ["ffmpeg", "-v", "error", "-i", str(tmp_path / "a.wav"), "-movflags", "faststart", str(phone / "a.m4a")]
    subprocess.run(make, stdin=subprocess.DEVNULL, check=True)
    os.truncate(phone / "a.m4a", (phone / "a.m4a").stat().st_size // 2)
    make = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc=d=1", str(phone / "v.mp4")]
    subprocess.run(make, stdin=subprocess.DEVNULL, check=True)
    (phone / "x.wav").write_bytes(np.random.default_rng(1).bytes(5000))
    left = {Path(path).name: why for path, why in import_recordings([phone], settings(tmp_path)).left}
    assert "cut off or damaged" in left["a.m4a"]
    assert "holds no sound" in left["v.mp4"]
    assert "is no sound that" in left["x.wav"]


def test_missing_ffmpeg_is_named(tmp_path: Path, phone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (phone / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(1000))
    with pytest.raises(InputError, match=r"is an MP4 or M4A file; install ffmpeg \(.*apt install ffmpeg"):
        import_recordings([phone], settings(tmp_path))


def test_interrupted_import_goes_on(tmp_path: Path, phone: Path) -> None:
    soundfile.write(phone / "night.wav", noise(600), 16_000)
    command = [sys.executable, "-m", "edgeasd", "data", "import", str(phone), "--machine", "valve", "--id", "00"]
    command += ["--output", str(tmp_path / "out")]
    folder = tmp_path / "out/valve/00/normal"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list(folder.glob("*.flac")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert not list(folder.glob(".*.tmp"))
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert 0 < len(before) < 60
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(names(tmp_path)) == 60
    assert all((folder / name).stat().st_mtime_ns == time for name, time in before.items())


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("Neue Aufnahme 1", "Neue Aufnahme 1"),
        ("Mu\u0308hle", "M\u00fchle"),
        ("..a\x1b[31m\n", "a_[31m_"),
        ("\u202eevil", "_evil"),
        ("...", "recording"),
        ("x" * 300, "x" * 180),
    ],
)
def test_clips_are_named_after_their_recording(stem: str, name: str) -> None:
    assert clip_name(stem) == name


def test_endless_sound_is_refused(tmp_path: Path, phone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(phone / "a.wav", noise(60), 16_000)
    monkeypatch.setattr(importing, "MOST_HOURS", 30 / 3600)
    with pytest.raises(InputError, match="goes on for more than"):
        import_recordings([phone], settings(tmp_path))


def test_scan_names_what_lies_there_and_its_import(tmp_path: Path) -> None:
    (tmp_path / "valve/00").mkdir(parents=True)
    (tmp_path / "valve/00/a.m4a").write_bytes(b"x")
    soundfile.write(tmp_path / "flat.wav", noise(1), 16_000)
    report = scan(tmp_path)
    assert report.no_clips == {str(tmp_path): {".wav": 1}, str(tmp_path / "valve/00"): {".m4a": 1}}
    assert report.imports == [
        f"edgeasd data import {tmp_path} --output {tmp_path} --machine MACHINE --id ID --label normal",
        f"edgeasd data import {tmp_path}/valve/00 --output {tmp_path} --machine valve --id 00 --label normal",
    ]
