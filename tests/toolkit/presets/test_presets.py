"""The presets hold the numbers of the paper and refuse what cannot be trained."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.presets import PRESETS, Preset, load_preset, table_one_alpha
from edgeasd.toolkit.presets.settings import (
    FIXED_IN_AN_UPDATE,
    FIXED_IN_TRAINING,
    describe_changes,
    field_meanings,
    field_values,
    with_settings,
)

pytestmark = pytest.mark.core

TABLE_ONE = {
    "bce+dsad": {"fan": 0.1, "pump": 0.2, "slider": 0.0, "ToyCar": 0.0, "ToyConveyor": 0.0, "valve": 0.0},
    "bce+ddcsad": {"fan": 0.1, "pump": 1.0, "slider": 1.0, "ToyCar": 0.1, "ToyConveyor": 0.0, "valve": 1.0},
}


def test_the_paper_preset_is_the_experiment() -> None:
    paper = load_preset("paper")
    assert (paper.backbone, paper.method, paper.iterations) == ("resnet38", "bce+ddcsad", 4000)
    assert (paper.batch_normal, paper.batch_outlier) == (32, 32)
    assert (paper.learning_rate, paper.head_learning_rate, paper.halve_every) == (1e-4, 1e-3, 1000)
    assert (paper.eta, paper.epsilon) == (2.0, 1e-6)
    assert (paper.segment_frames, paper.sections) == (256, 10)
    assert (paper.holdout_fraction, paper.least_epoch_iterations, paper.centroid_outliers) == (0.0, 1, 0)


def test_the_quick_preset_holds_out_a_part_of_the_normals() -> None:
    quick = load_preset("quick")
    assert (quick.backbone, quick.holdout_fraction, quick.centroid_outliers) == ("quick", 0.15, 4096)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_json(name: str) -> None:
    preset = load_preset(name)
    assert preset.name == name
    assert Preset.model_validate(json.loads(json.dumps(preset.model_dump()))) == preset


def test_a_changed_preset_is_a_copy_and_none_changes_nothing() -> None:
    quick = load_preset("quick")
    changed = quick.changed(iterations=7, backbone=None, method="bce")
    assert (changed.iterations, changed.backbone, changed.method) == (7, "quick", "bce")
    assert quick.iterations == 300
    assert quick.changed(iterations=None) == quick


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("iterations", -1),
        ("batch_normal", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("epsilon", 0.0),
        ("eta", -1.0),
        ("lam", float("inf")),
        ("holdout_fraction", 1.0),
        ("segment_frames", 7),
        ("no_such_field", 1),
    ],
)
def test_a_value_that_cannot_be_trained_is_named(field: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"preset quick: {field} = {re.escape(repr(value))}: ") as caught:
        load_preset("quick").changed(**{field: value})
    assert "\n" not in str(caught.value)


def test_an_unknown_preset_is_refused_with_the_list() -> None:
    with pytest.raises(InputError, match="--preset fast: unknown; use one of paper, quick"):
        load_preset("fast")


def test_alpha_is_table_one_cell_by_cell() -> None:
    for method, cells in TABLE_ONE.items():
        for machine, alpha in cells.items():
            assert table_one_alpha(method, machine) == alpha
    assert table_one_alpha("bce+ddcsad", "lathe") is None
    assert table_one_alpha("bce", "fan") is None


def test_every_field_has_one_meaning_and_a_value() -> None:
    meanings = field_meanings()
    assert set(meanings) == set(field_values(load_preset("paper")))
    assert "finetune.batch_anomaly" in meanings
    assert all(meaning.endswith(".") and "\n" not in meaning for meaning in meanings.values())
    assert {*FIXED_IN_TRAINING, *FIXED_IN_AN_UPDATE} <= set(meanings)


def test_settings_are_read_as_the_type_of_their_field() -> None:
    quick = load_preset("quick")
    texts = ["eta=3", "learning_rate = 5e-4", "estimate_norms_first=no", "finetune.iterations=9", "centroid_outliers=0"]
    found = with_settings(quick, texts, FIXED_IN_TRAINING, {"lam": 0.25, "iterations": None})
    assert (found.eta, found.learning_rate, found.estimate_norms_first, found.lam) == (3.0, 5e-4, False, 0.25)
    assert (found.finetune.iterations, found.finetune.batch_outlier) == (9, quick.finetune.batch_outlier)
    assert found.iterations == quick.iterations
    assert describe_changes(quick, found) == (
        "learning_rate = 0.0005, lam = 0.25, eta = 3.0, centroid_outliers = 0, estimate_norms_first = False, "
        "finetune.iterations = 9"
    )
    assert describe_changes(quick, quick) == ""


@given(st.sampled_from(sorted(field_meanings())), st.text(max_size=12))
@example("lam", "\n")
def test_whatever_is_set_is_a_preset_or_one_line(name: str, value: str) -> None:
    said = None
    try:
        found = with_settings(load_preset("quick"), [f"{name}={value}"], {})
        assert Preset.model_validate(found.model_dump()) == found
    except InputError as error:
        said = str(error)
    assert said is None or "\n" not in said
