"""Every published layout under its official names, in small: what is found, heard, labelled and kept apart."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.runtime.audio.reader import read_audio
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.features.logmel import Amplitude, FeatureSettings, logmel
from edgeasd.toolkit.cli.data import print_scan
from edgeasd.toolkit.data.cache import FeatureCache
from edgeasd.toolkit.data.clips import Clip, content_hash
from edgeasd.toolkit.data.ground_truth import Row, label_clips, read_ground_truth
from edgeasd.toolkit.data.layouts import find_clips, is_wrapper, noise_level
from edgeasd.toolkit.data.machine import MachineData, load_machine
from edgeasd.toolkit.data.scan import scan
from edgeasd.toolkit.data.split import describe_copies

pytestmark = pytest.mark.core

_noise = np.random.default_rng(5)


def write(root: Path, names: Iterator[str] | list[str], channels: int = 1, seconds: float = 0.1) -> Path:
    """A different noise for every name."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, _noise.uniform(-0.3, 0.3, (int(16000 * seconds), channels)), 16000)
    return root


# Trees. Official names; counts are a hundredth of those published, or less.

IDS_2020 = {
    "fan": (("00", "02", "04", "06"), ("01", "03", "05")),
    "pump": (("00", "02", "04", "06"), ("01", "03", "05")),
    "slider": (("00", "02", "04", "06"), ("01", "03", "05")),
    "valve": (("00", "02", "04", "06"), ("01", "03", "05")),
    "ToyCar": (("01", "02", "03", "04"), ("05", "06", "07")),
    "ToyConveyor": (("01", "02", "03"), ("04", "05", "06")),
}


def of_2020(machine: str, development: str = "", evaluation: str = "") -> Iterator[str]:
    for id in IDS_2020[machine][0]:
        yield from (f"{development}{machine}/train/normal_id_{id}_{i:08}.wav" for i in range(5))
        yield f"{development}{machine}/test/normal_id_{id}_00000000.wav"
        yield from (f"{development}{machine}/test/anomaly_id_{id}_{i:08}.wav" for i in range(3))
    for id in IDS_2020[machine][1]:
        yield from (f"{evaluation}{machine}/train/normal_id_{id}_{i:08}.wav" for i in range(5))
        yield from (f"{evaluation}{machine}/test/id_{id}_{i:08}.wav" for i in range(4))


def of_2021() -> Iterator[str]:
    for section in ("00", "01", "02"):
        for domain, count in (("source", 10), ("target", 1)):
            tail = "strength_1_ambient" if domain == "source" else "strength_2_ambient"
            yield from (f"fan/train/section_{section}_{domain}_train_normal_{i:04}_{tail}.wav" for i in range(count))
            for label in ("normal", "anomaly"):
                yield f"fan/{domain}_test/section_{section}_{domain}_test_{label}_0000.wav"
    for section in ("03", "04", "05"):
        yield from (f"fan/train/section_{section}_source_train_normal_{i:04}_strength_1_ambient.wav" for i in range(10))
        for domain in ("source", "target"):
            yield from (f"fan/{domain}_test/section_{section}_{domain}_test_{i:04}.wav" for i in range(2))


def since_2022(machine: str, attributes: str, unlabelled: str | None = None) -> Iterator[str]:
    for domain, count in (("source", 10), ("target", 1)):
        yield from (f"{machine}/train/section_00_{domain}_train_normal_{i:04}_{attributes}.wav" for i in range(count))
    if unlabelled is not None:
        yield from (f"{machine}/test/{unlabelled.format(i)}" for i in range(2))
        return
    for domain in ("source", "target"):
        for label in ("normal", "anomaly"):
            yield f"{machine}/test/section_00_{domain}_test_{label}_0000_{attributes}.wav"


def supplemental(machine: str) -> Iterator[str]:
    yield from (f"{machine}/supplemental/section_00_machine_source_{i:04}_noAttribute.wav" for i in range(2))


def mimii(level: str, machines: tuple[str, ...] = ("fan", "pump")) -> Iterator[str]:
    for machine in machines:
        for id in ("id_00", "id_02"):
            around = f"{level}_{machine}/{machine}/{id}"
            yield from (f"{around}/normal/{i:08}.wav" for i in range(6))
            yield from (f"{around}/abnormal/{i:08}.wav" for i in range(2))


