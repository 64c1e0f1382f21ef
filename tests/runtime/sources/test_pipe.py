"""Raw PCM: the same samples however it is cut, and errors for what is not PCM."""

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

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.sources import PcmSource, Source, SourceSettings, open_source
from edgeasd.runtime.sources.pipe import PCM_BYTES, PcmDecoder

pytestmark = pytest.mark.core


def drain(source: Source) -> np.ndarray:
    parts, end = [], 0
    while (chunk := source.read()) is not None:
        assert (chunk.samples.ndim, chunk.samples.dtype) == (1, np.float32)
        assert (chunk.start_sample, chunk.discontinuity) == (end, False)
        assert chunk.end_sample > end
        end = chunk.end_sample
        parts.append(chunk.samples)
    source.close()
    return np.concatenate(parts)


# Decoding


@given(
    st.binary(max_size=400),
    st.sampled_from(sorted(PCM_BYTES)),
    st.integers(1, 5),
    st.lists(st.integers(0, 20), max_size=60),
)
def test_decoding_does_not_depend_on_cuts(data: bytes, format: str, channels: int, sizes: list[int]) -> None:
    whole, pieces = PcmDecoder(format, channels), PcmDecoder(format, channels)
    expected = whole.push(data)
    got, position = [], 0
    for size in [*sizes, len(data)]:
        got.append(pieces.push(data[position : position + size]))
        position += size
    np.testing.assert_array_equal(np.concatenate(got), expected)
    assert pieces.partial_bytes == whole.partial_bytes == len(data) - expected.shape[0] * whole.frame_bytes


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
from edgeasd.runtime.sources import SourceSettings, open_source
source = open_source(SourceSettings(input="-"))
assert source.name == "standard input, raw s16le, 16000 Hz, channel 0 of 1", source.name
while (chunk := source.read()) is not None:
    sys.stdout.buffer.write(chunk.samples.tobytes())
"""


def test_standard_input_in_odd_pieces(tmp_path: Path) -> None:
    samples = np.random.default_rng(2).integers(-32768, 32768, 20_000).astype("<i2")
    (tmp_path / "data").write_bytes(samples.tobytes())
    feeder = subprocess.Popen([sys.executable, "-c", FEED, str(tmp_path / "data")], stdout=subprocess.PIPE)
    done = subprocess.run(
        [sys.executable, "-c", PRINT], stdin=feeder.stdout, capture_output=True, timeout=60, check=False
    )
    assert feeder.stdout is not None
    feeder.stdout.close()
    feeder.wait()
    assert (done.returncode, done.stderr) == (0, b"")
    np.testing.assert_array_equal(np.frombuffer(done.stdout, np.float32) * 32768, samples)


def test_closed_standard_input_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(InputError, match="^standard input: is closed; pipe raw PCM into this command$"):
        open_source(SourceSettings(input="-"))


@pytest.fixture
def pipe():
    """A PcmSource factory over the reading end of a pipe, and the writing end."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stream, os.fdopen(writing, "wb", buffering=0) as feed:
        yield stream, feed


def test_mean_of_two_channels(pipe: tuple) -> None:
    stream, feed = pipe
    samples = np.random.default_rng(2).uniform(-1, 1, (5000, 2)).astype("<f4")
    feed.write(samples.tobytes())
    feed.close()
    source = PcmSource(stream, format="f32le", channels=2, mix=True)
    assert source.status.bits == 24
    np.testing.assert_allclose(drain(source), samples.mean(axis=1), atol=1e-7)


def test_every_channel_of_a_pipe(pipe: tuple) -> None:
    stream, feed = pipe
    feed.write(np.arange(6, dtype="<i2").tobytes())
    source = PcmSource(stream, channels=3, every_channel=True)
    chunk = source.read()
    assert chunk is not None
    assert (source.status.channels, source.status.bits) == (3, 16)
    np.testing.assert_array_equal(chunk.samples * 32768, [[0, 1, 2], [3, 4, 5]])


def test_stray_bytes_at_the_end_are_an_error_after_the_sound(pipe: tuple) -> None:
    stream, feed = pipe
    feed.write(bytes(3 * 4000 + 2))
    feed.close()
    source = PcmSource(stream, format="s24le", label="standard input")
    chunk = source.read()
    assert chunk is not None
    assert len(chunk.samples) == 4000
    line = r"^standard input: ends with 2 stray bytes of a 3-byte frame \(s24le, 1 channel\);"
    with pytest.raises(InputError, match=line):
        source.read()


def test_nan_is_named_with_its_position(pipe: tuple) -> None:
    stream, feed = pipe
    samples = np.zeros(4000, "<f4")
    samples[3200] = np.nan
    feed.write(samples.tobytes())
    source = PcmSource(stream, format="f32le")
    with pytest.raises(InputError, match=r": nan at sample 3200 \(0\.200 s\)"):
        drain(source)


@pytest.mark.parametrize("first", [4, 20])
def test_wav_header_in_the_pipe_is_refused(pipe: tuple, first: int) -> None:
    stream, feed = pipe
    soundfile.write(wav := io.BytesIO(), np.zeros(100), 16000, format="WAV")
    source = PcmSource(stream)
    feed.write(wav.getvalue()[:first])
    if first == 4:
        chunk = source.read()
        assert chunk is not None
        np.testing.assert_array_equal(chunk.samples, np.frombuffer(b"RIFF", "<i2") / 32768)
        feed.write(wav.getvalue()[first:])
    with pytest.raises(InputError, match="starts like a WAV file, raw PCM is expected"):
        source.read()


def test_pipe_that_ends_at_once_is_an_error(pipe: tuple) -> None:
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


def test_stream_without_a_descriptor_is_refused() -> None:
    with pytest.raises(InputError, match="no file descriptor"):
        PcmSource(io.BytesIO(b"1234"))
