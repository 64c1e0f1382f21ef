"""Banks of normals: distances against a plain float64 transcription, selection, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.calibration.fit.bank import (
    Bank,
    BankPlan,
    bank_distances,
    fit_bank,
    fit_banks,
    k_centres,
    map_to_bank,
    pairwise,
    read_banks,
    write_banks,
)
from edgeasd.runtime.errors import InputError

pytestmark = pytest.mark.core

PLAIN, WHITE = BankPlan("plain", (0, 6), "none"), BankPlan("white", (0, 6), "whiten")


def normals(clips: int = 20, sections: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of `sections` segments of each clip, near each other within a clip."""
    rng = np.random.default_rng(seed)
    middle = rng.normal(size=(clips, 1, 6)) * [5.0, 1.0, 1.0, 0.5, 0.2, 0.1]
    z = middle + 0.05 * rng.normal(size=(clips, sections, 6))
    return z.reshape(-1, 6).astype(np.float32), np.repeat(np.arange(clips), sections)


def by_hand(bank: Bank, z: np.ndarray) -> list[float]:
    """d of each embedding, one normal after the other."""
    found = []
    for row in z.astype(np.float64):
        value = row[slice(*bank.columns)] - bank.shift
        if bank.matrix is not None:
            value = value * bank.matrix if bank.matrix.ndim == 1 else value @ bank.matrix.astype(np.float64)
        found.append(min(np.linalg.norm(value - b) / r for b, r in zip(bank.points, bank.density, strict=True)))
    return found


@pytest.mark.parametrize("plan", [PLAIN, WHITE])
def test_distance_is_that_of_the_definition(plan: BankPlan) -> None:
    z, clips = normals()
    bank = fit_bank(z, clips, plan)
    new = normals(seed=1)[0]
    np.testing.assert_allclose(bank_distances([bank], new), by_hand(bank, new), rtol=1e-6)


def test_density_counts_segments_of_other_clips_only() -> None:
    z, clips = normals()
    bank = fit_bank(z, clips, PLAIN, neighbours=4)
    apart = pairwise(z.astype(float), z.astype(float))
    for row in (0, 17, 59):
        others = np.sort(apart[row][clips != clips[row]])[:4]
        assert bank.density[row] == pytest.approx(others.mean(), rel=1e-5)


def test_one_normal_is_the_papers_centroid() -> None:
    centroid = np.array([1.0, -2.0, 0.5], np.float32)
    bank = Bank("c", (0, 3), np.zeros(3, np.float32), None, centroid[None], np.ones(1, np.float32), 0.0, 1.0)
    z = np.random.default_rng(3).normal(size=(50, 3)).astype(np.float32)
    np.testing.assert_allclose(bank_distances([bank], z) ** 2, ((z - centroid) ** 2).sum(axis=1), rtol=1e-6)


def test_a_vote_is_the_mean_of_standardised_distances() -> None:
    z, clips = normals()
    banks = [fit_bank(z, clips, plan) for plan in (PLAIN, WHITE)]
    each = [(bank_distances([bank], z) - bank.mean) / bank.spread for bank in banks]
    np.testing.assert_allclose(bank_distances(banks, z), np.mean(each, axis=0))


def test_a_weight_counts_as_often_as_it_says() -> None:
    z, clips = normals()
    plans = (PLAIN, replace(WHITE, weight=2.0))
    banks, unseen = fit_banks(z, clips, plans)
    each = [(bank_distances([bank], z) - bank.mean) / bank.spread for bank in banks]
    np.testing.assert_allclose(bank_distances(banks, z), (each[0] + 2.0 * each[1]) / 3.0)
    assert abs(unseen.mean()) < 1e-9
    again = read_banks(write_banks(banks), "bank.npz")
    np.testing.assert_array_equal(bank_distances(again, z), bank_distances(banks, z))


@pytest.mark.parametrize("kind", ["none", "standardise", "whiten"])
@given(gain=st.floats(-2.0, 2.0))
@settings(max_examples=10)
def test_a_bank_without_level_hears_no_gain(kind: str, gain: float) -> None:
    z, clips = normals()
    bank = fit_bank(z, clips, BankPlan("free", (0, 6), kind, level=(0, 3)))
    louder = z + np.float32(gain) * np.array([1, 1, 1, 0, 0, 0], np.float32)
    np.testing.assert_allclose(bank_distances([bank], louder), bank_distances([bank], z), rtol=1e-3, atol=1e-3)
    assert not np.allclose(bank_distances([bank], z + np.float32(1.0)), bank_distances([bank], z))