TREES: dict[str, tuple[list[str], int, int]] = {
    # name: (files, channels, files set aside)
    "2020": ([name for machine in IDS_2020 for name in of_2020(machine)], 1, 0),
    "2021": (list(of_2021()), 1, 0),
    "2022": ([*since_2022("bearing", "vel_6.2_loc_A"), *since_2022("valve", "v_1", "section_03_test_{:04}.wav")], 1, 0),
    "2023": ([*since_2022("gearbox", "volt_2.8_wt_50"), *since_2022("ToyTank", "n_1", "section_00_{:04}.wav")], 1, 0),
    "2024": ([*since_2022("fan", "noAttribute"), *since_2022("AirCompressor", "noAttribute")], 1, 0),
    "2025": ([*since_2022("fan", "noAttribute"), *supplemental("fan")], 1, 2),
    "2026": ([*since_2022("sliderEmu", "vel_300"), *since_2022("Sander", "noAttribute", "section_00_{:04}.wav")], 2, 0),
    "mimii": (list(mimii("6_dB")), 8, 0),
    "plain": ([f"lathe/7/{label}/{i}.wav" for label in ("normal", "anomaly") for i in range(3)], 1, 0),
}


def expected_counts(names: list[str]) -> Counter[tuple[str, ...]]:
    """(machine, label, split, domain) of every clip, told by words of its path alone."""

    def word(name: str, among: dict[str, str], otherwise: str) -> str:
        return next((value for key, value in among.items() if key in name), otherwise)

    labels = {"abnormal": "anomaly", "anomaly": "anomaly", "normal": "normal"}
    splits = {"test/": "test", "train/": "train"}
    domains = {"source_t": "source", "target_t": "target"}
    found: Counter[tuple[str, ...]] = Counter()
    for name in names:
        machine = name.split("/")[1 if "dB" in name else 0]
        if "supplemental" not in name:
            found[machine, word(name, labels, "unknown"), word(name, splits, "-"), word(name, domains, "-")] += 1
    return found


@pytest.mark.parametrize("tree", TREES)
def test_a_scan_counts_every_published_layout(tmp_path: Path, tree: str, capsys: pytest.CaptureFixture[str]) -> None:
    names, channels, aside = TREES[tree]
    root = write(tmp_path / "data", names, channels)
    first = root / names[0]
    copy = first.with_name(first.name.replace("0000", "9000") if "0000" in first.name else "9.wav")
    shutil.copy(first, copy)
    bad = first.with_name(first.name.replace("0000", "9001") if "0000" in first.name else "10.wav")
    bad.write_bytes(first.read_bytes()[:-100])
    report = scan(root)
    found: Counter[tuple[str, ...]] = Counter()
    for one in report.ids:
        for count in one.counts:
            found[one.machine, count.label, count.split or "-", count.domain or "-"] += count.clips
    expected = expected_counts([*names, *(str(path.relative_to(root)) for path in (copy, bad))])
    assert found == expected
    assert {one.layout for one in report.ids} == {{"mimii": "mimii 6 dB", "plain": "plain"}.get(tree, "dcase")}
    assert sum((Counter(one.channels) for one in report.ids), Counter()) == {channels: found.total() - 1}
    assert sum((Counter(one.sample_rates) for one in report.ids), Counter()) == {16000: found.total() - 1}
    assert {(one.seconds.min, one.seconds.max) for one in report.ids if one.seconds} == {(0.1, 0.1)}
    assert [path for path, _ in report.damaged] == [str(bad)]
    assert report.duplicates == [sorted([str(first), str(copy)])]
    assert sum(report.set_aside.values()) == aside
    if tree == "2020":
        ids = {(machine, id) for machine, parts in IDS_2020.items() for part in parts for id in part}
        assert {(one.machine, one.id) for one in report.ids} == ids
    assert report.unrecognised == {}
    print_scan(report)
    assert json.loads(json.dumps(report.to_json()))["ids"][0]["layout"] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("development", "evaluation"), [("dev_data/", "eval_data/"), ("dev_data/raw/", "eval_data/raw/")]
)
def test_parts_may_lie_in_folders_of_their_own(tmp_path: Path, development: str, evaluation: str) -> None:
    apart = find_clips(write(tmp_path / "apart", of_2020("fan", development, evaluation)))
    together = find_clips(write(tmp_path / "together", of_2020("fan")))
    assert Counter((c.id, c.split, c.label) for c in apart) == Counter((c.id, c.split, c.label) for c in together)
    assert {c.machine for c in find_clips(tmp_path / "apart", machine="fan")} == {"fan"}


