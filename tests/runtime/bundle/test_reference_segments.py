"""ReferenceSegments segments: an engine that computes something else is found at load, by name."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.bundle.manifest import Tolerance
from edgeasd.runtime.bundle.reference_segments import ReferenceSegments, check_reference_segments, reference_deviation
from edgeasd.runtime.errors import BundleError, CheckFailed
from edgeasd.runtime.scoring.scorer import Scorer

pytestmark = pytest.mark.core

TOLERANCE = Tolerance(z=1e-4, logit=1e-3, d=1e-3, score=1e-3)


class Altered:
    """An engine whose embeddings are the real ones after `change`."""

    def __init__(self, scorer: Scorer, change: object) -> None:
        self._engine, self._change = scorer.engine, change
        self.name, self.accelerator, self.precision, self.max_batch = "altered 1.0", "cpu", "fp32", 10

    def embed(self, batch: np.ndarray) -> np.ndarray:
        return self._change(self._engine.embed(batch))  # type: ignore[operator]

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def scorer(small_bundle: Path) -> Iterator[Scorer]:
    with Bundle(small_bundle) as bundle:
        yield bundle.open_scorer(threads=1)[0]


@pytest.fixture(scope="module")
def golden(small_bundle: Path) -> ReferenceSegments:
    return ReferenceSegments.from_bytes((small_bundle / "golden.npz").read_bytes(), "golden.npz")


def altered(scorer: Scorer, change: object) -> Scorer:
    engine = Altered(scorer, change)
    return Scorer(engine, scorer.head, scorer.features, scorer.amplitude, scorer.segments, scorer.score)


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def arrays_of(golden: ReferenceSegments) -> dict[str, np.ndarray]:
    return {field.name: getattr(golden, field.name) for field in dataclasses.fields(golden)}


# The check


def test_the_bundles_own_engine_reproduces_them(scorer: Scorer, golden: ReferenceSegments) -> None:
    found = check_reference_segments(scorer, golden, TOLERANCE, "valve-id_00")
    assert found.beyond(TOLERANCE) == []
    assert 0 <= found.z < 1e-5


@pytest.mark.parametrize(
    ("name", "factor", "named"),
    [
        ("z", 1.01, "z deviates by"),
        ("logit", 1.1, "logit deviates by"),
        ("d", 1.1, "d deviates by"),
        ("q", 1.1, "score deviates by"),
    ],
)
def test_tampered_outputs_are_named(
    scorer: Scorer, golden: ReferenceSegments, name: str, factor: float, named: str
) -> None:
    tampered = dataclasses.replace(golden, **{name: np.float32(factor) * getattr(golden, name)})
    with pytest.raises(CheckFailed) as error:
        check_reference_segments(scorer, tampered, TOLERANCE, "valve-id_00")
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith(f"valve-id_00: reference segments are not reproduced by {scorer.engine.name} at fp32: ")
    assert named in text
    if name in ("z", "logit"):
        assert text.count("deviates") == 1, "only what deviates is named"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", ["one", "all"])
def test_an_engine_that_returns_no_numbers_fails(
    scorer: Scorer, golden: ReferenceSegments, bad: float, place: str
) -> None:
    def spoil(z: np.ndarray) -> np.ndarray:
        z = z.copy()
        z[0 if place == "one" else slice(None), 3] = bad
        return z

    with pytest.raises(CheckFailed, match=r"altered 1\.0 at fp32: z deviates by (nan|inf)"):
        check_reference_segments(altered(scorer, spoil), golden, TOLERANCE, "valve-id_00")


def test_golden_outputs_that_are_no_numbers_fail(scorer: Scorer, golden: ReferenceSegments) -> None:
    for name in ("z", "logit", "d"):
        spoiled = dataclasses.replace(golden, **{name: np.full_like(getattr(golden, name), np.nan)})
        with pytest.raises(CheckFailed, match=f"{name} deviates by nan"):
            check_reference_segments(scorer, spoiled, TOLERANCE, "valve-id_00")


@pytest.mark.parametrize("factor", [1.0005, 0.9])
def test_an_engine_slightly_off_fails(scorer: Scorer, golden: ReferenceSegments, factor: float) -> None:
    with pytest.raises(CheckFailed):
        check_reference_segments(altered(scorer, lambda z: z * np.float32(factor)), golden, TOLERANCE, "valve-id_00")


def test_deviations_are_in_the_stated_units(scorer: Scorer, golden: ReferenceSegments) -> None:
    found = reference_deviation(altered(scorer, lambda z: z * np.float32(1.5)), golden)
    assert found.z == pytest.approx(0.5, rel=1e-4)
    d = np.asarray(scorer.head(golden.z * np.float32(1.5))["d"], np.float64)
    spread = scorer.score.d_max - scorer.score.d_min
    assert found.d == pytest.approx(np.abs(d - golden.d).max() / spread, rel=1e-3)


# Shapes


def test_golden_segments_of_another_length_are_refused(scorer: Scorer, golden: ReferenceSegments) -> None:
    short = dataclasses.replace(golden, logmel=golden.logmel[:, :128])
    with pytest.raises(BundleError, match=r"reference segments of shape \(128, 128\), expected \(256, 128\)"):
        check_reference_segments(scorer, short, TOLERANCE, "valve-id_00")


def test_golden_embeddings_of_another_size_are_refused(scorer: Scorer, golden: ReferenceSegments) -> None:
    narrow = dataclasses.replace(golden, z=golden.z[:, :1])
    with pytest.raises(BundleError, match=r"embeddings of shape \(\d+, 1\), the encoder gives \(\d+, 64\)"):
        check_reference_segments(scorer, narrow, TOLERANCE, "valve-id_00")


@pytest.mark.parametrize(
    ("name", "cut"),
    [
        ("logmel", lambda a: a[:-1]),
        ("logmel", lambda a: a[0]),
        ("logmel", lambda a: a[:0]),
        ("z", lambda a: a[:-1]),
        ("z", lambda a: a[:, 0]),
        ("logit", lambda a: a[:-1]),
        ("q", lambda a: a[:, None]),
        ("d", lambda a: a[0]),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(golden: ReferenceSegments, name: str, cut: object) -> None:
    arrays = arrays_of(golden)
    arrays[name] = cut(arrays[name])  # type: ignore[operator]
    with pytest.raises(BundleError, match=r"^x/golden.npz: arrays of unexpected shapes"):
        ReferenceSegments.from_bytes(npz(**arrays), "x/golden.npz")


def test_nothing_but_scalars_is_refused() -> None:
    scalars = {name: np.float32(1) for name in ("logmel", "z", "logit", "q", "d")}
    with pytest.raises(BundleError, match="unexpected shapes"):
        ReferenceSegments.from_bytes(npz(**scalars), "golden.npz")


# The file


def test_bytes_and_back(golden: ReferenceSegments) -> None:
    data = golden.to_bytes()
    again = ReferenceSegments.from_bytes(data, "golden.npz")
    for name, array in arrays_of(golden).items():
        np.testing.assert_array_equal(getattr(again, name), array)
    assert again.to_bytes() == data, "equal arrays give equal bytes"


@pytest.mark.parametrize("missing", ["logmel", "z", "logit", "q", "d"])
def test_a_missing_array_is_one_line(golden: ReferenceSegments, missing: str) -> None:
    arrays = arrays_of(golden)
    del arrays[missing]
    with pytest.raises(BundleError, match=f"cannot be read .*{missing}"):
        ReferenceSegments.from_bytes(npz(**arrays), "golden.npz")


def test_pickled_objects_are_refused(golden: ReferenceSegments) -> None:
    arrays = {**arrays_of(golden), "q": np.array([{"an": "object"}] * len(golden.q), dtype=object)}
    with pytest.raises(BundleError, match="cannot be read"):
        ReferenceSegments.from_bytes(npz(**arrays), "golden.npz")


def test_an_npy_or_nothing_in_place_of_the_npz_is_one_line() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    for data in (buffer.getvalue(), b"", b"PK\x03\x04", b"text"):
        with pytest.raises(BundleError, match=r"^golden.npz: cannot be read"):
            ReferenceSegments.from_bytes(data, "golden.npz")


SMALL = ReferenceSegments(
    np.zeros((2, 3, 4), np.float32), np.ones((2, 5), np.float32), *(np.zeros(2, np.float32) for _ in range(3))
).to_bytes()


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), min_size=1, max_size=3))
def test_any_damage_is_harmless_or_a_bundle_error(changes: list[tuple[int, int]]) -> None:
    data = bytearray(SMALL)
    for at, byte in changes:
        data[at] = byte
    message = ""
    try:
        ReferenceSegments.from_bytes(bytes(data), "golden.npz")
    except BundleError as error:
        message = str(error)
    assert "\n" not in message


# In a bundle


def test_a_bundle_with_altered_outputs_does_not_open(bundle_copy: Path, golden: ReferenceSegments) -> None:
    """With hashes that fit: only the check itself can find it."""
    data = dataclasses.replace(golden, d=golden.d + np.float32(1)).to_bytes()
    (bundle_copy / "golden.npz").write_bytes(data)
    manifest = json.loads((bundle_copy / "manifest.json").read_text())
    manifest["files"]["golden.npz"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    (bundle_copy / "manifest.json").write_text(json.dumps(manifest))
    with Bundle(bundle_copy) as bundle, pytest.raises(CheckFailed, match=r"valve-id_00: .*d deviates by"):
        bundle.open_scorer(threads=1)
