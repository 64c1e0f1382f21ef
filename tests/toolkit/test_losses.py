"""The five methods equal equations 1 to 4 of the paper, written out sample by sample in float64."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.losses import (
    ANOMALY,
    METHODS,
    NORMAL,
    OUTLIER,
    LossParts,
    bce_loss,
    ddcsad_loss,
    dsad_loss,
    method_loss,
    method_named,
    squared_distance,
)

EPSILON = 1e-6


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x >= 0 else x - math.log1p(math.exp(x))


def distance_to_the(power: int, z: np.ndarray, c: np.ndarray, epsilon: float) -> float:
    """‖z - c‖ to the power 2 or -2, with ε inside the inverse."""
    d = float(sum((a - b) ** 2 for a, b in zip(z, c, strict=True)))
    return d if power == 2 else 1.0 / (d + epsilon)


def equation_1(logit: np.ndarray, kind: np.ndarray) -> float:
    outliers = sum(log_sigmoid(-x) for x, k in zip(logit, kind, strict=True) if k == OUTLIER)
    labelled = 0.0
    for x, k in zip(logit, kind, strict=True):
        if k == OUTLIER:
            continue
        u = 1 if k == NORMAL else 0
        labelled += u * log_sigmoid(x) + (1 - u) * log_sigmoid(-x)
    return -(outliers + labelled) / len(kind)


def equation_2(z: np.ndarray, kind: np.ndarray, c: np.ndarray, eta: float, epsilon: float) -> float:
    outliers = labelled = 0.0
    for row, k in zip(z, kind, strict=True):
        y = 1 if k == NORMAL else -1
        if k == OUTLIER:
            outliers += distance_to_the(2 * y, row, c, epsilon)
        else:
            labelled += distance_to_the(2 * y, row, c, epsilon)
    return (outliers + eta * labelled) / len(kind)


def equation_3(z: np.ndarray, kind: np.ndarray, c_p: np.ndarray, c_n: np.ndarray, eta: float, epsilon: float) -> float:
    outliers = labelled = 0.0
    for row, k in zip(z, kind, strict=True):
        y = 1 if k == NORMAL else -1
        term = distance_to_the(2 * y, row, c_p, epsilon) + distance_to_the(-2 * y, row, c_n, epsilon)
        if k == OUTLIER:
            outliers += term
        else:
            labelled += term
    return outliers / len(kind) + eta / len(kind) * labelled


def written_out(
    name: str,
    logit: np.ndarray,
    z: np.ndarray,
    kind: np.ndarray,
    c_p: np.ndarray,
    c_n: np.ndarray,
    lam: float,
    eta: float,
    epsilon: float,
) -> float:
    metric = 0.0
    if name.endswith("ddcsad"):
        metric = equation_3(z, kind, c_p, c_n, eta, epsilon)
    elif name.endswith("dsad"):
        metric = equation_2(z, kind, c_p, eta, epsilon)
    if not name.startswith("bce"):
        return metric
    return equation_1(logit, kind) + lam * metric


def ours(name: str, arrays: tuple[np.ndarray, ...], lam: float, eta: float, epsilon: float = EPSILON) -> LossParts:
    logit, z, kind, c_p, c_n = (torch.from_numpy(a) for a in arrays)
    return method_loss(METHODS[name], logit, z, kind, c_p, c_n, lam=lam, eta=eta, epsilon=epsilon)


def draw(seed: int, kinds: list[int], dimensions: int, scale: float = 1.0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    count = len(kinds)
    return (
        rng.normal(0, 3, count),
        rng.normal(0, scale, (count, dimensions)),
        np.array(kinds, dtype=np.int64),
        rng.normal(0, scale, dimensions),
        rng.normal(0, scale, dimensions),
    )


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    kinds=st.lists(st.sampled_from([NORMAL, OUTLIER, ANOMALY]), min_size=1, max_size=9),
    dimensions=st.integers(1, 6),
    lam=st.floats(0.0, 10.0),
    eta=st.floats(0.01, 10.0),
)
def test_every_method_equals_its_equation_sample_by_sample(
    name: str, seed: int, kinds: list[int], dimensions: int, lam: float, eta: float
) -> None:
    arrays = draw(seed, kinds, dimensions)
    assert float(ours(name, arrays, lam, eta).total) == pytest.approx(
        written_out(name, *arrays, lam, eta, EPSILON), rel=1e-11
    )


def test_values_worked_out_by_hand() -> None:
    """One sample of each kind in two dimensions, ε = 0: every distance is a whole number."""
    z = np.array([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]])
    kind = np.array([NORMAL, OUTLIER, ANOMALY])
    c_p, c_n = np.array([0.0, 0.0]), np.array([1.0, 0.0])
    logit = np.array([0.0, 0.0, 0.0])
    # d_p² = 5, 9, 1; d_n² = 4, 4, 2; η = 2
    dsad = (2 * 5 + 1 / 9 + 2 * 1 / 1) / 3
    ddcsad = (2 * (5 + 1 / 4) + (1 / 9 + 4) + 2 * (1 / 1 + 2)) / 3
    arrays = (logit, z, kind, c_p, c_n)
    for name, expected in (
        ("bce", math.log(2)),
        ("dsad", dsad),
        ("ddcsad", ddcsad),
        ("bce+dsad", math.log(2) + 0.5 * dsad),
        ("bce+ddcsad", math.log(2) + 0.5 * ddcsad),
    ):
        assert float(ours(name, arrays, 0.5, 2.0, 0.0).total) == pytest.approx(expected, rel=1e-14), name


def test_the_parts_add_up_and_name_the_largest_inverse() -> None:
    arrays = draw(3, [NORMAL, NORMAL, OUTLIER, ANOMALY], 5)
    logit, z, kind, c_p, c_n = arrays
    parts = ours("bce+ddcsad", arrays, 0.7, 2.0)
    assert float(parts.total) == pytest.approx(float(parts.bce) + 0.7 * float(parts.metric), rel=1e-14)
    inverses = [1 / (sum((row - (c_n if k == NORMAL else c_p)) ** 2) + EPSILON) for row, k in zip(z, kind, strict=True)]
    assert float(parts.largest_inverse) == pytest.approx(max(inverses), rel=1e-12)
    only_normals = ours("dsad", (logit[:2], z[:2], kind[:2], c_p, c_n), 1.0, 2.0)
    assert float(only_normals.largest_inverse) == 0.0


@pytest.mark.parametrize("name", METHODS)
def test_gradients_are_those_of_the_value(name: str) -> None:
    logit, z, kind, c_p, c_n = (torch.from_numpy(a) for a in draw(5, [NORMAL, OUTLIER, ANOMALY, NORMAL, OUTLIER], 4))

    def total(logit: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return method_loss(METHODS[name], logit, z, kind, c_p, c_n, lam=0.7, eta=2.0, epsilon=EPSILON).total

    assert torch.autograd.gradcheck(total, (logit.requires_grad_(), z.requires_grad_()))


@pytest.mark.parametrize("offset", [0.0, 1e-30, 1e-12, 1e-6, 1e-3])
@pytest.mark.parametrize("kind", [NORMAL, OUTLIER, ANOMALY])
@pytest.mark.parametrize("name", ["dsad", "ddcsad", "bce+dsad", "bce+ddcsad"])
def test_sample_on_a_centroid_has_finite_loss_and_gradient(name: str, kind: int, offset: float) -> None:
    centroid = torch.ones(2048)
    # A normal sample sits on c_n, the others on c_p: the side that is inverted.
    c_p, c_n = (torch.zeros(2048), centroid) if kind == NORMAL else (centroid, torch.zeros(2048))
    z = (centroid + offset)[None].requires_grad_()
    parts = method_loss(
        METHODS[name], torch.zeros(1), z, torch.tensor([kind]), c_p, c_n, lam=1.0, eta=2.0, epsilon=EPSILON
    )
    parts.total.backward()
    assert torch.isfinite(parts.total)
    assert z.grad is not None
    assert bool(torch.isfinite(z.grad).all())
    assert float(parts.largest_inverse) <= 1 / EPSILON * 1.0001


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_the_loss_is_computed_in_float32(dtype: torch.dtype) -> None:
    """‖z‖² of 2048 dimensions of size 20 is 819,200: infinity in float16."""
    generator = torch.Generator().manual_seed(0)
    z = (20 * torch.randn(6, 2048, generator=generator)).to(dtype)
    logit = torch.tensor([60.0, -60.0, 3.0, 0.0, -5.0, 8.0]).to(dtype)
    kind = torch.tensor([NORMAL, OUTLIER, ANOMALY, NORMAL, OUTLIER, ANOMALY])
    centroids = torch.zeros(2048), torch.ones(2048)
    for name, method in METHODS.items():
        with torch.autocast("cpu", dtype=dtype):
            parts = method_loss(method, logit, z, kind, *centroids, lam=1.0, eta=2.0, epsilon=EPSILON)
        assert parts.total.dtype == torch.float32
        arrays = [t.double().numpy() for t in (logit, z)]
        exact = written_out(name, *arrays, kind.numpy(), *(c.double().numpy() for c in centroids), 1.0, 2.0, EPSILON)
        assert float(parts.total) == pytest.approx(exact, rel=1e-5), name


# Distances of one coordinate from the centroid; near 1e-5 the gradient of 1 / (d² + ε) is steepest, about 1e7.
NEAR = [0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("offset", NEAR)
@pytest.mark.parametrize("name", ["dsad", "ddcsad", "bce+dsad", "bce+ddcsad"])
def test_in_low_precision_nothing_is_nan_as_d_goes_to_0(name: str, offset: float, dtype: torch.dtype) -> None:
    """An embedding of 2048 dimensions that autocast rounds, beside float32 centroids that are not rounded."""
    on = torch.ones(2048)
    weight = torch.ones(3, 2048, requires_grad=True)
    logit = torch.tensor([9.0, -9.0, 0.0], requires_grad=True)
    kind = torch.tensor([OUTLIER, ANOMALY, NORMAL])
    # Outlier and anomaly sit on c_p; the normal sits on c_n as well, which for DDCSAD is the side that is inverted.
    c_p, c_n = on + offset, on - offset
    with torch.autocast("cpu", dtype=dtype):
        z = weight.to(dtype)
        parts = method_loss(METHODS[name], logit.to(dtype), z, kind, c_p, c_n, lam=1.0, eta=2.0, epsilon=EPSILON)
    parts.total.backward()
    assert parts.total.dtype == torch.float32
    assert bool(torch.isfinite(parts.total))
    assert weight.grad is not None
    assert not bool(torch.isnan(weight.grad).any())
    if dtype == torch.bfloat16:
        assert bool(torch.isfinite(weight.grad).all())
    else:
        # float16 ends at 65,504: the steepest gradients are infinite there, which is why no training offers it.
        steepest = 2 * offset / (2048 * offset**2 + EPSILON) ** 2
        assert bool(torch.isfinite(weight.grad).all()) or steepest > 20_000


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_cross_entropy_of_low_precision_keeps_its_gradient(dtype: torch.dtype) -> None:
    """Right answers of 20 and 40 still differ: log1p(exp(-ℓ)) is not formed from a rounded p."""
    logit = torch.tensor([-40.0, -20.0, 20.0, 40.0], dtype=dtype)
    kind = torch.tensor([NORMAL, NORMAL, OUTLIER, OUTLIER])
    centroid = torch.zeros(4)

    def loss(x: torch.Tensor, kinds: torch.Tensor) -> float:
        with torch.autocast("cpu", dtype=dtype):
            z = torch.zeros(len(x), 4, dtype=dtype)
            of_all = method_loss(METHODS["bce"], x, z, kinds, centroid, centroid, lam=1.0, eta=2.0, epsilon=EPSILON)
        return float(of_all.total)

    assert loss(logit, kind) == pytest.approx(30.0)
    right = [loss(torch.tensor([x], dtype=dtype), torch.tensor([NORMAL])) for x in (10.0, 20.0, 40.0, 80.0)]
    assert all(one > two > 0 for one, two in pairwise(right))


def test_cross_entropy_is_exact_at_huge_logits() -> None:
    logit = torch.tensor([1e4, -1e4, 88.0, -200.0, 40.0], dtype=torch.float32)
    right = torch.tensor([NORMAL, OUTLIER, NORMAL, ANOMALY, NORMAL])
    wrong = torch.tensor([OUTLIER, NORMAL, ANOMALY, NORMAL, OUTLIER])
    assert 0.0 <= float(bce_loss(logit, right)) < 1e-17
    assert float(bce_loss(logit, wrong)) == pytest.approx(float(logit.abs().mean()), rel=1e-6)


def test_the_building_blocks_have_the_documented_shapes() -> None:
    z, c = torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.tensor([0.0, 0.0])
    assert squared_distance(z, c).tolist() == [25.0, 1.0]
    kind = torch.tensor([NORMAL, OUTLIER])
    assert dsad_loss(z, kind, c, 2.0, 0.0)[0].shape == ()
    assert ddcsad_loss(z, kind, c, c + 1, 2.0, 0.0)[0].shape == ()


def test_each_method_says_how_it_scores_and_what_moves() -> None:
    assert {name: m.fixed_alpha for name, m in METHODS.items()} == {
        "bce": 1.0,
        "dsad": 0.0,
        "ddcsad": 0.0,
        "bce+dsad": None,
        "bce+ddcsad": None,
    }
    assert [name for name, m in METHODS.items() if m.moving_centroids] == ["ddcsad", "bce+ddcsad"]
    with pytest.raises(InputError, match=r"--loss triplet: unknown; use one of bce, dsad, ddcsad, bce\+dsad"):
        method_named("triplet")
