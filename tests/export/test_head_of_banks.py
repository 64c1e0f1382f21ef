"""The head of a bank in ONNX against its definition in numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgeasd.calibration.fit.bank import Bank, BankPlan, bank_distances, fit_bank
from edgeasd.export.graphs import build_encoder
from edgeasd.export.head import OPSET, build_bank_head
from edgeasd.runtime.scoring.scorer import Head
from edgeasd.toolkit.models.logmel_stats import LogMelStats

SIZE = 384


@pytest.fixture(scope="module")
def banks() -> list[Bank]:
    rng = np.random.default_rng(0)
    z = (rng.normal(size=(90, SIZE)) * rng.uniform(0.01, 1.0, SIZE)).astype(np.float32)
    return [fit_bank(z, np.repeat(np.arange(30), 3), plan, size=64) for plan in LogMelStats().bank_plans()]


def segments(banks: list[Bank], count: int = 200) -> np.ndarray:
    """Embeddings near and far from the stored normals, one of them exactly a stored normal."""
    rng = np.random.default_rng(1)
    return (rng.normal(size=(count, SIZE)) * rng.uniform(0.01, 3.0, (count, 1))).astype(np.float32)


@pytest.mark.parametrize("alone", [True, False])
def test_distances_are_those_of_numpy(banks: list[Bank], alone: bool) -> None:
    used = banks[:1] if alone else banks
    model = build_bank_head(np.zeros(SIZE, np.float32), 0.0, used, 0.25, 4.25)
    z = segments(banks)
    found, expected = Head(model.SerializeToString())(z), bank_distances(used, z)
    np.testing.assert_allclose(found["d"], expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(found["d_prime"], (found["d"] - 0.25) / 4.0, rtol=1e-6, atol=1e-6)
    assert set(found["q"]) == {np.float32(0.5)}


def test_heads_of_1024_normals_keep_their_digits() -> None:
    """Banks as large as those of mn04: standardised, whitened and plain values, up to 2,500 wide."""
    rng = np.random.default_rng(3)
    size = 2500
    z = (rng.normal(size=(1100, size)) * rng.uniform(0.05, 2.0, size) + rng.normal(size=size)).astype(np.float32)
    clips = np.repeat(np.arange(220), 5)
    plans = (BankPlan("wide", (0, size), "standardise", weight=2.0), BankPlan("white", (100, 400), "whiten"))
    fitted = [fit_bank(z, clips, plan) for plan in plans]
    assert [bank.points.shape for bank in fitted] == [(1024, 2500), (1024, 300)]
    new = (z[::11] + 0.3 * rng.normal(size=(100, size))).astype(np.float32)
    for used in ([fitted[0]], [fitted[1]], fitted):
        head = Head(build_bank_head(np.zeros(size, np.float32), 0.0, used, 0.0, 1.0).SerializeToString())
        expected = bank_distances(used, new)
        np.testing.assert_allclose(head(new)["d"], expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_a_stored_normal_is_at_no_distance(banks: list[Bank]) -> None:
    """|a|² + |b|² - 2 a·b loses its digits there; the difference itself does not."""
    rng = np.random.default_rng(0)
    z = (rng.normal(size=(90, SIZE)) * rng.uniform(0.01, 1.0, SIZE)).astype(np.float32)
    model = build_bank_head(np.zeros(SIZE, np.float32), 0.0, banks[-1:], 0.0, 1.0)
    stored = z[(np.abs(bank_distances(banks[-1:], z)) < 1e-6).nonzero()[0]]
    assert len(stored) >= 64
    assert Head(model.SerializeToString())(stored)["d"].max() < 1e-5


def test_a_classifier_beside_a_bank_gives_q(banks: list[Bank]) -> None:
    rng = np.random.default_rng(2)
    weight = rng.normal(size=SIZE).astype(np.float32)
    z = segments(banks, 20)
    found = Head(build_bank_head(weight, 0.5, banks, 0.0, 1.0).SerializeToString())(z)
    np.testing.assert_allclose(found["logit"], z @ weight + 0.5, rtol=1e-4, atol=1e-4)


def test_tensorrt_reads_head_and_encoder(banks: list[Bank], tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    head = build_bank_head(np.zeros(SIZE, np.float32), 0.0, banks, 0.0, 1.0)
    for model in (head, build_encoder(LogMelStats(), 256, 128)):
        assert [entry.version for entry in model.opset_import] == [OPSET]
        logger = trt.Logger(trt.Logger.ERROR)
        network = trt.Builder(logger).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        assert parser.parse(model.SerializeToString()), [parser.get_error(i) for i in range(parser.num_errors)]


def test_statistics_are_those_of_numpy() -> None:
    x = np.random.default_rng(4).normal(-2.0, 1.0, (3, 1, 256, 128)).astype(np.float32)
    found = LogMelStats()(torch.from_numpy(x)).numpy()
    frames = x[:, 0].astype(np.float64)
    expected = [frames.mean(axis=1), frames.std(axis=1), np.diff(frames, axis=1).std(axis=1)]
    np.testing.assert_allclose(found, np.concatenate(expected, axis=1), rtol=1e-5, atol=1e-5)
