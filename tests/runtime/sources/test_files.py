"""Files and folders as sources: every sample in order, loops, pacing, and bad files named."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edgeasd.runtime.audio.reader import read_audio
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.sources import FileSource, PlaylistSource, Source, SourceSettings, open_source

pytestmark = [pytest.mark.core, pytest.mark.timeout(30)]


def clip(path: Path, samples: int = 5000, seed: int = 0, rate: int = 16000) -> np.ndarray:
    sound = np.random.default_rng(seed).integers(-32768, 32768, samples).astype(np.int16)
    soundfile.write(path, sound, rate)
    return sound


def drain(source: Source, most: int = 1 << 30) -> np.ndarray:
    parts: list[np.ndarray] = []
    end = 0
    while end < most and (chunk := source.read()) is not None:
        assert (chunk.samples.ndim, chunk.samples.dtype) == (1, np.float32)
        assert (chunk.start_sample, chunk.discontinuity) == (end, False)
        assert chunk.end_sample > end
        end = chunk.end_sample
        parts.append(chunk.samples)
    source.close()
    return np.concatenate(parts)[:most]


# One file


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


def test_real_time_counts_from_the_start(tmp_path: Path) -> None:
    soundfile.write(path := tmp_path / "a.wav", np.zeros(16000), 16000)
    source = FileSource(path, realtime=True)
    start = time.monotonic()
    while (chunk := source.read()) is not None:
        assert time.monotonic() - start >= chunk.end_sample / 16000 - 0.001
        if chunk.end_sample == 4096:
            time.sleep(0.6)  # a late reader: pacing per block would end 0.6 s late
    assert 0.99 < time.monotonic() - start < 1.55


def test_close_ends_a_paced_read(tmp_path: Path) -> None:
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


def damage(path: Path) -> None:
    """Zeros in the middle of a file."""
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(1000))


def test_damaged_flac_is_an_error_after_its_sound(tmp_path: Path) -> None:
    samples = np.random.default_rng(1).integers(-32768, 32768, 100_000).astype(np.int16)
    soundfile.write(path := tmp_path / "a.flac", samples, 16000)
    damage(path)
    source = FileSource(path, block=4096)
    chunk = source.read()
    assert chunk is not None
    np.testing.assert_array_equal(chunk.samples * 32768, samples[:4096])
    with pytest.raises(InputError, match="cut off"):
        while source.read() is not None:
            pass


# Several files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "clips").mkdir()
    return tmp_path / "clips"


def test_folder_is_one_sound_in_name_order(folder: Path) -> None:
    sounds = {name: clip(folder / name, 4000 + at, at) for at, name in enumerate(["b.wav", "a.flac", "C.WAV"])}
    (folder / "readme.txt").write_text("no sound")
    (folder / "._a.wav").write_text("left by a Mac")
    source = open_source(SourceSettings(input=str(folder)))
    assert source.name == f"{folder}, 3 files"
    expected = np.concatenate([sounds[name] for name in ("C.WAV", "a.flac", "b.wav")])
    np.testing.assert_array_equal(drain(source) * 32768, expected)
    joints = [(str(event.kind), event.detail, event.at_sample) for event in source.take_events()]
    assert joints == [
        ("playing", f"{folder}/C.WAV", 0),
        ("playing", f"{folder}/a.flac", 4002),
        ("playing", f"{folder}/b.wav", 8003),
    ]


@pytest.mark.parametrize("what", ["file", "folder"])
def test_loop_begins_again_without_a_gap(folder: Path, what: str) -> None:
    sound = np.concatenate([clip(folder / "a.wav", 3000, 1)] + ([clip(folder / "b.wav", 2000, 2)] * (what == "folder")))
    source = open_source(SourceSettings(input=str(folder / "a.wav" if what == "file" else folder), loop=True))
    assert source.name.endswith(", looped")
    np.testing.assert_array_equal(drain(source, 14_000) * 32768, np.tile(sound, 5)[:14_000])
    assert source.read() is None


def hostile(folder: Path) -> list[str]:
    """Bad files of every kind, between good ones; their names in order."""
    clip(folder / "a.wav", 3000, 1)
    (folder / "b_empty.wav").write_bytes(b"")
    (folder / "c_text.wav").write_text("not sound at all " * 20)
    clip(folder / "d_cut.wav", 5000)
    os.truncate(folder / "d_cut.wav", 3000)
    clip(folder / "e_rate.wav", 5000, rate=44100)
    soundfile.write(folder / "f_stereo.wav", np.zeros((100, 2)), 16000)
    os.mkfifo(folder / "g_fifo.wav")
    (folder / "h_folder.wav").mkdir()
    (folder / "i_link.wav").symlink_to(folder / "nowhere.wav")
    soundfile.write(folder / "j_nan.wav", np.array([0.1, np.nan]), 16000, subtype="FLOAT")
    clip(folder / "z.flac", 3000, 2)
    return sorted(p.name for p in folder.iterdir() if p.name[0] not in "az")


def test_bad_files_are_an_error_unless_skipped(folder: Path) -> None:
    bad = hostile(folder)
    with pytest.raises(InputError, match="b_empty.wav: is empty"):
        open_source(SourceSettings(input=str(folder)))
    source = open_source(SourceSettings(input=str(folder), skip_bad=True))
    np.testing.assert_array_equal(
        drain(source) * 32768,
        np.concatenate([soundfile.read(folder / n, dtype="int16")[0] for n in ("a.wav", "z.flac")]),
    )
    skipped = [event.detail for event in source.take_events() if str(event.kind) == "skipped"]
    assert [Path(line.split(":")[0]).name for line in skipped] == bad


def test_rest_of_a_damaged_file_is_skipped(folder: Path) -> None:
    clip(folder / "a.flac", 100_000)
    damage(folder / "a.flac")
    clip(folder / "b.wav", 3000, 2)
    with pytest.raises(InputError, match="cut off"):
        drain(open_source(SourceSettings(input=str(folder))))
    source = open_source(SourceSettings(input=str(folder), skip_bad=True))
    assert 3000 < len(drain(source)) < 60_000
    assert [str(event.kind) for event in source.take_events()] == ["playing", "skipped", "playing"]


def test_folder_without_a_good_file_is_an_error(folder: Path) -> None:
    with pytest.raises(InputError, match="holds no WAV or FLAC file"):
        open_source(SourceSettings(input=str(folder)))
    (folder / "a.wav").write_bytes(b"x")
    with pytest.raises(InputError, match=r"no file of 1 can be used, the last because of .*a\.wav: not a sound file"):
        open_source(SourceSettings(input=str(folder), skip_bad=True))


def test_loop_over_files_that_went_bad_ends(folder: Path) -> None:
    clip(folder / "a.wav", 3000)
    source = open_source(SourceSettings(input=str(folder), loop=True, skip_bad=True))
    assert source.read() is not None
    (folder / "a.wav").unlink()
    with pytest.raises(InputError, match="not one sample in any file"):
        drain(source)


def test_real_time_goes_on_from_file_to_file(folder: Path) -> None:
    for at in range(4):
        clip(folder / f"{at}.wav", 2000, at)
    source = open_source(SourceSettings(input=str(folder), realtime=True))
    began = time.monotonic()
    assert len(drain(source)) == 8000
    # Sound counted over all files, from a time that begins anew at each, would take 1.25 s.
    assert 0.49 < time.monotonic() - began < 1.2


def test_each_file_is_resampled_by_itself(folder: Path) -> None:
    for at, rate in enumerate((48000, 44100, 16000)):
        clip(folder / f"{at}.wav", rate, at, rate)
    alone = [drain(FileSource(folder / f"{at}.wav", resample=True)) for at in range(3)]
    np.testing.assert_array_equal(
        drain(open_source(SourceSettings(input=str(folder), resample=True))), np.concatenate(alone)
    )


def test_closed_playlist_reads_nothing(folder: Path) -> None:
    clip(folder / "a.wav", 16000)
    source = PlaylistSource([folder / "a.wav"], realtime=True)
    source.read()
    source.close()
    source.close()
    assert source.read() is None
