"""Known anomalies: which clips an update trains on, and that none of those offered judges it."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.data.machine import MachineData, load_machine
from edgeasd.toolkit.data.offered import choose_known, offered_files, offered_hashes
from edgeasd.toolkit.demo.dataset import DatasetPlan, write_dataset
from edgeasd.toolkit.presets import load_preset
from edgeasd.toolkit.training.data import BatchSampler


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("known") / "recordings"
    write_dataset(folder, DatasetPlan(kinds=("valve",), ids=("00", "02"), normals=5, anomalies=8, seed=3))
    return folder


@pytest.fixture
def data(root: Path, tmp_path: Path) -> MachineData:
    return load_machine(
        root, "valve", cache_folder=tmp_path / "cache", seed=0, holdout_fraction=0.15, test_fraction=0.2
    )


@pytest.fixture
def files(root: Path) -> list[Path]:
    return offered_files(root / "valve" / "00" / "anomaly", "--anomalies")


def hashed(files: list[Path]) -> dict[Path, str]:
    return offered_hashes(files, Path("faults"), "--anomalies")


def test_a_folder_and_a_list_offer_the_same(tmp_path: Path, files: list[Path]) -> None:
    listing = tmp_path / "faults.txt"
    listing.write_text("# met in March\n\n" + "\n".join(map(str, files)) + "\n")
    assert offered_files(listing, "--anomalies") == files
    assert len(files) == 8


@pytest.mark.parametrize("content", ["", "# nothing\n"])
def test_a_list_of_nothing_is_refused(tmp_path: Path, content: str) -> None:
    listing = tmp_path / "faults.txt"
    listing.write_text(content)
    with pytest.raises(InputError, match="0 clips"):
        offered_files(listing, "--anomalies")


def test_a_missing_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="^--without .*nowhere: no such folder or list"):
        offered_files(tmp_path / "nowhere", "--without")


def test_subsets_of_one_seed_are_nested_and_seeds_differ(data: MachineData, files: list[Path]) -> None:
    chosen = [[c.path for c in choose_known(data, "00", hashed(files), count=n, seed=1).used] for n in (1, 2, 4, 8)]
    for smaller, larger in itertools.pairwise(chosen):
        assert larger[: len(smaller)] == smaller
    other = [c.path for c in choose_known(data, "00", hashed(files), count=4, seed=2).used]
    assert other != chosen[2]


def test_the_choice_does_not_depend_on_the_order_offered(data: MachineData, files: list[Path]) -> None:
    forward = choose_known(data, "00", hashed(files), count=3, seed=1)
    backward = choose_known(data, "00", hashed(files[::-1]), count=3, seed=1)
    assert forward.used == backward.used


def test_more_than_offered_names_the_number(data: MachineData, files: list[Path]) -> None:
    with pytest.raises(InputError, match="--count 9: 8 different clips"):
        choose_known(data, "00", hashed(files), count=9, seed=0)


def test_copies_count_once(data: MachineData, files: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy.flac"
    copy.write_bytes(files[0].read_bytes())
    assert len(choose_known(data, "00", hashed([*files, copy]), count=None, seed=0).candidates) == 8


def test_a_training_normal_is_no_anomaly(data: MachineData) -> None:
    normal = data.split_for("00").normals[0].path
    with pytest.raises(InputError, match="is a normal of the machine"):
        choose_known(data, "00", hashed([normal]), count=None, seed=0)


def test_a_test_normal_is_no_anomaly_either(data: MachineData) -> None:
    normal = next(clip.path for clip in data.split_for("00").test if clip.label == "normal")
    with pytest.raises(InputError, match="is a normal of the machine"):
        choose_known(data, "00", hashed([normal]), count=None, seed=0)


def test_a_list_with_a_byte_order_mark_is_read(tmp_path: Path, files: list[Path]) -> None:
    listing = tmp_path / "faults.txt"
    listing.write_text(f"{files[0]}\n", "utf-8-sig")
    assert offered_files(listing, "--anomalies") == files[:1]


def test_missing_paths_are_named_with_their_list(tmp_path: Path) -> None:
    gone = [tmp_path / "one.wav", tmp_path / "two.wav"]
    with pytest.raises(InputError, match=r"correct --without list.txt: .*one\.wav.*two\.wav") as refused:
        offered_hashes(gone, Path("list.txt"), "--without")
    assert "--skip-bad" not in str(refused.value)


def test_features_of_a_chosen_clip_can_be_had(data: MachineData, files: list[Path]) -> None:
    known = choose_known(data, "00", hashed(files), count=1, seed=0)
    assert data.features(known.used[0]).shape[1] == 128


def test_every_batch_holds_the_promised_anomalies() -> None:
    sampler = BatchSampler(
        40, 90, batch_normal=32, batch_outlier=31, least_epoch=1, seed=5, anomalies=3, batch_anomaly=1
    )
    seen = set()
    for iteration in range(30):
        batch = sampler.batch(iteration)
        assert (len(batch.normals), len(batch.outliers), len(batch.anomalies)) == (32, 31, 1)
        assert len(batch.crops) == 64
        seen.add(int(batch.anomalies[0]))
    assert seen == {0, 1, 2}


def test_presets_say_what_fine_tuning_changes() -> None:
    paper = load_preset("paper")
    update = paper.for_finetuning()
    assert (update.iterations, update.batch_normal, update.batch_outlier, update.batch_anomaly) == (2000, 32, 31, 1)
    unchanged = {"iterations": paper.iterations, "batch_outlier": paper.batch_outlier, "batch_anomaly": 0}
    assert update.changed(**unchanged) == paper
