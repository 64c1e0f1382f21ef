"""ALSA formats and rates: each decoded exactly, asked for in the stated order, another rate converted without seams."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.runtime.audio.reader import StreamResampler
from edgeasd.runtime.errors import DeviceError, InputError
from edgeasd.runtime.sources import AlsaSource, ChannelSplitter
from edgeasd.runtime.sources.arecord import FORMATS
from edgeasd.runtime.sources.pipe import PcmDecoder

pytestmark = pytest.mark.core


@pytest.fixture
def arecord(alsa_file_pcm: ModuleType) -> ModuleType:
    """The helper with ALSA configurations, if ALSA is here."""
    if shutil.which("arecord") is None or not alsa_file_pcm.STOCK.exists():
        pytest.skip("arecord (alsa-utils) or the stock ALSA configuration is not installed here")
    return alsa_file_pcm


@pytest.fixture
def playing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arecord: ModuleType) -> Callable[[bytes], None]:
    """Makes hw:1 deliver these bytes."""

    def write(data: bytes) -> None:
        (tmp_path / "sound.raw").write_bytes(data)
        monkeypatch.setenv("ALSA_CONFIG_PATH", str(arecord.write_alsa_config(tmp_path, tmp_path / "sound.raw")))

    return write


def read_exactly(source: AlsaSource, count: int) -> np.ndarray:
    blocks: list[np.ndarray] = []
    try:
        while sum(map(len, blocks)) < count:
            chunk = source.read()
            assert chunk is not None
            blocks.append(chunk.samples)
    finally:
        source.close()
    return np.concatenate(blocks)[:count]


def encode(whole: np.ndarray, format: str) -> bytes:
    """Integers of 24 bits (16 for S16_LE) as ALSA lays them out."""
    if format == "S16_LE":
        return whole.astype("<i2").tobytes()
    if format == "S24_3LE":
        return b"".join(int(x).to_bytes(3, "little", signed=True) for x in whole)
    if format == "S24_LE":
        return (whole.astype("<i4") & 0xFFFFFF | (np.arange(whole.size, dtype="<i4") << 24)).tobytes()  # garbage above
    if format == "S32_LE":
        return (whole.astype("<i4") << 8).tobytes()
    return (whole / (1 << 23)).astype("<f4").tobytes()


@given(st.sampled_from(list(FORMATS)), st.lists(st.integers(-(1 << 23), (1 << 23) - 1), min_size=1, max_size=50))
def test_every_format_is_decoded_exactly(format: str, values: list[int]) -> None:
    whole = np.array(values) >> (8 if format == "S16_LE" else 0)
    decoded = PcmDecoder(FORMATS[format], 1).push(encode(whole, format))[:, 0]
    scale = 1 << (15 if format == "S16_LE" else 23)
    assert (decoded.astype(np.float64) * scale).tolist() == whole.tolist()


@pytest.mark.parametrize("format", list(FORMATS))
def test_every_format_is_captured_exactly(format: str, playing: Callable[[bytes], None]) -> None:
    bits = 16 if format == "S16_LE" else 24
    whole = np.random.default_rng(1).integers(-(1 << (bits - 1)), 1 << (bits - 1), 20_000)
    playing(encode(whole, format))
    source = AlsaSource("hw:1", format=format)
    assert source.name == f"hw:1 through arecord, {format}, 16000 Hz, channel 0 of 1"
    assert source.status.bits == bits
    np.testing.assert_array_equal(read_exactly(source, 20_000) * (1 << (bits - 1)), whole)


def test_another_format_than_these_is_wrong_use() -> None:
    with pytest.raises(InputError, match="U8: not a sample format known here; use auto or one of S16_LE, S24_3LE"):
        AlsaSource("hw:1", format="U8")


def test_a_device_without_16_bit_is_opened_with_what_it_has(playing: Callable[[bytes], None]) -> None:
    playing(b"")
    source = AlsaSource("float_only")
    source.close()
    assert "FLOAT_LE, 16000 Hz" in source.name
    assert source.status.bits == 24
    with pytest.raises(DeviceError, match=r"float_only: does not capture S16_LE, it offers FLOAT_LE"):
        AlsaSource("float_only", format="S16_LE")


# A scripted arecord takes one format and one rate, and states what was really set.
SCRIPT = """#!/bin/sh
format= rate= channels=
while [ $# -gt 0 ]; do case "$1" in -f) format=$2;; -r) rate=$2;; -c) channels=$2;; esac; shift; done
echo "$format $rate" >> '{folder}/asked'
printf 'FORMAT:  {formats}\\n' >&2
case ' {formats} ' in *" $format "*) ;; *)
  echo 'arecord: set_params:1352: Sample format non available' >&2; exit 1;; esac
