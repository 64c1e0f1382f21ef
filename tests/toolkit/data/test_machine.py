"""Who plays which part for a model: normals, outliers from machines recorded alike, hold-out, test."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from edgeasd.runtime.audio.reader import read_audio
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.features.logmel import logmel
from edgeasd.toolkit.data.clips import Clip
from edgeasd.toolkit.data.machine import MachineData, MachineSplit, load_machine

pytestmark = pytest.mark.core

Counts = dict[tuple[str, str], tuple[int, int]]
"""(machine, ID) -> (normals, anomalies)."""


def write_clip(path: Path, seed: int, gain: float = 0.1, seconds: float = 0.5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = np.random.default_rng(seed).standard_normal(int(16000 * seconds)) * gain
    soundfile.write(path, sound.clip(-1, 1).astype(np.float32), 16000)


def write_tree(root: Path, counts: Counts) -> Path:
    seed = 0
    for (machine, id), (normals, anomalies) in counts.items():
        for label, count in (("normal", normals), ("anomaly", anomalies)):
            for i in range(count):
                seed += 1
                gain = 0.05 if machine in ("fan", "ToyCar") else 0.2
                write_clip(root / machine / id / label / f"{i}.wav", seed, gain)
    return root


def load(root: Path, machine: str, seed: int = 0, **options: Any) -> MachineData:
    options = {"holdout_fraction": 0.15, "test_fraction": 0.2, **options}
    return load_machine(root, machine, cache_folder=root.parent / "cache", seed=seed, **options)


def sources(clips: Iterable[Clip]) -> set[tuple[str, str]]:
    return {(clip.machine, clip.id) for clip in clips}


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both data sets of the paper, one machine of neither, two IDs each."""
    counts: Counts = {}
    for machine in ("fan", "pump", "slider", "valve", "ToyCar", "ToyConveyor", "lathe"):
        counts |= {(machine, "00"): (6, 2), (machine, "02"): (6, 0)}
    return write_tree(tmp_path_factory.mktemp("all") / "data", counts)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "data", {("valve", "00"): (10, 3), ("valve", "02"): (8, 1), ("fan", "00"): (8, 0)})


@pytest.mark.parametrize(
    ("machine", "pool"),
    [
        ("valve", {"fan", "pump", "slider", "valve"}),
        ("fan", {"fan", "pump", "slider", "valve"}),
        ("ToyCar", {"ToyCar", "ToyConveyor"}),
        ("ToyConveyor", {"ToyCar", "ToyConveyor"}),
        ("lathe", {"fan", "pump", "slider", "valve", "ToyCar", "ToyConveyor", "lathe"}),
    ],
)
def test_outliers_are_all_ids_recorded_alike_except_the_own_one(everything: Path, machine: str, pool: set[str]) -> None:
    split = load(everything, machine).split_for("02")
    expected = {(kind, id) for kind in pool for id in ("00", "02")} - {(machine, "02")}
    assert sources(split.outliers) == sources(split.holdout_outliers) == expected
    assert sources(split.normals) == sources(split.holdout_normals) == sources(split.test) == {(machine, "02")}
    assert {clip.label for clip in (*split.normals, *split.outliers)} == {"normal"}


def test_nothing_held_out_or_judged_is_trained_on(everything: Path) -> None:
    data = load(everything, "valve")
    for id in data.ids:
        split = data.trainable(id)
        trained = {data.hashes[c.path] for c in (*split.normals, *split.outliers)}
        kept_out = {data.hashes[c.path] for c in (*split.holdout_normals, *split.holdout_outliers, *split.test)}
        assert trained
        assert kept_out
        assert not trained & kept_out
    # An ID's hold-out is not lent to the others as outliers either.
    one, two = data.split_for("00"), data.split_for("02")
    assert not set(one.holdout_normals) & set(two.outliers)
    assert set(one.holdout_normals) <= set(two.holdout_outliers)


def test_each_machine_type_has_its_own_amplitude(root: Path) -> None:
    data = load(root, "valve")
    for machine, ids in (("valve", ("00", "02")), ("fan", ("00",))):
        clips = [c for id in ids for c in data.splits[machine][id].train]
        sound = np.concatenate([read_audio(c.path) for c in clips]).astype(np.float64)
        assert data.amplitudes[machine].mean == pytest.approx(sound.mean(), abs=1e-7)
        assert data.amplitudes[machine].std == pytest.approx(sound.std(), rel=1e-5)
    fan = data.split_for("00").outliers[0]
    assert fan.machine == "fan"
    expected = logmel(read_audio(fan.path), data.cache.settings, data.amplitudes["fan"])
    assert data.features(fan).tobytes() == expected.tobytes()
    assert data.amplitude == data.amplitudes["valve"]


