"""The experiment on paper: what is asked for, the jobs it becomes, and figures put together and compared."""

from __future__ import annotations

import json
import statistics
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.evaluation.metrics import hanley_mcneil
from edgeasd.toolkit.losses import METHODS
from edgeasd.toolkit.reproduction.figure import figure_two
from edgeasd.toolkit.reproduction.job import failure
from edgeasd.toolkit.reproduction.paper import paper_rows
from edgeasd.toolkit.reproduction.plan import DataSource, ModelJob, expand
from edgeasd.toolkit.reproduction.request import counts_of, presets_of, seeds_of
from edgeasd.toolkit.reproduction.runner import RETRIES, JobQueue
from edgeasd.toolkit.reproduction.table import Cell, as_json, as_markdown, machine_average, summarise
from edgeasd.toolkit.training.trainer import NotFinite


def jobs_of(tmp_path: Path, what: Any = "fig2", **changed: Any) -> list[ModelJob]:
    source = DataSource(root=tmp_path / "data", cache=tmp_path / "cache", listing="abc")
    asked: dict[str, Any] = {
        "seeds": [0, 1],
        "counts": [0, 1, 4],
        "most": 4,
        "methods": ["bce", "dsad"],
        "ids": ["00", "01"],
    }
    asked |= changed
    presets = presets_of("quick", asked["methods"], None, 10)
    machines = [("gear", asked["ids"], source)]
    return expand(what, machines, presets, asked["seeds"], asked["counts"], asked["most"], tmp_path)


def result(job: ModelJob, auc: float | None, normals: int = 50, anomalies: int = 40) -> dict[str, Any]:
    figures = {"auc": auc, "pauc_0.1": auc, **({"undefined": "AUC undefined: 0"} if auc is None else {})}
    evaluation: dict[str, Any] = {"machine": job.machine, "id": job.id, "trained": "once", "clips": [], "notes": []}
    evaluation |= {"normals": normals, "anomalies": anomalies, "figures": {"paper": figures}}
    return {"format": 1, "settings": job.settings(), "seconds": {"all": 1.0}, "evaluation": evaluation}


# What is asked for


def test_seeds_are_a_number_or_a_list() -> None:
    assert seeds_of("3") == [0, 1, 2]
    assert seeds_of("4,") == [4]
    assert seeds_of("0, 7,7") == [0, 7]


@pytest.mark.parametrize("text", ["", "0", "-1", "a", "1;2", "9999999999", f"{2**31},"])
def test_other_seeds_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--seeds"):
        seeds_of(text)


def test_counts_double_up_to_the_64_of_the_paper() -> None:
    assert counts_of(None, None) == ([0, 1, 2, 4, 8, 16, 32, 64], 64)
    assert counts_of(None, 5) == ([0, 1, 2, 4], 5)
    assert counts_of("4,1", None) == ([0, 1, 4], 4)
    assert counts_of("0,2", 8) == ([0, 2], 8)


@pytest.mark.parametrize(("text", "most"), [("0", None), ("8", 4), ("x", None)])
def test_counts_that_make_no_sense_are_refused(text: str, most: int | None) -> None:
    with pytest.raises(InputError, match="--counts"):
        counts_of(text, most)


def test_methods_come_in_the_order_of_the_table() -> None:
    found = presets_of("paper", ["bce+ddcsad", "bce"], None, 100)
    assert [preset.method for preset in found] == ["bce", "bce+ddcsad"]
    assert [(p.iterations, p.for_finetuning().iterations) for p in found] == [(100, 50)] * 2
    paper = presets_of("paper", None, None, None)
    assert [preset.method for preset in paper] == list(METHODS)
    assert {(p.iterations, p.for_finetuning().iterations) for p in paper} == {(4000, 2000)}


# Jobs


@settings(deadline=None)
@given(
    st.sets(st.integers(0, 64)),
    st.sets(st.sampled_from(list(METHODS)), min_size=1),
    st.sets(st.integers(0, 9), min_size=1),
)
def test_every_model_is_one_job_in_a_folder_of_its_own(counts: set[int], methods: set[str], seeds: set[int]) -> None:
    jobs = jobs_of(Path("/w"), counts=sorted(counts), methods=list(methods), seeds=sorted(seeds))
    assert len(jobs) == 2 * len(seeds) * len(methods) * len(counts | {0})
    assert len({job.folder for job in jobs}) == len({job.name for job in jobs}) == len(jobs)
    names = {job.name for job in jobs}
    assert all((job.needs is None) == (job.count == 0) for job in jobs)
    assert all(job.needs in names for job in jobs if job.count)
    assert all(ModelJob.model_validate_json(job.model_dump_json()) == job for job in jobs)


