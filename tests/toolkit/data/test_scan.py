"""A scan tells what is there and what is wrong with it, and stops at nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.cli.data import print_scan
from edgeasd.toolkit.data.scan import scan

pytestmark = pytest.mark.core


def write(path: Path, seed: int, seconds: float = 1.0, rate: int = 16000, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).uniform(-0.3, 0.3, (int(seconds * rate), channels))
    soundfile.write(path, noise, rate)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for i, seconds in enumerate((1.0, 2.0, 4.0)):
        write(root / f"valve/id_00/normal/{i}.wav", i, seconds)
    write(root / "valve/id_00/anomaly/9.flac", 9, rate=44100, channels=2)
    (root / "valve/id_00/normal/copy.wav").write_bytes((root / "valve/id_00/normal/1.wav").read_bytes())
    (root / "valve/02/normal").mkdir(parents=True)
    (root / "valve/02/normal/text.wav").write_text("not audio")
    (root / "valve/02/normal/empty.wav").write_bytes(b"")
    write(root / "valve/02/normal/none.wav", 1, seconds=0)
    write(root / "valve/02/stray.wav", 30)
    write(root / "fan/train/section_00_source_train_normal_0000_noAttribute.flac", 20)
    write(root / "fan/test/section_00_target_test_anomaly_0000_v_1.flac", 21)
    write(root / "fan/supplemental/clean.wav", 22)
    write(root / "holiday/song.wav", 23)
    return root


def test_a_report_of_a_mixed_and_damaged_tree(root: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = scan(root, progress=lambda *at: seen.append(at))
    assert seen == [(i, 10) for i in range(1, 11)]
    by_id = {(r.machine, r.id): r for r in report.ids}
    assert list(by_id) == [("fan", "00"), ("valve", "00"), ("valve", "02")]
    fan, valve, bare = by_id.values()
    assert (fan.layout, valve.layout) == ("dcase", "plain")
    assert [(c.split, c.label, c.domain, c.clips) for c in fan.counts] == [
        ("test", "anomaly", "target", 1),
        ("train", "normal", "source", 1),
    ]
    assert {(c.label, c.clips) for c in valve.counts} == {("normal", 4), ("anomaly", 1)}
    assert valve.sample_rates == {16000: 4, 44100: 1}
    assert valve.channels == {1: 4, 2: 1}
    assert valve.seconds is not None
    assert (valve.seconds.min, valve.seconds.median, valve.seconds.max) == (1.0, 2.0, 4.0)
    assert bare.seconds is None
    reasons = {Path(path).name: reason for path, reason in report.damaged}
    assert sorted(reasons) == ["empty.wav", "none.wav", "stray.wav", "text.wav"]
    assert "not a sound file" in reasons["text.wav"]
    assert "holds no samples" in reasons["none.wav"]
    assert "lies outside" in reasons["stray.wav"]
    assert [[Path(p).name for p in group] for group in report.duplicates] == [["1.wav", "copy.wav"]]
    assert report.unrecognised == {str(root / "holiday"): 1}
    assert report.set_aside == {"fan": 1}


def test_a_cut_off_wav_shows_without_decoding(root: Path) -> None:
    bad = root / "valve/id_00/normal/2.wav"
    bad.write_bytes(bad.read_bytes()[:30_000])
    assert "cut off" in dict(scan(root).damaged)[str(bad)]


def test_only_a_deep_scan_decodes(root: Path) -> None:
    bad = root / "valve/id_00/anomaly/9.flac"
    whole = bad.read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    nan = root / "valve/id_00/normal/nan.wav"
    soundfile.write(nan, np.array([0.0] * 99 + [np.nan] * 3901, np.float32), 16000, subtype="FLOAT")
    shallow = {path for path, _ in scan(root).damaged}
    assert str(bad) in shallow  # its last frame is not the last sample
    assert str(nan) not in shallow
    deep = dict(scan(root, deep=True).damaged)
    assert {str(bad), str(nan)} <= set(deep)
    assert len(deep) == 6
    assert all("\n" not in reason for reason in deep.values())


def test_the_report_is_json_and_a_table(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = scan(root)
    assert json.loads(json.dumps(report.to_json()))["ids"][1]["counts"][0]["clips"] == 1
    print_scan(report)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["machine", "id", "split", "domain"]
    (valve,) = [line for line in lines if line.startswith("valve    00")]
    assert " ".join(valve.split()) == "valve 00 - - 4 1 0 16000,44100 1,2 1.00 / 2.00 / 4.00 plain"
    text = "\n".join(lines)
    for expected in (
        "10 clips, machines: 2, IDs: 3, damaged: 4",
        "copy.wav",
        "holiday: 1 audio files",
        "fan: 1 audio files",
    ):
        assert expected in text


def test_long_lists_are_counted_not_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "fan/00/normal/good.wav", 0)
    for i in range(25):
        (tmp_path / f"fan/00/normal/{i:02d}.wav").write_text("x")
    report = scan(tmp_path)
    assert len(report.damaged) == 25
    print_scan(report)
    assert "and 15 more" in capsys.readouterr().out


def test_an_empty_root_is_reported_and_a_missing_one_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_scan(scan(tmp_path))
    assert "no clips in a known layout" in capsys.readouterr().out
    with pytest.raises(InputError, match="no such folder"):
        scan(tmp_path / "missing")


@pytest.mark.shared_data
def test_the_real_toycar_set_is_clean() -> None:
    data = os.environ.get("EDGEASD_TEST_DATA") or Path(__file__).resolve().parents[3] / "../shared/data"
    root = Path(data) / "dcase2023_toycar"
    if not root.is_dir():
        pytest.skip(f"no real machine sound at {root}; set EDGEASD_TEST_DATA")
    report = scan(root)
    assert len(report.ids) == 10
    assert sum(c.clips for r in report.ids for c in r.counts) == 810
    assert (report.damaged, report.duplicates, report.unrecognised) == ([], [], {})
    assert all(r.sample_rates.keys() == {16000} and r.channels.keys() == {1} for r in report.ids)
    assert {(r.seconds.min, r.seconds.max) for r in report.ids if r.seconds} == {(12.0, 12.0)}