def test_features_are_prepared_for_all_machines(root: Path) -> None:
    data = load(root, "valve")
    split = data.split_for("00")
    wanted = [*split.normals, *split.outliers]
    seen: list[tuple[int, int]] = []
    data.prepare(wanted, lambda done, total, text="": seen.append((done, total)))
    assert seen[-1] == (len(wanted), len(wanted))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_the_fingerprint_follows_content_and_role_and_not_names(root: Path) -> None:
    def print_of(**options: Any) -> str:
        data = load(root, "valve", **options)
        return data.fingerprint(data.split_for("00"))

    data = load(root, "valve")
    split = data.split_for("00")
    before = print_of()
    assert before == print_of()
    assert len(before) == 16
    split.normals[0].path.rename(split.normals[0].path.with_name("renamed.wav"))
    assert print_of() == before
    assert print_of(seed=1) != before
    assert print_of(holdout_fraction=0.4) != before
    anomaly = next(c for c in split.test if c.label == "anomaly").path
    write_clip(anomaly, 999)
    assert print_of() == before, "a test clip is not trained on"
    write_clip(root / "valve" / "00" / "normal" / "renamed.wav", 1000)
    assert print_of() != before


def test_the_fingerprint_sees_two_clips_that_swap_roles(root: Path) -> None:
    data = load(root, "valve")
    split = data.split_for("00")
    swapped = MachineSplit(
        [split.holdout_normals[0], *split.normals[1:]],
        split.outliers,
        [split.normals[0], *split.holdout_normals[1:]],
        split.holdout_outliers,
        split.test,
    )
    assert data.fingerprint(swapped) != data.fingerprint(split)


def test_id_without_normals_is_refused_naming_its_folder(root: Path) -> None:
    shutil.rmtree(root / "valve" / "02" / "normal")
    data = load(root, "valve")
    assert data.trainable("00").normals
    with pytest.raises(InputError, match=r"valve ID 02: 0 normal training clips in .*record some .*valve/02/normal/"):
        data.trainable("02")


def test_a_machine_without_any_normals_is_refused(root: Path) -> None:
    for id in ("00", "02"):
        shutil.rmtree(root / "valve" / id / "normal")
    with pytest.raises(InputError, match="valve: 0 normal training clips in"):
        load(root, "valve")


def test_a_neighbour_without_normals_lends_no_outliers(root: Path) -> None:
    shutil.rmtree(root / "fan")
    write_tree(root, {("fan", "00"): (0, 2)})
    assert sources(load(root, "valve").split_for("00").outliers) == {("valve", "02")}


def test_no_outliers_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "data", {("valve", "00"): (6, 2)})
    with pytest.raises(InputError, match=r"valve ID 00: 0 outlier clips in .*add at least one more machine"):
        load(root, "valve").trainable("00")
    apart = write_tree(tmp_path / "apart", {("valve", "00"): (6, 2), ("ToyCar", "00"): (6, 0)})
    with pytest.raises(InputError, match="0 outlier clips"):
        load(apart, "valve").trainable("00")


def test_unknown_machines_and_ids_are_refused_with_those_present(root: Path) -> None:
    with pytest.raises(InputError, match="machine 'pump': not in the data; pass one of: fan, valve"):
        load(root, "pump")
    with pytest.raises(InputError, match="valve: no ID '07' in the data; pass one of: 00, 02"):
        load(root, "valve").split_for("07")


