"""AUC, partial AUC and interval against their definitions, scikit-learn and the paper's Table II."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.evaluation.metrics import auc, hanley_mcneil, newcombe, partial_auc, tied_pairs

reference = pytest.importorskip("sklearn.metrics")

# Few distinct values make ties common; the wide range makes them rare.
TIED = st.integers(-3, 3).map(float)
WIDE = st.floats(-1e6, 1e6, width=32)
SCORES = st.one_of(st.lists(TIED, min_size=1, max_size=25), st.lists(WIDE, min_size=1, max_size=25))


def naive_auc(normal: list[float], anomaly: list[float], tie: float) -> float:
    points = [1.0 if a > n else tie if a == n else 0.0 for n in normal for a in anomaly]
    return sum(points) / len(points)


def naive_partial_area(normal: list[float], anomaly: list[float], max_fpr: float) -> float:
    """Trapezoids under the ROC curve up to max_fpr, one corner per distinct score, then McClish."""
    corners = [(0.0, 0.0)]
    for threshold in sorted({*normal, *anomaly}, reverse=True):
        fpr = sum(n >= threshold for n in normal) / len(normal)
        tpr = sum(a >= threshold for a in anomaly) / len(anomaly)
        corners.append((fpr, tpr))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(corners):
        if x1 > x0 and x0 < max_fpr:
            end = min(x1, max_fpr)
            y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
            area += (end - x0) * (y0 + y_end) / 2
    chance = max_fpr**2 / 2
    return 0.5 * (1 + (area - chance) / (max_fpr - chance))


# --- AUC ---


@given(SCORES, SCORES)
def test_the_auc_is_the_double_sum_of_equation_6(normal: list[float], anomaly: list[float]) -> None:
    assert auc(normal, anomaly, ties="zero") == pytest.approx(naive_auc(normal, anomaly, 0.0), abs=1e-12)
    assert auc(normal, anomaly) == pytest.approx(naive_auc(normal, anomaly, 0.5), abs=1e-12)


@given(SCORES, SCORES)
@settings(deadline=None)  # the first call imports scikit-learn
def test_the_auc_is_scikit_learns(normal: list[float], anomaly: list[float]) -> None:
    labels = [0] * len(normal) + [1] * len(anomaly)
    assert auc(normal, anomaly) == pytest.approx(reference.roc_auc_score(labels, normal + anomaly), abs=1e-12)


@given(SCORES, SCORES)
def test_swapping_the_classes_gives_one_minus_the_auc(normal: list[float], anomaly: list[float]) -> None:
    assert auc(normal, anomaly) == pytest.approx(1 - auc(anomaly, normal), abs=1e-12)


def test_a_constant_scorer_has_the_auc_of_chance() -> None:
    assert auc([1.0] * 4, [1.0] * 3) == 0.5
    assert auc([1.0] * 4, [1.0] * 3, ties="zero") == 0.0


def test_higher_anomaly_scores_are_the_good_direction() -> None:
    assert auc([0.0, 1.0], [2.0, 3.0]) == 1.0
    assert auc([2.0, 3.0], [0.0, 1.0]) == 0.0


@pytest.mark.parametrize(
    ("normal", "anomaly", "message"),
    [
        ([], [1.0, 2.0], r"0 normal and 2 anomalous clips; add normal clips"),
        ([1.0, 2.0, 3.0], [], r"3 normal and 0 anomalous clips; add anomalous clips"),
        ([], [], r"0 normal and 0 anomalous clips; add normal and anomalous clips"),
        ([1.0, math.nan], [1.0], r"normal score 1 of 2 is nan"),
        ([1.0], [0.0, 1.0, math.inf], r"anomalous score 2 of 3 is inf"),
        ([[1.0, 2.0]], [1.0], r"shape \(1, 2\)"),
    ],
)
def test_an_undefined_auc_is_an_error_that_says_what_is_missing(
    normal: list[float], anomaly: list[float], message: str
) -> None:
    for measure in (auc, partial_auc, lambda n, a: tied_pairs(n, a, n, a, 0.0)):
        with pytest.raises(InputError, match=message):
            measure(normal, anomaly)


def test_an_unknown_way_to_count_ties_is_refused() -> None:
    with pytest.raises(InputError, match="ties='random'"):
        auc([0.0], [1.0], ties="random")  # type: ignore[arg-type]


# --- partial AUC ---


@given(SCORES, SCORES, st.sampled_from([0.05, 0.1, 0.37, 1.0]))
@settings(deadline=None)
def test_partial_auc_is_the_standardised_area(normal: list[float], anomaly: list[float], max_fpr: float) -> None:
    expected = naive_partial_area(normal, anomaly, max_fpr)
    assert partial_auc(normal, anomaly, max_fpr) == pytest.approx(expected, abs=1e-9)


def test_the_partial_auc_is_one_for_perfect_scores() -> None:
    assert partial_auc([0.0, 1.0], [2.0, 3.0]) == 1.0
    assert partial_auc([1.0] * 20, [1.0] * 20) == pytest.approx(0.5)


def test_the_partial_auc_looks_at_the_loudest_normals_only() -> None:
    anomalies = np.full(10, 50.5)
    # Both scorings lose 10 of 100 normals to the anomalies' far side; only one loses them at the top.
    assert auc(np.arange(100.0), anomalies) < partial_auc(np.arange(50.0), anomalies) == 1.0
    assert partial_auc(np.r_[np.arange(40.0), [99.0] * 10], anomalies, 0.1) < 0.5


@pytest.mark.parametrize("max_fpr", [0.0, -0.1, 1.1, math.nan])
def test_a_false_positive_rate_outside_its_range_is_refused(max_fpr: float) -> None:
    with pytest.raises(InputError, match="max_fpr"):
        partial_auc([0.0], [1.0], max_fpr)


# --- interval ---

# normal and anomalous clips of the evaluation split, then (AUC, half-width) in per cent for
# BCE, DSAD, DDCSAD, BCE+DSAD, BCE+DDCSAD.
TABLE_2 = {
    "fan": (309, 1033, [(92.69, 2.06), (82.33, 3.00), (91.05, 2.25), (92.96, 2.02), (95.14, 1.70)]),
    "pump": (300, 477, [(94.39, 1.88), (88.88, 2.60), (91.71, 2.27), (89.91, 2.49), (92.14, 2.21)]),
    "slider": (300, 534, [(90.30, 2.43), (93.46, 2.01), (89.97, 2.46), (93.38, 2.03), (97.60, 1.24)]),
    "ToyCar": (750, 795, [(87.82, 1.77), (84.10, 2.00), (91.18, 1.51), (83.72, 2.03), (93.85, 1.26)]),
    "ToyConveyor": (600, 1065, [(75.21, 2.54), (68.51, 2.74), (68.37, 2.74), (64.13, 2.82), (82.05, 2.25)]),
    "valve": (300, 640, [(89.92, 2.45), (90.80, 2.35), (88.62, 2.59), (98.61, 0.94), (96.08, 1.57)]),
}
CELLS = [(kind, n, a, *cell) for kind, (n, a, cells) in TABLE_2.items() for cell in cells]


@pytest.mark.parametrize(("kind", "n_normal", "n_anomaly", "printed_auc", "printed_half_width"), CELLS)
def test_every_interval_of_table_2_is_hanley_mcneil(
    kind: str, n_normal: int, n_anomaly: int, printed_auc: float, printed_half_width: float
) -> None:
    """Some AUC that rounds to the printed one gives a half-width that rounds to the printed one.

    Both are printed to 0.01, so each may be off by 0.005; the AUC's rounding moves the half-width by at
    most 0.002. The largest deviation of all 30 is 0.0057 (slider, BCE+DDCSAD), the other 29 are < 0.005.
    """
    widths = [
        100 * hanley_mcneil((printed_auc + shift) / 100, n_normal, n_anomaly).half_width
        for shift in (-0.005, 0.0, 0.005)
    ]
    assert min(widths) - 0.005 <= printed_half_width <= max(widths) + 0.005, kind
    assert abs(widths[1] - printed_half_width) < 0.006


@pytest.mark.parametrize("kind", ["fan", "pump", "slider", "ToyConveyor", "valve"])
def test_anomalies_as_the_positive_class_would_miss_table_2(kind: str) -> None:
    n_normal, n_anomaly, cells = TABLE_2[kind]
    errors = [abs(100 * hanley_mcneil(a / 100, n_anomaly, n_normal).half_width - h) for a, h in cells]
    assert max(errors) > 0.05


@pytest.mark.parametrize(("n_positive", "n_negative"), [(12, 60), (60, 12)])
def test_the_standard_error_is_the_spread_of_the_auc(n_positive: int, n_negative: int) -> None:
    """Exact for exponential scores, the model behind Q₁ and Q₂: the positive class decays slower."""
    random = np.random.default_rng(5)
    true_auc = 0.85
    rate = 1 / true_auc - 1
    estimates = [
        auc(random.exponential(1.0, n_negative), random.exponential(1 / rate, n_positive)) for _ in range(6000)
    ]
    half_width = hanley_mcneil(true_auc, n_positive, n_negative, level=0.95).half_width
    # 6,000 draws know a spread to about 1 %; the classes swapped would be 20 % or more off.
    assert np.std(estimates) == pytest.approx(half_width / 1.959964, rel=0.05)
    swapped = hanley_mcneil(true_auc, n_negative, n_positive).half_width
    assert np.std(estimates) != pytest.approx(swapped / 1.959964, rel=0.1)


@given(st.floats(0, 1), st.integers(1, 5000), st.integers(1, 5000), st.floats(0.5, 0.999))
def test_interval_contains_the_auc_within_zero_and_one(
    area: float, n_positive: int, n_negative: int, level: float
) -> None:
    interval = hanley_mcneil(area, n_positive, n_negative, level)
    assert 0 <= interval.low <= area <= interval.high <= 1
    assert math.isfinite(interval.half_width)
    assert interval.low == max(0.0, area - interval.half_width)
    assert interval.high == min(1.0, area + interval.half_width)


@given(st.floats(0.01, 0.99), st.integers(1, 500), st.integers(1, 500))
def test_more_clips_narrow_the_interval(area: float, n_positive: int, n_negative: int) -> None:
    width = hanley_mcneil(area, n_positive, n_negative).half_width
    assert hanley_mcneil(area, 4 * n_positive, 4 * n_negative).half_width < width
    assert hanley_mcneil(area, n_positive, n_negative, level=0.99).half_width > width


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((92.7, 10, 10), "92.7"),
        ((-0.1, 10, 10), "-0.1"),
        ((math.nan, 10, 10), "nan"),
        ((0.9, 0, 10), "0 positive and 10 negative"),
        ((0.9, 10, 0), "10 positive and 0 negative"),
        ((0.9, 10, 10, 95), "level=95"),
        ((0.9, 10, 10, 0.0), r"level=0\.0"),
    ],
)
def test_an_interval_of_nothing_is_refused(arguments: tuple[float, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        hanley_mcneil(*arguments)  # type: ignore[arg-type]


# --- two scorings compared ---


@st.composite
def two_scorings(draw: st.DrawFn) -> tuple[list[float], list[float], list[float], list[float]]:
    element = draw(st.sampled_from([TIED, WIDE]))
    sizes = [draw(st.integers(1, 12)), draw(st.integers(1, 12))] * 2
    a_n, a_a, b_n, b_a = (draw(st.lists(element, min_size=n, max_size=n)) for n in sizes)
    return a_n, a_a, b_n, b_a


@given(two_scorings(), st.sampled_from([0.0, 0.5, 1.0, 1e3]))
def test_tied_pairs_counts_what_a_double_loop_counts(
    scorings: tuple[list[float], list[float], list[float], list[float]], tolerance: float
) -> None:
    a_n, a_a, b_n, b_a = scorings
    discordant = explained = 0
    for i in range(len(a_n)):
        for j in range(len(a_a)):
            a_gap, b_gap = a_a[j] - a_n[i], b_a[j] - b_n[i]
            if (a_gap > 0, a_gap < 0) != (b_gap > 0, b_gap < 0):
                discordant += 1
                explained += abs(a_gap) <= tolerance or abs(b_gap) <= tolerance
    difference = tied_pairs(*scorings, tolerance)
    assert (difference.discordant, difference.explained_by_ties) == (discordant, explained)
    assert difference.total == len(a_n) * len(a_a)
    assert difference.unexplained == discordant - explained
    assert abs(auc(a_n, a_a) - auc(b_n, b_a)) <= discordant / difference.total + 1e-12


@given(SCORES, SCORES, st.randoms(use_true_random=False))
def test_noise_below_the_tolerance_leaves_nothing_unexplained(
    normal: list[float], anomaly: list[float], random: object
) -> None:
    noise = np.random.default_rng(random.randrange(2**32))  # type: ignore[attr-defined]
    noisy_normal = np.array(normal) + noise.uniform(-4e-5, 4e-5, len(normal))
    noisy_anomaly = np.array(anomaly) + noise.uniform(-4e-5, 4e-5, len(anomaly))
    assert tied_pairs(normal, anomaly, noisy_normal, noisy_anomaly, 1e-4).unexplained == 0


def test_a_swapped_pair_far_from_a_tie_stays_unexplained() -> None:
    difference = tied_pairs([0.0, 1.0], [0.99995], [0.0, 0.5], [0.99995], 1e-4)
    assert (difference.discordant, difference.explained_by_ties) == (1, 1)
    difference = tied_pairs([0.0, 1.0], [0.5], [0.0, 0.4], [0.5], 1e-4)
    assert (difference.discordant, difference.explained_by_ties, difference.unexplained) == (1, 0, 1)


def test_scorings_of_different_clips_are_refused() -> None:
    with pytest.raises(InputError, match="2 and 1 normal scores"):
        tied_pairs([0.0, 1.0], [1.0], [0.0], [1.0], 1e-4)
    with pytest.raises(InputError, match="1 and 2 anomalous scores"):
        tied_pairs([0.0], [1.0], [0.0], [1.0, 2.0], 1e-4)


@pytest.mark.parametrize("tolerance", [-1e-4, math.nan, math.inf])
def test_a_tolerance_that_is_no_distance_is_refused(tolerance: float) -> None:
    with pytest.raises(InputError, match="tolerance"):
        tied_pairs([0.0], [1.0], [0.0], [1.0], tolerance)


@pytest.mark.parametrize(("value", "low", "high"), [(1.0, 0.865, 1.0), (0.0, 0.0, 0.135)])
def test_newcombe_keeps_its_width_at_the_ends(value: float, low: float, high: float) -> None:
    found = newcombe(value, 12, 20)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-3)
    assert hanley_mcneil(value, 12, 20).half_width == 0


@given(st.floats(0, 1), st.integers(1, 300), st.integers(1, 300))
def test_newcombe_holds_the_auc_and_mirrors(value: float, positives: int, negatives: int) -> None:
    found, mirrored = newcombe(value, positives, negatives), newcombe(1 - value, negatives, positives)
    assert 0 <= found.low <= value <= found.high <= 1
    assert found.high - found.low > 0
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - found.high, 1 - found.low), abs=1e-6)


def test_newcombe_covers_the_true_auc() -> None:
    """Normal scores against shifted ones: 95 % of 400 intervals should hold the AUC of the shift, 0.97."""
    draw, shift = np.random.default_rng(0), 2.66
    held = 0
    for _ in range(400):
        found = auc(draw.standard_normal(20), draw.standard_normal(20) + shift)
        interval = newcombe(found, 20, 20)
        held += interval.low <= 0.97 <= interval.high
    assert held >= 0.92 * 400
