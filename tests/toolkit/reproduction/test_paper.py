"""DCASE 2020 by its official names and counts: complete, or refused with everything that is missing."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("torch")


from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.data.clips import Clip
from edgeasd.toolkit.data.layouts import find_clips
from edgeasd.toolkit.reproduction.paper import differs, is_dcase2020, paper_rows, require_all

TRAINING = 3
MIMII = ("fan", "pump", "slider", "valve")


def empty(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def shares(total: int, parts: int) -> list[int]:
    return [total // parts + (k < total % parts) for k in range(parts)]


def write_tree(root: Path, machines: tuple[str, ...] | None = None) -> None:
    """Names as the archives have them, the published counts of evaluation clips, and their list of labels.

    dev_data/fan/train/normal_id_00_00000000.wav, dev_data/fan/test/anomaly_id_00_00000000.wav,
    eval_data/fan/train/normal_id_01_00000000.wav (additional training), eval_data/fan/test/id_01_00000000.wav.
    """
    lines = []
    for machine, row in paper_rows().items():
        if machines is not None and machine not in machines:
            continue
        dev, evaluation = root / "dev_data" / machine, root / "eval_data" / machine
        for id in row.development_ids:
            for k in range(TRAINING):
                empty(dev / "train" / f"normal_id_{id}_{k:08d}.wav")
            for label in ("normal", "anomaly"):
                empty(dev / "test" / f"{label}_id_{id}_{0:08d}.wav")
        lines.append(machine)
        normals, anomalies = shares(row.normals, 3), shares(row.anomalies, 3)
        for id, n, a in zip(row.evaluation_ids, normals, anomalies, strict=True):
            for k in range(TRAINING):
                empty(evaluation / "train" / f"normal_id_{id}_{k:08d}.wav")
            for k in range(n + a):
                name = f"id_{id}_{k:08d}.wav"
                empty(evaluation / "test" / name)
                # The list is not in the order of the labels.
                label = "anomaly" if k * 7919 % (n + a) < a else "normal"
                lines.append(f"{name},{label}_id_{id}_{k:08d}.wav,{int(label == 'anomaly')}")
    labels = root.parent / "labels"
    labels.mkdir(exist_ok=True)
    (labels / "eval_data_list.csv").write_text("\n".join(lines) + "\n")


def put_sound(root: Path) -> None:
    """A different sound of two frames in every file: nobody could tell machines by it, and the reader must not care."""
    rng = np.random.default_rng(0)
    for path in sorted(root.rglob("*.wav")):
        soundfile.write(path, 0.1 * rng.standard_normal(1536), 16_000, subtype="PCM_16")


@dataclass(frozen=True)
class Tree:
    """The six machine types as empty files: what is checked is names."""

    root: Path
    clips: list[Clip]

    @property
    def labels(self) -> Path:
        return self.root.parent / "labels"

    def without(self, *parts: str) -> list[Clip]:
        """The clips but those whose path below the root contains one of `parts`."""
        names = [(clip, clip.path.relative_to(self.root).as_posix()) for clip in self.clips]
        kept = [clip for clip, name in names if not any(part in name for part in parts)]
        assert len(kept) < len(self.clips)
        return kept


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    root = tmp_path_factory.mktemp("dcase") / "data"
    write_tree(root)
    return Tree(root, find_clips(root))


def missing(root: Path, clips: list[Clip], labels: Path | None) -> str:
    with pytest.raises(InputError) as caught:
        require_all(root, clips, labels)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_complete_tree_stands_beside_the_paper(tree: Tree) -> None:
    require_all(tree.root, tree.clips, tree.labels)
    for machine in paper_rows():
        assert is_dcase2020(tree.clips, machine)
        assert differs(tree.clips, machine, tree.labels) == []


def test_one_error_names_all_that_is_missing(tree: Tree) -> None:
    left = tree.without(
        "ToyCar/",
        "eval_data/fan/train/",
        "eval_data/pump/test/",
        "dev_data/slider/train/normal_id_02_",
        "eval_data/valve/test/id_03_00000000.wav",
    )
    message = missing(tree.root, left, tree.labels)
    assert "no machine types ToyCar" in message
    assert "fan: no training clips of ID 01, 03, 05 (additional training data)" in message
    assert "pump: no test clips of ID 01, 03, 05 (evaluation data)" in message
    assert "slider: no training clips of ID 02 (development data)" in message
    assert "published were 300 and 640" in message
    assert "ToyConveyor:" not in message
    assert "--machine" in message


def test_without_the_list_of_labels_it_is_asked_for(tree: Tree) -> None:
    message = missing(tree.root, tree.clips, None)
    assert "ToyConveyor: no labels of 1665 of 1665 evaluation clips (pass their list with --ground-truth)" in message


def test_a_list_with_a_hole_is_counted(tree: Tree, tmp_path: Path) -> None:
    lines = (tree.labels / "eval_data_list.csv").read_text().splitlines()
    lines.remove(next(line for line in lines if line.startswith("id_07_")))
    (tmp_path / "eval_data_list.csv").write_text("\n".join(lines))
    assert "ToyCar: no labels of 1 of 1545 evaluation clips" in missing(tree.root, tree.clips, tmp_path)


def test_missing_data_set_changes_the_outlier_pool(tree: Tree) -> None:
    left = tree.without("/pump/", "/ToyCar/", "eval_data/valve/train/")
    assert differs(left, "fan", tree.labels) == [
        "no pump",
        "valve: no training clips of ID 01, 03, 05 (additional training data)",
    ]
    assert differs(left, "ToyConveyor", tree.labels) == ["no ToyCar"]


def test_other_data_under_a_name_of_the_paper_is_not_dcase_2020(tmp_path: Path) -> None:
    for name in ("valve/00/normal/a.wav", "fan/train/section_00_source_train_normal_0000.wav"):
        empty(tmp_path / name)
    clips = find_clips(tmp_path)
    assert not is_dcase2020(clips, "valve")
    assert not is_dcase2020(clips, "fan")
    assert "fan: its clips are not named as in DCASE 2020" in missing(tmp_path, clips, None)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_protocol_runs_on_official_names_and_counts(
    tmp_path: Path, reproduce: Callable[..., subprocess.Popen[str]]
) -> None:
    root = tmp_path / "data"
    write_tree(root, MIMII)
    put_sound(root)
    options = ["--machine", "fan", "--method", "bce", "--iterations", "1", "--json"]
    options += ["--ground-truth", str(tmp_path / "labels")]
    running = reproduce("table2", root, tmp_path / "workspace", *options)
    out, said = running.communicate(timeout=800)
    assert running.returncode == 0, said
    (cell,) = json.loads(out)["cells"]
    assert (cell["normals"], cell["anomalies"]) == (309, 1033)
    assert list(cell["ids"]) == ["01", "03", "05"]
    assert cell["published"] == {"auc": 0.9269, "half_width": 0.0206}
    assert cell["agrees"] is False
    for id in cell["ids"]:
        run = tmp_path / "workspace" / "reproduce" / "fan" / f"id_{id}" / "bce" / "seed-0" / "run.json"
        clips = json.loads(run.read_text())["clips"]
        # Own normals against those of the 27 other IDs of MIMII, 15 % held out of each: 3 clips leave 2 or 3.
        kept = clips["normals"] + clips["outliers"] + clips["holdout_normals"] + clips["holdout_outliers"]
        assert kept == TRAINING * 28