def test_a_machine_may_be_called_like_a_wrapper(tmp_path: Path) -> None:
    write(tmp_path, ["raw/00/normal/a.wav", "dev_data/fan/train/normal_id_00_00000000.wav", "dev_data/stray.wav"])
    assert [c.machine for c in find_clips(tmp_path)] == ["fan", "raw"]
    assert scan(tmp_path).unrecognised == {str(tmp_path / "dev_data"): 1}


@pytest.mark.parametrize(
    ("name", "level"),
    [("6_dB_fan", "6 dB"), ("-6_dB_pump", "-6 dB"), ("0dB", "0 dB"), ("0_dB", "0 dB"), ("fan", None), ("dBfan", None)],
)
def test_the_folders_of_mimii_name_the_noise_level(name: str, level: str | None) -> None:
    assert noise_level(name) == level
    assert is_wrapper(name) == (level is not None)


def test_noise_levels_are_never_trained_together(tmp_path: Path) -> None:
    for level in ("6_dB", "-6_dB"):
        write(tmp_path, mimii(level), channels=8)
    layouts = Counter((one.machine, one.layout) for one in scan(tmp_path).ids)
    assert layouts == {(m, f"mimii {level} dB"): 2 for m in ("fan", "pump") for level in (6, -6)}
    with pytest.raises(InputError, match=r"2 noise levels: .*-6 dB \(.*\), 6 dB .*pass one of them"):
        find_clips(tmp_path)


def test_sound_that_the_official_baseline_copies_is_set_aside(tmp_path: Path) -> None:
    write(tmp_path, [*of_2020("fan"), "fan/test_rename/anomaly_id_01_00000000.wav"])
    assert scan(tmp_path).set_aside == {"fan": 1}


# One channel of several


def load(root: Path, machine: str, **options: Any) -> MachineData:
    options = {"holdout_fraction": 0.2, "test_fraction": 0.2, "seed": 0, **options}
    return load_machine(root, machine, cache_folder=root.parent / "cache", **options)


def test_clips_of_several_channels_ask_for_one(tmp_path: Path) -> None:
    root = write(tmp_path / "data", mimii("6_dB", ("fan",)), channels=8)
    with pytest.raises(InputError) as caught:
        load(root, "fan")
    message = str(caught.value)
    assert message.startswith("16 of 16 files cannot be used")
    assert message.count("8 channels, a model hears one; choose it with --channel 0 to 7") == 10
    assert message.endswith("; and 6 more")
    assert "--mix" not in message
    with pytest.raises(InputError, match="channel 8 is not there"):
        load(root, "fan", channel=8)


