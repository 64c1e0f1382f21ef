"""Clips are found in both layouts, and nothing that does not fit passes unnoticed."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.record.clip_folder import label_folder
from edgeasd.toolkit.data.clips import content_hash, content_hashes, select_clips
from edgeasd.toolkit.data.dcase import parse_attributes
from edgeasd.toolkit.data.layouts import find_clips

pytestmark = pytest.mark.core


def touch(root: Path, *names: str) -> Path:
    """Empty files are enough: a layout reads names, never sound."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def test_plain_layout_is_read_with_both_spellings(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "valve/id_00/abnormal/b.WAV",
        "valve/id_00/normal/a.wav",
        "valve/02/anomaly/c.flac",
        "pump/1/normal/d.wav",
    )
    clips = find_clips(tmp_path)
    found = [(c.machine, c.id, c.label, c.split, c.domain, c.path.name) for c in clips]
    assert found == [
        ("pump", "1", "normal", None, None, "d.wav"),
        ("valve", "00", "anomaly", None, None, "b.WAV"),
        ("valve", "00", "normal", None, None, "a.wav"),
        ("valve", "02", "anomaly", None, None, "c.flac"),
    ]
    assert all(c.path.is_file() for c in clips)
    assert [c.machine for c in find_clips(tmp_path, machine="pump")] == ["pump"]


def test_hidden_files_extras_and_loops_are_ignored(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "fan/00/normal/a.wav",
        "fan/00/normal/.DS_Store",
        "fan/00/normal/._a.wav",
        "fan/.trash/x.wav",
        "fan/readme.md",
        "fan/00/normal/notes.txt",
        ".cache/00/normal/b.wav",
        "papers/p.pdf",
    )
    (tmp_path / "fan/00/normal/loop").symlink_to(tmp_path / "fan")
    (tmp_path / "fan/00/normal/self.wav").symlink_to("self.wav")
    assert [c.path.name for c in find_clips(tmp_path)] == ["a.wav"]


def test_a_link_inside_the_root_is_followed(tmp_path: Path) -> None:
    touch(tmp_path, "fan/00/normal/a.wav")
    (tmp_path / "fan/01").symlink_to(tmp_path / "fan/00")
    assert [c.id for c in find_clips(tmp_path)] == ["00", "01"]


@pytest.mark.parametrize("link", ["fan/00/normal/b.wav", "fan/01", "pump"])
def test_a_link_out_of_the_root_is_refused_by_name(tmp_path: Path, link: str) -> None:
    root = touch(tmp_path / "root", "fan/00/normal/a.wav")
    outside = touch(tmp_path / "root-elsewhere", "normal/b.wav")
    target = outside / "normal/b.wav" if link.endswith(".wav") else outside
    (root / link).symlink_to(target)
    with pytest.raises(InputError, match=f"{link}: a link to .*outside the data root"):
        find_clips(root)


def test_a_root_that_is_itself_a_link_is_fine(tmp_path: Path) -> None:
    real = touch(tmp_path / "real", "fan/00/normal/a.wav")
    (tmp_path / "link").symlink_to(real)
    assert find_clips(tmp_path / "link")[0].path == tmp_path / "link/fan/00/normal/a.wav"


def test_dangling_link_is_listed_so_that_reading_complains(tmp_path: Path) -> None:
    touch(tmp_path, "fan/00/normal/a.wav")
    (tmp_path / "fan/00/normal/b.wav").symlink_to(tmp_path / "gone.wav")
    clips = find_clips(tmp_path)
    assert len(clips) == 2
    with pytest.raises(InputError, match=r"b\.wav: cannot be read"):
        content_hash(clips[1].path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "train/section_00_source_train_normal_0001_car_B1_spd_31V_mic_1.flac",
            ("00", "normal", "train", "source", (("car", "B1"), ("spd", "31V"), ("mic", "1"))),
        ),
        (
            "test/section_02_target_test_anomaly_0033_m-n_X.wav",
            ("02", "anomaly", "test", "target", (("m-n", "X"),)),
        ),
        (
            "target_test/section_01_target_test_normal_0011_strength_1_ambient.wav",
            ("01", "normal", "test", "target", (("strength", "1"), ("ambient", ""))),
        ),
        (
            "train/section_00_source_train_normal_0000_noAttribute.wav",
            ("00", "normal", "train", "source", ()),
        ),
        ("train/section_00_source_train_normal_0000.wav", ("00", "normal", "train", "source", ())),
        ("source_test/section_03_source_test_0000.wav", ("03", "unknown", "test", "source", ())),
        ("test/section_00_0000.wav", ("00", "unknown", "test", None, ())),
        ("train/normal_id_04_00000000.wav", ("04", "normal", "train", None, ())),
        ("test/anomaly_id_00_00000001.wav", ("00", "anomaly", "test", None, ())),
        ("test/id_01_00000000.wav", ("01", "unknown", "test", None, ())),
    ],
)
def test_section_names_of_every_year(tmp_path: Path, name: str, expected: tuple[object, ...]) -> None:
    (clip,) = find_clips(touch(tmp_path, f"gearbox/{name}"))
    assert (clip.id, clip.label, clip.split, clip.domain, clip.attributes) == expected


