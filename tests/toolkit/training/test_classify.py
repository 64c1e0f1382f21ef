"""Classification: classes come from names, resuming is exact, segments are mixed as their shares are."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from edgeasd.toolkit.data.clips import Clip
from edgeasd.toolkit.losses import SubCentres, classification_loss
from edgeasd.toolkit.presets import Preset, load_preset
from edgeasd.toolkit.training.checkpoint import latest_checkpoint
from edgeasd.toolkit.training.classify import ClassTrainer, MixedBatches, class_name
from edgeasd.toolkit.training.data import BatchSampler, FeaturePool
from edgeasd.toolkit.training.fabric import open_fabric
from edgeasd.toolkit.training.trainer import Interrupted, StepLog

FRAMES, MELS = 64, 32
LABELS = [0, 1, 2] * 3


def pool() -> FeaturePool:
    """Nine clips of three classes, told apart by their level in one band."""
    rng = np.random.default_rng(1)
    clips = [rng.standard_normal((FRAMES + 7 * i, MELS)).astype(np.float32) for i in range(9)]
    for label, clip in zip(LABELS, clips, strict=True):
        clip[:, 8 * label : 8 * label + 8] += 2.0
    return FeaturePool(len(clips), clips.__getitem__, FRAMES)


def preset(**fields: Any) -> Preset:
    small = {"batch_normal": 6, "segment_frames": FRAMES, "sub_centres": 2, "checkpoint_every": 1000}
    return load_preset("classify").changed(**{**small, **fields})


def train(trainer: ClassTrainer, folder: Path, stop_at: int = -1) -> list[StepLog]:
    steps: list[StepLog] = []
    with suppress(Interrupted):
        trainer.run(steps.append, lambda: trainer.save(folder, {}) and None, lambda: steps[-1].iteration == stop_at)
    return steps


def losses(steps: list[StepLog]) -> list[tuple[float, float]]:
    return [(step.loss, step.gradient_norm) for step in steps]


def make(seed: int = 0, **fields: Any) -> ClassTrainer:
    return ClassTrainer(preset(**fields), seed, pool(), LABELS, MELS, open_fabric("cpu"))


def test_a_class_is_machine_id_and_attributes() -> None:
    clip = Clip(Path("a.wav"), "ToyCar", "B1", "normal", attributes=(("car", "B1"), ("spd", "31V")))
    assert class_name(clip) == "ToyCar B1 car=B1 spd=31V"


@pytest.mark.parametrize("stop_at", [1, 5])
def test_a_resumed_classification_gives_the_same_bits(stop_at: int, tmp_path: Path) -> None:
    whole = make(iterations=6)
    steps = train(whole, tmp_path / "whole")
    assert len(steps) == 6
    assert all(math.isfinite(loss) for loss, _ in losses(steps))
    before = train(make(iterations=6), tmp_path, stop_at)
    assert len(before) == stop_at
    torch.rand(100)
    resumed = make(iterations=6)
    resumed.restore(latest_checkpoint(tmp_path))
    after = train(resumed, tmp_path)
    assert losses(before + after) == losses(steps)
    ours, theirs = resumed.network.state_dict(), whole.network.state_dict()
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []
    assert "classes.weight" in theirs


def test_it_learns_to_tell_classes_apart(tmp_path: Path) -> None:
    steps = train(make(iterations=40, mixup=0.0, learning_rate=3e-3), tmp_path)
    assert np.mean([step.loss for step in steps[-5:]]) < 0.7 * np.mean([step.loss for step in steps[:5]])


def batches(mixed: float) -> MixedBatches:
    sampler = BatchSampler(9, 0, batch_normal=6, batch_outlier=0, least_epoch=1, seed=3)
    return MixedBatches(sampler, pool(), torch.tensor(LABELS), FRAMES, MELS, mixed, 3)


def test_a_mixed_segment_has_the_shares_it_is_made_of() -> None:
    plain, mixed = batches(0.0)[4], batches(1.0)[4]
    assert not isinstance(plain, Exception)
    assert not isinstance(mixed, Exception)
    assert torch.equal(plain[1].sum(dim=1), torch.ones(6))
    assert torch.equal(plain[1].max(dim=1).values, torch.ones(6))
    assert torch.allclose(mixed[1].sum(dim=1), torch.ones(6))
    partners = np.random.default_rng([3, 7, 4]).permutation(6)
    for row in range(6):
        one, other = plain[0][row], plain[0][partners[row]]
        if torch.equal(one, other):
            continue
        weight = float(((mixed[0][row] - other) * (one - other)).sum() / ((one - other) ** 2).sum())
        assert 0 <= weight <= 1
        assert torch.allclose(mixed[1][row], weight * plain[1][row] + (1 - weight) * plain[1][partners[row]], atol=1e-5)


def test_an_error_in_a_batch_is_returned_not_raised() -> None:
    broken = batches(0.5)
    broken._pool._open = lambda index: (_ for _ in ()).throw(OSError(f"clip {index} is gone"))  # type: ignore[attr-defined]
    assert isinstance(broken[0], OSError)


@given(st.integers(2, 6), st.integers(1, 4), st.integers(0, 100))
def test_sub_centres_are_the_formula_in_the_docstring(classes: int, centres: int, seed: int) -> None:
    torch.manual_seed(seed)
    layer = SubCentres(5, classes, centres).double()
    z = torch.randn(3, 5, dtype=torch.float64)
    scale = math.sqrt(2) * max(1.0, math.log(classes * centres - 1))
    expected = torch.empty(3, classes, dtype=torch.float64)
    for n in range(3):
        for c in range(classes):
            rows = layer.weight[c * centres : (c + 1) * centres]
            expected[n, c] = torch.log(sum(torch.exp(scale * F.cosine_similarity(z[n], w, dim=0)) for w in rows))
    assert torch.allclose(layer(z), expected)
    target = torch.randint(classes, (3,))
    hard = classification_loss(layer(z), F.one_hot(target, classes).double())
    assert torch.allclose(hard, F.cross_entropy(expected, target))
