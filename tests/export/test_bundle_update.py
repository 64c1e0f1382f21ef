"""A bundle that is changed: whole or not at all, with every file in the hashes, and checked as a device checks it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx")

import onnx

from edgeasd.export.bundle_update import BundleChanges, MadeVariant, int8_load_limits, update_bundle
from edgeasd.export.fp16 import FP16_LIMITS, build_fp16
from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.bundle.manifest import Tolerance
from edgeasd.runtime.bundle.reference_segments import Deviation
from edgeasd.runtime.errors import BundleError, CheckFailed, InputError


def manifest_bytes(folder: Path) -> bytes:
    return (folder / "manifest.json").read_bytes()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


@pytest.fixture
def fp16(small_bundle: Path) -> Any:
    return build_fp16(onnx.load(small_bundle / "encoder.fp32.onnx"))


def made(model: Any, tolerance: Tolerance = FP16_LIMITS) -> BundleChanges:
    return BundleChanges(variants=[MadeVariant("fp16", model, tolerance, {"drift": {"clips": 3}})])


def test_a_new_variant_is_listed_hashed_and_works(bundle_copy: Path, fp16: Any) -> None:
    (bundle_copy / "engines").mkdir()
    (bundle_copy / "engines" / "fp32.plan").write_bytes(b"built here")
    update_bundle(bundle_copy, manifest_bytes(bundle_copy), made(fp16), {"calibration": {"clips": []}})
    with Bundle(bundle_copy) as bundle:
        bundle.verify_files()
        bundle.open_scorer(precision="fp16")
        assert list(bundle.manifest.precisions) == ["fp32", "fp16"]
        assert bundle.manifest.model_dump()["precisions"]["fp16"]["drift"] == {"clips": 3}
    record = json.loads((bundle_copy / "calibration.json").read_bytes())
    assert set(record) >= {"normal_clip_scores", "calibration"}, "what export wrote stays"
    assert (bundle_copy / "engines" / "fp32.plan").read_bytes() == b"built here"
    assert [path.name for path in bundle_copy.parent.iterdir()] == [bundle_copy.name], "no hidden folder is left"


def test_a_variant_that_misses_its_tolerance_changes_nothing(bundle_copy: Path, fp16: Any) -> None:
    before = contents(bundle_copy)
    strict = Tolerance(z=1e-9, logit=1e-9, d=1e-9, score=1e-9)
    with pytest.raises(CheckFailed, match="reference segments are not reproduced"):
        update_bundle(bundle_copy, manifest_bytes(bundle_copy), made(fp16, strict), {})
    assert contents(bundle_copy) == before


def test_a_bundle_that_changed_meanwhile_is_left_alone(bundle_copy: Path, fp16: Any) -> None:
    before = manifest_bytes(bundle_copy)
    (bundle_copy / "manifest.json").write_bytes(before.replace(b'"calibrated"', b'"calibrated" '))
    after = contents(bundle_copy)
    with pytest.raises(BundleError, match="was changed by another program"):
        update_bundle(bundle_copy, before, made(fp16), {})
    assert contents(bundle_copy) == after


def test_a_damaged_bundle_and_a_zip_are_refused(bundle_copy: Path, fp16: Any, tmp_path: Path) -> None:
    zipped = tmp_path / "b.zip"
    zipped.write_bytes(b"")
    with pytest.raises(InputError, match="is a zip"):
        update_bundle(zipped, b"", made(fp16), {})
    before = manifest_bytes(bundle_copy)
    (bundle_copy / "head.onnx").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"head\.onnx"):
        update_bundle(bundle_copy, before, made(fp16), {})


def test_a_refused_precision_is_marked_with_its_reason(bundle_copy: Path, fp16: Any) -> None:
    update_bundle(bundle_copy, manifest_bytes(bundle_copy), made(fp16), {})
    update_bundle(bundle_copy, manifest_bytes(bundle_copy), BundleChanges(refused={"fp16": "drifts", "int8": "no"}), {})
    with Bundle(bundle_copy) as bundle:
        assert bundle.manifest.precisions["fp16"].stale == "drifts"
        assert "int8" not in bundle.manifest.precisions
    update_bundle(bundle_copy, manifest_bytes(bundle_copy), made(fp16), {})
    with Bundle(bundle_copy) as bundle:
        assert not bundle.manifest.precisions["fp16"].stale, "made anew, it may be used again"


def test_int8_may_deviate_four_times_what_was_measured() -> None:
    assert int8_load_limits(Deviation(0.0, 0.0, 0.0, 0.0)) == Tolerance(z=1e-2, logit=1e-2, d=1e-2, score=5e-3)
    assert int8_load_limits(Deviation(0.05, 0.1, 0.02, 0.01)) == Tolerance(z=0.2, logit=0.4, d=0.08, score=0.04)
    assert int8_load_limits(Deviation(0.5, 0.1, 0.02, 0.01)).z == 1.0
