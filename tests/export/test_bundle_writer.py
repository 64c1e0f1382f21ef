"""A bundle is written whole and checked against torch, or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from edgeasd.calibration.fit.deploy import TRAINING, SegmentOutputs, clip_scores, fit_deploy
from edgeasd.export import bundle_writer, fp16
from edgeasd.export import graphs as encoder_graph
from edgeasd.export.bundle_writer import ExportInput, write_bundle, zip_bundle
from edgeasd.export.fp16 import load_limits
from edgeasd.export.parity import EXPORT_LIMITS, LOAD_LIMITS, torch_reference
from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.errors import CheckFailed, InputError
from edgeasd.runtime.features.logmel import Amplitude, FeatureSettings
from edgeasd.runtime.features.segments import SegmentSettings
from edgeasd.runtime.scoring.score import relative_distance
from edgeasd.toolkit.models.backbones import build_network, count_macs, count_parameters

FILES = ["calibration.json", "encoder.fp32.onnx", "golden.npz", "head.onnx", "manifest.json"]


def make_model() -> ExportInput:
    """Random weights with every branch on, and constants from its own outputs on random segments."""
    torch.manual_seed(0)
    network = build_network("quick", zero_init_residual=False).eval()
    rng = np.random.default_rng(0)
    segments = rng.normal(-1, 1, (6, 256, 128)).astype(np.float32)
    with torch.no_grad():
        z = network.encoder(torch.from_numpy(segments)[:, None])
    centroid = z[:3].mean(dim=0)
    weight, bias = network.head.weight.detach()[0], network.head.bias.detach()[0]
    reference = torch_reference(network.encoder, weight, bias, centroid, segments)
    normals = [SegmentOutputs(reference.q[i : i + 1], reference.d[i : i + 1]) for i in range(3)]
    outliers = [SegmentOutputs(reference.q[i : i + 1], 10 * reference.d[i : i + 1] + 1) for i in range(3, 6)]
    return ExportInput(
        machine="valve",
        id="00",
        backbone="quick",
        parameters=count_parameters(network.encoder),
        macs_per_segment=count_macs(network.encoder),
        encoder=network.encoder,
        weight=weight,
        bias=bias,
        centroid=centroid,
        features=FeatureSettings(),
        amplitude=Amplitude(mean=0.0, std=0.1),
        segments=SegmentSettings(),
        fit=fit_deploy("bce+ddcsad", None, normals, outliers),
        normals=normals,
        outliers=outliers,
        real_segments=segments,
        provenance={"seed": 0},
        metrics={"auc": None},
    )


@pytest.fixture(scope="module")
def model() -> ExportInput:
    return make_model()


@pytest.fixture(scope="module")
def graph(model: ExportInput) -> onnx.ModelProto:
    return encoder_graph.build_encoder(model.encoder, 256, 128)


@pytest.fixture
def graph_at_hand(graph: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare a test the seconds of the exporter, whose graph is the same every time."""
    monkeypatch.setattr(encoder_graph, "build_encoder", lambda *_: graph)


