"""Official DCASE files: the official figures computed from them alone are ours, whatever the order of lines."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import pytest

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.data.clips import Clip
from edgeasd.toolkit.data.dcase import SectionLayout
from edgeasd.toolkit.evaluation.dcase import (
    judge_decisions,
    match_by_name,
    official_stem,
    read_official,
    result_of,
    write_official,
)

reference = pytest.importorskip("sklearn.metrics")
pytest.importorskip("torch")

from edgeasd.toolkit.cli.evaluate import evaluate  # noqa: E402


@pytest.fixture(scope="module")
def written(dcase_workspace: Any) -> Path:
    out = dcase_workspace.folder / "official"
    evaluate(
        root=dcase_workspace.data,
        machine="gear",
        dcase=out,
        workspace=dcase_workspace.folder,
    )
    return Path(out)


def rows(path: Path) -> list[tuple[str, float]]:
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as handle:
        return [(name, float(value)) for name, value in csv.reader(handle)]


def test_both_files_of_each_section_have_every_test_clip_once(written: Path, dcase_workspace: Any) -> None:
    assert sorted(path.name for path in written.iterdir()) == [
        "anomaly_score_gear_section_00_test.csv",
        "anomaly_score_gear_section_01_test.csv",
        "decision_result_gear_section_00_test.csv",
        "decision_result_gear_section_01_test.csv",
    ]
    for section in ("00", "01"):
        there = {p.name for p in (dcase_workspace.data / "gear" / "test").glob(f"section_{section}_*")}
        for kind in ("anomaly_score", "decision_result"):
            listed = [name for name, _ in rows(written / f"{kind}_gear_section_{section}_test.csv")]
            assert len(listed) == len(set(listed))
            assert set(listed) == there, "unlabelled and oddly named clips included"


@pytest.mark.parametrize("section", ["00", "01"])
def test_official_files_give_the_figures_of_the_evaluation(written: Path, dcase_workspace: Any, section: str) -> None:
    """Labels and domains from the names, figures from scikit-learn: nothing of ours but the two files."""
    scores = rows(written / f"anomaly_score_gear_section_{section}_test.csv")
    decisions = rows(written / f"decision_result_gear_section_{section}_test.csv")
    random.Random(0).shuffle(scores)
    decided = dict(decisions)
    judged = [(name, value) for name, value in scores if "normal" in name or "anomaly" in name]
    truth = ["anomaly" in name for name, _ in judged]
    values = [value for _, value in judged]
    stored = json.loads((dcase_workspace.folder / f"runs/gear/id_{section}/evaluation.json").read_text("utf-8"))
    ours = stored["figures"]["deploy"]
    assert ours["auc"] == pytest.approx(reference.roc_auc_score(truth, values))
    assert ours["pauc_0.1"] == pytest.approx(reference.roc_auc_score(truth, values, max_fpr=0.1))
    domains = ours["domains"]["2022-2026"]
    assert domains["pauc"] == pytest.approx(ours["pauc_0.1"])
    for domain in ("source", "target"):
        chosen = [i for i, (name, _) in enumerate(judged) if domain in name or truth[i]]
        expected = reference.roc_auc_score([truth[i] for i in chosen], [values[i] for i in chosen])
        assert domains[f"auc_{domain}"] == pytest.approx(expected)
        own = [name for name, _ in judged if domain in name]
        labels, calls = ["anomaly" in name for name in own], [int(decided[name]) for name in own]
        figures = ours["decisions"][domain]
        assert figures["recall"] == pytest.approx(reference.recall_score(labels, calls))
        if any(calls):
            assert figures["precision"] == pytest.approx(reference.precision_score(labels, calls))
        else:
            assert figures["precision"] is None
        assert figures["f1"] == pytest.approx(reference.f1_score(labels, calls))


def test_a_decision_is_a_score_above_the_stored_threshold(written: Path, dcase_workspace: Any) -> None:
    stored = json.loads((dcase_workspace.folder / "runs/gear/id_00/evaluation.json").read_text("utf-8"))
    threshold = stored["figures"]["deploy"]["decisions"]["value"]
    decided = dict(rows(written / "decision_result_gear_section_00_test.csv"))
    for name, score in rows(written / "anomaly_score_gear_section_00_test.csv"):
        assert decided[name] == (score > threshold)


# Without a model


def clip(name: str, folder: str = "test") -> Clip:
    found = SectionLayout().read(Path("data/ToyCar"), Path(folder, name), None)
    assert found is not None
    return found


def test_files_are_named_as_in_each_year() -> None:
    assert official_stem(clip("section_03_0001.wav")) == "ToyCar_section_03_test"
    assert official_stem(clip("section_00_source_test_0000.wav", "source_test")) == "ToyCar_section_00_source_test"
    assert official_stem(clip("normal_id_02_00000001.wav")) == "ToyCar_id_02"
    assert official_stem(Clip(Path("d/valve/00/normal/a.flac"), "valve", "00", "normal")) == "valve_id_00"


def test_ids_of_one_section_share_its_file(tmp_path: Path) -> None:
    names = ["section_00_source_test_normal_0001_car_B2.wav", 'section_00_source_test_anomaly_0000_car_B1_a,"b.wav']
    odd = "section_00_source_test_normal_0002_car_\udcff.wav"
    results = [result_of(clip(name), 0.1 + i / 3, 0.3) for i, name in enumerate([*names, odd])]
    assert len({result.clip.id for result in results}) == 3
    paths = write_official(tmp_path / "new", results)
    assert [path.name for path in paths] == [
        "anomaly_score_ToyCar_section_00_test.csv",
        "decision_result_ToyCar_section_00_test.csv",
    ]
    read = read_official(paths[0])
    assert match_by_name(read, [*names, odd], paths[0]) == [result.score for result in results]
    assert match_by_name(read_official(paths[1]), [*names, odd], paths[1]) == [0, 1, 1]
    with pytest.raises(InputError, match="1 of 1 clips are missing, other.wav first"):
        match_by_name(read, ["other.wav"], paths[0])


def test_two_clips_of_one_name_are_refused(tmp_path: Path) -> None:
    results = [
        result_of(Clip(Path(f"d/valve/00/{kind}/1.wav"), "valve", "00", kind), 0.5, 0.2)  # type: ignore[arg-type]
        for kind in ("normal", "anomaly")
    ]
    with pytest.raises(InputError, match=r"normal/1\.wav and .*anomaly/1\.wav: .*share it; rename one"):
        write_official(tmp_path / "new", results)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.wav\n", "line 1"),
        ("a.wav,1\nb.wav,high\n", "line 2"),
        ("a.wav,1\na.wav,2\n", "line 2: a.wav stands there twice"),
    ],
)
def test_a_damaged_file_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "anomaly_score.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_official(path)


def test_a_score_that_is_no_number_is_not_written() -> None:
    with pytest.raises(InputError, match="section_03_0001.wav: scored nan"):
        result_of(clip("section_03_0001.wav"), float("nan"), 0.5)


def test_figures_of_nothing_are_none_and_not_zero() -> None:
    none_called = [result_of(clip("section_00_source_test_normal_0001.wav"), 0.1, 0.5)]
    assert judge_decisions(none_called)["all"] == {"precision": None, "recall": None, "f1": None}
