"""The workspace: what training writes is read back whole, or refused with its name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.calibration.fit.deploy import SegmentOutputs
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.features.logmel import FeatureSettings
from edgeasd.toolkit.runs import Run, TrainingResult, bundle_folder, find_runs, load_run, run_folder

pytestmark = pytest.mark.core


def facts(**changes: Any) -> dict[str, Any]:
    return {
        "machine": "valve",
        "id": "00",
        "preset": {"name": "quick"},
        "seed": 3,
        "features": FeatureSettings().model_dump(),
        "amplitude": {"mean": 0.001, "std": 0.1, "scope": "training normals of valve"},
        "segments": {"frames": 256, "hop": 6, "sections": 10},
        **changes,
    }


def outputs(lengths: list[int], seed: int) -> list[SegmentOutputs]:
    rng = np.random.default_rng(seed)
    return [SegmentOutputs(rng.random(n, np.float32), rng.random(n, np.float32)) for n in lengths]


def training_result(normals: list[int], outliers: list[int], anomalies: list[int] | None = None) -> TrainingResult:
    golden = np.random.default_rng(5).random((3, 256, 128), np.float32)
    return TrainingResult(outputs(normals, 1), outputs(outliers, 2), outputs(anomalies or [], 3), True, golden)


def save(workspace: Path, machine: str = "valve", id: str = "00") -> Run:
    run = Run(run_folder(workspace, machine, id), facts(machine=machine, id=id))
    run.save()
    return run


def test_folders_are_where_the_design_says(tmp_path: Path) -> None:
    assert run_folder(tmp_path, "valve", "00") == tmp_path / "runs" / "valve" / "id_00"
    assert bundle_folder(tmp_path, "valve", "00") == tmp_path / "bundles" / "valve-id_00"


def test_a_run_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    written = save(tmp_path)
    read = load_run(written.folder)
    assert (read.machine, read.id, read.facts["seed"]) == ("valve", "00", 3)
    assert read.features == FeatureSettings()
    assert (read.amplitude.mean, read.amplitude.std) == (0.001, 0.1)
    assert (read.segments.frames, read.segments.hop, read.segments.sections) == (256, 6, 10)
    assert [p.name for p in written.folder.iterdir()] == ["run.json"]


@settings(max_examples=50, deadline=None)
@given(
    normals=st.lists(st.integers(1, 12), max_size=8),
    outliers=st.lists(st.integers(1, 12), max_size=8),
    anomalies=st.lists(st.integers(1, 12), max_size=3),
    held_out=st.booleans(),
)
def test_an_outcome_survives_its_arrays(
    normals: list[int], outliers: list[int], anomalies: list[int], held_out: bool
) -> None:
    golden = np.zeros((1, 4, 2), np.float32)
    before = TrainingResult(outputs(normals, 1), outputs(outliers, 2), outputs(anomalies, 3), held_out, golden)
    after = TrainingResult.from_arrays(before.to_arrays())
    assert after.held_out is held_out
    for role in ("normals", "outliers", "anomalies"):
        ours, theirs = getattr(before, role), getattr(after, role)
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a.q, b.q)
            np.testing.assert_array_equal(a.d, b.d)


def test_an_outcome_is_stored_without_objects(tmp_path: Path) -> None:
    run, before = save(tmp_path), training_result([10, 1, 7], [10, 10], [10])
    run.save_result(before)
    after = run.result()
    np.testing.assert_equal(after.to_arrays(), before.to_arrays())
    with np.load(run.folder / "outcome.npz", allow_pickle=False) as arrays:
        assert all(arrays[name].dtype != object for name in arrays.files)


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        lambda _: b"",
        lambda _: b"PK\x03\x04 not a zip",
        lambda d: d[:200] + bytes(8) + d[208:],
        lambda _: b"\x80\x04K\x01.",
    ],
    ids=["cut off", "empty", "no zip", "changed bytes", "a pickle"],
)
def test_a_damaged_outcome_is_an_input_error(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    run = save(tmp_path)
    run.save_result(training_result([10, 10], [10]))
    path = run.folder / "outcome.npz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"outcome\.npz: cannot be read \(.*\); train again"):
        run.result()


def test_an_unfinished_run_says_how_to_go_on(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="training has not finished; continue it with `edgeasd train --resume`"):
        save(tmp_path).result()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        json.dumps({"format": 2, **facts()}),
        json.dumps({"format": 1, "machine": "valve"}),
        json.dumps({"format": 1, **facts(segments={"frames": 0, "hop": 6, "sections": 10})}),
        json.dumps({"format": 1, **facts(features={"n_mels": "many"})}),
        json.dumps({"format": 1, **facts(amplitude=None)}),
        json.dumps({"format": 1, **facts(seed="three")}),
        json.dumps({"format": 1, **facts(preset=["quick"])}),
        json.dumps({"format": 1, **facts(update=[])}),
        "[" * 100_000,
        "\udcff",
    ],
    ids=[
        "empty",
        "half",
        "list",
        "null",
        "format",
        "missing",
        "no frames",
        "worded bands",
        "no amplitude",
        "worded seed",
        "listed preset",
        "listed update",
        "deep",
        "no UTF-8",
    ],
)
def test_a_damaged_run_is_an_input_error_that_names_the_file(tmp_path: Path, text: str) -> None:
    path = save(tmp_path).folder / "run.json"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(InputError, match=r"id_00/run\.json: .*train again") as caught:
        load_run(path.parent)
    assert "\n" not in str(caught.value)


def test_no_run_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no training run here; train first with `edgeasd train`"):
        load_run(tmp_path)


def test_runs_are_found_by_machine_and_id_in_either_spelling(tmp_path: Path) -> None:
    for machine, id in (("valve", "02"), ("valve", "00"), ("fan", "00")):
        save(tmp_path, machine, id)
    (tmp_path / "runs" / "valve" / "id_09").mkdir()
    assert [run.id for run in find_runs(tmp_path, "valve", None)] == ["00", "02"]
    assert [run.machine for run in find_runs(tmp_path, "fan", "00")] == ["fan"]
    assert find_runs(tmp_path, "valve", "id_02")[0].id == "02"


def test_a_missing_run_is_refused_with_those_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no run of pump \(there: none\)"):
        find_runs(tmp_path, "pump", None)
    save(tmp_path)
    with pytest.raises(InputError, match=r"no run of valve id_07 \(there: valve id_00\); train first"):
        find_runs(tmp_path, "valve", "07")
