"""File and raw PCM sources: the same samples whatever the blocks, and an end that is told from a cut."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from edgeasd.runtime.audio.reader import read_audio
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.sources import FileSource, PcmSource, Source, open_source
from edgeasd.runtime.sources.base import PCM_BYTES, PcmDecoder

pytestmark = pytest.mark.core


def drain(source: Source) -> np.ndarray:
    blocks = []
    while (block := source.read()) is not None:
        assert block.ndim == 1
        assert len(block) >= 1
        assert block.dtype == np.float32
        blocks.append(block)
    source.close()
    return np.concatenate(blocks)


# Decoding


@given(
    st.binary(max_size=400),
    st.sampled_from(sorted(PCM_BYTES)),
    st.integers(1, 5),
    st.lists(st.integers(0, 20), max_size=60),
)
def test_decoding_does_not_depend_on_chunk_boundaries(
    data: bytes, format: str, channels: int, sizes: list[int]
) -> None:
    whole, pieces = PcmDecoder(format, channels), PcmDecoder(format, channels)
    expected = whole.push(data)
    got, position = [], 0
    for size in [*sizes, len(data)]:
        got.append(pieces.push(data[position : position + size]))
        position += size
    np.testing.assert_array_equal(np.concatenate(got), expected)
    assert pieces.stray_bytes == whole.stray_bytes == len(data) - expected.shape[0] * whole.frame_bytes


@given(st.lists(st.integers(-(1 << 23), (1 << 23) - 1), min_size=1))
def test_packed_24_bit_samples_are_exact(values: list[int]) -> None:
    data = b"".join(value.to_bytes(3, "little", signed=True) for value in values)
    decoded = PcmDecoder("s24le", 1).push(data)[:, 0]
    assert [int(x) for x in decoded.astype(np.float64) * (1 << 23)] == values


@pytest.mark.parametrize(
    ("format", "data"),
    [
        ("s16le", np.array([-(1 << 15), 1 << 14, 0], "<i2").tobytes()),
        ("s24le", b"\x00\x00\x80\x00\x00\x40\x00\x00\x00"),
        ("s32le", np.array([-(1 << 31), 1 << 30, 0], "<i4").tobytes()),
        ("f32le", np.array([-1.0, 0.5, 0.0], "<f4").tobytes()),
    ],
)
def test_full_scale_is_minus_one(format: str, data: bytes) -> None:
    np.testing.assert_array_equal(PcmDecoder(format, 1).push(data)[:, 0], [-1.0, 0.5, 0.0])


# Files


@pytest.mark.parametrize("block", [1, 511, 5000, 100_000])
def test_file_blocks_add_up_to_the_file(tmp_path: Path, block: int) -> None:
    samples = np.random.default_rng(1).integers(-32768, 32768, 6001).astype(np.int16)
    soundfile.write(path := tmp_path / "a.wav", samples, 16000)
    np.testing.assert_array_equal(drain(FileSource(path, block=block)) * 32768, samples)


@pytest.mark.parametrize("block", [100, 4096, None])
def test_resampled_blocks_equal_the_clip_read_at_once(tmp_path: Path, block: int | None) -> None:
    stereo = np.random.default_rng(1).uniform(-0.5, 0.5, (50_001, 2))
    soundfile.write(path := tmp_path / "a.flac", stereo, 48000)
    source = FileSource(path, mix=True, resample=True, block=block)
    assert source.name == f"{path}, FLAC PCM_16, 48000 Hz resampled to 16000 Hz, mean of 2 channels"
    assert source.sample_rate == 16000
    np.testing.assert_allclose(drain(source), read_audio(path, mix=True, resample=True), rtol=0, atol=1e-6)


def test_real_time_is_kept_against_the_start(tmp_path: Path) -> None:
    soundfile.write(path := tmp_path / "a.wav", np.zeros(32000), 16000)
    source = FileSource(path, realtime=True)
    start, heard = time.monotonic(), 0
    while (block := source.read()) is not None:
        heard += len(block)
        assert time.monotonic() - start >= heard / 16000 - 0.001
        if heard == 4096:
            time.sleep(1.5)  # a late reader: pacing per block would end 1.5 s late
    assert 1.99 < time.monotonic() - start < 3.4


def test_close_ends_a_read_that_waits_for_its_time(tmp_path: Path) -> None:
    soundfile.write(path := tmp_path / "a.wav", np.zeros(16000 * 60), 16000)
    source = FileSource(path, realtime=True, block=16000 * 60)
    blocks: list[object] = []
    thread = threading.Thread(target=lambda: blocks.append(source.read()))
    thread.start()
    time.sleep(0.1)
    source.close()
    source.close()
    thread.join(10.0)
    assert blocks == [None]
    assert source.read() is None


def test_a_cut_off_flac_is_an_error_behind_its_good_samples(tmp_path: Path) -> None:
    samples = np.random.default_rng(1).integers(-32768, 32768, 100_000).astype(np.int16)
    soundfile.write(path := tmp_path / "a.flac", samples, 16000)
    os.truncate(path, path.stat().st_size // 2)
    source = FileSource(path, block=4096)
    np.testing.assert_array_equal(source.read() * 32768, samples[:4096])  # type: ignore[operator]
    with pytest.raises(InputError, match="cut off"):
        drain(source)


# Raw PCM

FEED = """
import sys, time
data, sizes = open(sys.argv[1], "rb").read(), [1, 2, 3, 7, 1000, 1, 4095]
at = turn = 0
while at < len(data):
    size = sizes[turn % len(sizes)]
    sys.stdout.buffer.write(data[at:at + size])
    sys.stdout.buffer.flush()
    at, turn = at + size, turn + 1
