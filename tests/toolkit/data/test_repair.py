"""Recordings whose length is wrong, written anew: all of their sound, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from edgeasd.runtime.audio.reader import read_audio
from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.data.repair import repair

SOUND = np.random.default_rng(2).integers(-3000, 3000, 50_000).astype(np.int16)


@pytest.mark.parametrize("claimed", [0, 0x80000000, 20_000, 500_000])
def test_wav(tmp_path: Path, claimed: int) -> None:
    soundfile.write(path := tmp_path / "a.wav", SOUND, 16_000)
    whole = path.read_bytes()
    path.write_bytes(whole[:40] + claimed.to_bytes(4, "little") + whole[44:])
    result = repair(path)
    assert (result.path, result.seconds, result.is_changed) == (path, 3.125, True)
    assert path.read_bytes() == whole
    assert not repair(path).is_changed


@pytest.mark.parametrize("format", ["AIFF", "W64", "AU", "CAF", "RF64"])
def test_cut_off_containers(tmp_path: Path, format: str) -> None:
    soundfile.write(path := tmp_path / "a.x", SOUND, 16_000, format=format)
    path.write_bytes(path.read_bytes()[:60_000])
    with pytest.raises(InputError, match="edgeasd data repair"):
        read_audio(path)
    repair(path)
    read = read_audio(path) * 32768
    assert len(read) > 27_000
    np.testing.assert_array_equal(read, SOUND[: len(read)])


@pytest.mark.parametrize("kept", [0.3, 0.7, 1.0])
def test_flac_of_a_killed_encoder(tmp_path: Path, kept: float) -> None:
    soundfile.write(path := tmp_path / "a.flac", SOUND, 16_000)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    path.write_bytes(content[: int(kept * len(content))])
    repair(path)
    info = soundfile.info(str(path))
    assert abs(info.frames - kept * len(SOUND)) < 4500
    np.testing.assert_array_equal(read_audio(path) * 32768, SOUND[: info.frames])


def test_cut_off_flac(tmp_path: Path) -> None:
    soundfile.write(path := tmp_path / "a.flac", SOUND, 16_000)
    path.write_bytes(path.read_bytes()[:50_000])
    repair(path)
    read = read_audio(path) * 32768
    assert len(read) > 10_000
    np.testing.assert_array_equal(read, SOUND[: len(read)])


def test_cut_off_ogg_is_decoded_beside(tmp_path: Path) -> None:
    soundfile.write(path := tmp_path / "a.ogg", np.tile(SOUND, 4), 16_000)
    before = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes(before)
    result = repair(path)
    assert result.path == tmp_path / "a.flac"
    assert len(read_audio(result.path)) > 16_000
    assert path.read_bytes() == before


def test_what_cannot_be_repaired_is_left_as_it_was(tmp_path: Path) -> None:
    (path := tmp_path / "a.wav").write_bytes(b"no sound at all" * 100)
    with pytest.raises(InputError, match="not a sound file"):
        repair(path)
    soundfile.write(flac := tmp_path / "a.flac", SOUND, 16_000)
    two = flac.read_bytes()
    soundfile.write(flac, np.tile(SOUND, 2), 16_000)
    flac.write_bytes(two + flac.read_bytes())
    content = flac.read_bytes()
    with pytest.raises(InputError, match="cannot be repaired"):
        repair(flac)
    assert flac.read_bytes() == content
