"""`edgeasd score` and `verify`: tables that other programs read, and the figures of the runtime."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from edgeasd.runtime.audio.reader import read_audio
from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.features.logmel import logmel
from edgeasd.runtime.scoring.clip import ClipScore, score_features

pytestmark = pytest.mark.core

Edgeasd = Callable[..., Any]
RATE = 16000


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of 10 s and 12.5 s, one a frame longer than a segment, one shorter; WAV and FLAC."""
    folder = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    for name, seconds in (("a.wav", 10.0), ("deep/b.flac", 12.5), ("c.WAV", 8.256)):
        path = folder / "clips" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, rng.standard_normal(round(seconds * RATE)) * 0.02, RATE, subtype="PCM_16")
    soundfile.write(folder / "short.wav", rng.standard_normal(3 * RATE) * 0.02, RATE, subtype="PCM_16")
    return folder


def by_the_runtime(bundle: Path, path: Path, **options: bool) -> ClipScore:
    with Bundle(bundle) as opened:
        scorer, _ = opened.open_scorer()
        frames = logmel(read_audio(path), scorer.features, scorer.amplitude)
        found = score_features(scorer, frames, **options)
        scorer.close()
    return found


def test_a_folder_as_csv(sounds: Path, small_bundle: Path, edgeasd: Edgeasd) -> None:
    done = edgeasd("score", small_bundle, "clips", cwd=sounds)
    assert done.code == 0, done.said
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert list(rows[0]) == ["file", "score", "segments", "above_threshold", "tiled"]
    assert [row["file"] for row in rows] == ["clips/a.wav", "clips/c.WAV", "clips/deep/b.flac"]
    assert [row["segments"] for row in rows] == ["10", "1", "10"]
    assert {row["tiled"] for row in rows} == {"false"}
    with Bundle(small_bundle) as opened:
        threshold = opened.manifest.threshold
    assert threshold is not None
    for row in rows:
        expected = by_the_runtime(small_bundle, sounds / row["file"]).score
        assert float(row["score"]) == pytest.approx(expected, rel=1e-6)
        assert row["above_threshold"] == str(expected > threshold.clip).lower()
    assert done.said.startswith("edgeasd: fp32 on onnxruntime ")
    assert done.said.count("\n") == 1


def test_json_with_every_segment(sounds: Path, small_bundle: Path, edgeasd: Edgeasd) -> None:
    done = edgeasd("score", small_bundle, "clips/a.wav", "clips/deep/b.flac", "--json", "--segments", cwd=sounds)
    found = [json.loads(line) for line in done.out.splitlines()]
    assert [one["file"] for one in found] == ["clips/a.wav", "clips/deep/b.flac"]
    for one, step in zip(found, (6, 14), strict=True):
        assert [v["start_frame"] for v in one["values"]] == [step * i for i in range(10)]
        assert one["score"] == pytest.approx(np.mean([v["score"] for v in one["values"]]), rel=1e-12)
        for v in one["values"]:
            assert v["q"] == pytest.approx(1 / (1 + np.exp(v["logit"])), rel=1e-5)
            assert v["score"] == pytest.approx(0.5 * v["q"] + 0.5 * v["d_prime"], rel=1e-9)


def test_a_short_clip_is_tiled_where_asked_and_marked(sounds: Path, small_bundle: Path, edgeasd: Edgeasd) -> None:
    done = edgeasd("score", small_bundle, "short.wav", "--tile", "--json", cwd=sounds)
    found = json.loads(done.out)
    assert (found["tiled"], found["segments"]) == (True, 1)
    expected = by_the_runtime(small_bundle, sounds / "short.wav", tile_short=True).score
    assert found["score"] == pytest.approx(expected, rel=1e-6)


def test_the_last_section_can_be_anchored_to_the_end(sounds: Path, small_bundle: Path, edgeasd: Edgeasd) -> None:
    done = edgeasd("score", small_bundle, "clips/a.wav", "--anchored", "--json", "--segments", cwd=sounds)
    found = json.loads(done.out)
    assert [v["start_frame"] for v in found["values"]] == [*range(0, 54, 6), 311 - 256]
    expected = by_the_runtime(small_bundle, sounds / "clips" / "a.wav", anchored=True).score
    assert found["score"] == pytest.approx(expected, rel=1e-6)