def test_both_experiments_share_the_model_without_anomalies(tmp_path: Path) -> None:
    table, figure = jobs_of(tmp_path, "table2", counts=[0], most=0)[0], jobs_of(tmp_path)[0]
    assert table.folder == figure.folder
    assert table.result_path != figure.result_path


def test_a_result_of_other_settings_is_refused(tmp_path: Path) -> None:
    job = jobs_of(tmp_path)[0]
    job.result_path.parent.mkdir(parents=True)
    job.result_path.write_text(json.dumps(result(job, 0.5)))
    assert job.result() is not None
    slower = job.model_copy(update={"preset": job.preset.changed(learning_rate=1e-5)})
    with pytest.raises(InputError, match=r"preset\.learning_rate 0\.001, now 1e-05"):
        slower.result()
    changed = job.model_copy(update={"data": job.data.model_copy(update={"listing": "def"})})
    with pytest.raises(InputError, match="clips 'abc', now 'def'"):
        changed.result()


@pytest.mark.parametrize("damaged", ["{", "[]", '{"format": 1}', "[" * 100_000])
def test_a_result_that_is_none_is_refused_with_its_file(damaged: str, tmp_path: Path) -> None:
    job = jobs_of(tmp_path)[0]
    job.result_path.parent.mkdir(parents=True)
    job.result_path.write_text(damaged)
    with pytest.raises(InputError, match=r"fig2\.json: .*delete it to make it again"):
        job.result()


@pytest.mark.parametrize("auc", ["much", 93.1, True])
def test_a_result_without_figures_in_it_is_refused(auc: object, tmp_path: Path) -> None:
    job = jobs_of(tmp_path)[0]
    stored = result(job, 0.5)
    stored["evaluation"]["figures"]["paper"]["auc"] = auc
    job.result_path.parent.mkdir(parents=True)
    job.result_path.write_text(json.dumps(stored))
    with pytest.raises(InputError, match=r"fig2\.json: evaluation figures\.paper\.auc.*; delete it"):
        job.result()


def test_an_update_waits_for_its_training_and_falls_with_it(tmp_path: Path) -> None:
    said: list[str] = []
    queue = JobQueue(jobs_of(tmp_path, ids=["00"], seeds=[0], methods=["bce", "dsad"]), said.append)
    first, second = queue.take(), queue.take()
    assert first is not None
    assert second is not None
    assert (first.method, second.method) == ("bce", "dsad")
    assert queue.take() is None
    queue.finish(first, result(first, 0.9))
    update = queue.take()
    assert update is not None
    assert update.needs == first.name
    queue.fail(second, "loss is NaN", retry=False)
    assert set(queue.failed) == {"gear 00 dsad seed 0", "gear 00 dsad seed 0 n 1", "gear 00 dsad seed 0 n 4"}
    assert "loss is NaN" in " ".join(said)


def test_a_job_is_tried_three_times_at_the_most(tmp_path: Path) -> None:
    queue = JobQueue(
        jobs_of(tmp_path, "table2", ids=["00"], seeds=[0], methods=["bce"], counts=[0], most=0), lambda _: None
    )
    for _ in range(RETRIES + 1):
        job = queue.take()
        assert job is not None
        queue.fail(job, "killed", retry=True)
    assert queue.take() is None
    assert list(queue.failed) == ["gear 00 bce seed 0"]


def test_copies_across_training_and_test_are_named_once(tmp_path: Path) -> None:
    said: list[str] = []
    queue = JobQueue(jobs_of(tmp_path, "table2", ids=["00"], seeds=[0], counts=[0], most=0), said.append)
    copies = "1 training clips are copies of test clips and are not trained on: train/a.wav = test/b.wav"
    while (job := queue.take()) is not None:
        queue.finish(job, {**result(job, 0.9), "copies": copies})
    assert len(queue.done) > 1
    assert [line for line in said if "copies" in line] == [f"gear: {copies}"]


def test_a_loss_that_is_not_finite_has_a_remedy(tmp_path: Path) -> None:
    job = jobs_of(tmp_path, "table2", ids=["00"], seeds=[0], methods=["bce"], counts=[0], most=0)[0]
    reason, again = failure(job, NotFinite(7, "the loss is nan"))
    assert reason == "iteration 7: the loss is nan; take other --seeds, or another --preset"
    assert not again


# Figures


