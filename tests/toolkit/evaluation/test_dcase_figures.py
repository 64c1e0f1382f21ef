"""Per-domain AUC, harmonic means, α sweep and the spread over seeds, against the definitions spelled out."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.evaluation.alpha import Sweep, choose_alpha, sweep_alpha
from edgeasd.toolkit.evaluation.dcase import domain_figures, harmonic_mean, variant_of
from edgeasd.toolkit.evaluation.metrics import roc_band, roc_points
from edgeasd.toolkit.evaluation.stored import compare, over_ids, over_seeds, pooled

reference = pytest.importorskip("sklearn.metrics")

CLIPS = st.lists(
    st.tuples(st.integers(-4, 4).map(float), st.booleans(), st.sampled_from(["source", "target"])),
    min_size=4,
    max_size=40,
)


@given(CLIPS)
@settings(max_examples=40, deadline=None)
def test_the_official_selection_of_clips_since_2022(clips: list[tuple[float, bool, str]]) -> None:
    """The selection that the official scripts make: normals of one domain with every anomaly."""
    scores, labels, domains = (list(column) for column in zip(*clips))
    found = domain_figures(scores, labels, domains)
    for domain in ("source", "target"):
        chosen = [i for i in range(len(clips)) if domains[i] == domain or labels[i]]
        if len({labels[i] for i in chosen}) < 2:
            assert f"auc_{domain}" not in found
            continue
        expected = reference.roc_auc_score([labels[i] for i in chosen], [scores[i] for i in chosen])
        assert found[f"auc_{domain}"] == pytest.approx(expected)
    if len(set(labels)) == 2:
        assert found["pauc"] == pytest.approx(reference.roc_auc_score(labels, scores, max_fpr=0.1))


@given(CLIPS)
@settings(max_examples=40, deadline=None)
def test_in_2021_each_domain_is_a_test_of_its_own(clips: list[tuple[float, bool, str]]) -> None:
    scores, labels, domains = (list(column) for column in zip(*clips))
    found = domain_figures(scores, labels, domains, "2021")
    for domain in ("source", "target"):
        chosen = [i for i in range(len(clips)) if domains[i] == domain]
        if len({labels[i] for i in chosen}) < 2:
            assert f"auc_{domain}" not in found
            continue
        truth, values = [labels[i] for i in chosen], [scores[i] for i in chosen]
        assert found[f"auc_{domain}"] == pytest.approx(reference.roc_auc_score(truth, values))
        assert found[f"pauc_{domain}"] == pytest.approx(reference.roc_auc_score(truth, values, max_fpr=0.1))


def test_the_variants_differ_for_anomalies_of_another_domain() -> None:
    scores = [0.0, 1.0, 3.0, 2.0]
    labels = [False, True, False, True]
    domains = ["source", "source", "target", "target"]
    assert domain_figures(scores, labels, domains, "2021")["auc_target"] == 0.0
    assert domain_figures(scores, labels, domains)["auc_source"] == 1.0
    assert (variant_of(2021), variant_of(2022), variant_of(2026)) == ("2021", "2022-2026", "2022-2026")
    with pytest.raises(InputError, match="2020"):
        variant_of(2020)
    with pytest.raises(InputError, match="variant '2020'"):
        domain_figures(scores, labels, domains, "2020")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one of each for every clip"):
        domain_figures(scores, labels[:3], domains)


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=20))
def test_the_harmonic_mean_is_scipys(values: list[float]) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert harmonic_mean(values) == pytest.approx(float(stats.hmean(values)), rel=1e-9)


def test_a_zero_makes_the_harmonic_mean_zero() -> None:
    assert harmonic_mean([0.9, 0.0, 0.8]) == 0.0
    for values in ([], [0.5, -0.1], [0.5, float("nan")]):
        with pytest.raises(InputError):
            harmonic_mean(values)


# --- ROC ---


@given(CLIPS)
@settings(max_examples=40, deadline=None)
def test_the_area_under_the_curve_is_the_auc(clips: list[tuple[float, bool, str]]) -> None:
    normal, anomaly = ([s for s, label, _ in clips if label is kind] for kind in (False, True))
    if not normal or not anomaly:
        return
    fpr, tpr = roc_points(normal, anomaly)
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    area = float(np.sum(np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2))
    assert area == pytest.approx(reference.roc_auc_score([0] * len(normal) + [1] * len(anomaly), normal + anomaly))


def test_the_band_holds_the_curve_and_narrows_with_more_clips() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for clips in (20, 400):
        normal, anomaly = rng.normal(0, 1, clips), rng.normal(1, 1, clips)
        grid, low, high = roc_band(normal, anomaly)
        assert np.all(low <= high)
        middle = np.interp(0.5, *roc_points(normal, anomaly))
        assert low[50] <= middle <= high[50]
        widths.append(float(np.mean(high - low)))
    assert widths[1] < widths[0] / 2
    assert grid.shape == (101,)


# --- α ---


def test_the_sweep_is_the_auc_of_the_blend_at_every_alpha() -> None:
    rng = np.random.default_rng(1)
    labels = np.arange(30) % 3 == 0
    q, d = rng.random(30) + labels * 0.3, rng.random(30)
    sweep = sweep_alpha(q, d, labels)
    for alpha, value in zip(sweep.alphas, sweep.aucs):
        assert value == pytest.approx(reference.roc_auc_score(labels, alpha * q + (1 - alpha) * d))
    assert (sweep.alphas[0], sweep.alphas[-1], len(sweep.alphas)) == (0.0, 1.0, 21)


def test_best_alpha_is_the_middle_of_a_plateau() -> None:
    assert choose_alpha(Sweep((0.0, 0.5, 1.0), (0.6, 0.7, 0.9))) == 1.0
    assert choose_alpha(Sweep((0.0, 0.25, 0.5, 0.75, 1.0), (1.0, 1.0, 1.0, 1.0, 0.9))) == 0.5
    assert choose_alpha(Sweep((0.0, 0.25, 0.75, 1.0), (0.5, 1.0, 1.0, 0.5))) == 0.25
    with pytest.raises(InputError, match="grid"):
        sweep_alpha([0.1, 0.2], [0.1, 0.2], [False, True], (1.5,))
    with pytest.raises(InputError, match="0 normal"):
        sweep_alpha([0.1, 0.2], [0.1, 0.2], [True, True])


# --- several evaluations ---


def stored(auc: float, shift: float = 0.0, id: str = "00") -> dict[str, Any]:
    rng = np.random.default_rng(3)
    labels = ["normal"] * 10 + ["anomaly"] * 10
    clips = [
        {
            "file": f"{i}.wav",
            "path": f"valve/00/{i}.wav",
            "label": label,
            "deploy": float(rng.normal() + shift * (i > 9)),
        }
        for i, label in enumerate(labels)
    ]
    domains = {
        "2021": {"auc_source": auc},
        "2022-2026": {"auc_source": auc, "auc_target": 0.5, "pauc": 0.6, "harmonic_mean": 0.5},
    }
    figures = {"deploy": {"auc": auc, "pauc_0.1": 0.5, "domains": domains}}
    return {"machine": "valve", "id": id, "figures": figures, "clips": clips}


def test_seeds_are_given_as_mean_and_spread() -> None:
    spread = over_seeds([stored(0.7), stored(0.8), stored(0.9)])["deploy"]["auc"]
    assert (spread.mean, spread.std, spread.low, spread.high, spread.runs) == pytest.approx((0.8, 0.1, 0.7, 0.9, 3))
    assert over_seeds([stored(0.7)])["deploy"]["auc"].std is None
    with pytest.raises(InputError, match="valve ID 00, valve ID 02"):
        over_seeds([stored(0.7), stored(0.7, id="02")])
    other = stored(0.7)
    other["clips"].pop()
    with pytest.raises(InputError, match="evaluation 1 has other test clips"):
        over_seeds([stored(0.7), other])


def test_means_over_ids_are_arithmetic_and_harmonic() -> None:
    mean = over_ids([stored(0.5), stored(1.0)])["deploy"]
    assert (mean["ids"], mean["auc"]) == (2, 0.75)
    assert mean["auc_harmonic"] == pytest.approx(2 / 3)
    official = harmonic_mean([0.5, 1.0, 0.5, 0.5, 0.6, 0.6])
    assert mean["domains"]["2022-2026"]["harmonic_mean"] == pytest.approx(official)
    assert "2021" not in mean["domains"], "a variant that lacks a figure has no official score"


def test_models_are_paired_by_path_and_never_by_position() -> None:
    a, b = stored(0.5), stored(0.5, shift=2.0)
    straight = compare(a, b)
    assert straight.difference < 0
    b["clips"].reverse()
    assert compare(json.loads(json.dumps(a)), b) == straight
    b["clips"][0]["path"] = "valve/00/other.wav"
    with pytest.raises(InputError, match="is not judged alike"):
        compare(a, b)
    with pytest.raises(InputError, match="not scored by 'paper'"):
        compare(a, a, "paper")


def test_pooled_figures_are_those_of_all_clips() -> None:
    one, two = stored(0.5, shift=1.0, id="00"), stored(0.5, shift=1.0, id="01")
    for clip in two["clips"]:
        clip["deploy"] += 100.0  # a model whose scale lies elsewhere cannot share a threshold
    for evaluation, domain in ((one, "source"), (two, "target")):
        for clip in evaluation["clips"]:
            clip["domain"] = domain
    clips = [*one["clips"], *two["clips"]]
    truth, scores = [clip["label"] == "anomaly" for clip in clips], [clip["deploy"] for clip in clips]
    found = pooled([one, two])["deploy"]
    assert found["auc"] == pytest.approx(reference.roc_auc_score(truth, scores))
    assert found["pauc_0.1"] == pytest.approx(reference.roc_auc_score(truth, scores, max_fpr=0.1))
    source = [i for i, clip in enumerate(clips) if clip["domain"] == "source" or truth[i]]
    expected = reference.roc_auc_score([truth[i] for i in source], [scores[i] for i in source])
    assert found["domains"]["2022-2026"]["auc_source"] == pytest.approx(expected)
    assert expected > found["domains"]["2022-2026"]["auc_target"]


def test_a_way_of_scoring_that_one_id_lacks_is_not_pooled() -> None:
    one, two = stored(0.5), stored(0.5, id="01")
    for clip in two["clips"]:
        clip["paper"] = 0.1
    two["figures"]["paper"] = two["figures"]["deploy"]
    assert set(pooled([one, two])) == {"deploy"}