def test_every_bad_file_is_named_and_only_left_out_where_asked(root: Path) -> None:
    normal = root / "valve" / "00" / "normal"
    (normal / "0.wav").write_bytes(b"")
    whole = (normal / "1.wav").read_bytes()
    (normal / "1.wav").write_bytes(whole[: len(whole) // 2])
    (root / "fan" / "00" / "normal" / "2.wav").write_text("not a sound")
    with pytest.raises(InputError) as caught:
        load(root, "valve")
    message = str(caught.value)
    assert message.startswith("3 of 30 files cannot be used; pass --skip-bad to go on without them: ")
    assert all(name in message for name in ("00/normal/0.wav", "00/normal/1.wav", "fan/00/normal/2.wav"))
    assert "\n" not in message
    data = load(root, "valve", skip_bad=True)
    assert sorted(path.name for path, _ in data.bad) == ["0.wav", "1.wav", "2.wav"]
    used = {c.path for splits in data.splits.values() for s in splits.values() for c in (*s.train, *s.holdout, *s.test)}
    assert len(used) == 27
    assert not used & {path for path, _ in data.bad}


def test_files_out_of_place_are_left_out_like_any_other_bad_file(root: Path) -> None:
    whole = (root / "valve" / "00" / "normal" / "0.wav").read_bytes()
    for name in ("one.wav", "two.wav"):
        (root / "valve" / "00" / name).write_bytes(whole)
    with pytest.raises(InputError, match=r"^2 of \d+ files cannot be used; pass --skip-bad .*one\.wav.*two\.wav"):
        load(root, "valve")
    data = load(root, "valve", skip_bad=True)
    assert sorted(path.name for path, _ in data.bad) == ["one.wav", "two.wav"]


def test_one_bad_file_is_its_own_message(root: Path) -> None:
    (root / "valve" / "00" / "normal" / "0.wav").write_bytes(b"")
    with pytest.raises(InputError, match=r"normal/0\.wav: is empty \(0 bytes\)"):
        load(root, "valve")


def test_bad_files_of_machines_that_take_no_part_do_no_harm(root: Path) -> None:
    write_tree(root, {("ToyCar", "00"): (2, 0)})
    (root / "ToyCar" / "00" / "normal" / "0.wav").write_bytes(b"")
    assert load(root, "valve").ids == ["00", "02"]
    with pytest.raises(InputError, match="is empty"):
        load(root, "ToyCar")


@pytest.mark.shared_data
def test_a_car_of_the_real_set_stands_against_the_other_cars(shared_data: Path, tmp_path: Path) -> None:
    some = tmp_path / "data" / "ToyCar"
    for split, pattern, count in (
        ("train", "*_train_normal_*_car_{}_*", 6),
        ("test", "*_test_*_car_{}_*", 4),
    ):
        (some / split).mkdir(parents=True)
        for car in ("B1", "C2"):
            for path in sorted((shared_data / "dcase2023_toycar" / "ToyCar" / split).glob(pattern.format(car)))[:count]:
                shutil.copy(path, some / split)
    data = load(tmp_path / "data", "ToyCar", id_attribute="car")
    assert data.ids == ["B1", "C2"]
    split = data.trainable("B1")
    assert sources(split.outliers) == {("ToyCar", "C2")}
    assert len(split.normals) + len(split.holdout_normals) == 6
    assert len(split.test) == 4


def spoil(path: Path, how: str) -> None:
    """Make a clip silent, dead after a tenth, of another scale, or clipped; all differ from each other."""
    sound = np.random.default_rng(len(how) * 100 + int(path.stem)).standard_normal(16_000 * 10).astype(np.float32)
    sound *= np.float32(0.05)
    if how == "digital_silence":
        sound[1600:] = 0
    elif how == "out_of_scale":
        sound *= 32768
    elif how == "clipping":
        sound = np.clip(sound * 10, -1, 1)
    soundfile.write(path, sound, 16_000, subtype="FLOAT")


def test_unhealthy_normals_are_left_out_and_named(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "data", {("valve", "00"): (12, 2), ("valve", "02"): (6, 0)})
    spoiled = {"0": "digital_silence", "3": "out_of_scale", "7": "clipping"}
    for name, how in spoiled.items():
        spoil(root / f"valve/00/normal/{name}.wav", how)
    spoil(root / "valve/00/anomaly/1.wav", "digital_silence")
    data = load(root, "valve")
    left_out = {clip.path.stem: states for clip, states in data.unhealthy.left_out}
    assert left_out == {name: (how,) for name, how in spoiled.items()}
    split = data.splits["valve"]["00"]
    everywhere = {clip.path for clip in (*split.train, *split.holdout, *split.test)}
    assert len(everywhere) == 9 + 2  # an anomaly may well be silence
    (line,) = data.unhealthy.describe()
    assert line.startswith("3 normal clips left out of training for their sound (")
    assert f"{root}/valve/00/normal/7.wav: clipping" in line
    kept = load(root, "valve", keep_unhealthy=True)
    assert [states for _, states in kept.unhealthy.left_out] == [("out_of_scale",)]


def test_doubtful_normals_are_kept_where_they_are_the_rule(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "data", {("valve", "00"): (8, 0), ("valve", "02"): (4, 0)})
    for name in range(5):
        spoil(root / f"valve/00/normal/{name}.wav", "clipping")
    data = load(root, "valve")
    assert (len(data.unhealthy.left_out), len(data.unhealthy.kept)) == (0, 5)
    assert "are kept, as many of their ID are so" in data.unhealthy.describe()[0]


def test_id_with_no_fit_normal_is_refused_with_reasons(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "data", {("valve", "00"): (3, 0), ("valve", "02"): (4, 0)})
    for name in range(3):
        spoil(root / f"valve/00/normal/{name}.wav", "digital_silence")
    with pytest.raises(InputError, match=r"none of its 3 normal clips is fit .*digital_silence 3.*--keep-unhealthy"):
        load(root, "valve", id="00")


def test_clips_shorter_than_a_segment_are_left_out_unless_tiled(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for index in range(12):
        path = tmp_path / "data/valve/00/normal" / f"{index}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        seconds = 3 if index < 3 else 9
        soundfile.write(path, (0.1 * random.normal(size=16_000 * seconds)).astype(np.float32), 16_000)
    options = {"cache_folder": tmp_path / "cache", "seed": 0, "holdout_fraction": 0.15, "test_fraction": 0.0}
    data = load_machine(tmp_path / "data", "valve", segment_frames=256, **options)
    assert sorted(clip.path.stem for clip in data.short) == ["0", "1", "2"]
    split = data.split_for("00")
    assert len(split.normals) + len(split.holdout_normals) == 9
    (line,) = data.unhealthy.describe()
    assert line.startswith("3 normal clips left out of training for their sound (shorter than a segment 3): ")
    tiled = load_machine(tmp_path / "data", "valve", **options).split_for("00")
    assert len(tiled.normals) + len(tiled.holdout_normals) == 12
    with pytest.raises(InputError, match="none of its 12 normal clips is fit.*--tile for short ones"):
        load_machine(tmp_path / "data", "valve", segment_frames=1024, **options)
