"""Files and folders as one sound: in order, again and again, paced, with bad files named."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.sources import FileSource, PlaylistSource, Source, open_source

pytestmark = [pytest.mark.core, pytest.mark.timeout(30)]


def clip(path: Path, samples: int = 5000, seed: int = 0, rate: int = 16000) -> np.ndarray:
    sound = np.random.default_rng(seed).integers(-32768, 32768, samples).astype(np.int16)
    soundfile.write(path, sound, rate)
    return sound


def drain(source: Source, most: int = 1 << 30) -> np.ndarray:
    blocks: list[np.ndarray] = []
    while sum(map(len, blocks)) < most and (block := source.read()) is not None:
        blocks.append(block)
    source.close()
    return np.concatenate(blocks)[:most]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "clips").mkdir()
    return tmp_path / "clips"


def test_a_folder_is_one_sound_in_name_order_with_its_joints_stated(folder: Path) -> None:
    sounds = {name: clip(folder / name, 4000 + at, at) for at, name in enumerate(["b.wav", "a.flac", "C.WAV"])}
    (folder / "readme.txt").write_text("no sound")
    (folder / "._a.wav").write_text("left by a Mac")
    source = open_source(input=str(folder))
    assert source.name == f"{folder}, 3 files"
    expected = np.concatenate([sounds[name] for name in ("C.WAV", "a.flac", "b.wav")])
    np.testing.assert_array_equal(drain(source) * 32768, expected)
    joints = [(event.state, event.detail, event.at_sample) for event in source.events]  # type: ignore[attr-defined]
    assert joints == [
        ("playing", f"{folder}/C.WAV", 0),
        ("playing", f"{folder}/a.flac", 4002),
        ("playing", f"{folder}/b.wav", 8003),
    ]


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_loop_begins_again_without_a_gap(folder: Path, what: str) -> None:
    sound = np.concatenate([clip(folder / "a.wav", 3000, 1)] + ([clip(folder / "b.wav", 2000, 2)] * (what == "folder")))
    source = open_source(input=str(folder / "a.wav" if what == "file" else folder), loop=True)
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


def test_bad_files_end_it_before_the_start_unless_they_are_to_be_skipped(folder: Path) -> None:
    bad = hostile(folder)
    with pytest.raises(InputError, match="b_empty.wav: is empty"):
        open_source(input=str(folder))
    source = open_source(input=str(folder), skip_bad=True)
    np.testing.assert_array_equal(
        drain(source) * 32768,
        np.concatenate([soundfile.read(folder / n, dtype="int16")[0] for n in ("a.wav", "z.flac")]),
    )
    skipped = [event.detail for event in source.events if event.state == "skipped"]  # type: ignore[attr-defined]
    assert [Path(line.split(":")[0]).name for line in skipped] == bad


def test_damage_in_the_middle_is_named_and_the_rest_of_the_file_left_out(folder: Path) -> None:
    clip(folder / "a.flac", 100_000)
    os.truncate(folder / "a.flac", (folder / "a.flac").stat().st_size // 2)
    clip(folder / "b.wav", 3000, 2)
    with pytest.raises(InputError, match="cut off"):
        drain(open_source(input=str(folder)))
    source = open_source(input=str(folder), skip_bad=True)
    assert 3000 < len(drain(source)) < 60_000
    assert [event.state for event in source.events] == ["playing", "skipped", "playing"]  # type: ignore[attr-defined]


def test_a_folder_without_one_good_file_is_an_error(folder: Path) -> None:
    with pytest.raises(InputError, match="holds no WAV or FLAC file"):
        open_source(input=str(folder))
    (folder / "a.wav").write_bytes(b"x")
    with pytest.raises(InputError, match=r"no file of 1 can be used, the last because of .*a\.wav: not a sound file"):
        open_source(input=str(folder), skip_bad=True)


def test_a_loop_over_files_that_went_bad_ends(folder: Path) -> None:
    clip(folder / "a.wav", 3000)
    source = open_source(input=str(folder), loop=True, skip_bad=True)
    assert source.read() is not None
    (folder / "a.wav").unlink()
    with pytest.raises(InputError, match="not one sample in any file"):
        drain(source)


def test_real_time_runs_on_over_the_joints(folder: Path) -> None:
    for at in range(4):
        clip(folder / f"{at}.wav", 4000, at)
    source = open_source(input=str(folder), realtime=True)
    began = time.monotonic()
    assert len(drain(source)) == 16_000
    # Sound counted over the joints, from a time that begins anew at each, would take 2.5 s.
    assert 0.99 < time.monotonic() - began < 2.4


def test_each_file_is_resampled_by_itself(folder: Path) -> None:
    for at, rate in enumerate((48000, 44100, 16000)):
        clip(folder / f"{at}.wav", rate, at, rate)
    alone = [drain(FileSource(folder / f"{at}.wav", resample=True)) for at in range(3)]
    np.testing.assert_array_equal(drain(open_source(input=str(folder), resample=True)), np.concatenate(alone))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "hw:1", "loop": True}, "hw:1: --loop and --skip-bad are for files"),
        ({"input": "-", "skip_bad": True}, "standard input: --loop and --skip-bad are for files"),
        ({"input": "a.wav", "skip_bad": True}, "a.wav: --skip-bad is for a folder"),
        ({"input": "a.wav", "once": True}, "a.wav: --once is for commands"),
        ({"device": "hw:1", "once": True}, "hw:1: --once is for commands"),
        ({"input_command": "cat", "realtime": True}, "--input-command: --realtime is for files"),
        ({"input_command": "cat", "resample": True}, "--input-command: --resample is for files and devices"),
        ({"input_command": "cat", "input": "-"}, "one source is needed"),
        ({"input": "a\0b", "loop": True}, "not a file name"),
    ],
)
def test_options_that_do_not_fit_the_source(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_source(**options)


def test_close_ends_a_read_that_waits(folder: Path) -> None:
    clip(folder / "a.wav", 16000)
    source = PlaylistSource([folder / "a.wav"], realtime=True)
    source.read()
    source.close()
    source.close()
    assert source.read() is None