def test_the_live_rule_starts_afresh_with_every_file(sounds: Path, small_bundle: Path, edgeasd: Edgeasd) -> None:
    done = edgeasd("score", small_bundle, "clips", "--live", cwd=sounds)
    found = [json.loads(line) for line in done.out.splitlines()]
    counts: dict[str, list[int]] = {}
    for record in found:
        if record["kind"] == "segment":
            counts.setdefault(record["file"], []).append(record["body"]["index"])
    assert counts == {
        "clips/a.wav": list(range(10)),
        "clips/c.WAV": [0],
        "clips/deep/b.flac": list(range(1 + (389 - 256) // 6)),
    }
    assert {record["kind"] for record in found} <= {"segment", "event", "health"}


def test_a_zip_scores_as_its_folder_does(sounds: Path, small_bundle: Path, tmp_path: Path, edgeasd: Edgeasd) -> None:
    path = tmp_path / "bundle.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in small_bundle.iterdir():
            archive.write(file, file.name)
    packed, folder = (edgeasd("score", bundle, "clips", cwd=sounds) for bundle in (path, small_bundle))
    assert packed.code == 0, packed.said
    assert packed.out == folder.out


def test_threads_change_nothing_but_the_speed(sounds: Path, small_bundle: Path, edgeasd: Edgeasd) -> None:
    one, two = (
        json.loads(edgeasd("score", small_bundle, "clips/a.wav", "--json", "--threads", n, cwd=sounds).out)["score"]
        for n in (1, 2)
    )
    assert one == pytest.approx(two, rel=1e-5)


def test_verify_states_the_engine_and_its_deviation(small_bundle: Path, tmp_path: Path, edgeasd: Edgeasd) -> None:
    done = edgeasd("verify", small_bundle, "--json", cwd=tmp_path)
    assert done.code == 0, done.said
    facts = json.loads(done.out)
    assert (facts["machine"], facts["id"], facts["status"], facts["files"]) == ("valve", "00", "calibrated", 4)
    engine = facts["engines"][0]
    assert (engine["precision"], engine["accelerator"]) == ("fp32", "cpu")
    assert 0.0 <= engine["golden_deviation"]["z"] < 1e-4
    plain = edgeasd("verify", small_bundle, cwd=tmp_path)
    assert plain.code == 0
    assert "every hash as listed" in plain.out
    assert "3 in a row; largest held-out clip score" in plain.out
    assert facts["threshold"]["found_by"] == "largest held-out clip score"


def test_verify_states_what_a_threshold_promises(bundle_copy: Path, tmp_path: Path, edgeasd: Edgeasd) -> None:
    manifest = json.loads((bundle_copy / "manifest.json").read_text("utf-8"))
    promise = {"kind": "alarms_per_day", "target": 1.0, "expected": 1.02, "interval95": [0.21, None]}
    manifest["threshold"] |= {"clip": 0.5, "interval95": [0.4, None], "promise": promise | {"extrapolation": True}}
    (bundle_copy / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    done = edgeasd("verify", bundle_copy, cwd=tmp_path)
    assert done.code == 0, done.said
    assert "threshold 0.5000 [0.4000, …], 3 in a row" in done.out
    assert "expected 1.02 alarms a day (95 % from 0.21 to ?), an extrapolation" in done.out


@pytest.mark.shared_data
def test_real_clips_of_twelve_seconds_are_scored(
    shared_data: Path, small_bundle: Path, tmp_path: Path, edgeasd: Edgeasd
) -> None:
    clips = sorted((shared_data / "dcase2023_toycar" / "ToyCar" / "test").glob("*.flac"))[:2]
    done = edgeasd("score", small_bundle, *clips, "--json", cwd=tmp_path)
    found = [json.loads(line) for line in done.out.splitlines()]
    assert [one["segments"] for one in found] == [10, 10]
    assert all(np.isfinite(one["score"]) for one in found)


def test_unhealthy_sound_is_named_and_may_be_skipped(tmp_path: Path, small_bundle: Path, edgeasd: Edgeasd) -> None:
    sound = (0.02 * np.random.default_rng(0).standard_normal(10 * RATE)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", sound, RATE)
    soundfile.write(tmp_path / "b.wav", sound * np.float32(1e30), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "c.wav", np.where(np.arange(sound.size) < 1600, sound, 0), RATE)
    soundfile.write(tmp_path / "d.wav", sound[::-1], RATE, format="FLAC")
    done = edgeasd("score", small_bundle, "--skip-bad", "--json", ".", cwd=tmp_path)
    assert done.code == 0, done.said
    assert [json.loads(line)["file"] for line in done.out.splitlines()] == ["a.wav", "d.wav"]
    assert "b.wav: " in done.said
    assert "left out: c.wav: digital_silence (exact zeros" in done.said
    assert "d.wav: named .wav, is FLAC" in done.said
    done = edgeasd("score", small_bundle, "--json", "c.wav", cwd=tmp_path)
    assert json.loads(done.out)["health"] == ["digital_silence"]
    assert "its score says little of the machine" in done.said
