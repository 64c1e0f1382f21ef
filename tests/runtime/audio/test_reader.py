"""Sound files: exact samples from good ones, one clear line for each kind of bad one."""

from __future__ import annotations

import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from edgeasd.runtime.audio.reader import read_audio
from edgeasd.runtime.errors import InputError

pytestmark = pytest.mark.core


def noise(frames: int, channels: int = 1) -> np.ndarray:
    """int16 noise, shape (frames, channels)."""
    return np.random.default_rng(0).integers(-32768, 32768, (frames, channels)).astype(np.int16)


def wav_header(data: bytes, *, rate: int = 16000, channels: int = 1, claimed: int | None = None) -> bytes:
    """A 16-bit WAV file around `data` whose data chunk claims `claimed` bytes."""
    size = len(data) if claimed is None else claimed
    rates = (rate, rate * channels * 2 & 0xFFFFFFFF, channels * 2 & 0xFFFF, 16)
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, *rates)
    return (
        struct.pack("<4sI4s", b"RIFF", (36 + size) & 0xFFFFFFFF, b"WAVE")
        + fmt
        + struct.pack("<4sI", b"data", size)
        + data
    )


def refusal(path: Path | str, **options: object) -> str:
    """The one-line message with which `path` is refused."""
    with pytest.raises(InputError) as caught:
        read_audio(path, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    assert str(path).replace("\0", "\\x00") in message
    return message


@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff"])
def test_samples_are_integers_over_full_scale(tmp_path: Path, suffix: str) -> None:
    samples = noise(300_000)[:, 0]
    soundfile.write(path := tmp_path / f"a.{suffix}", samples, 16000)
    read = read_audio(path)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read * 32768, samples)


def test_channel_and_mix(tmp_path: Path) -> None:
    stereo = noise(1000, 2)
    soundfile.write(path := tmp_path / "stereo.wav", stereo, 16000)
    np.testing.assert_array_equal(read_audio(path, channel=1) * 32768, stereo[:, 1])
    np.testing.assert_allclose(read_audio(path, mix=True) * 32768, stereo.mean(axis=1), atol=1e-2)
    assert "2 channels, one signal is needed; pass --channel 0 to 1 (counted from 0) or --mix" in refusal(path)
    assert "channel 2 is not there, channels are counted from 0 and it has 2" in refusal(path, channel=2)
    assert "channel -1 is not there" in refusal(path, channel=-1)
    assert "exclude each other" in refusal(path, channel=0, mix=True)


def test_wrong_rate_is_refused_or_resampled(tmp_path: Path) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(44100 * 7) / 44100)
    soundfile.write(path := tmp_path / "valve_3.wav", tone, 44100, subtype="FLOAT")
    assert refusal(path) == (f"{path}: 44100 Hz, the bundle expects 16000 Hz; resample it or pass --resample")
    read = read_audio(path, resample=True)
    assert abs(len(read) - 16000 * 7) <= 1
    whole = soxr.resample(tone.astype(np.float32), 44100, 16000, quality="HQ")
    np.testing.assert_allclose(read[: len(whole)], whole[: len(read)], atol=1e-6)
    expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(len(read)) / 16000)
    np.testing.assert_allclose(read[800:-800], expected[800:-800], atol=1e-4)


def test_one_sample_that_resamples_to_nothing(tmp_path: Path) -> None:
    soundfile.write(path := tmp_path / "a.wav", np.ones(1), 192000)
    assert "too short to be resampled" in refusal(path, resample=True)


def test_what_is_not_a_file(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "missing.wav")
    assert "is a directory" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe.wav")
    assert "not a regular file" in refusal(tmp_path / "pipe.wav")
    (tmp_path / "empty.wav").touch()
    assert "is empty (0 bytes)" in refusal(tmp_path / "empty.wav")
    assert "is not a file name" in refusal("nul\0.wav")
    assert "cannot be read" in refusal("a" * 300)


@pytest.mark.parametrize("name", ["note.wav", "note.raw", "note"])
def test_what_is_not_sound(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"This is not a sound. " * 50)
    assert "not a sound file that can be read (Format not recognised); WAV and FLAC work" in refusal(tmp_path / name)


@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff"])
@pytest.mark.parametrize("kept", [0.999, 0.5, 0.1])
def test_a_cut_off_file(tmp_path: Path, suffix: str, kept: float) -> None:
    soundfile.write(path := tmp_path / f"a.{suffix}", noise(100_000), 16000)
    os.truncate(path, int(kept * path.stat().st_size))
    assert "cut off" in refusal(path)