def test_the_papers_figures_fit_its_intervals() -> None:
    rows = paper_rows()
    for row in rows.values():
        for auc, half_width in row.auc.values():
            ours = hanley_mcneil(auc, row.normals, row.anomalies).half_width
            assert ours == pytest.approx(half_width, abs=1e-4)
    averages = {m: round(100 * statistics.fmean(row.auc[m][0] for row in rows.values()), 2) for m in METHODS}
    assert averages == {"bce": 88.39, "dsad": 84.68, "ddcsad": 86.82, "bce+dsad": 87.12, "bce+ddcsad": 92.81}


def test_a_cell_is_the_mean_over_ids_then_seeds(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, "table2", counts=[0], most=0, methods=["bce"])
    values = {(0, "00"): 0.9, (0, "01"): 0.7, (1, "00"): 0.8, (1, "01"): 0.5}
    results = {job.name: result(job, values[job.seed, job.id]) for job in jobs}
    (cell,) = summarise(jobs, results, "paper")
    assert cell.auc == pytest.approx(0.725)
    assert cell.seed_std == pytest.approx(statistics.stdev([0.8, 0.65]))
    assert (cell.normals, cell.anomalies) == (100, 80)
    assert cell.half_width == pytest.approx(hanley_mcneil(0.725, 100, 80).half_width)
    assert cell.ids == pytest.approx({"00": 0.85, "01": 0.6})
    assert cell.agrees is None


def test_a_cell_with_a_missing_model_has_no_figure(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, "table2", counts=[0], most=0, methods=["bce"], seeds=[0])
    (cell,) = summarise(jobs, {jobs[0].name: result(jobs[0], 0.9)}, "paper")
    assert cell.auc is None
    assert cell.missing == ["gear 01 bce seed 0"]
    (cell,) = summarise(jobs, {job.name: result(job, None) for job in jobs}, "paper")
    assert "gear 00 bce seed 0 (AUC undefined: 0)" in cell.missing
    assert "missing 2 models" in as_markdown("t", [cell])
    assert machine_average([cell], "bce") is None


def cell_of(auc: float, published: tuple[float, float] | None, half_width: float = 0.03) -> Cell:
    return Cell("fan", "bce", 0, auc, half_width, None, 309, 1033, {"01": auc}, [], published)


def test_agreement_is_a_difference_within_its_own_interval() -> None:
    # Half-widths of 3 and 4 points make one of 5.
    assert cell_of(0.90, (0.949, 0.04)).agrees is True
    assert cell_of(0.90, (0.951, 0.04)).agrees is False
    assert cell_of(0.90, None).agrees is None
    text = as_markdown("t", [cell_of(0.90, (0.949, 0.04))])
    assert "90.00 ± 3.00 =" in text
    assert "94.90 ± 4.00" in text
    assert "90.00 ± 3.00 ≠" in as_markdown("t", [cell_of(0.90, (0.96, 0.04))])


def test_the_average_is_over_machine_types_and_not_over_clips() -> None:
    cells = [cell_of(0.9, None), Cell("pump", "bce", 0, 0.7, 0.1, None, 3, 3)]
    assert machine_average(cells, "bce") == pytest.approx(0.8)
    assert as_json("table2", "paper", cells)["machine_average"] == [
        {"method": "bce", "count": 0, "auc": pytest.approx(0.8)}
    ]


@pytest.mark.parametrize("methods", [["bce"], list(METHODS)])
def test_figure_two_has_a_gap_for_a_missing_model(methods: list[str]) -> None:
    cells = [
        Cell(machine, method, n, None if n == 2 else 0.9, 0.02, None, 10, 10)
        for machine in ("fan", "valve <&>")
        for method in methods
        for n in (0, 1, 2, 4, 8)
    ]
    root = ElementTree.fromstring(figure_two("Figure 2", cells))
    space = "{http://www.w3.org/2000/svg}"
    assert root.findtext(f"{space}title") == "Figure 2"
    description = root.findtext(f"{space}desc") or ""
    assert description.count("90.0") == 8 * len(methods)
    assert "n = 2:" not in description
    lines = [
        group[0] for group in root.iter(f"{space}g") if group.get("id") in {f"{c.machine} {c.method}" for c in cells}
    ]
    assert [line.attrib["d"].count("M") for line in lines] == [2] * 2 * len(methods)
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    for text in root.iter(f"{space}text"):
        assert 0 <= float(text.attrib["x"]) <= width
        assert 0 <= float(text.attrib["y"]) <= height


def test_a_picture_without_figures_says_so() -> None:
    assert "No figures yet" in figure_two("Figure 2", [Cell("fan", "bce", 0, None, None, None, 0, 0, {}, ["fan 01"])])
