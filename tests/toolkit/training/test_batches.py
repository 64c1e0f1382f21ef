"""Batches are a function of the iteration, wherever they are made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.training.data import Batches, BatchSampler, FeaturePool, load_batches

CLIPS = [np.full((10 + i, 2), i, dtype=np.float32) for i in range(20)]


def batches_of(open_clip: object = CLIPS.__getitem__) -> Batches:
    pools = [FeaturePool(10, open_clip, 8) for _ in range(2)]  # type: ignore[arg-type]
    sampler = BatchSampler(10, 10, batch_normal=3, batch_outlier=2, least_epoch=4, seed=1)
    return Batches(sampler, pools, 8, 2)


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_come_in_order_and_leave_the_random_state(workers: int) -> None:
    batches, state = batches_of(), torch.get_rng_state()
    found = list(load_batches(batches, 3, 9, workers=workers, pin_memory=False))
    assert torch.equal(torch.get_rng_state(), state)
    assert len(found) == 6
    for iteration, (segments, kind) in enumerate(found, start=3):
        expected = batches[iteration]
        assert not isinstance(expected, Exception)
        assert torch.equal(segments, expected[0])
        assert torch.equal(kind, expected[1])
        assert segments.shape == (5, 1, 8, 2)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_keeps_its_one_line(workers: int) -> None:
    def damaged(index: int) -> np.ndarray:
        raise InputError(f"clip {index}: damaged")

    (error,) = load_batches(batches_of(damaged), 0, 1, workers=workers, pin_memory=False)
    assert isinstance(error, InputError)
    assert str(error).startswith("clip ")
    assert "\n" not in str(error)


def test_a_pool_caches_what_it_opens(tmp_path: Path) -> None:
    opened: list[int] = []

    def open_clip(index: int) -> np.ndarray:
        opened.append(index)
        path = tmp_path / f"{index}.npy"
        np.save(path, CLIPS[index])
        return np.load(path, mmap_mode="r")

    pool = FeaturePool(20, open_clip, 12)
    for _ in range(2):
        assert [len(pool.clip(index)) >= 12 for index in (0, 5)] == [True, True]
    assert opened == [0, 5]