def test_a_wav_cut_behind_its_header(tmp_path: Path) -> None:
    (path := tmp_path / "a.wav").write_bytes(wav_header(bytes(1000))[:44])
    assert "its header claims 1000 bytes of sound and 0 are there" in refusal(path)


def test_a_damaged_flac(tmp_path: Path) -> None:
    soundfile.write(path := tmp_path / "a.flac", noise(100_000), 16000)
    content = bytearray(path.read_bytes())
    content[60_000:61_000] = bytes(1000)
    path.write_bytes(content)
    assert "cut off or damaged after sample" in refusal(path)


def test_no_samples(tmp_path: Path) -> None:
    (path := tmp_path / "a.wav").write_bytes(wav_header(b""))
    assert "holds no samples" in refusal(path)


def test_an_open_length_is_read_to_the_end(tmp_path: Path) -> None:
    samples = noise(5000)[:, 0]
    (path := tmp_path / "a.wav").write_bytes(wav_header(samples.tobytes(), claimed=0xFFFFFFFF))
    np.testing.assert_array_equal(read_audio(path) * 32768, samples)


def test_bytes_behind_the_sound_are_no_damage(tmp_path: Path) -> None:
    (path := tmp_path / "a.wav").write_bytes(wav_header(bytes(2000)) + b"LIST trailing notes")
    assert len(read_audio(path)) == 1000


@pytest.mark.parametrize("header", [{"rate": 0}, {"channels": 0}, {"channels": 65535}, {"rate": 0xFFFFFFFF}])
def test_impossible_headers(tmp_path: Path, header: dict[str, int]) -> None:
    (path := tmp_path / "a.wav").write_bytes(wav_header(bytes(2000), **header))
    assert "not a sound file that can be read" in refusal(path, resample=True, mix=True)


@pytest.mark.parametrize("rate", [10, 2_000_000_000])
def test_implausible_rates(tmp_path: Path, rate: int) -> None:
    (path := tmp_path / "a.wav").write_bytes(wav_header(bytes(2000), rate=rate))
    assert f"{rate} Hz is not a plausible sample rate" in refusal(path, resample=True)


def with_flac_length(content: bytes, frames: int) -> bytes:
    """`content` with the 36-bit number of samples in its STREAMINFO replaced."""
    return (
        content[:21]
        + bytes([content[21] & 0xF0 | frames >> 32])
        + struct.pack(">I", frames & 0xFFFFFFFF)
        + content[26:]
    )


def test_claims_of_gigabytes_are_not_allocated(tmp_path: Path) -> None:
    soundfile.write(flac := tmp_path / "a.flac", noise(10_000), 16000)
    content = flac.read_bytes()
    (wav := tmp_path / "a.wav").write_bytes(wav_header(bytes(1000), claimed=0xF0000000))
    (years := tmp_path / "years.flac").write_bytes(with_flac_length(content, (1 << 36) - 1))
    (half_hour := tmp_path / "half.flac").write_bytes(with_flac_length(content, 16000 * 1800))
    (unknown := tmp_path / "unknown.flac").write_bytes(with_flac_length(content, 0))
    tracemalloc.start()
    try:
        assert "claims 4026531840 bytes of sound and 1000 are there" in refusal(wav)
        assert "cut off, its header claims 68719476735 samples" in refusal(years)
        assert "cut off" in refusal(half_hour)
        assert len(read_audio(unknown)) == 10_000
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("bad", "shown"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")])
def test_non_finite_samples_are_named_with_their_position(tmp_path: Path, bad: float, shown: str) -> None:
    samples = np.zeros(300_000, np.float32)
    samples[[280_000, 290_000]] = bad
    soundfile.write(path := tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    assert f": {shown} at sample 280000 (17.500 s)" in refusal(path)


@pytest.mark.shared_data
def test_real_machine_sound() -> None:
    root = Path(os.environ.get("EDGEASD_TEST_DATA") or Path(__file__).parents[3] / ".." / "shared" / "data")
    clips = sorted(root.rglob("*.wav"))[:3] + sorted(root.rglob("*.flac"))[:3]
    if not clips:
        pytest.skip(f"no WAV or FLAC under {root}; set EDGEASD_TEST_DATA")
    for clip in clips:
        whole, rate = soundfile.read(clip, dtype="float32")
        np.testing.assert_array_equal(read_audio(clip, sample_rate=rate), whole)