printf "  format       : $format\\n  channels     : $channels\\n  rate         : {rate}\\n  buffer_size  : 8192\\n" >&2
cat '{folder}/sound.raw'
exec sleep 60
"""


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    def write(formats: str, rate: int, data: bytes = b"") -> Path:
        (tmp_path / "sound.raw").write_bytes(data)
        (tmp_path / "arecord").write_text(SCRIPT.format(folder=tmp_path, formats=formats, rate=rate))
        (tmp_path / "arecord").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        return tmp_path / "asked"

    return write


@pytest.mark.parametrize(
    ("formats", "taken"),
    [
        ("S32_LE S16_LE", "S16_LE"),
        ("S32_LE S24_LE S24_3LE", "S24_3LE"),
        ("FLOAT_LE S32_LE", "S32_LE"),
        ("MU_LAW FLOAT_LE", "FLOAT_LE"),
    ],
)
def test_formats_are_taken_in_the_stated_order(card: Callable[..., Path], formats: str, taken: str) -> None:
    asked = card(formats, 16000)
    source = AlsaSource("hw:1")
    source.close()
    assert taken in source.name
    assert len(asked.read_text().splitlines()) <= 2, "what the device does not offer is not tried"


def test_a_raw_device_of_another_rate_says_both_remedies(card: Callable[..., Path]) -> None:
    card("S16_LE", 48000)
    with pytest.raises(
        DeviceError, match=r"not capture at 16000 Hz, the nearest is 48000 Hz; use plughw:1, which.*--resample"
    ):
        AlsaSource("hw:1")


def test_floats_that_are_no_numbers_are_an_error_of_the_device(card: Callable[..., Path]) -> None:
    card("FLOAT_LE", 16000, np.array([0.5, np.nan], "<f4").tobytes())
    source = AlsaSource("hw:1")
    with pytest.raises(DeviceError, match="delivers samples that are no sound"):
        read_exactly(source, 2)


@pytest.mark.parametrize("rate", [44100, 48000])
def test_the_own_rate_is_resampled_as_soxr_would_at_once(card: Callable[..., Path], rate: int) -> None:
    whole = np.random.default_rng(2).integers(-20000, 20000, 3 * rate)
    card("S16_LE", rate, whole.astype("<i2").tobytes())
    source = AlsaSource("hw:1", resample=True)
    assert source.name == f"hw:1 through arecord, S16_LE, {rate} Hz resampled to 16000 Hz, channel 0 of 1"
    assert (source.sample_rate, source.status.bits) == (16000, 24)
    expected = soxr.resample((whole / 32768).astype(np.float32), rate, 16000, quality="HQ")
    np.testing.assert_allclose(read_exactly(source, 45_000), expected[:45_000], rtol=0, atol=2e-6)


def test_a_lower_rate_is_never_blown_up(card: Callable[..., Path]) -> None:
    card("S16_LE", 8000)
    with pytest.raises(DeviceError, match=r"captures at 8000 Hz, which holds less than the 16000 Hz asked for"):
        AlsaSource("hw:1", resample=True)


@pytest.mark.skipif(shutil.which("arecord") is None, reason="arecord is not installed here")
def test_a_real_pcm_with_one_rate_is_opened_at_it(playing: Callable[[bytes], None]) -> None:
    playing(b"")
    source = AlsaSource("only_48000", resample=True)
    source.close()
    assert "48000 Hz resampled to 16000 Hz" in source.name


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from([44100, 48000, 96000, 22050, 32000]),
    st.lists(st.integers(1, 3000), min_size=1, max_size=30),
    st.integers(0, 2**32 - 1),
)
def test_resampling_has_no_seams_at_any_block_border(rate: int, sizes: list[int], seed: int) -> None:
    samples = np.random.default_rng(seed).uniform(-1, 1, sum(sizes)).astype(np.float32)
    stream, got, at = StreamResampler(rate, 16000), [], 0
    for size in sizes:
        got.append(stream.push(samples[at : at + size]))
        at += size
    got.append(stream.push(samples[:0], last=True))
    expected = soxr.resample(samples, rate, 16000, quality="HQ")
    np.testing.assert_allclose(np.concatenate(got), expected, rtol=0, atol=2e-6)


def test_one_stream_for_each_channel_of_a_device(playing: Callable[[bytes], None]) -> None:
    frames = np.random.default_rng(4).integers(-32768, 32768, (9000, 3))
    playing(frames.astype("<i2").tobytes())
    split = ChannelSplitter(AlsaSource("hw:1", channel=2, every_channel=True), waits=True)
    assert split.channels[2].name == "hw:1 through arecord, S16_LE, 16000 Hz, channel 2 of 3"
    got: list[list[np.ndarray]] = [[], [], []]
    while sum(map(len, got[0])) < 9000:  # in turn, since the device waits for the latest
        for source, blocks in zip(split.channels, got, strict=True):
            chunk = source.read()
            assert chunk is not None
            blocks.append(chunk.samples)
    for source, blocks, column in zip(split.channels, got, frames.T, strict=True):
        np.testing.assert_array_equal(np.concatenate(blocks)[:9000] * 32768, column)
        source.close()
    assert split.channels[0].read() is None


@pytest.mark.parametrize("rate", [44100, 48000])
def test_all_channels_are_resampled_as_each_by_itself(card: Callable[..., Path], rate: int) -> None:
    whole = np.random.default_rng(5).integers(-20000, 20000, (rate, 2))
    card("S16_LE", rate, whole.astype("<i2").tobytes())
    source = AlsaSource("hw:1", channel=1, resample=True, every_channel=True)
    assert source.name == f"hw:1 through arecord, S16_LE, {rate} Hz resampled to 16000 Hz"
    assert (source.status.channels, source.sample_rate, source.status.bits) == (2, 16000, 24)
    got = read_exactly(source, 15_000)
    for channel in (0, 1):
        expected = soxr.resample((whole[:, channel] / 32768).astype(np.float32), rate, 16000, quality="HQ")
        np.testing.assert_allclose(got[:, channel], expected[:15_000], rtol=0, atol=2e-6)