CAR = "section_00_source_train_normal_0001_car_B1_spd_31V.wav"


@pytest.mark.parametrize(
    ("machine", "id_attribute", "id"),
    [
        ("ToyCar", None, "B1"),
        ("ToyCar", "section", "00"),
        ("ToyCar", "spd", "31V"),
        ("gearbox", None, "00"),
        ("gearbox", "car", "B1"),
    ],
)
def test_an_id_is_the_section_unless_told_otherwise(
    tmp_path: Path, machine: str, id_attribute: str | None, id: str
) -> None:
    touch(tmp_path, f"{machine}/train/{CAR}")
    assert find_clips(tmp_path, id_attribute=id_attribute)[0].id == id


def test_toycar_names_without_a_car_fall_back_to_the_section(tmp_path: Path) -> None:
    touch(tmp_path, f"ToyCar/train/{CAR}", "ToyCar/test/section_00_0000.wav")
    assert [c.id for c in find_clips(tmp_path)] == ["00", "B1"]
    with pytest.raises(InputError, match=r"section_00_0000\.wav: the name carries no attribute 'car'.*'section'"):
        find_clips(tmp_path, id_attribute="car")


def test_supplemental_recordings_are_set_aside(tmp_path: Path) -> None:
    touch(tmp_path, "fan/train/section_00_source_train_normal_0000_v_1.wav", "fan/supplemental/any_name.wav")
    assert len(find_clips(tmp_path)) == 1


