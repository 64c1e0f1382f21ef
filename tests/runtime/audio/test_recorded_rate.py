"""A bundle trained with upsampled recordings hears every source through their rate: the one rule, live as offline."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edgeasd.runtime.audio.reader import StreamResampler, WrongRate, describe_rates, rate_steps, read_audio
from edgeasd.runtime.features.logmel import FeatureSettings, LogMelStream, logmel
from edgeasd.runtime.sources.command import CommandSource
from edgeasd.runtime.sources.files import FileSource, PlaylistSource
from edgeasd.runtime.sources.open import SourceSettings, open_source
from edgeasd.runtime.sources.pipe import PcmSource

pytestmark = pytest.mark.core

FEATURES = FeatureSettings(sample_rate=32_000, n_fft=1024, hop_length=320, f_max=15_000.0, recorded_rate=16_000)


def sound(rate: int, seconds: float = 1.3) -> np.ndarray:
    time = np.arange(round(rate * seconds)) / rate
    tones = sum(np.sin(2 * np.pi * hz * time) for hz in (440, 5000, 11_000) if hz < rate / 2)
    return np.asarray(0.2 * tones + 0.01 * np.random.default_rng(rate).standard_normal(time.size), np.float32)


@pytest.fixture(params=[16_000, 22_050, 32_000, 44_100, 48_000])
def recording(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"{request.param}.wav"
    soundfile.write(path, sound(request.param), request.param, subtype="FLOAT")
    return path


def read_all(source: object) -> np.ndarray:
    chunks = []
    while (chunk := source.read()) is not None:  # type: ignore[attr-defined]
        chunks.append(chunk.samples)
    source.close()  # type: ignore[attr-defined]
    return np.concatenate(chunks)


@pytest.mark.parametrize(
    ("rate", "recorded", "steps", "text"),
    [
        (32_000, None, (32_000,), "32000 Hz"),
        (48_000, None, (48_000, 32_000), "48000 Hz resampled to 32000 Hz"),
        (16_000, 16_000, (16_000, 32_000), "16000 Hz resampled to 32000 Hz, nothing above 8000 Hz"),
        (
            32_000,
            16_000,
            (32_000, 16_000, 32_000),
            "32000 Hz resampled to 16000 Hz and 32000 Hz, nothing above 8000 Hz",
        ),
        (
            48_000,
            16_000,
            (48_000, 16_000, 32_000),
            "48000 Hz resampled to 16000 Hz and 32000 Hz, nothing above 8000 Hz",
        ),
        (8_000, 16_000, (8_000, 32_000), "8000 Hz resampled to 32000 Hz, nothing above 4000 Hz"),
    ],
)
def test_the_steps_of_a_rate(rate: int, recorded: int | None, steps: tuple[int, ...], text: str) -> None:
    assert rate_steps(rate, 32_000, recorded) == steps
    assert describe_rates(steps) == text


def test_every_source_gives_the_samples_of_the_reader(recording: Path) -> None:
    expected = read_audio(recording, sample_rate=32_000, recorded_rate=16_000)
    assert abs(expected.size - 1.3 * 32_000) <= 2
    asked = SourceSettings(input=str(recording), recorded_rate=16_000)
    np.testing.assert_array_equal(read_all(open_source(asked, 32_000)), expected)
    for block in (37, 512, 5000):
        np.testing.assert_array_equal(
            read_all(FileSource(recording, 32_000, block=block, recorded_rate=16_000)), expected
        )
    np.testing.assert_array_equal(
        read_all(PlaylistSource([recording, recording], 32_000, recorded_rate=16_000)), np.tile(expected, 2)
    )


def test_live_frames_are_those_of_the_whole_file(recording: Path) -> None:
    expected = logmel(read_audio(recording, sample_rate=32_000, recorded_rate=16_000), FEATURES)
    stream, frames = LogMelStream(FEATURES), []
    source = FileSource(recording, 32_000, block=777, recorded_rate=16_000)
    while (chunk := source.read()) is not None:
        frames.append(stream.push(chunk.samples))
    np.testing.assert_allclose(np.concatenate(frames), expected, rtol=0, atol=1e-6)


def test_nothing_above_the_recordings_is_heard(recording: Path) -> None:
    heard = read_audio(recording, sample_rate=32_000, recorded_rate=16_000)
    power = np.abs(np.fft.rfft(heard * np.hanning(heard.size))) ** 2
    hz = np.fft.rfftfreq(heard.size, 1 / 32_000)
    assert power[hz > 8_300].sum() < 1e-9 * power.sum()
    assert power[(hz > 4_900) & (hz < 5_100)].sum() > 0.1 * power.sum()


@pytest.mark.parametrize("rate", [48_000, 44_100, 32_000, 16_000])
@pytest.mark.parametrize("columns", [1, 2])
def test_cutting_changes_no_sample(rate: int, columns: int) -> None:
    samples = sound(rate) if columns == 1 else np.stack([sound(rate), -sound(rate)], axis=1)
    whole = StreamResampler(rate, 32_000, columns, 16_000).push(samples, last=True)
    cut, parts, at = StreamResampler(rate, 32_000, columns, 16_000), [], 0
    for size in np.random.default_rng(3).integers(0, 2000, 400):
        parts.append(cut.push(samples[at : at + size]))
        at += int(size)
    parts.append(cut.push(samples[at:], last=True))
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_pipe_has_the_rate_of_the_recordings(tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    pcm = np.round(sound(16_000) * 20_000).astype("<i2")
    soundfile.write(path, pcm, 16_000, subtype="PCM_16")
    expected = read_audio(path, sample_rate=32_000, recorded_rate=16_000)
    reading, writing = os.pipe()
    os.write(writing, pcm.tobytes())
    os.close(writing)
    with open(reading, "rb") as stream:
        source = PcmSource(stream, 32_000, recorded_rate=16_000)
        assert "raw s16le, 16000 Hz resampled to 32000 Hz, nothing above 8000 Hz" in source.name
        np.testing.assert_array_equal(read_all(source), expected)
    (tmp_path / "pcm").write_bytes(pcm.tobytes())
    command = f"{sys.executable} -c \"import sys; sys.stdout.buffer.write(open('{tmp_path / 'pcm'}', 'rb').read())\""
    np.testing.assert_array_equal(read_all(CommandSource(command, 32_000, recorded_rate=16_000)), expected)


def test_less_than_the_recordings_is_refused_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    soundfile.write(path, sound(8_000), 8_000, subtype="FLOAT")
    with pytest.raises(WrongRate, match=r"clip.wav: 8000 Hz, the bundle expects 16000 Hz; resample it or pass"):
        read_audio(path, sample_rate=32_000, recorded_rate=16_000)
    assert read_audio(path, sample_rate=32_000, recorded_rate=16_000, resample=True).size > 41_000
    soundfile.write(path, sound(16_000), 16_000, subtype="FLOAT")
    with pytest.raises(WrongRate, match="clip.wav: 16000 Hz, the bundle expects 32000 Hz"):
        read_audio(path, sample_rate=32_000)
