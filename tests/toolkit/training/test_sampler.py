"""Batches follow from the seed and the iteration alone, and every clip gets its turn."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.toolkit.training import data as sampler_module
from edgeasd.toolkit.training.data import Batch, BatchSampler

POOLS = st.integers(1, 90)
BATCHES = st.integers(1, 33)
SEEDS = st.integers(0, 2**31 - 1)


def make(normals: int, outliers: int, batch: int = 8, least_epoch: int = 1, seed: int = 0) -> BatchSampler:
    return BatchSampler(normals, outliers, batch_normal=batch, batch_outlier=batch, least_epoch=least_epoch, seed=seed)


def equal(a: Batch, b: Batch) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("normals", "outliers", "crops"))


def epoch_of(sampler: BatchSampler, epoch: int, pool: str) -> np.ndarray:
    count = sampler.epoch_iterations
    return np.concatenate([getattr(sampler.batch(i), pool) for i in range(epoch * count, (epoch + 1) * count)])


@settings(max_examples=60, deadline=None)
@given(
    normals=POOLS,
    outliers=POOLS,
    batch=BATCHES,
    seed=SEEDS,
    asked=st.lists(st.integers(0, 5000), min_size=1, max_size=12),
)
def test_a_batch_is_a_pure_function_of_seed_and_iteration(
    normals: int, outliers: int, batch: int, seed: int, asked: list[int]
) -> None:
    one = make(normals, outliers, batch, seed=seed)
    first = {iteration: one.batch(iteration) for iteration in asked}
    sampler_module._shuffled.cache_clear()
    fresh = make(normals, outliers, batch, seed=seed)
    for iteration in reversed(asked):
        assert equal(first[iteration], fresh.batch(iteration))


@settings(max_examples=80, deadline=None)
@given(
    normals=POOLS, outliers=POOLS, batch=BATCHES, seed=SEEDS, least=st.integers(1, 12), iteration=st.integers(0, 10**6)
)
def test_shapes_and_ranges_hold_for_any_pools(
    normals: int, outliers: int, batch: int, seed: int, least: int, iteration: int
) -> None:
    drawn = make(normals, outliers, batch, least, seed).batch(iteration)
    assert drawn.normals.shape == drawn.outliers.shape == (batch,)
    assert drawn.crops.shape == (2 * batch,)
    assert drawn.normals.dtype == drawn.outliers.dtype == np.int64
    assert 0 <= drawn.normals.min() <= drawn.normals.max() < normals
    assert 0 <= drawn.outliers.min() <= drawn.outliers.max() < outliers
    assert 0.0 <= drawn.crops.min() <= drawn.crops.max() < 1.0


@settings(max_examples=60, deadline=None)
@given(normals=POOLS, outliers=POOLS, batch=BATCHES, seed=SEEDS, least=st.integers(1, 8), epoch=st.integers(0, 5))
def test_each_pass_through_a_pool_sees_every_clip_once(
    normals: int, outliers: int, batch: int, seed: int, least: int, epoch: int
) -> None:
    sampler = make(normals, outliers, batch, least, seed)
    for pool, size in (("normals", normals), ("outliers", outliers)):
        seen = epoch_of(sampler, epoch, pool)
        for start in range(0, len(seen), size):
            one_pass = seen[start : start + size]
            assert len(set(one_pass.tolist())) == len(one_pass)
        counts = np.bincount(seen, minlength=size)
        assert counts.max() - counts.min() <= 1


def test_an_epoch_is_one_pass_over_the_normals_as_in_the_paper() -> None:
    sampler = make(1000, 5000, batch=32)
    assert sampler.epoch_iterations == 31
    assert len(set(epoch_of(sampler, 0, "normals").tolist())) == 31 * 32
    exact = make(64, 500, batch=32)
    assert sorted(epoch_of(exact, 3, "normals").tolist()) == list(range(64))
    assert make(7, 500, batch=32).epoch_iterations == 1
    assert make(7, 500, batch=32, least_epoch=30).epoch_iterations == 30


def test_both_pools_are_shuffled_anew_each_epoch() -> None:
    sampler = make(64, 64, batch=32)
    for pool in ("normals", "outliers"):
        orders = {tuple(epoch_of(sampler, epoch, pool).tolist()) for epoch in range(6)}
        assert len(orders) == 6
    large = make(64, 4096, batch=32)
    assert set(epoch_of(large, 0, "outliers").tolist()) != set(epoch_of(large, 1, "outliers").tolist())


def test_a_pool_smaller_than_the_batch_is_drawn_evenly() -> None:
    drawn = make(3, 5, batch=32).batch(0)
    assert sorted(np.bincount(drawn.normals, minlength=3)) == [10, 11, 11]
    assert sorted(np.bincount(drawn.outliers, minlength=5)) == [6, 6, 6, 7, 7]
    passes = drawn.outliers[:30].reshape(6, 5)
    assert len({tuple(row) for row in passes.tolist()}) > 1
    assert set(make(1, 1, batch=4).batch(9).normals.tolist()) == {0}


def test_another_seed_is_another_sequence() -> None:
    batches = [make(50, 50, seed=seed).batch(4) for seed in (0, 1)]
    assert not np.array_equal(batches[0].normals, batches[1].normals)
    assert not np.array_equal(batches[0].crops, batches[1].crops)
    sampler = make(50, 50)
    assert not np.array_equal(sampler.batch(0).crops, sampler.batch(1).crops)
    assert not np.array_equal(sampler.batch(0).normals, sampler.batch(0).outliers)