"""
PRINT = """
import sys
import numpy as np
from edgeasd.runtime.errors import EdgeasdError
from edgeasd.runtime.sources import open_source
try:
    source = open_source(input="-", pcm_format=sys.argv[1], pcm_channels=int(sys.argv[2]), mix=sys.argv[2] != "1")
    assert source.name.startswith("standard input, raw " + sys.argv[1]), source.name
    while (block := source.read()) is not None:
        sys.stdout.buffer.write(block.tobytes())
except EdgeasdError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def through_standard_input(data: bytes, tmp_path: Path, format: str = "s16le", channels: int = 1) -> tuple:
    """(exit code, samples printed, standard error) of a process fed with `data` in odd pieces by another."""
    (tmp_path / "data").write_bytes(data)
    feeder = subprocess.Popen([sys.executable, "-c", FEED, str(tmp_path / "data")], stdout=subprocess.PIPE)
    done = subprocess.run(
        [sys.executable, "-c", PRINT, format, str(channels)],
        stdin=feeder.stdout,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert feeder.stdout is not None
    feeder.stdout.close()
    feeder.wait()
    return done.returncode, np.frombuffer(done.stdout, np.float32), done.stderr.decode()


def test_standard_input_in_odd_pieces(tmp_path: Path) -> None:
    samples = np.random.default_rng(2).integers(-32768, 32768, 20_000).astype("<i2")
    code, got, errors = through_standard_input(samples.tobytes(), tmp_path)
    assert (code, errors) == (0, "")
    np.testing.assert_array_equal(got * 32768, samples)


def test_standard_input_with_two_channels(tmp_path: Path) -> None:
    samples = np.random.default_rng(2).uniform(-1, 1, (5000, 2)).astype("<f4")
    code, got, errors = through_standard_input(samples.tobytes(), tmp_path, "f32le", 2)
    assert (code, errors) == (0, "")
    np.testing.assert_allclose(got, samples.mean(axis=1), atol=1e-7)


def test_stray_bytes_at_the_end_follow_the_good_samples(tmp_path: Path) -> None:
    code, got, errors = through_standard_input(bytes(3 * 4000 + 2), tmp_path, "s24le")
    assert code == 2
    assert len(got) == 4000
    assert errors.startswith("standard input: ends with 2 stray bytes of a 3-byte frame (s24le, 1 channel);")


def test_closed_standard_input_is_one_line() -> None:
    command = f"{sys.executable} -c '{PRINT.replace(chr(39), chr(34))}' s16le 1 <&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "standard input: is closed; pipe raw PCM into this command\n"


@pytest.fixture
def pipe():
    """A PcmSource factory over the reading end of a pipe, and the writing end."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stream, os.fdopen(writing, "wb", buffering=0) as feed:
        yield stream, feed


def test_nan_is_named_with_its_position(pipe: tuple) -> None:
    stream, feed = pipe
    samples = np.zeros(4000, "<f4")
    samples[3200] = np.nan
    feed.write(samples.tobytes())
    source = PcmSource(stream, format="f32le")
    with pytest.raises(InputError, match=r": nan at sample 3200 \(0\.200 s\)"):
        drain(source)


@pytest.mark.parametrize("first", [4, 20])
def test_a_wav_file_in_the_pipe_is_refused(pipe: tuple, first: int) -> None:
    stream, feed = pipe
    soundfile.write(wav := io.BytesIO(), np.zeros(100), 16000, format="WAV")
    source = PcmSource(stream)
    feed.write(wav.getvalue()[:first])
    if first == 4:
        np.testing.assert_array_equal(source.read(), np.frombuffer(b"RIFF", "<i2") / 32768)
        feed.write(wav.getvalue()[first:])
    with pytest.raises(InputError, match="starts like a WAV file, raw PCM is expected"):
        source.read()


def test_a_pipe_that_ends_at_once(pipe: tuple) -> None:
    stream, feed = pipe
    feed.close()
    source = PcmSource(stream)
    with pytest.raises(InputError, match="ended without a single sample"):
        source.read()
    assert source.read() is None


def test_close_ends_a_read_on_a_silent_pipe(pipe: tuple) -> None:
    stream, _ = pipe
    source = PcmSource(stream)
    blocks: list[object] = []
    thread = threading.Thread(target=lambda: blocks.append(source.read()))
    thread.start()
    time.sleep(0.1)
    source.close()
    thread.join(10.0)
    assert blocks == [None]
    assert not stream.closed


# One door


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one source is needed"),
        ({"device": "hw:1", "input": "a.wav"}, "one source is needed"),
        ({"device": "hw:1", "realtime": True}, "hw:1: --realtime is for files"),
        ({"input": "-", "resample": True}, "standard input: --resample is for files"),
        ({"input": "no/such.wav"}, "no/such.wav: no such file"),
    ],
)
def test_wrong_use_of_open_source(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_source(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "s8"}, "s8: not a PCM format known here; use one of s16le, s24le, s32le, f32le"),
        ({"channels": 0}, "0 PCM channels: give a number from 1"),
        ({"channels": 2}, "2 channels, one signal is needed"),
        ({"channels": 2, "channel": 2}, "channel 2 is not there"),
    ],
)
def test_wrong_pcm_options(pipe: tuple, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        PcmSource(pipe[0], **options)


def test_a_stream_without_a_descriptor() -> None:
    with pytest.raises(InputError, match="no file descriptor"):
        PcmSource(io.BytesIO(b"1234"))