def test_every_name_that_does_not_parse_is_named_with_the_form(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "fan/train/section_00_source_train_normal_0000.wav",
        "fan/train/take_1.wav",
        "fan/test/sectio_2.wav",
    )
    with pytest.raises(InputError) as caught:
        find_clips(tmp_path)
    message = str(caught.value)
    assert "take_1.wav" in message
    assert "sectio_2.wav" in message
    assert "section_00_source_train_normal_0001" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("fan/00/normal/a.wav", "fan/00/b.wav"), r"fan/00/b\.wav: lies outside <machine>/<id>"),
        (("fan/00/normal/a.wav", "fan/00/normal/day2/b.wav"), r"day2/b\.wav: lies outside"),
        (("fan/train/section_00_source_test_normal_0001.wav",), "the name says test, the folder train"),
        (("fan/00/normal/a.wav", "fan/id_00/normal/b.wav"), "the folders 00 and id_00 both mean ID 00"),
        (("fan/00/normal/a.wav", "fan/test/section_00_0000.wav"), "fan: mixes the layouts"),
        (
            ("fan/a.wav", "fan/b.wav"),
            r"no clips in a known layout; expected <machine>/<id>.* or <machine>/\{train",
        ),
        ((), "no clips in a known layout"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    touch(tmp_path, *names)
    with pytest.raises(InputError, match=message):
        find_clips(tmp_path)


def test_roots_and_machines_that_are_not_there(tmp_path: Path) -> None:
    touch(tmp_path, "fan/00/normal/a.wav", "pump/00/normal/a.wav")
    with pytest.raises(InputError, match="nowhere: no such folder"):
        find_clips(tmp_path / "nowhere")
    with pytest.raises(InputError, match="not a folder"):
        find_clips(tmp_path / "fan/00/normal/a.wav")
    with pytest.raises(InputError, match=r"no machine 'Fan'; present: fan, pump"):
        find_clips(tmp_path, machine="Fan")
    with pytest.raises(InputError, match="pass its parent"):
        find_clips(tmp_path / "fan")
    with pytest.raises(InputError, match="names no attribute 'car'"):
        find_clips(tmp_path, id_attribute="car")


def test_choosing_a_machine_and_an_id(tmp_path: Path) -> None:
    clips = find_clips(touch(tmp_path, "fan/id_00/normal/a.wav", "fan/02/normal/b.wav", "pump/00/normal/c.wav"))
    assert len(select_clips(clips, machine="fan")) == 2
    assert select_clips(clips, machine="fan", id="id_02") == select_clips(clips, machine="fan", id="02")
    with pytest.raises(InputError, match="no ID '03' in the data; pass one of: 00, 02"):
        select_clips(clips, machine="fan", id="03")
    with pytest.raises(InputError, match="machine 'valve': not in the data; pass one of: fan, pump"):
        select_clips(clips, machine="valve")


def test_content_hashes_name_every_unreadable_file(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    good, gone, folder = tmp_path / "a.wav", tmp_path / "gone.wav", tmp_path
    expected = {good: hashlib.sha256(b"a.wav").hexdigest()}
    with pytest.raises(InputError, match=r"2 of 3 files .*gone\.wav: cannot be read \(No such file.*Is a directory"):
        content_hashes([good, gone, folder])
    hashes, bad = content_hashes([good, gone, folder], skip_bad=True)
    assert hashes == expected
    assert [path for path, _ in bad] == [gone, folder]


def test_a_file_that_changed_is_hashed_again(tmp_path: Path) -> None:
    clip = tmp_path / "a.wav"
    for content in (b"first", b"other", b"longer than before"):
        clip.write_bytes(content)
        os.utime(clip, ns=(0, 0))
        assert content_hash(clip) == hashlib.sha256(content).hexdigest()
        time.sleep(0.02)


def test_a_file_that_did_not_change_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.wav")
    first = content_hash(tmp_path / "a.wav")
    monkeypatch.setattr("builtins.open", None)
    assert content_hash(tmp_path / "a.wav") == first


words = st.text(st.characters(categories=("L", "N"), include_characters="-."), min_size=1, max_size=6)


@given(st.lists(st.tuples(words, words), max_size=6))
def test_attributes_survive_the_way_through_a_name(pairs: list[tuple[str, str]]) -> None:
    assert parse_attributes("_".join(word for pair in pairs for word in pair)) == tuple(pairs)


@pytest.mark.shared_data
def test_the_real_toycar_set_is_read_in_full() -> None:
    data = os.environ.get("EDGEASD_TEST_DATA") or Path(__file__).resolve().parents[3] / "../shared/data"
    root = Path(data) / "dcase2023_toycar"
    if not root.is_dir():
        pytest.skip(f"no real machine sound at {root}; set EDGEASD_TEST_DATA")
    clips = find_clips(root, machine="ToyCar")
    assert len(clips) == 810
    assert sorted({c.id for c in clips}) == ["A1", "A2", "B1", "B2", "C1", "C2", "D1", "D2", "E1", "E2"]
    assert Counter((c.split, c.domain, c.label) for c in clips) == {
        ("train", "source", "normal"): 600,
        ("train", "target", "normal"): 10,
        ("test", "source", "normal"): 50,
        ("test", "source", "anomaly"): 50,
        ("test", "target", "normal"): 50,
        ("test", "target", "anomaly"): 50,
    }
    assert {c.id for c in find_clips(root, id_attribute="section")} == {"00"}


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("valve/normal/1.wav", "valve: the ID folder is missing above normal/; move it to .*valve/00/normal"),
        (
            "normal/1.wav",
            "the folders of machine type and ID are missing above normal/; move it to .*MACHINE/00/normal",
        ),
        ("valve/00/1.wav", "valve/00: the folder normal/ is missing; move its clips to .*valve/00/normal"),
    ],
)
def test_a_wrong_layout_is_named_by_what_is_missing(tmp_path: Path, file: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_clips(touch(tmp_path, file))


def test_names_are_one_however_unicode_is_composed(tmp_path: Path) -> None:
    composed, apart = "M\u00fchle", "Mu\u0308hle"
    folder = tmp_path / apart / apart / "normal"
    folder.mkdir(parents=True)
    soundfile.write(folder / "a.wav", np.zeros(16_000), 16_000)
    (clip,) = find_clips(tmp_path, machine=composed)
    assert (clip.machine, clip.id) == (composed, composed)
    assert select_clips([clip], machine=apart, id=apart) == [clip]
    assert label_folder(tmp_path, composed, composed, "normal") == folder
    assert label_folder(tmp_path, composed, "01", "normal") == tmp_path / apart / "01" / "normal"