@pytest.fixture(scope="module")
def exported(model: ExportInput, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "bundles" / "valve-id_00"
    found = write_bundle(model, path)
    assert list(found) == ["fp32"]
    assert not found["fp32"].beyond(EXPORT_LIMITS)
    return path


def test_a_bundle_holds_the_files_of_the_design(exported: Path) -> None:
    assert sorted(p.name for p in exported.iterdir()) == FILES
    assert [p.name for p in exported.parent.iterdir()] == ["valve-id_00"]


def test_the_runtime_opens_it_and_computes_what_torch_computes(exported: Path, model: ExportInput) -> None:
    reference = torch_reference(model.encoder, model.weight, model.bias, model.centroid, model.real_segments)
    with Bundle(exported) as bundle:
        bundle.verify_files()
        scorer, _ = bundle.open_scorer(threads=1)
        found = scorer.score_segments(model.real_segments)
        head = scorer.head(scorer.embed(model.real_segments))
        np.testing.assert_allclose(found.logit, reference.logit, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found.d, reference.d, rtol=1e-4)
        score = bundle.manifest.score
        expected = relative_distance(found.d, score.d_min, score.d_max)
        np.testing.assert_allclose(head["d_prime"], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.d_prime, expected, rtol=0, atol=0)
        assert len(bundle.reference_segments().z) == 4
        scorer.close()


def test_fp16_lies_beside_fp32_with_a_tolerance_of_its_own(
    graph: onnx.ModelProto, model: ExportInput, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_graph, "build_encoder", lambda *_: graph)
    found = write_bundle(model, tmp_path / "b", precisions=["fp16"])
    assert list(found) == ["fp32", "fp16"], "fp32 is the reference of all others"
    with Bundle(tmp_path / "b") as bundle:
        offers = bundle.manifest.precisions
        assert {name: offer.file for name, offer in offers.items()} == {
            "fp32": "encoder.fp32.onnx",
            "fp16": "encoder.fp16.onnx",
        }
        assert offers["fp32"].tolerance == LOAD_LIMITS
        assert offers["fp16"].tolerance == load_limits(found["fp16"])
        assert found["fp32"].z < found["fp16"].z < offers["fp16"].tolerance.z
        bundle.verify_files()
        scorer, again = bundle.open_scorer(precision="fp16")
        assert again.z <= found["fp16"].z
        scorer.close()


@pytest.mark.parametrize("why", ["wrong", "too large"])
def test_a_failed_fp16_leaves_nothing(
    graph: onnx.ModelProto, model: ExportInput, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    monkeypatch.setattr(encoder_graph, "build_encoder", lambda *_: graph)
    if why == "wrong":
        made = fp16.build_fp16(corrupted(graph, 0.5)())
        monkeypatch.setattr(bundle_writer, "build_fp16", lambda _: made)
        expected = "export: fp16 does not reproduce torch on 6 real segments: z deviates by .* leave fp16 out"
    else:
        heavy = corrupted(graph, 1e7)()
        monkeypatch.setattr(bundle_writer, "build_fp16", lambda _: fp16.build_fp16(heavy))
        expected = "lies beyond float16"
    with pytest.raises(CheckFailed, match=expected) as caught:
        write_bundle(model, tmp_path / "b", precisions=["fp32", "fp16"])
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_says_what_the_model_is(exported: Path, model: ExportInput) -> None:
    with Bundle(exported) as bundle:
        manifest = bundle.manifest
    assert (manifest.machine.type, manifest.machine.id, manifest.status) == ("valve", "00", "calibrated")
    assert (manifest.network.embedding, manifest.network.parameters) == (64, model.parameters)
    assert set(manifest.files) == set(FILES) - {"manifest.json"}
    assert manifest.threshold is not None
    assert set(manifest.provenance["exported_with"]) == {"edgeasd", "torch", "onnx", "onnxruntime"}
    calibration = json.loads((exported / "calibration.json").read_text())
    assert calibration["normal_clip_scores"] == clip_scores(model.fit.score, model.normals)
    assert max(calibration["normal_clip_scores"]) < manifest.threshold.clip


@pytest.mark.usefixtures("graph_at_hand")
def test_an_uncalibrated_model_makes_a_bundle_without_threshold(model: ExportInput, tmp_path: Path) -> None:
    fit = fit_deploy("bce+ddcsad", None, model.normals, model.outliers, normal_origin=TRAINING, outlier_origin=TRAINING)
    write_bundle(replace(model, fit=fit), tmp_path / "b")
    with Bundle(tmp_path / "b") as bundle:
        assert (bundle.manifest.status, bundle.manifest.threshold) == ("uncalibrated", None)


def test_two_exports_of_one_model_are_the_same_bytes(exported: Path, model: ExportInput, tmp_path: Path) -> None:
    write_bundle(model, tmp_path / "again")
    with Bundle(exported) as one, Bundle(tmp_path / "again") as two:
        assert one.manifest.files == two.manifest.files


@pytest.mark.usefixtures("graph_at_hand")
def test_a_new_export_takes_the_place_of_the_old(model: ExportInput, tmp_path: Path) -> None:
    path = tmp_path / "valve-id_00"
    write_bundle(model, path)
    (path / "engines").mkdir()
    (path / "engines" / "old.plan").write_text("built for the old weights")
    write_bundle(replace(model, provenance={"seed": 9}), path)
    assert sorted(p.name for p in path.iterdir()) == FILES
    assert [p.name for p in tmp_path.iterdir()] == ["valve-id_00"]
    with Bundle(path) as bundle:
        assert bundle.manifest.provenance["seed"] == 9


def corrupted(graph: onnx.ModelProto, by: float) -> Callable[..., onnx.ModelProto]:
    """An exporter that gets the weights of one convolution wrong."""

    def build(*_: Any) -> onnx.ModelProto:
        made = onnx.ModelProto()
        made.CopyFrom(graph)
        weights = [t for t in made.graph.initializer if len(t.dims) == 4]
        changed = onnx.numpy_helper.to_array(weights[-1]) * np.float32(1.0 + by)
        weights[-1].CopyFrom(onnx.numpy_helper.from_array(changed, weights[-1].name))
        return made

    return build


@pytest.mark.parametrize("by", [5e-5, 0.5], ids=["between the two limits", "far beyond the load limit"])
def test_a_graph_unlike_torch_keeps_the_old_bundle(
    model: ExportInput,
    graph: onnx.ModelProto,
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    by: float,
) -> None:
    path = Path(shutil.copytree(exported, tmp_path / "valve-id_00"))
    before = {p.name: p.read_bytes() for p in path.iterdir()}
    monkeypatch.setattr(encoder_graph, "build_encoder", corrupted(graph, by))
    for target in (path, tmp_path / "new"):
        with pytest.raises(CheckFailed) as caught:
            write_bundle(model, target)
        message = str(caught.value)
        assert message.startswith("export: ONNX does not reproduce torch on 6 real segments: z deviates by")
        assert "nothing was written" in message
        assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["valve-id_00"]
    assert {p.name: p.read_bytes() for p in path.iterdir()} == before


STEPS = ["running the torch model", "writing ONNX", "checking ONNX against torch", "moving the bundle into place"]


@pytest.mark.usefixtures("graph_at_hand")
@pytest.mark.parametrize("last", [2, 3])
def test_an_interrupt_in_the_middle_leaves_nothing(model: ExportInput, tmp_path: Path, last: int) -> None:
    steps: list[str] = []

    def stop_late(text: str) -> None:
        steps.append(text)
        if text == STEPS[last]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_bundle(model, tmp_path / "b", stop_late)
    assert steps == STEPS[: last + 1]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_bundle_is_not_touched(model: ExportInput, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("x")
    for name in ("mine", "file"):
        with pytest.raises(InputError, match=f"{name}: is there and is not a bundle; move it away or choose another"):
            write_bundle(model, tmp_path / name)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_the_zip_is_the_bundle(exported: Path, model: ExportInput) -> None:
    path = zip_bundle(exported)
    assert path == exported.with_name("valve-id_00.zip")
    with Bundle(path) as packed, Bundle(exported) as folder:
        assert packed.manifest == folder.manifest
        packed.verify_files()
        one, _ = packed.open_scorer(threads=1)
        two, _ = folder.open_scorer(threads=1)
        np.testing.assert_array_equal(
            one.score_segments(model.real_segments).score, two.score_segments(model.real_segments).score
        )
    path.unlink()


def test_the_reference_is_the_network_itself(model: ExportInput) -> None:
    found = torch_reference(model.encoder, model.weight, model.bias, model.centroid, model.real_segments)
    with torch.no_grad():
        z = model.encoder(torch.from_numpy(model.real_segments)[:, None])
    np.testing.assert_allclose(found.z, z.numpy(), rtol=1e-5, atol=1e-6)
    logit = z.double().numpy() @ model.weight.double().numpy() + float(model.bias)
    np.testing.assert_allclose(found.q, 1 / (1 + np.exp(logit)), rtol=1e-5)
    np.testing.assert_allclose(found.d, ((z - model.centroid).double() ** 2).sum(dim=1).numpy(), rtol=1e-5)


def test_a_front_end_is_measured_on_given_clips(model: ExportInput, graph_at_hand: None, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    sounds = [(0.1 * rng.standard_normal(160_000)).astype(np.float32) for _ in range(2)]
    path = tmp_path / "valve-id_00"
    write_bundle(model, path, front_end_sounds=sounds)
    assert sorted(p.name for p in path.iterdir()) == sorted([*FILES, "frontend.onnx"])
    raw = json.loads((path / "manifest.json").read_text())
    assert set(raw["front_end"]) == {"file", "logmel", "score", "clips"}
    with Bundle(path) as bundle:
        bundle.verify_files()
        assert bundle.manifest.front_end is not None
        assert bundle.manifest.front_end.clips == 2
        assert 0 < bundle.manifest.front_end.logmel < 1e-4
        bundle.open_scorer(threads=1)[0].close()
    write_bundle(model, path)
    assert "front_end" not in json.loads((path / "manifest.json").read_text()), (
        "it belongs to the bundle it was made of"
    )


def test_a_front_end_that_cannot_be_measured_leaves_no_bundle(
    model: ExportInput, graph_at_hand: None, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="--front-end: no clips"):
        write_bundle(model, tmp_path / "valve-id_00", front_end_sounds=[])
    assert list(tmp_path.iterdir()) == []
