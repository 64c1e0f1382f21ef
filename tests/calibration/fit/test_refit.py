"""Re-fitting: the manifest changes, the graphs do not, and nothing stale stays in use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeasd.calibration.fit.amplitude import refit_amplitude, shifted_logmel, with_amplitude
from edgeasd.calibration.fit.deploy import SegmentOutputs
from edgeasd.calibration.fit.refit import refit_constants, refit_score
from edgeasd.calibration.threshold.false_positive_rate import threshold_by_rate
from edgeasd.calibration.threshold.live import Recording, live_clip_scores, live_normals
from edgeasd.runtime.bundle.bundle import Bundle, hash_file
from edgeasd.runtime.bundle.manifest import Manifest
from edgeasd.runtime.errors import BundleError, CheckFailed, InputError
from edgeasd.runtime.features.logmel import Amplitude, FeatureSettings, logmel
from edgeasd.runtime.scoring.clip import score_features
from edgeasd.runtime.scoring.score import ScoreSettings
from edgeasd.runtime.scoring.scorer import Scorer
from edgeasd.runtime.scoring.threshold import Threshold
from edgeasd.toolkit.models.front_ends import EFFICIENTAT, PANNS

pytestmark = pytest.mark.core

THRESHOLD = Threshold(clip=0.2, found_by="test", clips=3)


def sound(seed: int, seconds: float = 10, level: float = 0.02) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(round(16_000 * seconds))).astype(np.float32)


def outputs(scorer: Scorer, samples: np.ndarray) -> SegmentOutputs:
    clip = score_features(scorer, logmel(samples, scorer.features, scorer.amplitude))
    return SegmentOutputs(clip.segments.q, clip.segments.d)


def opened(path: Path, use: Callable[[Scorer, Manifest], Any]) -> Any:
    with Bundle(path) as bundle:
        bundle.verify_files()
        scorer, _ = bundle.open_scorer(threads=1)
        try:
            return use(scorer, bundle.manifest)
        finally:
            scorer.close()


def refitted(score: ScoreSettings, d_min: float, d_max: float) -> ScoreSettings:
    return score.model_copy(update={"d_min": d_min, "d_max": d_max})


def hashes(folder: Path) -> dict[str, str]:
    return {p.name: hash_file(p) for p in folder.iterdir() if p.is_file() and p.name != "manifest.json"}


@pytest.fixture
def with_int8(bundle_copy: Path) -> Path:
    """The bundle with a second encoder under the names of INT8: what matters here is the manifest."""
    data = json.loads((bundle_copy / "manifest.json").read_text())
    for name in ("int8", "int8-cpu"):
        file = f"encoder.{name}.onnx"
        (bundle_copy / file).write_bytes((bundle_copy / "encoder.fp32.onnx").read_bytes())
        data["precisions"][name] = {**data["precisions"]["fp32"], "file": file, "drift": {"auc": -0.001}}
        data["files"][file] = data["files"]["encoder.fp32.onnx"]
    (bundle_copy / "manifest.json").write_text(json.dumps(data))
    return bundle_copy


def verify(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgeasd", "verify", str(path), *options],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )


# d_min, d_max, threshold


def test_a_refit_changes_scores_and_the_manifest_only(bundle_copy: Path) -> None:
    files = hashes(bundle_copy)
    old: Manifest = opened(bundle_copy, lambda _, manifest: manifest)
    before: SegmentOutputs = opened(bundle_copy, lambda scorer, _: outputs(scorer, sound(1)))
    score = refitted(old.score, old.score.d_min + 0.5, old.score.d_max + 2.0)
    refit_score(bundle_copy, score, THRESHOLD)

    def scored(scorer: Scorer, manifest: Manifest) -> tuple[np.ndarray, Manifest, dict[str, np.ndarray]]:
        features = logmel(sound(1), scorer.features, scorer.amplitude)
        z = scorer.embed(features[None, :256])
        return score_features(scorer, features).segments.score, manifest, scorer.head(z)

    after, new, head = opened(bundle_copy, scored)
    d_prime = (before.d.astype(float) - score.d_min) / (score.d_max - score.d_min)
    np.testing.assert_allclose(after, score.alpha * before.q + (1 - score.alpha) * d_prime, rtol=1e-9)
    assert hashes(bundle_copy) == files
    factory = (head["d"] - old.score.d_min) / (old.score.d_max - old.score.d_min)
    np.testing.assert_allclose(head["d_prime"], factory, rtol=1e-4)
    assert new.threshold == THRESHOLD
    assert new.files == old.files
    note = new.provenance["refits"][0]
    assert note["replaced"]["score"]["d_min"] == old.score.d_min
    assert "amplitude" not in note["replaced"]


def test_a_second_refit_keeps_the_history(bundle_copy: Path) -> None:
    score = opened(bundle_copy, lambda _, manifest: manifest.score)
    refit_score(bundle_copy, refitted(score, score.d_min, score.d_min + 0.01), THRESHOLD)
    refit_score(bundle_copy, refitted(score, -1.0, 500.0), None)
    done = verify(bundle_copy)
    assert done.returncode == 0, done.stderr
    assert "uncalibrated" in done.stdout
    manifest = opened(bundle_copy, lambda _, manifest: manifest)
    assert len(manifest.provenance["refits"]) == 2
    assert manifest.status == "uncalibrated"


def test_tolerance_allows_the_same_distance_after_a_refit(bundle_copy: Path) -> None:
    old: Manifest = opened(bundle_copy, lambda _, manifest: manifest)
    span = old.score.d_max - old.score.d_min
    new = refit_score(bundle_copy, refitted(old.score, old.score.d_min, old.score.d_min + span / 10), THRESHOLD)
    was, now = old.precisions["fp32"].tolerance, new.precisions["fp32"].tolerance
    assert now.d * span / 10 == pytest.approx(was.d * span)
    assert (now.z, now.logit) == (was.z, was.logit)


def test_new_normals_give_d_min_and_keep_the_factorys_d_max(bundle_copy: Path) -> None:
    def fit(scorer: Scorer, manifest: Manifest) -> tuple[ScoreSettings, ScoreSettings, list[SegmentOutputs]]:
        normals = [outputs(scorer, sound(i)) for i in range(3)]
        low = min(float(c.d.min()) for c in normals)
        old = refitted(manifest.score, manifest.score.d_min, max(manifest.score.d_max, low + 1))
        return old, refit_constants(old, normals), normals

    old, new, normals = opened(bundle_copy, fit)
    assert new.d_min == min(float(c.d.min()) for c in normals)
    assert "given normal segments" in new.d_min_source
    assert (new.d_max, new.alpha, new.method) == (old.d_max, old.alpha, old.method)
    assert new.d_max_source == f"kept: {old.d_max_source}"
    assert refit_constants(new, normals).d_max_source == new.d_max_source
    far = [SegmentOutputs(c.q, c.d + np.float32(50)) for c in normals]
    assert refit_constants(old, normals, far).d_max > new.d_min + 40
    with pytest.raises(CheckFailed, match="d_max"):
        refit_constants(old, far, normals)
    with pytest.raises(InputError, match="0 held-out normal"):
        refit_constants(old, [])


def test_thresholds_on_the_new_scale_come_from_the_new_outputs(bundle_copy: Path) -> None:
    def fit(scorer: Scorer, manifest: Manifest) -> tuple[ScoreSettings, Threshold]:
        clips = [outputs(scorer, sound(i, 12)) for i in range(4)]
        score = refitted(manifest.score, -1.0, 100.0)
        live = live_normals(
            [Recording(live_clip_scores(score, c.q, c.d, 10)) for c in clips], manifest.features, manifest.segments
        )
        found = threshold_by_rate([float(r.scores.mean()) for r in live.recordings], 0.4, hours=live.hours)
        return score, found.stored()

    score, threshold = opened(bundle_copy, fit)
    assert refit_score(bundle_copy, score, threshold).threshold == threshold
    assert opened(bundle_copy, lambda _, manifest: manifest.threshold) == threshold


def test_a_zip_and_a_damaged_bundle_are_left_as_they_are(bundle_copy: Path, tmp_path: Path) -> None:
    score = opened(bundle_copy, lambda _, manifest: manifest.score)
    zipped = tmp_path / "bundle.zip"
    zipped.write_bytes(b"PK")
    with pytest.raises(InputError, match="unpack it into a folder first"):
        refit_score(zipped, score, THRESHOLD)
    before = (bundle_copy / "manifest.json").read_bytes()
    (bundle_copy / "head.onnx").write_bytes(b"damaged")
    with pytest.raises(BundleError, match="head.onnx"):
        refit_score(bundle_copy, score, THRESHOLD)
    assert (bundle_copy / "manifest.json").read_bytes() == before
    assert {p.name for p in bundle_copy.parent.iterdir()} == {bundle_copy.name, "bundle.zip"}


def test_an_old_manifest_loads_and_keeps_unknown_fields(bundle_copy: Path) -> None:
    data = json.loads((bundle_copy / "manifest.json").read_text())
    assert not {"interval95", "promise", "hours", "sources"} & set(data["threshold"])
    data["threshold"]["invented_later"] = data["invented_later"] = {"a": [1]}
    (bundle_copy / "manifest.json").write_text(json.dumps(data))
    score = opened(bundle_copy, lambda _, manifest: manifest.score)
    threshold = opened(bundle_copy, lambda _, manifest: manifest.threshold)
    assert threshold.interval95 is None
    assert threshold.sources == ()
    refit_score(bundle_copy, score, threshold)
    again = json.loads((bundle_copy / "manifest.json").read_text())
    assert again["invented_later"] == again["threshold"]["invented_later"] == {"a": [1]}


# Amplitude


@pytest.mark.parametrize("factor", [0.1, 0.5, 4.0])
def test_another_amplitude_is_a_shift_of_the_log_mel_frames(factor: float) -> None:
    features = FeatureSettings()
    before, after = Amplitude(mean=0.001, std=0.02), Amplitude(mean=-0.003, std=0.02 * factor)
    samples = sound(3, 2)
    samples[4000:9000] = 0.001  # silence under the first mean only
    old, expected = logmel(samples, features, before), logmel(samples, features, after)
    moved = shifted_logmel(old, before, after, features)
    heard = (old > -6) & (expected > -6)
    assert heard.mean() > 0.7
    assert np.abs(moved - expected)[heard].max() < 5e-6
    silent = np.full((3, 128), -10, np.float32)
    np.testing.assert_array_equal(shifted_logmel(silent, before, after, features), silent)


@pytest.mark.parametrize("features", [EFFICIENTAT, PANNS], ids=["efficientat", "panns"])
@pytest.mark.parametrize("factor", [0.2, 3.0])
def test_other_front_ends_shift_by_their_own_decade(features: FeatureSettings, factor: float) -> None:
    before, after = Amplitude(std=0.02), Amplitude(std=0.02 * factor)
    samples = sound(3, 2)
    old, expected = logmel(samples, features, before), logmel(samples, features, after)
    moved = shifted_logmel(old, before, after, features)
    heard = np.minimum(old, expected) > features.lowest + 0.5 * features.decade
    assert heard.mean() > 0.5
    assert np.abs(moved - expected)[heard].max() / features.decade < 5e-6
    silent = np.full((3, features.n_mels), features.lowest, np.float32)
    np.testing.assert_allclose(shifted_logmel(silent, before, after, features), silent, rtol=1e-6)


def test_a_new_amplitude_renews_references_and_marks_int8(with_int8: Path) -> None:
    (with_int8 / "engines").mkdir()
    (with_int8 / "engines" / "built.here").write_text("x")
    files = hashes(with_int8)
    old: Manifest = opened(with_int8, lambda _, manifest: manifest)
    amplitude = Amplitude(mean=0.0, std=old.amplitude.std * 3)
    new = refit_amplitude(with_int8, amplitude, refitted(old.score, -2.0, 60.0), THRESHOLD)
    now = hashes(with_int8)
    assert {name for name in files if now[name] != files[name]} == {"golden.npz"}
    assert (with_int8 / "engines" / "built.here").read_text() == "x"
    assert new.amplitude == amplitude
    assert new.provenance["refits"][0]["replaced"]["amplitude"]["std"] == old.amplitude.std
    with Bundle(with_int8) as bundle:
        assert bundle.manifest == new
        moved = bundle.reference_segments().logmel.mean()
    with Bundle(with_int8.parent / with_int8.name) as bundle:
        bundle.verify_files()
    assert moved < 0, "sound divided by more is quieter"
    assert not new.precisions["fp32"].recalibrate
    for name in ("int8", "int8-cpu"):
        assert new.precisions[name].recalibrate
        assert "std 0.0193481 became 0.0580444" in str(new.precisions[name].recalibrate_reason)
        assert new.precisions[name].model_extra == {"drift": {"auc": -0.001}}, "unknown fields stay"
    done = verify(with_int8)
    assert done.returncode == 0, done.stderr
    assert "int8-cpu is not in use until it is calibrated again: the amplitude" in done.stdout
    facts = json.loads(verify(with_int8, "--json").stdout)
    assert set(facts["recalibrate"]) == {"int8", "int8-cpu"}
    assert [e["precision"] for e in facts["engines"]] == ["fp32"]


def test_a_new_amplitude_scores_as_louder_sound_would(bundle_copy: Path) -> None:
    """Half the std is what a microphone of twice the gain would have given."""

    def both(scorer: Scorer, manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
        half = Amplitude(mean=manifest.amplitude.mean / 2, std=manifest.amplitude.std / 2)
        soft, loud = sound(1, level=0.01), sound(1, level=0.02)
        return outputs(with_amplitude(scorer, half), soft).d, outputs(scorer, loud).d

    under_half, twice = opened(bundle_copy, both)
    np.testing.assert_allclose(under_half, twice, rtol=1e-3)


def test_a_stale_precision_is_refused_with_a_remedy(with_int8: Path) -> None:
    old: Manifest = opened(with_int8, lambda _, manifest: manifest)
    refit_amplitude(with_int8, Amplitude(mean=0.0, std=0.05), old.score, THRESHOLD)
    with Bundle(with_int8) as bundle:
        with pytest.raises(BundleError, match=r"--precision int8-cpu: .* again \(the amplitude .*use --precision fp32"):
            bundle.open_scorer(precision="int8-cpu")
        scorer, _ = bundle.open_scorer(threads=1)
        assert scorer.engine.precision == "fp32"
        scorer.close()


def test_without_another_precision_an_export_is_asked_for(with_int8: Path) -> None:
    data = json.loads((with_int8 / "manifest.json").read_text())
    data["precisions"] = {"int8": {**data["precisions"]["int8"], "recalibrate": True}}
    (with_int8 / "manifest.json").write_text(json.dumps(data))
    with Bundle(with_int8) as bundle, pytest.raises(BundleError, match="export the bundle again with fp32"):
        bundle.open_scorer()


def test_amplitude_failing_the_check_keeps_the_old_bundle(with_int8: Path, monkeypatch: Any) -> None:
    old: Manifest = opened(with_int8, lambda _, manifest: manifest)
    files, manifest = hashes(with_int8), (with_int8 / "manifest.json").read_bytes()

    def broken(*_: object) -> None:
        raise CheckFailed("not reproduced")

    monkeypatch.setattr("edgeasd.calibration.fit.amplitude.check_reference", broken)
    with pytest.raises(CheckFailed):
        refit_amplitude(with_int8, Amplitude(mean=0.0, std=0.05), old.score, THRESHOLD)
    assert (hashes(with_int8), (with_int8 / "manifest.json").read_bytes()) == (files, manifest)
    assert [p.name for p in with_int8.parent.iterdir()] == [with_int8.name], "nothing is left behind"


def test_a_method_without_outliers_has_its_scale_from_normals() -> None:
    """d_max of such a bundle is a scale of normals: kept, it could lie below the new d_min."""
    old = ScoreSettings(
        method="knn", alpha=0.0, alpha_source="fixed", d_min=-1.0, d_max=2.0, d_min_source="a", d_max_source="b"
    )
    q = np.full(10, 0.5, np.float32)
    normals = [SegmentOutputs(q, np.linspace(4.0 + i, 5.0 + i, 10, dtype=np.float32)) for i in range(3)]
    new = refit_constants(old, normals)
    assert new.d_min == 4.0
    assert new.d_max == pytest.approx(4.0 + 2.0 * (np.percentile([n.d for n in normals], 99) - 4.0))
    assert "given normal segments" in new.d_min_source
    assert new.alpha == old.alpha