def test_whitening_of_more_values_than_normals_is_the_same() -> None:
    """From the normals' side as from the values': the distances agree."""
    rng = np.random.default_rng(6)
    z = rng.normal(size=(40, 60)) * rng.uniform(0.1, 2.0, 60)
    clips = np.arange(40)
    wide = fit_bank(z, clips, BankPlan("wide", (0, 60), "whiten"))
    covariance = np.cov(z.T, bias=True)
    assert wide.matrix is not None
    assert wide.matrix.shape == (60, 60)
    # The map undoes the shrunk covariance, which has the axes of the covariance itself.
    inverse = np.linalg.inv(wide.matrix.astype(np.float64) @ wide.matrix.T.astype(np.float64))
    mixed = inverse @ covariance - covariance @ inverse
    assert np.abs(mixed).max() < 1e-3 * np.abs(covariance).max() ** 2


def test_standardised_values_have_unit_variance() -> None:
    z, clips = normals(clips=40)
    bank = fit_bank(z, clips, BankPlan("scaled", (1, 5), "standardise"))
    np.testing.assert_allclose(bank.points.std(axis=0), 1.0, rtol=1e-5)
    np.testing.assert_allclose(bank_distances([bank], z[:5] + 0.1), by_hand(bank, z[:5] + 0.1), rtol=1e-5)


def test_unseen_normals_score_about_zero_in_a_vote() -> None:
    """Leaving out single normals would call a whitening of few normals sharper than it is."""
    z, clips = normals(clips=40, seed=5)
    banks = [fit_bank(z[:60], clips[:60], plan) for plan in (PLAIN, WHITE)]
    held_out = bank_distances(banks, z[60:])
    assert abs(held_out.mean()) < 1.0


@given(st.integers(1, 30), st.integers(0, 1000))
@settings(max_examples=30)
def test_k_centres_cover_within_twice_the_best_radius(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(40, 3))
    distances = pairwise(points, points)
    chosen = k_centres(points, count)
    assert len(set(chosen.tolist())) == count
    random = rng.choice(40, count, replace=False)
    # Gonzalez: no choice of as many covers with less than half the radius.
    assert distances[chosen].min(axis=0).max() <= 2.0 * distances[random].min(axis=0).max() + 1e-9


def test_a_bounded_bank_keeps_rare_normals() -> None:
    z, clips = normals(clips=60)
    z[-3:] += 50.0
    bank = fit_bank(z, clips, PLAIN, size=12)
    assert len(bank.points) == 12
    assert bank_distances([bank], z[-1:])[0] < 1.0


def test_stored_banks_come_back_as_they_were() -> None:
    z, clips = normals()
    banks = [fit_bank(z, clips, plan) for plan in (PLAIN, WHITE)]
    again = read_banks(write_banks(banks), "bank.npz")
    np.testing.assert_array_equal(bank_distances(again, z), bank_distances(banks, z))


@pytest.mark.parametrize("cut", [0, 1, 100, -1])
def test_a_damaged_file_is_one_line(cut: int) -> None:
    data = write_banks([fit_bank(*normals(), PLAIN)])
    with pytest.raises(InputError, match=r"run/bank\.npz: no bank of normals"):
        read_banks(data[:cut], "run/bank.npz")


def test_too_few_clips_are_refused_with_their_number() -> None:
    with pytest.raises(InputError, match="3 normal clips for a bank.*record 2 more"):
        fit_bank(*normals(clips=3), PLAIN)


def test_copies_are_refused() -> None:
    z, clips = normals()
    z[:18] = z[0]
    with pytest.raises(InputError, match="are the same as 4 others.*remove the copies"):
        fit_bank(z, clips, PLAIN)


def test_a_value_that_is_not_finite_is_refused_with_its_clip() -> None:
    z, clips = normals()
    z[10, 2] = np.nan
    with pytest.raises(InputError, match="segment 10 of clip 3: its embedding is not finite"):
        fit_bank(z, clips, PLAIN)


@pytest.mark.parametrize("clips", [6, 40, 400])
def test_principal_directions_are_whitened_and_few(clips: int) -> None:
    rng = np.random.default_rng(3)
    z = rng.standard_normal((clips, 200)) * np.geomspace(10, 0.1, 200)
    bank = fit_bank(z, np.arange(clips), BankPlan("p", (0, 200), "principal"), neighbours=2)
    assert bank.matrix is not None
    assert bank.matrix.shape == (200, min(128, clips // 2))
    mapped = map_to_bank(bank, z)
    np.testing.assert_allclose(mapped.T @ mapped / clips, np.eye(mapped.shape[1]), atol=1e-4)