@pytest.mark.parametrize("channel", [0, 5])
def test_the_channel_asked_for_is_the_one_heard(tmp_path: Path, channel: int) -> None:
    root = write(tmp_path / "data", mimii("6_dB", ("fan",)), channels=8)
    load(root, "fan", channel=3 - channel // 5)  # what another channel left in the cache must not be taken
    data = load(root, "fan", channel=channel)
    clips = [c for split in data.splits["fan"].values() for c in split.train]
    sound = np.concatenate([soundfile.read(c.path)[0][:, channel] for c in clips])
    assert data.amplitude.mean == pytest.approx(sound.mean(), abs=1e-6)
    assert data.amplitude.std == pytest.approx(sound.std(), rel=1e-5)
    heard = logmel(read_audio(clips[0].path, channel=channel), data.cache.settings, data.amplitude)
    assert data.features(clips[0]).tobytes() == heard.tobytes()


def test_the_cache_keeps_channels_apart(tmp_path: Path) -> None:
    path = write(tmp_path, ["a.wav"], channels=2) / "a.wav"
    key, amplitude = content_hash(path), Amplitude()
    both = [FeatureCache(tmp_path / "cache", FeatureSettings(), c).features(path, key, amplitude) for c in (0, 1)]
    assert not np.array_equal(*both)
    assert len(list((tmp_path / "cache").glob("features-*"))) == 2
    assert len(list((tmp_path / "cache").glob("statistics-*"))) == 2
    path.unlink()
    again = FeatureCache(tmp_path / "cache", FeatureSettings(), 1).features(path, key, amplitude)
    np.testing.assert_array_equal(again, both[1])


def test_the_two_channels_of_2026_are_not_guessed(tmp_path: Path) -> None:
    root = write(tmp_path / "data", since_2022("sliderEmu", "vel_300"), channels=2)
    with pytest.raises(InputError, match="2 channels, a model hears one; choose it with --channel 0 to 1"):
        load(root, "sliderEmu")
    assert load(root, "sliderEmu", channel=0).cache.channel == 0


# Labels published later


def list_of_2020(folder: Path, machines: tuple[str, ...] = ("fan", "ToyCar")) -> Path:
    """eval_data_list.csv in an order of its own: every second clip of an ID is an anomaly."""
    lines: list[str] = []
    for machine in machines:
        rows = [
            f"id_{id}_{i:08}.wav,{'anomaly' if i % 2 else 'normal'}_id_{id}_{i // 2:08}.wav,{i % 2}"
            for id in IDS_2020[machine][1]
            for i in range(4)
        ]
        lines += [machine, *reversed(rows)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "eval_data_list.csv").write_text("\ufeff" + "\r\n".join(lines) + "\r\n", "utf-8")
    return folder


def test_labels_are_given_by_name_and_not_by_position(tmp_path: Path) -> None:
    root = write(tmp_path / "data", [*of_2020("fan"), *of_2020("ToyCar")])
    for machine in ("fan", "ToyCar"):
        data = load(root, machine, ground_truth=list_of_2020(tmp_path / "labels"))
        for id in IDS_2020[machine][1]:
            labels = {clip.path.name: clip.label for clip in data.split_for(id).test}
            assert labels == {f"id_{id}_{i:08}.wav": "anomaly" if i % 2 else "normal" for i in range(4)}
    unlabelled = load(root, "fan")
    labelled = load(root, "fan", ground_truth=tmp_path / "labels")
    one, two = unlabelled.split_for("01"), labelled.split_for("01")
    assert (one.normals, one.holdout_normals, one.outliers) == (two.normals, two.holdout_normals, two.outliers)


@pytest.mark.parametrize("inside", ["", "ground_truth_data"])
def test_lists_of_one_machine_and_section_are_read(tmp_path: Path, inside: str) -> None:
    root = write(tmp_path / "data", since_2022("ToyTank", "n_1", "section_00_{:04}.wav"))
    folder = tmp_path / "evaluator" / inside
    folder.mkdir(parents=True)
    (folder / "ground_truth_ToyTank_section_00_test.csv").write_text("section_00_0001.wav,1\nsection_00_0000.wav,0\n")
    (folder / "ground_truth_ToyTankEmu_section_00_test.csv").write_text("section_00_0000.wav,1\n")
    domains = tmp_path / "evaluator" / "ground_truth_domain"
    domains.mkdir()
    (domains / "ground_truth_ToyTank_section_00_test.csv").write_text("section_00_0000.wav,1\n")
    data = load(root, "ToyTank", ground_truth=tmp_path / "evaluator")
    assert {c.path.stem: c.label for c in data.split_for("00").test} == {
        "section_00_0000": "normal",
        "section_00_0001": "anomaly",
    }
    with pytest.raises(InputError, match="ground_truth_domain: holds no labels; name ground_truth_data"):
        load(root, "ToyTank", ground_truth=domains)


def test_everything_that_does_not_fit_is_listed_in_one_line(tmp_path: Path) -> None:
    root = write(tmp_path / "data", [*of_2020("fan")])
    labels = list_of_2020(tmp_path / "labels", ("fan",))
    path = labels / "eval_data_list.csv"
    text = path.read_bytes().decode("utf-8-sig")
    text = text.replace("\nid_01_00000000.wav", "\nid_01_00000077.wav").replace("_00000000.wav,0", "_00000000.wav,1", 1)
    path.write_bytes((text + "id_03_00000001.wav,normal_id_03_00000099.wav,0\r\n").encode())
    (labels / "ground_truth_fan_id_00_test.csv").write_text("anomaly_id_00_00000000.wav,0\n")
    with pytest.raises(InputError) as caught:
        load(root, "fan", ground_truth=labels)
    message = str(caught.value)
    assert "1 test clips without a label: id_01_00000000.wav;" in message
    assert "1 labels without a test clip: id_01_00000077;" in message
    assert "3 contradictions: " in message
    assert "id_03_00000001: anomaly (eval_data_list.csv line" in message
    assert "and normal (eval_data_list.csv line 14)" in message
    assert "called normal_id_" in message
    assert "anomaly_id_00_00000000.wav: normal (ground_truth_fan_id_00_test.csv line 1)" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fan\nid_01_00000000.wav,2\n", r"line 2: 'id_01_00000000\.wav,2'; expected `name,0`"),
        ("pump\nid_01_00000000.wav,1\n", "no labels of fan; expected ground_truth_fan_id_05_test.csv"),
        ("", "no labels of fan"),
    ],
)
def test_a_list_that_says_nothing_or_nonsense_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "eval_data_list.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_ground_truth(tmp_path, "fan")


def test_a_list_that_is_missing_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        read_ground_truth(tmp_path / "nowhere", "fan")
    (tmp_path / "eval_data_list.csv").write_bytes(b"fan\n\xff\xfe\x00,1\n")
    with pytest.raises(InputError, match="cannot be read as CSV"):
        read_ground_truth(tmp_path, "fan")


@given(st.dictionaries(st.integers(0, 10**7), st.booleans(), min_size=1, max_size=30), st.randoms())
@settings(deadline=None)
def test_any_order_of_rows_gives_the_same_labels(wanted: dict[int, bool], random: Any) -> None:
    clips = [Clip(Path(f"fan/test/id_01_{i:08}.flac"), "fan", "01", "unknown", "test") for i in wanted]
    rows = [Row(f"id_01_{i:08}", "anomaly" if bad else "normal", f"line {i}") for i, bad in wanted.items()]
    random.shuffle(rows)
    labelled = label_clips(clips, "fan", rows, Path("labels"))
    assert [clip.label == "anomaly" for clip in labelled] == list(wanted.values())
    with pytest.raises(InputError, match=f"1 test clips without a label: id_01_{next(iter(wanted)):08}"):
        label_clips(clips, "fan", [row for row in rows if row.name != clips[0].path.stem], Path("labels"))


# Copies across train and test


def test_a_copy_of_a_test_clip_does_not_train(tmp_path: Path) -> None:
    root = write(tmp_path / "data", [*of_2020("fan"), *of_2020("pump")])
    test = root / "fan/test/normal_id_00_00000000.wav"
    own, lent = root / "fan/train/normal_id_00_00000000.wav", root / "pump/train/normal_id_02_00000003.wav"
    for path in (own, lent):
        shutil.copy(test, path)
    shutil.copy(root / "fan/train/normal_id_00_00000001.wav", root / "fan/train/normal_id_00_00000002.wav")
    data = load(root, "fan")
    assert data.copies == [(own, test), (lent, test)]
    split = data.split_for("00")
    training = {c.path for c in (*split.normals, *split.outliers, *split.holdout_normals, *split.holdout_outliers)}
    assert not training & {own, lent}
    assert load(root, "pump").copies == [], "a copy of a fan's test clip may train among pumps, where fans do not judge"
    line = describe_copies(data.copies * 4)
    assert "8 training clips are copies of test clips" in line
    assert line.count(" = ") == 5
    assert line.endswith("and 3 more")
    assert describe_copies(data.copies).endswith(f"{lent} = {test}")


def test_copies_that_share_a_side_by_themselves_are_no_news(tmp_path: Path) -> None:
    root = write(tmp_path / "data", [f"valve/{id}/normal/{i}.wav" for id in ("00", "02") for i in range(5)])
    shutil.copy(root / "valve/00/normal/0.wav", root / "valve/00/normal/copy.wav")
    for seed in range(4):
        assert load(root, "valve", seed=seed).copies == []
